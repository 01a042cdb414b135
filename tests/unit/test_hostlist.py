"""SLURM's short forms of host names and task counts are written out."""

import pytest

from distmlp.hostlist import expand_counts, expand_hosts

LISTS = {
    "node1": "node1",
    "node[1-3]": "node1 node2 node3",
    "node[08-11,2],gpu-03": "node08 node09 node10 node11 node2 gpu-03",
    "r[1-2]n[1,3]": "r1n1 r1n3 r2n1 r2n3",
    "a,b[1-2]-x,c": "a b1-x b2-x c",
}


@pytest.mark.parametrize(("short", "names"), LISTS.items())
def test_hosts(short: str, names: str) -> None:
    assert expand_hosts(short) == names.split()


def test_no_hosts() -> None:
    assert expand_hosts("") == []


@pytest.mark.parametrize(
    ("short", "counts"), [("2(x3),1", [2, 2, 2, 1]), ("4", [4]), ("1(x2)", [1, 1]), ("", []), ("12,3(x2)", [12, 3, 3])]
)
def test_counts(short: str, counts: list[int]) -> None:
    assert expand_counts(short) == counts
