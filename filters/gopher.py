r"""Families `gopher_quality` and `gopher_repetition`: the rules of Gopher, for text whose words are separated by spaces.

Rules and thresholds: Rae et al. 2021, arXiv 2112.11446, appendix A.1.1 and table A1. Where the paper leaves a detail open we do what
datatrove's GopherQualityFilter and GopherRepetitionFilter do, since most published numbers come from them: stop words are counted
once each and with case, bullets are U+2022 and "-", an ellipsis is "..." or U+2026; of equally frequent runs of words the first counts.
Details that are ours: words follow docs/words.md (datatrove uses a tokenizer per language, which makes words of punctuation; these are
left out of the number and length of words, but counted in its ratios: docs/filters.md), lines end at \n only, shares stop at 1, and empty
lines at the ends of a text are no lines for `gopher_repetition`.

A document where more than half of the letters belong to a script written without spaces is not judged by rules about words: there a
word is one letter, so the limits would drop good Chinese or Thai for the wrong reason. The cost is that only the rules about lines
judge it. Ratios of nothing (no word, no line, no run of so many words) are null too; an empty text is dropped by min_words.
"""

from __future__ import annotations

import pyarrow as pa

from filters.columns import TextBatch, count_listed_words, counts, quotients, ratios, repeated_runs
from filters.line_kernels import CHARS, ELLIPSES, HASHES
from filters.line_sum_kernels import (
    BULLETS,
    ELLIPSIS_LINES,
    FILLED,
    LINES,
    PARAGRAPHS,
    REPEATED,
    REPEATED_CHARS,
    REPEATED_PARAGRAPH_CHARS,
    REPEATED_PARAGRAPHS,
)
from filters.ngram_kernels import LONGEST, LONGEST_TOP, NONE, SHORTEST
from filters.spec import Family, Rule, Signal

_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_PAPER = "Rae et al. 2021, arXiv 2112.11446, appendix A.1.1"


# Table A1: the largest share of the characters, by the number of words in a run.
_TOP = {2: 0.20, 3: 0.18, 4: 0.16}
_DUPLICATE = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
assert [*_TOP, *_DUPLICATE] == list(range(SHORTEST, LONGEST + 1))
assert max(_TOP) == LONGEST_TOP


def _quality(batch: TextBatch) -> dict[str, pa.Array]:
    words, lines, counted = batch.word_sums, batch.line_sums, batch.lines.counts
    is_judged, n_words = ~words.is_wordless, words.n_words
    return {
        "n_words": counts(n_words, is_judged),
        "mean_word_length": quotients(words.n_chars, n_words, is_judged),
        "hash_ratio": ratios(counted[:, HASHES], n_words, is_judged),
        "ellipsis_ratio": ratios(counted[:, ELLIPSES], n_words, is_judged),
        "bullet_lines_ratio": ratios(lines[:, BULLETS], lines[:, LINES]),
        "ellipsis_lines_ratio": ratios(lines[:, ELLIPSIS_LINES], lines[:, LINES]),
        "alpha_words_ratio": ratios(words.n_with_letter, n_words, is_judged),
        "n_stop_words": counts(count_listed_words(batch, _STOP_WORDS)[0], is_judged),
    }


def _repetition(batch: TextBatch) -> dict[str, pa.Array]:
    sums, n_chars, runs = batch.line_sums, batch.lines.counts[:, CHARS], repeated_runs(batch)
    is_judged = ~batch.word_sums.is_wordless
    found = {
        "duplicate_lines_ratio": ratios(sums[:, REPEATED], sums[:, FILLED]),
        "duplicate_line_chars_ratio": ratios(sums[:, REPEATED_CHARS], n_chars),
        "duplicate_paragraphs_ratio": ratios(sums[:, REPEATED_PARAGRAPHS], sums[:, PARAGRAPHS]),
        "duplicate_paragraph_chars_ratio": ratios(sums[:, REPEATED_PARAGRAPH_CHARS], n_chars),
    }
    for size, name in _RUNS.items():
        column = runs[:, size - SHORTEST]
        found[name] = ratios(column, n_chars, is_judged & (column != NONE))
    return found


_RUNS = {size: f"{'top' if size in _TOP else 'duplicate'}_{size}gram_ratio" for size in range(SHORTEST, LONGEST + 1)}

GOPHER_QUALITY = Family(
    name="gopher_quality",
    version=1,
    signals=(
        Signal("n_words", "int32", "words; null where most letters are of a script without spaces"),
        Signal("mean_word_length", "float32", "characters per word; null as n_words, and without words"),
        Signal("hash_ratio", "float32", "'#' per word, at most 1; null as mean_word_length"),
        Signal("ellipsis_ratio", "float32", "ellipses per word, at most 1; null as mean_word_length"),
        Signal("bullet_lines_ratio", "float32", "share of lines that start with a bullet; null without lines"),
        Signal("ellipsis_lines_ratio", "float32", "share of lines that end in an ellipsis; null without lines"),
        Signal("alpha_words_ratio", "float32", "share of words with a letter; null as mean_word_length"),
        Signal("n_stop_words", "int32", "different stop words present, of the eight; null as n_words"),
    ),
    rules=(
        Rule("min_words", "n_words", ">=", 50, _PAPER),
        Rule("max_words", "n_words", "<=", 100_000, _PAPER),
        Rule("min_mean_word_length", "mean_word_length", ">=", 3, _PAPER),
        Rule("max_mean_word_length", "mean_word_length", "<=", 10, _PAPER),
        Rule("max_hash_ratio", "hash_ratio", "<=", 0.1, _PAPER),
        Rule("max_ellipsis_ratio", "ellipsis_ratio", "<=", 0.1, _PAPER),
        Rule("max_bullet_lines_ratio", "bullet_lines_ratio", "<=", 0.9, _PAPER),
        Rule("max_ellipsis_lines_ratio", "ellipsis_lines_ratio", "<=", 0.3, _PAPER),
        Rule("min_alpha_words_ratio", "alpha_words_ratio", ">=", 0.8, _PAPER),
        Rule("min_stop_words", "n_stop_words", ">=", 2, _PAPER),
    ),
    compute=_quality,
)

_REPETITION_SIGNALS = (
    Signal("duplicate_lines_ratio", "float32", "share of the lines, empty ones left out, that were there before; null without lines"),
    Signal("duplicate_line_chars_ratio", "float32", "share of the characters in such lines; null for an empty text"),
    Signal(
        "duplicate_paragraphs_ratio", "float32", "share of the paragraphs (between empty lines) that were there before; null without any"
    ),
    Signal("duplicate_paragraph_chars_ratio", "float32", "share of the characters in such paragraphs; null for an empty text"),
    *(
        Signal(
            _RUNS[size],
            "float32",
            f"share of the characters in the most frequent run of {size} words; null without one, or where words mean nothing",
        )
        for size in _TOP
    ),
    *(
        Signal(_RUNS[size], "float32", f"share of the characters in runs of {size} words that were there before; null as above")
        for size in _DUPLICATE
    ),
)
_REPETITION_LIMITS = {
    "duplicate_paragraphs_ratio": 0.30,
    "duplicate_paragraph_chars_ratio": 0.20,
    "duplicate_lines_ratio": 0.30,
    "duplicate_line_chars_ratio": 0.20,
    **{_RUNS[size]: limit for size, limit in (_TOP | _DUPLICATE).items()},
}

GOPHER_REPETITION = Family(
    name="gopher_repetition",
    version=1,
    signals=_REPETITION_SIGNALS,
    rules=tuple(
        Rule(f"max_{name}", name, "<=", limit, "Rae et al. 2021, arXiv 2112.11446, table A1") for name, limit in _REPETITION_LIMITS.items()
    ),
    compute=_repetition,
)
