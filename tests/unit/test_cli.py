"""The command line answers at once, in one line where the user made a mistake, and without importing torch."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distmlp import __version__
from distmlp.cli import EXAMPLES, VERBS, help_text, main
from distmlp.compose import GROUPS_IN_ORDER, choices, compose
from distmlp.config import all_fields
from distmlp.sweep import make_jobs

Captured = pytest.CaptureFixture[str]


def refused(capsys: Captured, *words: str) -> str:
    """The one line that ``words`` are answered with, on stderr, and nothing on stdout."""
    assert main(list(words)) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert error.startswith("distmlp: ")
    return error.removeprefix("distmlp: ").rstrip("\n")


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], []])
def test_help_lists_verbs_groups_and_choices(words: list[str], capsys: Captured) -> None:
    assert main(words) == 0
    out, error = capsys.readouterr()
    assert out == help_text() + "\n"
    assert error == ""
    lines = out.splitlines()
    for verb, meaning in VERBS.items():
        assert f"  {verb:<14}{meaning}" in lines
    groups = out.partition("groups and choices:\n")[2]  # a verb may have the name of a group
    joined = groups.replace(",\n" + 16 * " ", ", ").splitlines()
    for group in GROUPS_IN_ORDER:
        (line,) = [line for line in joined if line.startswith(f"  {group} ")]
        assert line.split(maxsplit=1)[1].split(", ") == choices(group)
    assert max(map(len, lines)) <= 120


def test_every_example_of_the_help_composes() -> None:
    verbs = ("  distmlp train", "  distmlp submit")
    words = [line.split("  ")[1].split() for line in EXAMPLES.splitlines() if line.startswith(verbs)]
    assert len(words) >= 3
    for _, _, *overrides in words:
        if overrides[:1] == ["--multirun"]:
            assert len(make_jobs(overrides[1:])) == 4
        elif not any(word.startswith("--config") for word in overrides):
            compose([word for word in overrides if word not in ("--cfg", "job", "--summary")])


def test_the_version_is_the_package_s(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"distmlp {__version__}\n"


def in_a_process(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["train", "--cfg", "job"], 0),
        (["train", "optimizer=zzz"], 2),
        (["evaluate", "nothing"], 2),
        (["zzz"], 2),
    ],
)
def test_help_and_mistakes_are_answered_without_torch(words: list[str], status: int) -> None:
    done = in_a_process(
        f"import sys; from distmlp.cli import main; status = main({words!r})\n"
        "heavy = {'torch', 'lightning', 'sklearn', 'wandb', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "raise SystemExit(status)"
    )
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == (1 if status else 0)


def test_the_module_runs_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "distmlp", "trian"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "distmlp: unknown verb trian: did you mean train?\n"


def test_an_unknown_verb_is_answered_with_the_nearest_or_with_all(capsys: Captured) -> None:
    assert refused(capsys, "evalute") == "unknown verb evalute: did you mean evaluate?"
    assert refused(capsys, "zzz") == f"unknown verb zzz: valid are {', '.join(VERBS)}"


def test_only_rank_zero_says_what_is_wrong(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["trian"]) == 2
    assert capsys.readouterr() == ("", "")


def test_a_message_of_several_lines_is_printed_as_one(capsys: Captured) -> None:
    assert "run.name=a b: use letters" in refused(capsys, "train", 'run.name="a\nb"')


@pytest.mark.parametrize("flag", ["--cfg job", "--cfg=job", "-c job"])
def test_cfg_job_prints_the_resolved_configuration(flag: str, capsys: Captured) -> None:
    assert main(["train", *flag.split(), "optimizer=muon", "optimizer.lr=0.5", "trainer.max_time=90"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["optimizer"] == {**values["optimizer"], "name": "muon", "lr": 0.5}
    assert values["trainer"]["max_time"] == 90
    assert values["data"]["name"] == "digits"


def test_what_cfg_job_prints_can_be_given_back(tmp_path: Path, capsys: Captured) -> None:
    assert main(["train", "--cfg", "job", "optimizer=lion", "model.hidden=[7,5]"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "config.yaml").write_text(first)
    for flag in (["--config", f"{tmp_path}/config.yaml"], [f"--config={tmp_path}/config.yaml"]):
        assert main(["train", *flag, "--cfg", "job"]) == 0
        assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(first)


@pytest.mark.parametrize("words", [["--cfg"], ["--cfg", "hydra"], ["--cfg="]])
def test_cfg_takes_one_value(words: list[str], capsys: Captured) -> None:
    message = "--cfg takes one value: --cfg job prints the resolved configuration"
    assert refused(capsys, "train", *words) == message


def test_an_unknown_flag_is_answered_with_the_flags(capsys: Captured) -> None:
    assert (
        refused(capsys, "train", "--sweep")
        == "unknown flag --sweep: valid are --config FILE, --cfg job, --summary, --multirun, --help"
    )


def test_one_thing_is_done_at_a_time(capsys: Captured) -> None:
    message = "--cfg, --summary and --multirun exclude each other: keep one"
    assert refused(capsys, "train", "--multirun", "--cfg", "job", "seed=1,2") == message


def test_a_missing_configuration_is_named(capsys: Captured) -> None:
    message = "no configuration at nothing.yaml: give the config.yaml of a run folder"
    assert refused(capsys, "train", "--config", "nothing.yaml") == message
    assert refused(capsys, "train", "--config").startswith("no configuration at .: ")


def test_train_s_help_explains_every_key(capsys: Captured) -> None:
    assert main(["train", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: distmlp train ")
    shown = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[3:]}
    assert shown == dict(all_fields())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: Captured) -> None:
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: distmlp {verb}")


def test_evaluate_says_what_it_takes(tmp_path: Path, capsys: Captured) -> None:
    assert refused(capsys, "evaluate") == (
        "give one run folder or checkpoint: distmlp evaluate RUN|CHECKPOINT [split=train|validation|test] [key=value]"
    )
    assert refused(capsys, "evaluate", "a", "b").startswith("give one run folder or checkpoint: ")
    assert (
        refused(capsys, "evaluate", "a", "split=dev") == "split=dev does not exist: valid are train, validation, test"
    )
    assert refused(capsys, "evaluate", str(tmp_path)).startswith(f"{tmp_path} is neither a run folder nor a checkpoint")


def test_a_mistake_leaves_no_run_folder(tmp_path: Path, capsys: Captured) -> None:
    root = tmp_path / "runs"
    assert refused(capsys, "train", f"run.root={root}", "optimizer.momentum=1").startswith("optimizer.momentum is not")
    assert not root.exists()
