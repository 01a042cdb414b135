"""A run is found by as much of its name as tells it from the others; what is not found is answered with the nearest."""

from collections.abc import Callable
from pathlib import Path

import pytest

from distmlp.errors import ConfigError
from distmlp.report.run_lookup import find_one, find_place

MakeRun = Callable[..., Path]


@pytest.fixture
def root(make_run: MakeRun, tmp_path: Path) -> Path:
    for name in ("digits-mlp/20261124-a", "digits-mlp/20261125-b", "digits-mlp/7", "text-gpt/7", "text-gpt/77"):
        make_run(tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("digits-mlp/7", "digits-mlp/7"),
        ("77", "text-gpt/77"),
        ("20261124-a", "digits-mlp/20261124-a"),
        ("20261125", "digits-mlp/20261125-b"),
        ("digits-mlp/20261124", "digits-mlp/20261124-a"),
        ("text-gpt/7", "text-gpt/7"),  # exact, though text-gpt/77 begins with it
    ],
)
def test_a_run_is_found(word: str, name: str, root: Path) -> None:
    assert find_one(word, root).folder == root / name


def test_a_folder_is_a_run_wherever_it_is(make_run: MakeRun, root: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "elsewhere" / "a" / "1")
    assert find_one(str(run), root).folder == run
    assert find_one(str(run), tmp_path / "no-root").name == "a/1"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("7", "7 may be 2 runs: "),
        ("2026112", "2026112 may be 2 runs: "),
        ("digits", "digits may be 3 runs: "),
        ("20261124-x", "no run 20261124-x below {root}: did you mean 20261124-a?"),
        ("text-gtp/77", "no run text-gtp/77 below {root}: did you mean text-gpt/77?"),
        ("zzz", "no run zzz below {root}: the newest are "),
    ],
)
def test_what_is_no_one_run_is_answered_in_a_line(word: str, message: str, root: Path) -> None:
    with pytest.raises(ConfigError) as error:
        find_one(word, root)
    assert str(error.value).startswith(message.format(root=root))
    assert "\n" not in str(error.value)


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run x below .*: there is no run at all; give a run folder, or --root"):
        find_one("x", tmp_path)


def test_a_place_is_a_folder_or_a_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_place(str(root), Path("runs")) == root
    assert find_place("text-gpt", root) == root / "text-gpt"
    assert find_place("text-gpt/7", root) == root / "text-gpt" / "7"
    with pytest.raises(ConfigError, match=r"no folder text-gtp, and none below .*: did you mean text-gpt\?"):
        find_place("text-gtp", root)
