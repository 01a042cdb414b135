"""The live view of a run: drawn in a terminal; in a pipe a line for each change."""

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.text import Text

from distmlp.report.loss_plot import plot_loss
from distmlp.report.run_table import COLOURS, printable
from distmlp.report.runs import LOSS
from distmlp.report.watched import Watched

SECONDS_BETWEEN_LOOKS = 1.0
PLOT_LINES, MOST_COLUMNS = 12, 100
LOG_LINES = 10
OTHER_LINES = 8  # header, rules, and a line below for the cursor


def watch(console: Console, watched: Watched) -> None:
    """Shows the run until it has ended."""
    if console.is_terminal:
        _draw(console, watched)
    else:
        _print_changes(console, watched)
    _say(console, watched.ending())


def _draw(console: Console, watched: Watched) -> None:
    watched.look()
    with Live(view(watched, console), console=console, auto_refresh=False) as live:
        while not watched.standing.is_over:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            watched.look()
            live.update(view(watched, console), refresh=True)


def _print_changes(console: Console, watched: Watched) -> None:
    shown = ""
    while True:
        watched.look()
        line = "  ".join(filter(None, [watched.where(), watched.progress(), watched.metrics()]))
        if line != shown:
            _say(console, line)
        if watched.standing.is_over:
            return
        shown = line
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _say(console: Console, line: str) -> None:
    console.print(printable(line), soft_wrap=True, highlight=False)
    console.file.flush()  # a pipe's reader wants it now


def view(watched: Watched, console: Console) -> RenderableType:
    """Header, picture of the loss where there is room and plotext, and the end of the log."""
    how = watched.standing
    head = Text.assemble((str(printable(watched.run.name)), "bold"), "  ")
    head.append(str(printable(watched.where())), COLOURS.get(how.state, ""))
    lines = [head, printable(watched.progress()), printable(watched.metrics())]
    if how.doubt:
        lines.append(printable(f"? whether it still runs is not known: {how.doubt}"))
    room = console.height - OTHER_LINES
    picture = _picture(watched, console) if room >= PLOT_LINES else ""
    name, words = watched.log(max(0, min(LOG_LINES, room - len(picture.splitlines()))))
    parts: list[RenderableType] = [*lines, *([Text(picture, no_wrap=True)] if picture else [])]
    if words:
        parts += [Rule(printable(name), style="dim", align="left"), *(_one_line(word) for word in words)]
    return Group(*parts)


def _picture(watched: Watched, console: Console) -> str:
    steps = [line["step"] for line in watched.steps]
    losses = [float(line[LOSS]) for line in watched.steps]
    return plot_loss(steps, losses, min(console.width, MOST_COLUMNS), PLOT_LINES)


def _one_line(word: str) -> Text:
    text = printable(word)
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
