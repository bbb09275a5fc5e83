"""Shingles, signatures and band keys in plain Python: slow, short, and what the kernels behind filters/minhash.py must agree with."""

import numpy as np

from tests.filters.word_twin import words

MULTIPLIER = 0x9E3779B97F4A7C15


def lower(word: str) -> str:
    """Lower-case every character on its own, to one character each.

    >>> lower("\\u0130\\u039f\\u03a3"), lower("stra\\u00dfe")
    ('i\u03bf\u03c3', 'stra\u00dfe')
    """
    return "".join(char.lower()[0] for char in word)


def fmix64(x: int) -> int:
    """The finaliser of MurmurHash3, a bijection of the integers below 2**64 that spreads every bit over all others.

    >>> fmix64(0), fmix64(1)
    (0, 12994781566227106604)
    """
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD % 2**64
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
    return x ^ x >> 33


def word_hash(word: str) -> int:
    """Hash the lower-cased UTF-8 bytes, eight at a time as little-endian integers. Words of up to eight bytes never collide.

    >>> word_hash("Caf\\u00c9") == word_hash("caf\\u00e9") == fmix64(int.from_bytes("caf\\u00e9".encode(), "little"))
    True
    """
    data = lower(word).encode()
    hashed = 0
    for first in range(0, len(data), 8):
        hashed = fmix64(hashed ^ int.from_bytes(data[first : first + 8], "little"))
    return hashed


def shingles(text: str, n_words: int = 5) -> list[int]:
    """Distinct runs of so many words, as hashes in ascending order.

    >>> shingles("one two three FOUR five") == shingles("One, two-three: four; five!")
    True
    >>> len(shingles("one two three four")), len(shingles("a a a a a a a")), len(shingles("\u4e00\u4e8c\u4e09\u56db\u4e94\u516d"))
    (0, 1, 2)
    """
    hashes = [word_hash(word) for word in words(text)]
    found = set()
    for first in range(len(hashes) - n_words + 1):
        hashed = 0
        for word in hashes[first : first + n_words]:
            hashed = (hashed * MULTIPLIER + word) % 2**64
        found.add(hashed)
    return sorted(found)


def signature(text: str, n_perms: int, seed: int) -> list[int] | None:
    """For each of n_perms permutations of the integers below 2**64, the least that a shingle is sent to; None below five shingles."""
    random = np.random.RandomState(seed)
    factors = [2 * factor + 1 for factor in random.randint(0, 2**63, n_perms, dtype=np.uint64).tolist()]
    summands = random.randint(0, 2**64, n_perms, dtype=np.uint64).tolist()
    mixed = [fmix64(shingle) for shingle in shingles(text)]
    if len(mixed) < 5:
        return None
    return [min((a * x + b) % 2**64 for x in mixed) for a, b in zip(factors, summands, strict=True)]


def band_keys(text: str, bands: int, rows: int, seed: int) -> list[int] | None:
    """One key per band of a signature of bands * rows values: its number and its values, mixed one after the other."""
    values = signature(text, bands * rows, seed)
    if values is None:
        return None
    keys = []
    for band in range(bands):
        key = band
        for value in values[band * rows : (band + 1) * rows]:
            key = fmix64(key ^ value)
        keys.append(key)
    return keys


def jaccard(left: set[int], right: set[int]) -> float:
    """Shared elements per element of either set; 0 where both are empty."""
    return len(left & right) / len(left | right) if left or right else 0.0


def containment(left: set[int], right: set[int]) -> float:
    """The share of the left set's elements that are in the right one, too; 0 where it is empty.

    >>> small, large = set(shingles("two three four five", 3)), set(shingles("one two three four five six", 3))
    >>> containment(small, large), containment(large, small)
    (1.0, 0.5)
    """
    return len(left & right) / len(left) if left else 0.0
