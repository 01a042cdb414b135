"""What a checkpoint costs: distmlp's saves beside Lightning's, torch.distributed.checkpoint's, and a plain copy.

    python benchmarks/checkpoint.py [--rounds 9] [--megabytes 1000] [--folder /tmp] [--train] [--json figures.json]

Every program saves the same network and AdamW states in one process, to the same disk. *Stall* is how long training
waits, *total* the time until the checkpoint is whole in its place. A round runs each program once, in an order of its
own; the first round is shown apart, since buffers are made in it. Ratios are taken within a round: machines
differ and are shared. The plain copy writes as many bytes from memory to one file and syncs it; *uncached*
also tells the system to free what is on the disk, as distmlp does, which spares it memory. distmlp and
torch.distributed.checkpoint sync what they write; Lightning as it ships does not, so a second total syncs its file.

With `--train` a small network is trained beside each asynchronous save; *kept* is its rate beside the save divided by
its rate just before.
"""

import argparse
import gc
import json
import logging
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.distributed
from checkpoint_programs import COPY, STATES, Beside, Module, Program, Times, Training, programs
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table


@dataclass
class Options:
    """Of a measurement; `main` says what they mean."""

    rounds: int = 9
    megabytes: float = 1000.0
    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    pause: float = 3.0
    train: bool = False


def save_once(program: Program, options: Options, beside: Beside) -> Times:
    """One save into an empty folder, which is then removed."""
    gc.collect()
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=options.folder) as folder:
        time.sleep(options.pause)
        beside.prepare()
        times = program(Path(folder), beside)
        times.steps_kept = beside.steps_kept()
    return times


def measure(module: Module, options: Options) -> dict[str, list[Times]]:
    """What each program took in each round, the warm-up round first."""
    chosen, beside = programs(module), Training() if options.train else Beside()
    times: dict[str, list[Times]] = {name: [] for name in chosen}
    names = list(chosen)
    for turn in track(range(options.rounds + 1), "rounds", console=Console(stderr=True)):
        for name in random.Random(turn).sample(names, len(names)):
            times[name].append(save_once(chosen[name], options, beside))
    return times


def show(times: dict[str, list[Times]]) -> None:
    """Prints medians over the rounds after the first, in seconds, and what the first one made training wait."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("program", "stall", "total", "synced", "× copy", "quartiles", "1st", "kept"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "program" else "right")
    base = [entry.synced for entry in times[COPY][1:]]
    for name, entries in times.items():
        rounds = entries[1:]
        ratios = [entry.synced / copy for entry, copy in zip(rounds, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        kept = [entry.steps_kept for entry in rounds if entry.steps_kept is not None]
        medians = [statistics.median(getattr(entry, key) for entry in rounds) for key in ("stall", "total", "synced")]
        cells = [*(f"{value:.2f}" for value in medians), f"{middle:.2f}", f"{low:.2f}…{high:.2f}"]
        last = f"{statistics.median(kept):.0%}" if kept else "–"
        table.add_row(name, *cells, f"{entries[0].stall:.2f}", last)
    Console().print(table)


def circumstances(module: Module, load_before: tuple[float, ...]) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bytes": module.num_bytes,
        "tensors": STATES * sum(1 for _ in module.net.parameters()),
        "load": [round(load_before[0], 1), round(os.getloadavg()[0], 1)],
    }


def parse(words: list[str] | None) -> tuple[Options, Path | None]:
    """Options, and the file for JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="after the warm-up round")
    parser.add_argument("--megabytes", type=float, default=1000.0, help="of weights and optimizer states")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds before each save, for the machine to settle")
    parser.add_argument("--train", action="store_true", help="train a small network beside the asynchronous saves")
    parser.add_argument("--json", type=Path, help="write all times to this file")
    values = vars(parser.parse_args(words))
    return Options(**{key: value for key, value in values.items() if key != "json"}), values["json"]


def main(words: list[str] | None = None) -> None:
    """Reads the options, measures, prints the table."""
    options, file = parse(words)
    if shutil.disk_usage(options.folder).free < 3e6 * options.megabytes:
        raise SystemExit(f"{options.folder} has no room for {3 * options.megabytes:.0f} MB; name another --folder")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    load_before = os.getloadavg()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        module = Module(options.megabytes)
        times = measure(module, options)
    finally:
        torch.distributed.destroy_process_group()
    facts = circumstances(module, load_before)
    print("  ".join(f"{key} {value}" for key, value in facts.items()))
    show(times)
    if file is not None:
        rounds = {name: [asdict(entry) for entry in entries] for name, entries in times.items()}
        file.write_text(json.dumps({"circumstances": facts, "seconds": rounds}, indent=1))


if __name__ == "__main__":
    main()
