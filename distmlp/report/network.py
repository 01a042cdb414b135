"""The table of a network's layers and what they cost, and below it what that means for memory and work in training."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from distmlp.model.cost import LayerCost

BYTES_PER_VALUE = 4  # fp32
ADAMW_MOMENTS = 2
# A backward pass costs two forward passes: gradients of the inputs, and of the weights.
TRAINING_PASSES, TRAINING_PASSES_WITH_RECOMPUTATION = 3, 4


def format_count(number: int) -> str:
    """``842``, ``12.3 k``, ``12.3 M``, ``174.6 B`` (thousand million) …"""
    return _scaled(number, 1000, ("", " k", " M", " B", " T"))


def format_flops(flops: int) -> str:
    """``842 FLOP``, ``4.5 GFLOP`` … with the prefixes of the SI."""
    return _scaled(flops, 1000, tuple(f" {prefix}FLOP" for prefix in ("", "k", "M", "G", "T", "P", "E", "Z")))


def format_bytes(num_bytes: int) -> str:
    """``842 B``, ``1.2 GiB`` … in powers of 1024."""
    return _scaled(num_bytes, 1024, (" B", " KiB", " MiB", " GiB", " TiB", " PiB"))


def _scaled(number: int, base: int, units: Sequence[str]) -> str:
    scaled, power = float(number), 0
    # Half a tenth below the base it would be written as the base itself.
    while scaled >= base - 0.05 and power < len(units) - 1:
        scaled, power = scaled / base, power + 1
    return f"{scaled:.1f}{units[power]}" if power else f"{number}{units[0]}"


def show_network(console: Console, rows: Sequence[LayerCost], *, title: str) -> None:
    """Prints the rows of `distmlp.model.cost.measure` and their totals."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("kind", overflow="ellipsis")
    for heading in ("output", "parameters", "FLOP", "activations"):
        table.add_column(heading, justify="right", no_wrap=True)
    layer = ""
    for row in rows:
        layer = row.name if row.depth == 0 else layer
        costs = _costs(row.repeats * row.num_parameters, row.repeats * row.flops, row.repeats * row.activation_bytes)
        table.add_row(_label(row, layer), row.kind, _shape(row.output_shape), *costs)
    layers = [row for row in rows if row.depth == 0]
    parameters = sum(row.repeats * row.num_parameters for row in layers)
    flops = sum(row.repeats * row.flops for row in layers)
    activation_bytes = sum(row.repeats * row.activation_bytes for row in layers)
    table.add_section()
    table.add_row("total", "", "", *_costs(parameters, flops, activation_bytes))
    console.print(table)
    for line in _notes(layers, parameters, flops):
        console.print(line, highlight=False, soft_wrap=True)


def _label(row: LayerCost, layer: str) -> str:
    if row.depth:
        return f"  {row.name.removeprefix(layer).removeprefix('.')}"
    if row.repeats == 1:
        return row.name
    first = int(row.name.rpartition(".")[2])
    return f"{row.name} … {first + row.repeats - 1} (×{row.repeats})"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else "×".join(str(size) for size in shape) or "1"


def _costs(parameters: int, flops: int, activation_bytes: int) -> list[str]:
    """As the columns show them: nothing for 0, and FLOP stands in the heading."""
    cells = [(format_count, parameters), (format_flops, flops), (format_bytes, activation_bytes)]
    return [show(cost).removesuffix("FLOP").strip() if cost else "" for show, cost in cells]


def _notes(layers: Sequence[LayerCost], parameters: int, flops: int) -> list[str]:
    trainable = sum(row.repeats * row.num_trainable for row in layers)
    weights, gradients = parameters * BYTES_PER_VALUE, trainable * BYTES_PER_VALUE
    state = ADAMW_MOMENTS * gradients
    memory = f"{format_bytes(weights)} weights, {format_bytes(gradients)} gradients, {format_bytes(state)} AdamW state"
    training = format_flops(TRAINING_PASSES * flops)
    recomputing = format_flops(TRAINING_PASSES_WITH_RECOMPUTATION * flops)
    lines = [
        f"parameters: {parameters:,} ({trainable:,} trainable)",
        f"a sample:   {format_flops(flops)} forward, {training} in training ({recomputing} with recomputation)",
        f"memory:     {memory} in fp32: {format_bytes(weights + gradients + state)}",
    ]
    if any(row.repeats > 1 for row in layers):
        lines.append("Lines with (×) are sums; indented below are the parts of one of them.")
    return lines
