"""One scan over token files finds what training would only meet after hours: an id that the vocabulary lacks.

What it found is kept by path, size and time of change; a scan that was stopped continues where its journal says.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distmlp.data.cache import byte_progress, filling, read_json, write_whole
from distmlp.data.token_files import TokenFiles
from distmlp.errors import ConfigError

FORMAT = 1
JOURNAL_SECONDS = 5.0


@dataclass(frozen=True)
class Findings:
    """Smallest and largest id with their first positions, and a hash of the first ``num_tokens`` ids."""

    num_tokens: int = 0
    smallest: int = 0
    smallest_at: int = 0
    largest: int = -1
    largest_at: int = 0
    digest: str = ""

    def after(self, part: npt.NDArray[Any]) -> "Findings":
        """With the ids that come next, (n,)."""
        low, high, start = int(part.argmin()), int(part.argmax()), self.num_tokens
        values = asdict(self)
        if part[low] < self.smallest:
            values |= {"smallest": int(part[low]), "smallest_at": start + low}
        if part[high] > self.largest:
            values |= {"largest": int(part[high]), "largest_at": start + high}
        digest = hashlib.blake2b(self.digest.encode(), digest_size=16)
        digest.update(np.ascontiguousarray(part).data)
        values["digest"] = digest.hexdigest()
        return Findings(**values | {"num_tokens": start + len(part)})


def examine(tokens: TokenFiles, folder: Path) -> Findings:
    """The findings over all tokens, from ``folder`` or by a scan that leaves them there.

    Raises:
        ConfigError: the folder cannot be written.
    """
    path = folder / "findings.json"
    found = _read(path)
    if found.num_tokens < len(tokens):
        with filling(folder):
            found = _read(path)
            if found.num_tokens < len(tokens):
                found = _scan(tokens, found, path)
    return found


def _read(path: Path) -> Findings:
    values = read_json(path)
    return Findings(**values) if values else Findings()


def _scan(tokens: TokenFiles, found: Findings, path: Path) -> Findings:
    item_bytes, last_save = tokens.item_bytes, time.monotonic()
    with byte_progress("check of ids", len(tokens) * item_bytes, found.num_tokens * item_bytes) as bar:
        for _, part in tokens.parts(found.num_tokens):
            found = found.after(part)
            bar.update(part.nbytes)
            if time.monotonic() - last_save > JOURNAL_SECONDS or found.num_tokens == len(tokens):
                write_whole(path, json.dumps(asdict(found)))
                last_save = time.monotonic()
    return found


def check_ids(tokens: TokenFiles, found: Findings, size: int) -> None:
    """Every id is in ``[0, size)``.

    Raises:
        ConfigError: one is not; the message names file and position.
    """
    if found.smallest < 0:
        raise ConfigError(
            f"{tokens.place(found.smallest_at)} is {found.smallest}, and ids go from 0; is data.dtype right?"
        )
    if found.largest >= size:
        raise ConfigError(
            f"{tokens.place(found.largest_at)} is {found.largest}, and the vocabulary has {size} tokens (0 to "
            f"{size - 1}); give a larger data.vocab_size, the right data.tokenizer, or another data.dtype"
        )
