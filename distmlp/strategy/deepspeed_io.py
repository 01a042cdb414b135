"""DeepSpeed's access to disks for what is offloaded to nvme: C++ that is compiled once for an environment, for minutes.

torch guards such builds by a file that a killed process leaves behind, and whoever comes next waits for it forever.
Here the kernel guards them: its locks end with the process that holds them.
"""

import ctypes.util
import hashlib
import os
import shutil
import sys
from pathlib import Path

import torch
from filelock import FileLock

from distmlp.errors import ConfigError
from distmlp.log import log

HEADER = "libaio.h"


def check_disk_access(strategy: str) -> None:
    """Ends with a `ConfigError` where this machine cannot compile it."""
    folders = [Path("/usr/include"), Path("/usr/local/include"), Path(sys.prefix, "include")]
    missing = [] if shutil.which("g++") else ["g++"]
    if ctypes.util.find_library("aio") is None or not any((folder / HEADER).is_file() for folder in folders):
        missing.append("libaio with its header (Debian: libaio-dev)")
    if missing:
        raise ConfigError(
            f"strategy={strategy} writes to disks with code that is compiled first, for which this machine lacks "
            f"{' and '.join(missing)}: install it, or use strategy=deepspeed_zero3_offload"
        )


def own_folder(path: str) -> str:
    """A folder below ``path`` for this process: DeepSpeed's names repeat from run to run."""
    return str(Path(path, f"distmlp-{os.getpid()}"))


def load_disk_access(device_type: str) -> None:
    """Loads it into this process, compiled if need be; ranks of a machine take turns. DeepSpeed must be imported."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    folder = _folder(device_type)
    folder.mkdir(parents=True, exist_ok=True)
    # ninja stands beside this Python, and it may not be on the path of who started it by its full name.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    with FileLock(folder / "distmlp.lock"):
        for stale in folder.glob("*/lock"):  # nobody else builds here now
            stale.unlink()
        if not is_compiled(device_type):
            log.warning("compiling DeepSpeed's disk access into %s: once for this environment, some minutes", folder)
        AsyncIOBuilder().load(verbose=False)


def is_compiled(device_type: str) -> bool:
    """Whether this environment has it already."""
    return (_folder(device_type) / "async_io" / "async_io.so").is_file()


def _folder(device_type: str) -> Path:
    """A folder of its own for whatever the compiled code depends on.

    Two environments never share one: each would compile anew what the other has, whose headers lie elsewhere.
    """
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    name = f"{python}-torch{torch.__version__}-{device_type}-{environment}"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "distmlp", "extensions", name)
