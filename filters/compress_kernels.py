"""The kernel behind `statistics.compression_ratio`: the size that a text would have in the LZ4 block format, without writing it.

A greedy match finder with one entry per hash of four bytes, as LZ4's fast mode has; the format (Collet, LZ4 block format description)
says what a run of literals and a match cost. Repetition is what it measures: a text of one phrase repeated goes to 0.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from filters.kernels import Bytes, Ints, count_ones, jit, read_block

_N_BITS: Final = 12
_FARTHEST: Final = 65_535
_LEAST: Final = 4
# The last bytes of a block are literals.
_TAIL: Final = 12
_FOUR_BYTES: Final = np.uint64(0xFFFFFFFF)
_PRIME: Final = np.uint64(2_654_435_761)


@jit
def _n_extra(length: int) -> int:
    """Bytes behind the token that a length takes: none below 15, then one for every 255 and one more."""
    return 0 if length < 15 else (length - 15) // 255 + 1


@jit
def _n_same(data: Bytes, i: int, k: int, end: int) -> int:
    """Count the bytes from i on, below end, that equal those from k on."""
    start = i
    while i + 8 <= end:
        different = read_block(data, i, end) ^ read_block(data, k, end)
        if different:
            lowest = different & (~different + np.uint64(1))
            return i - start + (count_ones(lowest - np.uint64(1)) >> 3)
        i, k = i + 8, k + 8
    while i < end and data[i] == data[k]:
        i, k = i + 1, k + 1
    return i - start


@jit
def compressed_sizes(data: Bytes, offsets: Ints) -> Ints:
    sizes = np.zeros(len(offsets) - 1, np.int64)
    table = np.full(1 << _N_BITS, -1, np.int32)
    for doc in range(len(sizes)):
        start, end = offsets[doc], offsets[doc + 1]
        size, literals_start, i, n_missed = 0, start, start, 0
        while i + _TAIL <= end:
            four = read_block(data, i, end) & _FOUR_BYTES
            slot = ((four * _PRIME) & _FOUR_BYTES) >> np.uint64(32 - _N_BITS)
            before = int(table[slot])
            table[slot] = i
            if before < start or i - before > _FARTHEST or read_block(data, before, end) & _FOUR_BYTES != four:
                # Where nothing matches, ever larger steps.
                i += 1 + (n_missed >> 6)
                n_missed += 1
                continue
            n_same = _LEAST + _n_same(data, i + _LEAST, before + _LEAST, end - 5)
            n_literals = i - literals_start
            size += 3 + n_literals + _n_extra(n_literals) + _n_extra(n_same - _LEAST)
            i += n_same
            literals_start, n_missed = i, 0
        n_literals = end - literals_start
        sizes[doc] = size + 1 + n_literals + _n_extra(n_literals) if end > start else 0
    return sizes
