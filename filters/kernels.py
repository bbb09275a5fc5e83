"""The kernels behind filters.columns: loops over UTF-8 bytes and over places of words and lines, compiled by numba.

They read bytes in place and never make a Python string. All of them live in this file, because numba's cache on disk does not
notice a changed callee in another file; nothing but filters.columns calls them. Bytes that are not UTF-8 give unspecified
counts, but are never read past the end of their document.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

# Classes of characters, as in unicode_classes.txt; a spaceless letter belongs to a script that is written without spaces.
SEPARATOR, LETTER, NUMBER, MARK, SPACELESS_LETTER = range(5)
MAX_CODE_POINT = 0x10FFFF
MAX_LISTED_WORD_BYTES = 8
_BLOCK = 64

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]
_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def jit(kernel: _Kernel) -> _Kernel:
    """Compile on first call, without the GIL, and keep the result on disk. numba's own decorator has no types."""
    compiled: _Kernel = numba.njit(nogil=True, cache=True)(kernel)
    return compiled


@jit
def _decode(data: Bytes, i: int, end: int) -> tuple[int, int]:
    """The code point at i and its width in bytes. A sequence that is cut off, or that no character starts with, is a NUL of width 1."""
    lead = int(np.int64(data[i]))
    if lead < 0x80:
        return lead, 1
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if lead < 0xC0 or lead > 0xF7 or i + width > end:
        return 0, 1
    code = lead & (0x7F >> width)
    for k in range(1, width):
        code = (code << 6) | int(np.int64(data[i + k]) & 0x3F)
    return min(code, MAX_CODE_POINT), width


@jit
def _is_space(code: int) -> bool:
    """White space as str.isspace sees it."""
    if code < 0x80:
        return 9 <= code <= 13 or 28 <= code <= 32
    return code in (0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000) or 0x2000 <= code <= 0x200A


@jit
def _is_ascii_block(data: Bytes, start: int) -> bool:
    # A place that might be negative would cost a test per byte, hence the unsigned ones.
    high, first = np.uint8(0), np.uint64(start)
    for k in range(_BLOCK):
        high |= data[first + np.uint64(k)]
    return bool(high < 0x80)


@jit
def _count_ones(bits: np.uint64) -> int:
    """The usual sums of ever more neighbours (Hacker's Delight 5-1), which LLVM recognises and replaces by one instruction."""
    bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int(np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56)))


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
        start, end = _count_ones(~begins & (begins - one)), _count_ones(~closes & (closes - one))
        starts[n], ends[n], n_chars[n] = i + start, i + end, end - start
        has_letter[n] = ((is_letter >> np.uint64(start)) & ((one << np.uint64(end - start)) - one)) != 0
        is_spaceless[n] = False
        n += 1
        begins &= begins - one
        closes &= closes - one
    if not begins:
        return _BLOCK, n, _count_ones(is_letter)
    before_open_word = ~begins & (begins - one)
    return _count_ones(before_open_word), n, _count_ones(is_letter & before_open_word)


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
                code, width = _decode(data, i, end)
                kind = classes[code]
                start, letters_before, chars = i, letters, 1
                i += width
                if kind == SEPARATOR:
                    continue
                letters += kind in (LETTER, SPACELESS_LETTER)
                starts_spaceless = kind == SPACELESS_LETTER
                while i < end:
                    code, width = _decode(data, i, end)
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
def find_lines(data: Bytes, offsets: Ints) -> tuple[Ints, Places, Places]:
    n_docs = len(offsets) - 1
    doc_starts = np.zeros(n_docs + 1, np.int64)
    for doc in range(n_docs):
        n_lines = 0
        for i in range(offsets[doc], offsets[doc + 1]):
            n_lines += data[i] == 10
        if offsets[doc + 1] > offsets[doc] and data[offsets[doc + 1] - 1] != 10:
            n_lines += 1
        doc_starts[doc + 1] = doc_starts[doc] + n_lines
    starts = np.empty(doc_starts[-1], np.int32)
    ends = np.empty(doc_starts[-1], np.int32)
    for doc in range(n_docs):
        line, start = doc_starts[doc], offsets[doc]
        for i in range(offsets[doc], offsets[doc + 1]):
            if data[i] == 10:
                starts[line], ends[line] = start, i
                line, start = line + 1, i + 1
        if line < doc_starts[doc + 1]:
            starts[line], ends[line] = start, offsets[doc + 1]
    return doc_starts, starts, ends


@jit
def count_chars(data: Bytes, offsets: Ints) -> Ints:
    counts = np.zeros(len(offsets) - 1, np.int64)
    for doc in range(len(counts)):
        n = 0
        for i in range(offsets[doc], offsets[doc + 1]):
            # Every byte but the second and later ones of a character.
            n += (data[i] & 0xC0) != 0x80
        counts[doc] = n
    return counts


@jit
def count_byte(data: Bytes, offsets: Ints, byte: int) -> Ints:
    counts = np.zeros(len(offsets) - 1, np.int64)
    for doc in range(len(counts)):
        n = 0
        for i in range(offsets[doc], offsets[doc + 1]):
            n += data[i] == byte
        counts[doc] = n
    return counts


@jit
def _is_ellipsis(data: Bytes, i: int, end: int) -> bool:
    if i + 3 > end:
        return False
    if data[i] == 0x2E:
        return bool(data[i + 1] == 0x2E and data[i + 2] == 0x2E)
    return bool(data[i] == 0xE2 and data[i + 1] == 0x80 and data[i + 2] == 0xA6)


@jit
def count_ellipses(data: Bytes, offsets: Ints) -> Ints:
    counts = np.zeros(len(offsets) - 1, np.int64)
    for doc in range(len(counts)):
        n = 0
        i, end = offsets[doc], offsets[doc + 1]
        while i < end:
            # Nearly every byte is passed over by this one comparison each.
            if data[i] != 0x2E and data[i] != 0xE2:
                i += 1
            elif _is_ellipsis(data, i, end):
                n += 1
                i += 3
            else:
                i += 1
        counts[doc] = n
    return counts


@jit
def count_lines_starting_with(data: Bytes, doc_starts: Ints, starts: Places, ends: Places, codes: Ints) -> Ints:
    counts = np.zeros(len(doc_starts) - 1, np.int64)
    for doc in range(len(counts)):
        for line in range(doc_starts[doc], doc_starts[doc + 1]):
            i, end = starts[line], ends[line]
            while i < end:
                code, width = _decode(data, i, end)
                if not _is_space(code):
                    counts[doc] += np.any(codes == code)
                    break
                i += width
    return counts


@jit
def count_lines_ending_in_ellipsis(data: Bytes, doc_starts: Ints, starts: Places, ends: Places) -> Ints:
    counts = np.zeros(len(doc_starts) - 1, np.int64)
    for doc in range(len(counts)):
        for line in range(doc_starts[doc], doc_starts[doc + 1]):
            start, end = starts[line], ends[line]
            while end > start:
                last = end - 1
                while last > start and (data[last] & 0xC0) == 0x80:
                    last -= 1
                code, width = _decode(data, last, end)
                if last + width != end or not _is_space(code):
                    break
                end = last
            counts[doc] += end - start >= 3 and _is_ellipsis(data, end - 3, end)
    return counts


@jit
def count_distinct_words(data: Bytes, doc_starts: Ints, starts: Places, ends: Places, keys: Keys, key_starts: Ints, has_key: Flags) -> Ints:
    counts = np.zeros(len(doc_starts) - 1, np.int64)
    # The last document that each key was seen in, so that nothing is cleared between documents.
    last_doc = np.full(len(keys), -1, np.int64)
    for doc in range(len(counts)):
        n = 0
        for word in range(doc_starts[doc], doc_starts[doc + 1]):
            start, size = starts[word], ends[word] - starts[word]
            if size > MAX_LISTED_WORD_BYTES or not has_key[size, data[start]]:
                continue
            key = np.uint64(0)
            for k in range(size):
                key |= np.uint64(data[start + k]) << np.uint64(8 * k)
            for k in range(key_starts[size], key_starts[size + 1]):
                if keys[k] == key and last_doc[k] != doc:
                    last_doc[k] = doc
                    n += 1
        counts[doc] = n
    return counts


@jit
def sum_per_document(doc_starts: Ints, values: Places | Flags) -> Ints:
    sums = np.zeros(len(doc_starts) - 1, np.int64)
    for doc in range(len(sums)):
        n = 0
        for k in range(doc_starts[doc], doc_starts[doc + 1]):
            n += values[k]
        sums[doc] = n
    return sums
