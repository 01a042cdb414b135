"""Text becomes a data set: every token in one split, packing and task as asked, mistakes in one line."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distmlp.data.dataset import IGNORED, DataSet, TokenSplit
from distmlp.data.text import load_text
from distmlp.errors import ConfigError


def text(path: Path, cache_dir: Path, **changes: Any) -> DataSet:
    keys: dict[str, Any] = {
        "path": str(path),
        "files": "*.txt",
        "tokenizer": "characters",
        "vocab_size": None,
        "packing": "stream",
        "cache_dir": str(cache_dir),
        "sequence_length": 32,
        "task": "next_token",
        "mask_fraction": 0.15,
        "validation_fraction": 0.1,
        "test_fraction": 0.0,
        "seed": 0,
    }
    return load_text(**keys | changes)


def folder_of_texts(folder: Path, num_documents: int = 40) -> Path:
    folder.mkdir()
    for number in range(num_documents):
        (folder / f"{number:03d}.txt").write_text(f"document {number} " * (number % 5 + 1), encoding="utf-8")
    return folder


def decoded(data: DataSet, split: TokenSplit) -> str:
    """The text of a stream split in evaluation: its first token, then all that are predicted."""
    assert data.vocabulary is not None
    inputs, targets = split.batch(torch.arange(len(split)))
    return data.vocabulary.decode([inputs[0, 0].item(), *targets[targets != IGNORED].tolist()])


def test_tiny_shakespeare_has_its_known_size(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "tinyshakespeare" / "input.txt"
    data = text(path, tmp_path, sequence_length=256, test_fraction=0.05)
    whole = path.read_text("utf-8")
    assert len(whole) == 1_115_394
    assert (data.num_outputs, data.input_shape, data.task) == (65, (256,), "next_token")
    assert decoded(data, data.test) == whole[-round(0.05 * len(whole)) :]
    assert decoded(data, data.validation) == whole[-round(0.15 * len(whole)) : -round(0.05 * len(whole))]
    inputs = data.train.batch(torch.arange(len(data.train)))[0]
    assert data.vocabulary is not None
    assert data.vocabulary.decode(inputs.flatten()) in whole[: round(0.85 * len(whole))]
    counts = torch.bincount(inputs.flatten(), minlength=65).double()
    entropy = -(counts / counts.sum() * (counts / counts.sum()).clamp(min=1e-12).log()).sum()
    assert 3.2 < entropy < 3.4 < math.log(65)  # the known unigram entropy of this text, 3.31 nats


def test_ids_of_samples_are_disjoint_and_count_through_the_splits(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be\n" * 200, encoding="utf-8")
    folder = folder_of_texts(tmp_path / "texts")
    for source, packing in ((path, "stream"), (folder, "stream"), (folder, "documents")):
        data = text(source, tmp_path / "cache", packing=packing, test_fraction=0.1)
        splits = (data.train, data.validation, data.test)
        ids = torch.cat([split.sample_ids(torch.arange(len(split))) for split in splits])
        assert ids.tolist() == list(range(len(ids)))


def test_the_test_split_is_empty_by_default(tmp_path: Path) -> None:
    data = text(folder_of_texts(tmp_path / "texts"), tmp_path / "cache")
    assert len(data.test) == 0
    assert all(isinstance(split, TokenSplit) for split in (data.train, data.validation, data.test))


def test_documents_of_a_folder_are_kept_apart(tmp_path: Path) -> None:
    data = text(folder_of_texts(tmp_path / "texts"), tmp_path / "cache", packing="documents", sequence_length=100)
    assert data.vocabulary is not None
    separator, inputs = data.vocabulary.separator_id, torch.cat(
        [split.batch(torch.arange(len(split)))[0] for split in (data.train, data.validation)]
    )  # fmt: skip
    assert separator == data.num_outputs - 1
    read = [data.vocabulary.decode(row[row != separator]) for row in inputs]
    assert read == [f"document {number} " * (number % 5 + 1) for number in range(40)]
    assert 3 <= len(data.validation) <= 5


def test_only_masked_documents_have_padding_and_only_masks_a_mask(tmp_path: Path) -> None:
    folder = folder_of_texts(tmp_path / "texts")
    plain = text(folder, tmp_path / "cache", packing="documents")
    masked = text(folder, tmp_path / "cache", packing="documents", task="masked_token")
    stream = text(folder, tmp_path / "cache", task="masked_token")
    sizes = [plain.num_outputs, stream.num_outputs, masked.num_outputs]
    assert sizes == [sizes[0], sizes[0] + 1, sizes[0] + 2]
    assert masked.vocabulary is not None
    assert stream.vocabulary is not None
    assert (stream.vocabulary.pad_id, stream.vocabulary.mask_id) == (None, sizes[0])
    inputs, targets = masked.validation.batch(torch.arange(len(masked.validation)))
    assert torch.all(targets[inputs == masked.vocabulary.pad_id] == IGNORED)
    assert len(list((tmp_path / "cache").iterdir())) == 1  # tokens do not depend on task and packing
    assert plain.fingerprint == masked.fingerprint == stream.fingerprint


def test_masked_tokens_are_evaluated_in_whole_windows(tmp_path: Path) -> None:
    """The last, ragged window of a stream would show an encoder padding as if it were text."""
    path = tmp_path / "book.txt"
    path.write_text("abcdefghij" * 100, encoding="utf-8")
    windows = {task: len(text(path, tmp_path, task=task).validation) for task in ("next_token", "masked_token")}
    assert windows == {
        "next_token": 4,
        "masked_token": 3,
    }  # 100 tokens are for validation, of which 99 can be predicted
    data = text(path, tmp_path, task="masked_token")
    inputs, targets = data.validation.batch(torch.arange(3))
    original = torch.where(targets == IGNORED, inputs, targets)
    assert data.vocabulary is not None
    assert data.vocabulary.decode(original.flatten()) == ("abcdefghij" * 10)[:96]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sequence_length": 900},
            "1710 of 1900 tokens are for train, and data.sequence_length=900 needs 1800 or more",
        ),
        ({"validation_fraction": 0.0}, "0 of 1900 tokens are for validation"),
        ({"test_fraction": 0.0005}, "1 of 1900 tokens are for test"),
        ({"packing": "documents"}, "one file is one document"),
    ],
)
def test_too_little_text_is_said_with_the_numbers(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be\n" * 100, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        text(path, tmp_path / "cache", **changes)


def test_too_few_documents_are_said_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of 1 documents none begins and ends there"):
        text(folder_of_texts(tmp_path / "texts", 1), tmp_path / "cache", packing="documents")
