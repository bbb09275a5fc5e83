"""Words, lines and counts over Arrow string buffers, as columns.

Families ask a `TextBatch` for words and lines, which are found once per batch and shared by all of them, and call the counters below.
The word rule is written in docs/words.md, what lines are asked in docs/filters.md; plain Python twins say the same, and tests hold them
together.

With the kernels behind it, the only place that walks bytes: all rules of a family in less time than a regular expression takes
to find the words (bench/rules.py), for code that is longer. Offsets are bytes, relative to `TextBatch.data`. Arrow checks UTF-8
where text enters.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters import chars, compress_kernels, line_kernels, line_sum_kernels, ngram_kernels, word_kernels
from filters.kernels import Bytes, Flags, Ints, Keys, Places

_MAX_BATCH_BYTES = 2**31 - 1
_NEWLINE = 0x0A


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
class WordSums:
    """Per document: its words, their characters, those with a letter, and whether words mean nothing in it.

    That is so where more than half of the letters belong to a script written without spaces.
    """

    n_words: Ints
    n_chars: Ints
    n_with_letter: Ints
    is_wordless: Flags


@dataclass(frozen=True, slots=True)
class Lines:
    """All lines of a batch, in order, without their newlines. Those of document i are doc_starts[i]:doc_starts[i + 1].

    `found` has a row per line, its sentences and flags among them, `counts` one per document; filters.line_kernels names their columns.
    Sentences are counted, and phrases looked for, without citation marks such as [1].
    """

    doc_starts: Ints
    starts: Places
    ends: Places
    n_chars: Places
    hashes: Keys
    found: Places
    counts: Ints


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
        return Words(*word_kernels.find_words(self.data, self.offsets, chars.classes()))

    @functools.cached_property
    def word_sums(self) -> WordSums:
        """Sums over the words of each document; computed on first use, then kept."""
        words = self.words
        n_chars, n_with_letter, n_spaceless = word_kernels.sum_words(words.doc_starts, words.n_chars, words.has_letter, words.is_spaceless)
        return WordSums(np.diff(words.doc_starts), n_chars, n_with_letter, 2 * n_spaceless > words.n_letters)

    @functools.cached_property
    def lines(self) -> Lines:
        r"""The lines, split at \n only; found on first use, then kept.

        Empty lines count; a newline at the very end opens no further line, and an empty text has no line.
        """
        found = Lines(*line_kernels.find_lines(self.data, self.offsets, chars.kinds()))
        _pass_over_citations(self.data, found)
        return found

    @property
    def n_newlines(self) -> Ints:
        """Newlines per document: one for each line, but for a last one without."""
        n_lines: Ints = np.diff(self.lines.doc_starts)
        last = self.data[np.maximum(self.offsets[1:] - 1, 0)] if len(self.data) else np.zeros(len(self), np.uint8)
        n_newlines: Ints = n_lines - ((n_lines > 0) & (last != _NEWLINE))
        return n_newlines

    @functools.cached_property
    def line_sums(self) -> Ints:
        """A row per document of sums over its lines and of what is repeated, by the columns that filters.line_sum_kernels names."""
        lines = self.lines
        sums: Ints = line_sum_kernels.sum_lines(lines.doc_starts, lines.starts, lines.ends, lines.n_chars, lines.hashes, lines.found)
        return sums


def count_listed_words(batch: TextBatch, listed: frozenset[str]) -> tuple[Ints, Ints]:
    """Count per document how many different words of a list occur, and how often in all, compared byte by byte (so with case).

    A word of the list has at most 8 bytes, so that it is compared as one integer.
    """
    words = batch.words
    n_distinct, n_all = word_kernels.count_listed_words(batch.data, words.doc_starts, words.starts, words.ends, *_keys_by_length(listed))
    return n_distinct, n_all


def repeated_runs(batch: TextBatch) -> Ints:
    """Characters per document in runs of 2 to 10 words, a column each; -1 where there is no run of that many words.

    For 2 to 4 words those of the most frequent run with the spaces between, times its occurrences; from 5 on those of repeated runs,
    none counted twice (docs/filters.md). Words are compared with case, by 64-bit hashes.
    """
    words = batch.words
    found: Ints = ngram_kernels.repeated_runs(batch.data, words.doc_starts, words.starts, words.ends, words.n_chars)
    return found


def compressed_sizes(batch: TextBatch) -> Ints:
    """Bytes per document that it would take in the LZ4 block format, by a greedy search; 0 for an empty one."""
    sizes: Ints = compress_kernels.compressed_sizes(batch.data, batch.offsets)
    return sizes


def counts(values: Ints, is_valid: Flags | None = None) -> pa.Array:
    """Make a signal of whole numbers: int32, null where not valid."""
    return pa.array(values.astype(np.int32), mask=None if is_valid is None else ~is_valid)


def ratios(numerators: Ints, denominators: Ints, is_valid: Flags | None = None) -> pa.Array:
    """Make a signal of quotients, at most 1: float32, null where not valid or where the denominator is 0."""
    return quotients(np.minimum(numerators, denominators), denominators, is_valid)


def quotients(numerators: Ints, denominators: Ints, is_valid: Flags | None = None) -> pa.Array:
    """Divide integers, once, in float64 and round to float32: the same bits as in plain Python, whatever the batch."""
    has_value = denominators > 0 if is_valid is None else is_valid & (denominators > 0)
    divided: npt.NDArray[np.float64] = np.zeros(len(numerators))
    np.divide(numerators, denominators, out=divided, where=has_value)
    return pa.array(divided.astype(np.float32), mask=~has_value)


def _pass_over_citations(data: Bytes, lines: Lines) -> None:
    """Count the sentences and look for the phrases of lines with citation marks again, without these."""
    flags = lines.found[:, line_kernels.FLAGS_FOUND]
    cited: Ints = np.flatnonzero(flags & line_kernels.CITED)
    if not len(cited):
        return
    kinds = chars.kinds()
    texts, offsets, hangs = line_kernels.cut_citations(data, lines.starts, lines.ends, cited, kinds)
    again = Lines(*line_kernels.find_lines(_read_only(texts), _read_only(offsets), kinds))
    # What was nothing but a mark is no line any more.
    is_line = np.diff(again.doc_starts) > 0
    flags[cited] &= line_kernels.OF_LINE
    flags[cited[~is_line | hangs]] |= line_kernels.UNENDED
    flags[cited[is_line]] |= again.found[:, line_kernels.FLAGS_FOUND] & ~(line_kernels.OF_LINE | line_kernels.CITED)
    lines.found[cited, line_kernels.SENTENCES_FOUND] = 0
    lines.found[cited[is_line], line_kernels.SENTENCES_FOUND] = again.found[:, line_kernels.SENTENCES_FOUND]


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
def _keys_by_length(listed: frozenset[str]) -> tuple[Keys, Ints, Flags]:
    """Pack words into integers: those of n bytes are keys[key_starts[n]:key_starts[n + 1]]; has_key[n, b] says if any begins with b."""
    words = sorted((word.encode() for word in listed), key=lambda word: (len(word), word))
    lengths = [len(word) for word in words]
    assert all(0 < length <= word_kernels.MAX_LISTED_WORD_BYTES for length in lengths), listed
    keys = np.array([int.from_bytes(word, "little") for word in words], dtype=np.uint64)
    key_starts = np.searchsorted(lengths, np.arange(word_kernels.MAX_LISTED_WORD_BYTES + 2)).astype(np.int64)
    has_key = np.zeros((word_kernels.MAX_LISTED_WORD_BYTES + 1, 256), dtype=np.bool_)
    has_key[lengths, [word[0] for word in words]] = True
    return _read_only(keys), _read_only(key_starts), _read_only(has_key)
