"""Nothing in a checkpoint is ever executed: a pickle that would leave a mark when loaded lies in every place."""

import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from distmlp.checkpoint.manifest import MANIFEST
from distmlp.checkpoint.reader import STATE, CheckpointReader
from distmlp.checkpoint.select import newest_sound
from distmlp.checkpoint.storage import LocalStorage
from distmlp.errors import ConfigError
from distmlp.shards import Place, Range

SHARD = "tensors-00000-of-00002.safetensors"


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


def as_pickle(path: Path, canary: Canary) -> None:
    path.write_bytes(pickle.dumps(canary))


def as_torch(path: Path, canary: Canary) -> None:
    torch.save({"weights": canary}, path)


def as_numpy(path: Path, canary: Canary) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([canary], dtype=object), allow_pickle=True)


KINDS = [as_pickle, as_torch, as_numpy]
PLACES = [
    SHARD,
    STATE,
    MANIFEST,
    "extra.pkl",
    "weights.pt",
    "last.ckpt",
    "array.npy",
    "__init__.py",
    "../step-00000030",
]


def read_everything(storage: LocalStorage, name: str) -> None:
    with suppress(ConfigError), CheckpointReader(storage, name) as checkpoint:
        checkpoint.damages()
        checkpoint.strangers()
        for read in (
            lambda: checkpoint.state,
            lambda: checkpoint.whole("weights", "w"),
            lambda: checkpoint.read("weights", Place("w", (3, 4), Range(1, 9))),
        ):
            with suppress(ConfigError):
                read()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_canary_would_sing(tmp_path: Path, kind) -> None:
    kind(tmp_path / "x", Canary(tmp_path / "mark"))
    load = {
        as_pickle: lambda path: pickle.loads(path.read_bytes()),
        as_torch: lambda path: torch.load(path, weights_only=False),
        as_numpy: lambda path: np.load(path, allow_pickle=True),
    }
    load[kind](tmp_path / "x")
    assert (tmp_path / "mark").is_dir()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("place", PLACES)
def test_no_pickle_is_loaded(local: LocalStorage, save, small, tmp_path: Path, place: str, kind) -> None:
    for step in (10, 20):
        save(local, small, step=step)
    kind(local.root / "step-00000020" / place, Canary(tmp_path / "mark"))
    read_everything(local, "step-00000020")
    assert newest_sound(local, lambda line: None) in ("step-00000010", "step-00000020")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_pickle_is_loaded_that_the_manifest_vouches_for(
    local: LocalStorage, save, small, tmp_path: Path, kind, monkeypatch
) -> None:
    """The writer itself was deceived: all sums are right."""
    import distmlp.checkpoint.writer as writer

    kind(tmp_path / "x", Canary(tmp_path / "mark"))
    text = (tmp_path / "x").read_bytes()
    chunks = writer._chunks

    def deceived(header: bytes, data: memoryview):
        part = b"".join(chunks(header, data))
        yield memoryview(text.ljust(len(part), b"\0")[: len(part)])

    monkeypatch.setattr(writer, "_chunks", deceived)
    name = save(local, small)
    with CheckpointReader(local, name) as checkpoint:
        assert checkpoint.damages() == []
    read_everything(local, name)
    assert not (tmp_path / "mark").exists()
