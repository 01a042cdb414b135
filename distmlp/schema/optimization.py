"""Keys of the groups `optimizer` and `scheduler`."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from distmlp.schema.base import Fraction, Section


class Optimizer(Section):
    name: str
    lr: PositiveFloat = Field(description="base learning rate; never rescaled silently")
    weight_decay: NonNegativeFloat = Field(0.0, description="decay of weights; biases and norms are exempt")


class SGD(Optimizer):
    name: Literal["sgd"]


class Momentum(Optimizer):
    name: Literal["momentum"]
    momentum: Fraction = Field(0.9, description="share of the last update kept")
    nesterov: bool = Field(False, description="Nesterov's look-ahead form")


class Adam(Optimizer):
    name: Literal["adam", "adamw"]
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.999), description="decay rates of the two moments")
    eps: PositiveFloat = Field(1e-8, description="added to the denominator")


class Adagrad(Optimizer):
    name: Literal["adagrad"]
    eps: PositiveFloat = Field(1e-10, description="added to the denominator")


class RMSprop(Optimizer):
    name: Literal["rmsprop"]
    momentum: Fraction = Field(0.0, description="share of the last update kept")
    alpha: Fraction = Field(0.99, description="decay rate of the squared gradients")
    eps: PositiveFloat = Field(1e-8, description="added to the denominator")


class Muon(Optimizer):
    name: Literal["muon"]
    adamw_lr: PositiveFloat = Field(1e-3, description="rate of AdamW on what is not a hidden matrix")
    momentum: Fraction = Field(0.95, description="share of the last update kept")
    nesterov: bool = Field(True, description="Nesterov's look-ahead form")


class Lion(Optimizer):
    name: Literal["lion"]
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.99), description="decay rates of update and momentum")


class Scheduler(Section):
    name: str
    warmup_steps: NonNegativeInt = Field(0, description="linear warm-up, in optimizer steps")
    warmup_samples: NonNegativeInt = Field(0, description="linear warm-up, in samples")
    warmup_epochs: NonNegativeFloat = Field(0.0, description="linear warm-up, in epochs")

    @model_validator(mode="after")
    def _one_unit_of_warmup(self) -> Self:
        given = [unit for unit in ("steps", "samples", "epochs") if getattr(self, f"warmup_{unit}")]
        if len(given) > 1:
            raise ValueError(f"scheduler.warmup_{given[0]} and scheduler.warmup_{given[1]} are both set: keep one")
        return self


class ConstantScheduler(Scheduler):
    name: Literal["constant"]


class StepScheduler(Scheduler):
    name: Literal["step"]
    step_every_steps: PositiveInt = Field(1000, description="steps between two drops")
    step_factor: PositiveFloat = Field(0.1, description="what a drop multiplies the rate by")


class DecayScheduler(Scheduler):
    name: Literal["cosine", "linear"]
    final_factor: NonNegativeFloat = Field(0.0, description="last rate as a share of the base rate")


class WSDScheduler(Scheduler):
    name: Literal["wsd"]
    final_factor: NonNegativeFloat = Field(0.0, description="last rate as a share of the base rate")
    decay_fraction: Fraction = Field(0.2, description="share of the run that decays")


class OneCycleScheduler(Scheduler):
    name: Literal["one_cycle"]
    start_factor: PositiveFloat = Field(0.04, description="first rate as a share of the base rate")
    final_factor: NonNegativeFloat = Field(1e-4, description="last rate as a share of the base rate")
    peak_fraction: Fraction = Field(0.3, description="share of the run that rises")
