r"""Family `fineweb`: what FineWeb adds to the rules of Gopher and C4, all about lines.

Rules and thresholds: Penedo et al. 2024, arXiv 2406.17557, section 3.6 (found by comparing good and bad crawls), and datatrove's
FineWebQualityFilter for the fourth. Lines of white space only do not count. The marks that end a sentence are those of many scripts
(filters/unicode_endings.txt). Newlines per word stop at 1, and are null where words mean nothing. The family is made for web pages.
"""

from __future__ import annotations

import pyarrow as pa

from filters.columns import TextBatch, ratios
from filters.line_kernels import CHARS
from filters.line_sum_kernels import ENDED_LINES, REPEATED_WRITTEN_CHARS, SHORT, WRITTEN
from filters.spec import Family, Rule, Signal

_PAPER = "Penedo et al. 2024, arXiv 2406.17557, section 3.6"


def _compute(batch: TextBatch) -> dict[str, pa.Array]:
    sums, words = batch.line_sums, batch.word_sums
    n_newlines = batch.n_newlines
    return {
        "ended_lines_ratio": ratios(sums[:, ENDED_LINES], sums[:, WRITTEN]),
        "short_lines_ratio": ratios(sums[:, SHORT], sums[:, WRITTEN]),
        "duplicate_line_chars_ratio": ratios(sums[:, REPEATED_WRITTEN_CHARS], batch.lines.counts[:, CHARS] - n_newlines),
        "newline_ratio": ratios(n_newlines, words.n_words, ~words.is_wordless),
    }


FINEWEB = Family(
    name="fineweb",
    version=1,
    is_web=True,
    signals=(
        Signal("ended_lines_ratio", "float32", "share of lines that end in a mark that ends a sentence; null without lines"),
        Signal("short_lines_ratio", "float32", "share of lines of at most 30 characters; null without lines"),
        Signal("duplicate_line_chars_ratio", "float32", "share of the characters, without newlines, in lines seen before in the document"),
        Signal("newline_ratio", "float32", "newlines per word, at most 1; null without words, or where words mean nothing"),
    ),
    rules=(
        Rule("min_ended_lines_ratio", "ended_lines_ratio", ">=", 0.12, _PAPER),
        Rule("max_short_lines_ratio", "short_lines_ratio", "<=", 0.67, _PAPER),
        Rule("max_duplicate_line_chars_ratio", "duplicate_line_chars_ratio", "<=", 0.01, _PAPER),
        Rule("max_newline_ratio", "newline_ratio", "<=", 0.3, "datatrove 0.10, FineWebQualityFilter"),
    ),
    compute=_compute,
)
