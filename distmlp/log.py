"""Logging: one file for each rank in the run folder; the console hears warnings of rank 0."""

import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TextIO

from distmlp.run_folder import log_file

log = logging.getLogger("distmlp")
LIGHTNING = ("lightning.pytorch", "lightning.fabric")


def one_line(error: BaseException) -> str:
    """The message of what caused the error, or its kind where it has none, without line breaks."""
    cause = error.__cause__ or error
    return " ".join(str(cause).split()) or type(cause).__name__


def quiet_lightning() -> None:
    """Keeps Lightning's advice off the console, for a verb that has no run folder to log to."""
    for name in LIGHTNING:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def start_log(run_folder: Path, rank: int) -> None:
    """Sends `distmlp` and Lightning messages of this rank to `logs/rank-….log`; rank 0 warns on the console."""
    file = logging.FileHandler(log_file(run_folder, rank))
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.captureWarnings(True)
    for name in ("distmlp", *LIGHTNING, "py.warnings"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.addHandler(file)
        logger.propagate = False
    log.setLevel(logging.INFO)
    if rank == 0:
        console = logging.StreamHandler(sys.stderr)
        console.setLevel(logging.WARNING)
        console.setFormatter(logging.Formatter("distmlp: %(message)s"))
        log.addHandler(console)


_console: list[TextIO] = []


def console() -> TextIO:
    """Where a line for the user goes: stderr as this process was started with it."""
    return _console[-1] if _console else sys.stderr


def is_off_the_console() -> bool:
    """Whether what this process prints goes to its log."""
    return bool(_console)


def send_output_to(file: Path) -> None:
    """Appends what this process prints from now on to ``file``: prints, warnings of C++, the words of a crash."""
    sys.stdout.flush()
    sys.stderr.flush()
    _console.append(os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8"))
    with file.open("ab") as opened:  # appending, so that the log's own lines and these do not overwrite each other
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # a killed process leaves what it had printed
