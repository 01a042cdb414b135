"""Attention equals the formula, rotary positions tell distances, and the masks show what they should."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distmlp.model.attention import Attention, causal_mask, document_mask
from distmlp.model.kv_cache import LayerCache
from distmlp.model.rotary import Rotary
from distmlp.model.transformer import default_mlp_width


def make(**settings: Any) -> Attention:
    torch.manual_seed(7)
    return Attention(**{"width": 16, "num_heads": 4, **settings})


def by_formula(attention: Attention, x: Tensor, num_heads: int, num_kv_heads: int, allowed: Tensor) -> Tensor:
    """softmax(QK'/sqrt(d))V head by head, as in the paper."""
    d = attention.head_width
    query, key, value = attention.query(x), attention.key(x), attention.value(x)
    heads = []
    for head in range(num_heads):
        shared = head * num_kv_heads // num_heads
        q = query[..., head * d : (head + 1) * d]
        k, v = key[..., shared * d : (shared + 1) * d], value[..., shared * d : (shared + 1) * d]
        scores = (q @ k.transpose(1, 2) / math.sqrt(d)).masked_fill(~allowed, -math.inf)
        heads.append(scores.softmax(dim=-1) @ v)
    output: Tensor = attention.output(torch.cat(heads, dim=-1))
    return output


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_the_formula(num_kv_heads: int, causal: bool) -> None:
    attention, x = make(num_kv_heads=num_kv_heads, causal=causal), torch.randn(2, 6, 16)
    allowed = torch.ones(6, 6, dtype=torch.bool)
    expected = by_formula(attention, x, 4, num_kv_heads, allowed.tril() if causal else allowed)
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-6)


def test_grouped_queries_have_fewer_keys_and_values() -> None:
    attention = make(num_kv_heads=1, bias=False)
    assert attention.key.weight.shape == attention.value.weight.shape == (4, 16)
    assert sum(weight.numel() for weight in attention.parameters()) == 2 * 16 * 16 + 2 * 4 * 16


def test_a_mask_replaces_the_causal_rule() -> None:
    attention, x = make(causal=True), torch.randn(2, 6, 16)
    allowed = torch.eye(6, dtype=torch.bool)
    torch.testing.assert_close(attention(x, allowed), by_formula(attention, x, 4, 4, allowed), rtol=0, atol=1e-6)


def test_normalised_queries_and_keys_bound_the_scores() -> None:
    attention, x = make(qk_norm=True), torch.randn(2, 6, 16)
    expected = attention(x)
    with torch.no_grad():
        attention.query.weight.mul_(50.0)
        attention.query.bias.mul_(50.0)
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(make()(x), expected, atol=1e-3)


def test_several_tokens_after_others_need_a_mask() -> None:
    attention, cache, x = make(causal=True), LayerCache(6), torch.randn(2, 6, 16)
    with torch.no_grad():
        whole = attention(x)
        first = attention(x[:, :3], cache=cache)
        with pytest.raises(AssertionError):
            attention(x[:, 3:], cache=cache)
        rest = attention(x[:, 3:], causal_mask(3, 6, x.device), cache)
    torch.testing.assert_close(torch.cat((first, rest), dim=1), whole, rtol=0, atol=1e-6)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    rotary = Rotary(head_width=8, max_positions=32, theta=10000.0)
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(query_position: int, key_position: int) -> float:
        return float((rotary(query, query_position) * rotary(key, key_position)).sum())

    assert score(9, 4) == pytest.approx(score(25, 20), abs=1e-5)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)
    assert torch.equal(rotary(query, 0), query)
    assert rotary(query, 31).norm().item() == pytest.approx(query.norm().item(), rel=1e-6)


def test_rotary_tables_survive_a_cast_and_the_meta_device() -> None:
    expected = Rotary(head_width=8, max_positions=300, theta=10000.0)
    cast = nn.Sequential(Rotary(head_width=8, max_positions=300, theta=10000.0)).to(torch.bfloat16)[0]
    with torch.device("meta"):
        built = nn.Sequential(Rotary(head_width=8, max_positions=300, theta=10000.0))
    assert built[0].cosines.device.type == "meta"
    for rotary in (cast, built.to_empty(device="cpu")[0]):
        assert torch.equal(rotary.cosines, expected.cosines)
        assert torch.equal(rotary.sines, expected.sines)
    assert expected.state_dict() == {}
    assert cast(torch.randn(1, 1, 300, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_document_s_separator_belongs_to_the_document_it_ends() -> None:
    tokens = torch.tensor([[5, 0, 6, 7, 0, 0]])
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0],
            [0, 0, 1, 1, 0, 0],
            [0, 0, 1, 1, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    ).bool()
    assert torch.equal(document_mask(tokens, 0, 6)[0, 0], expected)
    assert torch.equal(document_mask(tokens, 0, 2)[0, 0], expected[4:])


def test_default_widths_of_the_feed_forward_network() -> None:
    assert default_mlp_width(768, "gelu") == 3072
    assert default_mlp_width(768, "swiglu") == 2048
    assert default_mlp_width(128, "swiglu") == 384  # 341.3 rounded up to a multiple of 64
