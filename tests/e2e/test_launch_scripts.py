"""The recipes of `launch/`: each trains the run that one process trains, and saves when it is stopped."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

SHORT = ("trainer.max_steps=20", "trainer.log_every_steps=5", "tracking=none", "trainer.accelerator=cpu")
ENDLESS = ("trainer.max_epochs=100000", "tracking=none", "trainer.accelerator=cpu")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(repository: Path, tmp_path: Path, process_environment: dict[str, str]) -> Iterator[Start]:
    """`start("laptop.sh", word, …, NPROC="2")` in ``tmp_path``, as a terminal does: in a process group of its own."""
    started: list[subprocess.Popen[str]] = []
    environment = {"DISTMLP_PYTHON": sys.executable, "TMPDIR": str(tmp_path)}

    def call(script: str, *words: str, **settings: str) -> subprocess.Popen[str]:
        command = [repository / "launch" / script, *words]
        pipe, everything = subprocess.PIPE, process_environment | environment | settings
        process = subprocess.Popen(
            command, cwd=tmp_path, env=everything, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def port() -> str:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def hosts(tmp_path: Path, repository: Path) -> Iterator[dict[str, str]]:
    """Settings for multi_node.sh: a hostfile of two hosts, both this machine, which a real sshd lets it into."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if not sshd or not shutil.which("ssh"):
        pytest.skip("needs OpenSSH's client and server, as from apt-get install openssh-server")
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = f"""
        Port {port}
        ListenAddress 127.0.0.1
        HostKey {folder}/host_key
        AuthorizedKeysFile {folder}/user_key.pub
        PidFile none
        StrictModes no
        UsePAM no"""
    client = f"""
        HostName 127.0.0.1
        Port {port}
        IdentityFile {folder}/user_key
        StrictHostKeyChecking no
        UserKnownHostsFile /dev/null
        LogLevel ERROR"""
    # ssh brings no environment along: what the tests need is said by a python that sets it.
    python = f"export PYTHONPATH={shlex.quote(str(repository))} OMP_NUM_THREADS=1; exec {sys.executable}"
    ssh = f"exec {shutil.which('ssh')} -F {folder}/client"
    texts = {"server": server, "client": client, "hosts": "# two names of one machine\none slots=1\n\ntwo\n"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    for name, text in {"python": python, "ssh": ssh}.items():
        (folder / name).write_text(f'#!/bin/sh\n{text} "$@"\n')
        (folder / name).chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it as root
    process = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "server"], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(port))
        yield {
            "HOSTFILE": str(folder / "hosts"),
            "DISTMLP_PYTHON": str(folder / "python"),
            "PATH": f"{folder}:{os.environ['PATH']}",
        }
    finally:
        process.terminate()
        process.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def finish(process: "subprocess.Popen[str]", status: int = 0) -> str:
    out, err = process.communicate(timeout=200)
    assert process.returncode == status, out + err
    return err


def losses(folder: Path, run_id: str) -> dict[int, float]:
    (file,) = folder.glob(f"runs/*/{run_id}/metrics.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


@pytest.fixture(scope="module")
def expected(repository: Path, tmp_path_factory: pytest.TempPathFactory, process_environment: dict[str, str]) -> Any:
    """The losses of one process."""
    folder = tmp_path_factory.mktemp("laptop")
    environment = process_environment | {"DISTMLP_PYTHON": sys.executable}
    subprocess.run(
        [repository / "launch" / "laptop.sh", *SHORT, "run.id=one"],
        cwd=folder,
        env=environment,
        check=True,
        timeout=200,
    )
    found = losses(folder, "one")
    assert max(found) == 20
    return pytest.approx(found, abs=1e-5)


def test_single_node(start: Start, tmp_path: Path, expected: Any):
    finish(start("single_node.sh", *SHORT, "run.id=two", NPROC="2"))
    assert losses(tmp_path, "two") == expected
    assert len(list(tmp_path.glob("runs/*/two/logs/rank-*.log"))) == 2


def test_deepspeed(start: Start, tmp_path: Path, expected: Any, port: str):
    finish(start("deepspeed.sh", *SHORT, "run.id=two", NPROC="2", PORT=port))
    assert losses(tmp_path, "two") == expected
    assert len(list(tmp_path.glob("runs/*/two/logs/rank-*.log"))) == 2


def test_the_same_line_on_two_nodes(start: Start, tmp_path: Path, expected: Any, port: str):
    settings = {"NODES": "2", "HEAD": "localhost", "PORT": port, "NPROC": "1"}
    nodes = [start("multi_node.sh", *SHORT, "run.id=two", **settings) for _ in range(2)]
    for node in nodes:
        finish(node)
    assert losses(tmp_path, "two") == expected
    assert len(list(tmp_path.glob("runs/*/two/logs/rank-*.log"))) == 2


def test_two_hosts_by_ssh(start: Start, tmp_path: Path, expected: Any, port: str, hosts: dict[str, str]):
    settings = hosts | {"HEAD": "localhost", "PORT": port, "NPROC": "1"}
    finish(start("multi_node.sh", *SHORT, "run.id=two", **settings))
    assert losses(tmp_path, "two") == expected
    assert len(list(tmp_path.glob("runs/*/two/logs/rank-*.log"))) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_stops_the_starting_machine_saves_on_all_hosts(
    start: Start, tmp_path: Path, port: str, hosts: dict[str, str], number: signal.Signals
):
    settings = hosts | {"HEAD": "localhost", "PORT": port, "NPROC": "1"}
    run = start("multi_node.sh", *ENDLESS, "run.id=x", **settings)
    out = stop(run, tmp_path, number)
    assert number == signal.SIGKILL or out.count("stopped by SIGTERM") == 1


def test_ctrl_c_saves_under_deepspeeds_launcher(start: Start, tmp_path: Path, port: str):
    run = start("deepspeed.sh", *ENDLESS, "run.id=x", NPROC="2", PORT=port)
    assert stop(run, tmp_path, signal.SIGINT).count("stopped by SIGUSR1") == 1
    assert run.returncode == 3


def stop(run: "subprocess.Popen[str]", folder: Path, number: signal.Signals) -> str:
    """Stops a run that trains, as a terminal does. It saves, and none of its processes is left. What it printed."""
    wait_for(lambda: any(folder.glob("runs/*/x/metrics.jsonl")) or run.poll() is not None)
    ranks = [one for one in psutil.process_iter() if is_rank(one, folder)]
    assert ranks, run.communicate()
    os.killpg(run.pid, number)
    out, err = run.communicate(timeout=60)
    assert run.returncode != 0
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive, out + err
    summaries = list(folder.glob("runs/*/x/summary.json"))
    assert summaries, out + err
    summary = summaries[0]
    steps = json.loads(summary.read_text())["steps"]
    assert (summary.parent / "checkpoints" / f"step-{steps:08d}" / "manifest.json").exists()
    return out


def is_rank(process: psutil.Process, folder: Path) -> bool:
    try:
        return "distmlp" in process.cmdline() and Path(process.cwd()) == folder
    except psutil.Error:
        return False


@pytest.mark.parametrize(
    ("missing", "settings"),
    [
        ("PORT", {"NODES": "2", "HEAD": "a"}),
        ("NODES", {"HEAD": "a", "PORT": "1"}),
        ("HEAD", {"NODES": "2", "PORT": "1"}),
        ("HOSTFILE", {"HOSTFILE": "no-such-file", "PORT": "1"}),
    ],
)
def test_a_missing_setting_is_one_line(start: Start, missing: str, settings: dict[str, str]):
    line = finish(start("multi_node.sh", **settings), status=2)
    assert line.startswith(f"multi_node.sh: {missing}")
    assert line.count("\n") == 1


def test_no_gpu_is_one_line(start: Start):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for script in ("single_node.sh", "deepspeed.sh", "multi_node.sh"):
        line = finish(start(script, NODES="2", HEAD="a", PORT="1"), status=2)
        assert "NPROC=2" in line
        assert line.count("\n") == 1
