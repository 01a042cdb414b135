"""The wheel, as a user gets it: installed into an empty environment and run far from the repository."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import distmlp

# Generous, because the real dependencies are installed.
pytestmark = pytest.mark.timeout(600)


def run(*command: str | Path, folder: Path) -> str:
    """Run a command in `folder` without this process's Python path; return its output, or fail with it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))} left with {done.returncode}:\n{done.stdout[-8000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the working tree."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, folder=repository)
    [built] = folder.glob("*.whl")
    return built


def test_wheel_carries_the_package_its_configuration_and_nothing_else(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "distmlp/conf/config.yaml" in names
    configurations = {f"distmlp/{path.relative_to(repository)}" for path in (repository / "conf").rglob("*.yaml")}
    modules = {str(path.relative_to(repository)) for path in (repository / "distmlp").rglob("*.py")}
    assert configurations | modules <= names
    metadata = f"distmlp-{distmlp.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"distmlp", metadata}
    assert f"{metadata}/licenses/LICENSE" in names


def test_installed_wheel_trains(wheel: Path, repository: Path, tmp_path: Path) -> None:
    environment, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    venv.create(environment, with_pip=True, symlinks=True)
    constraints = repository / "constraints.txt"
    [torch] = [line for line in constraints.read_text().splitlines() if line.startswith("torch==")]
    install: list[str | Path] = [
        environment / "bin" / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "--no-compile",
        "--use-pep517",
    ]
    for package in (torch, wheel):
        run(*install, "-c", constraints, package, folder=elsewhere)

    run(environment / "bin" / "distmlp", "train", "trainer.max_epochs=2", "tracking=none", folder=elsewhere)

    [metrics] = elsewhere.glob("runs/*/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert lines
    assert all({"step", "epoch", "samples", "seconds"} <= line.keys() for line in lines)
    assert any("train/loss" in line for line in lines)
    assert (metrics.parent / "config.yaml").is_file()
