"""What DeepSpeed changes in the whole process and keeps there, so that another run may follow in it."""

import inspect
import logging
import os
import warnings
from typing import Any

from torch.nn import functional

from distmlp.log import log

TORCH_LINEAR = functional.linear


def import_deepspeed(device_type: str) -> Any:
    """DeepSpeed for this kind of device, compiling nothing and silent on the console."""
    if device_type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # read once, at the import
    import deepspeed
    import deepspeed.ops

    # It would be compiled when process groups form, by each rank, and only its inference uses it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # It calls torch by names that torch 2.13 deprecates, in every step.
    deprecated = r".*(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated"
    warnings.filterwarnings("ignore", message=deprecated, category=FutureWarning)
    logger = logging.getLogger("DeepSpeed")
    files = [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]
    logger.handlers = [logging.NullHandler(), *files]
    return deepspeed


def forget_run() -> None:
    """Lets go of a run whose engine was destroyed: its network, its groups, and what it replaced in torch."""
    from deepspeed import comm
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator
    from deepspeed.utils import groups

    functional.linear = TORCH_LINEAR  # ZeRO-3 puts one in its place that keeps no gathered weights
    # Two places that hold networks for ever: a stack, and the cache of a method.
    parameter_offload.FWD_MODULE_STACK.clear()
    method = PartitionedParameterCoordinator._PartitionedParameterCoordinator__params_to_release
    inspect.getclosurevars(method).nonlocals["func"].cache_clear()
    # The next run would be given these, whatever its ranks are.
    groups._release_process_group_references()
    comm.comm.cdb = None
