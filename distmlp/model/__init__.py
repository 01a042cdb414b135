"""Networks: plain `nn.Module`s that know nothing of parallelism, each made from ``input_shape`` and ``num_outputs``."""

from collections.abc import Callable

from torch import nn

from distmlp.model.mlp import MLP

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP}
