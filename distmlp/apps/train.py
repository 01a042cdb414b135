"""`distmlp train`: compose, validate, launch where that is due, build, fit, test, and say where it all is."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from distmlp.apps.continued import check_resumable, compose_resumed
from distmlp.apps.fit import Parts, fit
from distmlp.apps.opening import SPLITS, open_run
from distmlp.apps.planned_world import planned_world, started_world
from distmlp.compose import Composed
from distmlp.config import Config, all_fields
from distmlp.devices import device_type
from distmlp.errors import ConfigError
from distmlp.launch.handover import Handover
from distmlp.launch.rank_side import reported_to_launcher
from distmlp.process_group import form_process_group, leave_process_group
from distmlp.runtime import World, check_split_size, discover, has_launcher

USAGE = (
    "usage: distmlp train [--config RUN/config.yaml] [--cfg job | --summary | --multirun] [group=choice] [key=value]"
)


@dataclass(frozen=True)
class Words:
    """The command line: overrides, the frozen configuration they lie on, and what to do instead of one training."""

    overrides: list[str]
    frozen: Path | None
    instead: str = ""


def run(arguments: list[str]) -> int:
    """Trains as ``arguments`` say. Returns the exit status."""
    if "--help" in arguments or "-h" in arguments:
        print("\n".join([USAGE, "", "keys:", *(f"  {key:<32}{text}" for key, text in dict(all_fields()).items())]))
        return 0
    handover = Handover.received()
    with reported_to_launcher(handover):
        if handover:
            return handover.leave(_launch_or_train(handover.composed()))
        words = _read_flags(arguments)
        if words.instead == "multirun":
            from distmlp.apps.multirun import run_jobs

            return run_jobs(words.overrides, words.frozen)
        composed = compose_resumed(words.overrides, words.frozen)
        if words.instead == "config":
            print(composed.as_yaml(), end="")
            return 0
        return _show_network(composed.config) if words.instead == "network" else _launch_or_train(composed)


def _launch_or_train(composed: Composed) -> int:
    if has_launcher():
        world = started_world(composed.config)
    else:
        discover()  # a SLURM job whose ranks nobody has started is refused
        world = planned_world(composed.config)
        if world.world_size > 1:
            from distmlp.launch.ranks import launch

            return launch(composed.named(), world.world_size)
    try:
        return _train(composed, world)
    finally:
        leave_process_group()


def _read_flags(arguments: list[str]) -> Words:
    words, overrides, frozen, instead = iter(arguments), [], None, set()
    for word in words:
        flag, _, value = word.partition("=")
        if flag == "--config":
            frozen = Path(value or next(words, ""))
        elif flag in ("--cfg", "-c"):
            if (value or next(words, "")) != "job":
                raise ConfigError("--cfg takes one value: --cfg job prints the resolved configuration")
            instead.add("config")
        elif word == "--summary":
            instead.add("network")
        elif word in ("--multirun", "-m"):
            instead.add("multirun")
        elif word.startswith("-"):
            raise ConfigError(f"unknown flag {word}: valid are --config FILE, --cfg job, --summary, --multirun, --help")
        else:
            overrides.append(word)
    if len(instead) > 1:
        raise ConfigError("--cfg, --summary and --multirun exclude each other: keep one")
    return Words(overrides, frozen, "".join(instead))


def _show_network(config: Config) -> int:
    """Prints the layers of the network and what they cost; it has no memory, so that any size is shown in seconds."""
    import torch

    from distmlp import build
    from distmlp.model.cost import measure
    from distmlp.report.network import show_network

    data = build.build_data(config)
    network = build.meta_network(config, data)
    kind = torch.int64 if data.vocabulary else torch.float32
    sample = torch.empty((1, *data.input_shape), dtype=kind, device="meta")
    title = f"{config.model.name} on {data.name}, samples of shape {data.input_shape}"
    show_network(Console(), measure(network, sample), title=title)
    return 0


def _train(composed: Composed, world: World) -> int:
    from distmlp import build

    config = composed.config
    kind = device_type(config.trainer.accelerator)
    data = build.build_data(config)
    check_split_size(world, min(len(data.split(name)) for name in SPLITS if len(data.split(name))))
    network = build.build_network(config, data)
    chosen, reason = build.choose_strategy(config, network, world, kind)
    strategy = build.build_strategy(config, chosen, world, kind)
    module = build.build_module(config, data, network, world)
    check_resumable(composed, data, network)
    if world.world_size > 1 or chosen.name != "single":
        form_process_group(world, "nccl" if kind == "cuda" else "gloo")
    with open_run(composed, data, world, kind) as opened:
        return fit(opened, Parts(data, strategy, module, chosen.name, reason), world, kind)
