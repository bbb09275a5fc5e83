"""The kernels behind filters.perplexity: hash tables of n-grams, looked up order by order for a whole batch, compiled by numba.

A table is one array of buckets of 64 bytes, a cache line: four keys, then log10 of their probabilities and of their backoff weights as
float32. The place of an n-gram in its table is its name, so a key is the name of the first n - 1 words and that of the last word, and one
cache line answers a lookup. Lookups of one order do not wait for one another, and hardly any branch is unforeseen: the memory works on
many at once, which is what makes this several times faster than word by word.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from filters.bag_kernels import GROWTH, spell_word
from filters.kernels import MULTIPLIER, Bytes, Ints, Keys, Packed, Places, fmix64, jit

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# Room for the words of a batch: int32, uint64 and float32 a word.
Room = tuple[Places, Keys, Singles]

# Keys have 63 bits: the highest one of a bucket's last key says that some key found it full and went on to the next bucket.
GOES_ON = np.uint64(1 << 63)
# What stands where no key is.
EMPTY = np.uint64((1 << 63) - 1)
# No n-gram: no name is this large.
NONE = np.uint32(0xFFFF_FFFF)
IN_BUCKET = 4
# Words whose buckets are fetched together: their cache lines fit into the first cache.
_BLOCK = 256
_GRAM_FACTOR = np.uint64(0x9E37_79B9_7F4A_7C15)


@jit
def first_bucket(key: np.uint64, n_buckets: int) -> int:
    """Where the search for a key starts: the upper half of a product, spread over the buckets."""
    mixed = (key ^ (key >> np.uint64(29))) * MULTIPLIER
    return int(np.int64(((mixed >> np.uint64(32)) * np.uint64(n_buckets)) >> np.uint64(32)))


@jit
def insert(table: Keys, n_buckets: int, keys: Keys, names: Packed) -> None:
    """Give each distinct key a place in a table of empty buckets, in their order."""
    for i in range(len(keys)):
        bucket = first_bucket(keys[i], n_buckets)
        place = 0
        while table[8 * bucket + place] != EMPTY:
            place += 1
            if place == IN_BUCKET:
                table[8 * bucket + 3] |= GOES_ON
                place, bucket = 0, bucket + 1 if bucket + 1 < n_buckets else 0
        table[8 * bucket + place] = keys[i]
        names[i] = IN_BUCKET * bucket + place


@jit
def _fetch(table: Keys, n_buckets: int, keys: Keys, start: int, end: int, buckets: Packed) -> np.uint64:
    """Touch the first bucket of each key, and say which it is: nothing here waits for what memory says."""
    seen = np.uint64(0)
    for i in range(start, end):
        bucket = first_bucket(keys[i], n_buckets)
        buckets[i - start] = bucket
        seen ^= table[np.uint64(8 * bucket)]
    return seen


@jit
def _look_up(table: Keys, n_buckets: int, key: np.uint64, bucket: np.uint64) -> int:
    """Give the name of a key, or -1."""
    while True:
        at = bucket * np.uint64(8)
        last = table[at + np.uint64(3)]
        # Sums, because a choice would be compiled to branches that nobody foresees.
        place = int(table[at] == key) + 2 * int(table[at + np.uint64(1)] == key) + 3 * int(table[at + np.uint64(2)] == key)
        place += 4 * int(last & ~GOES_ON == key)
        if place != 0 or last < GOES_ON or last == EMPTY:
            return int(np.int64(bucket)) * IN_BUCKET + place - 1 if place != 0 else -1
        bucket = bucket + np.uint64(1) if bucket + np.uint64(1) < np.uint64(n_buckets) else np.uint64(0)


@jit
def probability_at(name: int) -> int:
    """Where log10 of a probability is in the table as float32; its backoff weight is IN_BUCKET after it."""
    return 16 * (name >> 2) + 8 + (name & 3)


@jit
def find_words(
    table: Keys, values: Singles, n_buckets: int, doc_starts: Ints, hashes: Keys, grams: Packed, scores: Singles, backoffs: Singles
) -> np.uint64:
    """Look up every word of the documents, each between <s> and </s>, which with <unk> before them follow the buckets."""
    unk, at, seen = IN_BUCKET * n_buckets, 0, np.uint64(0)
    buckets = np.empty(_BLOCK, np.uint32)
    for doc in range(len(doc_starts) - 1):
        grams[at], scores[at], backoffs[at] = unk + 1, 0.0, values[probability_at(unk + 1) + IN_BUCKET]
        at += 1
        for start in range(doc_starts[doc], doc_starts[doc + 1], _BLOCK):
            end = min(start + _BLOCK, doc_starts[doc + 1])
            seen ^= _fetch(table, n_buckets, hashes, start, end, buckets)
            for i in range(start, end):
                found = _look_up(table, n_buckets, hashes[i], np.uint64(buckets[i - start]))
                value = np.uint64(probability_at(found if found >= 0 else unk))
                grams[at], scores[at], backoffs[at] = found if found >= 0 else unk, values[value], values[value + np.uint64(4)]
                at += 1
        grams[at], scores[at], backoffs[at] = unk + 2, values[probability_at(unk + 2)], 0.0
        at += 1
    return seen


@jit
def extend(
    table: Keys, values: Singles, n_buckets: int, words: Packed, grams: Packed, scores: Singles, backoffs: Singles, room: Room
) -> np.uint64:
    """Go from the (n - 1)-grams that end at each word to the n-grams, in place.

    `grams` holds the name of each (NONE: not in the model), `backoffs` its weight (0 where there is none), `scores` log10 of the
    probability of the word so far: of the longest n-gram that is there, with the weights of the longer contexts that are there.
    `room` is for what is looked up: as many places, keys and weights as there are words.
    """
    places, keys, weights = room
    n, seen = 0, np.uint64(0)
    for i in range(1, len(words)):
        # An n-gram is there only where the two shorter ones in it are.
        is_possible = (grams[i - 1] != NONE) & (grams[i] != NONE)
        weight = backoffs[i - 1]
        places[n], weights[n] = i, weight
        keys[n] = (np.uint64(grams[i - 1]) << np.uint64(32)) | np.uint64(words[i])
        scores[i] += np.float32(0.0) if is_possible else weight
        n += int(is_possible)
    grams[:] = NONE
    backoffs[:] = 0.0
    buckets = np.empty(_BLOCK, np.uint32)
    for start in range(0, n, _BLOCK):
        end = min(start + _BLOCK, n)
        seen ^= _fetch(table, n_buckets, keys, start, end, buckets)
        for j in range(start, end):
            found = _look_up(table, n_buckets, keys[j], np.uint64(buckets[j - start]))
            is_there = found >= 0
            place, value = np.uint64(places[j]), np.uint64(probability_at(found if is_there else 0))
            # Both are read, so that the choice between them is no branch.
            score, backoff, otherwise = values[value], values[value + np.uint64(4)], scores[place] + weights[j]
            scores[place] = score if is_there else otherwise
            backoffs[place] = backoff if is_there else np.float32(0.0)
            grams[place] = np.uint32(found)  # -1 is NONE
    return seen


@jit
def add_up(doc_starts: Ints, scores: Singles) -> Doubles:
    """Add up each document's words and its </s>."""
    sums = np.zeros(len(doc_starts) - 1, np.float64)
    for doc in range(len(doc_starts) - 1):
        first = doc_starts[doc] + 2 * doc + 1
        for i in range(first, first + doc_starts[doc + 1] - doc_starts[doc] + 1):
            sums[doc] += scores[i]
    return sums


@jit
def long_gram_hashes(doc_starts: Ints, hashes: Keys, n_words: int) -> tuple[Ints, Keys]:
    """Hash each run of so many words; those of document i are out[starts[i]:starts[i + 1]]."""
    n_docs = len(doc_starts) - 1
    starts = np.zeros(n_docs + 1, np.int64)
    for doc in range(n_docs):
        starts[doc + 1] = starts[doc] + max(0, doc_starts[doc + 1] - doc_starts[doc] - n_words + 1)
    out = np.empty(starts[n_docs], np.uint64)
    leaving = np.uint64(1)
    for _ in range(n_words):
        leaving *= _GRAM_FACTOR
    for doc in range(n_docs):
        rolled, at = np.uint64(0), starts[doc]
        for i in range(doc_starts[doc], doc_starts[doc + 1]):
            rolled = rolled * _GRAM_FACTOR + hashes[i]
            if i - doc_starts[doc] >= n_words:
                rolled -= leaving * hashes[i - n_words]
            if i - doc_starts[doc] >= n_words - 1:
                out[at] = min(fmix64(rolled) & ~GOES_ON, EMPTY - np.uint64(1))
                at += 1
    return starts, out


@jit
def count_known(table: Keys, n_buckets: int, starts: Ints, keys: Keys) -> tuple[Ints, np.uint64]:
    """Count each document's keys that are in the table."""
    found, seen = np.zeros(len(starts) - 1, np.int64), np.uint64(0)
    buckets = np.empty(_BLOCK, np.uint32)
    for doc in range(len(starts) - 1):
        for start in range(starts[doc], starts[doc + 1], _BLOCK):
            end = min(start + _BLOCK, starts[doc + 1])
            seen ^= _fetch(table, n_buckets, keys, start, end, buckets)
            for i in range(start, end):
                found[doc] += _look_up(table, n_buckets, keys[i], np.uint64(buckets[i - start])) >= 0
    return found, seen


@jit
def spell(data: Bytes, doc_starts: Ints, starts: Places, ends: Places, lowered: Packed) -> tuple[Bytes, Ints]:
    """Spell words in lower case, with a space between those of one document."""
    out = np.empty(int(len(data) * GROWTH) + len(starts), np.uint8)
    offsets = np.zeros(len(doc_starts), np.int64)
    at = 0
    for doc in range(len(doc_starts) - 1):
        for word in range(doc_starts[doc], doc_starts[doc + 1]):
            if word > doc_starts[doc]:
                out[at] = 0x20
                at += 1
            at = spell_word(data, starts[word], ends[word], lowered, out, at)
        offsets[doc + 1] = at
    return out[:at], offsets
