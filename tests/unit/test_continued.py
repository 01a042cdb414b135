"""What a run goes on from, what it refuses to go on from, and that nothing that is there is lost by it."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distmlp.callbacks.stopping import Stopping
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.storage import LocalStorage
from distmlp.cli import main

COMMON = """trainer.accelerator=cpu trainer.progress=false trainer.log_every_steps=1 trainer.log_sample_ids=true
    tracking=none data=synthetic data.num_samples=300 data.input_shape=[8] data.num_classes=4 data.global_batch_size=64
    model.hidden=[16] model.dropout=0.2 optimizer=adamw run.name=net checkpoint.every_steps=3 checkpoint.keep_last=null
    trainer.ema_decay=0.9 trainer.max_epochs=3""".split()
# 210 samples, four steps an epoch: twelve steps.
Train = Callable[..., tuple[int, str]]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Train:
    """`distmlp train` in this process, in an empty folder; returns its status and what it says."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        status = main(["train", *COMMON, *words])
        return status, capfd.readouterr().err

    return run


def folder_of(run_id: str) -> Path:
    return Path("runs/net") / run_id


def lines(run_id: str) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in (folder_of(run_id) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read]


def steps(run_id: str) -> list[int]:
    found = (folder_of(run_id) / "checkpoints").glob("step-*")
    return sorted(int(path.name.removeprefix("step-")) for path in found)


def tensors(run_id: str, step: int) -> dict[str, torch.Tensor]:
    storage = LocalStorage(folder_of(run_id) / "checkpoints")
    with CheckpointReader(storage, f"step-{step:08d}") as reader:
        kinds = [(kind, name) for kind in reader.kinds() for name in reader.names(kind)]
        return {f"{kind}/{name}": reader.whole(kind, name) for kind, name in kinds}


def cut_after(run_id: str, step: int) -> None:
    """Leaves the folder of a run as a kill after ``step`` leaves it: what came later is partly written."""
    for path in (folder_of(run_id) / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    (folder_of(run_id) / "summary.json").unlink()


@pytest.mark.parametrize("step", [3, 6, 9])
def test_the_same_command_goes_on_where_the_run_was_cut_and_is_the_run_that_never_was(train: Train, step: int) -> None:
    """Inside an epoch, with dropout, an average of the weights, and lines of steps that are taken again."""
    assert train("run.id=whole")[0] == train("run.id=cut")[0] == 0
    cut_after("cut", step)
    status, said = train("run.id=cut")
    assert status == 0
    assert f"goes on from runs/net/cut/checkpoints/step-{step:08d}: step {step}, " in said
    assert lines("cut") == lines("whole")
    whole, cut = tensors("whole", 12), tensors("cut", 12)
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    discarded = (folder_of("cut") / "logs/discarded-metrics.jsonl").read_text().splitlines()
    assert min(json.loads(line)["step"] for line in discarded) == step + 1  # nothing is thrown away


def test_a_run_cut_before_its_first_checkpoint_starts_over_but_no_other_run_takes_its_folder(train: Train) -> None:
    assert train("run.id=cut")[0] == 0
    before = lines("cut")
    shutil.rmtree(folder_of("cut") / "checkpoints")
    status, said = train("run.id=cut", "optimizer.lr=0.5")
    assert (status, "is of another configuration" in said) == (2, True)
    assert lines("cut") == before
    assert train("run.id=cut")[0] == 0
    assert lines("cut") == before


def test_a_finished_run_stays_finished_until_it_is_given_more(train: Train) -> None:
    train("run.id=one")
    before = lines("one")
    assert train("run.id=one")[0] == 0
    assert [line for line in lines("one") if "train/loss" in line] == [line for line in before if "train/loss" in line]
    assert train("run.id=one", "trainer.max_epochs=4")[0] == 0
    assert [line["step"] for line in lines("one") if "train/loss" in line] == list(range(1, 17))


def test_limits_that_a_resumed_run_has_reached_end_it_at_once(train: Train) -> None:
    train("run.id=one")
    for limit in ("trainer.max_steps=9", "trainer.max_samples=400", "trainer.loss_threshold=100"):
        assert train("run.id=one", limit)[0] == 0
        assert max(line["step"] for line in lines("one")) == 12


def test_a_run_cut_before_it_wrote_anything_starts_over(train: Train) -> None:
    (folder_of("cut") / "logs").mkdir(parents=True)
    (folder_of("cut") / ".lock").touch()
    assert train("run.id=cut", "trainer.max_steps=1")[0] == 0
    (folder_of("other") / "photos").mkdir(parents=True)
    status, said = train("run.id=other")
    assert (status, "holds no checkpoint, and is of another configuration" in said) == (2, True)
    assert [path.name for path in folder_of("other").iterdir()] == ["photos"]


def test_a_run_is_continued_by_its_folder_with_its_own_configuration(train: Train, tmp_path: Path) -> None:
    train("run.id=one", "optimizer.lr=0.01")
    status = main(["train", "resume=runs/net/one", "trainer.max_epochs=4"])
    assert status == 0
    found = [line for line in lines("one") if "train/loss" in line]
    assert [line["step"] for line in found] == list(range(1, 17))
    assert found[-1]["lr"] == 0.01
    assert [path.name for path in (tmp_path / "runs" / "net").iterdir()] == ["one"]


def test_a_checkpoint_starts_a_new_run_and_leaves_the_old_one_alone(train: Train, tmp_path: Path) -> None:
    train("run.id=one")
    before, checkpoints = lines("one"), steps("one")
    status, said = train("run.id=two", "resume=runs/net/one/checkpoints/step-00000006")
    assert (status, "step 6, " in said) == (0, True)
    assert [line for line in lines("two") if "train/loss" in line] == [
        line for line in before if "train/loss" in line and line["step"] > 6
    ]
    assert (lines("one"), steps("one")) == (before, checkpoints)
    assert steps("two") == [6, 9, 12]  # its beginning is its own
    shutil.rmtree(folder_of("one"))
    cut_after("two", 6)
    assert main(["train", "resume=runs/net/two"]) == 0
    assert steps("two") == [6, 9, 12]


def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_is_taken(train: Train) -> None:
    train("run.id=one")
    whole = lines("one")
    damaged = folder_of("one") / "checkpoints/step-00000012/tensors-00000-of-00001.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 4
    damaged.write_bytes(data)
    status, said = train("run.id=one")
    assert status == 0
    assert f"{damaged} is damaged" in said
    assert "step-00000009: step 9, " in said
    assert (folder_of("one") / "quarantine/step-00000012").is_dir()
    assert lines("one") == whole
    assert steps("one") == [3, 6, 9, 12]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("resume=never",), "runs/net/one exists"),
        (("data.num_samples=310",), "the data's fingerprint is "),
        (("model.hidden=[17]",), "has shape (16,), the network's is (17,)"),
        (("model.hidden=[16,16]",), "is only in the network"),
        (("optimizer=momentum",), "optimizer is adamw in it and momentum here: its states start anew with resume"),
        (("seed=1",), "cannot be continued"),
        (("data.global_batch_size=32",), "data.global_batch_size is 64 in it and 32 here"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides(train: Train, words: tuple[str, ...], message: str) -> None:
    train("run.id=one")
    before, checkpoints = lines("one"), steps("one")
    status, said = train("run.id=one", *words)
    assert status == 2, said
    assert message in said
    assert len(said.splitlines()) == 1
    assert (lines("one"), steps("one")) == (before, checkpoints)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("resume=must",), "resume=must needs to know the run"),
        (("resume=must", "run.id=new"), "resume=must: runs/net/new/checkpoints holds no checkpoint to go on from"),
        (("resume=nowhere",), "nowhere is neither a run folder nor a checkpoint inside one"),
    ],
)
def test_a_resume_from_nothing_is_refused(train: Train, words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    status, said = train(*words)
    assert status == 2
    assert message in said
    assert list(tmp_path.iterdir()) == []


def test_differences_that_are_allowed_are_gone_along_with(train: Train) -> None:
    train("run.id=one")
    cut_after("one", 6)
    words = ["optimizer=momentum", "data.global_batch_size=32", "resume.allow=[optimizer,batch]"]
    assert train("run.id=one", *words)[0] == 0
    taken = [line["sample_ids"] for line in lines("one") if "sample_ids" in line and line["epoch"] == 1]
    seen = [sample for step in taken for sample in step]
    assert len(seen) == len(set(seen)) == 210  # the epoch in which the batch changed still holds each sample once
    assert "optimizer/momentum_buffer/blocks.0.0.weight" in tensors("one", max(steps("one")))


def test_the_same_masters_go_on_in_another_precision(train: Train) -> None:
    train("run.id=one", "precision=bf16_mixed")
    before = tensors("one", 12)
    assert all(tensor.dtype == torch.float32 for tensor in before.values())
    status, _ = train("run.id=two", "precision=fp32", "resume=runs/net/one/checkpoints/step-00000012")
    assert status == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors("two", 12).items())


@pytest.mark.parametrize("step", [4, 6])  # the end of an epoch, whose validation is then still to be made; inside one
def test_a_run_that_a_signal_stopped_is_made_whole(train: Train, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("run.id=whole")[0] == 0
    original = Stopping.on_train_batch_end

    def stopped_at(self: Stopping, trainer: Any, module: Any, *arguments: Any) -> None:
        if module.position.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, trainer, module, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Stopping, "on_train_batch_end", stopped_at)
        assert train("run.id=one")[0] == 3
    assert max(line["step"] for line in lines("one")) == step
    assert not any("val/loss" in line for line in lines("one") if line["step"] == step)
    assert steps("one")[-1] == step
    assert train("run.id=one")[0] == 0
    assert lines("one") == lines("whole")
    assert all(torch.equal(tensor, tensors("one", 12)[name]) for name, tensor in tensors("whole", 12).items())


def test_imported_weights_are_trained_on(train: Train) -> None:
    train("run.id=one")
    words = [word for word in COMMON if word.startswith(("data", "model", "optimizer", "tracking", "trainer"))]
    assert main(["checkpoint", "export", "runs/net/one", "--to", "weights.pt", "--format", "torch"]) == 0
    assert main(["checkpoint", "import", "weights.pt", *words, "run.name=net", "run.id=imported"]) == 0
    status, said = train("run.id=two", "resume=runs/net/imported")
    assert (status, "goes on from runs/net/imported/checkpoints/step-00000000: step 0, " in said) == (0, True)
    assert [line["step"] for line in lines("imported") if "train/loss" in line] == list(range(1, 13))


def test_another_micro_batch_takes_the_same_samples_to_the_same_losses(train: Train) -> None:
    without = ["model.dropout=0.0", "checkpoint.every_steps=6"]
    train("run.id=one", *without)
    source = "resume=runs/net/one/checkpoints/step-00000006"
    assert train("run.id=two", source, *without, "trainer.micro_batch_size=7")[0] == 0
    whole = {line["step"]: line for line in lines("one") if "sample_ids" in line and line["step"] > 6}
    rest = {line["step"]: line for line in lines("two") if "sample_ids" in line}
    assert whole.keys() == rest.keys()
    assert all(line["sample_ids"] == whole[step]["sample_ids"] for step, line in rest.items())
    assert all(abs(line["train/loss"] - whole[step]["train/loss"]) <= 2e-6 for step, line in rest.items())
