"""Texts for tests of signals: Hypothesis strategies, Arrow arrays in every form, and a fixed set for golden digests."""

import functools
import hashlib
import unicodedata

import pyarrow as pa
from hypothesis import strategies as st

from filters import chars
from filters.columns import TextBatch
from filters.spec import Family
from tests.filters.word_twin import char_class

# Characters that the word rule, the line rule or a counter treats in a way of its own, next to ordinary ones.
_TELLING = (
    "aZ\u00e9\u00df7\u0661\u00b2\u2167_-'#.\u2026\u2022 \t\n\r\x00\x0b\x1c\x85\xa0\u2028\u3000\ufeff\u200d"
    "\u0301\u0308\ufe0f\u20e3\u093f\u6587\u3007\u3005\u304b\u30ab\uff76\uff9e\u0e01\u0e31\u0e33\u0e81\u1780\u17d2\u1000\u102b"
    "\u0628\u05d0\u0416\uac00\u0915\U0001f600\U00020000\U0001b000\U0010ffff"
)


@functools.cache
def _chars_newer_than_the_table() -> str:
    """Characters that this Python's Unicode knows and the shipped table does not; none with Python 3.11."""
    if unicodedata.unidata_version == "14.0.0":
        return ""
    codes = "-LNMS"
    return "".join(chr(point) for point, code in enumerate(chars.classes()) if codes[code] != char_class(chr(point)))


def texts() -> st.SearchStrategy[str]:
    any_char = st.characters(exclude_categories=["Cs"], exclude_characters=_chars_newer_than_the_table())
    pieces = st.sampled_from(["...", "the", "and", "- ", "\u2022", "The", "with", "have", "having", "\n\n", "\u2026\n", "x" * 9])
    return st.one_of(
        st.text(any_char),
        st.text(st.sampled_from(_TELLING), max_size=60),
        st.lists(st.one_of(pieces, st.sampled_from(_TELLING)), max_size=60).map("".join),
    )


@st.composite
def columns(draw: st.DrawFn) -> pa.Array | pa.ChunkedArray:
    """A column of texts: either type, with nulls, sliced, in one or several chunks."""
    values = draw(st.lists(st.one_of(st.none(), texts()), max_size=8))
    array = pa.array(values, draw(st.sampled_from([pa.string(), pa.large_string()])))
    first = draw(st.integers(0, len(values)))
    array = array.slice(first, draw(st.integers(0, len(values) - first)))
    cut = draw(st.one_of(st.none(), st.integers(0, len(array))))
    return array if cut is None else pa.chunked_array([array.slice(0, cut), array.slice(cut)], type=array.type)


def plain(column: pa.Array | pa.ChunkedArray) -> list[str]:
    return [text or "" for text in column.to_pylist()]


def batch_of(*texts: str) -> TextBatch:
    return TextBatch.from_arrow(pa.array(texts, pa.string()))


GOLDEN_TEXTS = (
    "",
    " \n\n",
    "One line without an end",
    "The quick brown fox jumps over the lazy dog and has to be with that cat.\n" * 8,
    "- one\n- two\n\u2022 three\n  - four\nfive\n",
    "# Title\n\n## Part #1\n\n#hash #tag ######\n",
    "Read more...\nand so on\u2026\nno\n.... ......\n",
    "It's 3.5 km_h, don't-stop 1,000 times; \u00bd and \u00b2.",
    "Caf\u00e9 cafe\u0301 na\u00efve \u0130stanbul stra\u00dfe",
    "\u0421\u044a\u0435\u0448\u044c \u0435\u0449\u0451 \u0431\u0443\u043b\u043e\u043a.",
    "\u0645\u0631\u062d\u0628\u064b\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u0661\u0662\u0663",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e",
    "\u65b0\u51a0\u75c5\u6bd2\u5e742024\u5e74COVID-19\u75ab\u82d7\u3002\n\u7b2c\u4e8c\u884c\u2026",
    "\u3053\u308c\u306f\u30c6\u30b9\u30c8\u3067\u3059\uff76\uff9e\u3002",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01 ok",
    "\ud55c\uad6d\uc5b4 \ubb38\uc7a5\uc785\ub2c8\ub2e4",
    "\U0001f600\u2764\ufe0f 1\ufe0f\u20e3 \U00020000\u0301a",
    "nul\x00and\x85next\u2028line",
    "x" * 5000,
)
# What rules about lines, phrases and runs of words stop at.
LINE_TEXTS = (
    'Our JavaScript code, see https://x.org and www.y.org {\nWe use cookies here.\nLorem ipsum dolor [12] sit.\nno end\nIs it? "Yes!"\n'
    * 3,
    "one two three four five six seven eight nine ten eleven one two three four five six seven eight nine ten twelve\n\nlast\n\nlast",
)


def signals_digest(family: Family) -> str:
    """SHA-256 over names, types and every bit of the signals of the fixed texts."""
    digest = hashlib.sha256()
    for name, values in family.compute(batch_of(*GOLDEN_TEXTS, *LINE_TEXTS)).items():
        plain_values = [value.hex() if isinstance(value, float) else value for value in values.to_pylist()]
        digest.update(f"{name} {values.type} {plain_values}\n".encode())
    return digest.hexdigest()
