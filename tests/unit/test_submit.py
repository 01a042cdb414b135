"""`distmlp submit`: what it composes, validates and prints, up to where SLURM comes in, which tests/slurm has."""

import subprocess
from pathlib import Path

import pytest
import yaml

from distmlp.apps.submission import Submission, plan_submission
from distmlp.cli import main
from distmlp.compose import compose
from distmlp.errors import ConfigError
from distmlp.run_state import RunState, write_state

Captured = pytest.CaptureFixture[str]
SLURM = ["cluster=slurm", "trainer.accelerator=cpu", "run.id=7"]


@pytest.fixture(autouse=True)
def work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, on a host without SLURM and without a site file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("DISTMLP_CLUSTER_FILE", raising=False)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def planned(*words: str, frozen: Path | None = None) -> Submission:
    return plan_submission([*SLURM, *words], frozen)


def test_a_dry_run_prints_the_script_and_writes_nothing(work_dir: Path, capsys: Captured) -> None:
    assert main(["submit", "--dry-run", *SLURM, "cluster.nodes=2", "trainer.devices=3"]) == 0
    out, error = capsys.readouterr()
    assert out.startswith("#!/bin/bash\n#SBATCH --job-name=digits-mlp\n")
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=3\n" in out
    assert f"#SBATCH --chdir={work_dir}\n" in out
    assert error == "" or error.startswith("distmlp: warning: compute nodes must see these")
    assert files(work_dir) == []


def test_without_sbatch_it_says_so_and_writes_nothing(work_dir: Path, capsys: Captured) -> None:
    assert main(["submit", *SLURM]) == 2
    error = capsys.readouterr().err
    assert error.startswith("distmlp: sbatch cannot be run (No such file or directory): ")
    assert error.count("\n") == 1
    assert files(work_dir) == []


def test_the_frozen_configuration_is_what_train_composes_in_the_job(work_dir: Path) -> None:
    """Train refuses a folder with another one, and compares all but the cluster."""
    words = ["cluster.nodes=2", "trainer.devices=2", "model._target_=my_package.MyNet", "allow_targets=[my_package]"]
    submission = planned(*words, "resume.allow=[seed]", "cluster.time=12:00:00")
    (run,) = submission.runs
    folder = submission.folders[0]
    assert folder == work_dir / "runs" / "digits-custom" / "7"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(run.as_yaml())
    program = "words=(" + submission.script.partition("\nwords=(")[2].partition("\n)\n")[0] + "\n)\n"
    script = f'run_id=7\n{program}printf "%s\\n" "${{words[@]}}"'
    printed = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=True).stdout
    flag, config, *given = printed.splitlines()
    assert (flag, config) == ("--config", str(folder / "config.yaml"))
    assert compose(given, Path(config)).values == run.values
    assert run.config.cluster.model_dump()["time"] == "12:00:00"
    assert (run.config.trainer.nodes, run.config.trainer.devices) == (2, 2)


def test_a_job_with_gpus_does_not_train_without_and_needs_none_here() -> None:
    words = ["cluster=slurm", "run.id=7", "cluster.gpus_per_node=4", "precision=bf16_mixed", "cluster.nodes=2"]
    submission = plan_submission(words, None)
    assert "#SBATCH --gpus-per-node=4\n" in submission.script
    assert submission.runs[0].config.trainer.accelerator == "gpu"


def test_the_site_s_values_lie_between_the_group_and_the_user_s_words(work_dir: Path) -> None:
    site = work_dir / "config" / "distmlp" / "cluster.yaml"
    site.parent.mkdir(parents=True)
    site.write_text("partition: gpu\naccount: site\ntime: 12:00:00\n")
    script = planned("cluster.account=mine").script
    assert "#SBATCH --partition=gpu\n#SBATCH --account=mine\n#SBATCH --time=12:00:00\n" in script
    frozen = work_dir / "frozen.yaml"
    frozen.write_text(compose(["cluster=slurm"]).as_yaml())
    assert "--partition" not in plan_submission(["trainer.accelerator=cpu"], frozen).script
    site.write_text("nodes: many")
    with pytest.raises(ConfigError, match=r"^cluster\.nodes=many: .* \(with the values of .*cluster\.yaml\)$"):
        planned()


def test_an_array_is_a_run_for_each_line_side_by_side(work_dir: Path) -> None:
    (work_dir / "grid.txt").write_text("optimizer.lr=0.5\nmodel=cnn\n")
    submission = planned("cluster.array=grid.txt", "cluster.array_limit=1")
    root = work_dir / "runs" / "digits-mlp"
    assert submission.folders == [root / "7-0", root / "7-1"]
    assert submission.script_file == root / "7-0" / "job.sbatch"
    assert "#SBATCH --array=0-1%1\n" in submission.script
    first, second = (run.config for run in submission.runs)
    assert (first.optimizer.lr, first.model.name, second.model.name) == (0.5, "mlp", "cnn")
    assert first.cluster.model_dump()["array"] is None


def write_grid(folder: Path, *lines: str) -> None:
    (folder / "grid.txt").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cluster=none"], r"^submit needs to know the cluster: give cluster=slurm$"),
        (["cluster.nodes=2", "trainer.nodes=3"], r"^trainer\.nodes=3 and cluster\.nodes=2 disagree"),
        (["cluster.nodes=65"], r"^65 ranks .*, but data\.global_batch_size=64"),
        (["cluster.nodes=2", "strategy=single"], r"^strategy=single is one process, but WORLD_SIZE=2"),
        (["precision=tf32"], r"^precision=tf32 is a format of NVIDIA's tensor cores, and this run is on cpu"),
        (["data=arrays", "data.inputs=gone.npz"], r"^data\.inputs: .*gone\.npz does not exist$"),
        (["run.root=/dev/shm/a"], r"^run\.root: /dev/shm/a lies in the memory of this host"),
        (["cluster.python=/gone/python"], r"^the Python: /gone/python does not exist$"),
        (["cluster.container=/gone.sif"], r"^cluster\.container: /gone\.sif does not exist$"),
        (["cluster.environment=[NOT_SET_ANYWHERE]"], r"^cluster\.environment names NOT_SET_ANYWHERE, which is not set"),
        (["resume=must"], r"^resume=must: .*/7 does not exist"),
        (["cluster.array=gone.txt"], r"^cluster\.array=gone\.txt cannot be read"),
        (["cluster.array=grid.txt"], r"^run 1 of cluster\.array \(optimizer\.rl=1\): unknown key optimizer\.rl"),
        (["cluster.array=grid.txt", "resume=must"], r"^resume=must is for one run, and cluster\.array has many"),
        (
            ["cluster.array=plans.txt"],
            r"^run 1 of cluster\.array has 1 node\(s\) with 2 rank\(s\) each on cpu, and run 0 1",
        ),
    ],
)
def test_a_mistake_is_one_line_and_no_file(work_dir: Path, words: list[str], message: str) -> None:
    write_grid(work_dir, "optimizer.lr=1", "optimizer.rl=1")
    (work_dir / "plans.txt").write_text("seed=1\ntrainer.devices=2\n")
    before = files(work_dir)
    with pytest.raises(ConfigError, match=message) as error:
        planned(*words)
    assert "\n" not in str(error.value)
    assert files(work_dir) == before


@pytest.fixture
def earlier(work_dir: Path) -> Path:
    """The folder of a run that was submitted and has no checkpoint."""
    submission = planned("cluster.time=5")
    (folder,) = submission.folders
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(submission.runs[0].as_yaml())
    write_state(folder, RunState("submitted", job="12"))
    return folder


def test_a_run_may_be_submitted_again_with_more_time_and_not_as_another(earlier: Path) -> None:
    assert "--time=30\n" in planned("cluster.time=30").script
    with pytest.raises(ConfigError, match=r"/7 exists, holds no checkpoint, and is of another configuration"):
        planned("seed=1")
    with pytest.raises(ConfigError, match=r"/7 exists: leave run\.id unset"):
        planned("resume=never")


def test_resume_never_is_checked_here_and_the_job_itself_may_go_on() -> None:
    submission = planned("resume=never")
    assert yaml.safe_load(submission.runs[0].as_yaml())["resume"]["source"] == "auto"
    assert "resume=" not in submission.script


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_keys_of_the_cluster(flag: str, capsys: Captured) -> None:
    assert main(["submit", flag]) == 0
    out = capsys.readouterr().out
    assert "cluster.gpus_per_node" in out
    assert "optimizer.lr" not in out
