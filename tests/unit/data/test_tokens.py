"""Token files of any shape give the same samples; ids that no vocabulary holds are found before training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from distmlp.data import token_files
from distmlp.data.dataset import IGNORED, DataSet
from distmlp.data.token_check import Findings, examine
from distmlp.data.tokenizer import make_vocabulary
from distmlp.data.tokens import load_tokens
from distmlp.errors import ConfigError

IDS = np.random.default_rng(0).integers(0, 300, size=5000)


def tokens(path: Path, **changes: Any) -> DataSet:
    keys: dict[str, Any] = {
        "path": str(path),
        "validation_path": None,
        "dtype": "uint16",
        "vocab_size": 300,
        "tokenizer": None,
        "separator": None,
        "packing": "stream",
        "cache_dir": str(path.parent / "cache"),
        "sequence_length": 16,
        "task": "next_token",
        "mask_fraction": 0.15,
        "validation_fraction": 0.1,
        "test_fraction": 0.1,
        "seed": 0,
    }
    return load_tokens(**keys | changes)


def write(path: Path, ids: npt.NDArray[Any] = IDS, dtype: str = "uint16") -> Path:
    path.parent.mkdir(exist_ok=True)
    ids = ids.astype(dtype)
    if path.suffix == ".npy":
        np.save(path, ids)
    else:
        ids.tofile(path)
    return path


def samples(data: DataSet) -> list[list[int]]:
    return [
        split.batch(torch.arange(len(split)))[1].flatten().tolist()
        for split in (data.train, data.validation, data.test)
    ]


def test_a_bin_an_npy_and_shards_of_both_give_the_same_samples(tmp_path: Path) -> None:
    write(tmp_path / "shards" / "0.bin", IDS[:1000])
    write(tmp_path / "shards" / "1.npy", IDS[1000:1005], "int64")
    write(tmp_path / "shards" / "2.bin", IDS[1005:])
    (tmp_path / "shards" / "notes.txt").touch()
    one = tokens(write(tmp_path / "ids.bin"))
    assert samples(one) == samples(tokens(write(tmp_path / "ids.npy", dtype="int32")))
    assert samples(one) == samples(tokens(tmp_path / "shards"))
    assert samples(one)[2] == [*IDS[4501:].tolist(), *[IGNORED] * 13]
    assert (one.num_outputs, one.input_shape) == (300, (16,))


def test_validation_can_have_files_of_its_own(tmp_path: Path) -> None:
    data = tokens(write(tmp_path / "a.bin"), validation_path=str(write(tmp_path / "b.bin", IDS[::-1])))
    assert samples(data)[1][:4999] == IDS[::-1][1:].tolist()
    assert samples(data)[2][:499] == IDS[4501:].tolist()
    assert len(data.train) == (4500 - 16) // 16
    splits = (data.train, data.test, data.validation)
    ids = torch.cat([split.sample_ids(torch.arange(len(split))) for split in splits])
    assert ids.tolist() == list(range(len(ids)))


def test_documents_end_with_the_separator(tmp_path: Path) -> None:
    data = tokens(write(tmp_path / "ids.bin"), packing="documents", separator=7)
    for split in (data.train, data.validation, data.test):
        inputs, targets = split.batch(torch.arange(len(split)))
        assert not torch.any(inputs[targets != IGNORED] == 7)
        assert torch.any(targets == 7)
    with pytest.raises(ConfigError, match=r"give data\.separator"):
        tokens(tmp_path / "ids.bin", packing="documents")


def test_a_tokenizer_gives_text_and_size_and_its_separator(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be " * 50, encoding="utf-8")
    base = make_vocabulary([tmp_path / "text.txt"], "bpe", 260)
    tokenizer = base.tokenizer
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path = write(tmp_path / "ids.bin", np.tile(base.encode("to be or not to be "), 30))
    data = tokens(path, tokenizer=str(tmp_path / "tokenizer.json"), vocab_size=None)
    assert data.vocabulary is not None
    assert (data.num_outputs, data.vocabulary.separator_id) == (base.size + 1, base.size)
    assert "to be or not" in data.vocabulary.decode(data.train.batch(torch.arange(1))[0][0])
    assert tokens(path, tokenizer=str(tmp_path / "tokenizer.json"), vocab_size=512).num_outputs == 512
    with pytest.raises(ConfigError, match=f"less than the {base.size + 1} tokens"):
        tokens(path, tokenizer=str(tmp_path / "tokenizer.json"), vocab_size=256)


def test_an_id_beyond_the_vocabulary_is_named_with_its_place(tmp_path: Path) -> None:
    write(tmp_path / "shards" / "0.bin")
    bad = IDS.copy()
    bad[[1234, 1300]] = 300
    write(tmp_path / "shards" / "1.bin", bad)
    with pytest.raises(ConfigError, match=r"1\.bin: token 1234 is 300, and the vocabulary has 300 tokens"):
        tokens(tmp_path / "shards")
    assert tokens(tmp_path / "shards", vocab_size=301).num_outputs == 301
    with pytest.raises(ConfigError, match=r"a\.npy: token 2 is -1, and ids go from 0"):
        tokens(write(tmp_path / "a.npy", np.array([1, 2, -1]), "int32"))


def test_ids_are_read_once_and_again_when_the_file_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "ids.bin")
    tokens(path)
    found = list((tmp_path / "cache").rglob("findings.json"))
    kept = found[0].stat().st_mtime_ns
    first = tokens(path).fingerprint
    assert found[0].stat().st_mtime_ns == kept
    changed = IDS.copy()
    changed[3] = (changed[3] + 1) % 300
    assert tokens(write(path, changed)).fingerprint != first
    assert tokens(write(tmp_path / "copy.bin")).fingerprint == first
    assert len(list((tmp_path / "cache").rglob("findings.json"))) == 3


def test_a_scan_that_was_stopped_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "PART_TOKENS", 500)
    path = write(tmp_path / "ids.bin")
    opened = token_files.TokenFiles([token_files.TokenFile(path, "uint16", 5000)])
    whole = examine(opened, tmp_path / "whole")
    half = Findings()
    for start in range(0, 2500, 500):
        half = half.after(opened.read(start, start + 500))
    (tmp_path / "half").mkdir()
    marked = vars(half) | {"largest": 999, "largest_at": 1}  # stays only if the first half is not read again
    (tmp_path / "half" / "findings.json").write_text(json.dumps(marked))
    continued = examine(opened, tmp_path / "half")
    assert (whole.largest, whole.largest_at) == (int(IDS.max()), int(IDS.argmax()))
    assert (continued.largest, continued.digest, continued.num_tokens) == (999, whole.digest, 5000)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nowhere.bin", {}, "no such file or folder"),
        ("folder", {}, r"no \.bin or \.npy file in this folder"),
        ("text.txt", {}, r"expected to be a \.bin or \.npy file"),
        ("empty.bin", {}, "holds no token"),
        ("odd.bin", {}, r"3 bytes are no whole number of tokens of 2 bytes; is data\.dtype=uint16 right"),
        ("table.npy", {}, r"shape \(2, 3\) of float64 found"),
        ("broken.npy", {}, "not an .npy file"),
        ("few.bin", {}, "24 of 30 tokens are for train, and data.sequence_length=16 needs 32 or more"),
        ("few.bin", {"separator": 300}, r"data\.separator=300 is no id .* 0 to 299"),
    ],
)
def test_files_that_cannot_be_are_one_line(tmp_path: Path, name: str, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "folder").mkdir()
    for file, content in (("text.txt", b"x"), ("empty.bin", b""), ("odd.bin", b"abc"), ("broken.npy", b"abc")):
        (tmp_path / file).write_bytes(content)
    np.save(tmp_path / "table.npy", np.zeros((2, 3)))
    write(tmp_path / "few.bin", IDS[:30])
    with pytest.raises(ConfigError, match=message):
        tokens(tmp_path / name, **changes)
