"""Text to tokens to a trained network and back to text, as a user does it."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distmlp.cli import main

SENTENCES = (
    "the cat sat on the mat. ",
    "a dog ran to the park! ",
    "who let the dogs out? ",
    "it was the cat, not the dog. ",
)
SMALL = (
    "data=text",
    "data.cache_dir=cache",
    "model.width=32",
    "data.sequence_length=24",
    "data.global_batch_size=15",
    "trainer.log_every_steps=1",
    "tracking=none",
    "trainer.progress=false",
)
BLOCKS = ("model.num_layers=2", "model.num_heads=2")


@pytest.fixture
def book(tmp_path: Path) -> str:
    """A file of sentences in an order without a rule."""
    order = np.random.default_rng(0).integers(len(SENTENCES), size=400)
    path = tmp_path / "book.txt"
    path.write_text("".join(SENTENCES[index] for index in order))
    return path.name


@pytest.fixture
def letters(tmp_path: Path) -> str:
    """A folder of documents of very different lengths."""
    folder = tmp_path / "letters"
    folder.mkdir()
    draw = np.random.default_rng(1)
    for number, length in enumerate(draw.integers(3, 120, size=60)):
        text = "".join(SENTENCES[index] for index in draw.integers(len(SENTENCES), size=8))
        (folder / f"{number:02}.txt").write_text(text[:length])
    return folder.name


@pytest.mark.parametrize("model", [("model=gpt", *BLOCKS), ("model=rnn",)])
def test_a_language_model_learns_evaluates_and_writes(
    distmlp: Any, run_folder: Any, metrics: Any, book: str, model: tuple[str, ...], tmp_path: Path
) -> None:
    words = (*model, *SMALL, f"data.path={book}", "optimizer.lr=0.01", "trainer.max_epochs=8")
    done = distmlp("train", *words)
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path / "runs")
    results = [line for line in metrics(folder) if "val/loss" in line]
    assert results[-1]["val/loss"] < 0.8 < 2.0 < results[0]["val/loss"] + 1.5
    assert results[-1]["val/perplexity"] == pytest.approx(np.exp(results[-1]["val/loss"]), rel=1e-5)
    assert results[-1]["val/bits_per_byte"] == pytest.approx(results[-1]["val/loss"] / np.log(2), rel=1e-5)

    done = distmlp("evaluate", str(folder), "split=validation")
    assert f"{results[-1]['val/loss']:.4f}" in done.stdout
    (tmp_path / book).unlink()  # a run holds all that writing needs
    prompt = "prompt=the cat "
    first, again = (distmlp("generate", str(folder), prompt, "num_tokens=60", "temperature=0.5") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout
    assert first.stdout.startswith("the cat ")
    written = first.stdout.split()
    known = set("".join(SENTENCES).split())
    assert sum(word in known for word in written) > 0.7 * len(written)


@pytest.mark.parametrize("model", [("model=gpt",), ("model=bert", "model.norm_position=pre", "model.dropout=0.0")])
def test_two_ranks_train_the_same_tokens_as_one(
    distmlp: Any, run_folder: Any, metrics: Any, letters: str, model: tuple[str, ...], tmp_path: Path
) -> None:
    # Documents are padded, so that every sample, micro-batch and rank has another number of targets.
    options = (
        *model,
        *BLOCKS,
        *SMALL,
        f"data.path={letters}",
        "data.packing=documents",
        "trainer.max_epochs=2",
        "trainer.log_sample_ids=true",
        "optimizer=sgd",
        "optimizer.lr=0.05",
    )
    runs = {"one": (0, "null"), "micro": (0, "4"), "two": (2, "4")}
    lines = {}
    for name, (ranks, micro) in runs.items():
        done = distmlp("train", f"run.root={name}", *options, f"trainer.micro_batch_size={micro}", ranks=ranks)
        assert done.returncode == 0, done.stderr
        lines[name] = metrics(run_folder(tmp_path / name))
    for name in ("micro", "two"):
        assert len(lines[name]) == len(lines["one"])
        assert [a.get("sample_ids") for a in lines[name]] == [b.get("sample_ids") for b in lines["one"]]
        for key in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
            pairs = [(a[key], b[key]) for a, b in zip(lines[name], lines["one"], strict=True) if key in a]
            assert pairs
            assert np.abs(np.diff(pairs)).max() <= 1e-5, (name, key)


def test_recomputing_activations_changes_no_loss(
    distmlp: Any, run_folder: Any, metrics: Any, book: str, tmp_path: Path
) -> None:
    losses = []
    for checkpointing in ("false", "true"):
        words = ("model=gpt", *BLOCKS, *SMALL, f"data.path={book}", "trainer.max_steps=5", "model.dropout=0.2")
        done = distmlp(
            "train", *words, f"run.root=root-{checkpointing}", f"model.activation_checkpointing={checkpointing}"
        )
        assert done.returncode == 0, done.stderr
        lines = metrics(run_folder(tmp_path / f"root-{checkpointing}"))
        losses.append([line["train/loss"] for line in lines if "train/loss" in line])
    assert losses[0] == losses[1]


def test_the_layers_of_gpt_3_are_shown_in_seconds(distmlp: Any, tmp_path: Path) -> None:
    started = time.monotonic()
    words = ("model=gpt3_175b", "data=synthetic_tokens", "data.sequence_length=2048", "trainer.accelerator=cpu")
    done = distmlp("train", "--summary", *words)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 100  # a hang, or real weights, would take far longer
    assert "parameters: 174,604,259,328" in done.stdout
    assert "×96" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "model=gpt", "data=text", "data.path=none.txt"), "none.txt"),
        (("train", "model=gpt", "data=text", "data.path=book.txt", "data.tokenizer=charcters"), "characters"),
        (("train", "model=gpt", *SMALL, "data.path=book.txt", "model.vocab_size=5"), "model.vocab_size=5"),
        (("train", "model=gpt", *SMALL, "data.path=book.txt", "data.sequence_length=9000"), "9000"),
        (("train", "model=gpt", *SMALL, "data.path=book.txt", "model.attend_across_documents=false"), "separator"),
        (("train", "model=cnn", "data=synthetic"), "model=cnn takes images"),
        (("train", "model=vit", "model.patch_size=5"), "model.patch_size=5"),
        (("train", "model=resnet", "model.depth=17"), "model.depth=17"),
        (("generate", "none", "prompt=a"), "none"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(
    words: tuple[str, ...],
    message: str,
    book: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status = main(list(words))  # in this process: nothing is started, so that one more mistake costs little
    _, error = capsys.readouterr()
    assert (status, error.count("\n")) == (2, 1), error
    assert message in error
    assert not (tmp_path / "runs").exists()


def test_a_vocabulary_that_changed_is_not_evaluated(distmlp: Any, run_folder: Any, book: str, tmp_path: Path) -> None:
    done = distmlp("train", "model=gpt", *BLOCKS, *SMALL, f"data.path={book}", "trainer.max_steps=2")
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path / "runs")
    assert json.loads((folder / "vocabulary.json").read_text())
    (tmp_path / book).write_text((tmp_path / book).read_text().replace("w", "z"))
    done = distmlp("evaluate", str(folder))
    assert "split=test of data=text is empty: use split=validation" in done.stderr
    done = distmlp("evaluate", str(folder), "split=validation")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the data's vocabulary is not the run's" in done.stderr
