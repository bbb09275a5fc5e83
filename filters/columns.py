"""Words, lines and counts over Arrow string buffers, as columns.

Families ask a `TextBatch` for words and lines, which are found once per batch and shared by all of them, and call the counters below.
The word rule is written in docs/words.md, where a plain Python twin says the same; tests hold the two together.

With filters.kernels behind it, the only place that walks bytes: all rules of a family in less time than a regular expression takes
to find the words (bench/rules.py), for code that is longer. Offsets are bytes, relative to `TextBatch.data`. Arrow checks UTF-8
where text enters.
"""

from __future__ import annotations

import functools
import importlib.resources
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters import kernels
from filters.kernels import (
    LETTER,
    MARK,
    MAX_CODE_POINT,
    MAX_LISTED_WORD_BYTES,
    NUMBER,
    SEPARATOR,
    SPACELESS_LETTER,
    Bytes,
    Flags,
    Ints,
    Keys,
    Places,
)

_CLASS_OF_CODE = {"L": LETTER, "N": NUMBER, "M": MARK, "S": SPACELESS_LETTER}
_MAX_BATCH_BYTES = 2**31 - 1


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
        return Words(*kernels.find_words(self.data, self.offsets, _char_classes()))

    @functools.cached_property
    def lines(self) -> Lines:
        r"""The lines, split at \n only; found on first use, then kept.

        Empty lines count; a newline at the very end opens no further line, and an empty text has no line.
        """
        return Lines(*kernels.find_lines(self.data, self.offsets))


def count_chars(batch: TextBatch) -> Ints:
    """Count code points per document."""
    return kernels.count_chars(batch.data, batch.offsets)


def count_ascii(batch: TextBatch, char: str) -> Ints:
    """Count one ASCII character per document."""
    assert len(char) == 1, char
    assert char.isascii(), char
    return kernels.count_byte(batch.data, batch.offsets, ord(char))


def count_ellipses(batch: TextBatch) -> Ints:
    """Count "..." and U+2026 per document; six dots are two ellipses, four or five are one."""
    return kernels.count_ellipses(batch.data, batch.offsets)


def count_lines_starting_with(batch: TextBatch, chars: str) -> Ints:
    """Count the lines per document whose first character after white space (as str.lstrip) is one of `chars`."""
    codes = np.array([ord(char) for char in chars], dtype=np.int64)
    return kernels.count_lines_starting_with(batch.data, batch.lines.doc_starts, batch.lines.starts, batch.lines.ends, codes)


def count_lines_ending_in_ellipsis(batch: TextBatch) -> Ints:
    """Count the lines per document whose last characters before white space (as str.rstrip) are "..." or U+2026."""
    return kernels.count_lines_ending_in_ellipsis(batch.data, batch.lines.doc_starts, batch.lines.starts, batch.lines.ends)


def count_distinct_words(batch: TextBatch, listed: frozenset[str]) -> Ints:
    """Count per document how many different words of a list occur in it, compared byte by byte (so with case).

    A word of the list has at most 8 bytes, so that it is compared as one integer.
    """
    words = batch.words
    return kernels.count_distinct_words(batch.data, words.doc_starts, words.starts, words.ends, *_keys_by_length(listed))


def sum_per_document(doc_starts: Ints, values: Places | Flags) -> Ints:
    """Add up a column of words or lines per document."""
    return kernels.sum_per_document(doc_starts, values)


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
    classes = np.full(MAX_CODE_POINT + 1, SEPARATOR, dtype=np.uint8)
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
    assert all(0 < length <= MAX_LISTED_WORD_BYTES for length in lengths), listed
    keys = np.array([int.from_bytes(word, "little") for word in words], dtype=np.uint64)
    key_starts = np.searchsorted(lengths, np.arange(MAX_LISTED_WORD_BYTES + 2)).astype(np.int64)
    has_key = np.zeros((MAX_LISTED_WORD_BYTES + 1, 256), dtype=np.bool_)
    has_key[lengths, [word[0] for word in words]] = True
    return _read_only(keys), _read_only(key_starts), _read_only(has_key)
