"""Long stretches of ASCII are read 64 bytes at a time: the words are the same wherever a stretch begins, ends or is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.filters import word_twin
from tests.filters.texts import batch_of

_PIECES = ["word", "a", "7", "it's", "3.5", "_", " ", ". ", "\n", "-", "@[`{/:", "AZaz09", "x" * 63, "9" * 64, "y" * 130, "\x00", "\x7f"]
_OTHER_PIECES = ["\u00e9", "\u00d7", "\u0301", "\u6587", "\u6587\u0301", "\u2026", "\U0001f600"]


def assert_words_are_those_of_the_twin(*documents: str) -> None:
    batch = batch_of(*documents)
    words, expected = batch.words, [word_twin.words(text) for text in documents]
    assert words.doc_starts.tolist() == [sum(map(len, expected[:n])) for n in range(len(expected) + 1)]
    found = [bytes(batch.data[start:end]).decode() for start, end in zip(words.starts, words.ends, strict=True)]
    flat = [word for document in expected for word in document]
    assert found == flat
    assert words.n_chars.tolist() == [len(word) for word in flat]
    assert words.has_letter.tolist() == [any(word_twin.char_class(char) in "LS" for char in word) for word in flat]
    assert words.is_spaceless.tolist() == [word_twin.char_class(word[0]) == "S" for word in flat]
    assert words.n_letters.tolist() == [sum(word_twin.char_class(char) in "LS" for char in text) for text in documents]


@given(st.lists(st.lists(st.sampled_from(_PIECES), max_size=120).map("".join), max_size=3))
def test_words_of_long_ascii_texts(documents):
    assert_words_are_those_of_the_twin(*documents)


@given(st.lists(st.one_of(*[st.sampled_from(_PIECES)] * 15, st.sampled_from(_OTHER_PIECES)), min_size=30, max_size=150).map("".join))
def test_words_of_long_texts_with_other_characters_between(text):
    assert_words_are_those_of_the_twin(text, text[1:])


@pytest.mark.parametrize("around", [("", ""), (" ", " "), ("\u6587", "\u6587"), ("\u00e9", "\u0301"), ("5", "_"), ("-", "5")])
def test_a_word_of_any_length_at_any_place(around):
    before, after = around
    assert_words_are_those_of_the_twin(*["." * place + before + "w" * 40 + after + " ok 5 " * 30 for place in range(130)])
    assert_words_are_those_of_the_twin(*[f"{before}{'w' * length}{after} ok 5 {'z' * 99}" for length in range(200)])


def test_every_ascii_character_is_of_its_class():
    assert_words_are_those_of_the_twin("".join(f"{chr(code)} {chr(code)}a{chr(code)} " for code in range(128)) * 2)
