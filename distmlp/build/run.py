"""From a validated configuration to the objects of a run: data, network, module, callbacks, Trainer.

The only file that turns names into code. Objects receive plain keyword arguments, never the configuration.
"""

import inspect
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from rich.console import Console
from torch import nn

from distmlp import schema
from distmlp.callbacks.progress import ProgressReport
from distmlp.callbacks.stopping import Stopping
from distmlp.checkpoint.writer import WeightsWriter
from distmlp.config import Config, check_target, targets_of
from distmlp.data import load
from distmlp.data.dataset import DataSet
from distmlp.data.loader import EvaluationLoader, TrainLoader
from distmlp.errors import ConfigError
from distmlp.model import MODELS
from distmlp.module import TrainingModule
from distmlp.optimizer import build_optimizer
from distmlp.runtime import World
from distmlp.scheduler import Schedule, warmup_in_steps
from distmlp.tasks import TASKS
from distmlp.tracking.dashboards import tensorboard_logger, wandb_logger
from distmlp.tracking.metrics_file import MetricsFile
from distmlp.tracking.recorder import Recorder

LIGHTNING_PRECISION = {"fp32": "32-true", "bf16_mixed": "bf16-mixed"}


def device_type(accelerator: str) -> str:
    """``cuda``, ``mps`` or ``cpu``.

    Raises:
        ConfigError: the accelerator is not there; it is never replaced quietly.
    """
    has_mps = torch.backends.mps.is_available()
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu, but torch sees no GPU here: use trainer.accelerator=cpu or auto")
    if accelerator == "mps" and not has_mps:
        raise ConfigError("trainer.accelerator=mps, but torch sees no Apple GPU: use trainer.accelerator=cpu or auto")
    return {"gpu": "cuda", "mps": "mps", "cpu": "cpu"}[accelerator]


def build_data(config: Config) -> DataSet:
    """Loads the data set; faults in it are `ConfigError`s."""
    arguments = config.data.model_dump(exclude={"name", "global_batch_size"})
    return load(config.data.name, arguments)


def build_network(config: Config, data: DataSet) -> nn.Module:
    """The network, its weights drawn from ``config.seed``."""
    lightning.seed_everything(config.seed, verbose=False)
    facts = {"input_shape": data.input_shape, "num_outputs": data.num_outputs}
    if isinstance(config.model, schema.CustomModel):
        return _custom_network(config, facts)
    return MODELS[config.model.name](**facts, **config.model.model_dump(exclude={"name"}))


def _custom_network(config: Config, facts: dict[str, Any]) -> nn.Module:
    from hydra.errors import InstantiationException
    from hydra.utils import get_class, instantiate

    values = config.model.model_dump(by_alias=True, exclude={"name"})
    for target in targets_of(values):
        check_target(target, config.allow_targets)
    name = values["_target_"]
    if "" not in sys.path:
        sys.path.insert(0, "")  # the user's package lies where the command runs
    try:
        accepted = inspect.signature(get_class(name)).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        network = instantiate(values, **{k: v for k, v in facts.items() if takes_any or k in accepted})
    except (InstantiationException, ImportError, ValueError, TypeError) as error:
        raise ConfigError(f"model._target_={name} cannot be built: {' '.join(str(error).split())}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model._target_={name} made a {type(network).__name__}, not a torch.nn.Module")
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in network.parameters()):
        raise ConfigError(f"model._target_={name} holds lazy layers: give their sizes, e.g. from input_shape")
    return network


@dataclass(frozen=True)
class Horizon:
    """Where training ends, in optimizer steps. None: not known beforehand."""

    steps_per_epoch: int
    total_steps: int | None


def horizon(config: Config, num_train: int) -> Horizon:
    """The first of the limits that count steps, samples or epochs."""
    trainer, size = config.trainer, config.data.global_batch_size
    steps_per_epoch = -(-num_train // size)
    limits = [
        trainer.max_steps,
        trainer.max_epochs and trainer.max_epochs * steps_per_epoch,
        trainer.max_samples and _steps_for_samples(trainer.max_samples, num_train, size),
    ]
    return Horizon(steps_per_epoch, min((limit for limit in limits if limit is not None), default=None))


def _steps_for_samples(samples: int, num_train: int, size: int) -> int:
    epochs, rest = divmod(samples, num_train)
    return epochs * -(-num_train // size) + -(-rest // size)


def build_module(config: Config, data: DataSet, network: nn.Module, world: World) -> TrainingModule:
    """The LightningModule of the run."""
    trainer, end = config.trainer, horizon(config, len(data.train))
    schedule = _schedule(config, end)
    options = config.optimizer.model_dump()

    def pause_at(step: int) -> bool:
        every = config.checkpoint.every_steps
        return step == end.total_steps or (every is not None and step % every == 0)

    return TrainingModule(
        network,
        TASKS[data.task](data.num_outputs),
        optimizer=lambda net: build_optimizer(net, **options),
        schedule=schedule.factor,
        micro_batch_size=trainer.micro_batch_size,
        gradient_clip_norm=trainer.gradient_clip_norm,
        log_every_steps=trainer.log_every_steps,
        pause_at=pause_at,
        one_step_per_call=world.world_size > 1 or trainer.validate_every_steps is not None,
    )


def _schedule(config: Config, end: Horizon) -> Schedule:
    scheduler = config.scheduler
    warmup = warmup_in_steps(
        steps=scheduler.warmup_steps,
        samples=scheduler.warmup_samples,
        epochs=scheduler.warmup_epochs,
        global_batch_size=config.data.global_batch_size,
        steps_per_epoch=end.steps_per_epoch,
    )
    options = scheduler.model_dump(exclude={"warmup_steps", "warmup_samples", "warmup_epochs"})
    return Schedule(warmup_steps=warmup, total_steps=end.total_steps, **options)


@dataclass
class Run:
    """A trainer ready to fit, and the callbacks whose findings the summary needs."""

    trainer: lightning.Trainer
    stopping: Stopping
    weights: WeightsWriter
    latest: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)


def build_run(
    config: Config, data: DataSet, world: World, run_folder: Path, values: dict[str, Any], console: Console
) -> Run:
    """The Trainer with its callbacks and loggers. ``values`` is the frozen configuration, shown on dashboards."""
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
    weights = WeightsWriter(run_folder / "checkpoints", config.checkpoint.every_steps)
    recorder = Recorder(MetricsFile(run_folder / "metrics.jsonl") if is_writer else None, latest, best)
    callbacks: list[lightning.Callback] = [recorder, stopping, weights]
    if limits.progress and is_writer:
        score = "accuracy" if data.task == "classification" else "mae"
        callbacks.append(ProgressReport(end.total_steps, latest, score, console))
    trainer = build_trainer(
        config,
        world,
        callbacks=callbacks,
        logger=_loggers(config, run_folder, values) if is_writer else [],
        max_epochs=limits.max_epochs if limits.max_epochs is not None else -1,
        **_validation_interval(limits.validate_every_steps),
    )
    return Run(trainer, stopping, weights, latest, best)


def _validation_interval(every_steps: int | None) -> dict[str, Any]:
    if every_steps is None:
        return {}
    return {"val_check_interval": every_steps, "check_val_every_n_epoch": None}


def build_trainer(config: Config, world: World, **options: Any) -> lightning.Trainer:
    """Lightning's Trainer on this world, with none of its own files, bars or samplers."""
    kind = device_type(config.trainer.accelerator)
    # The module takes several batches a call on purpose, and leans on none of the hooks that Lightning warns about.
    warnings.filterwarnings("ignore", message=".*`dataloader_iter`")
    return lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(kind, kind),
        devices=world.local_world_size,
        num_nodes=world.num_nodes,
        strategy=_strategy(config, world, kind),
        # Given, so that Lightning does not look for a launcher of its own: `runtime.py` has done so.
        plugins=[TorchElasticEnvironment() if world.world_size > 1 else LightningEnvironment()],
        precision=LIGHTNING_PRECISION[config.precision.name],  # type: ignore[arg-type]
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def _strategy(config: Config, world: World, kind: str) -> Strategy:
    name = config.strategy.name
    if name == "ddp" or (name == "auto" and world.world_size > 1):
        return DDPStrategy(process_group_backend="nccl" if kind == "cuda" else "gloo")
    return SingleDeviceStrategy(device={"cuda": "cuda:0"}.get(kind, kind))


def _loggers(config: Config, run_folder: Path, values: dict[str, Any]) -> list[Logger]:
    loggers: list[Logger | None] = []
    if config.tracking.tensorboard:
        loggers.append(tensorboard_logger(run_folder))
    if config.tracking.wandb:
        name, run_id = run_folder.parent.name, run_folder.name
        page = wandb_logger(run_folder, project=config.tracking.wandb_project, name=name, run_id=run_id, config=values)
        loggers.append(page)
    return [logger for logger in loggers if logger is not None]


def train_loader(config: Config, data: DataSet, world: World) -> TrainLoader:
    """This rank's shares of the training split."""
    return TrainLoader(
        data.train,
        global_batch_size=config.data.global_batch_size,
        seed=config.seed,
        rank=world.rank,
        world_size=world.world_size,
        with_sample_ids=config.trainer.log_sample_ids,
    )


def evaluation_loader(config: Config, data: DataSet, world: World, split: str) -> EvaluationLoader:
    """This rank's part of a split, in batches no larger than a training step's."""
    share = -(-config.data.global_batch_size // world.world_size)
    size = min(config.trainer.micro_batch_size or share, share)
    return EvaluationLoader(data.split(split), batch_size=size, rank=world.rank, world_size=world.world_size)
