"""The kernels behind `TextBatch.words`: where words are, what they consist of, and sums over them (docs/words.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from filters.kernels import (
    LETTER,
    MARK,
    SEPARATOR,
    SPACELESS_LETTER,
    Bytes,
    Flags,
    Ints,
    Keys,
    Places,
    count_ones,
    decode,
    jit,
)

MAX_LISTED_WORD_BYTES = 8
_BLOCK = 64


@jit
def _is_ascii_block(data: Bytes, start: int) -> bool:
    # A place that might be negative would cost a test per byte, hence the unsigned ones.
    high, first = np.uint8(0), np.uint64(start)
    for k in range(_BLOCK):
        high |= data[first + np.uint64(k)]
    return bool(high < 0x80)


@jit
def _find_ascii_words(
    data: Bytes, i: int, n: int, starts: Places, ends: Places, n_chars: Places, has_letter: Flags, is_spaceless: Flags
) -> tuple[int, int, int]:
    """Find the words that end within 64 bytes of ASCII: the bytes done with, the number of words so far, and the letters.

    One bit per byte says what it is, so that a word costs a few operations on bits and no mispredicted branch. A word that
    may go on behind the block is left to the next one; where nothing else is in the block, no byte is done with.
    """
    one, first = np.uint64(1), np.uint64(i)
    is_letter, is_number = np.uint64(0), np.uint64(0)
    for k in range(_BLOCK):
        byte = np.uint64(data[first + np.uint64(k)])
        is_letter |= np.uint64((byte | np.uint64(0x20)) - np.uint64(0x61) < np.uint64(26)) << np.uint64(k)
        is_number |= np.uint64(byte - np.uint64(0x30) < np.uint64(10)) << np.uint64(k)
    is_word = is_letter | is_number
    after_word = is_word << one
    begins, closes = is_word & ~after_word, after_word & ~is_word
    while closes:
        start, end = count_ones(~begins & (begins - one)), count_ones(~closes & (closes - one))
        starts[n], ends[n], n_chars[n] = i + start, i + end, end - start
        has_letter[n] = ((is_letter >> np.uint64(start)) & ((one << np.uint64(end - start)) - one)) != 0
        is_spaceless[n] = False
        n += 1
        begins &= begins - one
        closes &= closes - one
    if not begins:
        return _BLOCK, n, count_ones(is_letter)
    before_open_word = ~begins & (begins - one)
    return count_ones(before_open_word), n, count_ones(is_letter & before_open_word)


@jit
def find_words(data: Bytes, offsets: Ints, classes: Bytes) -> tuple[Ints, Places, Places, Places, Flags, Flags, Ints]:
    n_docs = len(offsets) - 1
    doc_starts = np.zeros(n_docs + 1, np.int64)
    n_letters = np.zeros(n_docs, np.int64)
    # English text has a word in six bytes. Where the guess is too small it is doubled between documents.
    capacity = len(data) // 5 + 16
    starts = np.empty(capacity, np.int32)
    ends = np.empty(capacity, np.int32)
    n_chars = np.empty(capacity, np.int32)
    has_letter = np.empty(capacity, np.bool_)
    is_spaceless = np.empty(capacity, np.bool_)
    n = 0
    for doc in range(n_docs):
        i, end = offsets[doc], offsets[doc + 1]
        # A word and what ends it take two bytes at least: a separator, or a spaceless letter, which has three bytes itself.
        n_possible = n + (end - i + 1) // 2
        if n_possible > capacity:
            capacity = 2 * n_possible
            starts, ends, n_chars = _grown(starts, n, capacity), _grown(ends, n, capacity), _grown(n_chars, n, capacity)
            has_letter, is_spaceless = _grown(has_letter, n, capacity), _grown(is_spaceless, n, capacity)
        letters = 0
        while i < end:
            if i + _BLOCK <= end and _is_ascii_block(data, i):
                width, n, found_letters = _find_ascii_words(data, i, n, starts, ends, n_chars, has_letter, is_spaceless)
                i, letters = i + width, letters + found_letters
                if width > 0:
                    continue
            block_end = min(i + _BLOCK, end)
            while i < block_end:
                code, width = decode(data, i, end)
                kind = classes[code]
                start, letters_before, chars = i, letters, 1
                i += width
                if kind == SEPARATOR:
                    continue
                letters += kind in (LETTER, SPACELESS_LETTER)
                starts_spaceless = kind == SPACELESS_LETTER
                while i < end:
                    code, width = decode(data, i, end)
                    kind = classes[code]
                    if kind in (SEPARATOR, SPACELESS_LETTER) or (starts_spaceless and kind != MARK):
                        break
                    letters += kind == LETTER
                    chars += 1
                    i += width
                starts[n], ends[n], n_chars[n] = start, i, chars
                has_letter[n], is_spaceless[n] = letters > letters_before, starts_spaceless
                n += 1
        n_letters[doc] = letters
        doc_starts[doc + 1] = n
    return doc_starts, starts[:n], ends[:n], n_chars[:n], has_letter[:n], is_spaceless[:n], n_letters


@jit
def _grown(array: npt.NDArray[Any], n_used: int, capacity: int) -> npt.NDArray[Any]:
    larger = np.empty(capacity, array.dtype)
    larger[:n_used] = array[:n_used]
    return larger


@jit
def sum_words(doc_starts: Ints, n_chars: Places, has_letter: Flags, is_spaceless: Flags) -> tuple[Ints, Ints, Ints]:
    n_docs = len(doc_starts) - 1
    chars, lettered, spaceless = np.zeros(n_docs, np.int64), np.zeros(n_docs, np.int64), np.zeros(n_docs, np.int64)
    for doc in range(n_docs):
        for word in range(doc_starts[doc], doc_starts[doc + 1]):
            chars[doc] += n_chars[word]
            lettered[doc] += has_letter[word]
            spaceless[doc] += is_spaceless[word]
    return chars, lettered, spaceless


@jit
def count_listed_words(
    data: Bytes, doc_starts: Ints, starts: Places, ends: Places, keys: Keys, key_starts: Ints, has_key: Flags
) -> tuple[Ints, Ints]:
    n_distinct, n_all = np.zeros(len(doc_starts) - 1, np.int64), np.zeros(len(doc_starts) - 1, np.int64)
    # The last document that each key was seen in, so that nothing is cleared between documents.
    last_doc = np.full(len(keys), -1, np.int64)
    for doc in range(len(n_all)):
        for word in range(doc_starts[doc], doc_starts[doc + 1]):
            start, size = starts[word], ends[word] - starts[word]
            if size > MAX_LISTED_WORD_BYTES or not has_key[size, data[start]]:
                continue
            key = np.uint64(0)
            for k in range(size):
                key |= np.uint64(data[start + k]) << np.uint64(8 * k)
            for k in range(key_starts[size], key_starts[size + 1]):
                if keys[k] == key:
                    n_all[doc] += 1
                    if last_doc[k] != doc:
                        last_doc[k] = doc
                        n_distinct[doc] += 1
    return n_distinct, n_all
