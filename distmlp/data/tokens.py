"""Token ids of the user's: ``.bin`` or ``.npy`` files of any size, or folders of them, mapped and never copied."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np

from distmlp.data.cache import cache_folder, identity
from distmlp.data.dataset import DataSet
from distmlp.data.token_check import FORMAT, Findings, check_ids, examine
from distmlp.data.token_files import TokenFile, TokenFiles
from distmlp.data.token_splits import Sampling, Source, token_splits, token_vocabulary
from distmlp.data.tokenizer import load_tokenizer
from distmlp.data.vocabulary import Vocabulary
from distmlp.errors import ConfigError

SUFFIXES = (".bin", ".npy")


def load_tokens(
    *,
    path: str,
    validation_path: str | None,
    dtype: str,
    vocab_size: int | None,
    tokenizer: str | None,
    separator: int | None,
    packing: Literal["stream", "documents"],
    cache_dir: str | None,
    sequence_length: int,
    task: Literal["next_token", "masked_token"],
    mask_fraction: float,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> DataSet:
    """Samples of T tokens, split by position: training first, then validation, then test.

    Args:
        path: ``.bin`` or ``.npy`` file, or a folder whose files, in the order of their names, are one sequence.
        validation_path: the same for validation, all of it; None for ``validation_fraction`` of ``path``.
        dtype: number type of a ``.bin``.
        vocab_size: every id is below it; None for the tokenizer's.
        tokenizer: the tokenizer.json that made the ids; None where only their numbers are known.
        separator: id that ends a document; None for the tokenizer's, or none.
        packing: stream (`sequences.py`) or documents (`documents.py`).
        cache_dir: folder of what is found out about the files; None for the user's.
        sequence_length: T.
        task: next_token, or masked_token (`masking.py`).
        mask_fraction: share of the tokens to predict in masked_token.
        validation_fraction: share of the tokens that validate.
        test_fraction: share of the tokens that test; may be 0.
        seed: of masks, and of the epochs' grids.

    Raises:
        ConfigError: a file is missing or malformed, an id is out of place, there are too few, or keys disagree.
    """
    base = _vocabulary(tokenizer, vocab_size, separator)
    if packing == "documents" and base.separator_id is None:
        raise ConfigError("data.packing=documents needs to know where documents end: give data.separator")
    examined = [_examined(one, dtype, base, cache_dir) for one in (path, validation_path) if one is not None]
    vocabulary = token_vocabulary(base, task=task, packing=packing)
    train, validation, test = token_splits(
        examined[0][0],
        Sampling(sequence_length, packing, task, mask_fraction, seed, vocabulary),
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        validation_source=examined[1][0] if validation_path is not None else None,
    )
    content = [asdict(base), *(findings.digest for _, findings in examined)]
    fingerprint = f"blake2b:{hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()}"
    notes = tuple(f"{source.title}: {len(source.tokens)} tokens." for source, _ in examined)
    shape, name = (sequence_length,), Path(path).stem or "tokens"
    return DataSet(name, task, shape, vocabulary.size, train, validation, test, fingerprint, notes, vocabulary)


def _vocabulary(tokenizer: str | None, vocab_size: int | None, separator: int | None) -> Vocabulary:
    if tokenizer is None:
        assert vocab_size is not None, "checked by the schema"
        base = Vocabulary("ids", vocab_size)
    else:
        base = load_tokenizer(tokenizer)
        if vocab_size is not None and vocab_size < base.size:
            raise ConfigError(
                f"data.vocab_size={vocab_size} is less than the {base.size} tokens of data.tokenizer={tokenizer}: "
                "leave data.vocab_size unset"
            )
        base = replace(base, size=vocab_size or base.size)
    if separator is not None and separator >= base.size:
        raise ConfigError(f"data.separator={separator} is no id of this vocabulary: they go from 0 to {base.size - 1}")
    return base if separator is None else replace(base, separator_id=separator)


def _examined(path: str, dtype: str, vocabulary: Vocabulary, cache_dir: str | None) -> tuple[Source, Findings]:
    paths = _list_files(path)
    tokens = TokenFiles([_open(one, dtype) for one in paths])
    folder = cache_folder(cache_dir, ["ids", FORMAT, dtype, *map(identity, paths)])
    findings = examine(tokens, folder)
    check_ids(tokens, findings, vocabulary.size)
    return Source(tokens, path, folder), findings


def _list_files(path: str) -> list[Path]:
    start = Path(path).expanduser()
    if start.is_file():
        if start.suffix not in SUFFIXES:
            raise ConfigError(
                f"{start}: data.path is expected to be a .bin or .npy file of token ids, or a folder of them"
            )
        return [start]
    if not start.is_dir():
        raise ConfigError(
            f"{start}: no such file or folder; give a .bin or .npy file of token ids, or a folder of them"
        )
    found = sorted(file for file in start.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise ConfigError(f"{start}: no .bin or .npy file in this folder")
    return found


def _open(path: Path, dtype: str) -> TokenFile:
    size, offset = path.stat().st_size, 0
    if path.suffix == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ConfigError(f"{path}: not an .npy file of numbers, or a truncated one") from error
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ConfigError(f"{path}: shape {array.shape} of {array.dtype} found, expected one row of whole numbers")
        dtype, offset = array.dtype.str, int(array.offset)
        size = offset + array.nbytes
    item_bytes = np.dtype(dtype).itemsize
    if size == offset:
        raise ConfigError(f"{path}: the file holds no token")
    if (size - offset) % item_bytes:
        raise ConfigError(
            f"{path}: {size} bytes are no whole number of tokens of {item_bytes} bytes; is data.dtype={dtype} right?"
        )
    return TokenFile(path, dtype, (size - offset) // item_bytes, offset)
