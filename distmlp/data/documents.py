"""Next-token samples that never cross a document: each is cut into pieces of at most T tokens, which are padded.

A document is what lies between two separators. From n tokens and the separator that ends them come n inputs, each with
the token after it as its target: every token but a document's first is predicted once, its separator included. Tokens
after the last separator are a document that ends with the last token.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distmlp.data.cache import byte_progress, filling
from distmlp.data.sequences import padded_windows
from distmlp.data.token_files import Int64Array, TokenFiles


class DocumentIndex:
    """Where documents end, memory-mapped, and how many pieces stand before each: 8 bytes of memory a document."""

    def __init__(self, path: Path, sequence_length: int) -> None:
        self.path = path
        self.sequence_length = sequence_length
        self.ends: Int64Array = np.load(path, mmap_mode="r").view(np.ndarray)
        self.first_pieces = np.zeros(len(self.ends) + 1, dtype=np.int64)
        num_inputs = np.diff(self.ends, prepend=-1) - 1
        np.cumsum(-(-num_inputs // sequence_length), out=self.first_pieces[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        return DocumentIndex, (self.path, self.sequence_length)

    def __len__(self) -> int:
        """Documents."""
        return len(self.ends)

    def nearest(self, position: int) -> int:
        """How many documents to take so that they hold about ``position`` tokens."""
        after = int(np.searchsorted(self.ends, position))
        if after == len(self.ends):
            return after
        before = int(self.ends[after - 1]) + 1 if after else 0
        return after if position - before <= int(self.ends[after]) + 1 - position else after + 1

    def windows(self, pieces: Int64Array) -> tuple[Int64Array, Int64Array]:
        """First token and number of inputs of each piece, (len(pieces),) both."""
        documents = np.searchsorted(self.first_pieces, pieces, side="right") - 1
        begins = np.where(documents > 0, self.ends[documents - 1] + 1, 0)
        starts = begins + (pieces - self.first_pieces[documents]) * self.sequence_length
        return starts, np.minimum(self.sequence_length, self.ends[documents] - starts)


@dataclass(frozen=True)
class DocumentSplit:
    """The pieces of the documents ``first_document … after_document-1``."""

    tokens: TokenFiles
    index: DocumentIndex
    first_document: int
    after_document: int
    padding_id: int
    first_id: int = 0

    @property
    def _first_piece(self) -> int:
        return int(self.index.first_pieces[self.first_document])

    def __len__(self) -> int:
        return int(self.index.first_pieces[self.after_document]) - self._first_piece

    def in_epoch(self, epoch: int) -> "DocumentSplit":
        return self

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets (len(positions), T) int64; the targets of padding are `IGNORED`."""
        starts, lengths = self.index.windows(positions.numpy() + self._first_piece)
        return padded_windows(self.tokens, starts, lengths, self.index.sequence_length, self.padding_id)

    def sample_ids(self, positions: Tensor) -> Tensor:
        """Numbers of the pieces, int64, (len(positions),)."""
        return positions + self.first_id

    def num_targets(self, positions: Tensor) -> Tensor:
        """Tokens of each piece, int64, (len(positions),)."""
        return torch.from_numpy(self.index.windows(positions.numpy() + self._first_piece)[1])


def document_ends(tokens: TokenFiles, separator_id: int, folder: Path) -> Path:
    """The ``.npy`` file, in ``folder``, of the positions int64 where documents end; found by one scan, once.

    Raises:
        ConfigError: the folder cannot be written.
    """
    path = folder / f"documents-{separator_id}.npy"
    if not path.exists():
        with filling(folder):
            if not path.exists():
                _scan(tokens, separator_id, path)
    return path


def _scan(tokens: TokenFiles, separator_id: int, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    num_ends, last = 0, -1
    with temporary.open("w+b") as file, byte_progress("documents", len(tokens) * tokens.item_bytes) as bar:
        _write_header(file, 0)
        for start, part in tokens.parts():
            ends = np.flatnonzero(part == separator_id) + start
            file.write(ends.astype("<i8").tobytes())
            num_ends, last = num_ends + len(ends), int(ends[-1]) if len(ends) else last
            bar.update(part.nbytes)
        if last != len(tokens) - 1:
            file.write(np.array([len(tokens) - 1], dtype="<i8").tobytes())
            num_ends += 1
        file.seek(0)
        _write_header(file, num_ends)  # of the same length: NumPy leaves room for the first axis to grow
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _write_header(file: Any, num_ends: int) -> None:
    header = {"descr": "<i8", "fortran_order": False, "shape": (num_ends,)}
    np.lib.format.write_array_header_1_0(file, header)
