"""Which checkpoints go: none that a rule keeps, and never the newest."""

import math

import pytest

from distmlp.checkpoint.retention import Retention, Saved


def saved(**metrics: float | None) -> list[Saved]:
    """`a`, `b`, … at steps 10, 20, …"""
    return [Saved(name, 10 * number, metric) for number, (name, metric) in enumerate(metrics.items(), start=1)]


def kept(rules: Retention, checkpoints: list[Saved]) -> str:
    gone = rules.to_remove(checkpoints)
    return "".join(one.name for one in checkpoints if one.name not in gone)


FIVE = saved(a=3.0, b=1.0, c=2.0, d=5.0, e=4.0)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (Retention(2), "de"),
        (Retention(9), "abcde"),
        (Retention(0), "e"),
        (Retention(None), "abcde"),
        (Retention(None, keep_best=1), "abcde"),
        (Retention(1, keep_best=2), "bce"),
        (Retention(1, keep_best=2, lower_is_better=False), "de"),
        (Retention(1, keep_every_steps=20), "bde"),
        (Retention(1, keep_best=1, keep_every_steps=30), "bce"),
    ],
)
def test_each_rule_keeps_what_it_says(rules: Retention, expected: str) -> None:
    assert kept(rules, FIVE) == expected


def test_the_order_of_what_is_given_does_not_matter() -> None:
    assert Retention(2).to_remove(FIVE[::-1]) == ["a", "b", "c"]


@pytest.mark.parametrize("lower", [True, False])
def test_of_equal_metrics_the_newer_is_kept(lower: bool) -> None:
    assert kept(Retention(1, keep_best=1, lower_is_better=lower), saved(a=1.0, b=1.0, c=None)) == "bc"


@pytest.mark.parametrize("lower", [True, False])
def test_no_metric_and_nan_are_never_the_best(lower: bool) -> None:
    checkpoints = saved(a=math.nan, b=7.0, c=None, d=math.nan, e=None)
    assert kept(Retention(1, keep_best=1, lower_is_better=lower), checkpoints) == "be"
    assert kept(Retention(1, keep_best=3, lower_is_better=lower), checkpoints) == "be"


def test_an_infinite_metric_is_a_metric() -> None:
    assert kept(Retention(1, keep_best=1), saved(a=math.inf, b=-math.inf, c=0.0)) == "bc"


def test_nothing_saved_nothing_to_remove() -> None:
    assert Retention(1).to_remove([]) == []
