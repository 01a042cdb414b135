"""The typed schema of the configuration: every group's keys, their types and their help lines.

Pydantic checks types and unknown keys. What must hold between groups is in `config.py`. Nothing here needs torch, so
that a mistake is answered before anything heavy is imported.
"""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
Auto = Literal["auto"]
DataTask = Literal["classification", "regression"]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_by_name=True, allow_inf_nan=False, protected_namespaces=()
    )


class MLPModel(Section):
    name: Literal["mlp"]
    hidden: list[PositiveInt] = Field([128], description="widths of the hidden layers")
    activation: str = Field("relu", description="relu, gelu, silu, tanh, sigmoid, leaky_relu or identity")
    dropout: Fraction = Field(0.0, description="share of hidden values zeroed in training")
    norm: Literal["none", "layer", "batch", "rms"] = Field("none", description="normalisation before each activation")
    residual: bool = Field(False, description="adds a layer's input to its output where the widths are equal")
    init: Literal["torch", "glorot", "he"] = Field("torch", description="initialisation of the weights")
    zero_bias: bool = Field(False, description="starts biases at zero")


class CustomModel(Section):
    """A network of the user's own: keys beside ``_target_`` are its arguments."""

    model_config = ConfigDict(extra="allow")
    name: Literal["custom"]
    target: str = Field(alias="_target_", description="dotted name of your nn.Module, e.g. my_package.MyNet")


class Data(Section):
    name: str
    dir: str | None = Field(None, description="folder that holds the data set's files")
    global_batch_size: PositiveInt = Field(64, description="samples in one optimizer step, over all ranks together")
    validation_fraction: Fraction = Field(0.1, description="share of the samples held out for validation")
    test_fraction: Fraction = Field(0.2, description="share held out for the test, where the set has no test files")
    split_seed: int = Field(0, description="seed of the split; apart from `seed`, so that new seeds keep the test set")
    normalize: bool = Field(True, description="subtracts mean, divides by deviation, both of the training split")

    @model_validator(mode="after")
    def _splits_leave_training_data(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ValueError(
                f"data.validation_fraction={self.validation_fraction} and data.test_fraction={self.test_fraction} "
                "leave nothing to train on: their sum must stay below 1"
            )
        return self


class DigitsData(Data):
    name: Literal["digits"]
    image_size: PositiveInt = Field(28, description="height and width that the 8x8 images are resized to")


class MNISTData(Data):
    name: Literal["mnist"]


class FashionMNISTData(Data):
    name: Literal["fashion_mnist"]


class ArraysData(Data):
    name: Literal["arrays"]
    inputs: str = Field(description=".npz with both arrays, or .npy of the inputs")
    targets: str | None = Field(None, description=".npy of the targets, where inputs is a .npy")
    inputs_key: str = Field("inputs", description="name of the inputs inside the .npz")
    targets_key: str = Field("targets", description="name of the targets inside the .npz")
    task: DataTask = Field("classification", description="classification or regression")
    memory_limit_bytes: NonNegativeInt = Field(2**30, description="a larger .npy is memory-mapped")


class TableData(Data):
    name: Literal["table"]
    path: str = Field(description="a .csv or .parquet file")
    target: str = Field(description="the column to predict")
    categorical: list[str] = Field([], description="numeric columns to treat as categories; text columns always are")
    drop: list[str] = Field([], description="columns to leave out")
    task: DataTask = Field("classification", description="classification or regression")


class SyntheticData(Data):
    name: Literal["synthetic"]
    num_samples: PositiveInt = Field(65536, description="size of the set; memory does not grow with it")
    input_shape: list[PositiveInt] = Field([784], description="shape of one sample")
    num_classes: PositiveInt = Field(10, description="number of classes")


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


class Strategy(Section):
    name: Literal["auto", "single", "ddp"] = Field(description="how the run is spread: single, ddp, or auto")


class Precision(Section):
    name: Literal["fp32", "bf16_mixed"] = Field(description="fp32, or bf16_mixed (bfloat16 with 32-bit weights)")


class Trainer(Section):
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = Field("auto", description="what to train on")
    nodes: PositiveInt | Auto = Field("auto", description="machines; checked against the launcher")
    devices: PositiveInt | Auto = Field("auto", description="processes a machine; checked against the launcher")
    max_epochs: PositiveInt | None = Field(30, description="ends after so many passes over the training split")
    max_steps: PositiveInt | None = Field(None, description="ends after so many optimizer steps")
    max_samples: PositiveInt | None = Field(None, description="ends once so many samples were seen")
    max_time: timedelta | None = Field(None, description="ends after HH:MM:SS, or seconds")
    loss_threshold: PositiveFloat | None = Field(None, description="ends once an epoch's mean training loss is below")
    micro_batch_size: PositiveInt | None = Field(None, description="samples a device holds at once; null: its share")
    log_every_steps: PositiveInt = Field(10, description="steps between two lines of metrics.jsonl")
    validate_every_steps: PositiveInt | None = Field(None, description="also validates so often; null: each epoch")
    gradient_clip_norm: PositiveFloat | None = Field(None, description="largest global gradient norm")
    log_sample_ids: bool = Field(False, description="adds the ids of a logged step's samples to its line")
    progress: bool = Field(True, description="shows progress")


class Checkpoint(Section):
    every_steps: PositiveInt | None = Field(None, description="also writes weights every so many steps")


class Tracking(Section):
    tensorboard: bool = Field(description="writes TensorBoard event files")
    wandb: bool = Field(description="logs to Weights & Biases; offline when nobody is logged in")
    wandb_project: str = Field("distmlp", description="project of the dashboard page")


class Run(Section):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    root: str = Field("runs", description="folder that holds all runs")
    name: FolderName | None = Field(None, description="the run's name; null: data and model")
    id: FolderName | None = Field(None, description="the run's id; null: made by the launcher")
