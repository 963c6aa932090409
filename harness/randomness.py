"""Counter-based random numbers: every number is a function of (seed, purpose, counters), never of history.

There is no generator object and no global state, so the order in which samples are drawn, the number of
workers and a restart cannot change a single token. The mixing function is SplitMix64 (Steele, Lea, Flood
2014), whose output passes BigCrush; each counter is absorbed by one round.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from typing import Final

import numpy as np

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


@cache
def _purpose_word(purpose: str) -> int:
    return int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "little", signed=True)


def keys(seed: int, purpose: str, *counters: int | np.ndarray) -> np.ndarray:
    """64-bit keys that are a function of a seed, a purpose and counters.

    seed: of the run.
    purpose: any name; it separates streams that would otherwise share their counters, so a task from outside has
    streams of its own. It is hashed, and part of a run's identity.
    counters: integers, which broadcast against each other.
    Returns uint64 of the broadcast shape (0-d for scalar counters).
    """
    with np.errstate(over="ignore"):
        state = _mix(np.asarray(seed, dtype=np.int64).astype(np.uint64) + _GOLDEN)
        for counter in (_purpose_word(purpose), *counters):
            word = np.asarray(counter, dtype=np.int64).astype(np.uint64)
            state = _mix((state ^ word) + _GOLDEN)
    return np.asarray(state)


def uniforms(key: np.ndarray, count: int) -> np.ndarray:
    """`count` uniforms in [0, 1) for each key: float64 of shape key.shape + (count,), 53 random bits each."""
    with np.errstate(over="ignore"):
        steps = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
        bits = _mix(np.asarray(key, dtype=np.uint64)[..., None] + steps)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(key: np.ndarray, low: np.ndarray | int, high: np.ndarray | int, count: int) -> np.ndarray:
    """`count` integers in [low, high) for each key (bias below 2^-45 for the small ranges used here)."""
    spread = np.asarray(high) - np.asarray(low)
    return (np.asarray(low) + np.floor(uniforms(key, count) * spread)).astype(np.int64)
