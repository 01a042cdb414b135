"""A cluster for all tests here, in good order before each; where there can be none, they are skipped and say why."""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, why_no_cluster
from disturbed import undisturbed
from training import SMALL, losses

# `make test` has a way to start ranks and a way to lose them of each kind; `make launch` has them all.
EACH_KIND = ("test_faults.py", "test_torchrun.py")
ALL = sorted(path.name for path in Path(__file__).parent.glob("test_*.py"))
collect_ignore = [] if os.environ.get("DISTMLP_LAUNCH") == "all" else [name for name in ALL if name not in EACH_KIND]


@pytest.fixture(scope="session")
def started_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three nodes, as the last test left it."""
    if reason := why_no_cluster():
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("slurm"), 3) as cluster:
        yield cluster


@pytest.fixture
def cluster(started_cluster: Cluster) -> Cluster:
    """A cluster of three idle nodes and no job."""
    started_cluster.reset()
    return started_cluster


@pytest.fixture(scope="session")
def one_process(started_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[int, float]]:
    """Losses of the small run, changed by words, in one process without SLURM: what any way to start it must give."""

    @functools.cache
    def train(*more: str) -> dict[int, float]:
        folder: Path = tmp_path_factory.mktemp("one-process")
        started_cluster.output("python", "-m", "distmlp", *SMALL, *more, folder=folder)
        return losses(folder)

    return train


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The steps of the run that nothing happens to."""
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))
