"""Activation functions by name: one table for every network that lets the user choose one."""

from collections.abc import Callable, Iterable

from torch import nn

from distmlp.errors import ConfigError, did_you_mean

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "identity": nn.Identity,
}


def check_activation(name: str) -> None:
    """Nothing, if ``name`` is one of ``ACTIVATIONS``.

    Raises:
        ConfigError: it is not; the message names the nearest and all valid ones.
    """
    check_choice("model.activation", name, ACTIVATIONS)


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Nothing, if ``value`` is one of ``choices``.

    Raises:
        ConfigError: it is not; the message names ``key``, the nearest choice and all valid ones.
    """
    valid = list(choices)
    if value not in valid:
        raise ConfigError(f"{key}={value} is unknown{did_you_mean(value, valid)} (valid: {', '.join(valid)})")
