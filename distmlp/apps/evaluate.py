"""`distmlp evaluate RUN|CHECKPOINT [split=test] [key=value]`: measures a trained network on a split."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from distmlp.apps.opened_run import load_checkpoint, run_folder_of
from distmlp.compose import compose
from distmlp.devices import device_type
from distmlp.errors import ConfigError
from distmlp.log import quiet_lightning
from distmlp.run_folder import VOCABULARY
from distmlp.runtime import World
from distmlp.schema.strategy import SingleStrategy

if TYPE_CHECKING:
    from distmlp.data.dataset import DataSet

USAGE = "usage: distmlp evaluate RUN|CHECKPOINT [split=train|validation|test] [key=value]"
SPLITS = ("train", "validation", "test")


def run(arguments: list[str]) -> int:
    """Evaluates as ``arguments`` say. Returns the exit status."""
    if "--help" in arguments or "-h" in arguments:
        print(USAGE)
        return 0
    split = "test"
    overrides = []
    for word in arguments:
        if word.startswith("split="):
            split = word.removeprefix("split=")
        elif "=" in word:
            overrides.append(word)
    places = [word for word in arguments if "=" not in word]
    if len(places) != 1:
        raise ConfigError(f"give one run folder or checkpoint: {USAGE.removeprefix('usage: ')}")
    if split not in SPLITS:
        raise ConfigError(f"split={split} does not exist: valid are {', '.join(SPLITS)}")
    return _evaluate(Path(places[0]), split, overrides)


def _evaluate(place: Path, split: str, overrides: list[str]) -> int:
    folder = run_folder_of(place)
    config = compose(overrides, folder / "config.yaml").config

    from distmlp import build

    quiet_lightning()
    kind = device_type(config.trainer.accelerator)
    data = build.build_data(config)
    if not len(data.split(split)):
        raise ConfigError(f"split={split} of data={config.data.name} is empty: use split=validation")
    _check_vocabulary(folder, data)
    network = build.build_network(config, data)
    checkpoint, state = load_checkpoint(network, place, folder, config.checkpoint.dir)
    world = World(0, 1, 0, 1)
    module = build.build_module(config, data, network, world)
    strategy = build.build_strategy(config, SingleStrategy(name="single"), world, kind)
    trainer = build.build_trainer(config, strategy, world, logger=False)
    trainer.test(module, build.evaluation_loader(config, data, world, split), verbose=False)
    _show(checkpoint, state, split, {name.removeprefix("test/"): value for name, value in module.results.items()})
    return 0


def _check_vocabulary(folder: Path, data: "DataSet") -> None:
    """Ids of another vocabulary of the same size would be measured without a word, and mean nothing."""
    from distmlp.data.vocabulary import Vocabulary

    path = folder / VOCABULARY
    if data.vocabulary and path.is_file() and Vocabulary.load(path) != data.vocabulary:
        raise ConfigError(f"the data's vocabulary is not the run's ({path}): evaluate on data with the same tokenizer")


def _show(checkpoint: str, state: dict[str, Any], split: str, results: dict[str, float]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("metric", split):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, value in results.items():
        table.add_row(name, f"{value:.4f}")
    console = Console()
    console.print(f"checkpoint: {checkpoint} (step {state['step']})", highlight=False, soft_wrap=True)
    console.print(table)
