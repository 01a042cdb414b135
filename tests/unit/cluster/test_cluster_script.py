"""The job script: clean for shellcheck in every form, and run by bash with SLURM's commands replaced by recorders.

Real SLURM runs it in tests/slurm; here its end is seen for every status, and each word arrives as it was given.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from distmlp.cluster.container import Container
from distmlp.cluster.script import Job, render
from distmlp.errors import ConfigError
from distmlp.schema.cluster import SlurmCluster

AWKWARD = 'it\'s $(touch injected) `touch injected` ;a&b "é" 100% #x'
CONTAINERS = {
    "": None,
    "pyxis": Container("pyxis", "my image.sqsh", ("/a b:/a b", "/c:/c"), "/work dir"),
    "apptainer": Container("apptainer", "my image.sif", ("/a b:/a b", "/c:/c"), "/work dir"),
}
JOB = Job(
    cluster=SlurmCluster(name="slurm"),
    root="/shared/runs",
    name="digits-mlp",
    run_id="7",
    script="/shared/runs/digits-mlp/7/job.sbatch",
    work_dir="/home/me",
    python="/opt/python",
    nodes=2,
    ranks_per_node=4,
)


def job(run: Job = JOB, /, **cluster: Any) -> Job:
    return replace(run, cluster=SlurmCluster(name="slurm", **cluster))


def options(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


@pytest.mark.parametrize(
    ("launcher", "container", "array_size", "requeue"),
    list(product(("srun", "torchrun"), CONTAINERS, (0, 3), (True, False))),
)
def test_shellcheck_finds_nothing(launcher: str, container: str, array_size: int, requeue: bool) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    run = replace(JOB, container=CONTAINERS[container], array_size=array_size, gpus_per_node=4)
    asked: dict[str, Any] = {"launcher": launcher, "requeue": requeue, "modules": ["cuda/12"], "cpus_per_task": 2}
    text = render(job(run, environment=["A=b c", "WANDB_API_KEY"], lines=["ulimit -n 4096"], **asked))
    found = subprocess.run(["shellcheck", "-"], input=text, capture_output=True, text=True)
    assert found.stdout == ""
    assert found.returncode == 0


def test_it_asks_for_what_the_user_asked_and_no_more() -> None:
    assert options(render(JOB)) == [
        "--job-name=digits-mlp",
        "--output=/shared/runs/digits-mlp/7/logs/job-%j.log",
        "--open-mode=append",
        "--chdir=/home/me",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--signal=USR2@120",
        "--requeue",
    ]
    asked = job(
        replace(JOB, gpus_per_node=4, array_size=3),
        partition="gpu",
        time="1-12",
        cpus_per_task=8,
        mem="64G",
        array="grid.txt",
        array_limit=2,
        requeue=False,
        launcher="torchrun",
        sbatch=["--exclusive", "--comment=a b"],
    )
    more = {"--gpus-per-node=4", "--partition=gpu", "--time=1-12", "--cpus-per-task=8", "--mem=64G", "--array=0-2%2"}
    more |= {"--no-requeue", "--exclusive", '--comment="a b"', "--ntasks-per-node=1"}
    more |= {"--output=/shared/runs/digits-mlp/7-%a/logs/job-%A_%a.log"}
    assert more <= set(options(render(asked)))


@pytest.mark.parametrize("end", ["\n#SBATCH --account=other", "\r", "\x00", "\u2028"])
@pytest.mark.parametrize("field", ["root", "name", "work_dir", "python", "words"])
def test_no_value_can_add_a_line(field: str, end: str) -> None:
    value = f"a{end}"
    with pytest.raises(ConfigError, match="must be one line of printable characters"):
        render(replace(JOB, **{field: (value,) if field == "words" else value}))


# ---- run by bash -----------------------------------------------------------------------------------------------------

RECORDER = """\
#!{python}
import json, os, subprocess, sys, time
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open("{folder}/calls", "a") as file:
    keys = "DISTMLP_RESTARTS", "GIVEN"
    file.write(json.dumps([name, words, {{key: os.environ[key] for key in keys if key in os.environ}}]) + "\\n")
if name == "srun" and "{folder}/bin/training" in words:
    time.sleep(float(os.environ.get("TRAINS_FOR", 0)))
    sys.exit(int(os.environ["TRAIN"]))
if "distmlp" in words and "requeue" in words:
    sys.exit(int(os.environ["VERDICT"]))
print({{"squeue": os.environ.get("REASON", "None"), "scontrol": "node1"}}.get(name, ""))
sys.exit(int(os.environ.get(name.upper(), 0)))
"""


class Ran:
    """The script after bash has run it in a folder, where `srun` and the like only write down how they were called."""

    def __init__(self, folder: Path, run: Job, terminate: bool = False, **environment: str) -> None:
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name in ("srun", "scontrol", "sbatch", "squeue", "training"):
            recorder = bin_folder / name
            recorder.write_text(RECORDER.format(python=sys.executable, folder=folder))
            recorder.chmod(0o755)
        script = folder / "job.sbatch"
        script.write_text(render(replace(run, python=str(bin_folder / "training"))))
        slurm = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "node[1-2]", "PATH": f"{bin_folder}:{os.environ['PATH']}"}
        process = subprocess.Popen(
            ["bash", str(script)], cwd=folder, env=os.environ | slurm | environment, stdout=subprocess.PIPE, text=True
        )
        if terminate:
            while not (folder / "calls").exists():
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
        self.output, _ = process.communicate(timeout=30)
        self.status = process.returncode
        calls = (folder / "calls").read_text().splitlines()
        self.calls: list[tuple[str, list[str], dict[str, str]]] = [json.loads(line) for line in calls]

    def of(self, name: str) -> list[list[str]]:
        return [words for called, words, _ in self.calls if called == name]


def test_train_and_requeue_get_the_words_that_tell_the_run(tmp_path: Path) -> None:
    run = replace(JOB, root=f"/shared/{AWKWARD}", words=(f'resume="{AWKWARD}"',))
    asked = job(run, environment=[f"GIVEN={AWKWARD}"], lines=["test -z $UNSET"])
    ran = Ran(tmp_path, asked, TRAIN="0", VERDICT="0")
    words = ["--config", f"/shared/{AWKWARD}/digits-mlp/7/config.yaml"]
    words += ['run.root="/shared/' + AWKWARD.replace('"', '\\"') + '"', 'run.name="digits-mlp"', 'run.id="7"']
    words += ["trainer.nodes=2", "trainer.devices=4", f'resume="{AWKWARD}"']
    python = str(tmp_path / "bin" / "training")
    assert ran.of("srun") == [["--kill-on-bad-exit=1", python, "-m", "distmlp", "train", *words]]
    assert ran.of("training") == [["-m", "distmlp", "requeue", "--status", "0", *words]]
    assert ran.calls[0][2] == {"GIVEN": AWKWARD}
    assert not list(tmp_path.rglob("injected"))


def test_torchrun_is_started_once_a_node_and_meets_at_a_port_of_the_job(tmp_path: Path) -> None:
    ran = Ran(tmp_path, job(launcher="torchrun"), TRAIN="0", VERDICT="0", SLURM_RESTART_COUNT="2")
    (words,) = ran.of("srun")
    assert words[2:9] == [
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc-per-node=4",
        "--max-restarts=0",
        "--rdzv-id=12-2",
        "--rdzv-backend=c10d",
    ]
    assert words[9:11] == [
        "--rdzv-endpoint=node1:15012",
        "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2",
    ]
    assert words[11:14] == ["-m", "distmlp", "train"]


@pytest.mark.parametrize("verdict", [0, 1, 2, 4])
@pytest.mark.parametrize("train", [0, 143])
def test_the_verdict_is_the_status_and_no_job_starts(tmp_path: Path, train: int, verdict: int) -> None:
    ran = Ran(tmp_path, JOB, TRAIN=str(train), VERDICT=str(verdict))
    assert ran.of("training")[0][3:5] == ["--status", str(train)]
    assert ran.status == verdict
    assert ran.of("scontrol") == ran.of("sbatch") == []


def test_3_requeues_the_job_and_is_the_status(tmp_path: Path) -> None:
    ran = Ran(tmp_path, JOB, TRAIN="3", VERDICT="3")
    assert ran.of("scontrol") == [["requeue", "12"]]
    assert ran.of("sbatch") == []
    assert ran.status == 3


def test_where_requeueing_is_refused_a_new_job_takes_over_and_counts_on(tmp_path: Path) -> None:
    environment = {"SCONTROL": "1", "DISTMLP_RESTARTS": "4", "SLURM_RESTART_COUNT": "2"}
    ran = Ran(tmp_path, JOB, TRAIN="3", VERDICT="3", **environment)
    assert ran.of("sbatch") == [["--dependency=afterany:12", JOB.script]]
    assert ran.calls[-1][2] == {"DISTMLP_RESTARTS": "7"}
    assert ran.status == 3


def test_a_task_of_an_array_starts_itself_again_and_no_other(tmp_path: Path) -> None:
    """The plain id of one of its tasks is the id of the array."""
    array = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1"}
    ran = Ran(tmp_path, replace(JOB, array_size=3), TRAIN="3", VERDICT="3", SCONTROL="1", **array)
    assert 'run.id="7-1"' in ran.of("srun")[0]
    assert "/shared/runs/digits-mlp/7-1/config.yaml" in ran.of("srun")[0]
    assert ran.of("scontrol") == [["requeue", "12_1"]]
    assert ran.of("sbatch") == [["--dependency=afterany:12_1", "--array=1", JOB.script]]


def test_requeue_false_starts_nothing_again(tmp_path: Path) -> None:
    ran = Ran(tmp_path, job(requeue=False), TRAIN="3", VERDICT="3")
    assert ran.of("scontrol") == ran.of("sbatch") == []
    assert ran.status == 3


@pytest.mark.parametrize(("reason", "again"), [("None", False), ("", False), ("TimeLimit", True)])
def test_a_job_that_was_cancelled_stays_so_and_one_whose_time_is_over_goes_on(
    tmp_path: Path, reason: str, again: bool
) -> None:
    """The shell outlives SIGTERM, waits for the ranks to save, and takes their status, not the signal's."""
    ran = Ran(tmp_path, JOB, terminate=True, TRAIN="3", TRAINS_FOR="0.5", VERDICT="3", REASON=reason)
    assert ran.of("training")[0][3:5] == ["--status", "3"]
    assert ran.of("scontrol") == ([["requeue", "12"]] if again else [])
    assert ("is left to SLURM" in ran.output) is not again
    assert ran.status == (3 if again else 143)  # 3 would start it again where the site has RequeueExit=3


def test_a_variable_that_the_job_lacks_ends_it_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):  # nothing was called
        Ran(tmp_path, job(environment=["NOT_SET_ANYWHERE"]), TRAIN="0", VERDICT="0")


def test_a_failing_line_of_the_user_s_ends_it_before_training(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Ran(tmp_path, job(lines=["false"]), TRAIN="0", VERDICT="0")


def test_pyxis_runs_both_inside_and_acts_outside(tmp_path: Path) -> None:
    ran = Ran(tmp_path, replace(JOB, container=CONTAINERS["pyxis"]), TRAIN="3", VERDICT="3")
    train, requeue = ran.of("srun")
    inside = ["--container-image=my image.sqsh", "--container-mounts=/a b:/a b,/c:/c", "--container-workdir=/work dir"]
    assert train[1:4] == inside
    assert requeue[:6] == ["--nodes=1", "--ntasks=1", "--ntasks-per-node=1", *inside]
    assert requeue[7:10] == ["-m", "distmlp", "requeue"]


def test_apptainer_runs_both_inside_with_the_gpus_for_training_only() -> None:
    text = render(replace(JOB, container=CONTAINERS["apptainer"], gpus_per_node=4)).replace(" \\\n    ", " ")
    where = "--bind '/a b:/a b' --bind /c:/c --pwd '/work dir' 'my image.sif' /opt/python -m distmlp"
    assert f"\nsrun --kill-on-bad-exit=1 apptainer exec --nv {where} train" in text
    assert f"\napptainer exec {where} requeue" in text
