"""Where a run starts: from its own newest sound checkpoint, from the one that `resume=` names, or from nothing."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distmlp import run_folder
from distmlp.apps.opened_run import run_folder_of
from distmlp.compose import Composed, compose
from distmlp.config import Config
from distmlp.errors import ConfigError
from distmlp.log import log
from distmlp.run_lock import FILE

if TYPE_CHECKING:
    from torch import nn

    from distmlp.checkpoint.reader import CheckpointReader
    from distmlp.checkpoint.storage import Storage
    from distmlp.data.dataset import DataSet

WORDS = ("auto", "never", "must")


def compose_resumed(overrides: list[str], frozen: Path | None) -> Composed:
    """`compose`, on top of the configuration of the run that ``resume=`` names, if it names one.

    A run goes on in its own folder, under its own id. A checkpoint starts a new run.
    """
    composed = compose(overrides, frozen)
    if composed.config.resume.source in WORDS:
        return composed
    place = Path(composed.config.resume.source)
    folder = run_folder_of(place)
    composed = compose(overrides, frozen or folder / "config.yaml")
    if place != folder:
        return composed
    run = {"root": str(folder.parent.parent), "name": folder.parent.name, "id": folder.name}
    return Composed.of(composed.values | {"run": run})


@dataclass(frozen=True)
class Start:
    """Where a run lies and begins. ``checkpoint``: (place, folder name) of what it goes on from; None: from nothing."""

    folder: Path
    attempt: str
    checkpoint: tuple[str, str] | None

    def reader(self) -> "CheckpointReader | None":
        """The checkpoint, opened."""
        from distmlp.checkpoint.object_store import open_storage
        from distmlp.checkpoint.reader import CheckpointReader

        return CheckpointReader(open_storage(self.checkpoint[0]), self.checkpoint[1]) if self.checkpoint else None


def checkpoints_place(config: Config) -> str:
    """Where the checkpoints of the run lie."""
    run = config.run
    return run_folder.checkpoints(run_folder.place(run.root, str(run.name), str(run.id)), config.checkpoint.dir)


def check_resumable(composed: Composed, data: "DataSet", network: "nn.Module") -> None:
    """Ends with a `ConfigError` where the run cannot go on as configured. Reads no tensor, writes nothing.

    What only a whole reading shows, a damaged file, is left to `find_start`.
    """
    from distmlp.checkpoint.errors import DamagedError
    from distmlp.checkpoint.fitting import check_fits
    from distmlp.checkpoint.reader import CheckpointReader
    from distmlp.checkpoint.select import checkpoint_names

    named = composed.named()
    config = named.config
    run, source = config.run, config.resume.source
    if source == "must" and composed.config.run.id is None:
        raise ConfigError("resume=must needs to know the run: give run.id=…, or resume=RUN_FOLDER")
    folder = run_folder.place(run.root, str(run.name), str(run.id))
    if source == "never":
        if folder.exists():
            raise ConfigError(f"{folder} exists: leave run.id unset, choose another, or use resume=auto to go on")
        return
    for storage, names in _candidates(config):
        for name in names or checkpoint_names(storage):
            try:
                with CheckpointReader(storage, name) as reader:
                    check_fits(reader, _facts(config, data), network, set(config.resume.allow))
                return
            except DamagedError:
                continue
    if source != "auto":
        raise ConfigError(f"resume={source}: {checkpoints_place(config)} holds no checkpoint to go on from")
    if folder.exists():
        check_same_run(named, folder)


def check_same_run(named: Composed, folder: Path) -> None:
    """A run that was cut before its first checkpoint starts over; any other run keeps its folder to itself."""
    if {path.name for path in folder.iterdir()} <= {"logs", FILE}:  # cut before it wrote anything
        return
    if _without_cluster(folder / "config.yaml") != {**named.values, "cluster": None}:
        raise ConfigError(
            f"{folder} exists, holds no checkpoint, and is of another configuration: leave run.id unset, or choose "
            "another"
        )


def _without_cluster(file: Path) -> dict[str, Any]:
    """The values of a run's configuration, less what its job asked for: with more time it is the same run."""
    from yaml import YAMLError, safe_load

    try:
        values = safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError):
        return {}
    return {**values, "cluster": None} if isinstance(values, dict) else {}


def find_start(config: Config, attempt: str) -> Start:
    """Makes the run folder or opens it, and finds the newest sound checkpoint, which it reads whole. Rank 0 calls it.

    Raises:
        ConfigError: there must be one, and there is none.
    """
    from distmlp.checkpoint.select import clear_leftovers, newest_sound
    from distmlp.report.byte_progress import byte_progress

    run = config.run
    folder = run_folder.open_or_create(run.root, str(run.name), str(run.id))
    if config.resume.source == "never":
        return Start(folder, attempt, None)
    for storage, names in _candidates(config):
        if names is None:
            clear_leftovers(storage, attempt)
        with byte_progress("verifying") as bar:
            advance = bar.advance
            found = newest_sound(storage, log.warning, advance) if names is None else _sound(storage, names[0], advance)
        if found:
            return Start(folder, attempt, (storage.where(), found))
    if config.resume.source != "auto":
        raise ConfigError(f"resume={config.resume.source}: {checkpoints_place(config)} holds no sound checkpoint")
    return Start(folder, attempt, None)


def _sound(storage: "Storage", name: str, advance: Callable[[int], None]) -> str:
    from distmlp.checkpoint.reader import CheckpointReader

    with CheckpointReader(storage, name) as reader:
        for damage in reader.damages(advance):
            raise ConfigError(f"{damage}; use another checkpoint")
    return name


def _candidates(config: Config) -> "list[tuple[Storage, list[str] | None]]":
    """The run's own checkpoints first, then the one that was named: a new run that goes on from it may be resumed."""
    from distmlp.checkpoint.object_store import open_storage

    own = checkpoints_place(config)
    found: list[tuple[Storage, list[str] | None]] = [(open_storage(own), None)]
    source = config.resume.source
    if source not in WORDS and Path(source) != run_folder_of(Path(source)):
        found.append((open_storage(str(Path(source).parent)), [Path(source).name]))
    return found


def new_attempt() -> str:
    """A word for this start of the run."""
    return secrets.token_hex(4)


def _facts(config: Config, data: "DataSet") -> dict[str, Any]:
    return {
        "data": data.fingerprint,
        "optimizer": config.optimizer.name,
        "seed": config.seed,
        "batch": config.data.global_batch_size,
    }
