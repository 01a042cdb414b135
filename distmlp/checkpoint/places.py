"""Which checkpoints a word of the user means: those of a run folder, or one folder by its path."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.manifest import MANIFEST
from distmlp.checkpoint.object_store import open_storage
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.select import NAME, QUARANTINE, checkpoint_names
from distmlp.checkpoint.storage import LocalStorage, Storage
from distmlp.compose import load_frozen
from distmlp.errors import ConfigError
from distmlp.log import log
from distmlp.run_folder import checkpoints


@dataclass(frozen=True)
class Found:
    """Checkpoints ``names`` in ``storage``, the earliest first.

    Attributes:
        run_folder: of the run that they belong to; None for a checkpoint that lies alone.
        is_run: the word meant the run, not one checkpoint.
    """

    storage: Storage
    names: list[str]
    run_folder: Path | None
    is_run: bool


def find_checkpoints(place: Path) -> Found:
    """The checkpoints of the run folder ``place``, or the one that it is.

    Raises:
        ConfigError: it is neither, or the run has none.
    """
    if (place / "config.yaml").is_file():
        storage = storage_of(place)
        names = checkpoint_names(storage)[::-1]
        if not names:
            aside = f": {len(damaged)} damaged ones lie in {place / QUARANTINE}" if (damaged := _aside(place)) else ""
            raise ConfigError(f"{storage.where()} holds no checkpoint{aside}")
        return Found(storage, names, place, is_run=True)
    folder = place.resolve()
    if folder.is_dir() and (NAME.fullmatch(folder.name) or (folder / MANIFEST).is_file()):
        run = folder.parent.parent
        has_run = (run / "config.yaml").is_file()
        parent = place.parent if place.name == folder.name else folder.parent  # the user's own words, where they do
        return Found(LocalStorage(parent), [folder.name], run if has_run else None, is_run=False)
    if not place.exists():
        raise ConfigError(f"{place} does not exist: give a run folder or a checkpoint, RUN/checkpoints/step-…")
    raise ConfigError(f"{place} is neither a run folder (it has no config.yaml) nor a checkpoint (no {MANIFEST})")


def storage_of(run_folder: Path) -> Storage:
    """Where the checkpoints of a run lie."""
    section = load_frozen(run_folder / "config.yaml").get("checkpoint") or {}
    return open_storage(checkpoints(run_folder, section.get("dir")))


def quarantined(found: Found) -> list[str]:
    """What was set aside beside the checkpoints of a run because it was damaged."""
    return [] if found.run_folder is None else _aside(found.run_folder)


def _aside(run_folder: Path) -> list[str]:
    return LocalStorage(run_folder).names(QUARANTINE)


def newest_readable(found: Found) -> CheckpointReader:
    """The newest checkpoint whose manifest and state are what was written; its tensors are not checked.

    Raises:
        ConfigError: there is none; for a single one, what is wrong with it.
    """

    def opened(name: str) -> CheckpointReader:
        reader = CheckpointReader(found.storage, name)
        _ = reader.state
        return reader

    return _newest(found, opened)


def open_sound(
    found: Found, advance: Callable[[int], None] = lambda num_bytes: None, expect: Callable[[int], None] | None = None
) -> CheckpointReader:
    """The newest checkpoint of which every byte is what was written; of a run, damaged ones are named and passed over.

    Args:
        found: which to choose from.
        advance: told of every stretch of bytes that was checked.
        expect: told beforehand how many bytes will be.

    Raises:
        ConfigError: none is sound; for a single one, a `DamagedError` that names the file.
    """
    return _newest(found, lambda name: _sound(found.storage, name, advance, expect))


def _newest(found: Found, opened: Callable[[str], CheckpointReader]) -> CheckpointReader:
    for name in reversed(found.names):
        try:
            return opened(name)
        except ConfigError as error:
            if not found.is_run:
                raise
            log.warning("%s; trying the one before", error)
    raise ConfigError(f"{found.run_folder} holds no sound checkpoint")


def _sound(
    storage: Storage, name: str, advance: Callable[[int], None], expect: Callable[[int], None] | None
) -> CheckpointReader:
    reader = CheckpointReader(storage, name)
    if expect:
        expect(sum(size for size, _ in reader.manifest.files.values()))
    damages = reader.damages(advance)
    if damages:
        raise DamagedError(damages[0])
    return reader
