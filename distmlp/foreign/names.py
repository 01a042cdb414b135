"""Which tensor of a foreign checkpoint is which of the network: the same names behind a prefix, in the same shapes."""

from collections import Counter

import torch
from torch import Tensor, nn

from distmlp.errors import ConfigError
from distmlp.foreign.source import Source, Stored, plain_name


def match(source: Source, network: nn.Module, prefix: str | None) -> dict[str, Stored]:
    """The stored tensor for each parameter, tied ones once, and each kept buffer of the ``network``, in their format.

    Args:
        source: what to take from.
        network: of which names, shapes and formats count; it may be on the meta device.
        prefix: what stands before the names in the source; None: whatever makes them fit.

    Raises:
        ConfigError: a name or shape differs; the first difference is named.
    """
    held = {plain_name(name): tensor for name, tensor in source.tensors.items()}
    known = network.state_dict()
    own = dict(network.named_parameters()) | {name: one for name, one in network.named_buffers() if name in known}
    chosen = _found_prefix(source.where, held, own) if prefix is None else prefix
    for name, expected in own.items():
        _check(source.where, chosen, name, held.get(chosen + name), expected)
    for name in held:
        if name.startswith(chosen) and name.removeprefix(chosen) not in known:
            raise ConfigError(
                f"{source.where}: the configuration's network has no {name.removeprefix(chosen)}{_hint(chosen)}"
            )
    return {name: held[chosen + name].cast(tensor.dtype) for name, tensor in own.items()}


def _found_prefix(where: str, held: dict[str, Stored], network: dict[str, Tensor]) -> str:
    """The prefix behind which most of the network's names are; where all are behind several, the user chooses."""
    counts: Counter[str] = Counter()
    for name in network:
        ends = (key.removesuffix(name) for key in held if key.endswith(name))
        counts.update(end for end in ends if not end or end.endswith("."))
    whole = sorted(prefix for prefix, count in counts.items() if count == len(network))
    if len(whole) > 1:
        raise ConfigError(f"{where}: the network's names are there several times: give --prefix {_either(whole)}")
    return whole[0] if whole else max(counts, key=lambda prefix: (counts[prefix], prefix), default="")


def _check(where: str, prefix: str, name: str, stored: Stored | None, expected: Tensor) -> None:
    if stored is None:
        raise ConfigError(f"{where} holds no {prefix}{name}, which the configuration's network has{_hint(prefix)}")
    if stored.shape != tuple(expected.shape):
        raise ConfigError(
            f"{where}: {prefix}{name} has shape {stored.shape}, the configuration's network {tuple(expected.shape)}: "
            "give the model's keys as it was trained"
        )
    if stored.dtype.is_floating_point != expected.dtype.is_floating_point:
        raise ConfigError(
            f"{where}: {prefix}{name} is {_short(stored.dtype)}, the network's is {_short(expected.dtype)}"
        )


def _hint(prefix: str) -> str:
    return f" (names taken behind {prefix!r}; another: --prefix)" if prefix else ""


def _either(prefixes: list[str]) -> str:
    return " or ".join(prefix or "''" for prefix in prefixes)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
