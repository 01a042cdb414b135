"""Where the ranks of a run meet before anything else: in one store, whose port never collides with another run's.

torchrun's agent keeps a store. For other launchers rank 0 opens one: at MASTER_PORT where that is given, else on a free
port that the others learn through a `Directory`.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from distmlp.errors import ClusterError, ConfigError
from distmlp.launch.directory import Directory, ask
from distmlp.launch.preflight import Patience, arrival, describe, use_route, wait_for_all
from distmlp.log import one_line
from distmlp.runtime import KEYS, MeetingPoint, World, meeting_point, own_rank

CONNECT = timedelta(seconds=10)
LATER = timedelta(minutes=30)  # torch's own time-out, for what a process group keeps in the store
TOLD = "mistakes_told"
SECONDS_TO_SPEAK = 10.0


@dataclass(frozen=True)
class Meeting:
    """What the ranks of a run have in common: ``store``, torch's; ``words`` about who has come."""

    store: Any
    words: str


_met: list[Meeting] = []


def meeting() -> Meeting | None:
    """The meeting of this process's ranks, once they have met."""
    return _met[-1] if _met else None


def meet(world: World) -> None:
    """Returns once all ranks of ``world`` have come. From then on libraries find torchrun's variables, if they look.

    Raises:
        ClusterError: ranks have not come.
        ConfigError: nothing says where they meet, or its port is in use.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    if world.world_size == 1:
        return
    point = meeting_point(world)
    with _opened(world, point) as (port, opened):
        store = PrefixStore(f"distmlp/{point.key}", opened)
        arrivals = wait_for_all(world, point, store)
    store.set_timeout(LATER)
    use_route(world, arrivals)
    values = (world.rank, world.world_size, world.local_rank, world.local_world_size)
    os.environ |= {key: str(value) for key, value in zip(KEYS, values, strict=True)}
    os.environ |= {"MASTER_ADDR": point.host, "MASTER_PORT": str(port)}
    _met.append(Meeting(store, describe(arrivals)))


def speaks_for_all() -> bool:
    """Whether this process tells the user of a mistake that others may find too: the first rank that asks does.

    Ranks that have not met yet leave it to rank 0.
    """
    met = meeting()
    with suppress(RuntimeError):  # the store is gone, with the rank that had it
        store = met.store if met else _agent_store()
        if store is not None:
            return bool(store.add(TOLD, 1) == 1)
    return own_rank() == 0


def let_another_speak(status: int) -> None:
    """Waits a while, or until a launcher ends this process: when a first rank has ended, it ends all others.

    The rank that speaks may be slower than this one. ``status``: that this process ends with.
    """
    former = signal.signal(signal.SIGTERM, lambda *_: os._exit(status))
    time.sleep(SECONDS_TO_SPEAK)
    signal.signal(signal.SIGTERM, former)


def _agent_store() -> Any:
    """The store of torchrun's agent, if there is one."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    with suppress(ConfigError):
        point = meeting_point(World(0, 1, 0, 1, "torchrun"))
        store = TCPStore(point.host, point.port, is_master=False, timeout=CONNECT, wait_for_workers=False)
        return PrefixStore(f"distmlp/{point.key}", store)
    return None


@contextmanager
def _opened(world: World, point: MeetingPoint) -> Iterator[tuple[int, Any]]:
    """The port of the store and the store. While entered, rank 0 tells the others of it, where nobody else does."""
    if world.rank or point.is_open:
        yield _connect(world, point)
        return
    store = _serve(point)
    if point.port:
        yield store.port, store
        return
    try:
        directory = Directory(point.key, store.port)
    except OSError as error:
        raise ClusterError(str(error)) from None
    with directory:
        yield store.port, store


def _serve(point: MeetingPoint) -> Any:
    from torch.distributed import DistNetworkError, TCPStore  # type: ignore[attr-defined]

    try:
        return TCPStore("127.0.0.1", point.port, is_master=True, wait_for_workers=False)
    except DistNetworkError:
        raise ConfigError(
            f"MASTER_PORT={point.port} cannot be opened on {point.host}: give a port that is free"
        ) from None


def _connect(world: World, point: MeetingPoint) -> tuple[int, Any]:
    from torch.distributed import DistNetworkError, TCPStore  # type: ignore[attr-defined]

    fault: list[Exception] = []

    def missing() -> str:
        own = arrival(world, point)
        way = f"{own.interface} {own.address}" if own.address else f"no route to {point.host}"
        fault_line = one_line(fault[-1])
        return f"rank {world.rank} on {own.host} ({way}) has not reached rank 0 on {point.host}: {fault_line}"

    patience = Patience(missing, speaks=world.local_rank == 0)
    while True:
        try:
            port = point.port or ask(point.host, point.key)
            return port, TCPStore(point.host, port, is_master=False, timeout=CONNECT, wait_for_workers=False)
        except (OSError, DistNetworkError) as error:
            fault.append(error)
            patience.look()
