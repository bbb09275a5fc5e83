"""The kernels behind `TextBatch.lines`: lines, what each is like, and sums and repetitions per document.

One walk answers everything that a family asks about a line or a character, because most of the time goes into reaching the byte at all.
Of 64 bytes of ASCII at once a bit each says where a newline is, a mark, or a pair of letters that a phrase of C4 has; only there
anything is looked at. Other bytes are walked through one character at a time.
The rules are written in docs/filters.md; tests/filters/line_twin.py says the same in plain Python.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from filters.kernels import (
    CLOSING,
    DIGIT,
    ENDING,
    TELLING,
    UPPER,
    WHITE,
    Bytes,
    Flags,
    Ints,
    Keys,
    Places,
    count_ones,
    decode,
    hash_bytes,
    jit,
)  # fmt: skip
from filters.phrase_kernels import CURLY, citation_end, is_ellipsis, is_url, phrase_at

# Bits of a line's flags: blank (white space at most), starts with a bullet, ends in an ellipsis, ends in a mark that ends a sentence;
# then C4's: not ended as C4 wants it, a word of more than 1000 characters, fewer than three words (phrases: filters.phrase_kernels).
BLANK, BULLET, ELLIPSIS, ENDED = 1, 2, 4, 8
UNENDED, LONG_WORD, FEW_WORDS = 16, 32, 64
# The line has a citation mark; OF_LINE are the flags that do not depend on it.
CITED: Final = 2048
OF_LINE: Final = BLANK | BULLET | ELLIPSIS | ENDED | LONG_WORD | FEW_WORDS
# Columns of what is found per line: sentences and flags, then what only finding them needs.
SENTENCES_FOUND, FLAGS_FOUND, _SENTENCE_END, _NEXT_DOT, _MORE = range(5)
_N_FOUND: Final = 5
_SENTENCES, _FLAGS = SENTENCES_FOUND, FLAGS_FOUND
# Columns of what is counted per document while its lines are found.
CHARS, DIGITS, UPPERS, HASHES, ELLIPSES, URLS, WHITES = range(7)
N_COUNTS: Final = 7
LONG_WORD_CHARS: Final = 1000
FEW: Final = 3

_NEWLINE, _DOT, _HASH, _COLON, _OPEN, _CURLY = 10, 46, 35, 58, 91, 123
_BLOCK: Final = 64
_BULLET_SIGN, _HYPHEN, _ELLIPSIS_SIGN = 0x2022, 45, 0x2026
_C4_ENDS: Final = (46, 63, 33, 34, 39)  # . ? ! " '


@jit
def _sentence_end(data: Bytes, i: int, end: int, kinds: Bytes) -> int:
    """Give the place behind closing quotes and brackets at i where white space or the end follows them, else -1."""
    while i < end:
        code, width = decode(data, i, end)
        if kinds[code] & WHITE:
            return i
        if not kinds[code] & CLOSING:
            return -1
        i += width
    return end


@jit
def _look(data: Bytes, i: int, width: int, kind: int, line: int, start: int, end: int, kinds: Bytes, found: Places, counts: Ints) -> None:
    """Look at a mark that may end a sentence, or a telling ASCII character, at i in the document [start, end).

    Nothing that is looked for holds a newline, so the ends of the line need not be known.
    """
    if kind & ENDING:
        sentence_end = _sentence_end(data, i + width, end, kinds)
        if sentence_end >= 0:
            found[line, _SENTENCES] += 1
            found[line, _SENTENCE_END] = sentence_end
    if not kind & TELLING:
        return
    byte = data[i]
    if byte == _DOT:
        if i >= found[line, _NEXT_DOT] and is_ellipsis(data, i, end):
            counts[ELLIPSES] += 1
            found[line, _NEXT_DOT] = i + 3
        counts[URLS] += is_url(data, i, start, end)
    elif byte == _HASH:
        counts[HASHES] += 1
    elif byte == _COLON:
        counts[URLS] += is_url(data, i, start, end)
    elif byte == _CURLY:
        found[line, _FLAGS] |= CURLY
    elif byte == _OPEN:
        found[line, _FLAGS] |= CITED if citation_end(data, i, end) > i else 0
    else:
        found[line, _FLAGS] |= phrase_at(data, i, start, end)


@jit
def _walk(
    data: Bytes, i: int, stop: int, line: int, start: int, end: int, starts: Places, kinds: Bytes, found: Places, counts: Ints
) -> tuple[int, int]:
    """Go character by character to `stop`: the place behind the last one, and its line."""
    while i < stop:
        code, width = decode(data, i, end)
        kind = kinds[code]
        if code == _NEWLINE:
            line += 1
            starts[line] = i + 1
        elif code >= 0x80:
            counts[DIGITS] += kind & DIGIT != 0
            counts[UPPERS] += kind & UPPER != 0
            counts[WHITES] += kind & WHITE != 0
            counts[ELLIPSES] += code == _ELLIPSIS_SIGN
        found[line, _MORE] += width - 1
        if kind & (ENDING | TELLING):
            _look(data, i, width, kind, line, start, end, kinds, found, counts)
        i += width
    return i, line


@jit
def _telling_bits(data: Bytes, i: int, tells: Bytes) -> tuple[bool, np.uint64]:
    """Say whether 64 bytes are all ASCII, and give a bit for each that has to be looked at. i is at least 1."""
    first, high = np.uint64(i), np.uint8(0)
    for k in range(_BLOCK):
        byte, before = data[first + np.uint64(k)], data[first + np.uint64(k) - np.uint64(1)] | np.uint8(0x20)
        small = byte | np.uint8(0x20)
        high |= byte
        tells[k] = (
            (byte == 10) | (byte == 46) | (byte == 33) | (byte == 63) | (byte == 35) | (byte == 58) | (byte == 91) | (byte == 123)
            | ((before == 106) & (small == 97)) | ((before == 112) & (small == 115)) | ((before == 109) & (small == 115))
            | ((before == 105) & (small == 118)) | ((before == 111) & (small == 107))
        )  # fmt: skip
    bits = np.uint64(0)
    for k in range(_BLOCK):
        bits |= np.uint64(tells[k]) << np.uint64(k)
    return bool(high < 0x80), bits


@jit
def _scan(data: Bytes, start: int, end: int, line: int, starts: Places, kinds: Bytes, found: Places, counts: Ints, tells: Bytes) -> None:
    """Find the lines of a document, and look at all that has to be looked at: 64 bytes at a time where they are ASCII."""
    i = start
    starts[line] = start
    while i < end:
        stop = min(i + _BLOCK, end)
        is_ascii, bits = False, np.uint64(0)
        if i + _BLOCK <= end and i > 0:
            is_ascii, bits = _telling_bits(data, i, tells)
        if not is_ascii:
            i, line = _walk(data, i, stop, line, start, end, starts, kinds, found, counts)
            continue
        while bits:
            place = i + count_ones(~bits & (bits - np.uint64(1)))
            if data[place] == _NEWLINE:
                line += 1
                starts[line] = place + 1
            else:
                _look(data, place, 1, kinds[data[place]], line, start, end, kinds, found, counts)
            bits &= bits - np.uint64(1)
        i = stop


@jit
def _count_bytes(data: Bytes, start: int, end: int, counts: Ints) -> int:
    """Count what ASCII bytes tell, and characters; give the newlines."""
    n_more, n_digits, n_uppers, n_whites, n_newlines = 0, 0, 0, 0, 0
    for i in range(start, end):
        byte = data[i]
        n_more += (byte & 0xC0) == 0x80
        n_digits += (byte >= 48) & (byte <= 57)
        n_uppers += (byte >= 65) & (byte <= 90)
        n_newlines += byte == _NEWLINE
        n_whites += ((byte >= 9) & (byte <= 13)) | ((byte >= 28) & (byte <= 32))
    counts[CHARS] += end - start - n_more
    counts[DIGITS] += n_digits
    counts[UPPERS] += n_uppers
    counts[WHITES] += n_whites
    return n_newlines


@jit
def _text_bounds(data: Bytes, start: int, end: int, kinds: Bytes) -> tuple[int, int]:
    """Give the ends of a line without white space around it, as str.strip."""
    while start < end:
        code, width = decode(data, start, end)
        if not kinds[code] & WHITE:
            break
        start += width
    while end > start:
        last = end - 1
        while last > start and (data[last] & 0xC0) == 0x80:
            last -= 1
        code, width = decode(data, last, end)
        if last + width != end or not kinds[code] & WHITE:
            break
        end = last
    return start, end


@jit
def _word_flags(data: Bytes, start: int, end: int, kinds: Bytes) -> int:
    """Say whether there are fewer than three words between white space, and whether one is too long. [start, end) is stripped."""
    n_words, i, flags = int(end > start), start, 0
    while i < end and n_words < FEW:
        code, width = decode(data, i, end)
        i += width
        if kinds[code] & WHITE:
            while i < end and kinds[decode(data, i, end)[0]] & WHITE:
                i += decode(data, i, end)[1]
            n_words += 1
    if n_words < FEW:
        flags |= FEW_WORDS
    if end - start <= LONG_WORD_CHARS:
        return flags
    i, n_chars = start, 0
    while i < end and n_chars <= LONG_WORD_CHARS:
        code, width = decode(data, i, end)
        n_chars = 0 if kinds[code] & WHITE else n_chars + 1
        i += width
    return flags | LONG_WORD if n_chars > LONG_WORD_CHARS else flags


@jit
def _is_unended(data: Bytes, start: int, end: int) -> bool:
    if end <= start or data[end - 1] not in _C4_ENDS:
        return True
    return data[end - 1] == _DOT and end - start >= 3 and data[end - 2] == _DOT and data[end - 3] == _DOT


@jit
def _flag_ends(data: Bytes, line: int, start: int, end: int, text_start: int, text_end: int, kinds: Bytes, found: Places) -> None:
    """Set the flags that the two ends of a line and its words tell; [text_start, text_end) is the line without white space around."""
    if text_end == text_start:
        found[line, _FLAGS] |= BLANK | FEW_WORDS
        return
    found[line, _FLAGS] |= _word_flags(data, text_start, text_end, kinds)
    if decode(data, text_start, text_end)[0] in (_BULLET_SIGN, _HYPHEN):
        found[line, _FLAGS] |= BULLET
    if text_end - text_start >= 3 and is_ellipsis(data, text_end - 3, text_end):
        found[line, _FLAGS] |= ELLIPSIS
    if text_end == end:
        last = end - 1
        while last > start and (data[last] & 0xC0) == 0x80:
            last -= 1
        found[line, _FLAGS] |= ENDED if kinds[decode(data, last, end)[0]] & ENDING else 0


@jit
def find_lines(data: Bytes, offsets: Ints, kinds: Bytes) -> tuple[Ints, Places, Places, Places, Keys, Places, Ints]:
    n_docs = len(offsets) - 1
    doc_starts, counts = np.zeros(n_docs + 1, np.int64), np.zeros((n_docs, N_COUNTS), np.int64)
    for doc in range(n_docs):
        start, end = offsets[doc], offsets[doc + 1]
        n_newlines = _count_bytes(data, start, end, counts[doc])
        doc_starts[doc + 1] = doc_starts[doc] + n_newlines + (end > start and data[end - 1] != _NEWLINE)
    n_all = doc_starts[-1]
    # One more, because a document that ends in a newline begins a line that is none.
    starts, found = np.empty(n_all + 1, np.int32), np.zeros((n_all + 1, _N_FOUND), np.int32)
    ends, n_chars, hashes = np.empty(n_all, np.int32), np.empty(n_all, np.int32), np.empty(n_all, np.uint64)
    tells = np.empty(_BLOCK, np.uint8)
    for doc in range(n_docs):
        first, last, doc_end = doc_starts[doc], doc_starts[doc + 1], offsets[doc + 1]
        _scan(data, offsets[doc], doc_end, first, starts, kinds, found, counts[doc], tells)
        for line in range(first, last):
            start = starts[line]
            end = starts[line + 1] - 1 if line + 1 < last or data[doc_end - 1] == _NEWLINE else doc_end
            ends[line], n_chars[line], hashes[line] = end, end - start - found[line, _MORE], hash_bytes(data, start, end)
            text_start, text_end = _text_bounds(data, start, end, kinds)
            _flag_ends(data, line, start, end, text_start, text_end, kinds, found)
            found[line, _FLAGS] |= UNENDED if _is_unended(data, text_start, text_end) else 0
            # What follows the last end of a sentence, if it is not blank, is one more.
            found[line, _SENTENCES] += text_end > max(text_start, found[line, _SENTENCE_END])
    return doc_starts, starts[:n_all], ends, n_chars, hashes, found[:n_all], counts


@jit
def cut_citations(data: Bytes, starts: Places, ends: Places, cited: Ints, kinds: Bytes) -> tuple[Bytes, Ints, Flags]:
    """Write the cited lines one behind the other, without white space around and then without citation marks.

    Gives the bytes, their offsets, and whether white space is left at the end of each.
    """
    n_bytes = 0
    for line in cited:
        n_bytes += ends[line] - starts[line]
    out, offsets, hangs = np.empty(n_bytes, np.uint8), np.zeros(len(cited) + 1, np.int64), np.zeros(len(cited), np.bool_)
    n = 0
    for k in range(len(cited)):
        i, end = _text_bounds(data, starts[cited[k]], ends[cited[k]], kinds)
        while i < end:
            after = citation_end(data, i, end) if data[i] == _OPEN else i
            if after == i:
                out[n] = data[i]
                n, after = n + 1, i + 1
            i = after
        offsets[k + 1] = n
        hangs[k] = _text_bounds(out, offsets[k], n, kinds)[1] < n
    return out[:n], offsets, hangs
