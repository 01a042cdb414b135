"""What a pass communicates, and how a rank that broke off in the middle of one takes part in the rest.

Ranks meet in collectives, in one order. A rank that stops before the others, as for lack of memory, would leave them
waiting. But the collectives of a pass are the same for any number of samples, and so are their sizes where ranks
exchange weights and gradients; those of activations grow by as much with each sample. They are recorded in a pass over
few samples, and one over a sample more; a rank that broke off counts those that it has issued (a process group numbers
them) and issues the others with empty tensors. All reach the end of the pass, and can agree there to throw it away.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, distributed_c10d
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

FUNCTIONAL = "_c10d_functional"  # the collectives of DTensor; what they return must be waited for


@dataclass(frozen=True)
class Shape:
    """A tensor without its values."""

    size: torch.Size
    dtype: torch.dtype
    device: torch.device

    def empty(self) -> Tensor:
        return torch.empty(self.size, dtype=self.dtype, device=self.device)

    def grown(self, larger: "Shape", times: int) -> "Shape":
        """Its size, and ``times`` what ``larger`` has more."""
        pairs = zip(self.size, larger.size, strict=True)
        return replace(self, size=torch.Size(one + times * (two - one) for one, two in pairs))


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
        result = self.operation(*arguments, **options)
        if self.operation.namespace == FUNCTIONAL:
            tree_map_only(Tensor, torch.ops._c10d_functional.wait_tensor, result)
        return arguments, result

    def grown(self, larger: "Collective", times: int) -> "Collective":
        """With ``times`` what tensors of ``larger`` have more."""
        assert self.operation == larger.operation
        assert self.group == larger.group

        def leaf(one: Any, two: Any) -> Any:
            return one.grown(two, times) if isinstance(one, Shape) else one

        mine, other = (self.arguments, self.options), (larger.arguments, larger.options)
        arguments, options = tree_map(leaf, mine, other)
        return replace(self, arguments=arguments, options=options)


class Recorder(TorchDispatchMode):
    """``with Recorder() as recorder: …`` notes in ``recorder.collectives`` what the block communicates."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.collectives: list[Collective] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:  # which takes it apart, into what comes here next
            return NotImplemented
        kwargs = kwargs or {}
        group = _group_of(func, args)
        if group is not None:
            given = (tuple(args), kwargs)
            arguments, options = tree_map_only(Tensor, lambda t: Shape(t.size(), t.dtype, t.device), given)
            self.collectives.append(Collective(func, arguments, options, group))
        return func(*args, **kwargs)


def _group_of(func: Any, args: Any) -> ProcessGroup | None:
    """The group in which ``func`` communicates; None where it is no collective."""
    if func.namespace == "c10d":
        return ProcessGroup.unbox(next(value for value in args if isinstance(value, torch.ScriptObject)))
    if func.namespace == FUNCTIONAL and isinstance(args[-1], str | ProcessGroup):
        named: Any = args[-1]
        resolve: Any = distributed_c10d._resolve_process_group  # type: ignore[attr-defined]
        return resolve(named) if isinstance(named, str) else named  # type: ignore[no-any-return]
    return None


class Passes:
    """What passes over any number of samples communicate, as recorded in two.

    Args:
        probe: a pass over so many samples.
        num_samples: of the first recorded pass.
        grows: another number of samples changes the sizes; else one pass says all.
    """

    def __init__(self, probe: Callable[[int], object], num_samples: int, grows: bool) -> None:
        self.num_samples = num_samples
        self.few = _recorded(probe, num_samples)
        self.more = _recorded(probe, num_samples + 1) if grows else self.few
        assert len(self.few) == len(self.more)

    def over(self, num_samples: int) -> list[Collective]:
        times = num_samples - self.num_samples
        return [few.grown(more, times) for few, more in zip(self.few, self.more, strict=True)]


def _recorded(probe: Callable[[int], object], num_samples: int) -> list[Collective]:
    with Recorder() as recorder:
        probe(num_samples)
    return list(recorder.collectives)


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
