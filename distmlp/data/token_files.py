"""Token ids in memory-mapped files, however many and large, read as one sequence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
PART_TOKENS = 1 << 22


@dataclass(frozen=True)
class TokenFile:
    """``num_tokens`` ids of ``dtype`` from byte ``offset_bytes`` of the file."""

    path: Path
    dtype: str
    num_tokens: int
    offset_bytes: int = 0

    def open(self) -> npt.NDArray[Any]:
        """The ids, mapped: nothing is read yet."""
        mapped = np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset_bytes, shape=(self.num_tokens,))
        return mapped.view(np.ndarray)  # indexing a memmap costs more than indexing an array


class TokenFiles:
    """The ids of one or more files of at least one token each, one after the other."""

    def __init__(self, files: Sequence[TokenFile]) -> None:
        self.files = tuple(files)
        self._arrays = [file.open() for file in self.files]
        self._firsts = np.cumsum([0] + [file.num_tokens for file in self.files])

    def __reduce__(self) -> tuple[Any, ...]:
        # A process that is sent this maps the files itself; pickling the maps would send all they hold.
        return TokenFiles, (self.files,)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def gather(self, starts: Int64Array, length: int) -> Int64Array:
        """Windows of ``length`` ids, (len(starts), length); beyond the end the last id is repeated."""
        index = np.minimum(starts[:, None] + np.arange(length), len(self) - 1)
        if len(self._arrays) == 1:
            ids: Int64Array = self._arrays[0][index].astype(np.int64)
            return ids
        out = np.empty(index.shape, dtype=np.int64)
        shards = np.searchsorted(self._firsts, index[:, [0, -1]], side="right") - 1
        whole = shards[:, 0] == shards[:, 1]
        for shard in np.unique(shards[whole, 0]):
            rows = np.flatnonzero(whole & (shards[:, 0] == shard))
            out[rows] = self._arrays[shard][index[rows] - self._firsts[shard]]
        for row in np.flatnonzero(~whole):
            part = self.read(int(index[row, 0]), int(index[row, -1]) + 1)
            out[row, : len(part)], out[row, len(part) :] = part, part[-1]
        return out

    def read(self, first: int, after: int) -> npt.NDArray[Any]:
        """Ids ``first … after-1``, (after - first,)."""
        parts = [
            array[max(first - start, 0) : after - start]
            for array, start in zip(self._arrays, self._firsts, strict=False)
            if start < after and start + len(array) > first
        ]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def parts(self, first: int = 0) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """All ids from ``first`` on, at most `PART_TOKENS` at a time, each part with the position it starts at."""
        for start in range(first, len(self), PART_TOKENS):
            yield start, self.read(start, min(start + PART_TOKENS, len(self)))

    def place(self, position: int) -> str:
        """File and place in it, for a message."""
        shard = int(np.searchsorted(self._firsts, position, side="right")) - 1
        return f"{self.files[shard].path}: token {position - int(self._firsts[shard])}"

    @property
    def item_bytes(self) -> int:
        """Bytes of one id."""
        return int(self._arrays[0].itemsize)
