"""Muon for hidden matrices and AdamW for everything else, as one optimizer with one state.

Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/) orthogonalises the momentum of a matrix, which only makes sense for the
weights between layers; biases, norms, embeddings and the output layer stay with AdamW. Both are torch's own. Two
optimizers would need two schedulers, two states in every checkpoint and manual optimisation in Lightning; one whose
groups say their ``algorithm`` needs none of that.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import nn

from distmlp.errors import ConfigError


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps each parameter group with the algorithm that its ``algorithm`` key names: ``muon`` or ``adamw``.

    Args:
        groups: parameter groups, each with ``params`` and ``algorithm``; other keys override that algorithm's settings.
        muon: settings of ``torch.optim.Muon`` (lr, momentum, nesterov, …), the defaults of its groups.
        adamw: settings of ``torch.optim.AdamW`` (lr, betas, eps, fused, …), the defaults of its groups.

    Raises:
        ValueError: a group without a known algorithm, or a Muon parameter that is not a matrix.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, muon: dict[str, Any], adamw: dict[str, Any]) -> None:
        # The two only lend their step(): they hold no parameters of their own, and borrow state and groups for a step.
        self._algorithms: dict[str, torch.optim.Optimizer] = {
            "muon": torch.optim.Muon([{"params": []}], **muon),
            "adamw": torch.optim.AdamW([{"params": []}], **adamw),
        }
        super().__init__(groups, {})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_algorithms": self._algorithms}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; what it does not set comes from the settings of its algorithm."""
        algorithm = param_group.get("algorithm")
        if algorithm not in self._algorithms:
            raise ValueError(f"a parameter group needs algorithm=muon or algorithm=adamw, not {algorithm}")
        super().add_param_group({**self._algorithms[algorithm].defaults, **param_group})
        if algorithm == "muon":
            for parameter in self.param_groups[-1]["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon steps matrices only, not a parameter of shape {tuple(parameter.shape)}")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One optimizer step; ``closure``, where given, computes the gradients first and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for name, algorithm in self._algorithms.items():
            # Linked anew each time: load_state_dict replaces both the state and the groups.
            algorithm.state = self.state
            algorithm.param_groups = [group for group in self.param_groups if group["algorithm"] == name]
            algorithm.step()
        return loss


def hidden_matrices(network: nn.Module) -> set[str]:
    """Names of the 2-D weights that Muon steps: all but embeddings and the output layer.

    The output layer is the last 2-D weight in the order of definition; one that is tied to an embedding counts as both.
    The first layer of a network on dense inputs is a matrix like the others; only lookup tables are embeddings.
    Biases and norm parameters of two dimensions are left to the caller to take out.
    """
    matrices = [(name, weight) for name, weight in network.named_parameters(remove_duplicate=False) if weight.ndim == 2]
    excluded = {id(weight) for _, weight in matrices[-1:]}
    for module in network.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            excluded.add(id(module.weight))
    return {name for name, weight in matrices if id(weight) not in excluded and "embed" not in name.lower()}


def muon_groups(network: nn.Module, groups: Iterable[dict[str, Any]], exempt: set[str]) -> list[dict[str, Any]]:
    """Splits parameter groups into those for Muon and those for AdamW; the others' keys are kept.

    Args:
        network: the network whose trainable parameters the groups hold.
        groups: groups with ``name``, ``params`` and any other keys.
        exempt: names of parameters that are biases or belong to norms.

    Raises:
        ConfigError: no parameter is left for Muon.
    """
    hidden = hidden_matrices(network) - exempt
    hidden_ids = {id(weight) for name, weight in network.named_parameters() if name in hidden and weight.requires_grad}
    if not hidden_ids:
        raise ConfigError(
            "optimizer.name=muon needs a hidden matrix, and this network has none besides embeddings and the output "
            "layer: use optimizer=adamw"
        )
    split = []
    for algorithm in ("muon", "adamw"):
        for group in groups:
            members = [p for p in group["params"] if (id(p) in hidden_ids) == (algorithm == "muon")]
            if members:
                name = f"{algorithm}_{group['name']}"
                split.append({**group, "name": name, "params": members, "algorithm": algorithm})
    return split
