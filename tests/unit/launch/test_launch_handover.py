"""Ranks get the configuration whole, the run's id and the trusted packages included."""

from pathlib import Path

from distmlp.compose import compose
from distmlp.launch.handover import FOLDER_KEY, Handover


def test_a_rank_has_the_configuration_of_its_launcher(tmp_path: Path) -> None:
    words = ["model._target_=mine.Net", "allow_targets=[mine]", "trainer.max_time=00:10:00", "optimizer.lr=1e-3"]
    given = compose(words).named()
    Handover(tmp_path).give(given)
    environment = {FOLDER_KEY: str(tmp_path), "HOME": "/"}
    handover = Handover.received(environment)
    assert handover
    assert handover.composed() == given
    assert given.config.run.id
    assert given.config.run.name == "digits-custom"
    assert environment == {"HOME": "/"}
    assert Handover.received(environment) is None


def test_the_agent_sees_success_and_the_launcher_the_status(tmp_path: Path) -> None:
    handover = Handover(tmp_path)
    assert handover.leave(0) == 0
    assert handover.status() == 0
    assert handover.leave(3) == 0
    assert handover.status() == 3
