"""A run that is killed at any moment of a save finds a sound checkpoint, none torn, and no more rubbish each time."""

from pathlib import Path

import pytest


@pytest.mark.parametrize("mode", ["new", "same"])
def test_after_each_kill_there_is_a_sound_checkpoint(tmp_path: Path, killed, mode: str) -> None:
    found = killed(tmp_path / "checkpoints", 60, mode)
    assert len(found) == 60
    assert all(one["killed"] for one in found)
    names = [one["newest"] for one in found]
    assert None not in names
    assert names == sorted(names)  # none is lost
    for one in found:
        assert (one["reports"], one["torn"], one["strange"]) == ([], [], [])
    assert any(one["left"] for one in found)  # or no kill came in the middle of a save
    assert not (tmp_path / "quarantine").exists()
