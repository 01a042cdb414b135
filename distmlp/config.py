"""The whole configuration: what `schema/` says of each group, and what must hold between groups.

`validate` turns the composed values into a `Config` or ends with one line: the wrong key and the nearest right one, the
valid choices, or the two fields that disagree.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self, cast, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from distmlp.errors import ConfigError, did_you_mean
from distmlp.schema import cluster, data, model, optimization, strategy
from distmlp.schema.base import Section
from distmlp.schema.data import TokenTask
from distmlp.schema.run import Checkpoint, Precision, Resume, Run, Tracking, Trainer

Model = Annotated[
    model.MLPModel
    | model.CNNModel
    | model.ResNetModel
    | model.RNNModel
    | model.GPTModel
    | model.BERTModel
    | model.ViTModel
    | model.CustomModel,
    Field(discriminator="name"),
]
Data = Annotated[
    data.DigitsData
    | data.MNISTData
    | data.FashionMNISTData
    | data.ArraysData
    | data.TableData
    | data.SyntheticData
    | data.TextData
    | data.TokensData
    | data.SyntheticTokensData,
    Field(discriminator="name"),
]
Optimizer = Annotated[
    optimization.SGD
    | optimization.Momentum
    | optimization.Adam
    | optimization.Adagrad
    | optimization.RMSprop
    | optimization.Muon
    | optimization.Lion,
    Field(discriminator="name"),
]
Scheduler = Annotated[
    optimization.ConstantScheduler
    | optimization.StepScheduler
    | optimization.DecayScheduler
    | optimization.WSDScheduler
    | optimization.OneCycleScheduler,
    Field(discriminator="name"),
]
Strategy = Annotated[
    strategy.AutoStrategy
    | strategy.SingleStrategy
    | strategy.DDPStrategy
    | strategy.PowerSGDStrategy
    | strategy.LocalSGDStrategy
    | strategy.FSDP2Strategy
    | strategy.HSDPStrategy
    | strategy.TensorParallelStrategy
    | strategy.DeepSpeedStrategy,
    Field(discriminator="name"),
]

Cluster = Annotated[cluster.NoCluster | cluster.SlurmCluster, Field(discriminator="name")]

TOKEN_MODELS = ("gpt", "bert", "rnn")


class Config(Section):
    """One run, validated. See the README for how groups and keys are chosen."""

    seed: int = Field(0, ge=0, description="seed of weights, sample order and dropout")
    allow_targets: list[str] = Field([], description="packages that a `_target_` may name; from the command line only")
    run: Run
    model: Model
    data: Data
    optimizer: Optimizer
    scheduler: Scheduler
    strategy: Strategy
    precision: Precision
    trainer: Trainer
    checkpoint: Checkpoint
    resume: Resume = Resume()
    tracking: Tracking
    cluster: Cluster = cluster.NoCluster(name="none")

    @property
    def token_task(self) -> TokenTask:
        """What token data ask of this model: `data.task`, or what the model is made for."""
        task = getattr(self.data, "task", "auto")
        if task in ("next_token", "masked_token"):
            return cast(TokenTask, task)
        reads_both_ways = self.model.name == "bert" or getattr(self.model, "bidirectional", False)
        return "masked_token" if reads_both_ways else "next_token"

    @model_validator(mode="after")
    def _model_fits_data(self) -> Self:
        name, kind = self.model.name, self.data.name
        if name == "custom":
            return self
        is_token_data = isinstance(self.data, data.TokenData)
        if is_token_data and name not in TOKEN_MODELS:
            raise ValueError(f"model={name} takes numbers and data={kind} gives tokens: use {_either(TOKEN_MODELS)}")
        if not is_token_data and name in TOKEN_MODELS and name != "rnn":
            raise ValueError(
                f"model={name} takes tokens and data={kind} gives none: use data=text data.path=FILE, data=tokens, or "
                "data=synthetic_tokens"
            )
        if is_token_data:
            self._check_token_task()
        return self

    def _check_token_task(self) -> None:
        reads_both_ways = self.model.name == "bert" or getattr(self.model, "bidirectional", False)
        task, length = self.token_task, getattr(self.data, "sequence_length", 0)
        if task == "next_token" and reads_both_ways:
            what = "model=bert" if self.model.name == "bert" else "model.bidirectional=true"
            raise ValueError(f"{what} sees the token it would predict: use data.task=masked_token")
        if task == "masked_token" and self.model.name == "gpt":
            raise ValueError("model=gpt sees only what comes before a masked token: use model=bert")
        limit = getattr(self.model, "max_positions", None)
        if limit is not None and length > limit:
            raise ValueError(
                f"data.sequence_length={length} is longer than model.max_positions={limit}: shorten the sequences, or "
                "give the model more positions"
            )

    @model_validator(mode="after")
    def _micro_batch_fits_global_batch(self) -> Self:
        micro, whole = self.trainer.micro_batch_size, self.data.global_batch_size
        if isinstance(micro, int) and micro > whole:
            raise ValueError(
                f"trainer.micro_batch_size={micro} is larger than data.global_batch_size={whole}: "
                "a micro-batch is a part of the global batch"
            )
        return self

    @model_validator(mode="after")
    def _training_ends(self) -> Self:
        trainer = self.trainer
        limits = ("max_epochs", "max_steps", "max_samples")
        if all(getattr(trainer, limit) is None for limit in limits):
            if trainer.max_time is None and trainer.loss_threshold is None:
                raise ValueError(
                    "training would never end: set trainer.max_epochs, trainer.max_steps, trainer.max_samples, "
                    "trainer.max_time or trainer.loss_threshold"
                )
            if self.scheduler.name not in ("constant", "step"):
                raise ValueError(
                    f"scheduler.name={self.scheduler.name} needs to know the end: set trainer.max_epochs, "
                    "trainer.max_steps or trainer.max_samples"
                )
        return self

    @model_validator(mode="after")
    def _target_is_allowed(self) -> Self:
        values = self.model.model_dump(by_alias=True)
        for target in targets_of(values):
            check_target(target, self.allow_targets)
        if "${" in str(
            values
        ):  # Hydra would resolve it while it builds the network, into a target that was not checked
            raise ValueError("model holds ${…} after all was resolved: write the value itself")
        return self


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(f"model={name}" for name in names)


def targets_of(values: Any) -> Iterator[str]:
    """Every `_target_` in ``values``, however deep."""
    if isinstance(values, Mapping):
        if "_target_" in values:
            yield str(values["_target_"])
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from targets_of(value)


def check_target(target: str, allowed: list[str]) -> None:
    """Raises `ValueError` unless ``target`` is a dotted name inside one of the ``allowed`` packages."""
    package, _, attribute = target.partition(".")
    if not attribute:
        raise ValueError(f"model._target_={target} is not a dotted name such as my_package.MyNet")
    if not any(target.startswith(prefix + ".") for prefix in allowed):
        raise ValueError(
            f"model._target_={target} is code outside distmlp: if you trust it, add allow_targets=[{package}]"
        )


def validate(values: Mapping[str, Any]) -> Config:
    """The configuration in ``values``.

    Raises:
        ConfigError: one line for all faults found.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(fault) for fault in error.errors())
        raise ConfigError("; ".join(lines)) from None


def all_fields(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, help line) of every field of the schema, each once a group member."""
    for name, info in section.model_fields.items():
        members = _members(info.annotation)
        if not members:
            chosen = f"chosen with {prefix[:-1]}=…" if name == "name" else ""
            yield prefix + (info.alias or name), info.description or chosen
        for member in members:
            yield from all_fields(member, f"{prefix}{name}.")


def _members(annotation: Any) -> list[type[BaseModel]]:
    kinds = [annotation, *get_args(annotation)]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _explain(fault: Any) -> str:
    parts = [str(part) for part in fault["loc"]]
    everything = keys = [name for name, _ in all_fields()]
    choice = ""
    if parts and parts[0] in ("model", "data", "optimizer", "scheduler", "strategy", "cluster") and len(parts) > 2:
        choice = parts.pop(1)  # the union's member, which the user did not write
        keys = _keys_of_choice(parts[0], choice)
    if parts and parts[-1].startswith(("constrained-", "literal[")):
        parts.pop()  # one of several types that a key may have
    key, kind, message = ".".join(parts), fault["type"], fault["msg"]
    if kind == "value_error":
        return str(message.removeprefix("Value error, "))
    if kind == "extra_forbidden" and choice and key in everything:
        return f"{key} is not a key of {parts[0]}={choice}: its keys are {', '.join(keys)}"
    if kind == "extra_forbidden":
        return f"unknown key {key}{nearest(key, keys)}"
    if kind == "missing":
        return f"{key} is not set: give {key}=…"
    if kind == "union_tag_not_found":
        return f"{key}.name is not set: give {key}=…"
    if kind == "string_pattern_mismatch":
        return f"{key}={fault['input']}: use letters, digits and _ . - only, and no . or - at the start"
    if kind == "union_tag_invalid":
        tag = str(fault["ctx"]["tag"])
        names = str(fault["ctx"]["expected_tags"]).replace("'", "").split(", ")
        return f"{key}.name={tag} does not exist{nearest(tag, names)}"
    given = "null" if fault["input"] is None else fault["input"]
    return f"{key}={given}: {message[0].lower()}{message[1:]}"


def _keys_of_choice(group: str, choice: str) -> list[str]:
    for member in _members(Config.model_fields[group].annotation):
        if choice in get_args(member.model_fields["name"].annotation):
            return [name for name, _ in all_fields(member, f"{group}.")]
    raise AssertionError(f"{group} has no choice {choice}")


def nearest(word: str, choices: list[str]) -> str:
    """``": did you mean X?"`` with the nearest of ``choices``, or else the list of them."""
    names = list(dict.fromkeys(choices))
    same_name = [name for name in names if name.rpartition(".")[2] == word.rpartition(".")[2]]
    suggestion = f": did you mean {same_name[0]}?" if same_name else did_you_mean(word, names)
    if suggestion:
        return suggestion
    return f": valid are {', '.join(names)}" if len(names) <= 20 else ": `distmlp train --help` lists the keys"
