"""`distmlp train`, `evaluate` and `plot` as a user runs them: what they print, what they leave, how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml

NETWORK = """
from torch import nn

class MyNet(nn.Module):
    def __init__(self, num_outputs, input_shape, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Tanh(), nn.Linear(width, num_outputs))

    def forward(self, x):
        return self.layers(x)
"""


def test_the_default_run_learns_and_leaves_its_folder(distmlp: Any, run_folder: Any, metrics: Any, tmp_path: Path):
    # WANDB_MODE unset and nobody logged in: wandb must go offline by itself and ask nothing.
    done = distmlp("train", without=("WANDB_MODE", "WANDB_API_KEY"))
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path / "runs")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["final"]["test/accuracy"] >= 0.97
    assert summary["ended_because"] == "trainer.max_epochs=30 reached"
    assert summary["num_parameters"] == 784 * 128 + 128 + 128 * 10 + 10
    assert summary["best"]["val/accuracy"] >= summary["final"]["val/accuracy"] > 0.9
    assert summary["samples"] == 30 * 1258
    assert str(folder.relative_to(tmp_path)) in done.stdout
    assert "distmlp plot" in done.stdout
    assert "Traceback" not in done.stderr
    lines = metrics(folder)
    assert all({"step", "epoch", "samples", "seconds"} <= line.keys() for line in lines)
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(10, 601, 10))
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["data_fingerprint"].startswith("blake2b:")
    assert environment["versions"]["torch"] == torch.__version__
    assert list((folder / "tensorboard").glob("events.out.*"))
    assert list((folder / "wandb").glob("offline-run-*"))
    assert (folder / "logs" / "rank-00000.log").stat().st_size > 0
    frozen = yaml.safe_load((folder / "config.yaml").read_text())
    assert frozen["run"] == {"root": "runs", "name": "digits-mlp", "id": folder.name}
    # Progress in a pipe: whole lines, no terminal codes, and few of them.
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    assert len(done.stderr.splitlines()) < 20


def test_evaluate_repeat_and_plot(distmlp: Any, run_folder: Any, metrics: Any, tmp_path: Path):
    options = ("trainer.max_epochs=4", "tracking=none", "trainer.log_every_steps=1")
    assert distmlp("train", "run.root=first", "seed=5", *options).returncode == 0
    folder = run_folder(tmp_path / "first")
    summary = json.loads((folder / "summary.json").read_text())

    done = distmlp("evaluate", str(folder))
    assert done.returncode == 0, done.stderr
    assert f"{summary['final']['test/accuracy']:.4f}" in done.stdout
    done = distmlp("evaluate", str(folder / "checkpoints" / "step-00000080"), "split=validation")
    assert f"{summary['final']['val/loss']:.4f}" in done.stdout

    assert distmlp("train", "--config", str(folder / "config.yaml"), "run.root=second").returncode == 0
    again = run_folder(tmp_path / "second")
    losses = [[line.get("train/loss") for line in metrics(place)] for place in (folder, again)]
    assert losses[0] == losses[1]
    assert again.name != folder.name

    done = distmlp("plot", str(folder), str(again))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_a_network_of_the_users_own_needs_the_switch(distmlp: Any, run_folder: Any, tmp_path: Path):
    (tmp_path / "my_package.py").write_text(NETWORK)
    words = ("train", "model._target_=my_package.MyNet", "+model.width=16", "trainer.max_epochs=8", "tracking=none")
    refused = distmlp(*words)
    assert refused.returncode == 2
    assert refused.stderr.strip() == (
        "distmlp: model._target_=my_package.MyNet is code outside distmlp: if you trust it, "
        "add allow_targets=[my_package]"
    )
    assert not (tmp_path / "runs").exists()
    done = distmlp(*words, "allow_targets=[my_package]")
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path / "runs")
    assert json.loads((folder / "summary.json").read_text())["final"]["test/accuracy"] > 0.9
    # A run folder from elsewhere must not import code by itself: the switch is on the command line or nowhere.
    assert "add allow_targets=[my_package]" in distmlp("evaluate", str(folder)).stderr
    assert distmlp("evaluate", str(folder), "allow_targets=[my_package]").returncode == 0
    wrong = distmlp(*words, "allow_targets=[my_package]", "+model.depth=3")
    assert wrong.returncode == 2
    assert "depth" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1


def test_a_killed_run_leaves_whole_files(process_environment: dict[str, str], metrics: Any, tmp_path: Path):
    words = ["train", "trainer.max_epochs=100000", "tracking=none", "checkpoint.every_steps=20", "run.id=killed"]
    command = [sys.executable, "-m", "distmlp", *words]
    folder = tmp_path / "runs" / "digits-mlp" / "killed"
    with subprocess.Popen(command, cwd=tmp_path, env=process_environment, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 120
            while not (folder / "metrics.jsonl").exists() or len(metrics(folder)) < 100:
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.1)
        finally:
            os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    steps = [line["step"] for line in metrics(folder) if "train/loss" in line]
    assert steps == list(range(10, 10 * len(steps) + 1, 10))

    from distmlp.checkpoint.reader import CheckpointReader
    from distmlp.checkpoint.select import newest_sound
    from distmlp.checkpoint.storage import LocalStorage

    storage = LocalStorage(folder / "checkpoints")
    name = newest_sound(storage, report=pytest.fail)
    assert name is not None
    with CheckpointReader(storage, name) as reader:
        assert reader.state["step"] % 20 == 0
        assert reader.whole("weights", "blocks.0.0.weight").isfinite().all()
    yaml.safe_load((folder / "config.yaml").read_text())
    json.loads((folder / "environment.json").read_text())
    assert not (folder / "summary.json").exists()


@pytest.mark.parametrize(("ranks", "told"), [(1, "all"), (2, "last")])  # all of several: test_launch.py
def test_a_signal_ends_a_run_after_its_step(
    ranks: int, told: str, process_environment: dict[str, str], metrics: Any, tmp_path: Path
):
    words = ["train", "trainer.max_epochs=100000", "tracking=none", "run.id=stopped"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"] if ranks == 2 else []
    command = [sys.executable, "-m", *torchrun, "distmlp", *words]
    folder = tmp_path / "runs" / "digits-mlp" / "stopped"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=tmp_path, env=process_environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            end = time.monotonic() + 120
            while not (folder / "metrics.jsonl").exists():
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.1)
            if told == "last":
                # The other rank learns of it from this one, and neither goes on to the test alone.
                (worker,) = [p for p in psutil.Process(process.pid).children() if p.environ().get("RANK") == "1"]
                worker.send_signal(signal.SIGTERM)
            else:
                process.send_signal(signal.SIGINT if ranks == 1 else signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 3 if ranks == 1 else process.returncode != 0, err
    assert ("stopped by a signal to another rank" if told == "last" else "stopped by SIG") in out
    assert "Traceback" not in err.replace("SignalException", "") or ranks == 2  # torchrun's own agent prints one
    summary = json.loads((folder / "summary.json").read_text())
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{summary['steps']:08d}"
    assert metrics(folder)[-1]["step"] <= summary["steps"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "unknown verb trian: did you mean train?"),
        (("train", "trainer.max_epoch=3"), "unknown key trainer.max_epoch: did you mean trainer.max_epochs?"),
        (("train", "data=arrays", "data.inputs=absent.npz"), "absent.npz"),
        (("train", "trainer.accelerator=gpu"), "torch sees no GPU"),
        (("train", "trainer.devices=2", "strategy=single"), "strategy=single is one process, but WORLD_SIZE=2"),
        (("train", "trainer.nodes=2"), "trainer.nodes=2, but this command runs on one: start torchrun --nnodes=2"),
        (("train", "--multirun", "optimizer.lr=1,x"), "job 1 (optimizer.lr=x): optimizer.lr=x: input should be a"),
        (("evaluate", "nowhere"), "nowhere is neither a run folder nor a checkpoint"),
        (("plot", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_ends_with_one_line_and_no_file(distmlp: Any, words: tuple[str, ...], message: str, tmp_path: Path):
    if "trainer.accelerator=gpu" in words and torch.cuda.is_available():
        words = ("train", "trainer.accelerator=mps")
        message = "torch sees no Apple GPU"
    done = distmlp(*words)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_two_ranks_train_the_same_run_as_one(distmlp: Any, run_folder: Any, metrics: Any, tmp_path: Path):
    # 1258 samples in batches of 63: a ragged last batch, and shares of unequal size on two ranks.
    options = (
        "trainer.max_epochs=3",
        "data.global_batch_size=63",
        "trainer.micro_batch_size=20",
        "optimizer=sgd",
        "trainer.log_every_steps=1",
        "trainer.log_sample_ids=true",
        "trainer.gradient_clip_norm=0.5",
        "tracking=none",
        "trainer.progress=false",
    )
    # One process, two that torchrun started, and two that distmlp started itself.
    for root, ranks, devices in (("one", 0, 1), ("two", 2, 2), ("own", 0, 2)):
        done = distmlp("train", f"run.root={root}", f"trainer.devices={devices}", *options, ranks=ranks)
        assert done.returncode == 0, done.stderr
    one, two, own = (metrics(run_folder(tmp_path / root)) for root in ("one", "two", "own"))
    assert [line.get("train/loss") for line in own] == [line.get("train/loss") for line in two]
    assert [line.get("sample_ids") for line in own] == [line.get("sample_ids") for line in two]
    assert done.stdout.count("test/accuracy") == 1
    assert done.stderr.count("distmlp: ") == len(done.stderr.splitlines()) == 3, done.stderr  # rank 0 alone, no agent
    assert len(one) == len(two)
    assert [line.get("sample_ids") for line in one] == [line.get("sample_ids") for line in two]
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "test/loss", "test/accuracy"):
        pairs = [(a[name], b[name]) for a, b in zip(one, two, strict=True) if name in a]
        assert pairs
        assert np.abs(np.diff(pairs)).max() <= 2e-6
    for root in ("two", "own"):
        logs = sorted(path.name for path in run_folder(tmp_path / root).glob("logs/*"))
        assert logs == ["rank-00000.log", "rank-00001.log"]


def test_ranks_report_a_mistake_once(distmlp: Any, tmp_path: Path):
    done = distmlp("train", "strategy=single", ranks=2)
    assert done.returncode != 0
    assert done.stderr.count("strategy=single is one process, but WORLD_SIZE=2: use strategy=ddp") == 1
    assert not (tmp_path / "runs").exists()


def test_published_accuracies_on_mnist(distmlp: Any, run_folder: Any, shared_data: Path, tmp_path: Path):
    words = ("train", "experiment=document_pytorch", "data=mnist", f"data.dir={shared_data / 'mnist'}", "tracking=none")
    for root, more, least in (("sgd", (), 0.86), ("adamw", ("optimizer=adamw",), 0.94)):
        done = distmlp(*words, f"run.root={root}", *more)
        assert done.returncode == 0, done.stderr
        assert "only the t10k files" in done.stderr
        summary = json.loads((run_folder(tmp_path / root) / "summary.json").read_text())
        assert summary["final"]["test/accuracy"] > least
