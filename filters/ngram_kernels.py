"""The kernels behind `gopher_repetition`: how much of a document its most frequent and its repeated runs of words take up.

A run of n words can only be repeated where the run of its first n - 1 words is. So all pairs of words are looked up once, and each
longer run only at the places where the one before occurs more than once: after pairs little is left of natural text.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from filters.kernels import MULTIPLIER, Bytes, Ints, Keys, Places, hash_bytes, jit, longest, n_bits_of

SHORTEST, LONGEST_TOP, LONGEST = 2, 4, 10
_N_COLUMNS: Final = LONGEST - SHORTEST + 1
NONE: Final = -1


@jit
def _look_up(grams: Keys, places: Places, n: int, stamp: int, keys: Keys, counts: Ints, slots: Places) -> None:
    """Count the runs at n places: slots[i] is the slot of the i-th, counts[slot] - stamp how often it occurs.

    A slot belongs to this look-up where its count is above the stamp; every look-up has a stamp above all counts before it.
    """
    n_bits = n_bits_of(n)
    shift, mask = np.uint64(64 - n_bits), (1 << n_bits) - 1
    for i in range(n):
        key = grams[places[i]]
        slot = np.int64((key * MULTIPLIER) >> shift)
        while counts[slot] > stamp and keys[slot] != key:
            slot = (slot + 1) & mask
        if counts[slot] <= stamp:
            keys[slot], counts[slot] = key, stamp
        counts[slot] += 1
        slots[i] = slot


@jit
def _top_chars(places: Places, n: int, slots: Places, counts: Ints, stamp: int, chars: Ints, words: int) -> int:
    """Give the characters of all occurrences of the most frequent run, spaces between its words included; the first one of equals."""
    best, best_count = 0, 1
    for i in range(n):
        if counts[slots[i]] - stamp > best_count:
            best, best_count = places[i], counts[slots[i]] - stamp
    return int(best_count * (chars[best + words] - chars[best] + words - 1))


@jit
def _repeated_chars(places: Places, n: int, slots: Places, counts: Ints, stamp: int, chars: Ints, words: int) -> int:
    """Go through the text, jump over each run that has been seen at a place visited before, and add up the characters jumped over."""
    jumped, next_place = 0, 0
    for i in range(n):
        if places[i] < next_place:
            continue
        # What was visited gets a count of nothing; the slots are not looked up after this.
        if counts[slots[i]] == stamp:
            jumped += chars[places[i] + words] - chars[places[i]]
            next_place = places[i] + words
        else:
            counts[slots[i]] = stamp
    return jumped


@jit
def repeated_runs(data: Bytes, doc_starts: Ints, starts: Places, ends: Places, n_chars: Places) -> Ints:
    n_docs = len(doc_starts) - 1
    found = np.full((n_docs, _N_COLUMNS), NONE, np.int64)
    most = longest(doc_starts)
    n_bits = n_bits_of(most)
    keys, counts = np.zeros(1 << n_bits, np.uint64), np.zeros(1 << n_bits, np.int64)
    words, grams, slots = np.empty(most, np.uint64), np.empty(most, np.uint64), np.empty(most, np.int32)
    places, chars = np.empty(most, np.int32), np.zeros(most + 1, np.int64)
    stamp = 0
    for doc in range(n_docs):
        first, n_words = doc_starts[doc], doc_starts[doc + 1] - doc_starts[doc]
        for k in range(n_words):
            words[k] = grams[k] = hash_bytes(data, starts[first + k], ends[first + k])
            chars[k + 1] = chars[k] + n_chars[first + k]
            places[k] = k
        n = n_words
        for size in range(SHORTEST, min(LONGEST, n_words) + 1):
            # The last place at which a run of this size begins may have been the last one of the size before.
            while n > 0 and places[n - 1] + size > n_words:
                n -= 1
            for i in range(n):
                grams[places[i]] = grams[places[i]] * MULTIPLIER + words[places[i] + size - 1]
            _look_up(grams, places, n, stamp, keys, counts, slots)
            n_kept = 0
            for i in range(n):
                if counts[slots[i]] - stamp > 1:
                    places[n_kept], slots[n_kept] = places[i], slots[i]
                    n_kept += 1
            n = n_kept
            if size <= LONGEST_TOP:
                found[doc, size - SHORTEST] = _top_chars(places, n, slots, counts, stamp, chars, size)
            else:
                found[doc, size - SHORTEST] = _repeated_chars(places, n, slots, counts, stamp, chars, size)
            stamp += most
    return found
