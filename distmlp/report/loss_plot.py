"""The loss of a run as a small picture of characters, where plotext is there."""

import importlib
import math
from collections.abc import Sequence


def plot_loss(steps: Sequence[int], losses: Sequence[float], width: int, height: int) -> str:
    """The picture, without colours; empty without plotext, or where two points are not there yet.

    Args:
        steps: where, rising.
        losses: one for each of ``steps``; those that are not finite are left out.
        width: of the picture, in columns.
        height: of it, in lines.
    """
    points = [(step, loss) for step, loss in zip(steps, losses, strict=True) if math.isfinite(loss)]
    try:
        plotext = importlib.import_module("plotext")
    except ImportError:
        return ""
    if len(points) < 2 or not hasattr(plotext, "terminal"):  # plotext 5 has other names
        return ""
    points = points[:: -max(1, len(points) // (2 * width))][::-1]
    plotext.terminal.limit(False, False)  # or it cuts the picture to a terminal that it takes for smaller
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, height)
    figure.theme("colorless")
    signal = figure.signal(*(list(values) for values in zip(*points, strict=True)), marker=plotext.marker("braille"))
    figure.draw(signal.lines(True))
    named = [points[0][0], (points[0][0] + points[-1][0]) // 2, points[-1][0]]
    figure.ruler("x").ticks(named, [str(step) for step in named])
    picture: str = figure.build().string(True)
    return picture.rstrip("\n")
