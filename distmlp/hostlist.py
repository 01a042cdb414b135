"""SLURM's short forms of host names and of task counts, written out; `scontrol` may be missing where ranks run."""

import re


def expand_hosts(text: str) -> list[str]:
    """``node[1-2,07-08],gpu`` as the five names it stands for, SLURM's way of writing them."""
    names: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        heads = [""]
        for plain, ranges in re.findall(r"([^\[]*)(?:\[([^\]]*)\])?", part):
            numbers = [number for one in ranges.split(",") for number in _range(one)] if ranges else [""]
            heads = [head + plain + number for head in heads for number in numbers]
        names += heads
    return names


def _range(text: str) -> list[str]:
    first, _, last = text.partition("-")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)]


def expand_counts(text: str) -> list[int]:
    """``2(x3),1`` as the numbers it stands for: 2, 2, 2, 1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))]
