"""`distmlp requeue` finds the run by the words of its `distmlp train`, and reads what that has recorded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distmlp.apps.requeue import run
from distmlp.errors import ConfigError
from distmlp.run_state import read_state

WORDS = ["trainer.accelerator=cpu", "tracking=none", "trainer.max_steps=5", "run.id=7"]


def train(folder: Path, words: list[str], environment: dict[str, str]) -> int:
    command = [sys.executable, "-m", "distmlp", "train", *WORDS, f"run.root={folder}", *words]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, timeout=120).returncode


def test_a_run_that_finished_is_not_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "1"}
    assert train(tmp_path, [], job) == 0
    state = read_state(tmp_path / "digits-mlp" / "7")
    assert state is not None
    assert (state.state, state.exit_status, state.job) == ("finished", 0, "12")
    assert [(start.step, start.restart, start.job) for start in state.starts] == [(0, 1, "12")]
    for key, value in job.items():
        monkeypatch.setenv(key, value)
    assert run(["--status", "1", *WORDS, f"run.root={tmp_path}"]) == 0
    assert capsys.readouterr().err == "distmlp: the run has finished: trainer.max_steps=5 reached\n"


def test_a_run_that_failed_is_started_again_from_its_newest_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, [], {}) == 0
    summary = tmp_path / "digits-mlp" / "7" / "summary.json"
    summary.unlink()
    summary.mkdir()  # so that none can be written
    assert train(tmp_path, ["trainer.max_steps=9"], {}) == 1
    state = read_state(tmp_path / "digits-mlp" / "7")
    assert state is not None
    assert (state.state, state.exit_status) == ("failed", 1)
    assert "IsADirectoryError" in state.reason
    assert run(["--status=1", *WORDS, f"run.root={tmp_path}"]) == 3
    assert "starts again, from step 9: IsADirectoryError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (WORDS, "needs the exit status of the ranks"),
        (["--status", "x", *WORDS], "needs the exit status of the ranks"),
        (["--status", "1"], "give run.id="),
        (["--status", "1", "--statsu=2"], "did you mean --status"),
    ],
)
def test_a_mistake_is_named(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(words)
