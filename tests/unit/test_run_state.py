"""A run's state survives the way through its file; what cannot be read is no state."""

from pathlib import Path

import pytest

from distmlp.run_state import FILE, RunState, Started, read_state, write_state

START = Started(time=1.5, step=0, restart=0, job="12_3", world_size=4)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    state = RunState("stopped", "stopped by SIGUSR2", 3, "12_3", "node1", 77, 2.5, (START, START))
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    write_state(tmp_path, state.changed_to(state="running", exit_status=None))
    assert read_state(tmp_path) == RunState(
        "running", "stopped by SIGUSR2", None, "12_3", "node1", 77, 2.5, (START,) * 2
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"state": "running"}', '{"state": "running", "starts": [{}]}']
)
def test_what_cannot_be_read_is_no_state(text: str, tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    (tmp_path / FILE).write_text(text)
    assert read_state(tmp_path) is None
