"""Family `paragraphs`: how much of a document lies in paragraphs that many other documents have, too. No document alone tells it.

A paragraph is a line, as in CCNet (Wenzek et al. 2020, arXiv 1911.00359), that has a number of words; shorter ones are headings and menus,
which are structure. It is named by the sequence of its lower-cased words (docs/words.md) in 64 bits, so case, spacing and punctuation make
no other paragraph, and numbers do: 5 mg is not 50 mg.

Of the two steps only the first reads texts, and each text once: `paragraphs` finds what there is and where. The second, `repeated_spans`,
looks names up among those that are repeated, so that a corpus that grows is not read again. The cost is 20 bytes a paragraph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from filters import paragraph_kernels
from filters.columns import TextBatch
from filters.kernels import Ints, Keys, Places
from filters.minhash import word_hashes
from filters.spec import Family, Rule, Signal


@dataclass(frozen=True, slots=True)
class Paragraphs:
    """The paragraphs of documents, in order. Those of document i are doc_starts[i]:doc_starts[i + 1].

    Places are bytes of the document: `starts` where the written line before ends (0: there is none), `ends` where the paragraph does,
    `nexts` where the next written line starts (the end of the document: there is none).
    """

    doc_starts: Ints
    keys: Keys
    starts: Places
    ends: Places
    nexts: Places


@dataclass(frozen=True, slots=True)
class Spans:
    """Spans of bytes in documents, in order, no two of which touch. Those of document i are doc_starts[i]:doc_starts[i + 1]."""

    doc_starts: Ints
    starts: Places
    ends: Places


def paragraphs(batch: TextBatch, *, min_words: int) -> Paragraphs:
    """Find the lines of at least so many words (1 or more)."""
    lines, words = batch.lines, batch.words
    found = paragraph_kernels.find_paragraphs(
        *(batch.offsets, lines.doc_starts, lines.starts, lines.ends, lines.found),
        *(words.doc_starts, words.starts, word_hashes(batch), min_words),
    )
    return Paragraphs(*found)


def repeated_spans(found: Paragraphs, repeated: Keys) -> tuple[Ints, Spans]:
    """Count each document's paragraphs that are among `repeated` (ascending; it may be mapped from a file), and give what they take up.

    A span is a run of such paragraphs with the blank lines between them and the newlines before it; where nothing is written before, those
    behind it. So what is left when it is cut out has no more blank lines in a row than there were.
    """
    is_repeated = np.searchsorted(repeated, found.keys, "right") > np.searchsorted(repeated, found.keys, "left")
    starts, ends, nexts = found.starts[is_repeated], found.ends[is_repeated], found.nexts[is_repeated]
    firsts = np.append(0, np.cumsum(is_repeated))[found.doc_starts]
    counted: Ints = np.diff(firsts)
    begins = np.append(True, starts[1:] != ends[:-1])[: len(starts)]
    begins[firsts[:-1][counted > 0]] = True  # what another document ends with says nothing
    opening = np.flatnonzero(begins)
    closing = np.append(opening[1:], len(starts))[: len(opening)] - 1
    span_ends = np.where(starts[opening] == 0, nexts[closing], ends[closing])
    return counted, Spans(np.append(0, np.cumsum(begins))[firsts], starts[opening], span_ends)


PARAGRAPHS = Family(
    name="paragraphs",
    version=1,
    signals=(
        Signal("repeated_ratio", "float32", "share of the bytes that lie in repeated paragraphs, with the blank lines around them"),
        Signal("n_repeated", "int32", "repeated paragraphs, as often as they occur here"),
    ),
    rules=(Rule("max_repeated_ratio", "repeated_ratio", "<=", None, "no limit in the literature"),),
    compute=None,
)
