"""Family `statistics`: what people ask about a document: how long it is, and what it is made of. It has no rules of its own accord.

Every rule is off unless a recipe gives it a threshold: these numbers have no limit that a paper stands for. `n_words` here counts by
the word rule in every script; the other facts about words are null where words mean nothing. Sources of the ideas: RedPajama-V2's quality
signals (Weber et al. 2024, arXiv 2411.12372), and for the compression ratio the common use of one to find repetition.
"""

from __future__ import annotations

import pyarrow as pa

from filters.columns import TextBatch, compressed_sizes, count_listed_words, counts, quotients, ratios
from filters.line_kernels import CHARS, DIGITS, UPPERS, URLS, WHITES
from filters.line_sum_kernels import SENTENCES
from filters.spec import Family, Rule, Signal

# The 36 most usual words of English that carry no subject; of text in other languages the ratio says nothing.
_STOP_WORDS = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "for", "from", "had", "has", "have", "his", "if"),
        *("in", "is", "it", "not", "of", "on", "or", "that", "the", "their", "they", "this", "to", "was", "were", "which", "will", "with"),
    )
)
_NO_LIMIT = "no limit in the literature"


def _compute(batch: TextBatch) -> dict[str, pa.Array]:
    words, lines, sums = batch.word_sums, batch.lines, batch.line_sums
    n_chars, has_words = lines.counts[:, CHARS], ~words.is_wordless
    _, n_stop_words = count_listed_words(batch, _STOP_WORDS)
    return {
        "n_chars": counts(n_chars),
        "n_words": counts(words.n_words),
        "n_lines": counts(lines.doc_starts[1:] - lines.doc_starts[:-1]),
        "n_sentences": counts(sums[:, SENTENCES]),
        "mean_word_length": quotients(words.n_chars, words.n_words, has_words),
        "words_per_sentence": quotients(words.n_words, sums[:, SENTENCES], has_words),
        "stop_words_ratio": ratios(n_stop_words, words.n_words, has_words),
        "letters_ratio": ratios(batch.words.n_letters, n_chars),
        "digits_ratio": ratios(lines.counts[:, DIGITS], n_chars),
        "upper_case_ratio": ratios(lines.counts[:, UPPERS], batch.words.n_letters),
        "white_space_ratio": ratios(lines.counts[:, WHITES], n_chars),
        "n_urls": counts(lines.counts[:, URLS]),
        "compression_ratio": ratios(compressed_sizes(batch), batch.offsets[1:] - batch.offsets[:-1]),
    }


_SIGNALS = (
    Signal("n_chars", "int32", "code points"),
    Signal("n_words", "int32", "words by the rule in docs/words.md, in every script"),
    Signal("n_lines", "int32", "lines, empty ones included"),
    Signal("n_sentences", "int32", "sentences by the rule in docs/words.md"),
    Signal("mean_word_length", "float32", "characters per word; null where words mean nothing"),
    Signal("words_per_sentence", "float32", "words per sentence; null where words mean nothing"),
    Signal("stop_words_ratio", "float32", "share of words that are one of 36 function words of English, in lower case; null as above"),
    Signal("letters_ratio", "float32", "letters per character"),
    Signal("digits_ratio", "float32", "numbers (Unicode category N) per character"),
    Signal("upper_case_ratio", "float32", "characters with another lower case, per letter"),
    Signal("white_space_ratio", "float32", "white space per character"),
    Signal("n_urls", "int32", "http://, https:// and www."),
    Signal("compression_ratio", "float32", "size in the LZ4 block format per byte, at most 1; low where a text repeats itself"),
)

STATISTICS = Family(
    name="statistics",
    version=2,
    signals=_SIGNALS,
    rules=tuple(
        rule
        for signal in _SIGNALS
        for rule in (
            Rule(f"min_{signal.name.removeprefix('n_')}", signal.name, ">=", None, _NO_LIMIT),
            Rule(f"max_{signal.name.removeprefix('n_')}", signal.name, "<=", None, _NO_LIMIT),
        )
    ),
    compute=_compute,
)
