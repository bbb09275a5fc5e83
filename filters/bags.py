"""A document as the words that it uses: each once, in lower case, in the order of their first use; what the classifier reads.

A classifier of raw text learns how the reference is written (its punctuation, its headings, how often it says "the") before it learns
what it is about, because that tells reference and pool apart just as well. Words without case and punctuation, each once, leave less
of that; docs/quality.md has the figures. Cost: one pass over the words, of which each is hashed, looked up and copied.
"""

from __future__ import annotations

import pyarrow as pa

from filters import bag_kernels
from filters.chars import lowered
from filters.columns import TextBatch
from filters.kernels import Ints
from filters.minhash import word_hashes

# Raised with any change of a bag.
VERSION = 1
_WHOLE = 2**31 - 1


def bags(batch: TextBatch) -> pa.LargeStringArray:
    """Spell each document's distinct words with spaces between them; a document without words is an empty string.

    >>> bags(TextBatch.from_arrow(pa.array(["The Cat, the cat's 5 mg!"]))).to_pylist()
    ['the cat s 5 mg']
    """
    texts, _ = pieces(batch, _WHOLE)
    return texts


def pieces(batch: TextBatch, n_words: int) -> tuple[pa.LargeStringArray, Ints]:
    """Cut each bag into pieces of `n_words` words; those of document i are texts[starts[i]:starts[i + 1]], for (texts, starts).

    Each document has at least one piece; its last one takes what is left, from half of `n_words` up to one and a half.
    """
    words = batch.words
    data, offsets, starts = bag_kernels.spell_distinct(
        batch.data, words.doc_starts, words.starts, words.ends, word_hashes(batch), lowered(), n_words
    )
    texts = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
    return texts, starts
