"""Random numbers that depend on a seed and an id alone.

An item's initial embedding must be the same in every process, whatever came before it, so it is
drawn from a counter-based generator (SplitMix64; Steele, Lea, Flood, OOPSLA
2014) and not from a stream of random numbers. Shapes: N ids, D dimension.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stable_bits(seed: int, ids_N: np.ndarray, dimension: int) -> np.ndarray:
    """64 random bits for each (id, dimension): uint64 of shape (N, dimension)."""
    with np.errstate(over="ignore"):
        state_N = _mix(ids_N.astype(np.int64).view(np.uint64) + _GOLDEN * np.uint64(seed + 1))
        steps_D = _GOLDEN * np.arange(1, dimension + 1, dtype=np.uint64)
        return _mix(state_N[:, None] + steps_D[None, :])


def stable_uniform(seed: int, ids_N: np.ndarray, dimension: int) -> np.ndarray:
    """Uniform values in [-1, 1), float32 of shape (N, dimension).

    >>> a = stable_uniform(1, np.array([5, 6]), 4)
    >>> bool((a[1] == stable_uniform(1, np.array([6]), 4)[0]).all())
    True
    """
    bits = stable_bits(seed, ids_N, dimension) >> np.uint64(40)
    return (bits.astype(np.float32) / np.float32(1 << 23)) - np.float32(1.0)
