"""The callbacks that save a run and resume it."""

import time
from collections.abc import Callable
from typing import Any

from distmlp.callbacks.ema import WeightAverage
from distmlp.callbacks.stopping import Stopping
from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.object_store import open_storage
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.restoring import Restoring
from distmlp.checkpoint.retention import Retention, Saved
from distmlp.checkpoint.saver import Saver
from distmlp.checkpoint.saving import Rules, Saving
from distmlp.checkpoint.select import checkpoint_names
from distmlp.checkpoint.storage import Storage
from distmlp.checkpoint.writer import folder_name
from distmlp.config import Config
from distmlp.data.dataset import DataSet
from distmlp.errors import ConfigError
from distmlp.log import log
from distmlp.run_folder import git_commit, package_versions
from distmlp.runtime import World
from distmlp.strategy_rules import data_world
from distmlp.tracking.recorder import LOWER_IS_BETTER, Recorder


def build_saving(
    config: Config,
    data: DataSet,
    world: World,
    *,
    values: dict[str, Any],
    strategy_name: str,
    place: str,
    attempt: str,
    pinned: bool,
    recorder: Recorder,
    stopping: Stopping,
    average: WeightAverage | None,
) -> Saving:
    """Saves to ``place``, by the rules of the configuration.

    Args:
        config: of the run.
        data: of the run.
        world: this rank's.
        values: the frozen configuration.
        strategy_name: of the strategy that was chosen.
        place: folder or address of the checkpoints.
        attempt: a word for this start of the run.
        pinned: whether snapshots go to page-locked memory.
        recorder: knows the metrics.
        stopping: knows the loss at which the run stopped.
        average: keeps the moving average, if there is one.
    """
    section, storage = config.checkpoint, open_storage(place)
    rules = Rules(
        every_steps=section.every_steps,
        every_epochs=section.every_epochs,
        every_seconds=None if section.every_minutes is None else 60 * section.every_minutes,
        check_every_steps=config.trainer.log_every_steps,
        skips_when_busy=section.when_busy == "skip",
    )
    saver = Saver(
        storage,
        rank=world.rank,
        world_size=world.world_size,
        attempt=attempt,
        asynchronous=section.asynchronous,
        pinned=pinned,
        on_saved=_keeper(config, storage) if world.rank == 0 else lambda step, state: None,
    )
    facts = {
        "strategy": strategy_name,
        "precision": config.precision.name,
        "world_size": world.world_size,
        "data_world_size": data_world(config, world).world_size,
        "num_train_samples": len(data.train),
        "data_fingerprint": data.fingerprint,
        "configuration": values,
        "versions": package_versions(),
        "git_commit": git_commit(),
    }

    def describe(trainer: Any, module: Any) -> dict[str, Any]:
        recorder.flush_all(trainer, module)
        return {
            "seconds": round(time.time() - recorder.started, 3),
            "metrics": dict(recorder.latest),
            "best": dict(recorder.best),
            "reached_loss": stopping.reached_loss,
        }

    return Saving(saver, rules, facts=facts, describe=describe, average=average)


def build_restoring(
    reader: CheckpointReader,
    config: Config,
    *,
    saving: Saving,
    recorder: Recorder,
    stopping: Stopping,
    average: WeightAverage | None,
) -> Restoring:
    """Puts what ``reader`` has into the run when training starts."""
    state = reader.state
    is_import = "imported_from" in state  # weights alone
    same_optimizer = not is_import and state["configuration"]["optimizer"]["name"] == config.optimizer.name

    def resumed(state: dict[str, Any]) -> None:
        saving.validates_first = state["validation_is_due"]
        saving.is_from_elsewhere = reader.storage.where() != saving.saver.storage.where()
        stopping.reached_loss = state["reached_loss"]
        recorder.seconds_before = state["seconds"]
        recorder.latest.update(state["metrics"])
        recorder.best.update(state["best"])

    return Restoring(
        reader,
        first_epoch=first_epoch_and_sample(state)[0],
        average=average,
        with_optimizer=same_optimizer,
        resumed=resumed,
    )


def first_epoch_and_sample(state: dict[str, Any]) -> tuple[int, int]:
    """Where training goes on: the epoch, and how many of its samples are behind."""
    if state["samples_in_epoch"] >= state["num_train_samples"]:
        return state["epoch"] + 1, 0
    return state["epoch"], state["samples_in_epoch"]


def _keeper(config: Config, storage: Storage) -> Callable[[int, dict[str, Any]], None]:
    """Removes, after each save, what the rules do not keep. A checkpoint that cannot be removed is only mentioned."""
    section = config.checkpoint
    retention = Retention(
        keep_last=section.keep_last,
        keep_best=section.keep_best or 0,
        keep_every_steps=section.keep_every_steps,
        lower_is_better=section.metric.endswith(LOWER_IS_BETTER),
    )
    saved: list[Saved] = []

    def keep(step: int, state: dict[str, Any]) -> None:
        if not saved:
            saved.extend(_saved_before(storage, section.metric, folder_name(step)))
        saved.append(Saved(folder_name(step), step, state["metrics"].get(section.metric)))
        removed = retention.to_remove(saved)
        for name in removed:
            try:
                storage.remove(name)
            except OSError as error:
                log.warning("%s cannot be removed: %s", storage.where(name), error.strerror or error)
        saved[:] = [one for one in saved if one.name not in removed]

    return keep


def _saved_before(storage: Storage, metric: str, newest: str) -> list[Saved]:
    found = []
    for name in checkpoint_names(storage):
        if name == newest:
            continue
        try:
            with CheckpointReader(storage, name) as reader:
                state = reader.state
        except (DamagedError, ConfigError):
            continue  # not ours to remove
        found.append(Saved(name, state["step"], state["metrics"].get(metric)))
    return found
