"""How a run begins and ends around its steps: folder, lock, frozen configuration, state, logs, words to the user."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from distmlp import run_folder
from distmlp.apps.continued import Start, find_start, new_attempt
from distmlp.compose import Composed
from distmlp.devices import device_names
from distmlp.errors import ConfigError
from distmlp.launch.rank_side import keep_off_the_console
from distmlp.launch.rendezvous import meeting
from distmlp.log import log, one_line, start_log
from distmlp.process_group import check_same_configuration, from_rank_zero
from distmlp.run_lock import SECONDS_TO_WAIT, locked
from distmlp.run_state import RunState, Started, State, read_state, write_state
from distmlp.runtime import World, job_id, num_restarts

if TYPE_CHECKING:
    from distmlp.checkpoint.reader import CheckpointReader
    from distmlp.data.dataset import DataSet
    from distmlp.module import TrainingModule

SPLITS = ("train", "validation", "test")


@dataclass
class OpenRun:
    """A run while its processes train it.

    Args:
        composed: its configuration, with its name and id.
        start: where it lies and begins.
        reader: of the checkpoint that it goes on from; None: it begins.
        state: what its status.json says; on rank 0 alone.
    """

    composed: Composed
    start: Start
    reader: "CheckpointReader | None"
    state: RunState | None

    def end(self, state: State, reason: str, exit_status: int) -> None:
        """Records how this start of the run has ended."""
        if self.state is not None:
            on_disk = read_state(self.start.folder) or self.state
            self.state = self.state.changed_to(
                state=state,
                reason=reason,
                exit_status=exit_status,
                changed=time.time(),
                cancelled=on_disk.cancelled,  # somebody else may have said so
            )
            write_state(self.start.folder, self.state)


@contextmanager
def open_run(composed: Composed, data: "DataSet", world: World, kind: str) -> Iterator[OpenRun]:
    """While entered, the run folder is this run's: rank 0 locks it, freezes the configuration, and says how it goes.

    Every rank learns where the folder is, and logs there.
    """
    check_same_configuration(world, composed.values)
    named = composed.named()
    attempt = new_attempt()
    with ExitStack() as stack:

        def find() -> tuple[Composed, Start]:
            run = named.config.run
            folder = run_folder.open_or_create(run.root, str(run.name), str(run.id))
            # A restarted job may be faster than the news that its former node is gone.
            stack.enter_context(locked(folder, seconds=SECONDS_TO_WAIT if num_restarts() else 0.0, warn=log.warning))
            return named, find_start(named.config, attempt)

        frozen, start = from_rank_zero(world, find)
        reader = start.reader()
        state = _begin(frozen, start, reader, data, world, kind) if world.rank == 0 else None
        start_log(start.folder, world.rank)
        if world.rank:
            keep_off_the_console(run_folder.log_file(start.folder, world.rank))
        opened = OpenRun(frozen, start, reader, state)
        try:
            yield opened
        except BaseException as error:
            opened.end(
                "failed", f"{type(error).__name__}: {one_line(error)}", 2 if isinstance(error, ConfigError) else 1
            )
            raise


def _begin(
    named: Composed, start: Start, reader: "CheckpointReader | None", data: "DataSet", world: World, kind: str
) -> RunState:
    """Writes what is known of a run before its first step. Returns its state."""
    from distmlp.tracking.metrics_file import MetricsFile

    folder, step = start.folder, reader.state["step"] if reader else 0
    MetricsFile(folder / "metrics.jsonl").go_back_to(step, folder / "logs" / "discarded-metrics.jsonl")
    run_folder.write_text(folder / "config.yaml", named.as_yaml())
    environment = run_folder.describe_environment(device_names(kind), world.world_size, data.fingerprint)
    run_folder.write_json(folder / "environment.json", environment)
    if data.vocabulary:
        data.vocabulary.save(folder / run_folder.VOCABULARY)
    now, former = time.time(), read_state(folder)
    started = Started(now, step, num_restarts(), job_id(), world.world_size)
    starts = (*(former.starts if former else ()), started)
    host, pid = os.uname().nodename, os.getpid()
    is_cancelled = former is not None and former.cancelled and former.job == job_id() != ""  # while it was starting
    state = RunState("running", "", None, job_id(), host, pid, now, starts, is_cancelled)
    write_state(folder, state)
    return state


def announce(
    console: Console, folder: Path, data: "DataSet", module: "TrainingModule", world: World, kind: str, reason: str
) -> None:
    """Says what is trained on what, and where; the log also has who started the ranks, and where each has come from."""
    met = meeting()
    for line in (world.describe(), *([met.words] if met else [])):
        log.info(line)
    sizes = ", ".join(f"{len(data.split(name))} {name}" for name in SPLITS if len(data.split(name)))
    where = f"{world.world_size} process(es) on {kind}, run folder {folder}"
    lines = [*data.notes, f"{data.name}: {sizes} samples", f"{module.num_parameters:,} parameters, {where}", reason]
    for line in filter(None, lines):
        log.info(line)
        console.print(f"distmlp: {line}", highlight=False, soft_wrap=True)


def announce_resume(console: Console, reader: "CheckpointReader | None") -> None:
    """Says where a resumed run goes on."""
    if reader is not None:
        state = reader.state
        line = (
            f"goes on from {reader.where}: step {state['step']}, {state['samples']:,} samples, epoch {state['epoch']}"
        )
        log.info(line)
        console.print(f"distmlp: {line}", highlight=False, soft_wrap=True)
