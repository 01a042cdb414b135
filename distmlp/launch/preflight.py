"""Says which ranks have not come, and where they should be, instead of letting the others wait in silence.

Each rank leaves its host, address and interface in the store that they share. Rank 0 counts, and tells all to go on.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import groupby
from typing import Any

from distmlp.errors import ClusterError
from distmlp.launch.network import address_towards, interface_of
from distmlp.runtime import MeetingPoint, World

SECONDS_TO_FIRST_WORD = 30.0
SECONDS_TO_THE_END = 300.0  # slow file systems take their time to load torch
SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_TO_READ = 10.0
SLACK = timedelta(seconds=SECONDS_TO_THE_END + 60)
LOOPBACK = "127."


@dataclass(frozen=True)
class Arrival:
    """A rank that has come: its host, and what its network to rank 0 goes through."""

    rank: int
    host: str
    address: str
    interface: str


def arrival(world: World, point: MeetingPoint) -> Arrival:
    """This rank's."""
    address = address_towards(point.host)
    return Arrival(world.rank, socket.gethostname(), address, interface_of(address))


class Patience:
    """Says once what is missing, after a while, and ends the wait with a `ClusterError` much later."""

    def __init__(self, missing: Callable[[], str], *, speaks: bool) -> None:
        self.missing = missing
        self.started = time.monotonic()
        self.is_silent = not speaks

    def look(self) -> None:
        """Waits a moment."""
        waited = time.monotonic() - self.started
        if waited > SECONDS_TO_THE_END:
            raise ClusterError(f"after {waited:.0f} s {self.missing()}")
        if waited > SECONDS_TO_FIRST_WORD and not self.is_silent:
            self.is_silent = True
            left = SECONDS_TO_THE_END - waited
            line = f"distmlp: after {waited:.0f} s {self.missing()}; waits {left:.0f} s more"
            print(line, file=sys.stderr, flush=True)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def wait_for_all(world: World, point: MeetingPoint, store: Any) -> list[Arrival]:
    """Returns once every rank has come, on every rank.

    Args:
        world: this rank's.
        point: where they meet.
        store: torch's, the same for all.

    Returns:
        all ranks on rank 0, this one elsewhere.

    Raises:
        ClusterError: ranks have not come, or rank 0 is gone; on every rank that has.
    """
    own = arrival(world, point)
    store.set(f"here/{world.rank}", json.dumps(asdict(own)))
    came = store.add("came", 1)
    if world.rank:
        _wait_for_verdict(store, own)
        return [own]
    patience = Patience(lambda: _describe_missing(world, point, store), speaks=True)
    try:
        while came < world.world_size:
            patience.look()
            came = store.add("came", 0)
    except ClusterError as error:
        store.set("verdict", str(error))
        _let_them_read(store, came - 1)
        raise
    arrivals = _arrivals(store, range(world.world_size))
    store.set("verdict", "")
    return arrivals


def use_route(world: World, arrivals: list[Arrival]) -> None:
    """Has gloo use the interface that leads to the other nodes; left alone it takes what the host's own name means."""
    if world.num_nodes == 1 or not arrivals:
        return
    own, others = arrivals[0], [one for one in arrivals if one.host != arrivals[0].host]
    interface = own.interface
    if own.address.startswith(LOOPBACK) and others:  # its own name is what it was to find its way to
        interface = interface_of(address_towards(others[0].address))
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def describe(arrivals: Iterable[Arrival]) -> str:
    """``node1 (eth0 10.0.0.1): ranks 0, 1; node2 …``."""
    by_host = groupby(arrivals, key=lambda one: (one.host, one.interface, one.address))
    return "; ".join(
        f"{host} ({f'{interface} {address}'.strip() or 'no network'}): {_ranks([one.rank for one in ranks])}"
        for (host, interface, address), ranks in by_host
    )


def _wait_for_verdict(store: Any, own: Arrival) -> None:
    try:
        store.wait(["verdict"], SLACK)
        verdict: str = store.get("verdict").decode()
    except RuntimeError:
        raise ClusterError(f"rank {own.rank} on {own.host} has lost rank 0 before training began") from None
    store.add("read", 1)
    if verdict:
        raise ClusterError(verdict)


def _let_them_read(store: Any, num_others: int) -> None:
    """Waits until others have read the verdict: the store ends with this process."""
    end = time.monotonic() + SECONDS_TO_READ
    while store.add("read", 0) < num_others and time.monotonic() < end:
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _arrivals(store: Any, ranks: Iterable[int]) -> list[Arrival]:
    return [Arrival(**json.loads(store.get(f"here/{rank}"))) for rank in ranks]


def _describe_missing(world: World, point: MeetingPoint, store: Any) -> str:
    here = [rank for rank in range(world.world_size) if store.check([f"here/{rank}"])]
    missing = sorted(set(range(world.world_size)) - set(here))
    where = _where(world, point, missing)
    verb = "have" if len(missing) > 1 else "has"
    return (
        f"{_ranks(missing)} of {world.world_size} {verb} not come{where}. Here are {describe(_arrivals(store, here))}"
    )


def _where(world: World, point: MeetingPoint, ranks: list[int]) -> str:
    """The hosts of ``ranks``, as far as the launcher says."""
    nodes = sorted({rank // world.local_world_size for rank in ranks})
    return f" on {', '.join(point.hosts[node] for node in nodes)}" if point.hosts else ""


def _ranks(ranks: list[int]) -> str:
    """``rank 3`` or ``ranks 0-3, 6``."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(ranks), key=lambda pair: pair[1] - pair[0])]
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(words)}"
