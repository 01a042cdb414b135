"""What starts ranks for the other tests: a run that fails or hangs says where, and leaves the next one alone."""

import pytest
from parity.cases import COMMON, VECTORS
from parity.ranks import Ranks

FAULTY = f"{COMMON} {VECTORS} strategy=ddp trainer.max_steps=2 model._target_=parity.faulty.Faulty".split()
FAULTY.append("allow_targets=[parity]")


def test_a_rank_that_fails_shows_its_traceback_and_ends_the_others(ranks: Ranks) -> None:
    with pytest.raises(AssertionError, match="broken on purpose") as caught:
        ranks.run("fails", FAULTY, world_size=2)
    message = str(caught.value)
    assert message.startswith("fails: ")
    assert "faulty.py" in message
    assert "--- rank-0" in message


def test_a_hang_ends_with_every_ranks_stack_and_the_next_run_is_well(ranks: Ranks) -> None:
    with pytest.raises(AssertionError, match="hangs: the ranks ended with") as caught:
        ranks.run("hangs", [*FAULTY, "+model.sleeps=true"], world_size=2, seconds=12.0)
    message = str(caught.value)
    assert message.count("Timeout (0:00:12)!") == 2
    assert "faulty.py" in message
    well = ranks.run("well", f"{COMMON} {VECTORS} strategy=ddp trainer.max_steps=2".split(), world_size=2)
    assert well.of_steps("step") == [1, 2]


def test_words_that_do_not_compose_are_an_error(ranks: Ranks) -> None:
    with pytest.raises(AssertionError, match="optimizer=sgt does not exist"):
        ranks.run("misspelt", ["optimizer=sgt"], world_size=2)
