"""The vocabulary that `data.tokenizer` names: characters of the data, bytes, byte pairs learnt from it, or a file's."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from distmlp.data.cache import byte_progress
from distmlp.data.text_files import CHUNK_BYTES, read_chunks
from distmlp.data.vocabulary import Vocabulary, code_points, library_vocabulary, tokenizers_library
from distmlp.errors import ConfigError, did_you_mean

TOKENIZERS = ("characters", "bytes", "bpe")
BPE_SIZE = 8192
BPE_BYTES = 1 << 30  # read to learn byte pairs: more changes them little, and the library keeps all words in memory
_UNICODE = 0x110000


def check_tokenizer(tokenizer: str, vocab_size: int | None) -> None:
    """Whether the choice makes sense, before anything is read.

    Raises:
        ConfigError: it is neither a name nor a file, or ``vocab_size`` does not go with it.
    """
    if tokenizer not in TOKENIZERS and not Path(tokenizer).expanduser().is_file():
        near = did_you_mean(tokenizer, TOKENIZERS) or f": use {', '.join(TOKENIZERS)}, or the path of a tokenizer.json"
        raise ConfigError(f"data.tokenizer={tokenizer} is neither a tokenizer nor a file{near}")
    if vocab_size is not None and tokenizer != "bpe":
        raise ConfigError(
            f"data.vocab_size={vocab_size} is what tokenizer=bpe learns, and data.tokenizer={tokenizer} brings its own "
            "size: leave data.vocab_size unset"
        )
    if vocab_size is not None and vocab_size < 256:
        raise ConfigError(
            f"data.vocab_size={vocab_size}: tokenizer=bpe starts from the 256 bytes; give more than those"
        )


def make_vocabulary(files: Sequence[Path], tokenizer: str, vocab_size: int | None) -> Vocabulary:
    """The vocabulary of `check_tokenizer`'s arguments for these files.

    Raises:
        ConfigError: a file is not UTF-8 or cannot be read, or the tokenizer's file is none.
    """
    if tokenizer == "characters":
        characters = _characters(files)
        return Vocabulary("characters", len(characters), definition=characters)
    if tokenizer == "bytes":
        return Vocabulary("bytes", 256)
    if tokenizer == "bpe":
        return _byte_pairs(files, vocab_size or BPE_SIZE)
    return load_tokenizer(tokenizer)


def load_tokenizer(path: str) -> Vocabulary:
    """The vocabulary of a ``tokenizer.json`` of the library `tokenizers`.

    Raises:
        ConfigError: the file is missing or no such tokenizer.
    """
    try:
        return library_vocabulary(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"data.tokenizer={path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the library raises nothing more special
        reason = " ".join(str(error).split())
        raise ConfigError(f"data.tokenizer={path}: not a tokenizer.json of the library tokenizers: {reason}") from error


def _characters(files: Sequence[Path]) -> str:
    present = np.zeros(_UNICODE, dtype=bool)
    with byte_progress("characters", sum(file.stat().st_size for file in files)) as bar:
        for file in files:
            start = 0
            for after, text in read_chunks(file, 0, CHUNK_BYTES):
                present[code_points(text)] = True
                bar.update(after - start)
                start = after
    return "".join(map(chr, np.flatnonzero(present)))


def _byte_pairs(files: Sequence[Path], vocab_size: int) -> Vocabulary:
    """Byte-level BPE (Sennrich et al., 2016) over words split as GPT-2 does (Radford et al., 2019)."""
    library = tokenizers_library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_sample(files, BPE_BYTES), trainer=trainer)
    return library_vocabulary(tokenizer.to_str())


def _sample(files: Sequence[Path], limit_bytes: int) -> Iterator[str]:
    """Chunks spread evenly over all files, about ``limit_bytes`` together; encoding checks that they are UTF-8."""
    total = sum(file.stat().st_size for file in files)
    stride, number = -(-total // limit_bytes), 0
    with byte_progress("byte pairs", total) as bar:
        for path in files:
            with path.open("rb") as file:
                for start in range(0, path.stat().st_size, CHUNK_BYTES):
                    if number % stride == 0:
                        file.seek(start)
                        yield file.read(CHUNK_BYTES).decode("utf-8", errors="ignore")
                    bar.update(CHUNK_BYTES)
                    number += 1
