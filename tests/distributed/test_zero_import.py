"""Checkpoints of DeepSpeed's own ranks give their weights, and what is put into them runs only where it is trusted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from distmlp.errors import ConfigError
from distmlp.foreign.names import match
from distmlp.foreign.opened import open_source

PART = "global_step3/zero_pp_rank_1_mp_rank_00_optim_states.pt"


@pytest.fixture(scope="module")
def folder(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`zero1` to `zero3`, each beside its weights."""
    place = tmp_path_factory.mktemp("zero")
    worker = repository / "tests/distributed/run_zero_checkpoint.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(worker), str(place)], env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return place


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("trust", [False, True])
def test_the_weights_are_put_together(folder: Path, stage: int, trust: bool) -> None:
    expected = load_file(folder / f"zero{stage}.safetensors")
    for place in (folder / f"zero{stage}", folder / f"zero{stage}/global_step3"):
        source = open_source(place, trust)
        assert (source.step, source.samples) == (3, 24)
        assert "which can run code" in source.warning
        found = match(source, network(), None)
        for name, tensor in expected.items():
            assert torch.equal(found[name].read(), tensor), name


class Canary:
    """Unpickled without restriction, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.folder), 0o777, True)  # it may be read more than once


@pytest.mark.parametrize("file", [PART, "global_step3/mp_rank_00_model_states.pt"])
def test_code_in_a_part_runs_only_where_it_is_trusted(folder: Path, file: str, tmp_path: Path) -> None:
    place, harm = tmp_path / "zero2", tmp_path / "harm"
    shutil.copytree(folder / "zero2", place)
    values = torch.load(place / file, weights_only=False)
    torch.save(values | {"more": Canary(harm)}, place / file)
    with pytest.raises(ConfigError, match=r"it names os\.makedirs; where you trust who wrote it, give --trust-source$"):
        open_source(place, False)
    assert not harm.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    open_source(place, True)
    assert harm.exists()


def test_a_missing_part_is_said(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "zero2", tmp_path / "zero2")
    (tmp_path / "zero2" / PART).unlink()
    with pytest.raises(ConfigError, match=r"is no whole ZeRO checkpoint: Expected 2 of .* but found 1 files"):
        open_source(tmp_path / "zero2", False)
