"""What a pass communicates, and how a rank that broke off in the middle of one takes part in the rest.

Ranks meet in collectives, in one order. A rank that stops before the others, as for lack of memory, would leave them
waiting. But where ranks exchange weights and gradients, not activations, the collectives of a pass do not depend on
the number of samples in it. They are recorded once, in a pass over one sample; a rank that broke off counts those that
it has issued (a process group numbers them) and issues the others with empty tensors. All reach the end of the pass,
and can agree there to throw it away.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


@dataclass(frozen=True)
class Shape:
    """A tensor without its values."""

    size: torch.Size
    dtype: torch.dtype
    device: torch.device

    def empty(self) -> Tensor:
        return torch.empty(self.size, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class Collective:
    """One call: the operation, its arguments with `Shape`s for tensors, and the group that it runs in."""

    operation: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    group: ProcessGroup

    def issue(self) -> Any:
        """Takes part with empty tensors. What it returns must live until the collective is over."""
        arguments, options = tree_map_only(Shape, Shape.empty, (self.arguments, self.options))
        return arguments, self.operation(*arguments, **options)


class Recorder(TorchDispatchMode):
    """``with Recorder() as recorder: …`` notes in ``recorder.collectives`` what the block communicates."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.collectives: list[Collective] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "c10d":
            given = (tuple(args), kwargs)
            arguments, options = tree_map_only(Tensor, lambda t: Shape(t.size(), t.dtype, t.device), given)
            group = ProcessGroup.unbox(next(value for value in args if isinstance(value, torch.ScriptObject)))
            self.collectives.append(Collective(func, arguments, options, group))
        return func(*args, **kwargs)


class Pass:
    """From its start on, what this rank has issued of the ``expected`` collectives of a step."""

    def __init__(self, expected: list[Collective]) -> None:
        self.expected = expected
        self.before = self._issued()

    def _issued(self) -> dict[str, int]:
        groups: dict[str, Any] = {collective.group.group_name: collective.group for collective in self.expected}
        return {name: group._get_sequence_number_for_group() for name, group in groups.items()}

    def issue_rest(self) -> None:
        """Takes part in what was not issued yet: of each group all but the first so many."""
        done = {name: now - self.before[name] for name, now in self._issued().items()}
        seen: Counter[str] = Counter()
        held = []
        for collective in self.expected:
            name = collective.group.group_name
            seen[name] += 1
            if seen[name] > done[name]:
                held.append(collective.issue())
        self.held = held  # tensors that must live until the ranks have agreed, which comes after these
