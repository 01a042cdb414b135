"""The norm of all gradients together, and clipping by it, for tensors that are whole or spread over ranks."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales gradients in place to a global 2-norm of at most ``max_norm``; returns the norm before, a scalar.

    The gradients of one network may lie on several device meshes (2-D parallelism shards some parameters twice), which
    torch's own function refuses.
    """
    parameters = list(parameters)
    groups: dict[object, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            mesh = parameter.grad.device_mesh if isinstance(parameter.grad, DTensor) else None
            groups.setdefault(mesh, []).append(parameter)
    norms = [_whole(get_total_norm([p.grad for p in group if p.grad is not None])) for group in groups.values()]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
    for group in groups.values():
        clip_grads_with_norm_(group, max_norm, norm)
    return norm


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
