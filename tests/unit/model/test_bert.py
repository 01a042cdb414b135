"""BERT sees both sides of a token, and never the padding."""

from typing import Any

import pytest
import torch
from torch import nn

from distmlp.errors import ConfigError
from distmlp.model.bert import BERT

VOCABULARY, LENGTH, PAD = 40, 10, 0


def make(**settings: Any) -> BERT:
    torch.manual_seed(7)
    facts = {"input_shape": (LENGTH,), "num_outputs": VOCABULARY, "pad_id": PAD}
    return BERT(**{**facts, "num_layers": 2, "num_heads": 4, "width": 32, **settings}).eval()


def random_tokens() -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_padding_changes_nothing_for_the_real_tokens(norm_position: str) -> None:
    network, tokens = make(norm_position=norm_position), random_tokens()
    padded = tokens.clone()
    padded[:, 6:] = PAD
    torch.testing.assert_close(network(padded)[:, :6], network(tokens[:, :6]), rtol=0, atol=1e-5)
    unaware = make(norm_position=norm_position, pad_id=None)
    assert not torch.allclose(unaware(padded)[:, :6], unaware(tokens[:, :6]), atol=1e-4)


def test_a_sample_of_padding_alone_gives_numbers_and_gradients() -> None:
    network, tokens = make(), random_tokens()
    tokens[1] = PAD
    logits = network(tokens)
    logits.square().mean().backward()
    assert logits.isfinite().all()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def test_a_token_sees_what_comes_after_it() -> None:
    network, tokens = make(), random_tokens()
    changed = tokens.clone()
    changed[:, -1] = tokens[:, -1] % (VOCABULARY - 1) + 1
    assert ((network(changed) - network(tokens)).abs().amax(dim=(0, 2)) > 1e-4).all()


def test_post_norm_normalises_the_stream_and_pre_norm_what_reads_it() -> None:
    x = 10.0 * torch.randn(2, LENGTH, 32)
    post, pre = make().blocks[0](x), make(norm_position="pre").blocks[0](x)
    assert post.std(dim=-1).mean().item() == pytest.approx(1.0, abs=0.05)
    torch.testing.assert_close(pre, x, rtol=0, atol=0.5)  # a fresh block adds little
    assert isinstance(make().final_norm, nn.Identity)
    assert isinstance(make(norm_position="pre").final_norm, nn.LayerNorm)


def test_bfloat16_autocast_stays_near_float32() -> None:
    network, tokens = make(), random_tokens()
    expected = network(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(tokens)
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).abs().mean() < 0.03 * expected.std()


def test_every_parameter_learns() -> None:
    network = make().train()
    network(random_tokens()).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


def test_dropout_acts_in_training_only() -> None:
    network, tokens = make(dropout=0.5), random_tokens()
    assert torch.equal(network(tokens), network(tokens))
    network.train()
    assert not torch.equal(network(tokens), network(tokens))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 39}, r"^model\.vocab_size=39 is smaller than the data's vocabulary of 40: "),
        ({"max_positions": 9}, r"^a sequence of 10 tokens is longer than model\.max_positions=9: "),
    ],
)
def test_data_that_does_not_fit_is_named_with_both_numbers(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**settings)
