"""Paragraphs are named by their words, their places are exact, and what is left without the repeated ones is all the rest."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import CORPUS_FAMILIES, family
from filters.columns import TextBatch
from filters.paragraphs import Paragraphs, paragraphs, repeated_spans
from tests.filters.minhash_twin import fmix64, lower, word_hash
from tests.filters.texts import batch_of, columns, plain
from tests.filters.word_twin import lines, words

# Lines of two words or more are paragraphs in these tests; spelling, punctuation and space differ where words do not, and the reverse.
_LINES = st.sampled_from([
    "One two three", "one, TWO three!", " one two  three ", "one two", "one twothree", "one", "", " \t", "...",
    "caf\u00e9 na\u00efve", "CAF\u00c9 na\u00efve", "\u6587\u5b57 \u7b2c", "\U0001f600 a b", "\u00a0",
])  # fmt: skip
_DOCUMENTS = st.lists(st.lists(_LINES, max_size=8).map("\n".join), max_size=6)


def _twin(text: str, min_words: int) -> list[tuple[tuple[str, ...], int, int, int]]:
    """Give the words of each paragraph, where the written line before it ends, where it ends, where the next written line starts."""
    written, at = [], 0
    for line in lines(text):
        end = at + len(line.encode())
        if line.strip():
            written.append((tuple(lower(word) for word in words(line)), at, end))
        at = end + 1
    befores = [0, *(end for _, _, end in written)]
    nexts = [*(start for _, start, _ in written[1:]), len(text.encode())]
    found = zip(written, befores, nexts, strict=False)
    return [(named_by, before, end, following) for (named_by, _, end), before, following in found if len(named_by) >= min_words]


def _by_document(found: Paragraphs) -> list[list[tuple[int, int, int, int]]]:
    rows = list(zip(*(values.tolist() for values in (found.keys, found.starts, found.ends, found.nexts)), strict=True))
    return [rows[first:last] for first, last in itertools.pairwise(found.doc_starts)]


def _key(named_by: tuple[str, ...]) -> int:
    key = 0
    for word in named_by:
        key = fmix64(key ^ word_hash(word))
    return key


def _cut(text: str, spans: list[tuple[int, int]]) -> str:
    data = text.encode()
    for start, end in reversed(spans):
        data = data[:start] + data[end:]
    return data.decode()


def _most_blank_lines(text: str) -> int:
    return max((len(list(run)) for is_blank, run in itertools.groupby(lines(text), lambda line: not line.strip()) if is_blank), default=0)


@given(columns(), st.integers(1, 3))
def test_paragraphs_of_any_text_equal_their_twin(column, min_words):
    found = paragraphs(TextBatch.from_arrow(column), min_words=min_words)
    expected = [[(_key(first), *places) for first, *places in _twin(text, min_words)] for text in plain(column)]
    assert _by_document(found) == expected


@given(_DOCUMENTS)
def test_two_have_one_name_exactly_where_they_have_the_same_words(documents):
    found = _by_document(paragraphs(batch_of(*documents), min_words=2))
    named = [(row[0], twin[0]) for text, rows in zip(documents, found, strict=True) for row, twin in zip(rows, _twin(text, 2), strict=True)]
    for (key, named_by), (other_key, other) in itertools.combinations(named, 2):
        assert (key == other_key) == (named_by == other)


@given(_DOCUMENTS, st.data())
def test_without_the_spans_all_other_lines_are_left(documents, data):
    found = paragraphs(batch_of(*documents), min_words=2)
    known = sorted({named_by for text in documents for named_by, *_ in _twin(text, 2)})
    repeated = data.draw(st.sets(st.sampled_from(known))) if known else set()
    n_repeated, spans = repeated_spans(found, np.sort(np.array([_key(named_by) for named_by in repeated], np.uint64)))
    places = list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))
    for number, text in enumerate(documents):
        own = places[spans.doc_starts[number] : spans.doc_starts[number + 1]]
        assert all(start < end for start, end in own)
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(own))
        left = _cut(text, own)
        gone = [tuple(lower(word) for word in words(line)) in repeated for line in lines(text)]
        assert [line for line in lines(left) if line.strip()] == [
            line for line, is_gone in zip(lines(text), gone, strict=True) if line.strip() and not is_gone
        ]
        assert n_repeated[number] == sum(gone)
        assert _most_blank_lines(left) <= _most_blank_lines(text)
        if not own:
            assert left == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("head\n\nB b b\n\ntail", "head\n\ntail"),
        ("B b b\n\nhead", "head"),
        ("head\n\nB b b", "head"),
        ("head\nB b b\nb, b, b\ntail", "head\ntail"),
        ("head\n\nB b b\n\nother\n\nb b b\n\ntail", "head\n\nother\n\ntail"),
        (" \nB b b\n\nB b b\n", ""),
        ("\u00e9\nB b b\n\u00e9", "\u00e9\n\u00e9"),
    ],
)
def test_nothing_odd_is_left(text, left):
    found = paragraphs(batch_of("b b b", text), min_words=3)
    _, spans = repeated_spans(found, found.keys[:1])
    own = slice(spans.doc_starts[1], spans.doc_starts[2])
    assert _cut(text, list(zip(spans.starts[own].tolist(), spans.ends[own].tolist(), strict=True))) == left


def test_a_run_of_paragraphs_ends_with_its_document():
    found = paragraphs(batch_of("ab\nb b b", "abcdefgh\nb b b"), min_words=3)  # one ends at byte 8, and the next begins there
    _, spans = repeated_spans(found, found.keys[:1])
    assert (spans.doc_starts.tolist(), spans.starts.tolist(), spans.ends.tolist()) == ([0, 1, 2], [2, 8], [8, 14])


def test_of_no_names_nothing_is_repeated():
    found = paragraphs(batch_of("one two three", ""), min_words=1)
    n_repeated, spans = repeated_spans(found, np.zeros(0, np.uint64))
    assert (n_repeated.tolist(), spans.doc_starts.tolist()) == ([0, 0], [0, 0, 0])
    none = paragraphs(TextBatch.from_arrow(pa.array([], pa.string())), min_words=1)
    assert (none.doc_starts.tolist(), repeated_spans(none, found.keys)[0].tolist()) == ([0], [])


# When a name no longer fits: raise the version of the family and replace the row.
@pytest.mark.parametrize(("version", "key"), [(1, 2964814446424707081)])
def test_a_name_changes_only_with_the_version(version, key):
    found = paragraphs(batch_of("This line has certainly more than eight words in it."), min_words=8)
    assert (family("paragraphs").version, found.keys.tolist()) == (version, [key])


@pytest.mark.parametrize("name", CORPUS_FAMILIES)
def test_a_family_of_the_corpus_is_declared_like_the_others(name):
    found = family(name)
    assert (found.name, found.compute) == (name, None)
    assert {rule.signal for rule in found.rules} <= {signal.name for signal in found.signals}
    assert all(rule.name.startswith("min_" if rule.keep == ">=" else "max_") and rule.source for rule in found.rules)
