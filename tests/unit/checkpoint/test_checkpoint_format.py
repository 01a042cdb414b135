"""docs/checkpoint-format.md says what is written, and its program reads it."""

import hashlib
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from distmlp.checkpoint.snapshot import Snapshot
from distmlp.checkpoint.storage import LocalStorage
from distmlp.checkpoint.writer import StepWriter
from distmlp.shards import Box, Place, Range, Shard

WEIGHT = torch.arange(30.0).view(5, 6)
BIAS = torch.randn(7, generator=torch.Generator().manual_seed(0)).bfloat16()
STATE = {"step": 42}


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs/checkpoint-format.md").read_text()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two ranks hold columns of a matrix and halves of a vector; a count is rank 0's."""
    storage, stop = LocalStorage(tmp_path), threading.Event()
    writers = [StepWriter(storage, 42, attempt="a", rank=r, world_size=2, stop_waiting=stop) for r in (0, 1)]
    for rank, writer in enumerate(writers):
        columns = WEIGHT[:, 4 * rank : 4 + 4 * rank].contiguous()
        box = Box((0, 4 * rank), tuple(columns.shape))
        snapshot = Snapshot(pinned=False)
        snapshot.take(
            [
                Shard("weights", Place("weight", (5, 6), box), columns),
                Shard("optimizer/exp_avg", Place("bias", (7,), Range(0, 7), rank, 2), BIAS),
                Shard("weights", Place("count", (), Range(0, 1), rank, 2), torch.tensor(9)),
            ]
        )
        writer.write_part(snapshot, {"random": rank})
    writers[0].commit(STATE)
    return tmp_path / writers[0].name


def test_its_program_reads_boxes_ranges_and_scalars(page: str, checkpoint: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    known: dict[str, Any] = {}
    exec(program, known)
    assert known["read"](checkpoint, "weights/weight").tolist() == WEIGHT.tolist()
    assert known["read"](checkpoint, "optimizer/exp_avg/bias").tolist() == BIAS.float().tolist()
    assert known["read"](checkpoint, "weights/count").tolist() == 9


def test_it_names_every_field_that_is_written(page: str, checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    tensors = list(manifest["tensors"].values())
    pieces = [piece for tensor in tensors for piece in tensor["pieces"]]
    written = [manifest, *manifest["files"].values(), *tensors, *pieces]
    named = set(re.findall(r"`(\w+)`", page))
    assert {key for values in written for key in values} <= named
    assert manifest["version"] == int(re.findall(r"^# .*version (\d+)$", page, re.MULTILINE)[0])


def test_the_manifest_is_summed_as_it_says(checkpoint: Path) -> None:
    text = (checkpoint / "manifest.json").read_text()
    values = json.loads(text)
    assert json.dumps(values, sort_keys=True, separators=(",", ":")) + "\n" == text
    emptied = json.dumps(values | {"sha256": ""}, sort_keys=True, separators=(",", ":")) + "\n"
    assert hashlib.sha256(emptied.encode()).hexdigest() == values["sha256"]
