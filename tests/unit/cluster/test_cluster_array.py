"""The file of an array: a line for each run, in the shell's words; what all must share is refused by line."""

from pathlib import Path

import pytest

from distmlp.cluster.array import read_runs
from distmlp.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    file = folder / "grid.txt"
    file.write_text(text)
    return file


def test_a_line_is_a_run_and_comments_and_empty_lines_are_none(tmp_path: Path) -> None:
    text = "# learning rates\noptimizer.lr=0.1\n\n  optimizer.lr=0.2 'model.hidden=[8, 8]'  # wide\n"
    assert read_runs(written(tmp_path, text)) == [["optimizer.lr=0.1"], ["optimizer.lr=0.2", "model.hidden=[8, 8]"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed=1\ncluster.nodes=2", r"grid\.txt line 2: cluster\.nodes=2: the runs of an array share cluster"),
        ("run.name=a", r"line 1: run\.name=a: the runs of an array share run"),
        ("seed=1 allow_targets=[x]", r"share allow_targets"),
        ("resume=must", r"share resume"),
        ("seed='1", r"line 1: No closing quotation"),
        ("--multirun", r"line 1: cannot read '--multirun'"),
        ("# none\n", r"^cluster\.array=.*grid\.txt holds no run"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_runs(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.txt cannot be read: No such file or directory$"):
        read_runs(tmp_path / "gone.txt")
