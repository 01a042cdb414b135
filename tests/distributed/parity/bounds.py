"""How far results may differ, from DDP on as many ranks and from one process: measured, and rounded up.

Ranks add up the same numbers in another order, and float32 rounds: hence ``ROUNDING``, some units in the last place of
a loss, and not 0. What may differ by more has its reason here. `docs/parity.md` holds what was measured.
"""

from dataclasses import dataclass
from fnmatch import fnmatch

from parity.cases import Case


@dataclass(frozen=True)
class Bound:
    """Largest absolute difference of the loss of any step, and of any weight after the last."""

    loss: float
    weights: float


ROUNDING = Bound(2e-6, 1e-6)
# Strategy, network, recipe: the first line that fits.
BOUNDS = [
    # Gradients are exchanged with 11 or 8 significant bits; low-rank ones leave out most of the gradient for a while.
    # AdamW scales up what is rounded in gradients near 0.
    ("ddp_fp16_compress", "*", "adamw*", Bound(4e-4, 4e-3)),
    ("ddp_fp16_compress", "*", "*", Bound(2e-5, 1e-4)),
    ("ddp_bf16_compress", "*", "adamw*", Bound(1e-3, 1e-2)),
    ("ddp_bf16_compress", "*", "*", Bound(2e-4, 1e-3)),
    ("ddp_powersgd", "*", "adamw*", Bound(0.2, 0.1)),
    ("ddp_powersgd", "*", "*", Bound(0.02, 0.04)),
    # torch's Muon orthogonalises in bfloat16, whatever the weights are.
    ("*", "*", "muon", Bound(5e-4, 5e-3)),
    # The gradient of a key's bias is 0 but for rounding, which AdamW scales up to a step of the learning rate. The loss
    # does not depend on that bias.
    ("*", "vit", "adamw", Bound(2e-6, 1e-4)),
    ("*", "mlp*", "adamw*", Bound(2e-6, 1e-5)),
    ("*", "*", "adamw*", Bound(2e-6, 3e-5)),
    ("*", "*", "*", ROUNDING),
]


def bound(case: Case) -> Bound:
    """How far ``case`` may differ from DDP on as many ranks, and from one process."""
    names = (case.strategy, case.network, case.recipe)
    return next(
        limit
        for *patterns, limit in BOUNDS
        if all(fnmatch(name, str(pattern)) for name, pattern in zip(names, patterns, strict=True))
    )
