"""The world that `distmlp train` will have: the launcher's, or the processes that it starts itself on this machine."""

from distmlp.config import Config
from distmlp.devices import check_gpus, device_type
from distmlp.launch.plan import num_processes
from distmlp.launch.rendezvous import meet
from distmlp.runtime import World, check_world, discover, threads_of_a_task
from distmlp.schema.strategy import DeepSpeedStrategy
from distmlp.strategy_rules import check_strategy


def planned_world(config: Config) -> World:
    """The world of a run of ``config``, checked. In a launching process it is the one that rank 0 will see.

    Raises:
        ConfigError: the configuration does not fit the machine or the launcher. Nothing was started.
    """
    kind = device_type(config.trainer.accelerator)
    num_ranks = _num_processes(config, kind)
    world = World(rank=0, world_size=num_ranks, local_rank=0, local_world_size=num_ranks)
    check(config, world, kind)
    return world


def started_world(config: Config) -> World:
    """The world of a run of ``config`` whose ranks somebody has started, once all of them have come.

    Raises:
        ConfigError: the configuration does not fit the machine or the launcher. No process group was formed.
        ClusterError: ranks have not come.
    """
    world = discover()
    check_world(world, nodes=config.trainer.nodes, devices=config.trainer.devices)
    _set_threads(world)
    meet(world)
    # From here on the first rank that finds a mistake tells of it: a single node may lack its GPUs.
    kind = device_type(config.trainer.accelerator)
    if kind == "cuda":
        import torch

        check_gpus(world, torch.cuda.device_count())
    check(config, world, kind)
    return world


def _set_threads(world: World) -> None:
    import torch

    threads = threads_of_a_task(world)
    if threads is not None:
        torch.set_num_threads(threads)


def check(config: Config, world: World, kind: str) -> None:
    """All that must hold between a configuration and the processes of its run, before they start and in each of them.

    Raises:
        ConfigError: numbers that disagree, or what the strategy or the device cannot do.
    """
    from distmlp.strategy.precision import precision_on

    check_elsewhere(config, world, kind)
    precision_on(config.precision.name, kind)
    strategy = config.strategy
    if isinstance(strategy, DeepSpeedStrategy) and "nvme" in (strategy.offload_optimizer, strategy.offload_parameters):
        from distmlp.strategy.deepspeed_io import check_disk_access

        check_disk_access(strategy.name)


def check_elsewhere(config: Config, world: World, kind: str) -> None:
    """The part of `check` that holds for any machine: this one may lack the GPUs that the run will have.

    Raises:
        ConfigError: numbers that disagree, or what the strategy or this kind of device cannot do.
    """
    from distmlp.strategy.precision import check_kind

    check_world(world, nodes=config.trainer.nodes, devices=config.trainer.devices)
    check_strategy(config, world, kind)
    check_kind(config.precision.name, kind)


def _num_processes(config: Config, kind: str) -> int:
    import torch

    return num_processes(
        devices=config.trainer.devices,
        nodes=config.trainer.nodes,
        strategy=config.strategy.name,
        kind=kind,
        num_gpus=torch.cuda.device_count() if kind == "cuda" else 0,
    )
