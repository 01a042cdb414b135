"""A rank that trains a small network with DeepSpeed itself, and saves as DeepSpeed does: `FOLDER/zero1` to `zero3`.

Started by torchrun as ``run_zero_checkpoint.py FOLDER``. The weights of each lie in ``FOLDER/zero<stage>.safetensors``.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import save_file
from torch import nn

from distmlp.strategy.deepspeed_process import forget_run, import_deepspeed


def new_network() -> nn.Module:
    """Sizes that two ranks do not divide, and statistics."""
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


def save(deepspeed: Any, stage: int, folder: Path) -> None:
    """Trains three steps and saves."""
    torch.manual_seed(stage)
    network = new_network()
    settings = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": stage},
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=settings)
    for _ in range(3):
        engine.backward(engine(torch.randn(4, 5)).square().mean())
        engine.step()
    engine.save_checkpoint(str(folder / f"zero{stage}"))
    with deepspeed.zero.GatheredParameters(list(network.parameters()), enabled=stage == 3):
        weights = {name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}
    if torch.distributed.get_rank() == 0:
        save_file(weights, folder / f"zero{stage}.safetensors")
    engine.destroy()


def main() -> None:
    """All three stages."""
    deepspeed = import_deepspeed("cpu")
    deepspeed.init_distributed("gloo", verbose=False)
    for stage in (1, 2, 3):
        save(deepspeed, stage, Path(sys.argv[1]))
        forget_run()
        deepspeed.init_distributed("gloo", verbose=False)
    torch.distributed.destroy_process_group()


main()
