"""Logging: one file for each rank in the run folder; the console hears warnings of rank 0."""

import logging
import sys
import warnings
from pathlib import Path

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
    file = logging.FileHandler(run_folder / "logs" / f"rank-{rank:05d}.log")
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
