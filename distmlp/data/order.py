"""Sample order as a pure function of (seed, epoch, position).

A keyed permutation of ``0 … n-1`` is evaluated at any positions without building the permutation: a Feistel network
(Luby and Rackoff, "How to construct pseudorandom permutations", 1988) on the smallest even number of bits that holds
``n``, with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002) for the values outside.
World size, worker count and micro-batch are not arguments, so they cannot change the order; memory is O(positions).
"""

import numpy as np
import numpy.typing as npt

NUM_ROUNDS = 6
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = 0x9E3779B97F4A7C15
_MASK_64 = (1 << 64) - 1

UInt64Array = npt.NDArray[np.uint64]


def permuted(positions: npt.NDArray[np.int64], num_samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Sample indices at ``positions`` of the epoch's order.

    Args:
        positions: any shape, each in ``[0, num_samples)``.
        num_samples: size of the set that is permuted.
        seed: the run's seed.
        epoch: counted from 0; each epoch has an order of its own.

    Returns:
        Indices in ``[0, num_samples)``, int64, of the shape of ``positions``; a bijection over all positions.
    """
    half_bits = max(1, (max(num_samples - 1, 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, epoch)
    values = _feistel(positions.astype(np.uint64), half_bits, keys)
    outside = values >= num_samples
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, keys)
        outside = values >= num_samples
    return values.astype(np.int64)


def _round_keys(seed: int, epoch: int) -> UInt64Array:
    state = _mix_int(_mix_int(seed & _MASK_64) ^ (epoch & _MASK_64))
    return np.array([_mix_int((state + (i + 1) * _GOLDEN) & _MASK_64) for i in range(NUM_ROUNDS)], dtype=np.uint64)


def _mix_int(value: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014) on a Python integer."""
    value = (value + _GOLDEN) & _MASK_64
    value = ((value ^ (value >> 30)) * int(_MIX_1)) & _MASK_64
    value = ((value ^ (value >> 27)) * int(_MIX_2)) & _MASK_64
    return value ^ (value >> 31)


def _feistel(values: UInt64Array, half_bits: int, keys: UInt64Array) -> UInt64Array:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        mixed = (right + key) * _MIX_1
        mixed = (mixed ^ (mixed >> np.uint64(29))) * _MIX_2
        left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
    return (left << shift) | right
