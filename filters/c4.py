"""Families `c4` and `c4_fineweb`: the rules of C4 about lines and pages, as facts, and what they leave of a document.

Rules: Raffel et al. 2020, arXiv 1910.10683, section 2.2, as its code runs them (tensorflow_datasets, c4_utils), which datatrove's
C4QualityFilter repeats: a line goes where a word has more than 1000 characters, where it does not end in one of . ? ! " ' (or ends
in ...), has fewer than three words, says javascript or a phrase about cookies and terms; of the lines that are left, one with "lorem
ipsum" or an opening curly bracket takes the page with it, and a page needs five sentences. `c4_fineweb` is the same without the rule
about the end of a line, as FineWeb uses it (Penedo et al. 2024, arXiv 2406.17557, section 3.4), since that one alone costs a third of
the text.

Nothing is cut from a text here: cutting lines is no rule over columns. Words are what lies between white space; citation marks ([1],
[edit], [citation needed]) are passed over before a line is judged; sentences are those of docs/words.md. The family is made for web pages.
"""

from __future__ import annotations

import functools

import pyarrow as pa

from filters.c4_kernels import LEFT_BYTES, LEFT_CURLY, LEFT_LOREM, LEFT_SENTENCES, N_RULES, judge_lines
from filters.columns import TextBatch, counts, ratios
from filters.kernels import Ints
from filters.line_kernels import UNENDED
from filters.line_sum_kernels import WRITTEN
from filters.spec import Family, Rule, Signal

_C4 = "Raffel et al. 2020, arXiv 1910.10683, section 2.2"
_FINEWEB = f"{_C4}; Penedo et al. 2024, arXiv 2406.17557, section 3.4"
# The line rules, in the order in which the kernel counts them, and what each cuts.
_CUT = {
    "long_word": "with a word of more than 1000 characters",
    "unended": "that do not end in . ? ! \" ' or end in ...",
    "few_words": "of fewer than three words",
    "javascript": "that say javascript",
    "policy": "with a phrase about cookies, privacy or terms of use",
}
assert len(_CUT) == N_RULES


def _judge(batch: TextBatch, ignored: int) -> Ints:
    lines = batch.lines
    sums: Ints = judge_lines(lines.doc_starts, lines.starts, lines.ends, lines.found, ignored)
    return sums


def _left(batch: TextBatch, sums: Ints) -> dict[str, pa.Array]:
    n_bytes = batch.offsets[1:] - batch.offsets[:-1]
    return {
        "n_lorem_ipsum": counts(sums[:, LEFT_LOREM]),
        "n_curly_brackets": counts(sums[:, LEFT_CURLY]),
        "n_sentences": counts(sums[:, LEFT_SENTENCES]),
        "left_bytes_ratio": ratios(sums[:, LEFT_BYTES], n_bytes),
    }


def _c4(batch: TextBatch) -> dict[str, pa.Array]:
    sums, n_lines = _judge(batch, 0), batch.line_sums[:, WRITTEN]
    cut = {f"{name}_lines_ratio": ratios(sums[:, place], n_lines) for place, name in enumerate(_CUT)}
    cut_bytes = {f"{name}_bytes": counts(sums[:, N_RULES + place]) for place, name in enumerate(_CUT)}
    return _left(batch, sums) | cut | cut_bytes


def _c4_fineweb(batch: TextBatch) -> dict[str, pa.Array]:
    return _left(batch, _judge(batch, UNENDED))


def _left_signals() -> tuple[Signal, ...]:
    return (
        Signal("n_lorem_ipsum", "int32", 'lines with "lorem ipsum" that the rules about words and ends leave'),
        Signal("n_curly_brackets", "int32", "lines with an opening curly bracket that these rules and the one about javascript leave"),
        Signal("n_sentences", "int32", "sentences in the lines that all line rules leave"),
        Signal("left_bytes_ratio", "float32", "share of the bytes in the lines that all line rules leave; null without text"),
    )


def _rules(source: str) -> tuple[Rule, ...]:
    return (
        Rule("max_lorem_ipsum", "n_lorem_ipsum", "<=", 0, source),
        Rule("max_curly_brackets", "n_curly_brackets", "<=", 0, source),
        Rule("min_sentences", "n_sentences", ">=", 5, source),
    )


_family = functools.partial(Family, version=1, is_web=True)

C4 = _family(
    name="c4",
    signals=(
        *_left_signals(),
        *(
            Signal(f"{name}_lines_ratio", "float32", f"share of the lines {what}, of those that are not blank; null without any")
            for name, what in _CUT.items()
        ),
        *(Signal(f"{name}_bytes", "int32", f"bytes of lines {what}") for name, what in _CUT.items()),
    ),
    rules=_rules(_C4),
    compute=_c4,
)

C4_FINEWEB = _family(name="c4_fineweb", signals=_left_signals(), rules=_rules(_FINEWEB), compute=_c4_fineweb)
