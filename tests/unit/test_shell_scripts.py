"""Every shell script of the repository: checked by shellcheck, strict, and true to the words that it is given."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    [*(REPOSITORY / "launch").iterdir(), *(REPOSITORY / "slurm").glob("*.sbatch"), REPOSITORY / ".ci" / "run"]
)
RECIPES = [script for script in SCRIPTS if script.parent.name == "launch"]
JOBS = [script for script in SCRIPTS if script.suffix == ".sbatch"]
END = "\n# ---- How a job ends"
HARD_WORDS = ["data.path=a b", "'single' \"double\"", "$HOME `date` *", "back\\slash", "", "umlaut=ä", "two\nlines"]
# Stands for Python, and for all that the scripts start: writes down the words after `train`, one in each file.
RECORDER = """#!{python}
import os, pathlib, sys
words, folder = sys.argv[1:], pathlib.Path(os.environ["RECORD"])
if "train" in words:
    for number, word in enumerate(words[words.index("train") + 1:]):
        (folder / f"{{number:02}}").write_text(word)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What the scripts find: a recorder in place of Python, and stand-ins for what starts it elsewhere."""
    (tmp_path / "record").mkdir()
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "recorder"
    texts = {
        python: RECORDER.format(python=sys.executable),
        python.with_name("srun"): '#!/bin/bash\nwhile [[ $1 = --* ]]; do shift; done\nexec "$@"\n',
        python.with_name("apptainer"): f'#!/bin/bash\nwhile [ "$1" != {python} ]; do shift; done\nexec "$@"\n',
        python.with_name("ssh"): '#!/bin/bash\nexec bash -c "${@: -1}"\n',
    }
    for file, text in texts.items():
        file.write_text(text)
        file.chmod(0o755)
    (tmp_path / "hosts").write_text("one\n")
    (tmp_path / "lines.txt").write_text("seed=0\n'a b' \"c'd\" e\\ f\n")
    job = {"JOB_ID": "12", "JOB_NUM_NODES": "1", "SUBMIT_DIR": str(tmp_path), "JOB_NAME": "x"}
    return {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "RECORD": str(tmp_path / "record"),
        "DISTMLP_PYTHON": str(python),
        "NPROC": "1",
        "SLURMD_NODENAME": "node1",
        **{f"SLURM_{key}": value for key, value in job.items()},
    }


def recorded(script: Path, words: list[str], environment: dict[str, str], folder: Path) -> list[str]:
    """The words that arrive at `distmlp train`."""
    done = subprocess.run(
        ["bash", script, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [file.read_text() for file in sorted((folder / "record").iterdir())]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path):
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck, as from apt-get install shellcheck")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_failed_command_or_an_unset_variable_ends_it(script: Path):
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert commands[0] == "set -euo pipefail"


@pytest.mark.parametrize("script", RECIPES, ids=lambda path: path.name)
def test_a_recipe_can_be_started_by_its_name(script: Path):
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("script", RECIPES, ids=lambda path: path.name)
def test_a_recipe_passes_its_words_on(script: Path, environment: dict[str, str], tmp_path: Path):
    settings = {"NODES": "1", "HEAD": "node1", "PORT": "1"}
    found = recorded(script, HARD_WORDS, environment | settings, tmp_path)
    assert [word for word in found if word != "trainer.devices=1"] == HARD_WORDS


def test_words_pass_through_ssh(environment: dict[str, str], tmp_path: Path):
    settings = {"HOSTFILE": str(tmp_path / "hosts"), "PORT": "1"}
    script = REPOSITORY / "launch" / "multi_node.sh"
    assert recorded(script, HARD_WORDS, environment | settings, tmp_path) == HARD_WORDS


@pytest.mark.parametrize("runtime", ["apptainer", "pyxis"])
@pytest.mark.parametrize("script", [job for job in JOBS if job.stem != "array"], ids=lambda path: path.name)
def test_a_job_passes_its_words_on(script: Path, runtime: str, environment: dict[str, str], tmp_path: Path):
    found = recorded(script, HARD_WORDS, environment | {"RUNTIME": runtime}, tmp_path)
    assert found == ["run.id=slurm-12", *HARD_WORDS]


def test_a_task_of_an_array_adds_the_words_of_its_line(environment: dict[str, str], tmp_path: Path):
    task = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "1"}
    found = recorded(REPOSITORY / "slurm" / "array.sbatch", ["lines.txt", *HARD_WORDS], environment | task, tmp_path)
    assert found == ["run.id=slurm-9_1", *HARD_WORDS, "a b", "c'd", "e f"]


def test_jobs_end_alike():
    ends = {script.read_text().partition(END)[2] for script in JOBS}
    assert len(JOBS) == 4
    assert len(ends) == 1
    assert ends != {""}
