"""GPT predicts from what came before and nothing else, whichever way its tokens are fed."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distmlp.errors import ConfigError
from distmlp.model.gpt import GPT
from distmlp.model.kv_cache import DecoderState

VOCABULARY, LENGTH, SEPARATOR = 50, 12, 3
KINDS: dict[str, dict[str, Any]] = {
    "rotary": {},
    "learned": {"positions": "learned", "norm": "layer", "activation": "gelu_tanh", "bias": True},
    "none": {"positions": "none"},
    "grouped": {"num_kv_heads": 2, "tie_embeddings": False},
    "qk_norm": {"qk_norm": True},
    "documents": {"attend_across_documents": False, "separator_id": SEPARATOR},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(**settings: Any) -> GPT:
    torch.manual_seed(7)
    facts = {"input_shape": (LENGTH,), "num_outputs": VOCABULARY}
    return GPT(**{**facts, "num_layers": 2, "num_heads": 4, "width": 32, **settings})


def make_strong(**settings: Any) -> GPT:
    """Weights so large that every token visibly matters to the next ones."""
    network = make(**settings)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network.eval()


def random_tokens(num_sequences: int = 2, length: int = LENGTH) -> Tensor:
    """The third and the seventh token are separators."""
    tokens = torch.randint(
        SEPARATOR + 1, VOCABULARY, (num_sequences, length), generator=torch.Generator().manual_seed(1)
    )
    tokens[:, 2:7:4] = SEPARATOR
    return tokens


@torch.no_grad()
def fed_in_parts(network: GPT, tokens: Tensor, lengths: list[int]) -> Tensor:
    state = network.new_state(len(tokens), tokens.shape[1])
    return torch.cat([network(part, state) for part in tokens.split(lengths, dim=1)], dim=1)


@every_kind
def test_tokens_fed_in_parts_give_the_logits_of_the_whole_sequence(kind: str) -> None:
    network, tokens = make_strong(**KINDS[kind]), random_tokens()
    whole = network(tokens)
    assert whole.shape == (2, LENGTH, VOCABULARY)
    for lengths in ([1] * LENGTH, [5, 4, 3], [4, 1, 7], [LENGTH]):
        torch.testing.assert_close(fed_in_parts(network, tokens, lengths), whole, rtol=0, atol=1e-5)


@every_kind
def test_a_later_token_changes_no_earlier_logit(kind: str) -> None:
    network, tokens = make_strong(**KINDS[kind]), random_tokens()
    changed = tokens.clone()
    changed[:, 8] = (tokens[:, 8] - SEPARATOR) % (VOCABULARY - SEPARATOR - 1) + SEPARATOR + 1
    before, after = network(tokens), network(changed)
    torch.testing.assert_close(after[:, :8], before[:, :8], rtol=0, atol=1e-6)
    assert all((after[:, position] - before[:, position]).abs().max() > 1e-3 for position in range(8, LENGTH))


def test_the_order_of_earlier_tokens_matters_only_with_positions() -> None:
    tokens = random_tokens()
    swapped = tokens[:, [1, 0, *range(2, LENGTH)]]
    for kind, matters in (("rotary", True), ("learned", True), ("none", False)):
        network = make_strong(**KINDS[kind], num_layers=1)
        assert torch.allclose(network(swapped)[:, -1], network(tokens)[:, -1], atol=1e-5) is not matters


def test_a_document_is_read_as_if_it_stood_alone() -> None:
    tokens = random_tokens()
    apart, across = make_strong(**KINDS["documents"]), make_strong(separator_id=SEPARATOR)
    for start, stop in ((0, 3), (3, 7), (7, LENGTH)):
        alone = apart(tokens[:, start:stop])
        torch.testing.assert_close(apart(tokens)[:, start:stop], alone, rtol=0, atol=1e-5)
    assert not torch.allclose(across(tokens)[:, 7:], across(tokens[:, 7:]), atol=1e-2)


def test_a_state_keeps_what_was_said_without_a_gradient() -> None:
    network, tokens = make_strong(), random_tokens()
    state = network.new_state(2, LENGTH)
    network(tokens[:, :5], state)
    network(tokens[:, 5:], state).sum().backward()
    assert state.length == LENGTH
    assert network.token_embedding.weight.grad is not None


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_the_loss_of_a_fresh_network_is_that_of_guessing(tie_embeddings: bool) -> None:
    network = make(num_outputs=1000, width=64, num_layers=4, tie_embeddings=tie_embeddings)
    tokens = torch.randint(0, 1000, (8, LENGTH))
    loss = F.cross_entropy(network(tokens).flatten(0, 1), torch.randint(0, 1000, (8 * LENGTH,)))
    assert loss.item() == pytest.approx(math.log(1000), abs=0.1)


def test_initialisation_is_gpt_2_s() -> None:
    network = make(num_layers=8, width=128, bias=True, norm="layer")
    for block in network.blocks:
        for layer in (block.attention.query, block.mlp.gate, block.mlp.up):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        for layer in (block.attention.output, block.mlp.down):
            assert layer.weight.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.05)
    assert not any(weight.any() for name, weight in network.named_parameters() if name.endswith("bias"))


def test_a_soft_cap_bounds_the_logits_and_keeps_small_ones() -> None:
    tokens = random_tokens()
    plain, capped = make_strong(), make_strong(logit_soft_cap=2.0)
    with torch.no_grad():
        for network in (plain, capped):
            network.token_embedding.weight.mul_(10.0)
    assert plain(tokens).abs().max() > 4.0
    assert capped(tokens).abs().max() <= 2.0
    torch.testing.assert_close(capped(tokens), 2.0 * torch.tanh(plain(tokens) / 2.0))


@every_kind
def test_every_parameter_learns(kind: str) -> None:
    network = make(**KINDS[kind])
    network(random_tokens()).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


@every_kind
def test_bfloat16_autocast_stays_near_float32_with_a_state_too(kind: str) -> None:
    network, tokens = make_strong(**KINDS[kind]), random_tokens()
    expected = network(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(tokens)
        fed = fed_in_parts(network, tokens, [5, 1, 6])
    assert logits.dtype == fed.dtype == torch.bfloat16
    for approximate in (logits, fed):
        assert (approximate - expected).abs().mean() < 0.03 * expected.std()
    logits.float().square().sum().backward()


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", torch.relu),
        ("relu_squared", lambda x: torch.relu(x) ** 2),
        ("gelu", lambda x: x * torch.special.ndtr(x)),
        ("gelu_tanh", lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    ],
)
def test_every_activation_is_applied(activation: str, function: Any) -> None:
    mlp, x = make_strong(activation=activation).blocks[0].mlp, torch.randn(3, 32)
    torch.testing.assert_close(mlp(x), mlp.down(function(mlp.up(x))))


def test_dropout_acts_in_training_only() -> None:
    network, tokens = make(dropout=0.5), random_tokens()
    assert not torch.equal(network(tokens), network(tokens))
    network.eval()
    assert torch.equal(network(tokens), network(tokens))


def test_without_bias_there_is_none_anywhere() -> None:
    assert not [name for name, _ in make(norm="layer").named_parameters() if "bias" in name]
    norms = [module for module in make(norm="layer", bias=True).modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 5
    assert all(norm.bias is not None for norm in norms)


def test_tied_weights_are_one_parameter_saved_once() -> None:
    assert len(make().state_dict()) == len(list(make().parameters()))
    tied, own = (sum(weight.numel() for weight in make(tie_embeddings=tie).parameters()) for tie in (True, False))
    assert own - tied == VOCABULARY * 32


def test_sizes_follow_the_data_where_they_are_not_set() -> None:
    assert make().max_positions == LENGTH
    assert make(max_positions=64, vocab_size=64)(random_tokens(length=20)).shape == (2, 20, 64)


def state_of(num_sequences: int, max_length: int) -> DecoderState:
    return make().new_state(num_sequences, max_length)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: make(vocab_size=49), r"^model\.vocab_size=49 is smaller than the data's vocabulary of 50: "),
        (lambda: make(max_positions=8), r"^a sequence of 12 tokens is longer than model\.max_positions=8: "),
        (lambda: make()(random_tokens(length=13)), r"^a sequence of 13 tokens is longer than .*positions=12: "),
        (lambda: state_of(2, 13), r"^a sequence of 13 tokens is longer than model\.max_positions=12: "),
        (lambda: make()(random_tokens(3), state_of(2, 12)), r"^3 sequences continue a state of 2: "),
        (lambda: make()(random_tokens(), state_of(2, 8)), r"^12 tokens after 0 are more than .* max_length=8$"),
        (
            lambda: make(attend_across_documents=False),
            r"^model\.attend_across_documents=false needs data with a document separator: set data\.separator$",
        ),
    ],
)
def test_a_mistake_is_named_with_its_numbers(mistake: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        mistake()
    assert "\n" not in str(caught.value)
