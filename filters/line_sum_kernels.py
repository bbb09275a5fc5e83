"""The kernel behind `TextBatch.line_sums`: per document, sums over its lines, and which of its lines and paragraphs it repeats."""

from __future__ import annotations

from typing import Final

import numpy as np

from filters.kernels import Ints, Keys, Places, fmix64, jit, longest, n_bits_of
from filters.line_kernels import BLANK, BULLET, ELLIPSIS, ENDED, FLAGS_FOUND, SENTENCES_FOUND

# Columns of `sum_lines`.
(
    LINES, FILLED, WRITTEN, BULLETS, ELLIPSIS_LINES, ENDED_LINES, SHORT, SENTENCES,
    REPEATED, REPEATED_CHARS, REPEATED_WRITTEN_CHARS, PARAGRAPHS, REPEATED_PARAGRAPHS, REPEATED_PARAGRAPH_CHARS,
) = range(14)  # fmt: skip
N_SUMS: Final = 14
SHORT_CHARS: Final = 30  # FineWeb's "short" line


@jit
def _is_new(key: np.uint64, stamp: int, n_bits: int, keys: Keys, stamps: Ints) -> bool:
    """Put a key into a hash table; False where it is there already. A slot belongs to the stamp that wrote it last."""
    mask = (1 << n_bits) - 1
    slot = np.int64(fmix64(key) >> np.uint64(64 - n_bits))
    while stamps[slot] == stamp:
        if keys[slot] == key:
            return False
        slot = (slot + 1) & mask
    keys[slot], stamps[slot] = key, stamp
    return True


@jit
def sum_lines(doc_starts: Ints, starts: Places, ends: Places, n_chars: Places, hashes: Keys, found: Places) -> Ints:
    n_docs = len(doc_starts) - 1
    sums = np.zeros((n_docs, N_SUMS), np.int64)
    n_slots = 1 << n_bits_of(longest(doc_starts))
    keys, stamps = np.zeros(n_slots, np.uint64), np.full(n_slots, -1, np.int64)
    for doc in range(n_docs):
        own, first, last = sums[doc], doc_starts[doc], doc_starts[doc + 1]
        n_bits = n_bits_of(last - first)
        own[LINES] = last - first
        for line in range(first, last):
            bits = found[line, FLAGS_FOUND]
            is_written = not bits & BLANK
            own[SENTENCES] += found[line, SENTENCES_FOUND]
            own[BULLETS] += bits & BULLET != 0
            own[ELLIPSIS_LINES] += bits & ELLIPSIS != 0
            own[ENDED_LINES] += bits & ENDED != 0
            own[WRITTEN] += is_written
            own[SHORT] += is_written and n_chars[line] <= SHORT_CHARS
            if ends[line] == starts[line]:
                continue
            own[FILLED] += 1
            if not _is_new(hashes[line], 2 * doc, n_bits, keys, stamps):
                own[REPEATED] += 1
                own[REPEATED_CHARS] += n_chars[line]
                own[REPEATED_WRITTEN_CHARS] += n_chars[line] if is_written else 0
        line = first
        while line < last:
            key, chars = np.uint64(0), -1
            while line < last and ends[line] > starts[line]:
                key = fmix64(key ^ hashes[line])
                chars += n_chars[line] + 1
                line += 1
            if chars > 0:
                own[PARAGRAPHS] += 1
                if not _is_new(key, 2 * doc + 1, n_bits, keys, stamps):
                    own[REPEATED_PARAGRAPHS] += 1
                    own[REPEATED_PARAGRAPH_CHARS] += chars
            line += 1
    return sums
