"""Generation draws what it is told to draw from, and continues exactly, over the end of the positions too."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distmlp.data.vocabulary import Vocabulary, library_vocabulary
from distmlp.errors import ConfigError
from distmlp.generate import generate, sample, stream_text
from distmlp.model.gpt import GPT
from distmlp.model.rnn import RNN

VOCABULARY, POSITIONS = 30, 12
TOKENS: dict[str, Any] = {"input_shape": (POSITIONS,), "num_outputs": VOCABULARY}


def new_gpt(**settings: Any) -> nn.Module:
    torch.manual_seed(3)
    return sharpened(GPT(**{**TOKENS, "num_layers": 2, "num_heads": 2, "width": 16, **settings}))


def new_rnn() -> nn.Module:
    torch.manual_seed(3)
    return sharpened(RNN(**TOKENS, num_tokens=VOCABULARY, width=16, num_layers=2), by=1.5)


def sharpened(network: nn.Module, by: float = 0.3) -> nn.Module:
    """Weights so large that what is likeliest depends on every token before."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(by * torch.randn_like(weight))
    return network


def draw(logits: Sequence[float], number: int = 4000, **options: Any) -> Tensor:
    """How often each id is drawn, as shares."""
    rows = torch.tensor([list(logits)]).expand(number, -1)
    tokens = sample(rows, torch.Generator().manual_seed(0), **options)
    assert tokens.shape == (number,)
    return torch.bincount(tokens, minlength=len(logits)) / number


HALVES = torch.tensor([0.5, 0.25, 0.125, 0.125]).log().tolist()


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, [0.5, 0.25, 0.125, 0.125]),
        ({"temperature": 0.5}, [16 / 22, 4 / 22, 1 / 22, 1 / 22]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_k": 99}, [0.5, 0.25, 0.125, 0.125]),
        ({"top_p": 0.74}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.49}, [1, 0, 0, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        ({"top_k": 2, "top_p": 0.6}, [1, 0, 0, 0]),  # 2/3 of what the two have: the one is enough
        ({"temperature": 1e-30}, [1, 0, 0, 0]),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
        ({"temperature": 0.0, "forbidden": [0]}, [0, 1, 0, 0]),
        ({"forbidden": [0, 3]}, [0, 2 / 3, 1 / 3, 0]),
        ({"forbidden": [0], "top_k": 1}, [0, 1, 0, 0]),
        ({"vocabulary_size": 2}, [2 / 3, 1 / 3, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_the_probabilities_that_the_options_leave(
    options: dict[str, Any], shares: list[float]
) -> None:
    drawn = draw(HALVES, **options)
    assert (drawn - torch.tensor(shares)).abs().max() < 0.03
    assert ((drawn == 0) == (torch.tensor(shares) == 0)).all()


def test_ties_leave_as_many_tokens_as_top_k_says() -> None:
    assert (draw([1.0] * 6, top_k=2) > 0).sum() == 2


def test_a_diverged_network_is_named() -> None:
    with pytest.raises(ConfigError, match="diverged"):
        draw([0.0, float("nan")])


def greedy(network: nn.Module, window: Callable[[list[int]], list[int]], prompt: list[int], number: int) -> list[int]:
    """The likeliest continuation, by reading the whole window again for each token."""
    text = list(prompt)
    network.eval()
    for _ in range(number):
        text.append(int(network(torch.tensor([window(text)]))[0, -1].argmax()))
    network.train()
    return text[len(prompt) :]


@pytest.mark.parametrize("make", [new_gpt, new_rnn, lambda: new_gpt(positions="learned", norm="layer", dropout=0.5)])
def test_token_by_token_is_what_reading_it_all_gives(make: Callable[[], nn.Module]) -> None:
    network, prompt = make(), [5, 1, 7]
    expected = greedy(network, lambda text: text, prompt, 8)
    assert len(set(expected)) > 2
    assert list(generate(network, prompt, num_tokens=8, seed=0, temperature=0)) == expected


@pytest.mark.parametrize("num_prompt", [3, POSITIONS - 1, POSITIONS, POSITIONS + 5])
def test_a_full_state_goes_on_from_the_last_half(num_prompt: int) -> None:
    network, prompt = new_gpt(), [(7 * place) % VOCABULARY for place in range(num_prompt)]
    length = min(num_prompt, POSITIONS)
    starts = [num_prompt - length]

    def window(text: list[int]) -> list[int]:
        if len(text) - starts[-1] > POSITIONS:
            starts.append(len(text) - POSITIONS // 2)
        return text[starts[-1] :]

    expected = greedy(network, window, prompt, 30)
    assert len(starts) > 3
    assert list(generate(network, prompt, num_tokens=30, seed=0, temperature=0)) == expected


def test_a_recurrent_network_has_no_limit() -> None:
    network = new_rnn()
    expected = greedy(network, lambda text: text, [2], 3 * POSITIONS)
    assert list(generate(network, [2], num_tokens=3 * POSITIONS, seed=0, temperature=0)) == expected


def test_a_network_with_a_single_position_still_goes_on() -> None:
    assert len(list(generate(new_gpt(max_positions=1, input_shape=(1,)), [4], num_tokens=3, seed=0))) == 3


def test_the_seed_alone_makes_the_text() -> None:
    network = new_gpt()

    def text(seed: int = 0, stream: int = 0) -> list[int]:
        return list(generate(network, [1], num_tokens=20, seed=seed, stream=stream, temperature=2.0))

    first = text()
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    assert text() == first
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len({tuple(text(seed, stream)) for seed in (0, 1) for stream in (0, 1)}) == 4


def test_the_stop_token_ends_the_text_and_is_not_part_of_it() -> None:
    network = new_gpt()
    whole = list(generate(network, [1], num_tokens=20, seed=0, temperature=2.0))
    stop = whole[7]
    short = list(generate(network, [1], num_tokens=20, seed=0, temperature=2.0, stop_id=stop))
    assert short == whole[: whole.index(stop)]
    forbidden = list(generate(network, [1], num_tokens=20, seed=0, temperature=2.0, forbidden=whole))
    assert not set(forbidden) & set(whole)


def test_the_caller_keeps_its_modes() -> None:
    network = new_gpt(dropout=0.5)
    tokens = generate(network, [1], num_tokens=5, seed=0)
    next(tokens)
    assert not torch.is_inference_mode_enabled()
    assert not network.training
    tokens.close()  # type: ignore[attr-defined]
    assert network.training


BYTES = Vocabulary("bytes", 256)


def pieces(vocabulary: Vocabulary, prompt: str, ids: Sequence[int]) -> list[str]:
    return list(stream_text(vocabulary.decode, vocabulary.encode(prompt).tolist(), iter(ids)))


@pytest.mark.parametrize("prompt", ["Straße", "größte 日", "a"])
def test_a_character_is_shown_when_its_last_byte_has_come(prompt: str) -> None:
    assert pieces(BYTES, prompt, BYTES.encode("aé日🙂!").tolist()) == ["a", "é", "日", "🙂", "!"]


def test_bytes_that_make_no_character_are_shown_as_such_in_the_end() -> None:
    assert "".join(pieces(BYTES, "a", [0xC3, ord("b"), 0xE6, 0x97])) == "�b�"


@pytest.mark.parametrize("kind", ["byte level", "metaspace"])
def test_spaces_of_a_tokenizer_survive_the_stream(kind: str) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    alphabet: list[str] = []
    if kind == "byte level":
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    text = "the cat sat on the mat and the dog"
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text] * 3, trainer)
    vocabulary = library_vocabulary(tokenizer.to_str())
    ids = vocabulary.encode(text).tolist()
    for cut in range(1, len(ids)):
        start = vocabulary.decode(ids[:cut])
        assert start + "".join(stream_text(vocabulary.decode, ids[:cut], iter(ids[cut:]))) == vocabulary.decode(ids)
