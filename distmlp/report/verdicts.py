"""What a check or a comparison of checkpoints found, as tables."""

import json
from typing import Any

from rich.console import Console
from rich.markup import escape

from distmlp.checkpoint.difference import MISSING, Difference, widest_first
from distmlp.checkpoint.manifest import MANIFEST
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.storage import Storage
from distmlp.errors import ConfigError
from distmlp.report.byte_progress import byte_progress
from distmlp.report.checkpoints import plain_table
from distmlp.report.network import format_bytes

SOUND = "sound"
MAX_ROWS, MAX_RANK_ROWS, MAX_VALUE = 20, 5, 40


def verify_and_show(console: Console, storage: Storage, name: str) -> bool:
    """Checks every file of a checkpoint and prints the verdicts; whether all are sound."""
    console.print(f"checkpoint: {storage.where(name)}", soft_wrap=True, markup=False)
    try:
        with CheckpointReader(storage, name) as reader:
            with byte_progress(name, sum(size for size, _ in reader.manifest.files.values())) as bar:
                damages = reader.damages(bar.advance)
            _show_verdicts(console, reader, damages)
    except (ConfigError, OSError) as error:
        console.print(f"[red]damaged[/]: {escape(str(error))}", soft_wrap=True)
        return False
    return not damages


def _show_verdicts(console: Console, reader: CheckpointReader, damages: list[str]) -> None:
    """A row for each file, and for those that do not belong to the checkpoint."""
    table = plain_table(["file", "size", "verdict"], left={"file", "verdict"})
    table.add_row(MANIFEST, format_bytes(reader.storage.size(f"{reader.name}/{MANIFEST}") or 0), SOUND)
    for name, (size, _) in reader.manifest.files.items():
        where = f"{reader.storage.where(f'{reader.name}/{name}')} "
        found = [line.removeprefix(where) for line in damages if line.startswith(where)]
        table.add_row(escape(name), format_bytes(size), f"[red]{escape(found[0])}[/]" if found else SOUND)
    for name in reader.strangers():
        found_size = reader.storage.size(f"{reader.name}/{name}")
        shown = "–" if found_size is None else format_bytes(found_size)
        table.add_row(escape(name), shown, "not of this checkpoint, never read")
    console.print(table)


def show_difference(console: Console, found: Difference) -> None:
    """All that differs: state, tensors that one lacks, shapes, values."""
    _show_state(console, found.state)
    for what, keys in (("only in the first", found.only_in_first), ("only in the second", found.only_in_second)):
        for key in _shortened(keys):
            console.print(f"{what}: {key}", soft_wrap=True, highlight=False, markup=False)
    forms = plain_table(["tensor", "first", "second"], left={"tensor", "first", "second"})
    for key, pair in found.forms.items():
        forms.add_row(escape(key), *(f"{one.dtype} {' × '.join(map(str, one.shape)) or 'scalar'}" for one in pair))
    values = plain_table(["tensor", "max |difference|", "differing", "of"], left={"tensor"})
    order = widest_first(found.values)
    for one in order[:MAX_ROWS]:
        values.add_row(escape(one.key), f"{one.largest:.3g}", f"{one.num_differing:,}", f"{one.num_elements:,}")
    for table in (forms, values):
        if table.row_count:
            console.print(table)
    if len(order) > MAX_ROWS:
        console.print(f"… and {len(order) - MAX_ROWS:,} more tensors that differ by less", highlight=False)
    console.print(f"{found.num_equal:,} tensors are equal, {len(found.values):,} differ", highlight=False)


def _show_state(console: Console, state: dict[str, tuple[Any, Any]]) -> None:
    table = plain_table(["state", "first", "second"], left={"state", "first", "second"})
    of_ranks = [key for key in state if key.startswith("ranks.")]  # as many as there are ranks and parameters
    left_out = of_ranks[MAX_RANK_ROWS:]
    for key, (first, second) in state.items():
        if key not in left_out:
            table.add_row(escape(key), escape(_shown(first)), escape(_shown(second)))
    if state:
        console.print(table)
    if left_out:
        console.print(f"… and {len(left_out):,} more of what each rank keeps")


def _shown(value: Any) -> str:
    if value is MISSING:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"


def _shortened(keys: list[str]) -> list[str]:
    rest = len(keys) - MAX_ROWS
    return keys if rest <= 0 else [*keys[:MAX_ROWS], f"… and {rest:,} more"]
