"""The same run under every strategy, on any number of ranks: the same samples, losses and weights.

`make test` takes a part of the matrix, `make parity` all of it (DISTMLP_PARITY names the folder for what it measures).
"""

import os
from collections.abc import Callable

import pytest
from parity.bounds import ROUNDING, bound
from parity.cases import OWN_CURVE, Case, representative, whole_matrix
from parity.compare import Difference, difference, keep, largest
from parity.ranks import Outcome

Find = Callable[[Case], Outcome]

FOLDER = os.environ.get("DISTMLP_PARITY", "")
CASES = whole_matrix() if FOLDER else representative()
SAME_CURVE = [case for case in CASES if case.strategy not in OWN_CURVE]
# Batch norms see a rank's share: with one process they see another batch.
COMPARABLE = [case for case in SAME_CURVE if case.network != "mlp_batch_norm" and case != case.in_one_process]
CLIPPED = ("clipping", "ragged_clipping", "adamw_accumulation")
NORM_BOUNDS = {"ddp_fp16_compress": 1e-3, "ddp_bf16_compress": 1e-2}  # of the largest: it is that of what was exchanged


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=str)


@each(CASES)
def test_every_step_takes_the_samples_that_one_process_takes(case: Case, outcome: Find) -> None:
    ours, theirs = outcome(case), outcome(case.in_one_process)
    assert ours.of_steps("sample_ids") == theirs.of_steps("sample_ids")
    assert all(ids == sorted(set(ids)) for ids in ours.of_steps("sample_ids"))
    assert ours.of_steps("samples") == theirs.of_steps("samples")


# 20 steps tell little of a bert, which masks other tokens in each, and of a vit under SGD.
@each([case for case in CASES if case.network != "bert" and (case.network, case.recipe) != ("vit", "sgd")])
def test_it_learns(case: Case, outcome: Find) -> None:
    losses = outcome(case).of_steps("train/loss")
    assert sum(losses[-10:]) < sum(losses[:10])


@each([case for case in SAME_CURVE if case != case.with_ddp])
def test_losses_and_weights_are_those_of_ddp(case: Case, outcome: Find) -> None:
    found = difference(outcome(case), outcome(case.with_ddp))
    _check(case, "ddp", found)


@each(COMPARABLE)
def test_losses_and_weights_are_those_of_one_process(case: Case, outcome: Find) -> None:
    found = difference(outcome(case), outcome(case.in_one_process))
    _check(case, "one process", found)


@each([case for case in CASES if case.strategy in OWN_CURVE])
def test_it_is_ddp_until_it_compresses(case: Case, outcome: Find) -> None:
    first = OWN_CURVE[case.strategy]
    ours, theirs = (outcome(which).of_steps("train/loss") for which in (case, case.with_ddp))
    assert largest(ours[:first], theirs[:first]) <= ROUNDING.loss
    assert ours[first + 1 :] != theirs[first + 1 :]
    found = difference(outcome(case), outcome(case.with_ddp))
    _check(case, "ddp", found)


@each([case for case in SAME_CURVE if case.recipe in CLIPPED])
def test_the_norm_that_is_clipped_is_that_of_the_whole_gradient(case: Case, outcome: Find) -> None:
    ours, theirs = (outcome(which).of_steps("train/gradient_norm") for which in (case, case.in_one_process))
    assert largest(ours, theirs) <= NORM_BOUNDS.get(case.strategy, 1e-4) * max(theirs)


def test_recomputing_activations_changes_nothing(outcome: Find) -> None:
    recomputed, kept = (outcome(Case(1, "single", "gpt_untied", recipe)) for recipe in ("checkpointing", "sgd"))
    assert recomputed.of_steps("train/loss") == kept.of_steps("train/loss")


def _check(case: Case, against: str, found: Difference) -> None:
    limit = bound(case)
    if FOLDER:
        keep(FOLDER, case, against, found)
    assert not found.exceeds(limit), f"{found} exceeds {limit}"
