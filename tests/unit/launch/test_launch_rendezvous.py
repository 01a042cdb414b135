"""Ranks meet on one machine as they would on several, with real processes; who has not come is named."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from distmlp.launch.directory import Directory, ask, candidate_ports
from distmlp.launch.network import address_towards, interface_of
from distmlp.launch.rendezvous import speaks_for_all

RANK = """
import os, sys
from distmlp.errors import ClusterError, ConfigError
from distmlp.launch import preflight, rendezvous
from distmlp.process_group import form_process_group, leave_process_group
from distmlp.runtime import discover

preflight.SECONDS_TO_FIRST_WORD, preflight.SECONDS_TO_THE_END = 1.0, 3.0
world = discover()
try:
    rendezvous.meet(world)
except (ClusterError, ConfigError) as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(1)
import torch
form_process_group(world, "gloo")
total = torch.tensor(float(world.rank))
torch.distributed.all_reduce(total)
print(int(total), rendezvous.speaks_for_all(), os.environ["LOCAL_WORLD_SIZE"], rendezvous.meeting().words)
torch.distributed.barrier()
leave_process_group()
"""
Start = Callable[..., subprocess.Popen[str]]


def srun(rank: int, num_ranks: int, job: int) -> dict[str, str]:
    """What srun sets for a task on one node."""
    tasks = {"SLURM_STEP_NUM_TASKS": str(num_ranks), "SLURM_STEP_TASKS_PER_NODE": str(num_ranks)}
    task = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0"}
    return tasks | task | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost"}


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a rank with an environment, and kills what is left in the end."""
    started: list[subprocess.Popen[str]] = []

    def start_rank(environment: dict[str, str]) -> subprocess.Popen[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "MASTER_"))}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", RANK], env=clean | environment, text=True, **pipes)
        started.append(process)
        return process

    yield start_rank
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_two_jobs_meet_on_one_machine_beside_a_stranger_on_their_port(start: Start) -> None:
    jobs = (os.getpid() * 10, os.getpid() * 10 + 1)
    with closing(socket.create_server(("", candidate_ports(f"srun-{jobs[0]}-0-0")[0]))):  # accepts, and says nothing
        ranks = {job: [start(srun(rank, 3, job)) for rank in range(3)] for job in jobs}
        for processes in ranks.values():
            outcomes = [outcome(process) for process in processes]
            assert [status for status, _, _ in outcomes] == [0, 0, 0], outcomes
            words = [out.split(maxsplit=3) for _, out, _ in outcomes]
            assert {line[0] for line in words} == {"3"}
            assert sorted(line[1] for line in words) == ["False", "False", "True"]  # one of them tells of a mistake
            assert {line[2] for line in words} == {"3"}
            assert words[0][3].startswith(f"{socket.gethostname()} (lo 127.0.0.1): ranks 0-2")


def test_a_rank_that_does_not_come_is_named_with_its_host_by_all_that_have(start: Start) -> None:
    processes = [start(srun(rank, 4, os.getpid())) for rank in (0, 2)]
    outcomes = [outcome(process) for process in processes]
    where = f"{socket.gethostname()} (lo 127.0.0.1): ranks 0, 2"
    for status, out, _ in outcomes:
        assert status == 1
        assert out.strip() == f"ClusterError: after 3 s ranks 1, 3 of 4 have not come on localhost. Here are {where}"
    assert "distmlp: after 1 s ranks 1, 3 of 4 have not come on localhost." in outcomes[0][2]
    assert "have not come" not in outcomes[1][2]


def test_without_rank_0_the_others_say_what_they_tried(start: Start) -> None:
    status, out, err = outcome(start(srun(1, 2, os.getpid()) | {"SLURM_LOCALID": "1"}))
    assert status == 1
    line = f"rank 1 on {socket.gethostname()} (lo 127.0.0.1) has not reached rank 0 on localhost: "
    assert out.startswith(f"ClusterError: after 3 s {line}")
    assert "refused" in out
    assert line not in err  # one process of a node says it while it waits


def test_a_port_that_was_asked_for_and_is_in_use_is_a_mistake(start: Start) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        there = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(taken.getsockname()[1])}
        status, out, _ = outcome(start(srun(0, 2, os.getpid()) | there))
    assert (status, out.partition(" on ")[0]) == (
        1,
        f"ConfigError: MASTER_PORT={there['MASTER_PORT']} cannot be opened",
    )


def test_ranks_meet_at_a_port_that_was_asked_for(start: Start) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        there = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    processes = [start(srun(rank, 2, os.getpid()) | there) for rank in range(2)]
    assert [outcome(process)[0] for process in processes] == [0, 0]


def test_a_directory_answers_those_who_know_its_key() -> None:
    with Directory("job 1", 4711), Directory("job 2", 4712):
        assert (ask("localhost", "job 1"), ask("localhost", "job 2")) == (4711, 4712)
        with pytest.raises(ConnectionRefusedError):
            ask("localhost", "job 3")
    with pytest.raises(ConnectionRefusedError):
        ask("localhost", "job 1")


def test_candidate_ports_are_below_those_that_linux_gives_out() -> None:
    for key in map(str, range(1000)):
        ports = candidate_ports(key)
        assert len(set(ports)) == 16
        assert min(ports) >= 10_000
        assert max(ports) < 30_000


def test_the_way_to_this_machine_is_its_loopback() -> None:
    assert address_towards("localhost") == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") == ""
    assert address_towards("no-such-host.invalid") == ""


def test_the_first_rank_that_asks_tells_of_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import TCPStore

    for key in ("RANK", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(key, raising=False)
    assert speaks_for_all()
    monkeypatch.setenv("RANK", "1")
    assert not speaks_for_all()
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    agent = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    for key, value in (agent | {"TORCHELASTIC_RUN_ID": "x"}).items():
        monkeypatch.setenv(key, value)
    assert [speaks_for_all() for _ in range(3)] == [True, False, False]
