"""Random numbers as a pure function of counters: the same for any world size, batch size or order of asking.

The finaliser of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) is applied
after each counter is mixed in, as in counter-based generators (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", 2011).
"""

import numpy as np
import numpy.typing as npt

_GOLDEN, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MASK_64 = (1 << 64) - 1

Counter = int | npt.NDArray[np.int64]


def hashed(*counters: Counter) -> npt.NDArray[np.uint64]:
    """Uniform 64-bit numbers, one for each element of the counters broadcast against each other."""
    state = np.zeros(1, dtype=np.uint64)
    for counter in counters:
        plain = isinstance(counter, int)
        values = np.uint64(counter & _MASK_64) if plain else np.asarray(counter).astype(np.uint64)
        state = _mixed(state ^ _mixed(np.atleast_1d(values)))
    return state


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))
