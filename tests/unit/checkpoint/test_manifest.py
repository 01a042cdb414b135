"""A manifest that is not what was written, or that cannot be true, is refused, even where its own sum is right."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.manifest import MANIFEST, Manifest
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.storage import LocalStorage
from distmlp.errors import ConfigError
from distmlp.shards import Place, Range, Shard

FILE = "tensors-00000-of-00002.safetensors"


def signed(values: Any) -> bytes:
    """What a writer with the same rules would have written of these values."""

    def canonical(values: Any) -> bytes:
        return (json.dumps(values, sort_keys=True, separators=(",", ":")) + "\n").encode()

    if not isinstance(values, dict):
        return canonical(values)
    return canonical(values | {"sha256": hashlib.sha256(canonical(values | {"sha256": ""})).hexdigest()})


@pytest.fixture
def checkpoint(local: LocalStorage, save, small) -> str:
    return save(local, small)


def forge(storage: LocalStorage, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    path = storage.root / name / MANIFEST
    values = json.loads(path.read_text())
    changed = change(values)
    path.write_bytes(signed(values if changed is None else changed))


def test_a_manifest_is_read_as_it_was_written(local: LocalStorage, checkpoint: str) -> None:
    text = (local.root / checkpoint / MANIFEST).read_bytes()
    assert Manifest.parse(text, "m").as_text() == text
    assert signed(json.loads(text)) == text  # so that what is forged below is refused for what it says


def set_w(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["tensors"]["weights/w"].update(values)


def pieces(*parts: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return set_w(pieces=[{"file": FILE, "key": "weights/w", **part} for part in parts])


def larger(num_elements: int) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        set_w(shape=[num_elements])(manifest)
        pieces({"range": [0, num_elements]})(manifest)

    return change


def renamed(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["files"].update({name: manifest["files"].pop("state.json")})


CANNOT_BE = {
    "hole": pieces({"range": [0, 5]}, {"range": [6, 12]}),
    "overlap": pieces({"range": [0, 7]}, {"range": [5, 12]}),
    "twice": pieces({"range": [0, 6]}, {"range": [0, 6]}),
    "none": pieces(),
    "boxes overlap": pieces({"offset": [0, 0], "size": [3, 2]}, {"offset": [0, 1], "size": [3, 2]}),
    "boxes leave a hole": pieces({"offset": [0, 0], "size": [3, 2]}, {"offset": [0, 3], "size": [3, 1]}),
    "a box outside": pieces({"offset": [0, 2], "size": [3, 4]}),
    "a negative box": pieces({"offset": [0, 0], "size": [-3, -4]}),
    "a negative range": pieces({"range": [0, 14]}, {"range": [14, 12]}),
    "another rank of tensor": pieces({"offset": [0], "size": [12]}),
    "a range of three": pieces({"range": [0, 12, 1]}),
    "fractions": pieces({"range": [0.0, 12.0]}),
    "more than the file has": larger(2**50),
    "no such file": set_w(pieces=[{"file": "other.safetensors", "key": "weights/w", "range": [0, 12]}]),
    "an unknown format": set_w(dtype="F128"),
    "a shape of words": set_w(shape="twelve"),
    "a negative shape": set_w(shape=[-3, -4]),
    "a path upward": renamed("../state.json"),
    "an absolute path": renamed("/etc/passwd"),
    "two dots": renamed(".."),
    "a path downward": renamed("a/b"),
    "a zero byte": renamed("a\0b"),
    "itself": renamed(MANIFEST),
    "no files": lambda m: m.update(files=None),
    "no tensors": lambda m: m.pop("tensors") and None,
    "a file of no size": lambda m: m["files"]["state.json"].update(bytes=-1),
    "a file of text size": lambda m: m["files"]["state.json"].update(bytes="87"),
    "a step of text": lambda m: m.update(step="ten"),
    "a list": lambda m: [m],
    "null": lambda m: "null",
}


@pytest.mark.parametrize("change", CANNOT_BE.values(), ids=CANNOT_BE)
def test_what_cannot_be_is_refused_though_its_sum_is_right(local: LocalStorage, checkpoint: str, change) -> None:
    forge(local, checkpoint, change)
    with pytest.raises(DamagedError, match="step-00000010"):
        CheckpointReader(local, checkpoint)


def test_a_piece_of_another_format_than_its_file_is_refused(local: LocalStorage, checkpoint: str) -> None:
    forge(local, checkpoint, set_w(dtype="I32"))
    with CheckpointReader(local, checkpoint) as reader, pytest.raises(DamagedError, match="is not the one that manif"):
        reader.whole("weights", "w")


def test_a_piece_that_its_file_does_not_hold_is_refused(local: LocalStorage, save) -> None:
    values = torch.ones(4)
    name = save(local, [[Shard("weights", Place(key, (4,), Range(0, 4)), values) for key in "ab"]])
    forge(local, name, lambda m: m["tensors"]["weights/a"]["pieces"][0].update(key="weights/c"))
    with CheckpointReader(local, name) as reader, pytest.raises(DamagedError, match="weights/c is not the one"):
        reader.whole("weights", "a")


def test_no_memory_is_taken_for_what_a_file_does_not_hold(local: LocalStorage, checkpoint: str) -> None:
    forge(local, checkpoint, larger(2**55))
    forge(local, checkpoint, lambda m: m["files"][FILE].update(bytes=2**60))
    with CheckpointReader(local, checkpoint) as reader, pytest.raises(DamagedError, match=f"{FILE} has"):
        reader.whole("weights", "w")


def test_another_version_is_no_damage(local: LocalStorage, checkpoint: str) -> None:
    forge(local, checkpoint, lambda m: m.update(version=2))
    with pytest.raises(ConfigError, match="has format distmlp-checkpoint version 2; this distmlp reads") as raised:
        CheckpointReader(local, checkpoint)
    assert not isinstance(raised.value, DamagedError)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[" * 100_000, b"\xff" * 9, b"{}\n"], ids=["empty", "bare", "deep", "ff", "n"]
)
def test_a_manifest_of_other_bytes_is_refused(local: LocalStorage, checkpoint: str, text: bytes) -> None:
    (local.root / checkpoint / MANIFEST).write_bytes(text)
    with pytest.raises(DamagedError, match=MANIFEST):
        CheckpointReader(local, checkpoint)


def test_a_huge_manifest_is_not_read(local: LocalStorage, checkpoint: str) -> None:
    with (local.root / checkpoint / MANIFEST).open("wb") as file:
        file.truncate(2**40)  # sparse: it takes no room
    with pytest.raises(DamagedError, match=f"{MANIFEST} is damaged: no such file has {2**40} bytes"):
        CheckpointReader(local, checkpoint)
