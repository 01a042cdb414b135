"""Starts the ranks with torch's elastic agent and watches them until all have ended."""

import logging
import os
import sys
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from distmlp import run_folder
from distmlp.compose import Composed
from distmlp.launch.handover import FOLDER_KEY, Handover
from distmlp.launch.plan import threads_for_each
from distmlp.launch.rank_side import PARENT_KEY, early_output
from distmlp.launch.signals import Relay
from distmlp.launch.verdict import Failure, describe, first_failure, read_failure

SECONDS_BETWEEN_LOOKS = 0.1
COMMAND = ("-m", "distmlp", "train")


class Agent(LocalElasticAgent):
    """Torch's agent, which passes signals on by itself and gives ranks 30 s to save: here a `Relay` passes them on."""

    def __init__(self, spec: WorkerSpec, logs: DefaultLogsSpecs) -> None:
        super().__init__(spec, logs)
        self.relay = Relay(self.processes)
        self.looked_at = 0.0

    def processes(self) -> Iterable[int]:
        """Process ids of the ranks, once they are started."""
        return [worker.id for worker in self.get_worker_group().workers if worker.id]

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self.relay.pass_on()
        self.looked_at = time.time()
        result: RunResult = super()._monitor_workers(worker_group)
        return result


def launch(composed: Composed, num_ranks: int) -> int:
    """Runs ``composed`` on ``num_ranks`` processes of this machine. Returns the exit status of the run.

    Args:
        composed: the configuration, with the name and the id of the run.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_for_each(num_ranks)))
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""
    _silence(logging.getLogger("torch.distributed.elastic"))  # what it has to say, the verdict says
    with TemporaryDirectory(prefix="distmlp-") as name:
        handover = Handover(Path(name))
        handover.give(composed)
        os.environ |= {FOLDER_KEY: name, PARENT_KEY: str(os.getpid())}
        agent = _make_agent(num_ranks, handover.folder / "ranks")
        try:
            with agent.relay:
                result = agent.run()
        finally:
            agent.get_worker_group().spec.rdzv_handler.shutdown()
        if not result.is_failed():
            return handover.status()
        return _tell(composed, agent, result, handover.folder / "ranks")


def _silence(logger: logging.Logger) -> None:
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def _make_agent(num_ranks: int, log_folder: Path) -> Agent:
    run_id = uuid.uuid4().hex
    # Port 0: the system gives a free one, and the agent holds it, so that nobody else can take it before the ranks do.
    where = RendezvousParameters("c10d", "localhost:0", run_id, min_nodes=1, max_nodes=1, local_addr="localhost")
    spec = WorkerSpec(
        role="rank",
        local_world_size=num_ranks,
        rdzv_handler=get_rendezvous_handler(where),
        entrypoint=sys.executable,
        args=COMMAND,
        max_restarts=0,
        monitor_interval=SECONDS_BETWEEN_LOOKS,
        local_addr="localhost",
    )
    return Agent(spec, DefaultLogsSpecs(str(log_folder), redirects=dict.fromkeys(range(1, num_ranks), Std.ALL)))


def _tell(composed: Composed, agent: Agent, result: RunResult, log_folder: Path) -> int:
    """Says which rank failed first and why. Returns the exit status."""
    Console(stderr=True).show_cursor()  # a progress bar that was killed has left it hidden
    folders = {int(folder.name): folder for folder in log_folder.glob("*/attempt_0/*") if folder.is_dir()}
    failure = first_failure(_read_all(result.failures, agent.looked_at, folders))
    if agent.relay.received and (failure.follows_another or not failure.is_told):
        return 128 + agent.relay.received[0]  # as a shell has it; they were not training yet, or were told twice
    run = composed.config.run
    folder = run_folder.place(run.root, str(run.name), str(run.id))
    log = run_folder.log_file(folder, failure.rank)
    print(describe(failure, early_output(folders[failure.rank]), log), file=sys.stderr)
    return 2 if failure.mistake else 1


def _read_all(failures: dict[int, Any], looked_at: float, folders: dict[int, Path]) -> Iterable[Failure]:
    for rank, failure in failures.items():
        # A killed rank leaves no time. It lived one look earlier, and may have died before those that lost it noticed.
        seen_at = max(looked_at, failure.timestamp) - SECONDS_BETWEEN_LOOKS
        yield read_failure(rank, failure.exitcode, seen_at, folders[rank] / "error.json")
