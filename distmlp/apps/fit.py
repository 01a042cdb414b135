"""An open run from its first step to its summary: fit, test, and say where it all is."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from distmlp import run_folder
from distmlp.apps.opening import OpenRun, announce, announce_resume
from distmlp.process_group import wait_for_rank_zero
from distmlp.runtime import World
from distmlp.summary import show_summary, summarize

if TYPE_CHECKING:
    from lightning.pytorch.strategies import Strategy

    from distmlp.data.dataset import DataSet
    from distmlp.module import TrainingModule

STOPPED_BY_SIGNAL = 3


@dataclass(frozen=True)
class Parts:
    """What a run is made of, before its folder is known."""

    data: "DataSet"
    strategy: "Strategy"
    module: "TrainingModule"
    strategy_name: str
    reason: str


def fit(opened: OpenRun, parts: Parts, world: World, kind: str) -> int:
    """Trains the run that is ``opened``, on a device of a ``kind``. Returns the exit status."""
    from distmlp import build

    config, data, module, reader = opened.composed.config, parts.data, parts.module, opened.reader
    folder = opened.start.folder
    console = Console(stderr=True)
    if world.rank == 0:
        announce(console, folder, data, module, world, kind, parts.reason)
        announce_resume(console, reader)
    made = build.build_run(
        config,
        data,
        parts.strategy,
        world,
        strategy_name=parts.strategy_name,
        run_folder=folder,
        attempt=opened.start.attempt,
        reader=reader,
        values=opened.composed.values,
        console=console,
    )
    first = build.first_epoch_and_sample(reader.state) if reader else (0, 0)
    started = time.time()
    made.trainer.fit(
        module,
        build.train_loader(config, data, world, first),
        build.evaluation_loader(config, data, world, "validation"),
    )
    seconds = time.time() - started
    stopped = made.stopping.stopped_by_signal
    if not stopped and len(data.test):
        made.trainer.test(module, build.evaluation_loader(config, data, world, "test"), verbose=False)
    parts.strategy.close()  # type: ignore[attr-defined]
    if world.rank == 0:
        position = module.position
        summary = summarize(
            ended_because=made.stopping.reason,
            step=position.step,
            epoch=position.epoch,
            samples=position.samples,
            seconds=seconds + (reader.state["seconds"] if reader else 0.0),
            num_parameters=module.num_parameters,
            final={name: value for name, value in made.latest.items() if "/" in name},
            best=made.best,
        )
        run_folder.write_json(folder / "summary.json", summary)
        show_summary(Console(), folder, summary)
    status = STOPPED_BY_SIGNAL if stopped else 0
    opened.end("stopped" if stopped else "finished", made.stopping.reason, status)
    if stopped:
        wait_for_rank_zero(world)
    made.stopping.let_go()
    # One rank says it for all: a launcher stops the others at the first status that is not 0.
    return status if world.rank == 0 else 0
