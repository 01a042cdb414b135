"""How many processes a command becomes, and what the machine cannot give."""

import os

import pytest

from distmlp.errors import ConfigError
from distmlp.launch.plan import num_processes, threads_for_each


def plan(**options: object) -> int:
    usual: dict[str, object] = {"devices": "auto", "nodes": "auto", "strategy": "auto", "kind": "cpu", "num_gpus": 0}
    return num_processes(**(usual | options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1),
        ({"kind": "mps"}, 1),
        ({"devices": 3}, 3),
        ({"nodes": 1, "devices": 2}, 2),
        ({"kind": "cuda", "num_gpus": 4}, 4),
        ({"kind": "cuda", "num_gpus": 4, "devices": 3}, 3),
        ({"kind": "cuda", "num_gpus": 4, "strategy": "single"}, 1),
    ],
)
def test_the_number_is_what_is_asked_for_or_the_gpus(options: dict[str, object], expected: int) -> None:
    assert plan(**options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cuda", "num_gpus": 2, "devices": 3}, r"^trainer\.devices=3, but torch sees 2 GPU\(s\) here$"),
        ({"kind": "mps", "devices": 2}, r"^trainer\.devices=2, but an Apple GPU is one device: add trainer\.accel"),
        ({"nodes": 4}, r"^trainer\.nodes=4, but this command runs on one: start torchrun --nnodes=4 .* on each node$"),
    ],
)
def test_what_the_machine_cannot_give_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**options)


def test_ranks_share_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)
    assert [threads_for_each(ranks) for ranks in (1, 2, 3, 7, 8)] == [7, 3, 2, 1, 1]
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads_for_each(2) == 1
