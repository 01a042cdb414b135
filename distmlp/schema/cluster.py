"""Keys of the group `cluster`: what `distmlp submit` asks SLURM for. Names are sbatch's where it has one."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from distmlp.schema.base import Auto, Section

TIME = re.compile(r"(?:(?P<days>\d+)-(?P<hours>\d+)(?::(?P<min>\d+)(?::(?P<sec>\d+))?)?|(?P<rest>\d+(?::\d+){0,2}))")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What submit says itself: the key, or None where nobody else can say it.
OWN_OPTIONS = {
    "--partition": "cluster.partition",
    "--account": "cluster.account",
    "--qos": "cluster.qos",
    "--constraint": "cluster.constraint",
    "--time": "cluster.time",
    "--nodes": "cluster.nodes",
    "--ntasks-per-node": "trainer.devices",
    "--gpus-per-node": "cluster.gpus_per_node",
    "--cpus-per-task": "cluster.cpus_per_task",
    "--mem": "cluster.mem",
    "--dependency": "cluster.dependency",
    "--array": "cluster.array",
    "--requeue": "cluster.requeue",
    "--no-requeue": "cluster.requeue",
    "--signal": "cluster.grace_seconds",
    "--job-name": "run.name",
    **dict.fromkeys(("--ntasks", "--output", "--open-mode", "--chdir", "--wrap", "--parsable", "--test-only"), None),
}


class NoCluster(Section):
    name: Literal["none"]


class SlurmCluster(Section):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    name: Literal["slurm"]
    partition: str | None = Field(None, description="where the job waits; null: the cluster's default")
    account: str | None = Field(None, description="who is charged")
    qos: str | None = Field(None, description="quality of service")
    constraint: str | None = Field(None, description="features that nodes must have, such as a100|h100")
    time: str | None = Field(None, description="limit of a job: HH:MM:SS, minutes, D-HH; null: the partition's")
    nodes: PositiveInt | Auto = Field("auto", description="machines; auto: trainer.nodes, or 1")
    gpus_per_node: PositiveInt | None = Field(None, description="GPUs of a node; null: none, or trainer.devices")
    cpus_per_task: PositiveInt | None = Field(None, description="CPU cores of a task: a rank, or with torchrun a node")
    mem: str | None = Field(None, description="memory of a node, such as 64G")
    dependency: str | None = Field(None, description="what the job waits for, such as afterok:12")
    sbatch: list[str] = Field([], description="more options for sbatch, such as --exclusive")
    launcher: Literal["srun", "torchrun"] = Field("srun", description="srun: a task for each rank; torchrun: a node")
    python: str | None = Field(None, description="null: this one; in a container: its python")
    modules: list[str] = Field([], description="modules to load")
    environment: list[str] = Field([], description="NAME=VALUE, or NAME: must be set where you submit")
    lines: list[str] = Field([], description="lines of shell before training starts")
    container: str | None = Field(None, description="image that has distmlp: a file or a registry's name")
    container_runtime: Literal["pyxis", "apptainer"] = Field("pyxis", description="what runs the container")
    container_mounts: list[str] = Field([], description="SOURCE:TARGET, beside the folders that the run needs")
    array: str | None = Field(None, description="file with a line of overrides for each run")
    array_limit: PositiveInt | None = Field(None, description="runs of the array at once")
    requeue: bool = Field(True, description="a job that was stopped or lost starts again, and resumes")
    grace_seconds: Annotated[int, Field(ge=1, le=65535)] = Field(
        120, description="so long before its time limit a job is told to save"
    )

    @model_validator(mode="after")
    def _every_text_is_one_line(self) -> Self:
        for key, text in _texts(self.model_dump()):
            # A script is made of lines: a value that ended one could add another.
            if not text.isprintable() or not text.strip():
                raise ValueError(f"cluster.{key}={text!r} must be one line of printable characters")
        return self

    @model_validator(mode="after")
    def _time_leaves_room_to_save(self) -> Self:
        if self.time is None:
            return self
        limit = seconds_of(self.time)
        if limit is None:
            raise ValueError(f"cluster.time={self.time} is no time: use HH:MM:SS, D-HH:MM:SS, D-HH, or minutes")
        if limit <= self.grace_seconds:
            raise ValueError(
                f"cluster.time={self.time} is {limit} s, and cluster.grace_seconds={self.grace_seconds} of them are "
                "for saving: give a longer time or less grace"
            )
        return self

    @model_validator(mode="after")
    def _options_are_not_said_twice(self) -> Self:
        for option in self.sbatch:
            name, equals, value = option.partition("=")
            if not re.fullmatch(r"--[a-z][a-z-]*", name) or (equals and not value):
                raise ValueError(
                    f"cluster.sbatch holds {option}: give whole options, such as --exclusive or --mail-user=ME"
                )
            # sbatch takes the beginning of an option for the option.
            clash = next((own for own in OWN_OPTIONS if own.startswith(name)), None)
            if clash:
                key = OWN_OPTIONS[clash]
                raise ValueError(
                    f"cluster.sbatch holds {option}: " + (f"use {key}" if key else "submit says it itself")
                )
        return self

    @model_validator(mode="after")
    def _environment_holds_no_secret(self) -> Self:
        for entry in self.environment:
            name, equals, _ = entry.partition("=")
            if not VARIABLE.fullmatch(name):
                raise ValueError(f"cluster.environment holds {name}: a variable's name has letters, digits and _ only")
            if equals and SECRET.search(name):
                raise ValueError(
                    f"cluster.environment gives {name} a value, which would stand in files for all to read: give the "
                    f"name alone, cluster.environment=[{name}], and set it where you submit"
                )
        return self

    @model_validator(mode="after")
    def _container_and_array_are_whole(self) -> Self:
        if self.container is None and self.container_mounts:
            raise ValueError("cluster.container_mounts needs cluster.container=IMAGE")
        if self.array is None and self.array_limit:
            raise ValueError(f"cluster.array_limit={self.array_limit} needs cluster.array=FILE")
        return self


def _texts(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                yield key, text


def seconds_of(time: str) -> int | None:
    """Seconds of one of SLURM's times: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S. None for anything else."""
    found = TIME.fullmatch(time)
    if found is None:
        return None
    if found["rest"] is None:
        days, hours, minutes, seconds = (int(found[part] or 0) for part in ("days", "hours", "min", "sec"))
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    parts = [int(part) for part in found["rest"].split(":")]
    hours, minutes, seconds = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
    return (hours * 60 + minutes) * 60 + seconds
