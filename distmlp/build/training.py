"""The LightningModule of a configuration, and where its training ends."""

from dataclasses import dataclass

from torch import nn

from distmlp.config import Config
from distmlp.data.dataset import DataSet
from distmlp.module import TrainingModule
from distmlp.optimizer import build_optimizer
from distmlp.runtime import World
from distmlp.scheduler import Schedule, warmup_in_steps
from distmlp.strategy.auto_micro_batch import AutoMicroBatch
from distmlp.tasks import make_task


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
        make_task(data.task, data.num_outputs, data.vocabulary.token_bytes if data.vocabulary else None),
        optimizer=lambda net: build_optimizer(net, **options),
        schedule=schedule.factor,
        micro_batch_size=None if trainer.micro_batch_size == "auto" else trainer.micro_batch_size,
        auto_micro_batch=AutoMicroBatch() if trainer.micro_batch_size == "auto" else None,
        gradient_clip_norm=trainer.gradient_clip_norm,
        gradient_clip_value=trainer.gradient_clip_value,
        log_every_steps=trainer.log_every_steps,
        pause_at=pause_at,
        validate_every_steps=trainer.validate_every_steps,
        one_step_per_call=world.world_size > 1
        or trainer.validate_every_steps is not None
        or trainer.ema_decay is not None,
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
