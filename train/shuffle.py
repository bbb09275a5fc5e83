"""Shuffles without a generator: an order is that of hashes of (what for, which), the same everywhere and at any time."""

import hashlib

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


def salt_of(name: str) -> np.uint64:
    """Name a shuffle by 64 bits of the SHA-256 of what it is for."""
    return np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))


def splitmix64(values: Hashes) -> Hashes:
    """Mix 64 bits into 64 bits, one to one (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def shuffled(first: int, n: int, salt: np.uint64) -> npt.NDArray[np.int64]:
    """Put the counters first to first + n into a random order; gives their places, from 0.

    >>> shuffled(7, 4, np.uint64(3)).tolist()
    [1, 0, 2, 3]
    """
    counters = np.arange(first, first + n, dtype=np.uint64)
    return np.argsort(splitmix64(splitmix64(counters) ^ salt), kind="stable")
