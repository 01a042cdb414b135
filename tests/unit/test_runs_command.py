"""`distmlp runs`: what it lists, how much of it, and what it answers to wrong words."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distmlp.cli import main
from distmlp.run_state import RunState

MakeRun = Callable[..., Path]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def listed(capsys: Captured, *words: str) -> list[str]:
    assert main(["runs", *words]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    return out.splitlines()


def test_twenty_runs_are_shown_unless_more_are_asked_for(make_run: MakeRun, capsys: Captured) -> None:
    for number in range(25):
        make_run(Path(f"runs/a/{number}"), state=RunState("finished"))
    lines = listed(capsys)
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == "5 older: --last 25 shows all"
    assert len(listed(capsys, "--last", "25")) == 1 + 25
    assert len(listed(capsys, "--json", "--last=3")) == 3


def test_a_name_a_root_and_a_run_choose(make_run: MakeRun, tmp_path: Path, capsys: Captured) -> None:
    for folder in ("runs/a/1", "runs/b/2", "other/c/3"):
        make_run(tmp_path / folder, state=RunState("finished"))

    def names(*words: str) -> set[str]:
        return {json.loads(line)["name"] for line in listed(capsys, "--json", *words)}

    assert names() == {"a/1", "b/2"}
    assert names("a") == names("runs/a") == names("a/1") == {"a/1"}
    assert names("other") == names("--root", "other") == names("c", "--root=other") == {"c/3"}
    assert names("other", "b") == {"c/3", "b/2"}


def test_an_empty_root_says_so(capsys: Captured) -> None:
    Path("runs").mkdir()
    assert listed(capsys) == ["no runs here"]
    assert listed(capsys, "--json") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is no folder runs here: give a run, a name of runs or a folder that holds runs"),
        (["zzz"], "no folder zzz, and none below runs: give a run, a name of runs or a root"),
        (["--root", "nowhere"], "--root nowhere is no folder"),
        (["--last", "0"], "--last 0: give a number of runs, such as --last 20"),
        (["--last", "-1"], "--last -1: give a number of runs, such as --last 20"),
        (["--lats", "3"], "unknown flag --lats: did you mean --last?"),
        (["watch"], "distmlp runs watch takes one run, not 0"),
        (["watch", "x"], "no run x below runs: there is no run at all; give a run folder, or --root FOLDER"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: Captured) -> None:
    assert main(["runs", *words]) == 2
    assert capsys.readouterr().err == f"distmlp: {message}\n"


@pytest.mark.parametrize("words", [["--help"], ["watch", "-h"], ["cancel", "--help"]])
def test_help_explains_all_actions(words: list[str], capsys: Captured) -> None:
    text = "\n".join(listed(capsys, *words))
    for word in ("watch RUN", "cancel RUN", "--last N", "--json", "--now", "--root", "lost"):
        assert word in text
