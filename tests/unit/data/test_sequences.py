"""Windows over tokens: every token predicted as often as it should be, targets that follow their inputs, no leaks."""

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distmlp.data.dataset import IGNORED, TokenSplit
from distmlp.data.documents import DocumentIndex, DocumentSplit, document_ends
from distmlp.data.sequences import EvaluationStream, TrainStream
from distmlp.data.token_files import TokenFile, TokenFiles


def token_files(folder: Path, *shards: list[int]) -> TokenFiles:
    files = []
    for number, ids in enumerate(shards):
        path = folder / f"{number}.bin"
        np.array(ids, dtype=np.uint16).tofile(path)
        files.append(TokenFile(path, "uint16", len(ids)))
    return TokenFiles(files)


def everything(split: TokenSplit) -> tuple[Tensor, Tensor]:
    return split.batch(torch.arange(len(split)))


@pytest.mark.parametrize("sizes", [[103], [1, 40, 3, 2, 57], [50, 53]])
def test_windows_are_the_same_over_one_file_and_over_shards(tmp_path: Path, sizes: list[int]) -> None:
    bounds = np.cumsum([0, *sizes])
    shards = [list(range(first, after)) for first, after in pairwise(bounds)]
    tokens = token_files(tmp_path, *shards)
    starts = np.arange(103)[::-1]
    expected = np.minimum(starts[:, None] + np.arange(9), 102)
    assert np.array_equal(tokens.gather(starts, 9), expected)
    assert tokens.read(30, 70).tolist() == list(range(30, 70))
    assert tokens.place(sizes[0] - 1) == f"{tmp_path / '0.bin'}: token {sizes[0] - 1}"


def test_training_windows_lie_side_by_side_inside_their_part(tmp_path: Path) -> None:
    split = TrainStream(token_files(tmp_path, list(range(200))), 20, 150, 16, seed=3)
    for epoch in range(40):
        view = split.in_epoch(epoch)
        inputs, targets = everything(view)
        assert len(view) == len(split) == (130 - 16) // 16
        assert torch.equal(targets, inputs + 1)
        assert inputs.flatten().tolist() == list(range(20 + view.offset, 20 + view.offset + 16 * len(split)))
        assert inputs.dtype == targets.dtype == torch.int64
        assert targets.max() < 150


def test_the_grid_of_windows_moves_with_the_epoch_and_the_seed_alone(tmp_path: Path) -> None:
    tokens = token_files(tmp_path, list(range(200)))
    offsets = [TrainStream(tokens, 0, 150, 16, seed=3).in_epoch(epoch).offset for epoch in range(200)]
    assert set(offsets) == set(range(16))
    assert offsets == [TrainStream(tokens, 50, 90, 16, seed=3).in_epoch(epoch).offset for epoch in range(200)]
    assert offsets != [TrainStream(tokens, 0, 150, 16, seed=4).in_epoch(epoch).offset for epoch in range(200)]


@pytest.mark.parametrize("after", [40, 41, 42, 56, 57])
def test_evaluation_predicts_every_token_but_the_first_once(tmp_path: Path, after: int) -> None:
    split = EvaluationStream(token_files(tmp_path, list(range(60))), 8, after, 16, padding_id=99)
    inputs, targets = everything(split)
    counted = targets != IGNORED
    assert targets[counted].tolist() == list(range(9, after))
    assert torch.equal(inputs[counted] + 1, targets[counted])
    assert torch.all(inputs[~counted] == 99)
    assert torch.equal(split.num_targets(torch.arange(len(split))), counted.sum(dim=1))
    assert len(split) == -(-(after - 9) // 16)


def documents(folder: Path, *lengths: int, last_is_open: bool = False) -> tuple[TokenFiles, DocumentIndex]:
    """Documents of the tokens 1, 2, 3, …, never repeated, each of the given length and ended by a 0."""
    ids, token = [], 1
    for length in lengths:
        ids += [*range(token, token + length), 0]
        token += length
    tokens = token_files(folder, ids[:-1] if last_is_open else ids)
    return tokens, DocumentIndex(document_ends(tokens, 0, folder), 8)


def test_a_piece_never_crosses_a_document(tmp_path: Path) -> None:
    tokens, index = documents(tmp_path, 3, 0, 8, 1, 20)
    split = DocumentSplit(tokens, index, 0, len(index), padding_id=77)
    inputs, targets = everything(split)
    counted = targets != IGNORED
    assert [row[row != 77].tolist() for row in inputs] == [
        [1, 2, 3], [*range(4, 12)], [12], [*range(13, 21)], [*range(21, 29)], [*range(29, 33)]
    ]  # fmt: skip
    assert targets[counted].tolist() == [2, 3, 0, *range(5, 12), 0, 0, *range(14, 33), 0]
    assert torch.equal(inputs != 77, counted)
    assert torch.equal(split.num_targets(torch.arange(len(split))), counted.sum(dim=1))


def test_what_follows_the_last_separator_is_a_document(tmp_path: Path) -> None:
    tokens, index = documents(tmp_path, 3, 10, last_is_open=True)
    inputs, targets = everything(DocumentSplit(tokens, index, 1, 2, padding_id=77))
    assert targets[targets != IGNORED].tolist() == list(range(5, 14))
    assert inputs[inputs != 77].tolist() == list(range(4, 13))


def test_parts_of_the_documents_share_no_piece(tmp_path: Path) -> None:
    tokens, index = documents(tmp_path, 3, 0, 8, 1, 20)
    parts = [DocumentSplit(tokens, index, first, after, 77) for first, after in ((0, 2), (2, 4), (4, 5))]
    assert [len(part) for part in parts] == [1, 2, 3]
    whole = everything(DocumentSplit(tokens, index, 0, 5, 77))[0]
    assert torch.equal(torch.cat([everything(part)[0] for part in parts]), whole)


def test_the_nearest_document_end_is_taken(tmp_path: Path) -> None:
    _, index = documents(tmp_path, 9, 9, 79)  # ends after 10, 20 and 100 tokens
    assert [index.nearest(position) for position in (0, 4, 6, 14, 16, 59, 61, 100)] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_document_ends_are_found_across_parts_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distmlp.data.token_files.PART_TOKENS", 7)
    lengths = [int(length) for length in np.random.default_rng(0).integers(0, 12, size=200)]
    _, index = documents(tmp_path, *lengths)
    assert index.ends.tolist() == (np.cumsum(np.array(lengths) + 1) - 1).tolist()
    before = index.path.stat().st_mtime_ns
    documents(tmp_path, 1, 2)
    assert index.path.stat().st_mtime_ns == before


def test_a_split_sent_to_another_process_maps_its_files_itself(tmp_path: Path) -> None:
    tokens = token_files(tmp_path, list(range(60000)))
    splits = [TrainStream(tokens, 0, 60000, 16, seed=0), EvaluationStream(tokens, 0, 60000, 16, 0)]
    index = DocumentIndex(document_ends(tokens, 5, tmp_path), 16)
    for split in [*splits, DocumentSplit(tokens, index, 0, 2, 0)]:
        sent = pickle.dumps(split)
        assert len(sent) < 2000
        assert torch.equal(everything(pickle.loads(sent))[0], everything(split)[0])
