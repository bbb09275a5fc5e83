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
# Words whose buckets are fetched together: their cache lines fit into the first cache, with room for what else is at hand.
_BLOCK = 64
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
def _search(table: Keys, n_buckets: int, key: np.uint64, bucket: int) -> np.uint32:
    """Give the name of a key that is not in this bucket, or NONE."""
    while True:
        bucket = bucket + 1 if bucket + 1 < n_buckets else 0
        for place in range(IN_BUCKET):
            if table[8 * bucket + place] & ~GOES_ON == key:
                return np.uint32(IN_BUCKET * bucket + place)
        if table[8 * bucket + 3] < GOES_ON:
            return NONE


@jit
def _look_up(table: Keys, n_buckets: int, keys: Keys, names: Packed, places: Keys, late: Places) -> np.uint64:
    """Give the name of each of a block of keys, or NONE.

    Four loops, each of one kind of work: the first is vectorised, the second waits for nothing that memory says, so that it works on many
    lines at once, the third has no branch that depends on what was found. What some few full buckets pass on comes last.
    """
    n, n_late, seen = np.uint64(n_buckets), np.int64(0), np.uint64(0)
    for i in range(len(keys)):
        mixed = (keys[i] ^ (keys[i] >> np.uint64(29))) * MULTIPLIER
        places[i] = (((mixed >> np.uint64(32)) * n) >> np.uint64(32)) << np.uint64(3)
    for i in range(len(keys)):
        seen ^= table[places[i]]
    for i in range(len(keys)):
        at, key = places[i], keys[i]
        last = table[at + np.uint64(3)]
        is_0, is_1 = np.uint64(table[at] == key), np.uint64(table[at + np.uint64(1)] == key)
        is_2, is_3 = np.uint64(table[at + np.uint64(2)] == key), np.uint64(last & ~GOES_ON == key)
        is_there = is_0 | is_1 | is_2 | is_3
        name = (at >> np.uint64(1)) + is_1 + np.uint64(2) * is_2 + np.uint64(3) * is_3
        names[i] = np.uint32(name | (is_there - np.uint64(1)))
        late[n_late] = i
        n_late += np.int64((np.uint64(1) - is_there) & (last >> np.uint64(63)))
    for i in range(n_late):
        names[late[i]] = _search(table, n_buckets, keys[late[i]], int(np.int64(places[late[i]] >> np.uint64(3))))
    return seen


@jit
def probability_at(name: np.uint64) -> np.uint64:
    """Where log10 of a probability is in the table as float32; its backoff weight is IN_BUCKET after it."""
    return ((name >> np.uint64(2)) << np.uint64(4)) + np.uint64(8) + (name & np.uint64(3))


@jit
def find_words(
    table: Keys, values: Singles, n_buckets: int, doc_starts: Ints, hashes: Keys, grams: Packed, scores: Singles, backoffs: Singles
) -> np.uint64:
    """Look up every word of the documents, each between <s> and </s>, which with <unk> before them follow the buckets.

    A word that is not known has the values of <unk>, and NONE for a name: it is in no n-gram.
    """
    unk, seen = np.uint32(IN_BUCKET * n_buckets), np.uint64(0)
    begin, end = probability_at(np.uint64(unk) + np.uint64(1)), probability_at(np.uint64(unk) + np.uint64(2))
    for doc in range(len(doc_starts) - 1):
        first, last = doc_starts[doc] + 2 * doc, doc_starts[doc + 1] + 2 * doc + 1
        grams[first], scores[first], backoffs[first] = unk + np.uint32(1), 0.0, values[begin + np.uint64(IN_BUCKET)]
        grams[last], scores[last], backoffs[last] = unk + np.uint32(2), values[end], 0.0
    keys, names = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint32)
    places, late = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.int32)
    doc = 0
    for start in range(0, len(hashes), _BLOCK):
        n = min(_BLOCK, len(hashes) - start)
        some = hashes[start : start + n]
        for i in range(n):
            key = some[i] & ~GOES_ON
            keys[i] = key - np.uint64(key == EMPTY)
        seen ^= _look_up(table, n_buckets, keys[:n], names, places, late)
        i = 0
        while i < n:
            while doc_starts[doc + 1] <= start + i:
                doc += 1
            stop = min(n, doc_starts[doc + 1] - start)
            at = np.uint64(start + 2 * doc + 1)
            for k in range(i, stop):
                value, to = probability_at(np.uint64(min(names[k], unk))), at + np.uint64(k)
                grams[to], scores[to], backoffs[to] = names[k], values[value], values[value + np.uint64(IN_BUCKET)]
            i = stop
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
    at, keys, weights = room
    n, seen = 0, np.uint64(0)
    for i in range(1, len(words)):
        # An n-gram is there only where the two shorter ones in it are.
        is_possible = (grams[i - 1] != NONE) & (grams[i] != NONE)
        weight = backoffs[i - 1]
        at[n], weights[n] = i, weight
        keys[n] = (np.uint64(grams[i - 1]) << np.uint64(32)) | np.uint64(words[i])
        scores[i] += np.float32(0.0) if is_possible else weight
        n += int(is_possible)
    grams[:] = NONE
    backoffs[:] = 0.0
    names, places, late = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.int32)
    for start in range(0, n, _BLOCK):
        end = min(start + _BLOCK, n)
        seen ^= _look_up(table, n_buckets, keys[start:end], names, places, late)
        for j in range(end - start):
            is_there = np.uint64(names[j] != NONE)
            value = probability_at(np.uint64(names[j]) * is_there)
            there = np.float32(is_there)
            to = np.uint64(at[start + j])
            scores[to] = there * values[value] + (np.float32(1.0) - there) * (scores[to] + weights[start + j])
            backoffs[to] = there * values[value + np.uint64(IN_BUCKET)]
            grams[to] = names[j]
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
    names, places, late = np.empty(len(keys), np.uint32), np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.int32)
    for start in range(0, len(keys), _BLOCK):
        seen ^= _look_up(table, n_buckets, keys[start : start + _BLOCK], names[start : start + _BLOCK], places, late)
    for doc in range(len(starts) - 1):
        for i in range(starts[doc], starts[doc + 1]):
            found[doc] += np.int64(names[i] != NONE)
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
