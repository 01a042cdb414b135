"""The buffer of a save: made once, before the first save where that was asked for."""

from pathlib import Path

import pytest
import torch

from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.saver import Saver
from distmlp.checkpoint.snapshot import Snapshot
from distmlp.checkpoint.storage import LocalStorage
from distmlp.checkpoint.tensor_file import FileLayout
from distmlp.shards import Place, Range, Shard


def shards(values: torch.Tensor) -> list[Shard]:
    return [Shard("weights", Place("w", tuple(values.shape), Range(0, values.numel())), values)]


def test_a_prepared_buffer_is_the_one_that_is_used() -> None:
    snapshot, values = Snapshot(pinned=False), torch.arange(6.0).view(2, 3)
    snapshot.prepare(shards(values))
    address = snapshot.buffer.data_ptr()
    assert not snapshot.views["weights/w"].any()
    snapshot.take(shards(values))
    assert snapshot.buffer.data_ptr() == address
    assert torch.equal(snapshot.views["weights/w"], values)


def test_what_has_another_shape_than_was_prepared_is_saved_too() -> None:
    snapshot, values = Snapshot(pinned=False), torch.arange(6.0)
    snapshot.prepare(shards(torch.zeros(4)))
    snapshot.take(shards(values))
    assert torch.equal(snapshot.views["weights/w"], values)


def test_a_save_is_whole_where_there_was_no_memory_to_prepare_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(layout: FileLayout, buffer: torch.Tensor) -> None:
        raise RuntimeError("not enough memory")

    storage, values = LocalStorage(tmp_path), torch.arange(6.0)
    saver = Saver(
        storage,
        rank=0,
        world_size=1,
        attempt="a",
        asynchronous=True,
        pinned=False,
        on_saved=lambda step, state: None,
    )
    with monkeypatch.context() as patch:
        patch.setattr(FileLayout, "views", fail)
        saver.prepare(shards(values))
        saver.wait()
    saver.save(3, shards(values), {}, {"step": 3})
    saver.wait()
    with CheckpointReader(storage, "step-00000003") as reader:
        assert reader.damages() == []
        assert torch.equal(reader.whole("weights", "w"), values)
