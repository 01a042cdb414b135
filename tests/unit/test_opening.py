"""A run that ends says so beside what others wrote into its status.json meanwhile."""

from pathlib import Path
from typing import Any, cast

import pytest

from distmlp.apps.continued import Start
from distmlp.apps.opening import OpenRun
from distmlp.run_state import RunState, read_state, write_state


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_that_a_run_was_cancelled_is_kept(is_cancelled: bool, tmp_path: Path) -> None:
    state = RunState("running", job="12", host="node1", pid=7, changed=1.0)
    write_state(tmp_path, state.changed_to(cancelled=is_cancelled))
    OpenRun(cast(Any, None), Start(tmp_path, "x", None), None, state).end("stopped", "stopped by SIGUSR2", 3)
    found = read_state(tmp_path)
    assert found is not None
    assert (found.state, found.exit_status, found.cancelled) == ("stopped", 3, is_cancelled)
