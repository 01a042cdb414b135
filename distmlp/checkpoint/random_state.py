"""States of every random generator of a process, as JSON."""

import base64
import random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def capture(device: torch.device) -> dict[str, Any]:
    """Python's, NumPy's, torch's on the host and on ``device``."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": _text(torch.get_rng_state().numpy()),
        "python": [version, _text(np.array(words, dtype=np.uint32)), gauss],
        "numpy": [str(kind), _text(np.asarray(keys, dtype=np.uint32)), *rest],
    }
    if device.type == "cuda":
        state["cuda"] = _text(torch.cuda.get_rng_state(device).numpy())
    return state


def restore(state: dict[str, Any], device: torch.device) -> None:
    """Sets the generators to ``state``."""
    torch.set_rng_state(torch.from_numpy(_array(state["torch"], np.uint8)))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(_array(words, np.uint32).tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, _array(keys, np.uint32), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(torch.from_numpy(_array(state["cuda"], np.uint8)), device)


def _text(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _array(text: str, dtype: type) -> npt.NDArray[Any]:
    return np.frombuffer(bytearray(base64.b64decode(text)), dtype=dtype)
