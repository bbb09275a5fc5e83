"""Families over lines, runs of words and characters: equal to their twins on any text, and every rule is exact at its limit."""

import bisect
import functools
import itertools

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import family
from filters.columns import TextBatch
from tests.filters import line_twin
from tests.filters.texts import batch_of, columns, plain

FAMILIES = ("statistics", "gopher_repetition", "c4", "c4_fineweb", "fineweb")
SENTENCE = "the quick brown fox jumps over and around lazy dogs"

# What the line rules stop at, broken off and in both cases, between ordinary words of few letters, so that runs of words repeat.
_PIECES = [
    *("a", "b c", "of the", "word", "one two three", "\n", "\n\n", " ", "\t", ". ", "? ", '." ', "...", "\u2026", ".\n", "!)", "\u3002"),
    *("javascript", "JavaScript", "javascrip", "lorem ipsum", "Lorem Ipsum ", "lorem  ipsum", "terms of use", "Privacy Policy"),
    *("cookie policy", "uses cookies", "use of cookies", "use cookies", "cookies", "{", "}", "#", "- ", "\u2022 "),
    *("[1]", "[", "[12", "[]", "[edit]", "[citation needed]"),
    *("http://", "HTTPS://x.org", "www.", "/www.", "xwww.", "www", "x" * 999, "x" * 1001, "\u00e9" * 1001, "y" * 30, "y" * 31, "z" * 70),
    *("\u00e9t\u00e9", "\u6587", "\u0661", "\u0416", "\u2028", "\u3000", "\x00", "\U0001f600"),
]  # fmt: skip


def rows(name: str, batch: TextBatch) -> list[dict[str, float | None]]:
    computed = {signal: values.to_pylist() for signal, values in family(name).compute(batch).items()}
    return [dict(zip(computed, row, strict=True)) for row in zip(*computed.values(), strict=True)]


def reasons(name: str, text: str) -> list[str]:
    found = family(name)
    signals = found.compute(batch_of(text))
    return [rule.name for rule in found.rules if not rule.passes(signals[rule.signal])[0].as_py()]


def assert_signals_are_those_of_the_twin(batch: TextBatch, texts: list[str]) -> None:
    for name in FAMILIES:
        assert rows(name, batch) == [getattr(line_twin, name)(text) for text in texts], name


@given(columns())
def test_signals_are_those_of_the_twin_bit_for_bit(column):
    assert_signals_are_those_of_the_twin(TextBatch.from_arrow(column), plain(column))


@given(st.lists(st.lists(st.sampled_from(_PIECES), max_size=80).map("".join), max_size=4))
def test_signals_of_texts_made_of_telling_pieces(texts):
    assert_signals_are_those_of_the_twin(batch_of(*texts), texts)


@given(st.lists(st.sampled_from(["the", "a", "fox", "dog", "runs", "\n"]), max_size=200).map(" ".join))
def test_signals_of_texts_that_repeat_themselves(text):
    assert_signals_are_those_of_the_twin(batch_of(text, text[3:]), [text, text[3:]])


@given(st.lists(st.binary(max_size=90), min_size=1, max_size=4), st.binary(max_size=6))
def test_bytes_that_are_no_utf8_stay_inside_their_document(documents, behind):
    followed, alone = _batch_of_bytes([*documents, behind]), _batch_of_bytes(documents)
    for name in FAMILIES:
        assert rows(name, followed)[:-1] == rows(name, alone), name


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["ab ", "\u6587", "\n", "x", "\x00\u0301\U0001f600"])
def test_ten_megabytes(piece):
    batch, alone = batch_of("before", piece * (10_000_000 // len(piece.encode())), "after"), batch_of("before", "after")
    for name in FAMILIES:
        signals = rows(name, batch)
        assert signals[::2] == rows(name, alone)
        assert all(0 <= value <= 1 for key, value in signals[1].items() if key.endswith("_ratio") and value is not None)


@given(columns())
def test_every_ratio_is_from_0_to_1(column):
    batch = TextBatch.from_arrow(column)
    for name in FAMILIES:
        for signal, values in family(name).compute(batch).items():
            assert not signal.endswith("_ratio") or all(0 <= value <= 1 for value in values.drop_null().to_pylist())


def unlike(n: int, *, start: str = "", end: str = "") -> list[str]:
    """Lines of which no two are alike, and no run of words comes twice."""
    return [f"{start}{' '.join(f'{word}{number}' for word in SENTENCE.split())}{end}" for number in range(n)]


def text_of_runs(n_words: int, n_repeats: int, n_others: int) -> str:
    """A run of words, some times, and other words of four letters each between and behind."""
    others = (f"{number:04}" for number in itertools.count())
    parts = [" ".join(f"w{k:02}x" for k in range(n_words)) + " " + next(others) for _ in range(n_repeats)]
    return " ".join([*parts, *itertools.islice(others, n_others)])


# Per rule of gopher_repetition: a text exactly at the limit or as near as whole words come, and one beyond.
def n_gram_limits(name: str, n: int, limit: float) -> tuple[str, str]:
    share = lambda n_others: line_twin.gopher_repetition(text_of_runs(n, 4, n_others))[name]  # noqa: E731
    within = bisect.bisect_left(range(500), -limit, key=lambda n_others: -share(n_others))
    return text_of_runs(n, 4, within), text_of_runs(n, 4, within - 1)


@pytest.mark.parametrize("rule", [rule for rule in family("gopher_repetition").rules if "gram" in rule.name], ids=lambda rule: rule.name)
def test_a_rule_about_runs_of_words_keeps_up_to_its_limit(rule):
    n = int(rule.signal.split("_")[1].removesuffix("gram"))
    kept, dropped = n_gram_limits(rule.signal, n, rule.threshold)
    assert rule.name not in reasons("gopher_repetition", kept)
    assert rule.name in reasons("gopher_repetition", dropped)


LINE_LIMITS = {
    "max_duplicate_lines_ratio": (unlike(7) + unlike(1) * 3, unlike(6) + unlike(1) * 4),
    "max_duplicate_line_chars_ratio": (["y" * 67, *["z" * 10] * 3], ["y" * 66, *["z" * 10] * 3]),
    "max_duplicate_paragraphs_ratio": (unlike(7) + unlike(1) * 3, unlike(6) + unlike(1) * 4),
    "max_duplicate_paragraph_chars_ratio": (["y" * 64, *["z" * 10] * 3], ["y" * 63, *["z" * 10] * 3]),
}


@pytest.mark.parametrize("rule", LINE_LIMITS)
def test_a_rule_about_lines_keeps_up_to_its_limit(rule):
    between = "\n\n" if "paragraph" in rule else "\n"
    kept, dropped = (between.join(part) for part in LINE_LIMITS[rule])
    assert rule not in reasons("gopher_repetition", kept)
    assert rule in reasons("gopher_repetition", dropped)


WEB_LIMITS = {
    ("fineweb", "min_ended_lines_ratio"): (unlike(22) + unlike(3, start="e", end="."), unlike(23) + unlike(3, start="e", end=".")),
    ("fineweb", "max_short_lines_ratio"): (["s" * 30 + str(k) for k in range(33)] + [f"{k:030}" for k in range(67)],
                                           ["s" * 30 + str(k) for k in range(32)] + [f"{k:030}" for k in range(68)]),
    ("fineweb", "max_duplicate_line_chars_ratio"): (["d", "d", "x" * 98], ["d", "d", "x" * 97]),
    ("fineweb", "max_newline_ratio"): (["a b c d"] + ["a"] * 2 + ["b c d e"], ["a b c"] + ["a"] * 2 + ["b c d e"]),
    ("c4", "min_sentences"): (["One is here. Two is. Three.", "Four is here. Five is."], ["One is here. Two is. Three.", "Four is here."]),
    ("c4", "max_curly_brackets"): (["Words are here {", "{ x"], ["Words are here {."]),
    ("c4", "max_lorem_ipsum"): (["Say lorem  ipsum now.", "lorem ipsum dolor"], ["Say Lorem Ipsum now."]),
    ("c4_fineweb", "min_sentences"): (["One is here. Two is. Three.", "Four is here. Five"], ["One is here. Two is. Three.", "Four is"]),
    ("c4_fineweb", "max_curly_brackets"): (["Two {", "our javascript code {"], ["Words are here {"]),
    ("c4_fineweb", "max_lorem_ipsum"): (["lorem ipsum"], ["lorem ipsum dolor"]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "rule"), WEB_LIMITS)
def test_a_rule_for_web_pages_keeps_up_to_its_limit(name, rule):
    kept, dropped = ("\n".join(part) for part in WEB_LIMITS[name, rule])
    assert rule not in reasons(name, kept)
    assert rule in reasons(name, dropped)


def test_defaults_are_those_of_the_papers():
    limits = {name: [rule.threshold for rule in family(name).rules] for name in FAMILIES if name != "statistics"}
    assert limits == {
        "gopher_repetition": [0.3, 0.2, 0.3, 0.2, 0.2, 0.18, 0.16, 0.15, 0.14, 0.13, 0.12, 0.11, 0.1],
        "c4": [0, 0, 5],
        "c4_fineweb": [0, 0, 5],
        "fineweb": [0.12, 0.67, 0.01, 0.3],
    }
    assert {rule.threshold for rule in family("statistics").rules} == {None}
    assert [name for name in FAMILIES if family(name).is_web] == ["c4", "c4_fineweb", "fineweb"]


def test_lines_that_differ_in_characters_of_no_width_are_not_the_same():
    lines = ["\x00", "\x00\x00", "a", "a\x00", "b\x00\x00", "b"]
    assert rows("gopher_repetition", batch_of("\n".join(lines)))[0]["duplicate_lines_ratio"] == 0.0


def test_words_that_mean_nothing_are_not_judged():
    chinese = "\u65b0\u51a0\u75c5\u6bd2\u75ab\u82d7\u5f88\u6709\u6548\u3002\n" * 9
    assert rows("gopher_repetition", batch_of(chinese))[0]["top_2gram_ratio"] is None
    assert rows("fineweb", batch_of(chinese))[0]["newline_ratio"] is None
    assert rows("statistics", batch_of(chinese))[0]["mean_word_length"] is None
    assert rows("gopher_repetition", batch_of(chinese))[0]["duplicate_lines_ratio"] == pytest.approx(8 / 9)


def test_a_text_that_repeats_itself_compresses():
    once, often = (rows("statistics", batch_of(text))[0]["compression_ratio"] for text in (" ".join(unlike(5)), SENTENCE * 100))
    assert often < 0.05 < once


@pytest.mark.parametrize("text", ["", "a", "the quick brown fox " * 3, "x" * 4000, " ".join(map(str, range(3000)))])
def test_the_compressed_size_is_near_that_of_lz4_itself(text):
    data = text.encode()
    theirs = len(pa.compress(data, codec="lz4_raw", asbytes=True)) if data else 0
    assert line_twin.lz4_size(data) == pytest.approx(theirs, rel=0.1, abs=16)


def test_facts_of_lines_are_found_once():
    batch = batch_of("one\ntwo")
    assert batch.lines is batch.lines
    assert batch.line_sums is batch.line_sums
    assert batch.word_sums is batch.word_sums


def _batch_of_bytes(documents: list[bytes]) -> TextBatch:
    offsets = functools.reduce(lambda ends, part: [*ends, ends[-1] + len(part)], documents, [0])
    data = pa.py_buffer(b"".join(documents) or b"\0")
    return TextBatch.from_arrow(pa.StringArray.from_buffers(len(documents), pa.array(offsets, pa.int32()).buffers()[1], data))
