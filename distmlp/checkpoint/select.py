"""Which of the checkpoints of a run to go on from, and what earlier starts of the run have left lying about."""

import errno
import re
from collections.abc import Callable

from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.manifest import MANIFEST
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.storage import FORMER, Storage

QUARANTINE = "quarantine"
NAME = re.compile(r"step-(\d{8}|[1-9]\d{8,})")
WORKING = re.compile(rf"\.({NAME.pattern})\.(.+)\.tmp", re.DOTALL)


def checkpoint_names(storage: Storage) -> list[str]:
    """What has the name of a checkpoint, the newest first.

    In an object store a folder counts when its manifest is there: before, somebody may be writing it.
    """
    names = [name for name in storage.names() if NAME.fullmatch(name)]
    if not storage.appears_whole:
        names = [name for name in names if storage.size(f"{name}/{MANIFEST}") is not None]
    return sorted(names, key=_step, reverse=True)


def newest_sound(
    storage: Storage, report: Callable[[str], None], advance: Callable[[int], None] = lambda num_bytes: None
) -> str | None:
    """The newest checkpoint of which every byte is what was written. For one rank; it tells the others.

    A damaged one is moved to `quarantine/` beside the checkpoints, and the one before it is looked at.

    Args:
        storage: the checkpoints of a run.
        report: is told of each damaged one, in a line.
        advance: is told of every stretch of bytes that was verified.

    Raises:
        ConfigError: the newest has another version of the format.
        OSError: the storage does not answer.
    """
    for name in checkpoint_names(storage):
        damages = _damages(storage, name, advance)
        if not damages:
            return name
        more = f" (and {len(damages) - 1} more)" if damages[1:] else ""
        report(f"checkpoint {name} is passed over: {damages[0]}{more}; {_set_aside(storage, name)}")
    return None


def clear_leftovers(storage: Storage, keep_attempt: str) -> None:
    """Removes what saves that were cut have left, but for those of ``keep_attempt``. It touches no checkpoint.

    For one rank, before the first save. A checkpoint that was about to be replaced by another of the same step gets its
    name back.
    """
    names = set(storage.names())
    for name in names:
        if found := WORKING.fullmatch(name):
            final, attempt = found[1], found[3]
            if attempt == FORMER and final not in names:
                storage.publish(name, final)
            elif attempt != keep_attempt:
                storage.remove(name)
        elif NAME.fullmatch(name) and not storage.appears_whole and _is_leftover(storage, name, keep_attempt):
            storage.remove(name)


def _is_leftover(storage: Storage, name: str, keep_attempt: str) -> bool:
    files = storage.names(name)
    return MANIFEST not in files and not any(file.startswith(f"note-{keep_attempt}-") for file in files)


def _damages(storage: Storage, name: str, advance: Callable[[int], None]) -> list[str]:
    try:
        with CheckpointReader(storage, name) as checkpoint:
            found = checkpoint.manifest.step
            wrong = [] if found == _step(name) else [f"{storage.where(name)} holds step {found}"]
            return wrong or checkpoint.damages(advance)
    except DamagedError as error:
        return [str(error)]
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return [f"{storage.where(name)} cannot be read: {error.strerror}"]  # the disk is damaged


def _set_aside(storage: Storage, name: str) -> str:
    try:
        return f"it lies in {storage.set_aside(name, QUARANTINE)} now"
    except OSError as error:
        return f"it stays there, for it cannot be moved: {error.strerror or error}"


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))
