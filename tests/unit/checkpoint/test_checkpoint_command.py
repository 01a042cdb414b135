"""`distmlp checkpoint list`, `show`, `verify` and `diff`, as the command line calls them, on small checkpoints."""

import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distmlp.checkpoint.difference import difference
from distmlp.checkpoint.places import find_checkpoints, open_sound
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.snapshot import Snapshot
from distmlp.checkpoint.storage import LocalStorage
from distmlp.checkpoint.whole import write_whole
from distmlp.checkpoint.writer import StepWriter
from distmlp.cli import main
from distmlp.errors import ConfigError
from distmlp.shards import Box, Place, Range, Shard

CONFIGURATION: dict[str, Any] = {
    "seed": 0,
    "run": {"root": "runs", "name": None, "id": None},
    "model": {"name": "mlp", "hidden": [16]},
    "data": {"name": "digits", "global_batch_size": 64},
    "optimizer": {"name": "momentum", "lr": 0.05},
}


def some_state(**changes: Any) -> dict[str, Any]:
    """A `state.json` of a step."""
    return {
        "step": 42,
        "epoch": 1,
        "samples": 2688,
        "metrics": {"val/loss": 0.25, "train/loss": 0.5},
        "best": {"val/loss": 0.25},
        "learning_rates": [0.05],
        "strategy": "fsdp2",
        "world_size": 4,
        "precision": "bf16_mixed",
        "configuration": CONFIGURATION,
        "versions": {"torch": "2.13.0"},
        "git_commit": "0123456789abcdef",
        "saved_at": "2026-11-24T08:00:00+0000",
        "seconds": 12.0,
        **changes,
    }


def some_tensors(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Weights, an average and an optimizer state, by kind."""
    draw = torch.Generator().manual_seed(seed)
    weights = {
        "blocks.0.weight": torch.randn(6, 5, generator=draw),
        "blocks.0.bias": torch.tensor([float("nan"), float("inf"), -0.0]),
        "count": torch.tensor(7),
        "half": torch.randn(4, generator=draw).bfloat16(),
    }
    average = {"blocks.0.weight": torch.randn(6, 5, generator=draw)}
    return {"weights": weights, "average": average, "optimizer/exp_avg": {"half": torch.randn(4, generator=draw)}}


def run_with(folder: Path, *steps: int, tensors: Any = None, **changes: Any) -> Path:
    """A run folder with checkpoints of these steps."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("run: {}\n")
    for step in steps:
        write_whole(
            LocalStorage(folder / "checkpoints"), step, tensors or some_tensors(), some_state(step=step, **changes)
        )
    return folder


def part(kind: str, name: str, tensor: Tensor, rank: int, world_size: int) -> Shard:
    """Columns of a matrix, a range of anything else."""
    shape = tuple(tensor.shape)
    if tensor.dim() != 2:
        return Shard(kind, Place(name, shape, Range(0, tensor.numel()), rank, world_size), tensor)
    first, after = (shape[1] * r // world_size for r in (rank, rank + 1))
    place = Place(name, shape, Box((0, first), (shape[0], after - first)))
    return Shard(kind, place, tensor[:, first:after].contiguous())


def written_by(world_size: int, folder: Path, **changes: Any) -> Path:
    """A checkpoint of `some_tensors` that so many ranks wrote."""
    storage = LocalStorage(folder)
    writers = [
        StepWriter(storage, 42, attempt="a", rank=r, world_size=world_size, stop_waiting=threading.Event())
        for r in range(world_size)
    ]
    named = [(kind, name, tensor) for kind, ours in some_tensors().items() for name, tensor in ours.items()]
    for rank, writer in enumerate(writers):
        snapshot = Snapshot(pinned=False)
        snapshot.take([part(*one, rank, world_size) for one in named])
        writer.write_part(snapshot, {})
    writers[0].commit(some_state(**changes))
    return folder / writers[0].name


def flip(path: Path, offset: int) -> None:
    """Changes one bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit status and output, of which no line of a table is wider than the terminal."""
    status = main(["checkpoint", *map(str, words)])
    out = capsys.readouterr()
    return status, out.out + out.err


def test_whole_tensors_come_back_to_the_last_bit(tmp_path: Path) -> None:
    name = write_whole(LocalStorage(tmp_path), 1200, some_tensors(), some_state(ranks=[{"random": 3}]))
    assert name == "step-00001200"
    with CheckpointReader(LocalStorage(tmp_path), name) as reader:
        assert reader.kinds() == {"weights", "average", "optimizer/exp_avg"}
        for kind, tensors in some_tensors().items():
            for key, tensor in tensors.items():
                read = reader.whole(kind, key)
                assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
                assert torch.equal(read.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
        assert reader.state["ranks"] == [{"random": 3}]


def test_list_has_a_row_for_each_checkpoint_and_marks_the_damaged(tmp_path: Path, capsys: Any) -> None:
    run = run_with(tmp_path / "run", 42, 1200, 90)
    (run / "checkpoints/.step-00000099.x.tmp").mkdir()
    flip(run / "checkpoints/step-00000090/manifest.json", 40)
    (run / "quarantine/step-00000007").mkdir(parents=True)
    status, out = call(capsys, "list", run)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == ["step", "epoch", "samples", "size", "strategy", "saved", "val/loss"]
    assert [line.split()[0] for line in lines[1:4]] == ["42", "90", "1,200"]
    assert re.search(r"42 +1 +2,688 +\d\.\d KiB +fsdp2 × 4 +\d+ \w+ ago +0\.25", lines[1])
    assert "damaged" in lines[2]
    assert "damaged" not in lines[1] + lines[3]
    assert all(len(line) <= 80 for line in lines[:4])
    assert "its SHA-256 is not the one that it holds" in out
    assert "quarantine: 1 damaged, set aside: step-00000007" in out


def test_show_says_position_origin_and_tensors_by_kind(tmp_path: Path, capsys: Any) -> None:
    run = run_with(tmp_path / "model.hidden=[24]", 42)
    for place in (run, run / "checkpoints/step-00000042"):
        status, out = call(capsys, "show", place)
        assert status == 0
        assert "model.hidden=[24]/checkpoints/step-00000042" in out.splitlines()[0]
        assert re.search(r"position +step 42, epoch 1, 2,688 samples", out)
        assert re.search(r"written by +fsdp2 × 4, bf16_mixed", out)
        assert re.search(r"weights +4 +38 +148 B +BF16, F32, I64", out)
        assert re.search(r"optimizer/exp_avg +1 +4 +16 B +F32", out)
        assert re.search(r"blocks.0.weight +6 × 5 +120 B", out)
        assert "torch 2.13.0" in out
        assert all(len(line) <= 80 for line in out.splitlines()[1:])


def test_verify_reads_every_byte(tmp_path: Path, capsys: Any) -> None:
    run = run_with(tmp_path / "run", 42, 43)
    status, out = call(capsys, "verify", run)
    assert (status, out.count("sound")) == (0, 3 * 2 + 1)
    file = run / "checkpoints/step-00000043/tensors-00000-of-00001.safetensors"
    (file.parent / "left-over.tmp").write_text("x")
    size = file.stat().st_size
    for offset in (0, size // 2, size - 1):
        flip(file, offset)
        status, out = call(capsys, "verify", run)
        assert status == 1
        assert re.search(r"tensors-00000-of-00001.safetensors .* is damaged", out)
        assert re.search(r"left-over.tmp +1 B +not of this checkpoint", out)
        assert "1 of 2 checkpoint(s) sound" in out
        flip(file, offset)
    assert call(capsys, "verify", file.parent)[0] == 0
    (file.parent / "state.json").unlink()
    status, out = call(capsys, "verify", file.parent)
    assert (status, "is missing" in out) == (1, True)


def test_verify_names_a_checkpoint_without_a_manifest(tmp_path: Path, capsys: Any) -> None:
    run = run_with(tmp_path / "run", 42)
    (run / "checkpoints/step-00000042/manifest.json").unlink()
    status, out = call(capsys, "verify", run / "checkpoints/step-00000042")
    assert status == 1
    assert "its manifest.json is missing" in out


def test_diff_of_the_same_is_empty_however_many_ranks_wrote_it(tmp_path: Path, capsys: Any) -> None:
    first, second = written_by(1, tmp_path / "a"), written_by(3, tmp_path / "b", seconds=3.0)
    _, out = call(capsys, "diff", first, first)
    assert out.splitlines()[-1] == "6 tensors are equal, 0 differ"
    status, out = call(capsys, "diff", first, second)
    assert out.splitlines()[-1] == "6 tensors are equal, 0 differ"
    assert "ranks" in out  # three ranks have three random states
    assert (status, call(capsys, "diff", first, first)[0]) == (1, 0)


def test_diff_names_state_tensors_shapes_and_values(tmp_path: Path, capsys: Any) -> None:
    mine, theirs = some_tensors(), some_tensors()
    theirs["weights"]["blocks.0.weight"][2, 3] += 0.5
    theirs["weights"]["blocks.0.weight"][2, 4] += 0.25
    theirs["weights"]["count"] = torch.zeros(3, dtype=torch.int64)
    theirs["optimizer/momentum_buffer"] = theirs.pop("optimizer/exp_avg")
    other = {**CONFIGURATION, "optimizer": {"name": "momentum", "lr": 0.1}}
    first = run_with(tmp_path / "a", 42, tensors=mine)
    second = run_with(tmp_path / "b", 42, tensors=theirs, configuration=other, versions={"torch": "2.14.0"}, samples=0)
    status, out = call(capsys, "diff", first, second)
    assert status == 1
    assert re.search(r"configuration.optimizer.lr +0.05 +0.1 *\n", out)
    assert re.search(r"samples +2688 +0 *\n", out)
    assert re.search(r"versions.torch +2.13.0 +2.14.0 *\n", out)
    assert "configuration.seed" not in out
    assert "only in the first: optimizer/exp_avg/half" in out
    assert "only in the second: optimizer/momentum_buffer/half" in out
    assert re.search(r"weights/count +I64 scalar +I64 3", out)
    assert re.search(r"weights/blocks.0.weight +0.5 +2 +30", out)
    assert out.splitlines()[-1] == "3 tensors are equal, 1 differ"


def test_nan_equals_nan_and_differs_from_a_number() -> None:
    values = torch.tensor([float("nan"), 1.0, 2.0])
    assert difference(values, values.clone(), "x").num_differing == 0
    found = difference(values, torch.tensor([0.0, 1.0, 5.0]), "x")
    assert (found.num_differing, found.largest != found.largest) == (2, True)
    eighths = values.to(torch.float8_e4m3fn)
    assert difference(eighths, eighths, "x").num_differing == 0


def test_the_newest_sound_one_of_a_run_is_opened_and_a_single_damaged_one_refused(
    tmp_path: Path, warnings_logged: list[str]
) -> None:
    run = run_with(tmp_path / "run", 42, 43)
    newest = run / "checkpoints/step-00000043"
    flip(newest / "tensors-00000-of-00001.safetensors", -1)
    with open_sound(find_checkpoints(run)) as reader:
        assert reader.name == "step-00000042"
    assert len(warnings_logged) == 1
    with pytest.raises(ConfigError, match=r"tensors-00000-of-00001\.safetensors is damaged"):
        open_sound(find_checkpoints(newest))
    flip(newest.parent / "step-00000042/state.json", 5)
    with pytest.raises(ConfigError, match="holds no sound checkpoint"):
        open_sound(find_checkpoints(run))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lst", "."], "unknown action lst: did you mean list?"),
        (["list"], "distmlp checkpoint list takes a run folder, not 0 words"),
        (["list", "nowhere"], "nowhere does not exist: give a run folder or a checkpoint"),
        (["show", "{tmp}"], "is neither a run folder (it has no config.yaml) nor a checkpoint (no manifest.json)"),
        (["diff", "a"], "takes two runs or checkpoints, not 1 words"),
        (["verify", "{tmp}", "--deep"], "unknown flag --deep"),
        (["export", "{tmp}"], "--to is not set"),
        (["export", "{tmp}", "--to", "x", "--format", "torhc"], "--format torhc does not exist: did you mean torch?"),
        (["export", "{tmp}", "--to", "x.pt"], "x.pt is the name of a file of --format torch, not safetensors"),
        (["export", "{tmp}", "--tp", "x"], "unknown flag --tp: did you mean --to?"),
        (["export", "{tmp}", "--to"], "--to needs a value"),
        (["export", "{tmp}", "--to=x", "--average=3"], "--average takes no value"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    status, out = call(capsys, *(word.format(tmp=tmp_path) for word in words))
    assert status == 2
    assert message in out
    assert len(out.splitlines()) == 1


def test_help_names_every_action(capsys: Any) -> None:
    status, out = call(capsys, "--help")
    assert status == 0
    assert all(f"\n  {action} " in out for action in ("list", "show", "verify", "diff", "export", "import"))


def test_a_run_whose_checkpoints_were_all_set_aside_says_so(tmp_path: Path, capsys: Any) -> None:
    run = run_with(tmp_path / "run")
    (run / "quarantine/step-00000007").mkdir(parents=True)
    status, out = call(capsys, "list", run)
    assert (status, "holds no checkpoint: 1 damaged ones lie in" in out) == (2, True)
