"""The table says what each layer costs, adds up, and fits a terminal."""

import io

import pytest
import torch
from rich.console import Console

from distmlp.model.cost import LayerCost, measure
from distmlp.model.gpt import GPT
from distmlp.model.mlp import MLP
from distmlp.report.network import format_bytes, format_count, format_flops, show_network


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_count(0), "0"),
        (format_count(999), "999"),
        (format_count(1000), "1.0 k"),
        (format_count(12_345_678), "12.3 M"),
        (format_count(999_960), "1.0 M"),
        (format_count(174_604_259_328), "174.6 B"),
        (format_flops(512), "512 FLOP"),
        (format_flops(4_500_000_000), "4.5 GFLOP"),
        (format_flops(2 * 10**15), "2.0 PFLOP"),
        (format_bytes(1023), "1023 B"),
        (format_bytes(1024), "1.0 KiB"),
        (format_bytes(int(1.2 * 2**30)), "1.2 GiB"),
        (format_bytes(5 * 2**60), "5120.0 PiB"),
    ],
)
def test_numbers_are_written_with_their_units(text: str, expected: str) -> None:
    assert text == expected


def shown(rows: list[LayerCost], width: int = 80) -> list[str]:
    text = io.StringIO()
    show_network(Console(file=text, width=width), rows, title="a network")
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_the_largest_gpt_fits_eighty_columns_and_adds_up() -> None:
    with torch.device("meta"):
        network = GPT(
            input_shape=(64,),
            num_outputs=50257,
            num_layers=12,
            num_heads=96,
            width=12288,
            positions="learned",
            bias=True,
        )
        rows = measure(network, torch.zeros(1, 64, dtype=torch.int64))
    lines = shown(rows)
    assert max(len(line) for line in lines) <= 100
    table = lines[: lines.index(next(line for line in lines if line.startswith("parameters:")))]
    assert max(len(line) for line in table) <= 80
    assert not any("…" in line and "×12" not in line for line in table)
    [blocks] = [line for line in table if "blocks.0 … 11 (×12)" in line]
    assert "21.7 B" in blocks
    [attention] = [line for line in table if line.startswith("  attention ")]
    assert "604.0 M" in attention
    number = sum(parameter.numel() for parameter in network.parameters())
    assert f"parameters: {number:,} ({number:,} trainable)" in lines
    assert next(line for line in table if line.startswith("total")).split()[1:3] == format_count(number).split()


def test_below_the_table_stand_training_and_memory() -> None:
    with torch.device("meta"):
        network = MLP(input_shape=(1000,), num_outputs=1000, hidden=[1000])
    network.output.requires_grad_(False)
    lines = shown(measure(network, torch.empty(1, 1000, device="meta")))
    assert "parameters: 2,002,000 (1,001,000 trainable)" in lines
    # 2 · 2 · 1000²; times 3, and times 4
    assert "a sample:   4.0 MFLOP forward, 12.0 MFLOP in training (16.0 MFLOP with recomputation)" in lines
    assert "memory:     7.6 MiB weights, 3.8 MiB gradients, 7.6 MiB AdamW state in fp32: 19.1 MiB" in lines
    assert "(×)" not in lines[-1]


def test_a_layer_without_a_cost_or_shape_leaves_the_place_empty() -> None:
    lines = shown([LayerCost("pool", "Pool", None, 0, 0, 0, 0), LayerCost("output", "Linear", (3, 4), 12, 12, 24, 96)])
    assert "pool    Pool" in lines
    [output] = [line for line in lines if line.startswith("output")]
    assert output.split() == ["output", "Linear", "3×4", "12", "24", "96", "B"]
