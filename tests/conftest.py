"""What all tests share: where the repository and its data are, and what may be skipped where."""

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NO_DATA = "no data sets in"
GPU_TESTS = REPOSITORY / "tests" / "gpu"

# Set before any test imports wandb, and inherited by every process that a test starts.
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data(repository: Path) -> Path:
    """The folder of data sets that stands beside the repository on some machines."""
    folder = repository.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{NO_DATA} {folder}")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Keep torch to one thread, so that tests running side by side share the cores; torch is not imported for it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `gpu` where there is no CUDA device."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test skip itself in the CI."""
    report = yield
    if not hasattr(report, "wasxfail"):
        forbid_skip(report, item.path)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let no file skip itself in the CI."""
    report = yield
    forbid_skip(report, collector.path)
    return report


def forbid_skip(report: pytest.TestReport | pytest.CollectReport, path: Path) -> None:
    """Turn a skip into a failure that says its reason, when DISTMLP_CI=1 and the file is not under tests/gpu."""
    if os.environ.get("DISTMLP_CI") != "1" or not report.skipped or path.is_relative_to(GPU_TESTS):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if NO_DATA in reason:  # optional: the data sets stand beside the repository on some machines only
        return
    report.outcome = "failed"
    report.longrepr = f"DISTMLP_CI=1 allows no skip outside tests/gpu, and this one was skipped: {reason}"
