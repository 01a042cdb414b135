"""How a run begins, before its first step: run folder, frozen configuration, logs, and words to the user."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from distmlp import run_folder
from distmlp.apps.continued import Start, find_start, new_attempt
from distmlp.compose import Composed
from distmlp.devices import device_names
from distmlp.launch.rank_side import keep_off_the_console
from distmlp.log import log, start_log
from distmlp.process_group import check_same_configuration, from_rank_zero
from distmlp.runtime import World

if TYPE_CHECKING:
    from distmlp.checkpoint.reader import CheckpointReader
    from distmlp.data.dataset import DataSet
    from distmlp.module import TrainingModule

SPLITS = ("train", "validation", "test")


def open_run(composed: Composed, data: "DataSet", world: World, kind: str) -> tuple[Composed, Start]:
    """Rank 0 opens the run folder and freezes the configuration; every rank learns where it is, and logs there."""
    from distmlp.tracking.metrics_file import MetricsFile

    check_same_configuration(world, composed.values)
    named = composed.named()
    attempt = new_attempt()
    named, start = from_rank_zero(world, lambda: (named, find_start(named.config, attempt)))
    folder = start.folder
    if world.rank == 0:
        reader = start.reader()
        MetricsFile(folder / "metrics.jsonl").go_back_to(
            reader.state["step"] if reader else 0, folder / "logs" / "discarded-metrics.jsonl"
        )
        run_folder.write_text(folder / "config.yaml", named.as_yaml())
        environment = run_folder.describe_environment(device_names(kind), world.world_size, data.fingerprint)
        run_folder.write_json(folder / "environment.json", environment)
        if data.vocabulary:
            data.vocabulary.save(folder / run_folder.VOCABULARY)
    start_log(folder, world.rank)
    if world.rank:
        keep_off_the_console(run_folder.log_file(folder, world.rank))
    return named, start


def announce(
    console: Console, folder: Path, data: "DataSet", module: "TrainingModule", world: World, kind: str, reason: str
) -> None:
    """Says what is trained on what, and where."""
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
