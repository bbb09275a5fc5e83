"""What characters are: the tables behind the word rule, lower case, and the marks and spaces that line rules ask about.

All of them are shipped as text files and belong to one version of Unicode (14.0), so that no Python version changes a fact about a text.
Each is read on first use and takes a byte, or four, per code point.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from filters.kernels import (
    CLOSING,
    DIGIT,
    ENDING,
    LETTER,
    MARK,
    MAX_CODE_POINT,
    NUMBER,
    SEPARATOR,
    SPACELESS_LETTER,
    TELLING,
    UPPER,
    WHITE,
    Bytes,
    Packed,
)  # fmt: skip

_CLASS_OF_CODE = {"L": LETTER, "N": NUMBER, "M": MARK, "S": SPACELESS_LETTER}
# What may stand between the mark that ends a sentence and the white space behind it.
_CLOSING: Final = "\"')]}\u00bb\u2019\u201d\u203a\u300d\u300f\uff02\uff07\uff09"
# ASCII characters that a line rule stops at: one letter of each phrase of C4, '.' of "www.", ':' of "http://", and what is counted.
_TELLING: Final = "#.:[{aAkKsSvV"


@functools.cache
def classes() -> Bytes:
    """Give the class of every code point, as the word rule in docs/words.md uses them."""
    table = np.full(MAX_CODE_POINT + 1, SEPARATOR, dtype=np.uint8)
    for first, last, code in _rows("unicode_classes.txt"):
        table[int(first, 16) : int(last, 16) + 1] = _CLASS_OF_CODE[code]
    return _read_only(table)


@functools.cache
def kinds() -> Bytes:
    """Give a bit set of every code point: white space (as str.isspace), ends a sentence, closes a quotation, upper case, number.

    Upper case is what has another lower case; TELLING marks ASCII characters that line rules stop at.
    """
    table = np.zeros(MAX_CODE_POINT + 1, dtype=np.uint8)
    for first, last in _rows("unicode_spaces.txt"):
        table[int(first, 16) : int(last, 16) + 1] |= WHITE
    for first, last in _rows("unicode_endings.txt"):
        table[int(first, 16) : int(last, 16) + 1] |= ENDING
    for chars, bit in ((_CLOSING, CLOSING), (_TELLING, TELLING)):
        table[[ord(char) for char in chars]] |= bit
    table[lower_codes() != np.arange(MAX_CODE_POINT + 1)] |= UPPER
    table[classes() == NUMBER] |= DIGIT
    return _read_only(table)


@functools.cache
def lowered() -> Packed:
    """Give the lower case of every code point, as its UTF-8 bytes in a little-endian integer."""
    return _read_only(_utf8(lower_codes()))


def lower_codes() -> npt.NDArray[np.uint32]:
    """Give the lower case of every code point, as a code point."""
    codes = np.arange(MAX_CODE_POINT + 1, dtype=np.uint32)
    for first, last, step, distance in _rows("unicode_lower.txt"):
        chosen = slice(int(first, 16), int(last, 16) + 1, int(step))
        codes[chosen] = codes[chosen].astype(np.int64) + int(distance)
    return codes


def _rows(name: str) -> Iterator[list[str]]:
    table = importlib.resources.files("filters").joinpath(name).read_text(encoding="ascii")
    return (row.split() for row in table.splitlines() if not row.startswith("#"))


def _read_only(table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # One kind of array means one compiled kernel: numba has separate types for writable and read-only memory.
    table.flags.writeable = False
    return table


def _utf8(codes: Packed) -> Packed:
    tails = [(codes >> np.uint32(shift)) & np.uint32(0x3F) | np.uint32(0x80) for shift in (0, 6, 12)]
    two = (codes >> 6) | 0xC0 | tails[0] << 8
    three = (codes >> 12) | 0xE0 | tails[1] << 8 | tails[0] << 16
    four = (codes >> 18) | 0xF0 | tails[2] << 8 | tails[1] << 16 | tails[0] << 24
    packed: Packed = np.select([codes < 0x80, codes < 0x800, codes < 0x10000], [codes, two, three], four)
    return packed
