"""Builds the optimizer of a network from its name and options, with weight decay only where it belongs.

torch's own classes, except Lion. The fused kernels are used where torch has them: one pass over memory, not one per
operation. An option that an optimizer does not take is an error, never dropped.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from distmlp.errors import ConfigError, did_you_mean
from distmlp.muon import MuonWithAdamW, muon_groups

_ADAM = {"weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8}
DEFAULTS: dict[str, dict[str, Any]] = {
    "sgd": {"weight_decay": 0.0, "momentum": 0.0, "nesterov": False},
    "momentum": {"weight_decay": 0.0, "momentum": 0.9, "nesterov": False},
    "adam": _ADAM,
    "adamw": _ADAM,
    "adagrad": {"weight_decay": 0.0, "lr_decay": 0.0, "eps": 1e-10},
    "rmsprop": {"weight_decay": 0.0, "alpha": 0.99, "momentum": 0.0, "eps": 1e-8, "centered": False},
    "muon": {**_ADAM, "adamw_lr": 1e-3, "momentum": 0.95, "nesterov": True, "ns_steps": 5},
    "lion": {"weight_decay": 0.0, "betas": (0.9, 0.99)},
}
_CLASSES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}
_FUSED = ("sgd", "momentum", "adam", "adamw", "adagrad", "muon")
# Of the fused kernels, torch shards only Adam's: under FSDP2 the others know no DTensor.
_FUSED_SHARDED = ("adam", "adamw", "muon")
# On a CPU torch's fused SGD leaves bfloat16 weights as they were, without a word (torch 2.13).
_FUSED_32_BIT = ("sgd", "momentum")
# How a step is computed, not what: these belong to the machine, so a checkpoint must not bring them along.
_IMPLEMENTATION_KEYS = ("fused", "foreach", "capturable", "differentiable")
_NORM_CLASS = re.compile(r"Norm(\d+d)?$")


def build_optimizer(
    network: nn.Module, *, name: str, lr: float, fused: bool = True, **options: Any
) -> torch.optim.Optimizer:
    """The optimizer ``name`` over the trainable parameters of ``network``.

    Args:
        network: on its final device; its parameters may be DTensors.
        name: a key of ``DEFAULTS``. ``sgd`` and ``momentum`` differ in their default momentum only; ``adam`` (Kingma
            and Ba, 2015) adds weight decay to the gradient, ``adamw`` (Loshchilov and Hutter, 2019) takes it from the
            weights; ``lion`` (Chen et al., 2023) is pytorch_optimizer's; for ``muon`` see ``distmlp.muon``.
        lr: base learning rate; for ``muon`` of the hidden matrices, ``adamw_lr`` being that of the rest.
        fused: use fused kernels where torch has them for these parameters. Turn it off for float16 with gradient
            clipping: fused optimizers unscale gradients inside their step, after they could be clipped.
        options: override ``DEFAULTS[name]``.

    Raises:
        ConfigError: an unknown name or option, a value out of range, or nothing to train.
    """
    settings = _settings(name, lr, options)
    groups = parameter_groups(network, settings.pop("weight_decay"))
    parameters = [weight for group in groups for weight in group["params"]]
    fuse = {"fused": True} if fused and _can_fuse(name, parameters) else {}
    if name == "muon":
        adamw = {"lr": settings.pop("adamw_lr"), "betas": settings.pop("betas"), "eps": settings.pop("eps"), **fuse}
        groups = muon_groups(network, groups, _exempt_from_decay(network))
        optimizer: torch.optim.Optimizer = MuonWithAdamW(groups, muon={"lr": lr, **settings}, adamw=adamw)
    elif name == "lion":
        from pytorch_optimizer import Lion  # here, because it takes a second to import

        optimizer = Lion(groups, lr=lr, **settings)
    else:
        optimizer = _CLASSES[name](groups, lr=lr, **settings, **fuse)
    optimizer.register_load_state_dict_pre_hook(_keep_implementation)
    return optimizer


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in groups ``decay`` (``weight_decay``) and ``no_decay`` (0: biases and norm parameters).

    Without weight decay there is one group, ``all``: one kernel call per step, not two. Empty groups are left out; the
    order within a group is that of ``network.named_parameters()``.

    Raises:
        ConfigError: the network has no trainable parameter.
    """
    trainable = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    if not trainable:
        raise ConfigError("the network has no trainable parameter: there is nothing to optimise")
    if weight_decay == 0.0:
        return [{"name": "all", "params": list(trainable.values()), "weight_decay": 0.0}]
    exempt = _exempt_from_decay(network)
    decayed = [weight for name, weight in trainable.items() if name not in exempt]
    rest = [weight for name, weight in trainable.items() if name in exempt]
    groups = [
        {"name": "decay", "params": decayed, "weight_decay": weight_decay},
        {"name": "no_decay", "params": rest, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _exempt_from_decay(network: nn.Module) -> set[str]:
    """Names of biases, of vectors and scalars, and of all parameters of norm modules."""
    exempt = set()
    for prefix, module in network.named_modules():
        is_norm = _NORM_CLASS.search(type(module).__name__) is not None
        for name, weight in module.named_parameters(prefix, recurse=False):
            if is_norm or weight.ndim < 2 or name.rpartition(".")[2].endswith("bias"):
                exempt.add(name)
    return exempt


def _can_fuse(name: str, parameters: Iterable[nn.Parameter]) -> bool:
    return name in _FUSED and all(
        weight.is_floating_point()
        and weight.device.type in ("cpu", "cuda")
        and (weight.dtype == torch.float32 or name not in _FUSED_32_BIT)
        and (type(weight) is nn.Parameter or name in _FUSED_SHARDED)
        for weight in parameters
    )


def _keep_implementation(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Before loading: a checkpoint made with fused kernels must load where there are none, and the reverse."""
    groups = []
    for own, loaded in zip(optimizer.param_groups, state_dict["param_groups"], strict=False):
        groups.append({**loaded, **{key: own[key] for key in _IMPLEMENTATION_KEYS if key in own}})
    groups.extend(state_dict["param_groups"][len(groups) :])
    return {**state_dict, "param_groups": groups}


def _settings(name: str, lr: float, options: dict[str, Any]) -> dict[str, Any]:
    if name not in DEFAULTS:
        raise ConfigError(
            f"optimizer.name={name} is unknown{did_you_mean(name, DEFAULTS)} (valid: {', '.join(DEFAULTS)})"
        )
    defaults = DEFAULTS[name]
    for option in options:
        if option not in defaults:
            valid = ", ".join(["lr", *defaults])
            raise ConfigError(
                f"optimizer.{option} is no option of optimizer.name={name}{did_you_mean(option, defaults)} "
                f"(valid: {valid})"
            )
    settings = {**defaults, **options}
    for option, value in {"lr": lr, **settings}.items():
        _check(option, value)
    if "betas" in settings:
        settings["betas"] = tuple(settings["betas"])
    if settings.get("nesterov") and settings["momentum"] == 0.0:
        raise ConfigError("optimizer.nesterov=true needs optimizer.momentum above 0")
    return settings


def _check(option: str, value: Any) -> None:
    """One line for a value that is of the wrong kind or out of range."""
    if option in ("nesterov", "centered"):
        good, expected = isinstance(value, bool), "true or false"
    elif option == "ns_steps":
        good, expected = isinstance(value, int) and 1 <= value < 100, "a whole number from 1 to 99"
    elif option == "betas":
        pair = list(value) if isinstance(value, Iterable) else []
        good, expected = len(pair) == 2 and all(_in(beta, 1.0) for beta in pair), "two numbers in [0, 1)"
    elif option in ("momentum", "alpha"):
        good, expected = _in(value, 1.0), "a number in [0, 1)"
    else:
        good, expected = _in(value, math.inf), "a finite number of at least 0"
    if not good:
        raise ConfigError(f"optimizer.{option}={value} must be {expected}")


def _in(value: Any, end: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 <= value < end
