"""Text from a trained network: which token comes next, one after the other, and the text as the tokens come.

Plain functions of a network that follows the convention of `distmlp.model.gpt` (``new_state``, ``max_positions``, and
``forward`` with a state), so that they serve a callback or a notebook as well as the command line.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distmlp.errors import ConfigError

# What decoding puts for bytes that are no UTF-8, as the first bytes of a character are until its last has come.
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def sample(
    logits: Tensor,
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    vocabulary_size: int | None = None,
    forbidden: Sequence[int] = (),
) -> Tensor:
    """Draws a token for each row of logits.

    Args:
        logits: (N, V) on the generator's device.
        generator: where the randomness comes from.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: draws from so many of the likeliest tokens; None: from all.
        top_p: draws from the likeliest of what ``top_k`` leaves, as few tokens as have this sum of probabilities, in
            (0, 1] (Holtzman et al., "The curious case of neural text degeneration", ICLR 2020).
        vocabulary_size: ids from here on are never drawn: a network may have more rows than the vocabulary has tokens.
        forbidden: ids that are never drawn.

    Returns:
        Ids, int64 (N,).

    Raises:
        ConfigError: logits are not numbers any more.
    """
    logits = logits[:, :vocabulary_size].float()
    if logits.isnan().any():
        raise ConfigError("the network answers with NaN: its training has diverged; use an earlier checkpoint")
    logits = logits.index_fill(1, torch.tensor(forbidden, dtype=torch.int64, device=logits.device), -torch.inf)
    if temperature == 0:
        return logits.argmax(dim=1)
    largest, ids = logits.topk(min(top_k or logits.shape[1], logits.shape[1]), dim=1)
    probabilities = ((largest - largest[:, :1]) / temperature).softmax(dim=1)
    before = probabilities.cumsum(dim=1) - probabilities
    before[:, 0] = 0.0  # rounding must not take away the likeliest
    drawn = torch.multinomial(probabilities.masked_fill(before >= top_p, 0.0), 1, generator=generator)
    return ids.gather(1, drawn).squeeze(1)


@torch.inference_mode()
def generate(
    network: nn.Module,
    prompt: Sequence[int],
    *,
    num_tokens: int,
    seed: int,
    stream: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    vocabulary_size: int | None = None,
    forbidden: Sequence[int] = (),
    stop_id: int | None = None,
) -> Iterator[int]:
    """Continues ``prompt``, giving each token as it is made.

    The prompt is read at once, then each token costs one token's work. A prompt longer than ``network.max_positions``
    keeps its end; where the text has filled them, the network reads the last half of them again and goes on from there.

    Args:
        network: on any device; it is in evaluation mode meanwhile.
        prompt: ids, at least one.
        num_tokens: how many tokens to make at most.
        seed: at least 0. The same seed makes the same text, whatever else draws random numbers.
        stream: tells apart the texts of one seed.
        temperature, top_k, top_p, vocabulary_size, forbidden: see `sample`.
        stop_id: the token that ends the text; it is not given.

    Raises:
        ConfigError: see `sample`.
    """
    assert prompt, "there is nothing to continue"
    net: Any = network  # what it has beside a module's attributes is a convention
    limit: int | None = net.max_positions
    device = next(network.parameters()).device
    generator = _generator(seed, stream)
    was_training = network.training
    network.eval()
    try:
        text = list(prompt)
        unread, state, length = text[-limit:] if limit else text[:], None, 0
        for _ in range(num_tokens):
            if state is not None and limit is not None and length + len(unread) > limit:
                unread, state, length = text[-max(1, limit // 2) :], None, 0
            if state is None:
                longest = len(unread) + num_tokens
                state = net.new_state(1, min(longest, limit or longest))
            logits = net(torch.tensor([unread], device=device), state)[:, -1]
            length += len(unread)
            token = sample(
                logits.cpu(),  # the same draws on every device
                generator,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                vocabulary_size=vocabulary_size,
                forbidden=forbidden,
            ).item()
            if token == stop_id:
                return
            yield int(token)
            text.append(int(token))
            unread = [int(token)]
    finally:
        network.train(was_training)


def _generator(seed: int, stream: int) -> torch.Generator:
    """Random numbers that have nothing to do with those of another seed or stream."""
    mixed = np.random.SeedSequence((seed, stream)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


def stream_text(decode: Callable[[Sequence[int]], str], prompt: Sequence[int], tokens: Iterator[int]) -> Iterator[str]:
    """The text that ``tokens`` add to ``prompt``, piece by piece; a piece waits for the last byte of its character.

    Only the last few tokens are decoded again for each new one, and always behind their neighbours: many tokenizers
    write a token differently at the start of a text.
    """
    ids, done, start = list(prompt), len(prompt), max(0, len(prompt) - 1)
    text = ""
    for token in tokens:
        ids.append(token)
        text = decode(ids[start:])[len(decode(ids[start:done])) :]
        if text and not text.endswith(REPLACEMENT):
            yield text
            text, start, done = "", done, len(ids)
    if text:
        yield text
