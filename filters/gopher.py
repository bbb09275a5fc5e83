r"""Family `gopher_quality`: the quality rules of Gopher, for text whose words are separated by spaces.

Rules and thresholds: Rae et al. 2021, arXiv 2112.11446, appendix A.1.1. Where the paper leaves a detail open we do what datatrove's
GopherQualityFilter does, since most published numbers come from it: stop words are counted once each and with case, bullets are
U+2022 and "-", an ellipsis is "..." or U+2026. Three details are ours: words follow docs/words.md (datatrove uses a tokenizer per
language and leaves out words of punctuation only, which our rule never makes), lines end at \n only, and '#' or ellipses per word
stop at 1.

A document where more than half of the letters belong to a script written without spaces is not judged by rules about words: there a
word is one letter, so the limits would drop good Chinese or Thai for the wrong reason. The cost is that only the rules about lines
judge it. Ratios of nothing (no word, no line) are null too; an empty text is dropped by min_words.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.columns import (
    TextBatch,
    count_ascii,
    count_distinct_words,
    count_ellipses,
    count_lines_ending_in_ellipsis,
    count_lines_starting_with,
    sum_per_document,
)
from filters.kernels import Flags, Ints
from filters.spec import Family, Rule, Signal

_BULLETS = "\u2022-"
_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_PAPER = "Rae et al. 2021, arXiv 2112.11446, appendix A.1.1"


def _compute(batch: TextBatch) -> dict[str, pa.Array]:
    words, lines = batch.words, batch.lines
    n_words, n_lines = np.diff(words.doc_starts), np.diff(lines.doc_starts)
    is_judged = 2 * sum_per_document(words.doc_starts, words.is_spaceless) <= words.n_letters
    has_words, has_lines = is_judged & (n_words > 0), n_lines > 0
    n_hashes, n_ellipses = np.minimum(count_ascii(batch, "#"), n_words), np.minimum(count_ellipses(batch), n_words)
    return {
        "n_words": _counts(n_words, is_judged),
        "mean_word_length": _quotients(sum_per_document(words.doc_starts, words.n_chars), n_words, has_words),
        "hash_ratio": _quotients(n_hashes, n_words, has_words),
        "ellipsis_ratio": _quotients(n_ellipses, n_words, has_words),
        "bullet_lines_ratio": _quotients(count_lines_starting_with(batch, _BULLETS), n_lines, has_lines),
        "ellipsis_lines_ratio": _quotients(count_lines_ending_in_ellipsis(batch), n_lines, has_lines),
        "alpha_words_ratio": _quotients(sum_per_document(words.doc_starts, words.has_letter), n_words, has_words),
        "n_stop_words": _counts(count_distinct_words(batch, _STOP_WORDS), is_judged),
    }


def _counts(values: Ints, is_valid: Flags) -> pa.Array:
    return pa.array(values.astype(np.int32), mask=~is_valid)


def _quotients(numerators: Ints, denominators: Ints, is_valid: Flags) -> pa.Array:
    """Divide integers, once, in float64 and round to float32: the same bits as in plain Python, whatever the batch."""
    quotients: npt.NDArray[np.float64] = np.zeros(len(numerators))
    np.divide(numerators, denominators, out=quotients, where=is_valid)
    return pa.array(quotients.astype(np.float32), mask=~is_valid)


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
    compute=_compute,
)
