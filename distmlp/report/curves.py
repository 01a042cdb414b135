"""Loss and accuracy of one or several runs as a picture, and as text for a terminal without one.

Both read ``metrics.jsonl`` alone, so they work on a copied run folder and while the run still goes on. A run has one
colour everywhere: train is the solid line, validation the dashed one with markers, a test result the star.
"""

import contextlib
import importlib
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distmlp.errors import ConfigError
from distmlp.report.metrics import FloatArray, RunMetrics, load_runs, position_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE_TITLE = "distmlp curves"
"""Title in the PNG's metadata, by which an earlier picture is known again."""

_COLOURS = ("#2563EB", "#EA580C", "#059669", "#C026D3", "#CA8A04", "#0891B2", "#DC2626", "#57534E")
_TERMINAL_COLOURS = (33, 208, 35, 164, 178, 37, 160, 245)
_INK, _MUTED, _GRID = "#1F2937", "#6B7280", "#E5E7EB"
_RC = {
    "font.family": "sans-serif", "font.sans-serif": ["Inter", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 11,
    "text.color": _INK, "axes.labelcolor": _MUTED, "xtick.color": _MUTED, "ytick.color": _MUTED,
    "axes.edgecolor": "#9CA3AF", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": _GRID, "grid.linewidth": 0.8,
}  # fmt: skip
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_LOG_SPAN = 100.0
_MAX_LABEL = 44
_MAX_COLUMNS, _MIN_COLUMNS, _PANEL_ROWS = 100, 30, 15


def draw_png(runs: Sequence[Path], target: Path) -> Path:
    """Draws the runs' curves and returns ``target``, which is either the whole new picture or untouched.

    Raises:
        ConfigError: matplotlib is missing, a run is unreadable (see ``read_metrics``), or ``target`` cannot be written.
    """
    matplotlib = _optional("matplotlib")
    loaded = load_runs(runs)
    metrics, position = _panels(loaded), position_key(loaded)
    with matplotlib.rc_context(_RC):
        figure = importlib.import_module("matplotlib.figure").Figure(
            figsize=(6.6 * len(metrics) if len(metrics) > 1 else 8.0, 4.6 + 0.26 * len(loaded)), layout="constrained"
        )
        importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.16, h_pad=0.16, wspace=0.03)
        for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            _draw_panel(axes, loaded, metric, position)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(temporary, format="png", dpi=150, metadata={"Title": PICTURE_TITLE})
            os.replace(temporary, target)
        except OSError as error:
            raise ConfigError(
                f"cannot write {target}: {error.strerror}; choose another place with out=FILE.png"
            ) from error
        finally:
            with contextlib.suppress(OSError):  # already renamed, or the folder itself is the trouble
                temporary.unlink()
    return target


def draw_terminal(runs: Sequence[Path]) -> str:
    """The runs' curves as text, at most as wide as the terminal (100 columns at most); colour codes only on a terminal.

    Raises:
        ConfigError: plotext is missing or older than 6, or a run cannot be read (see ``read_metrics``).
    """
    plotext = _optional("plotext")
    if not hasattr(plotext, "terminal"):
        raise ConfigError('drawing in the terminal needs plotext 6 or newer: pip install "plotext>=6"')
    loaded = load_runs(runs)
    metrics, position = _panels(loaded), position_key(loaded)
    width = max(_MIN_COLUMNS, min(_MAX_COLUMNS, shutil.get_terminal_size(fallback=(80, 24)).columns))
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    blocks = []
    for metric in metrics:
        # plotext has one figure for the whole process, and would cut it to a terminal it cannot see in a pipe
        plotext.terminal.limit(False, False)
        panel = plotext.figure
        panel.clear()
        panel.plot_size(width, _PANEL_ROWS)
        panel.theme("colorless")
        panel.title(f"{metric} over {_axis_name(position)}{' (log)' if _is_log(loaded, metric, position) else ''}")
        keys = _draw_terminal_panel(plotext, panel, loaded, metric, position, colour, width)
        blocks.append("\n".join([panel.build().string(not colour).rstrip("\n"), *keys]))
    return "\n\n".join(blocks)


def _optional(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f'drawing needs {package}: pip install "distmlp[plot]"') from error


def _panels(runs: Sequence[RunMetrics]) -> list[str]:
    """Always the loss; beside it the accuracy or, for regressions, the mean absolute error, if any run logged it."""
    parts = ("train", "val", "test")
    extra = [name for name in ("accuracy", "mae") if any(run.has(f"{part}/{name}") for run in runs for part in parts)]
    return ["loss", *extra[:1]]


def _axis_name(position: str) -> str:
    return {"epoch": "epochs", "samples": "samples", "step": "steps"}[position]


def _is_log(runs: Sequence[RunMetrics], metric: str, position: str) -> bool:
    """Only a loss that spans more than two decades, and is never negative, goes on a logarithmic axis."""
    if metric != "loss":
        return False
    values = np.concatenate([run.series(f"{part}/loss", position)[1] for run in runs for part in ("train", "val")])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    return bool(positive.size and values.min() >= 0 and positive.max() / positive.min() > _LOG_SPAN)


def _is_share(runs: Sequence[RunMetrics], metric: str, position: str) -> bool:
    """Whether the metric is a fraction, to be shown in percent."""
    values = np.concatenate(
        [run.series(f"{p}/{metric}", position)[1] for run in runs for p in ("train", "val", "test")]
    )
    return metric == "accuracy" and not (values > 1.0).any()


def _final_values(run: RunMetrics, metric: str, position: str, share: bool) -> str:
    """``train 0.021 · val 0.094``: the last logged values, as the file has them."""
    parts = []
    for part in ("train", "val", "test"):
        values = run.series(f"{part}/{metric}", position)[1]
        if values.size:
            parts.append(f"{part} {f'{values[-1]:.2%}' if share else f'{values[-1]:.4g}'}")
    return " · ".join(parts) or f"no {metric}"


def _shortened(label: str) -> str:
    """``label`` without its middle if it is long: the name's start and the id's end tell runs apart."""
    return label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL // 2]}…{label[-_MAX_LABEL // 2 :]}"


def _smoothed(values: FloatArray) -> FloatArray:
    """Gaussian mean over about a twentieth of the points, shape kept; non-finite values stay gaps and blur nothing."""
    sigma = min(values.size / 80, 300.0)
    radius = int(3 * sigma)
    if radius < 1:
        return values
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), kernel, mode="same")
    weight = np.convolve(finite.astype(np.float64), kernel, mode="same")
    return np.where(finite, total / np.where(finite, weight, 1.0), np.nan)


def _draw_panel(axes: "Axes", runs: Sequence[RunMetrics], metric: str, position: str) -> None:
    ticker, lines = importlib.import_module("matplotlib.ticker"), importlib.import_module("matplotlib.lines")
    share = _is_share(runs, metric, position)
    colours = _COLOURS if len(runs) <= len(_COLOURS) else _spread(len(runs))
    handles, drawn = [], set()
    for index, run in enumerate(runs):
        colour = colours[index]
        drawn |= _draw_run(axes, run, metric, position, colour)
        label = f"{_shortened(run.label)}\n{_final_values(run, metric, position, share)}"
        handles.append(lines.Line2D([], [], color=colour, linewidth=3, solid_capstyle="round", label=label))
    if _is_log(runs, metric, position):
        axes.set_yscale("log", nonpositive="mask")
    elif share:
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    axes.xaxis.set_major_formatter(
        ticker.EngFormatter(sep="\N{THIN SPACE}") if position != "epoch" else ticker.ScalarFormatter()
    )
    axes.set_title(
        metric.capitalize() if metric != "mae" else "Mean absolute error", loc="left", weight="bold", size=14, pad=12
    )
    axes.set_xlabel(_axis_name(position))
    axes.margins(x=0.02)
    axes.tick_params(which="both", length=0)
    styles: dict[str, dict[str, Any]] = {
        "train": {"linewidth": 2.2},
        "val": {"linewidth": 1.6, "linestyle": "--", "marker": "o", "markerfacecolor": "white", "markersize": 5},
        "test": {"linestyle": ":", "marker": "*", "markersize": 11},
    }
    key = [lines.Line2D([], [], color=_MUTED, label=part, **style) for part, style in styles.items() if part in drawn]
    axes.add_artist(axes.legend(handles=key, loc="best", frameon=True, framealpha=0.85, edgecolor="none", fontsize=10))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.02, -0.15), frameon=False, fontsize=10)


def _spread(num_runs: int) -> list[Any]:
    """More colours than the palette has, along a colour map without its darkest and lightest ends."""
    return list(importlib.import_module("matplotlib").colormaps["turbo"](np.linspace(0.06, 0.94, num_runs)))


def _draw_run(axes: "Axes", run: RunMetrics, metric: str, position: str, colour: str) -> set[str]:
    """Draws what the run logged of ``metric``; returns the parts that there were."""
    drawn = set()
    at, values = run.series(f"train/{metric}", position)
    values = np.where(np.isfinite(values), values, np.nan)
    if at.size:
        axes.plot(at, values, color=colour, linewidth=0.8, alpha=0.25)
        axes.plot(at, _smoothed(values), color=colour, linewidth=2.2, marker="o" if at.size == 1 else "")
        drawn.add("train")
    at, values = run.series(f"val/{metric}", position)
    if at.size:
        values = np.where(np.isfinite(values), values, np.nan)
        every = max(1, at.size // 25)
        axes.plot(
            at, values, color=colour, linewidth=1.6, linestyle="--", marker="o", markevery=every, markersize=5,
            markerfacecolor="white", markeredgewidth=1.6,
        )  # fmt: skip
        drawn.add("val")
    at, values = run.series(f"test/{metric}", position)
    if at.size and np.isfinite(values[-1]):
        axes.axhline(values[-1], color=colour, linewidth=1.2, linestyle=":")
        axes.plot(
            at[-1:],
            values[-1:],
            color=colour,
            marker="*",
            markersize=15,
            markeredgecolor="white",
            zorder=5,
            clip_on=False,
        )
        drawn.add("test")
    return drawn


def _draw_terminal_panel(
    plotext: Any, panel: Any, runs: Sequence[RunMetrics], metric: str, position: str, colour: bool, width: int
) -> list[str]:
    """Draws the runs; returns the lines below the panel that name each run. Letters stand in for missing colours."""
    share, log, keys = _is_share(runs, metric, position), _is_log(runs, metric, position), []
    for index, run in enumerate(runs):
        letter = chr(ord("a") + index % 26)
        tinted = len(runs) == 1 or (colour and len(runs) <= len(_TERMINAL_COLOURS))
        marks = ("braille", "o") if tinted else (letter, letter.upper())
        pixel = _TERMINAL_COLOURS[index % len(_TERMINAL_COLOURS)]
        for part, mark in zip(("train", "val", "test"), (*marks, "*"), strict=True):
            at, values = run.series(f"{part}/{metric}", position)
            values = _smoothed(values) if part == "train" else values
            keep = np.isfinite(values) & ((values > 0) | (not log))
            if keep.any():
                at, values = _thinned(at[keep]), _thinned(values[keep])
                marker = plotext.marker(mark, pixel) if colour else plotext.marker(mark)
                signal = panel.signal(at.tolist(), values.tolist(), marker=marker)
                panel.draw(signal.lines(part == "train"))
        text = f"{'━' if tinted else letter} {run.label}: {_final_values(run, metric, position, share)}"
        wrapped = textwrap.wrap(text, width, subsequent_indent="  ")
        keys += [plotext.colorize(line, pixel).string(False) if colour else line for line in wrapped]
    if log:
        panel.ruler("y").scale("log")
    ticks = _ticks(max(float(run.series(position, position)[0].max(initial=0.0)) for run in runs))
    panel.ruler("x").ticks(list(ticks), list(ticks.values()))
    return keys


def _thinned(values: FloatArray) -> FloatArray:
    """Evenly fewer points, the last one kept: a terminal cannot show more, and plotext takes its time over each."""
    return values[:: -max(1, values.size // (4 * _MAX_COLUMNS))][::-1]


def _ticks(last: float) -> dict[float, str]:
    """About five round positions in ``[0, last]`` with their labels: 1, 2 or 5 times a power of ten apart."""
    if not last > 0:
        return {0.0: "0"}
    decade = 10.0 ** math.floor(math.log10(last / 5))
    step = next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= last / 6)
    unit, suffix = next((pair for pair in _UNITS if last >= pair[0]), (1.0, ""))
    return {count * step: f"{count * step / unit:g}{suffix if count else ''}" for count in range(int(last / step) + 1)}
