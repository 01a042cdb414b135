"""Exported files hold the checkpoint's weights to the last bit, appear whole or not at all, and take nobody's place."""

import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from distmlp.checkpoint.storage import LocalStorage
from distmlp.checkpoint.whole import write_whole
from distmlp.cli import main


def weights() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    values = torch.randn(4, 6, generator=draw)
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool)
    return {f"as.{str(dtype)[6:]}": values.to(dtype) for dtype in dtypes} | {
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "odd": torch.arange(3, dtype=torch.uint8),
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    average = {"as.float32": torch.full((4, 6), 0.5)}
    name = write_whole(LocalStorage(tmp_path), 3, {"weights": weights(), "average": average}, {"step": 3})
    return tmp_path / name


def same(tensor: Tensor, expected: Tensor) -> bool:
    bits = [one.contiguous().reshape(-1).view(torch.uint8) for one in (tensor, expected)]
    return tensor.dtype == expected.dtype and tensor.shape == expected.shape and torch.equal(*bits)


def export(*words: object) -> int:
    return main(["checkpoint", "export", *map(str, words)])


def test_safetensors_are_the_weights(checkpoint: Path, tmp_path: Path) -> None:
    assert export(checkpoint, "--to", tmp_path / "new/folder") == 0
    file = tmp_path / "new/folder/model.safetensors"
    read = load_file(file)
    assert read.keys() == weights().keys()
    assert all(same(read[name], tensor) for name, tensor in weights().items())
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}


@pytest.mark.parametrize("mmap", [False, True])
def test_a_torch_file_is_the_weights(checkpoint: Path, tmp_path: Path, mmap: bool) -> None:
    file = tmp_path / "w.pt"
    assert export(checkpoint, "--to", file, "--format", "torch") == 0
    read = torch.load(file, weights_only=True, mmap=mmap)
    assert read.keys() == weights().keys()
    assert all(same(read[name], tensor) for name, tensor in weights().items())
    read["as.float32"].zero_()  # memory of its own


def test_a_torch_file_has_the_form_of_torch_save(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, "--to", tmp_path / "own.pt", "--format", "torch")
    torch.save(torch.load(tmp_path / "own.pt"), tmp_path / "theirs.pt")
    contents = []
    for name in ("own", "theirs"):
        with zipfile.ZipFile(tmp_path / f"{name}.pt") as archive:
            assert archive.testzip() is None
            files = {path.filename.partition("/")[2]: archive.read(path) for path in archive.infolist()}
        pickled = [(op.name, value) for op, value, _ in pickletools.genops(files.pop("data.pkl"))]
        globals_used = {value for name, value in pickled if name == "GLOBAL"}
        contents.append((globals_used, {key: data for key, data in files.items() if not key.startswith(".data")}))
    assert contents[0] == contents[1]


def test_the_average_takes_the_place_of_what_has_one(checkpoint: Path, tmp_path: Path) -> None:
    assert export(checkpoint, "--to", tmp_path / "a.safetensors", "--average") == 0
    read = load_file(tmp_path / "a.safetensors")
    assert read["as.float32"].eq(0.5).all()
    assert same(read["as.bfloat16"], weights()["as.bfloat16"])


def test_without_an_average_that_is_said(tmp_path: Path, capsys: Any) -> None:
    name = write_whole(LocalStorage(tmp_path), 3, {"weights": weights()}, {"step": 3})
    assert export(tmp_path / name, "--to", tmp_path / "a.pt", "--format", "torch", "--average") == 2
    assert "holds no moving average of the weights: trainer.ema_decay was not set" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["safetensors", "torch", "huggingface"])
def test_what_is_there_stays(form: str, checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / {"safetensors": "x.safetensors", "torch": "x.pt", "huggingface": "x"}[form]
    target.write_text("mine")
    assert export(checkpoint, "--to", target, "--format", form) == 2
    assert f"{target} exists and stays as it is" in capsys.readouterr().err
    assert target.read_text() == "mine"


def test_a_damaged_checkpoint_is_not_exported(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    file = checkpoint / "tensors-00000-of-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert export(checkpoint, "--to", tmp_path / "x.safetensors") == 2
    assert "is damaged" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_a_full_disk_leaves_nothing(
    form: str, checkpoint: Path, tmp_path: Path, capsys: Any, largest_file: Any
) -> None:
    target = tmp_path / "out" / ("x.pt" if form == "torch" else "x.safetensors")
    with largest_file(300):
        assert export(checkpoint, "--to", target, "--format", form) == 2
    assert f"{target} cannot be written: File too large" in capsys.readouterr().err
    assert list(target.parent.iterdir()) == []


PEAK = """
import resource, sys
from distmlp.cli import main
import torch, distmlp.export.export, distmlp.apps.checkpoint_export
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert main(["checkpoint", "export", *sys.argv[1:]]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_memory_holds_one_tensor(form: str, tmp_path: Path, repository: Path) -> None:
    """24 tensors of 4 MB each, of which never more than a few are in memory."""
    tensors = {f"blocks.{index}": torch.randn(1024, 1024) for index in range(24)}
    name = write_whole(LocalStorage(tmp_path), 3, {"weights": tensors}, {"step": 3})
    suffix = "pt" if form == "torch" else "safetensors"
    words = [str(tmp_path / name), "--to", str(tmp_path / f"x.{suffix}"), "--format", form]
    command = [sys.executable, "-c", PEAK, *words]
    done = subprocess.run(command, env={"PYTHONPATH": str(repository)}, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) * 1024 < 48e6
