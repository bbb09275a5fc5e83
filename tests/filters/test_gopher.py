"""Family `gopher_quality`: equal to its twin on any text, and every rule keeps, drops and is exact at its limit."""

import io
import itertools
import json
import pathlib

import pyarrow as pa
import pytest
from hypothesis import given

from filters.columns import TextBatch
from filters.gopher import GOPHER_QUALITY
from tests.filters.gopher_twin import gopher_quality
from tests.filters.texts import batch_of, columns, plain

CORPORA = pathlib.Path(__file__).parents[2].parent / "shared" / "corpora"

# Ten words of 42 letters, two of them stop words.
SENTENCE = "the quick brown fox jumps over and around lazy dogs"


def signals_by_document(batch: TextBatch) -> list[dict[str, float | None]]:
    computed = {name: values.to_pylist() for name, values in GOPHER_QUALITY.compute(batch).items()}
    return [dict(zip(computed, row, strict=True)) for row in zip(*computed.values(), strict=True)]


def reasons(text: str) -> list[str]:
    signals = GOPHER_QUALITY.compute(batch_of(text))
    return [rule.name for rule in GOPHER_QUALITY.rules if not rule.passes(signals[rule.signal])[0].as_py()]


def some_words(n: int) -> str:
    return " ".join(itertools.islice(itertools.cycle(SENTENCE.split()), n))


def stop_words_and(*words: str) -> str:
    return " ".join(["the", "and", *words])


def lines(n_marked: int, n_plain: int, *, start: str = "", end: str = "") -> str:
    return "\n".join([f"{start}{SENTENCE}{end}"] * n_marked + [SENTENCE] * n_plain)


@given(columns())
def test_signals_are_those_of_the_twin_bit_for_bit(column):
    assert signals_by_document(TextBatch.from_arrow(column)) == [gopher_quality(text) for text in plain(column)]


# Per rule: a text that is kept, one exactly at the limit, and one just beyond it.
LIMITS = {
    "min_words": (some_words(60), some_words(50), some_words(49)),
    "max_words": (some_words(60), some_words(100_000), some_words(100_001)),
    "min_mean_word_length": (some_words(50), stop_words_and(*["fox"] * 48), stop_words_and(*["fox"] * 47, "ox")),
    "max_mean_word_length": (
        some_words(50),
        stop_words_and(*["x" * 10] * 47, "x" * (50 * 10 - 47 * 10 - len("theand"))),
        stop_words_and(*["x" * 10] * 47, "x" * (50 * 10 - 47 * 10 - len("theand") + 1)),
    ),
    "max_hash_ratio": (some_words(50), some_words(50) + "#" * 5, some_words(50) + "#" * 6),
    "max_ellipsis_ratio": (some_words(50), "..." * 4 + "\u2026" + some_words(50), "..." * 5 + "\u2026" + some_words(50)),
    "max_bullet_lines_ratio": (lines(5, 5, start="- "), lines(9, 1, start=" \t- "), lines(10, 0, start="\u2022")),
    "max_ellipsis_lines_ratio": (lines(2, 8, end="..."), lines(3, 7, end="\u2026 "), lines(4, 6, end="...")),
    "min_alpha_words_ratio": (some_words(50), some_words(40) + " 2024" * 10, some_words(39) + " 2024" * 11),
    "min_stop_words": (some_words(50) + " with", some_words(50), some_words(50).replace("the", "The")),
}


@pytest.mark.parametrize("rule", [rule.name for rule in GOPHER_QUALITY.rules])
def test_a_rule_keeps_up_to_its_limit_and_drops_beyond(rule):
    kept, at_the_limit, dropped = LIMITS[rule]
    assert reasons(kept) == []
    assert reasons(at_the_limit) == []
    assert reasons(dropped) == [rule]


def test_the_defaults_are_those_of_the_paper():
    assert {rule.name: rule.threshold for rule in GOPHER_QUALITY.rules} == {
        "min_words": 50,
        "max_words": 100_000,
        "min_mean_word_length": 3,
        "max_mean_word_length": 10,
        "max_hash_ratio": 0.1,
        "max_ellipsis_ratio": 0.1,
        "max_bullet_lines_ratio": 0.9,
        "max_ellipsis_lines_ratio": 0.3,
        "min_alpha_words_ratio": 0.8,
        "min_stop_words": 2,
    }


def test_a_stop_word_repeated_counts_once():
    assert reasons(some_words(50).replace("and", "the")) == ["min_stop_words"]


def test_an_empty_text_is_dropped_by_min_words_and_its_ratios_are_null():
    assert reasons("")[0] == "min_words"
    assert signals_by_document(batch_of("")) == [
        {
            "n_words": 0,
            "mean_word_length": None,
            "hash_ratio": None,
            "ellipsis_ratio": None,
            "bullet_lines_ratio": None,
            "ellipsis_lines_ratio": None,
            "alpha_words_ratio": None,
            "n_stop_words": 0,
        }
    ]


def test_more_hashes_than_words_are_a_ratio_of_one():
    assert signals_by_document(batch_of("## a ##"))[0]["hash_ratio"] == 1.0


def test_a_script_without_spaces_is_judged_by_its_lines_only():
    chinese = "\u65b0\u51a0\u75c5\u6bd2\u75ab\u82d7\u5f88\u6709\u6548\u3002\n" * 3
    judged = {name for name, value in signals_by_document(batch_of(chinese))[0].items() if value is not None}
    assert judged == {"bullet_lines_ratio", "ellipsis_lines_ratio"}
    assert reasons(chinese) == []
    assert reasons("- \u65b0\u51a0\n- \u75c5\u6bd2\n") == ["max_bullet_lines_ratio"]


def test_exactly_half_the_letters_without_spaces_is_still_judged():
    assert signals_by_document(batch_of("\u6587\u5b57ab"))[0]["n_words"] == len(["\u6587", "\u5b57", "ab"])
    assert signals_by_document(batch_of("\u6587\u5b57a"))[0]["n_words"] is None


@pytest.mark.parametrize("word", ["\u043c\u044b\u0448\u044c", "\u0645\u0631\u062d\u0628\u064b\u0627", "\u092d\u093e\u0937\u093e"])
def test_other_scripts_with_spaces_fail_only_for_want_of_english_stop_words(word):
    assert reasons(" ".join([word] * 50)) == ["min_stop_words"]


@pytest.mark.real
@pytest.mark.skipif(not CORPORA.is_dir(), reason="../shared/corpora is absent")
@pytest.mark.parametrize("name", ["general-forum/newsgroups.jsonl.zst", "medical-papers/pmc-rct-00.jsonl.zst"])
def test_signals_of_real_text_are_those_of_the_twin(name):
    with io.BufferedReader(pa.input_stream(CORPORA / name)) as rows:
        texts = [json.loads(row)["text"] for row in itertools.islice(rows, 100)]
    assert signals_by_document(batch_of(*texts)) == [gopher_quality(text) for text in texts]
