"""A run of a configuration: the Trainer with its callbacks and loggers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from rich.console import Console

from distmlp.build.checkpoints import build_restoring, build_saving
from distmlp.build.trainer import build_trainer
from distmlp.build.training import horizon
from distmlp.callbacks.ema import WeightAverage
from distmlp.callbacks.progress import ProgressReport
from distmlp.callbacks.stopping import Stopping
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.saving import Saving
from distmlp.config import Config
from distmlp.data.dataset import DataSet
from distmlp.run_folder import checkpoints
from distmlp.runtime import World
from distmlp.tracking.dashboards import tensorboard_logger, wandb_logger
from distmlp.tracking.metrics_file import MetricsFile
from distmlp.tracking.recorder import Recorder


@dataclass
class Run:
    """A trainer ready to fit, and the callbacks whose findings the summary needs."""

    trainer: lightning.Trainer
    stopping: Stopping
    saving: Saving
    latest: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)


def build_run(
    config: Config,
    data: DataSet,
    strategy: Strategy,
    world: World,
    *,
    strategy_name: str,
    run_folder: Path,
    attempt: str,
    reader: CheckpointReader | None,
    values: dict[str, Any],
    console: Console,
) -> Run:
    """The Trainer with its callbacks and loggers.

    Args:
        config: of the run.
        data: of the run.
        strategy: of this rank.
        world: this rank's.
        strategy_name: the one that was chosen.
        run_folder: of the run.
        attempt: a word for this start of the run.
        reader: of the checkpoint that the run goes on from; None: it starts.
        values: the frozen configuration, shown on dashboards and kept in checkpoints.
        console: shows progress.
    """
    limits = config.trainer
    latest: dict[str, float] = {}
    best: dict[str, float] = {}
    end = horizon(config, len(data.train))
    is_writer = world.rank == 0
    stopping = Stopping(
        max_epochs=limits.max_epochs,
        max_steps=limits.max_steps,
        max_samples=limits.max_samples,
        max_time=limits.max_time,
        loss_threshold=limits.loss_threshold,
        check_every_steps=limits.log_every_steps,
    )
    average = None if limits.ema_decay is None else WeightAverage(limits.ema_decay)
    recorder = Recorder(MetricsFile(run_folder / "metrics.jsonl") if is_writer else None, latest, best)
    known: dict[str, Any] = {"recorder": recorder, "stopping": stopping, "average": average}
    saving = build_saving(
        config,
        data,
        world,
        strategy_name=strategy_name,
        place=checkpoints(run_folder, config.checkpoint.dir),
        attempt=attempt,
        pinned=strategy.root_device.type == "cuda",
        values=values,
        **known,
    )
    # The average before what saves, so that what is written of a step holds that step.
    callbacks: list[lightning.Callback] = [*([average] if average else []), recorder, stopping, saving]
    resumed_at = None
    if reader is not None:
        resumed_at = reader.state["step"]
        callbacks.insert(0, build_restoring(reader, config, saving=saving, **known))
    if limits.progress and is_writer:
        score = "mae" if data.task == "regression" else "accuracy"
        callbacks.append(ProgressReport(end.total_steps, latest, score, console))
    trainer = build_trainer(
        config,
        strategy,
        world,
        callbacks=callbacks,
        logger=_loggers(config, run_folder, values, resumed_at) if is_writer else [],
        max_epochs=limits.max_epochs if limits.max_epochs is not None else -1,
        **_validation_interval(limits.validate_every_steps),
    )
    return Run(trainer, stopping, saving, latest, best)


def _validation_interval(every_steps: int | None) -> dict[str, Any]:
    if every_steps is None:
        return {}
    return {"val_check_interval": every_steps, "check_val_every_n_epoch": None}


def _loggers(config: Config, run_folder: Path, values: dict[str, Any], resumed_at: int | None) -> list[Logger]:
    loggers: list[Logger | None] = []
    if config.tracking.tensorboard:
        loggers.append(tensorboard_logger(run_folder, resumed_at))
    if config.tracking.wandb:
        name, run_id = run_folder.parent.name, run_folder.name
        page = wandb_logger(run_folder, project=config.tracking.wandb_project, name=name, run_id=run_id, config=values)
        loggers.append(page)
    return [logger for logger in loggers if logger is not None]
