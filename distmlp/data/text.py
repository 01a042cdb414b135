"""A text file, or a folder of them, as sequences of tokens; prepared once (`prepare.py`), then memory-mapped."""

from pathlib import Path
from typing import Literal

from distmlp.data.dataset import DataSet
from distmlp.data.prepare import prepare
from distmlp.data.text_files import list_text_files
from distmlp.data.token_files import TokenFile, TokenFiles
from distmlp.data.token_splits import Sampling, Source, token_splits, token_vocabulary
from distmlp.errors import ConfigError


def load_text(
    *,
    path: str,
    files: str,
    tokenizer: str,
    vocab_size: int | None,
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
        path: UTF-8 file of any size, or a folder of them, each a document.
        files: pattern of the files that are read from a folder and its subfolders.
        tokenizer: characters, bytes, bpe (learnt from the data), or the path of a tokenizer.json.
        vocab_size: tokens that ``bpe`` learns; None for 8192.
        packing: stream (`sequences.py`) or documents (`documents.py`).
        cache_dir: folder of prepared tokens; None for the user's.
        sequence_length: T.
        task: next_token, or masked_token (`masking.py`).
        mask_fraction: share of the tokens to predict in masked_token.
        validation_fraction: share of the tokens that validate.
        test_fraction: share of the tokens that test; may be 0.
        seed: of masks, and of the epochs' grids.

    Raises:
        ConfigError: the text is missing, empty, not UTF-8 or too short, or a key does not fit another.
    """
    found, is_folder = list_text_files(path, files)
    prepared = prepare(found, documents=is_folder, tokenizer=tokenizer, vocab_size=vocab_size, cache_dir=cache_dir)
    if packing == "documents" and prepared.vocabulary.separator_id is None:
        raise ConfigError(
            f"{path}: one file is one document, and data.packing=documents needs several; give a folder of files, or "
            "use data.packing=stream"
        )
    if prepared.num_tokens == 0:
        raise ConfigError(f"{path}: data.tokenizer={tokenizer} makes no token of this text; choose another tokenizer")
    vocabulary = token_vocabulary(prepared.vocabulary, task=task, packing=packing)
    tokens = TokenFiles([TokenFile(prepared.path, prepared.dtype, prepared.num_tokens)])
    train, validation, test = token_splits(
        Source(tokens, path, prepared.folder),
        Sampling(sequence_length, packing, task, mask_fraction, seed, vocabulary),
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
    )
    return DataSet(
        Path(path).stem or "text",
        task,
        (sequence_length,),
        vocabulary.size,
        train,
        validation,
        test,
        prepared.fingerprint,
        (f"{path}: {prepared.num_tokens} tokens of {vocabulary.size} kinds.",),
        vocabulary,
    )
