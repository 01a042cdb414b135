"""A header that lies is refused, whatever it claims; no memory is taken for what a file does not hold."""

import io
import json
import tracemalloc
from typing import Any

import pytest
import torch

from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.tensor_file import FileLayout, TensorFile


def opened(header: bytes, data: bytes = b"", length: int | None = None) -> TensorFile:
    num = len(header) if length is None else length
    text = num.to_bytes(8, "little", signed=num < 0) + header + data
    return TensorFile(io.BytesIO(text), len(text), "x.safetensors")


def entry(start: int, stop: int, shape: Any, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize("length", [2**63 - 1, 2**40, 99_999_999, 3, 0, -1, -(2**63)])
def test_a_length_of_the_header_that_does_not_fit_is_refused(length: int) -> None:
    tracemalloc.start()
    with pytest.raises(DamagedError, match=r"x.safetensors"):
        opened(b"{}", length=length)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(0, 4, [4]), "b": entry(2, 6, [4])},  # overlap
        {"a": entry(0, 2, [2]), "b": entry(4, 6, [2])},  # a hole
        {"a": entry(0, 6, [6]), "b": entry(0, 6, [6])},
        {"a": entry(1, 6, [5])},
        {"a": entry(0, 5, [5])},  # a byte too many
        {"a": entry(0, 7, [7])},
        {"a": entry(0, 6, [-2, -3])},
        {"a": entry(6, 0, [-6])},
        {"a": entry(-6, 0, [6])},
        {"a": entry(0, 6, [2**62, 2**62])},
        {"a": entry(0, 6, [6.0])},
        {"a": entry(0, 6, ["6"])},
        {"a": entry(0, 6, [True, 6])},
        {"a": entry(0, 6, 6)},
        {"a": entry(0, 6, [6], "F128")},
        {"a": {"dtype": "U8", "shape": [6]}},
        {"a": {"dtype": "U8", "shape": [6], "data_offsets": [0, 6, 6]}},
        {"a": None},
        [],
        "text",
        7,
    ],
    ids=lambda header: json.dumps(header)[:40],
)
def test_a_header_that_lies_is_refused(header: Any) -> None:
    with pytest.raises(DamagedError, match=r"x.safetensors"):
        opened(json.dumps(header).encode(), b"123456")


@pytest.mark.parametrize(
    "text", [b"\xff\xfe", b'{"a":', b"[" * 100_000, b'{"a": NaN}'], ids=["bytes", "cut", "deep", "nan"]
)
def test_a_header_that_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(DamagedError, match=r"x.safetensors"):
        opened(text)


def test_a_file_that_ends_after_it_was_opened_is_named() -> None:
    header = FileLayout({"a": (torch.uint8, (6,))}).header()
    file = TensorFile(io.BytesIO(header + b"123"), len(header) + 6, "x.safetensors")
    with pytest.raises(DamagedError, match=r"x\.safetensors ends in the middle of a"):
        file.read("a")


def test_each_tensor_starts_at_a_multiple_of_its_elements() -> None:
    layout = FileLayout({"a": (torch.bool, (3,)), "b": (torch.float64, (2,)), "c": (torch.bfloat16, (5,))})
    assert len(layout.header()) % 8 == 0
    assert all(one.start % one.dtype.itemsize == 0 for one in layout.entries.values())
