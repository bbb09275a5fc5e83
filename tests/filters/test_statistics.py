"""Family `statistics`: lengths as plain Python counts them."""

from hypothesis import given

from filters.columns import TextBatch
from filters.statistics import STATISTICS
from tests.filters import word_twin
from tests.filters.texts import batch_of, columns, plain


@given(columns())
def test_lengths_are_those_of_the_twin(column):
    signals = STATISTICS.compute(TextBatch.from_arrow(column))
    assert signals["n_chars"].to_pylist() == [len(text) for text in plain(column)]
    assert signals["n_words"].to_pylist() == [len(word_twin.words(text)) for text in plain(column)]
    assert signals["n_lines"].to_pylist() == [len(word_twin.lines(text)) for text in plain(column)]


def test_empty_text_has_no_length():
    found = {name: values.to_pylist()[0] for name, values in STATISTICS.compute(batch_of("")).items()}
    assert {name: value for name, value in found.items() if value is not None} == {
        "n_chars": 0,
        "n_words": 0,
        "n_lines": 0,
        "n_sentences": 0,
        "n_urls": 0,
    }


def test_text_without_spaces_has_words():
    assert STATISTICS.compute(batch_of("\u6587\u5b57\u3002"))["n_words"].to_pylist() == [2]
