"""Weights on disk come back to the last bit, every damage is named, and nothing in the folder is ever executed."""

import hashlib
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from distmlp.checkpoint.weights import checkpoints_of, load_into, read_newest, read_weights, write_weights
from distmlp.errors import ConfigError

FILES = ("model.safetensors", "state.json", "manifest.json")
STATE = {"step": 42, "epoch": 1, "samples": 2688}


def some_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "blocks.0.0.weight": torch.randn(3, 5, generator=generator),
        "blocks.0.0.bias": torch.tensor([float("nan"), float("inf"), -0.0]),
        "count": torch.tensor(7),
        "half": torch.randn(4, generator=generator).bfloat16(),
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "checkpoints", 42, some_weights(), STATE)


def bits(tensor: Tensor) -> list[int]:
    """So that NaN equals NaN, and 0 is not -0."""
    values: list[int] = tensor.reshape(-1).view(torch.uint8).tolist()
    return values


def test_weights_and_state_come_back_to_the_last_bit(checkpoint: Path) -> None:
    assert checkpoint.name == "step-00000042"
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted(FILES)
    weights, state = read_weights(checkpoint)
    assert state == STATE
    assert weights.keys() == some_weights().keys()
    for name, tensor in some_weights().items():
        assert (weights[name].dtype, weights[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(weights[name]) == bits(tensor)


def test_any_program_that_reads_safetensors_reads_them(checkpoint: Path) -> None:
    with safe_open(checkpoint / "model.safetensors", framework="np") as file:
        weight = file.get_tensor("blocks.0.0.weight")
    assert weight.tolist() == some_weights()["blocks.0.0.weight"].tolist()


def test_views_transposes_and_tied_weights_are_written(tmp_path: Path) -> None:
    square = torch.arange(9.0).reshape(3, 3)
    weights = {"whole": square, "tied": square, "row": square[1], "turned": square.T}
    read, _ = read_weights(write_weights(tmp_path, 1, weights, {}))
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("flip", [0xFF, 0x01])
def test_every_flipped_byte_is_found(name: str, flip: int, checkpoint: Path) -> None:
    path = checkpoint / name
    sound = path.read_bytes()
    assert len(sound) > 40
    for place in range(len(sound)):
        damaged = bytearray(sound)
        damaged[place] ^= flip
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"is damaged|is not a sound checkpoint|has format"):
            read_weights(checkpoint)
    path.write_bytes(sound)
    read_weights(checkpoint)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_grown_or_gone_is_named(name: str, checkpoint: Path) -> None:
    path = checkpoint / name
    sound = path.read_bytes()
    expected = name if name != "manifest.json" else r"its manifest\.json is missing or unreadable"
    for damaged in (b"", sound[:-1], sound[: len(sound) // 2], sound + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=expected):
            read_weights(checkpoint)
    path.unlink()
    with pytest.raises(ConfigError, match=expected):
        read_weights(checkpoint)


def test_what_is_damaged_is_said_with_what_to_do(checkpoint: Path) -> None:
    (checkpoint / "state.json").write_text("{}")
    message = (
        r"step-00000042/state\.json is damaged: its SHA-256 is not the one in manifest\.json; use another checkpoint$"
    )
    with pytest.raises(ConfigError, match=message):
        read_weights(checkpoint)


@pytest.mark.parametrize("manifest", ["[]", "null", "3", '{"format": "x"}', '{"sha256": 3}', '{"sha256": ["a"]}'])
def test_a_manifest_of_another_shape_is_no_manifest(manifest: str, checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text(manifest)
    with pytest.raises(ConfigError, match=r"is not a sound checkpoint: its manifest\.json is missing or unreadable$"):
        read_weights(checkpoint)


@pytest.mark.parametrize("place", ["nothing", "."])
def test_a_folder_that_is_no_checkpoint_is_named(place: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a sound checkpoint: its manifest\.json is missing"):
        read_weights(tmp_path / place)


def resign(checkpoint: Path, **changes: object) -> None:
    """Writes a manifest that fits what lies in the folder now, as somebody who means harm would."""
    names = ("model.safetensors", "state.json")
    sums = {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in names}
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"sha256": sums} | changes))


def test_another_format_is_named_with_the_one_that_can_be_read(checkpoint: Path) -> None:
    resign(checkpoint, format="distmlp-weights-9")
    with pytest.raises(ConfigError, match=r"has format 'distmlp-weights-9'; this version reads 'distmlp-weights-1'$"):
        read_weights(checkpoint)


class Harm:
    """Unpickled, it makes a folder called harm."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, ("harm",)


def test_a_pickle_is_never_executed(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    harm = pickle.dumps(Harm())
    for name in ("model.pt", "state.pkl", "model.bin", "extra.safetensors"):
        (checkpoint / name).write_bytes(harm)
    assert read_weights(checkpoint)[1] == STATE  # what is not in the manifest is not read
    for name in ("model.safetensors", "state.json"):
        sound = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(harm)
        with pytest.raises(ConfigError, match="is damaged"):
            read_weights(checkpoint)
        resign(checkpoint)
        with pytest.raises(ConfigError, match=r"is not a sound checkpoint: its contents cannot be read$"):
            read_weights(checkpoint)
        (checkpoint / name).write_bytes(sound)
    assert not (tmp_path / "harm").exists()
    pickle.loads(harm)
    assert (tmp_path / "harm").exists()  # so it would have done harm


# Interrupted writes


def test_what_a_killed_write_left_is_no_checkpoint_and_is_replaced(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    left = checkpoints / ".step-00000043.tmp"
    write_weights(checkpoints, 42, some_weights(), STATE)
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half of")
    (left / "more").write_text("")
    assert checkpoints_of(tmp_path)[0].name == "step-00000042"
    written = write_weights(checkpoints, 43, some_weights(), {"step": 43})
    assert not left.exists()
    assert checkpoints_of(tmp_path)[0] == written
    assert sorted(path.name for path in written.iterdir()) == sorted(FILES)


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from distmlp.checkpoint.weights import read_weights, write_weights

def check(folder):
    for path in folder.glob("step-*"):
        weights, state = read_weights(path)
        assert weights["a"].tolist() == [state["step"]] * 1000
        assert {file.name for file in path.iterdir()} == {"model.safetensors", "state.json", "manifest.json"}

torch.set_num_threads(1)
random.seed(0)
folder, most = Path(sys.argv[1]), 0
for trial in range(60):
    child = os.fork()
    if child == 0:
        for step in range(10**6):
            write_weights(folder, step % 2, {"a": torch.full((1000,), float(step))}, {"step": step})
    time.sleep(random.uniform(0.005, 0.02) * (1 if most == 2 else 1 + trial))  # longer where the machine is busy
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    check(folder)
    most = max(most, len(list(folder.glob("step-*"))))
assert most == 2
"""


def test_a_process_killed_while_it_writes_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLS, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_full_disk_leaves_nothing_of_the_new_and_all_of_the_old(
    tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    write_weights(tmp_path, 1, {"a": torch.ones(2)}, STATE)
    for num_bytes in (20, 300):
        with largest_file(num_bytes), pytest.raises(OSError, match="File too large"):
            write_weights(tmp_path, 1, {"a": torch.zeros(1000)}, STATE)
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    with largest_file(100), pytest.raises(OSError, match="File too large"):
        write_weights(tmp_path, 1, {"a": torch.zeros(2)}, {"long": "x" * 200})
    assert read_weights(tmp_path / "step-00000001")[0]["a"].tolist() == [1.0, 1.0]


def test_the_newest_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    for step in (9, 100, 99_999_999, 100_000_000, 20):
        write_weights(tmp_path / "checkpoints", step, {"a": torch.zeros(1)}, {"step": step})
    assert checkpoints_of(tmp_path)[0].name == "step-100000000"
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ConfigError, match=r"holds no checkpoint: training writes one at its end$"):
        checkpoints_of(tmp_path)


# Into a network


def network(hidden: int = 4) -> nn.Module:
    torch.manual_seed(hidden)
    return nn.Sequential(nn.Linear(3, hidden), nn.BatchNorm1d(hidden))


def test_a_network_takes_all_weights_and_buffers(tmp_path: Path) -> None:
    source, target = network(), network()
    with torch.no_grad():
        for tensor in source.state_dict().values():
            tensor.add_(1)
    read, _ = read_weights(write_weights(tmp_path, 1, source.state_dict(), {}))
    load_into(target, read, tmp_path)
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name


def test_what_differs_is_named_and_nothing_is_changed() -> None:
    weights = network().state_dict()
    without = {name: tensor for name, tensor in weights.items() if name != "0.bias"}
    cases = [
        (network(), without, r"^somewhere: 0\.bias is only in the network$"),
        (network(), weights | {"2.weight": torch.zeros(1)}, r"^somewhere: 2\.weight is only in the checkpoint$"),
        (network(5), weights, r"^somewhere: 0\.bias has shape \(4,\), the network's is \(5,\)$"),
    ]
    for target, given, message in cases:
        before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
        with pytest.raises(ConfigError, match=message):
            load_into(target, given, Path("somewhere"))
        assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("distmlp"), "propagate", True)
    older = write_weights(tmp_path / "checkpoints", 1, {"w": torch.ones(2)}, {"step": 1})
    newer = write_weights(tmp_path / "checkpoints", 2, {"w": torch.zeros(2)}, {"step": 2})
    assert read_newest(tmp_path)[0] == newer
    (newer / "model.safetensors").write_bytes(b"torn")
    found, weights, state = read_newest(tmp_path)
    assert (found, state["step"], weights["w"].sum()) == (older, 1, 2)
    assert f"{newer / 'model.safetensors'} is damaged" in caplog.text
    (older / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="holds no sound checkpoint"):
        read_newest(tmp_path)
