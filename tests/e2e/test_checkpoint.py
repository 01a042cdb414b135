"""Weights of another program become a run that is evaluated, compared and exported again, as a user does it."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

PIXELS, DIGITS = 784, 10


def new_network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 24), nn.ReLU(), nn.Linear(24, DIGITS))


def as_ours(network: nn.Module) -> dict[str, torch.Tensor]:
    """By the names of model=mlp."""
    first, last = network[1], network[3]
    return {
        "blocks.0.0.weight": first.weight,
        "blocks.0.0.bias": first.bias,
        "output.weight": last.weight,
        "output.bias": last.bias,
    }


def test_an_imported_run_is_evaluated_and_exported(distmlp: Any, tmp_path: Path) -> None:
    weights = {f"model.{name}": tensor.detach() for name, tensor in as_ours(new_network()).items()}
    torch.save({"state_dict": weights, "global_step": 120, "epoch": 3}, tmp_path / "theirs.ckpt")
    words = ("model=mlp", "model.hidden=[24]", "data=digits", "run.name=taken", "run.id=1")

    done = distmlp("checkpoint", "import", "theirs.ckpt", "--into", "mine", *words)
    assert done.returncode == 0, done.stderr
    assert "4 tensors → mine/taken/1/checkpoints/step-00000120" in done.stdout
    evaluated = distmlp("evaluate", "mine/taken/1", "split=test")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "(step 120)" in evaluated.stdout

    done = distmlp("checkpoint", "export", "mine/taken/1", "--to", "w.safetensors")
    assert done.returncode == 0, done.stderr
    exported = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(exported[name], tensor) for name, tensor in as_ours(new_network()).items())

    done = distmlp("checkpoint", "import", "w.safetensors", "--into", "mine", *words[:-1], "run.id=2")
    assert done.returncode == 0, done.stderr
    done = distmlp("checkpoint", "import", "w.safetensors", "--into", "mine", *words)
    assert (done.returncode, "mine/taken/1 exists: leave run.id unset" in done.stderr) == (2, True)
    assert (tmp_path / "mine/taken/1/checkpoints/step-00000120/manifest.json").is_file()
    done = distmlp("checkpoint", "diff", "mine/taken/1", "mine/taken/2")
    assert done.returncode == 1
    assert re.search(r"^step +120 +0 *$", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1] == "4 tensors are equal, 0 differ"


def test_what_does_not_fit_is_refused_before_a_folder_is_made(distmlp: Any, tmp_path: Path) -> None:
    torch.save(as_ours(new_network()), tmp_path / "theirs.pt")
    done = distmlp("checkpoint", "import", "theirs.pt", "--into", "mine", "model=mlp", "data=digits")
    assert done.returncode == 2
    assert "blocks.0.0.weight has shape (24, 784), the configuration's network (128, 784)" in done.stderr
    assert not (tmp_path / "mine").exists()
