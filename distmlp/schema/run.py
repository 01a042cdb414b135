"""Keys of the groups that say how a run goes: precision, trainer, checkpoint, tracking, and `run` itself."""

from datetime import timedelta
from typing import Literal

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt

from distmlp.schema.base import Auto, FolderName, Fraction, Section


class Precision(Section):
    name: Literal["fp32", "tf32", "bf16_mixed", "fp16_mixed", "bf16_true", "fp8"] = Field(
        description="formats of weights and arithmetic; mixed ones keep 32-bit weights"
    )


class Trainer(Section):
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = Field("auto", description="what to train on")
    nodes: PositiveInt | Auto = Field("auto", description="machines; checked against the launcher")
    devices: PositiveInt | Auto = Field("auto", description="processes a machine; checked against the launcher")
    max_epochs: PositiveInt | None = Field(30, description="ends after so many passes over the training split")
    max_steps: PositiveInt | None = Field(None, description="ends after so many optimizer steps")
    max_samples: PositiveInt | None = Field(None, description="ends once so many samples were seen")
    max_time: timedelta | None = Field(None, description="ends after HH:MM:SS, or seconds")
    loss_threshold: PositiveFloat | None = Field(None, description="ends once an epoch's mean training loss is below")
    micro_batch_size: PositiveInt | Auto | None = Field(
        None, description="samples a device holds at once; null: its share; auto: its share, halved until it fits"
    )
    log_every_steps: PositiveInt = Field(10, description="steps between two lines of metrics.jsonl")
    validate_every_steps: PositiveInt | None = Field(None, description="also validates so often; null: each epoch")
    gradient_clip_norm: PositiveFloat | None = Field(None, description="largest global gradient norm")
    gradient_clip_value: PositiveFloat | None = Field(None, description="largest absolute value in a gradient")
    ema_decay: Fraction | None = Field(None, description="also keeps a moving average of the weights, and evaluates it")
    log_sample_ids: bool = Field(False, description="adds the ids of a logged step's samples to its line")
    progress: bool = Field(True, description="shows progress")


class Checkpoint(Section):
    every_steps: PositiveInt | None = Field(None, description="saves every so many steps, and always at the end")
    every_minutes: PositiveFloat | None = Field(None, description="saves every so many minutes")
    every_epochs: PositiveInt | None = Field(None, description="saves every so many epochs")
    keep_last: PositiveInt | None = Field(3, description="keeps so many of the newest; null: all")
    keep_best: PositiveInt | None = Field(None, description="also keeps so many of the best by checkpoint.metric")
    metric: str = Field("val/loss", description="what is best; lower is, but for accuracy and the like")
    keep_every_steps: PositiveInt | None = Field(None, description="also keeps, for good, those of every so many steps")
    asynchronous: bool = Field(True, description="writes while training goes on")
    when_busy: Literal["wait", "skip"] = Field("wait", description="what a save does that finds one in hand")
    dir: str | None = Field(None, description="where to, a path or URL (s3://…); null: the run folder")


class Resume(Section):
    source: str = Field("auto", description="resume=auto: goes on if it can; never; must; or a run or checkpoint")
    allow: list[Literal["data", "optimizer", "seed", "batch"]] = Field(
        [], description="differences that do not stop a resume"
    )


class Tracking(Section):
    tensorboard: bool = Field(description="writes TensorBoard event files")
    wandb: bool = Field(description="logs to Weights & Biases; offline when nobody is logged in")
    wandb_project: str = Field("distmlp", description="project of the dashboard page")


class Run(Section):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    root: str = Field("runs", description="folder that holds all runs")
    name: FolderName | None = Field(None, description="the run's name; null: data and model")
    id: FolderName | None = Field(None, description="the run's id; null: made by the launcher")
