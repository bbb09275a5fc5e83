"""The kernels behind filters.minhash: hashes of words, shingles and signatures, compiled by numba.

They read words in place and lower-case them while hashing, eight bytes at a time, so that no word is ever written out. Everything is
arithmetic modulo 2^64 on uint64; numba would turn a sum of uint64 and int64 into a float, hence the many np.uint64. What they compute is
written in docs/minhash.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from filters.kernels import (
    HIGH_BITS,
    MAX_CODE_POINT,
    MULTIPLIER,
    Bytes,
    Flags,
    Ints,
    Keys,
    Packed,
    Places,
    fmix64,
    jit,
    longest,
    read_block,
)

Scores = npt.NDArray[np.float64]

_LARGEST = np.uint64(0xFFFFFFFFFFFFFFFF)
_ZERO = np.uint64(0)


@jit
def _hash_any_word(data: Bytes, start: int, end: int, lowered: Packed) -> np.uint64:
    """Hash a word of any characters. Inside a word every character is complete, because one that is cut off is no word character."""
    hashed, block, n_bits = _ZERO, _ZERO, np.uint64(0)
    i = start
    while i < end:
        lead = int(np.int64(data[i]))
        width = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        code = lead & (0x7F >> width) if width > 1 else lead
        for k in range(1, width):
            code = (code << 6) | int(np.int64(data[i + k]) & 0x3F)
        i += width
        char = np.uint64(lowered[min(code, MAX_CODE_POINT)])
        n_char_bits = np.uint64(8 if char < 0x100 else 16 if char < 0x10000 else 24 if char < 0x1000000 else 32)
        block |= char << n_bits
        n_bits += n_char_bits
        if n_bits >= np.uint64(64):
            hashed = fmix64(hashed ^ block)
            n_bits -= np.uint64(64)
            # What did not fit begins the next block.
            block = char >> (n_char_bits - n_bits)
    return fmix64(hashed ^ block) if n_bits > _ZERO else hashed


@jit
def hash_words(data: Bytes, starts: Places, ends: Places, lowered: Packed) -> Keys:
    hashes = np.empty(len(starts), np.uint64)
    for word in range(len(starts)):
        i, end = starts[word], ends[word]
        hashed = _ZERO
        while i < end:
            block = read_block(data, i, end)
            if block & HIGH_BITS:
                hashed = _hash_any_word(data, starts[word], end, lowered)
                break
            # The high bit of each byte from A to Z, moved to the bit that tells a from A.
            is_upper = (block + np.uint64(0x3F3F3F3F3F3F3F3F)) & ~(block + np.uint64(0x2525252525252525)) & HIGH_BITS
            hashed = fmix64(hashed ^ (block | (is_upper >> np.uint64(2))))
            i += 8
        hashes[word] = hashed
    return hashes


@jit
def _hash_shingles(words: Keys, n_words: int, shingles: Keys) -> int:
    """Write one hash per run of n_words words of a document, in order, and say how many there are."""
    n = max(len(words) - n_words + 1, 0)
    for i in range(n):
        hashed = words[i]
        for k in range(i + 1, i + n_words):
            hashed = hashed * MULTIPLIER + words[k]
        shingles[i] = hashed
    return n


@jit
def _sort_distinct(values: Keys, n: int, scratch: Keys, places: Ints) -> int:
    """Sort the first n values in place, each kept once, and say how many are left. Needs room for n values and 2n + 3 places.

    Hashes are spread evenly: putting each near its place by its highest bits leaves about n / 2 steps to an insertion sort.
    """
    n_bits = 1
    while (1 << n_bits) < n:
        n_bits += 1
    shift = np.uint64(64 - n_bits)
    places[: (1 << n_bits) + 1] = 0
    for i in range(n):
        scratch[i] = values[i]
        places[(values[i] >> shift) + np.uint64(1)] += 1
    for k in range(1 << n_bits):
        places[k + 1] += places[k]
    for i in range(n):
        bucket = scratch[i] >> shift
        values[places[bucket]] = scratch[i]
        places[bucket] += 1
    n_kept = 0
    for i in range(n):
        value, k = values[i], n_kept
        while k > 0 and values[k - 1] > value:
            k -= 1
        if k > 0 and values[k - 1] == value:
            continue
        for j in range(n_kept, k, -1):
            values[j] = values[j - 1]
        values[k] = value
        n_kept += 1
    return n_kept


@jit
def distinct_shingles(words: Keys, doc_starts: Ints, n_words: int) -> tuple[Ints, Keys]:
    n_docs = len(doc_starts) - 1
    starts = np.zeros(n_docs + 1, np.int64)
    found = np.empty(len(words), np.uint64)
    most = longest(doc_starts)
    shingles, scratch, places = np.empty(most, np.uint64), np.empty(most, np.uint64), np.empty(2 * most + 3, np.int64)
    for doc in range(n_docs):
        n = _hash_shingles(words[doc_starts[doc] : doc_starts[doc + 1]], n_words, shingles)
        n = _sort_distinct(shingles, n, scratch, places)
        found[starts[doc] : starts[doc] + n] = shingles[:n]
        starts[doc + 1] = starts[doc] + n
    return starts, found[: starts[-1]].copy()


@jit
def _has_distinct(values: Keys, n: int, n_needed: int, seen: Keys) -> bool:
    """Tell whether that many different values are among the first n; mostly the first few answer."""
    n_seen = 0
    for i in range(n):
        if n_seen == n_needed:
            break
        seen[n_seen] = values[i]
        k = 0
        while seen[k] != values[i]:
            k += 1
        n_seen += k == n_seen
    return n_seen == n_needed


@jit
def sign(words: Keys, doc_starts: Ints, n_words: int, factors: Keys, summands: Keys, min_shingles: int) -> tuple[Keys, Flags]:
    n_docs, n_perms = len(doc_starts) - 1, len(factors)
    signatures = np.full((n_docs, n_perms), _LARGEST)
    has_signature = np.zeros(n_docs, np.bool_)
    shingles, seen = np.empty(longest(doc_starts), np.uint64), np.empty(min_shingles + 1, np.uint64)
    least = np.empty(n_perms, np.uint64)
    for doc in range(n_docs):
        n = _hash_shingles(words[doc_starts[doc] : doc_starts[doc + 1]], n_words, shingles)
        has_signature[doc] = _has_distinct(shingles, n, min_shingles, seen)
        if not has_signature[doc]:
            continue
        for i in range(n):
            shingles[i] = fmix64(shingles[i])
        least[:] = _LARGEST
        # Four shingles at a time, so that `least` is read and written once for all four; the last one may come twice.
        for i in range(0, n, 4):
            h0, h1 = shingles[i], shingles[min(i + 1, n - 1)]
            h2, h3 = shingles[min(i + 2, n - 1)], shingles[min(i + 3, n - 1)]
            for k in range(n_perms):
                a, b = factors[k], summands[k]
                least[k] = min(least[k], min(min(a * h0 + b, a * h1 + b), min(a * h2 + b, a * h3 + b)))
        signatures[doc] = least
    return signatures, has_signature


@jit
def fold_bands(signatures: Keys, bands: int) -> Keys:
    n_docs, n_perms = signatures.shape
    rows = n_perms // bands
    keys = np.empty((n_docs, bands), np.uint64)
    for doc in range(n_docs):
        for band in range(bands):
            key = np.uint64(band)
            for k in range(band * rows, (band + 1) * rows):
                key = fmix64(key ^ signatures[doc, k])
            keys[doc, band] = key
    return keys


@jit
def _n_shared(hashes: Keys, start_a: int, end_a: int, start_b: int, end_b: int) -> int:
    """Count what two ascending runs of distinct values share."""
    i, j, n_shared = start_a, start_b, 0
    while i < end_a and j < end_b:
        left, right = hashes[i], hashes[j]
        n_shared += left == right
        i += left <= right
        j += right <= left
    return n_shared


@jit
def jaccard(starts_a: Ints, ends_a: Ints, starts_b: Ints, ends_b: Ints, hashes: Keys) -> Scores:
    scores = np.zeros(len(starts_a))
    for pair in range(len(starts_a)):
        n_both = _n_shared(hashes, starts_a[pair], ends_a[pair], starts_b[pair], ends_b[pair])
        n_either = ends_a[pair] - starts_a[pair] + ends_b[pair] - starts_b[pair] - n_both
        if n_either > 0:
            scores[pair] = n_both / n_either
    return scores


@jit
def containment(starts_a: Ints, ends_a: Ints, starts_b: Ints, ends_b: Ints, hashes: Keys) -> tuple[Scores, Scores]:
    of_a, of_b = np.zeros(len(starts_a)), np.zeros(len(starts_a))
    for pair in range(len(starts_a)):
        n_both = _n_shared(hashes, starts_a[pair], ends_a[pair], starts_b[pair], ends_b[pair])
        if n_both > 0:
            of_a[pair] = n_both / (ends_a[pair] - starts_a[pair])
            of_b[pair] = n_both / (ends_b[pair] - starts_b[pair])
    return of_a, of_b
