"""Masked tokens: the right number, the right kinds, new in each epoch, and never a function of the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from distmlp.data.dataset import IGNORED, TokenSplit
from distmlp.data.masking import MaskedSplit
from distmlp.data.sequences import EvaluationStream
from distmlp.data.token_files import TokenFile, TokenFiles
from distmlp.data.vocabulary import Vocabulary

SEPARATOR = 3
VOCABULARY = Vocabulary("ids", 50, separator_id=SEPARATOR).with_specials(mask=True, pad=True)


def masked(
    folder: Path,
    num_tokens: int = 40_001,
    length: int = 100,
    fraction: float = 0.15,
    separators: int = 0,
    seed: int = 0,
) -> MaskedSplit:
    """Windows of random tokens, of which every ``separators``-th is one."""
    ids = np.random.default_rng(0).choice([one for one in range(50) if one != SEPARATOR], size=num_tokens)
    if separators:
        ids[::separators] = SEPARATOR
    path = folder / "tokens.bin"
    ids.astype(np.uint16).tofile(path)
    tokens = TokenFiles([TokenFile(path, "uint16", num_tokens)])
    inner = EvaluationStream(tokens, 0, num_tokens, length, VOCABULARY.padding_id)
    return MaskedSplit(inner, VOCABULARY, fraction, seed)


def test_a_masked_split_is_a_token_split(tmp_path: Path) -> None:
    assert isinstance(masked(tmp_path), TokenSplit)


@pytest.mark.parametrize("fraction", [0.001, 0.15, 0.5, 0.99])
@pytest.mark.parametrize("separators", [0, 2, 10])
def test_exactly_the_number_that_is_announced_is_masked(tmp_path: Path, fraction: float, separators: int) -> None:
    split = masked(tmp_path, num_tokens=978, fraction=fraction, separators=separators)  # the last window has 77
    positions = torch.arange(len(split))
    inputs, targets = split.batch(positions)
    expected = [max(1, round(fraction * length)) for length in [100] * 9 + [77]]
    assert (targets != IGNORED).sum(dim=1).tolist() == split.num_targets(positions).tolist() == expected
    assert torch.all(targets[-1, 77:] == IGNORED)
    assert torch.all(inputs[-1, 77:] == VOCABULARY.pad_id)


def test_the_shares_are_those_of_the_paper(tmp_path: Path) -> None:
    split = masked(tmp_path)
    positions = torch.arange(len(split))
    inputs, targets = split.batch(positions)
    originals = split.tokens.batch(positions)[0]
    chosen = targets != IGNORED
    assert torch.equal(targets[chosen], originals[chosen])
    assert torch.equal(inputs[~chosen], originals[~chosen])
    is_mask, stays = inputs[chosen] == VOCABULARY.mask_id, inputs[chosen] == originals[chosen]
    assert is_mask.double().mean().item() == pytest.approx(0.8, abs=0.02)
    assert stays.double().mean().item() == pytest.approx(0.1 + 0.1 / 49, abs=0.02)
    drawn = inputs[chosen][~is_mask & ~stays]
    assert set(drawn.tolist()) == set(range(50)) - {SEPARATOR}
    assert chosen.double().mean(dim=0).std() < 0.03  # no place is preferred


def test_special_tokens_are_chosen_only_where_there_is_nothing_else(tmp_path: Path) -> None:
    split = masked(tmp_path, separators=2)
    assert not torch.any(split.batch(torch.arange(len(split)))[1] == SEPARATOR)


def test_masks_are_a_function_of_the_sample_and_not_of_its_batch(tmp_path: Path) -> None:
    split = masked(tmp_path).in_epoch(2)
    inputs, targets = split.batch(torch.arange(len(split)))
    some = torch.tensor([17, 3, 250])
    assert torch.equal(split.batch(some)[0], inputs[some])
    assert torch.equal(split.batch(some)[1], targets[some])


def test_masks_change_with_epoch_and_seed_and_stay_without(tmp_path: Path) -> None:
    split, positions = masked(tmp_path), torch.arange(20)
    views = [split, split.in_epoch(0), split.in_epoch(1), masked(tmp_path, seed=1)]
    assert len({str(view.batch(positions)[1].tolist()) for view in views}) == 4
    for view, again in zip(views, [split, split.in_epoch(0), split.in_epoch(1)], strict=False):
        assert torch.equal(view.batch(positions)[0], again.batch(positions)[0])
