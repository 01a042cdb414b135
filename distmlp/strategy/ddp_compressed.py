"""strategy=ddp_fp16_compress, ddp_bf16_compress: DDP with gradients exchanged in 16 bits: half the bytes."""

from typing import Any

import torch
import torch._C._distributed_c10d
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from distmlp.strategy.ddp import DDP

HOOKS: dict[torch.dtype, Any] = {torch.float16: fp16_compress_hook, torch.bfloat16: bf16_compress_hook}


class CompressedDDP(DDP):
    """DDP with gradients exchanged as ``dtype`` (float16 or bfloat16). On any device, unlike in Lightning."""

    def __init__(self, *, dtype: torch.dtype, **options: Any) -> None:
        super().__init__(**options)
        self.hook = HOOKS[dtype]

    def register_hook(self, ddp: DistributedDataParallel) -> None:
        def hook(state: object, bucket: torch._C._distributed_c10d.GradBucket) -> Future[Tensor]:
            # Not torch's function itself: by its name DDP refuses it without NCCL, though gloo reduces bfloat16 too.
            future: Future[Tensor] = self.hook(state, bucket)
            return future

        ddp.register_comm_hook(None, hook)
