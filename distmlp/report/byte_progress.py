"""A bar for work on many bytes, on stderr; nothing where that is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


@contextmanager
def byte_progress(what: str, total: int | None = None) -> Iterator["Bar"]:
    """Yields what is told of the bytes that were done; ``total`` is how many there are, where that is known."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(20), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task(what, total=total)
        yield Bar(lambda count: bar.advance(task, count), lambda count: bar.update(task, total=count, completed=0))


class Bar:
    """``advance(n)``: n more bytes are done. ``expect(n)``: there are n, from the beginning."""

    def __init__(self, advance: Callable[[int], None], expect: Callable[[int], None]) -> None:
        self.advance = advance
        self.expect = expect
