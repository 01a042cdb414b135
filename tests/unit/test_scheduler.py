"""Schedules equal torch's own at every step, and say what they lack."""

from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from distmlp.errors import ConfigError
from distmlp.scheduler import Schedule, warmup_in_steps

TOTAL = 97


def torch_factors(make: Any, num_steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(num_steps):
        factors.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        (
            {"name": "step", "step_every_steps": 10, "step_factor": 0.5},
            lambda o: lr_scheduler.StepLR(o, step_size=10, gamma=0.5),
        ),
        (
            {"name": "cosine", "final_factor": 0.1},
            lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL, eta_min=0.1),
        ),
        (
            {"name": "linear", "final_factor": 0.2},
            lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=TOTAL),
        ),
        (
            {"name": "one_cycle", "start_factor": 0.04, "final_factor": 0.04 / 1e4, "peak_fraction": 0.3},
            lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=TOTAL, cycle_momentum=False),
        ),
        (
            {"name": "one_cycle", "start_factor": 0.5, "final_factor": 0.05, "peak_fraction": 0.62},
            lambda o: lr_scheduler.OneCycleLR(
                o, 1.0, TOTAL, pct_start=0.62, div_factor=2.0, final_div_factor=10.0, cycle_momentum=False
            ),
        ),
    ],
)
def test_factors_equal_torch_s_scheduler_at_every_step(settings: dict[str, Any], reference: Any) -> None:
    schedule = Schedule(total_steps=TOTAL, **settings)
    own = [schedule.factor(step) for step in range(TOTAL)]
    assert own == pytest.approx(torch_factors(reference, TOTAL), rel=1e-9, abs=1e-12)


def test_constant_stays_and_needs_no_end() -> None:
    assert {Schedule().factor(step) for step in (0, 1, 10**9)} == {1.0}


def test_warm_up_rises_in_equal_steps_and_hands_over_to_the_start_of_the_schedule() -> None:
    schedule = Schedule("cosine", warmup_steps=4, total_steps=104)
    assert [schedule.factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    unwarmed = Schedule("cosine", total_steps=100)
    assert [schedule.factor(step + 4) for step in range(101)] == [unwarmed.factor(step) for step in range(101)]
    stepped = Schedule("step", warmup_steps=3, step_every_steps=2, step_factor=0.5)
    assert [stepped.factor(step) for step in range(3, 9)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_wsd_is_stable_then_falls_in_a_line_over_the_last_fraction_of_the_run() -> None:
    schedule = Schedule("wsd", warmup_steps=10, total_steps=100, decay_fraction=0.2, final_factor=0.1)
    assert {schedule.factor(step) for step in range(9, 81)} == {1.0}
    assert schedule.factor(90) == pytest.approx(0.55)
    assert schedule.factor(100) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "one_cycle"])
@pytest.mark.parametrize("total", [1, 2, 3, 10])
def test_factors_stay_in_range_for_the_shortest_runs_and_past_the_end(name: str, total: int) -> None:
    schedule = Schedule(name, total_steps=total, final_factor=0.01)
    assert all(0.0 <= schedule.factor(step) <= 1.0 for step in range(total + 5))
    past = schedule.factor(total + 100)
    assert past == schedule.factor(total)
    if not (name == "one_cycle" and total == 1):  # a cycle of one step is its peak
        assert past == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "cosin"},
            r"^scheduler\.name=cosin is unknown: did you mean cosine\? \(valid: constant, step, cosine, ",
        ),
        (
            {"name": "constant", "warmup_steps": 50, "total_steps": 50},
            r"^scheduler\.warmup_\* is 50 steps and the run ends after 50: .*trainer\.max_epochs",
        ),
        (
            {"name": "wsd", "warmup_steps": 90, "total_steps": 100},
            r"^scheduler\.warmup_\* is 90 steps and scheduler\.decay_fraction=0\.2 starts the decay at step 80 of 100",
        ),
        (
            {"name": "one_cycle", "warmup_steps": 5, "total_steps": 10},
            r"rises by itself: set scheduler\.warmup_\* to 0",
        ),
        ({"name": "step", "step_every_steps": 0}, r"^scheduler\.step_every_steps=0 must be at least 1 and finite$"),
        ({"step_factor": float("nan")}, r"^scheduler\.step_factor=nan must be at least 0 and finite$"),
        ({"final_factor": -0.1}, r"^scheduler\.final_factor=-0\.1 must be at least 0"),
        ({"decay_fraction": 1.5}, r"^scheduler\.decay_fraction=1\.5 must be at least 0 and at most 1$"),
        ({"peak_fraction": -1.0}, r"^scheduler\.peak_fraction=-1\.0 must be"),
        ({"start_factor": float("inf")}, r"^scheduler\.start_factor=inf must be"),
        ({"warmup_steps": -1}, r"^scheduler\.warmup_steps=-1 must be at least 0"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Schedule(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "one_cycle"])
def test_a_schedule_with_an_end_says_which_fields_give_it(name: str) -> None:
    message = (
        f"^scheduler.name={name} needs to know the end: set trainer.max_epochs, trainer.max_steps or "
        "trainer.max_samples$"
    )
    with pytest.raises(ConfigError, match=message):
        Schedule(name)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 0), ({"steps": 7}, 7), ({"samples": 64}, 2), ({"samples": 65}, 3), ({"epochs": 2}, 60), ({"epochs": 0.1}, 3)],
)
def test_warm_up_in_any_unit_becomes_steps(given: dict[str, Any], expected: int) -> None:
    amounts = {"steps": 0, "samples": 0, "epochs": 0, **given}
    assert warmup_in_steps(**amounts, global_batch_size=32, steps_per_epoch=30) == expected


def test_a_fraction_of_an_epoch_is_not_rounded_up_by_floating_point() -> None:
    assert 0.07 * 100 > 7
    assert warmup_in_steps(steps=0, samples=0, epochs=0.07, global_batch_size=1, steps_per_epoch=100) == 7


def test_two_units_of_warm_up_exclude_each_other() -> None:
    with pytest.raises(
        ConfigError, match=r"^scheduler\.warmup_steps=5 and scheduler\.warmup_epochs=1 exclude each other"
    ):
        warmup_in_steps(steps=5, samples=0, epochs=1, global_batch_size=32, steps_per_epoch=30)
    with pytest.raises(ConfigError, match=r"^scheduler\.warmup_samples=-1 must not be negative$"):
        warmup_in_steps(steps=0, samples=-1, epochs=0, global_batch_size=32, steps_per_epoch=30)
