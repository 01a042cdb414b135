"""Text files become one flat file of token ids, once, in a cache folder.

vocabulary.json     made first: a start that continues never makes it again
tokens.bin          ids, little-endian, of the narrowest type that holds the vocabulary
journal.json        how far tokens.bin is right; a start truncates to it and continues there
prepared.json       written last: where it is, the rest is whole

Chunks are cut by content alone, and the fingerprint is a chain over them, so that a preparation that was killed at any
moment and continued ends in the same bytes as one that was not.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from distmlp.data.cache import byte_progress, cache_folder, filling, identity, read_json, write_whole
from distmlp.data.text_files import CHUNK_BYTES, read_chunks
from distmlp.data.tokenizer import TOKENIZERS, check_tokenizer, make_vocabulary
from distmlp.data.vocabulary import Vocabulary

FORMAT = 1
JOURNAL_SECONDS = 2.0
CHUNKS_AT_ONCE = 32


@dataclass(frozen=True)
class Prepared:
    """``tokens.bin`` in ``folder``: ``num_tokens`` ids of ``dtype``, and a hash of them and their vocabulary."""

    folder: Path
    dtype: str
    num_tokens: int
    fingerprint: str
    vocabulary: Vocabulary

    @property
    def path(self) -> Path:
        return self.folder / "tokens.bin"


@dataclass(frozen=True)
class Journal:
    """tokens.bin holds ``num_tokens`` ids: all files before number ``file``, and the first ``offset`` bytes of that."""

    file: int = 0
    offset: int = 0
    num_tokens: int = 0
    digest: str = ""

    def after(self, data: bytes, num_tokens: int, *, file: int, offset: int) -> "Journal":
        """With ``data`` of ``num_tokens`` more ids, and the reader at the place given."""
        digest = hashlib.blake2b(self.digest.encode() + data, digest_size=16).hexdigest()
        return Journal(file, offset, self.num_tokens + num_tokens, digest)


def prepare(
    files: Sequence[Path], *, documents: bool, tokenizer: str, vocab_size: int | None, cache_dir: str | None
) -> Prepared:
    """The tokens of the files, one after the other, encoded now or before.

    Args:
        files: UTF-8 text, of any size.
        documents: a separator follows each file.
        tokenizer: a name in `TOKENIZERS`, or the path of a tokenizer.json.
        vocab_size: tokens that ``bpe`` learns.
        cache_dir: None for the user's cache folder.

    Raises:
        ConfigError: a file is not UTF-8, the tokenizer is none, or the cache cannot be written.
    """
    check_tokenizer(tokenizer, vocab_size)
    chosen = tokenizer if tokenizer in TOKENIZERS else identity(Path(tokenizer).expanduser())
    folder = cache_folder(cache_dir, [FORMAT, documents, chosen, vocab_size, *map(identity, files)])
    if (found := _whole(folder)) is None:  # looked at without the lock: a cache that is shared may be read-only
        with filling(folder):
            if (found := _whole(folder)) is None:
                vocabulary = _vocabulary(folder, files, tokenizer, vocab_size, documents)
                found = _encode(folder, files, vocabulary, documents)
    return found


def _whole(folder: Path) -> Prepared | None:
    values = read_json(folder / "prepared.json")
    if values is None:
        return None
    prepared = Prepared(folder, **values, vocabulary=Vocabulary.load(folder / "vocabulary.json"))
    expected_bytes = prepared.num_tokens * np.dtype(prepared.dtype).itemsize
    return prepared if prepared.path.is_file() and prepared.path.stat().st_size == expected_bytes else None


def _vocabulary(
    folder: Path, files: Sequence[Path], tokenizer: str, vocab_size: int | None, documents: bool
) -> Vocabulary:
    path = folder / "vocabulary.json"
    if not path.exists():
        made = make_vocabulary(files, tokenizer, vocab_size).with_specials(separator=documents)
        (folder / "journal.json").unlink(missing_ok=True)
        made.save(path)
    return Vocabulary.load(path)


def _encode(folder: Path, files: Sequence[Path], vocabulary: Vocabulary, documents: bool) -> Prepared:
    dtype = narrowest_dtype(vocabulary.size)
    target, journal_path = folder / "tokens.bin", folder / "journal.json"
    target.touch()
    with target.open("r+b") as file:
        state = _continued(journal_path, file, np.dtype(dtype).itemsize)
        save = _saver(journal_path, file)
        try:
            last_save = time.monotonic()
            for ids, place in _encoded(files, state, vocabulary, documents):
                data = ids.astype(dtype).tobytes()
                file.write(data)
                state = state.after(data, len(ids), **place)
                if time.monotonic() - last_save > JOURNAL_SECONDS:
                    save(state)
                    last_save = time.monotonic()
        except BaseException:  # an interrupt too: what is done need not be done again
            with contextlib.suppress(OSError):
                save(state)
            raise
        save(state)
    content = [FORMAT, dtype, state.num_tokens, state.digest, asdict(vocabulary)]
    fingerprint = f"blake2b:{hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()}"
    values = {"dtype": dtype, "num_tokens": state.num_tokens, "fingerprint": fingerprint}
    write_whole(folder / "prepared.json", json.dumps(values))
    return Prepared(folder, dtype, state.num_tokens, fingerprint, vocabulary)


def _continued(journal_path: Path, file: IO[bytes], item_bytes: int) -> Journal:
    """Where an earlier start got to; the file is cut to what its journal vouches for."""
    values = read_json(journal_path)
    state = Journal(**values) if values else Journal()
    if file.seek(0, os.SEEK_END) < state.num_tokens * item_bytes:
        state = Journal()
    file.truncate(state.num_tokens * item_bytes)
    file.seek(0, os.SEEK_END)
    return state


def _saver(journal_path: Path, file: IO[bytes]) -> Callable[[Journal], None]:
    def save(state: Journal) -> None:
        file.flush()
        os.fsync(file.fileno())  # first the tokens, then the journal that vouches for them
        write_whole(journal_path, json.dumps(asdict(state)))

    return save


def _encoded(
    files: Sequence[Path], start: Journal, vocabulary: Vocabulary, documents: bool
) -> Iterator[tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], dict[str, int]]]:
    """Ids from ``start`` on, each with the place (file, offset) that the reader is at after them."""
    sizes = [file.stat().st_size for file in files]
    done = sum(sizes[: start.file]) + start.offset
    with byte_progress("tokens", sum(sizes), done) as bar:
        for number in range(start.file, len(files)):
            offset = start.offset if number == start.file else 0
            chunks = read_chunks(files[number], offset, CHUNK_BYTES)
            while group := list(islice(chunks, CHUNKS_AT_ONCE)):
                for (after, _), ids in zip(group, vocabulary.encode_all([text for _, text in group]), strict=True):
                    yield ids, {"file": number, "offset": after}
                    bar.update(after - offset)
                    offset = after
            ending = [vocabulary.separator_id] if documents else []
            yield np.array(ending, dtype=np.int64), {"file": number + 1, "offset": 0}


def narrowest_dtype(size: int) -> str:
    """The narrowest unsigned type whose values reach ``size - 1``."""
    return next(f"uint{bits}" for bits in (8, 16, 32) if size <= 1 << bits)
