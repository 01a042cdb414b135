"""Token files become the three splits of a data set: which tokens go where, how they are packed, what is predicted."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from distmlp.data.dataset import TokenSplit
from distmlp.data.documents import DocumentIndex, DocumentSplit, document_ends
from distmlp.data.masking import MaskedSplit
from distmlp.data.sequences import EvaluationStream, TrainStream
from distmlp.data.token_files import TokenFiles
from distmlp.data.vocabulary import Vocabulary
from distmlp.errors import ConfigError

Splits = tuple[TokenSplit, TokenSplit, TokenSplit]


@dataclass(frozen=True)
class Source:
    """Tokens, what messages call them, and the folder of what is found out about them."""

    tokens: TokenFiles
    title: str
    folder: Path


@dataclass(frozen=True)
class Sampling:
    """How tokens become samples: keys of the configuration, and the vocabulary."""

    sequence_length: int
    packing: Literal["stream", "documents"]
    task: Literal["next_token", "masked_token"]
    mask_fraction: float
    seed: int
    vocabulary: Vocabulary


def token_vocabulary(vocabulary: Vocabulary, *, task: str, packing: str) -> Vocabulary:
    """With the special ids that the task needs; next-token padding needs none, since no loss and no token sees it."""
    masked = task == "masked_token"
    return vocabulary.with_specials(mask=masked, pad=masked and packing == "documents")


def token_splits(
    source: Source,
    sampling: Sampling,
    *,
    validation_fraction: float,
    test_fraction: float,
    validation_source: Source | None = None,
) -> Splits:
    """Train, validation and test: shares of the tokens by position, in this order.

    With ``validation_source`` all of it validates, and ``validation_fraction`` counts for nothing.

    Raises:
        ConfigError: a split that is asked for would have no sample; the message holds the numbers.
    """
    own_share = validation_fraction if validation_source is None else 0.0
    cuts = _cuts(source, own_share, test_fraction)
    train, validation, test = _packer(source, sampling)(cuts)
    if validation_source is not None:
        size = len(validation_source.tokens)
        first_id = len(train) + len(test)
        validation = _packer(validation_source, sampling, first_id)((0, 0, size, size))[1]
        _check_size("validation", validation, validation_source, sampling, size)
    else:
        _check_size("validation", validation, source, sampling, cuts[2] - cuts[1])
    _check_size("train", train, source, sampling, cuts[1])
    if test_fraction:
        _check_size("test", test, source, sampling, cuts[3] - cuts[2])
    splits = train, validation, test
    if sampling.task == "next_token":
        return splits
    train, validation, test = (
        MaskedSplit(split, sampling.vocabulary, sampling.mask_fraction, sampling.seed) for split in splits
    )
    return train, validation, test


Cuts = tuple[int, int, int, int]


def _cuts(source: Source, validation_fraction: float, test_fraction: float) -> Cuts:
    """Token positions between the splits, with both ends."""
    num_tokens = len(source.tokens)
    num_test, num_validation = round(num_tokens * test_fraction), round(num_tokens * validation_fraction)
    return 0, num_tokens - num_test - num_validation, num_tokens - num_test, num_tokens


def _packer(source: Source, sampling: Sampling, first_id: int = 0) -> Callable[[Cuts], Splits]:
    """What makes the three splits between four positions; ids count on from split to split."""

    def stream(cuts: Cuts) -> Splits:
        tokens, length, padding = source.tokens, sampling.sequence_length, sampling.vocabulary.padding_id
        train = TrainStream(tokens, cuts[0], cuts[1], length, sampling.seed, first_id)
        ends = [_end(start, after, sampling) for start, after in pairwise(cuts[1:])]
        validation = EvaluationStream(tokens, cuts[1], ends[0], length, padding, first_id + len(train))
        test = EvaluationStream(tokens, cuts[2], ends[1], length, padding, validation.first_id + len(validation))
        return train, validation, test

    def documents(cuts: Cuts) -> Splits:
        separator_id = sampling.vocabulary.separator_id
        assert separator_id is not None, "checked by the loaders"
        index = DocumentIndex(document_ends(source.tokens, separator_id, source.folder), sampling.sequence_length)
        bounds = [index.nearest(cut) for cut in cuts]
        train, validation, test = (
            DocumentSplit(
                source.tokens,
                index,
                first,
                after,
                sampling.vocabulary.padding_id,
                first_id + int(index.first_pieces[first]),
            )
            for first, after in pairwise(bounds)
        )
        return train, validation, test

    return stream if sampling.packing == "stream" else documents


def _end(start: int, after: int, sampling: Sampling) -> int:
    """Where an evaluated stream ends. Of masked tokens it has whole windows only: an encoder would see the padding."""
    if sampling.task == "next_token":
        return after
    length = sampling.sequence_length
    return start + 1 + max(0, after - start - 1) // length * length


def _check_size(name: str, split: TokenSplit, source: Source, sampling: Sampling, num_tokens: int) -> None:
    if len(split):
        return
    whole = f"{source.title}: {num_tokens} of {len(source.tokens)} tokens are for {name}"
    if isinstance(split, DocumentSplit):
        raise ConfigError(
            f"{whole}, and of {len(split.index)} documents none begins and ends there; give more documents, or use "
            "data.packing=stream"
        )
    least = 2 if sampling.task == "next_token" else sampling.sequence_length + 1
    needed = 2 * sampling.sequence_length if name == "train" else least
    raise ConfigError(
        f"{whole}, and data.sequence_length={sampling.sequence_length} needs {needed} or more; give more text, or "
        "change data.validation_fraction, data.test_fraction or data.sequence_length"
    )
