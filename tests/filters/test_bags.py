"""A bag is what plain Python makes of the words: lower case, each once, in order of first use."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import bags
from filters.columns import TextBatch
from tests.filters.minhash_twin import lower
from tests.filters.texts import texts
from tests.filters.word_twin import words


def _bag(text: str) -> list[str]:
    return list(dict.fromkeys(lower(word) for word in words(text)))


@given(st.lists(texts(), max_size=6))
def test_bags_are_those_of_plain_python(given_texts):
    found = bags.bags(TextBatch.from_arrow(pa.array(given_texts, pa.string())))
    found.validate(full=True)
    assert found.to_pylist() == [" ".join(_bag(text)) for text in given_texts]


@given(st.lists(texts(), max_size=6), st.integers(1, 7))
def test_pieces_hold_the_bag_in_order(given_texts, n_words):
    found, starts = bags.pieces(TextBatch.from_arrow(pa.array(given_texts, pa.string())), n_words)
    found.validate(full=True)
    assert len(starts) == len(given_texts) + 1
    for number, text in enumerate(given_texts):
        own = found[starts[number] : starts[number + 1]].to_pylist()
        assert [word for piece in own for word in piece.split(" ") if word] == _bag(text)
        assert len(own) == max(1, (len(_bag(text)) + n_words // 2) // n_words)
        assert all(len(piece.split(" ")) == n_words for piece in own[:-1])


@pytest.mark.parametrize(
    "text", ["\u023a\u023e" * 50, "\u0130I\u0131", "\u1e9e\u00df", "A" * 1000, "\U00010400 \U00010428", ""], ids=range(6)
)
def test_letters_that_grow_or_shrink_in_lower_case(text):
    assert bags.bags(TextBatch.from_arrow(pa.array([text]))).to_pylist() == [" ".join(_bag(text))]


def test_batches_and_slices_change_nothing():
    given_texts = [f"One two {number} two Three" * number for number in range(30)]
    whole = bags.bags(TextBatch.from_arrow(pa.array(given_texts))).to_pylist()
    assert whole == [bags.bags(TextBatch.from_arrow(pa.array(given_texts).slice(number, 1)))[0].as_py() for number in range(30)]
