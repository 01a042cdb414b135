"""The pictures of curves and ``distmlp plot``: read back as pixels and text, never as calls to a drawing library."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from distmlp.apps.plot import run as plot
from distmlp.errors import ConfigError
from distmlp.report.curves import draw_png, draw_terminal

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("plotext")

BLUE, ORANGE = (0x25, 0x63, 0xEB), (0xEA, 0x58, 0x0C)


def write_run(folder: Path, rate: float = 0.05, floor: float = 0.3, second: str | None = "accuracy") -> Path:
    """A run of 100 logged steps whose loss falls from about 2 to ``floor``, with a validation every tenth."""
    folder.mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w") as stream:
        for step in range(1, 101):
            loss = 2.0 * math.exp(-step * rate) + floor
            place = {"step": step, "epoch": step // 50, "samples": step * 64, "seconds": step * 0.1}
            stream.write(json.dumps({**place, "train/loss": loss}) + "\n")
            if step % 10 == 0:
                extra = {f"val/{second}": 1 / (1 + loss)} if second else {}
                stream.write(json.dumps({**place, "val/loss": loss * 1.2, **extra}) + "\n")
        if second == "accuracy":
            stream.write(json.dumps({**place, "test/accuracy": 0.75}) + "\n")
    return folder


def pixels(picture: Path) -> npt.NDArray[np.int64]:
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int64)


def num_pixels(picture: Path, colour: tuple[int, int, int]) -> int:
    return int((np.abs(pixels(picture) - np.array(colour)).sum(axis=-1) < 12).sum())


def test_the_picture_is_a_png_of_two_panels_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "new" / "curves.png"
    assert draw_png([write_run(tmp_path / "a" / "1")], target) == target
    assert target.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    height, width, _ = pixels(target).shape
    assert width == 1980
    assert 650 < height < 850
    assert [file.name for file in target.parent.iterdir()] == ["curves.png"]
    left, right = np.split(np.abs(pixels(target) - np.array(BLUE)).sum(axis=-1) < 12, 2, axis=1)
    assert left.sum() > 1000
    assert right.sum() > 1000


def test_different_data_give_different_pictures_and_equal_data_the_same(tmp_path: Path) -> None:
    pictures = [
        draw_png([write_run(tmp_path / str(copy) / "a" / "1", rate)], tmp_path / f"{copy}.png").read_bytes()
        for copy, rate in enumerate((0.05, 0.05, 0.02))
    ]
    assert pictures[0] == pictures[1] != pictures[2]


def test_each_run_has_a_colour_of_its_own(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a" / "1"), write_run(tmp_path / "a" / "2", 0.02)]
    one, two = draw_png(runs[:1], tmp_path / "one.png"), draw_png(runs, tmp_path / "two.png")
    assert num_pixels(one, BLUE) > 1000
    assert num_pixels(one, ORANGE) == 0
    assert num_pixels(two, BLUE) > 1000
    assert num_pixels(two, ORANGE) > 1000


def test_more_runs_than_the_palette_has_still_draw_in_distinct_colours(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a" / str(number), 0.01 * number) for number in range(1, 13)]
    picture = pixels(draw_png(runs, tmp_path / "many.png")).reshape(-1, 3)
    colours, counts = np.unique(picture, axis=0, return_counts=True)
    vivid = colours[(counts > 300) & (np.ptp(colours, axis=1) > 100)]
    assert len(vivid) >= 12


@pytest.mark.parametrize(("second", "wide"), [("mae", True), (None, False)])
def test_a_regression_gets_its_error_or_only_the_loss(tmp_path: Path, second: str | None, wide: bool) -> None:
    run = write_run(tmp_path / "a" / "1", second=second)
    assert (pixels(draw_png([run], tmp_path / "a.png")).shape[1] == 1980) == wide
    assert ("mae over samples" in draw_terminal([run])) == wide
    assert "accuracy" not in draw_terminal([run])


def test_the_loss_goes_on_a_log_axis_beyond_two_decades_only(tmp_path: Path) -> None:
    assert "(log)" not in draw_terminal([write_run(tmp_path / "a" / "1", floor=0.3)])
    assert "(log)" in draw_terminal([write_run(tmp_path / "a" / "2", rate=0.2, floor=0.001)])


@pytest.mark.parametrize("losses", [[math.nan, math.inf], [0.5], [0.0, 1e-9, 1.0], [-1.0, 100.0, 0.01], []])
def test_odd_losses_draw_without_a_warning(tmp_path: Path, losses: list[float]) -> None:
    (tmp_path / "run").mkdir()
    lines = [{"step": 0, "samples": 0}] + [{"step": i, "samples": i, "train/loss": x} for i, x in enumerate(losses, 1)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert draw_png([tmp_path / "run"], tmp_path / "a.png").is_file()
    assert (f"train {losses[-1]:.4g}" if losses else "no loss") in draw_terminal([tmp_path / "run"])


@pytest.mark.parametrize(("columns", "expected"), [("44", 44), ("80", 80), ("300", 100), ("10", 30)])
def test_the_terminal_width_is_respected_and_a_pipe_gets_no_colour_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str, expected: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    runs = [write_run(tmp_path / "a" / "1"), write_run(tmp_path / "a-much-longer-name" / "20250101-120000-abcd", 0.02)]
    text = draw_terminal(runs)
    assert max(len(line) for line in text.splitlines()) == expected
    assert "\x1b" not in text
    assert text.index("loss over samples") < text.index("accuracy over samples")
    assert "test 75.00%" in re.sub(r"\s+", " ", text)
    assert {"a", "A", "b", "B"} <= set(text[: text.index("accuracy")])


def test_plot_writes_into_the_run_and_draws_its_own_picture_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "a=b" / "1")
    assert plot([str(run)]) == 0
    assert capsys.readouterr().out.endswith(f"\n{run / 'curves.png'}\n")
    first = (run / "curves.png").read_bytes()
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 101, "epoch": 2, "samples": 9000, "train/loss": 2.5}\n')
    assert plot([str(tmp_path / "a=b")]) == 0
    assert (run / "curves.png").read_bytes() != first


def test_several_runs_go_to_the_working_folder_or_to_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [str(write_run(tmp_path / "a" / "1")), str(write_run(tmp_path / "a" / "2"))]
    monkeypatch.chdir(tmp_path)
    assert plot(runs) == 0
    assert plot([*runs, "out=both.png"]) == 0
    assert (tmp_path / "curves.png").read_bytes() == (tmp_path / "both.png").read_bytes()


def test_help_says_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert plot(["--help"]) == 0
    assert "usage: distmlp plot RUN… [out=FILE.png]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no run to plot; usage: distmlp plot RUN… [out=FILE.png]"),
        (["RUN", "ouput=a.png"], "unknown key 'ouput'; did you mean out=FILE.png?"),
        (["RUN", "--out"], "unknown key '--out'; did you mean out=FILE.png?"),
        (["RUN", "out=a.pdf"], "out=a.pdf: the picture is a PNG, so give a name that ends in .png"),
        (["RUN", "out=text.png"], "text.png exists and is not a PNG; it stays as it is, choose another out=FILE.png"),
        (["RUN", "out=photo.png"], "photo.png is a picture that distmlp did not draw; it stays as it is"),
        (["RUN", "out=folder.png"], "folder.png is not a file; give out=FILE.png"),
        (["RUN", "out=text.png/a.png"], "cannot write text.png/a.png: "),
        (
            ["missing"],
            "no run at missing: looked for missing/metrics.jsonl and missing/*/metrics.jsonl; newest runs: a/1",
        ),
    ],
)
def test_a_mistake_is_named_and_no_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a" / "1")
    (tmp_path / "text.png").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        plot([argument.replace("RUN", "a/1") for argument in arguments])
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("package", ["matplotlib", "plotext"])
def test_a_missing_package_is_named_with_its_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    run = write_run(tmp_path / "a" / "1")
    monkeypatch.setitem(sys.modules, package, None)  # Python's own way to say that an import fails
    with pytest.raises(ConfigError, match=rf'^drawing needs {package}: pip install "distmlp\[plot\]"$'):
        plot([str(run)])
    assert not (run / "curves.png").exists()


def test_an_older_plotext_is_named_with_the_version_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "plotext.py").write_text('__version__ = "5.3.2"\n')
    monkeypatch.delitem(sys.modules, "plotext", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "old")
    with pytest.raises(
        ConfigError, match=r'^drawing in the terminal needs plotext 6 or newer: pip install "plotext>=6"$'
    ):
        draw_terminal([write_run(tmp_path / "a" / "1")])
