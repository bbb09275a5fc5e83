"""filters/unicode_classes.txt is what Python's unicodedata says, where that has the same Unicode version."""

import importlib.resources
import itertools
import unicodedata

import pytest

from tests.filters.word_twin import char_class

UNICODE_VERSION = "14.0.0"

HEADER = """\
# Classes of characters for the word rule in docs/words.md: first and last code point in hex, class.
# L letter, N number, M mark, S letter of a script written without spaces. Code points that are not listed separate words.
# Unicode 14.0, made by tests/filters/test_unicode_classes.py with Python 3.11. A change changes words: raise every family's version.
"""


def make_table() -> str:
    ranges = []
    first = 0
    for code, run in itertools.groupby(char_class(chr(code_point)) for code_point in range(0x110000)):
        last = first + sum(1 for _ in run) - 1
        if code != "-":
            ranges.append(f"{first:04X} {last:04X} {code}\n")
        first = last + 1
    return HEADER + "".join(ranges)


@pytest.mark.slow
@pytest.mark.skipif(
    unicodedata.unidata_version != UNICODE_VERSION,
    reason=f"this Python has Unicode {unicodedata.unidata_version}, the table {UNICODE_VERSION}",
)
def test_the_shipped_classes_are_those_of_unicode_14():
    shipped = importlib.resources.files("filters").joinpath("unicode_classes.txt").read_text(encoding="ascii")
    assert shipped == make_table()
