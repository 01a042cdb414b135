"""Networks: plain `nn.Module`s that know nothing of parallelism.

Each is made from facts of the data (``input_shape``, ``num_outputs``, for tokens ``num_tokens`` and special ids) and
its configuration's keys, and names its repeated units in ``blocks``, where the options of memory and speed take hold.
"""

from collections.abc import Callable
from importlib import import_module

from torch import nn

# name → (module, class): a module is imported when its network is chosen
NETWORKS = {
    "mlp": ("mlp", "MLP"),
    "cnn": ("cnn", "CNN"),
    "resnet": ("resnet", "ResNet"),
    "rnn": ("rnn", "RNN"),
    "gpt": ("gpt", "GPT"),
    "bert": ("bert", "BERT"),
    "vit": ("vit", "ViT"),
}


def network_class(name: str) -> Callable[..., nn.Module]:
    """The class of the network called ``name``."""
    module, attribute = NETWORKS[name]
    found: Callable[..., nn.Module] = getattr(import_module(f"distmlp.model.{module}"), attribute)
    return found
