"""The kernels agree with plain Python on any text, in any form of Arrow array, and stay inside their document on any bytes."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import chars, word_kernels
from filters.columns import TextBatch, count_listed_words
from filters.line_kernels import ELLIPSES
from filters.line_sum_kernels import BULLETS, ELLIPSIS_LINES
from tests.filters import word_twin
from tests.filters.texts import batch_of, columns, plain


def spans(batch: TextBatch, found) -> list[list[str]]:
    cut = [bytes(batch.data[start:end]).decode() for start, end in zip(found.starts, found.ends, strict=True)]
    return [cut[first:last] for first, last in zip(found.doc_starts[:-1], found.doc_starts[1:], strict=True)]


@given(columns())
def test_words_are_those_of_the_twin(column):
    batch = TextBatch.from_arrow(column)
    assert spans(batch, batch.words) == [word_twin.words(text) for text in plain(column)]


@given(columns())
def test_facts_about_words_are_those_of_the_twin(column):
    words = TextBatch.from_arrow(column).words
    classes = [[word_twin.char_class(char) for char in word] for text in plain(column) for word in word_twin.words(text)]
    assert words.n_chars.tolist() == [len(word) for word in classes]
    assert words.has_letter.tolist() == [not {"L", "S"}.isdisjoint(word) for word in classes]
    assert words.is_spaceless.tolist() == [word[0] == "S" for word in classes]
    assert words.n_letters.tolist() == [sum(word_twin.char_class(char) in "LS" for char in text) for text in plain(column)]


@given(columns())
def test_lines_are_those_of_the_twin(column):
    batch = TextBatch.from_arrow(column)
    assert spans(batch, batch.lines) == [word_twin.lines(text) for text in plain(column)]


@given(columns())
def test_counts_of_words_are_those_of_plain_python(column):
    batch, found = TextBatch.from_arrow(column), [word_twin.words(text) for text in plain(column)]
    listed = frozenset({"the", "and", "have", "with", "\u6587", "xxxxxxxx"})
    n_distinct, n_all = count_listed_words(batch, listed)
    assert n_distinct.tolist() == [len(listed.intersection(words)) for words in found]
    assert n_all.tolist() == [sum(word in listed for word in words) for words in found]
    assert batch.word_sums.n_words.tolist() == [len(words) for words in found]
    assert batch.word_sums.n_chars.tolist() == [sum(map(len, words)) for words in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's a well-known snake_case", ["It", "s", "a", "well", "known", "snake", "case"]),
        ("3.5 \u00b2\u2167 \u0661\u0662", ["3", "5", "\u00b2\u2167", "\u0661\u0662"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
        ("\u0301a", ["\u0301a"]),
        ("ab\u6587\u5b57cd", ["ab", "\u6587", "\u5b57", "cd"]),
        ("\u0e01\u0e31\u0301a\u0301", ["\u0e01\u0e31\u0301", "a\u0301"]),
        ("\u0301\u6587", ["\u0301", "\u6587"]),
        ("\u30ab\u3099\uff76", ["\u30ab\u3099", "\uff76"]),
        ("\uc548\ub155 \u4f60\u597d", ["\uc548\ub155", "\u4f60", "\u597d"]),
        ("\U0001f600\x00-", []),
    ],
)
def test_words_of_examples(text, expected):
    batch = batch_of(text)
    assert spans(batch, batch.words) == [expected]
    assert word_twin.words(text) == expected


def test_more_words_than_guessed_are_all_kept():
    texts = ["word " * 3, "\u6587" * 1000, "a b " * 1000, "\u0e01\u0e31" * 3000]
    batch = batch_of(*texts)
    assert spans(batch, batch.words) == [word_twin.words(text) for text in texts]


def test_white_space_around_marks_of_lines_is_that_of_str_strip():
    chars = [chr(point) for point in range(0x10000) if not 0xD800 <= point < 0xE000 and point != 10]
    starting = batch_of(*[f"{char}-" for char in chars]).line_sums[:, BULLETS]
    ending = batch_of(*[f"...{char}" for char in chars]).line_sums[:, ELLIPSIS_LINES]
    assert starting.tolist() == [int(f"{char}-".lstrip().startswith(("-", "\u2022"))) for char in chars]
    assert ending.tolist() == [int(f"...{char}".rstrip().endswith(("...", "\u2026"))) for char in chars]


def test_an_ellipsis_does_not_reach_into_the_next_document():
    batch = batch_of("..", ".", "...", ".")
    assert batch.lines.counts[:, ELLIPSES].tolist() == [0, 0, 1, 0]
    assert batch.line_sums[:, ELLIPSIS_LINES].tolist() == [0, 0, 1, 0]


@pytest.mark.slow
@given(columns())
def test_newlines_are_counted(column):
    assert TextBatch.from_arrow(column).n_newlines.tolist() == [text.count("\n") for text in plain(column)]


def test_the_views_share_memory_with_arrow():
    array = pa.array(["skipped", "kept", "too"])[1:]
    batch = TextBatch.from_arrow(array)
    assert batch.data.ctypes.data == array.buffers()[2].address + len("skipped")
    assert bytes(batch.data) == b"kepttoo"
    assert batch.offsets.tolist() == [0, 4, 7]
    assert not batch.data.flags.writeable


def test_words_and_lines_are_found_once():
    batch = batch_of("one two\nthree")
    assert batch.words is batch.words
    assert batch.lines is batch.lines


def test_bytes_under_a_null_are_not_text():
    validity, offsets, data = pa.py_buffer(b"\x05"), pa.py_buffer(np.array([0, 1, 3, 4], np.int32)), pa.py_buffer(b"axyb")
    batch = TextBatch.from_arrow(pa.StringArray.from_buffers(3, offsets, data, validity))
    assert spans(batch, batch.words) == [["a"], [], ["b"]]


@pytest.mark.parametrize("column", [pa.array([], pa.string()), pa.chunked_array([], pa.large_string()), pa.array(["a"])[1:]])
def test_no_documents(column):
    batch = TextBatch.from_arrow(column)
    assert len(batch) == 0
    assert batch.words.doc_starts.tolist() == batch.lines.doc_starts.tolist() == [0]


@pytest.mark.parametrize("column", [pa.array([b"bytes"]), pa.array([1]), pa.array(["a"]).dictionary_encode()])
def test_other_types_are_refused(column):
    with pytest.raises(TypeError, match="allowed: string, large_string"):
        TextBatch.from_arrow(column)


def test_a_batch_above_2_gib_is_refused():
    # The zeros are never touched, so they take no memory.
    offsets, data = np.array([0, 2**31], np.int64), np.zeros(2**31, np.uint8)
    column = pa.LargeStringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(data))
    with pytest.raises(ValueError, match="2147483648 bytes of text; at most 2147483647"):
        TextBatch.from_arrow(column)


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=4), st.binary(max_size=6))
def test_bytes_that_are_no_utf8_stay_inside_their_document(documents, bytes_behind):
    alone, followed = _batch_of_bytes(documents), _batch_of_bytes([*documents, bytes_behind])
    for find in (lambda batch: batch.words, lambda batch: batch.lines):
        found, with_more = find(alone), find(followed)
        n = len(found.starts)
        assert found.ends.tolist() == with_more.ends.tolist()[:n]
        assert found.starts.tolist() == with_more.starts.tolist()[:n]
        assert np.all(found.ends <= np.repeat(alone.offsets[1:], np.diff(found.doc_starts)))


@given(st.lists(st.one_of(st.binary(max_size=12), st.sampled_from([b"a", b"a b", b"\xe6\x96\x87" * 20])), max_size=20))
def test_words_fit_the_memory_set_aside_for_them(documents):
    batch = _batch_of_bytes(documents)
    # The same function uncompiled: NumPy checks what compiled code does not.
    starts = word_kernels.find_words.py_func(batch.data, batch.offsets, chars.classes())[1]
    assert starts.tolist() == batch.words.starts.tolist()


def _batch_of_bytes(documents: list[bytes]) -> TextBatch:
    offsets = np.cumsum([0, *map(len, documents)]).astype(np.int32)
    data = pa.py_buffer(b"".join(documents) or b"\0")
    return TextBatch.from_arrow(pa.StringArray.from_buffers(len(documents), pa.py_buffer(offsets), data))
