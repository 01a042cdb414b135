"""What an optimizer remembers of one parameter: tensors of the parameter's shape, and numbers such as the step."""

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def tensor_states(parameter: Tensor, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Those that have a value for each of the parameter's."""
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, Tensor) and not _is_number(key, value, parameter)
    }


def number_states(parameter: Tensor, state: Mapping[str, Any]) -> dict[str, float]:
    """Those that are one number, such as ``step``. Waits for the device."""
    return {key: float(_local(value)) for key, value in state.items() if _is_number(key, value, parameter)}


def set_numbers(parameter: Tensor, state: MutableMapping[str, Any], values: Mapping[str, float]) -> None:
    """Sets those that `number_states` gives; tensors stay the tensors that they are."""
    for key, old in state.items():
        if key in values and _is_number(key, old, parameter):
            if isinstance(old, Tensor):
                _local(old).fill_(values[key])
            else:
                state[key] = type(old)(values[key])


@torch.no_grad()
def step_in_place(optimizer: torch.optim.Optimizer) -> None:
    """A step of no gradient and no learning rate: states come into being, weights stay.

    What the parameters have in ``grad`` is there again afterwards.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    rates = [group["lr"] for group in optimizer.param_groups]
    gradients = [parameter.grad for parameter in parameters]
    _set_gradients(parameters, [torch.zeros_like(parameter) for parameter in parameters])
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    _set_gradients(parameters, gradients)


def _set_gradients(parameters: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _is_number(key: str, value: Any, parameter: Tensor) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and (key == "step" or parameter.ndim > 0)
    return isinstance(value, (int, float))


def _local(value: Any) -> Any:
    return value.to_local() if isinstance(value, DTensor) else value
