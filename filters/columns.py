"""Words, lines and counts over Arrow string buffers: the only place that walks bytes.

Families ask a `TextBatch` for words and lines, which are found once per batch and shared by all of them, and call the counters below.
The word rule is written in docs/words.md, where a plain Python twin says the same; tests hold the two together.

The kernels read UTF-8 bytes in place and never make a Python string: all rules of a family in less time than a regular expression
takes to find the words (bench/rules.py), for code that is longer. They all live in this file, at the cost of its length, because
numba's cache on disk does not notice a changed callee in another file. Offsets are bytes, relative to `TextBatch.data`. Arrow
checks UTF-8 where text enters; bytes that are not UTF-8 give unspecified counts here, but are never read past the end of their
document.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

# Classes of characters, as in unicode_classes.txt; a spaceless letter belongs to a script that is written without spaces.
SEPARATOR, LETTER, NUMBER, MARK, SPACELESS_LETTER = range(5)
_CLASS_OF_CODE = {"L": LETTER, "N": NUMBER, "M": MARK, "S": SPACELESS_LETTER}
_MAX_CODE_POINT = 0x10FFFF
_MAX_BATCH_BYTES = 2**31 - 1
_MAX_LISTED_WORD_BYTES = 8

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]
_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def _jit(kernel: _Kernel) -> _Kernel:
    """Compile on first call, without the GIL, and keep the result on disk. numba's own decorator has no types."""
    compiled: _Kernel = numba.njit(nogil=True, cache=True)(kernel)
    return compiled


@dataclass(frozen=True, slots=True)
class Words:
    """All words of a batch, in order. Those of document i are doc_starts[i]:doc_starts[i + 1]."""

    doc_starts: Ints
    starts: Places
    ends: Places
    n_chars: Places
    has_letter: Flags
    # The word is one letter of a script written without spaces, with its marks.
    is_spaceless: Flags
    # Per document, spaceless letters included.
    n_letters: Ints


@dataclass(frozen=True, slots=True)
class Lines:
    """All lines of a batch, in order, without their newlines. Those of document i are doc_starts[i]:doc_starts[i + 1]."""

    doc_starts: Ints
    starts: Places
    ends: Places


class TextBatch:
    """Texts as bytes: document i is data[offsets[i]:offsets[i + 1]]. Both views are read-only and share Arrow's memory."""

    def __init__(self, data: Bytes, offsets: Ints) -> None:
        self.data = data
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_arrow(cls, texts: pa.Array | pa.ChunkedArray) -> TextBatch:
        """View an array of string or large_string, also sliced or chunked; a null is an empty text.

        The text is copied only where it lies in several chunks, or where a null hides bytes. Raises TypeError for any other type
        and ValueError above 2 GiB of text, because the places of words are kept in 32 bits to save memory.
        """
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
            raise TypeError(f"texts are {texts.type}; allowed: string, large_string. Cast the column first.")
        array = _one_array(texts)
        data, offsets = _views(array)
        if array.null_count and _any_null_hides_bytes(array, offsets):
            data, offsets = _views(array.fill_null(""))
        if len(data) > _MAX_BATCH_BYTES:
            raise ValueError(f"a batch of {len(data)} bytes of text; at most {_MAX_BATCH_BYTES} are allowed. Slice the array first.")
        return cls(data, offsets)

    @functools.cached_property
    def words(self) -> Words:
        """The words by the rule in docs/words.md; found on first use, then kept."""
        return Words(*_find_words(self.data, self.offsets, _char_classes()))

    @functools.cached_property
    def lines(self) -> Lines:
        r"""The lines, split at \n only; found on first use, then kept.

        Empty lines count; a newline at the very end opens no further line, and an empty text has no line.
        """
        return Lines(*_find_lines(self.data, self.offsets))


def count_chars(batch: TextBatch) -> Ints:
    """Count code points per document."""
    return _count_chars(batch.data, batch.offsets)


def count_ascii(batch: TextBatch, char: str) -> Ints:
    """Count one ASCII character per document."""
    assert len(char) == 1, char
    assert char.isascii(), char
    return _count_byte(batch.data, batch.offsets, ord(char))


def count_ellipses(batch: TextBatch) -> Ints:
    """Count "..." and U+2026 per document; six dots are two ellipses, four or five are one."""
    return _count_ellipses(batch.data, batch.offsets)


def count_lines_starting_with(batch: TextBatch, chars: str) -> Ints:
    """Count the lines per document whose first character after white space (as str.lstrip) is one of `chars`."""
    codes = np.array([ord(char) for char in chars], dtype=np.int64)
    return _count_lines_starting_with(batch.data, batch.lines.doc_starts, batch.lines.starts, batch.lines.ends, codes)


def count_lines_ending_in_ellipsis(batch: TextBatch) -> Ints:
    """Count the lines per document whose last characters before white space (as str.rstrip) are "..." or U+2026."""
    return _count_lines_ending_in_ellipsis(batch.data, batch.lines.doc_starts, batch.lines.starts, batch.lines.ends)


def count_distinct_words(batch: TextBatch, listed: frozenset[str]) -> Ints:
    """Count per document how many different words of a list occur in it, compared byte by byte (so with case).

    A word of the list has at most 8 bytes, so that it is compared as one integer.
    """
    words = batch.words
    return _count_distinct_words(batch.data, words.doc_starts, words.starts, words.ends, *_keys_by_length(listed))


def sum_per_document(doc_starts: Ints, values: Places | Flags) -> Ints:
    """Add up a column of words or lines per document."""
    return _sum_per_document(doc_starts, values)


def _one_array(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    if not isinstance(texts, pa.ChunkedArray):
        return texts
    if texts.num_chunks == 1:
        return texts.chunk(0)
    # 64-bit offsets, since the chunks together may hold more than the 2 GiB that one chunk can.
    return pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in texts.chunks] or [pa.array([], pa.large_string())])


def _views(array: pa.Array) -> tuple[Bytes, Ints]:
    _, offset_buffer, data_buffer = array.buffers()
    # Arrow allows an empty array to have no buffers at all.
    if len(array) == 0 or data_buffer is None:
        return _read_only(np.zeros(0, np.uint8)), _read_only(np.zeros(len(array) + 1, np.int64))
    offset_type = np.int64 if pa.types.is_large_string(array.type) else np.int32
    offsets = np.frombuffer(offset_buffer, offset_type, count=array.offset + len(array) + 1)[array.offset :]
    data = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    return _read_only(data), _read_only(offsets.astype(np.int64) - offsets[0])


def _read_only(view: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # One kind of array means one compiled kernel: numba has separate types for writable and read-only memory.
    view.flags.writeable = False
    return view


def _any_null_hides_bytes(array: pa.Array, offsets: Ints) -> bool:
    is_null = array.is_null().to_numpy(zero_copy_only=False)
    return bool(np.diff(offsets)[is_null].any())


@functools.cache
def _char_classes() -> Bytes:
    """Read the class of every code point. The table is ours, not Python's, so that no Python version changes a word."""
    classes = np.full(_MAX_CODE_POINT + 1, SEPARATOR, dtype=np.uint8)
    table = importlib.resources.files("filters").joinpath("unicode_classes.txt").read_text(encoding="ascii")
    for row in table.splitlines():
        if row.startswith("#"):
            continue
        first, last, code = row.split()
        classes[int(first, 16) : int(last, 16) + 1] = _CLASS_OF_CODE[code]
    return _read_only(classes)


@functools.cache
def _keys_by_length(listed: frozenset[str]) -> tuple[Keys, Ints, Flags]:
    """Pack words into integers: those of n bytes are keys[key_starts[n]:key_starts[n + 1]]; has_key[n, b] says if any begins with b."""
    words = sorted((word.encode() for word in listed), key=lambda word: (len(word), word))
    lengths = [len(word) for word in words]
    assert all(0 < length <= _MAX_LISTED_WORD_BYTES for length in lengths), listed
    keys = np.array([int.from_bytes(word, "little") for word in words], dtype=np.uint64)
    key_starts = np.searchsorted(lengths, np.arange(_MAX_LISTED_WORD_BYTES + 2)).astype(np.int64)
    has_key = np.zeros((_MAX_LISTED_WORD_BYTES + 1, 256), dtype=np.bool_)
    has_key[lengths, [word[0] for word in words]] = True
    return _read_only(keys), _read_only(key_starts), _read_only(has_key)


@_jit
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
    return min(code, _MAX_CODE_POINT), width


@_jit
def _is_space(code: int) -> bool:
    """White space as str.isspace sees it."""
    if code < 0x80:
        return 9 <= code <= 13 or 28 <= code <= 32
    return code in (0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000) or 0x2000 <= code <= 0x200A


@_jit
def _find_words(data: Bytes, offsets: Ints, classes: Bytes) -> tuple[Ints, Places, Places, Places, Flags, Flags, Ints]:
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


@_jit
def _grown(array: npt.NDArray[Any], n_used: int, capacity: int) -> npt.NDArray[Any]:
    larger = np.empty(capacity, array.dtype)
    larger[:n_used] = array[:n_used]
    return larger


@_jit
def _find_lines(data: Bytes, offsets: Ints) -> tuple[Ints, Places, Places]:
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


@_jit
def _count_chars(data: Bytes, offsets: Ints) -> Ints:
    counts = np.zeros(len(offsets) - 1, np.int64)
    for doc in range(len(counts)):
        n = 0
        for i in range(offsets[doc], offsets[doc + 1]):
            # Every byte but the second and later ones of a character.
            n += (data[i] & 0xC0) != 0x80
        counts[doc] = n
    return counts


@_jit
def _count_byte(data: Bytes, offsets: Ints, byte: int) -> Ints:
    counts = np.zeros(len(offsets) - 1, np.int64)
    for doc in range(len(counts)):
        n = 0
        for i in range(offsets[doc], offsets[doc + 1]):
            n += data[i] == byte
        counts[doc] = n
    return counts


@_jit
def _is_ellipsis(data: Bytes, i: int, end: int) -> bool:
    if i + 3 > end:
        return False
    if data[i] == 0x2E:
        return bool(data[i + 1] == 0x2E and data[i + 2] == 0x2E)
    return bool(data[i] == 0xE2 and data[i + 1] == 0x80 and data[i + 2] == 0xA6)


@_jit
def _count_ellipses(data: Bytes, offsets: Ints) -> Ints:
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


@_jit
def _count_lines_starting_with(data: Bytes, doc_starts: Ints, starts: Places, ends: Places, codes: Ints) -> Ints:
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


@_jit
def _count_lines_ending_in_ellipsis(data: Bytes, doc_starts: Ints, starts: Places, ends: Places) -> Ints:
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


@_jit
def _count_distinct_words(
    data: Bytes, doc_starts: Ints, starts: Places, ends: Places, keys: Keys, key_starts: Ints, has_key: Flags
) -> Ints:
    counts = np.zeros(len(doc_starts) - 1, np.int64)
    # The last document that each key was seen in, so that nothing is cleared between documents.
    last_doc = np.full(len(keys), -1, np.int64)
    for doc in range(len(counts)):
        n = 0
        for word in range(doc_starts[doc], doc_starts[doc + 1]):
            start, size = starts[word], ends[word] - starts[word]
            if size > _MAX_LISTED_WORD_BYTES or not has_key[size, data[start]]:
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


@_jit
def _sum_per_document(doc_starts: Ints, values: Places | Flags) -> Ints:
    sums = np.zeros(len(doc_starts) - 1, np.int64)
    for doc in range(len(sums)):
        n = 0
        for k in range(doc_starts[doc], doc_starts[doc + 1]):
            n += values[k]
        sums[doc] = n
    return sums
