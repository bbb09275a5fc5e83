"""Perplexity under a model of the reference: how well trusted text predicts a document, word by word.

Strategy II of the paper (arXiv 2406.14833) ranks documents so. Facts only: what is fitted on what is decided in curate. A score is one
lookup per word and order at most, for all words of a batch at once; models of others are asked through the kenlm package, document by
document.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pyarrow as pa

from filters import perplexity_kernels as kernels
from filters.chars import lowered
from filters.columns import TextBatch
from filters.kernels import Ints
from filters.minhash import word_hashes
from filters.ngram_files import load, save, write_arpa
from filters.ngrams import OVERLAP_WORDS, NgramModel, fit, word_keys
from filters.perplexity_kernels import Doubles

__all__ = [
    "OVERLAP_WORDS", "VERSION", "KenlmModel", "NgramModel", "fit", "kenlm_perplexities", "load", "load_kenlm", "log10_probabilities",
    "overlaps", "perplexities", "save", "spell", "write_arpa",
]  # fmt: skip

# Raised with any change of a score that the model file does not show.
VERSION = 1


def log10_probabilities(model: NgramModel, batch: TextBatch) -> tuple[Doubles, Ints]:
    """Give each document's log10 probability, the sum over its words and its </s>, and how many these are."""
    words = batch.words
    n = len(words.starts) + 2 * (len(words.doc_starts) - 1)
    grams, scores, backoffs = np.empty(n, np.uint32), np.empty(n, np.float32), np.empty(n, np.float32)
    room = np.empty(n, np.int32), np.empty(n, np.uint64), np.empty(n, np.float32)
    table = model.tables[0]
    kernels.find_words(table, table.view(np.float32), model.n_buckets(1), words.doc_starts, word_hashes(batch), grams, scores, backoffs)
    ids = grams.copy()
    for order in range(2, model.order + 1):
        table = model.tables[order - 1]
        kernels.extend(table, table.view(np.float32), model.n_buckets(order), ids, grams, scores, backoffs, room)
    return kernels.add_up(words.doc_starts, scores), np.diff(words.doc_starts) + 1


def perplexities(model: NgramModel, batch: TextBatch, *, min_words: int) -> pa.FloatArray:
    """Give each document's perplexity per word and </s> as float32, rounded to 1e-4; null below so many words.

    Raises ValueError for `min_words` below 1.
    """
    return _per_word(*log10_probabilities(model, batch), min_words)


def _per_word(sums: Doubles, n: Ints, min_words: int) -> pa.FloatArray:
    if min_words < 1:
        raise ValueError(f"min_words is {min_words}; it takes 1 or more")
    return pa.array(np.round(10.0 ** (-sums / n), 4).astype(np.float32), mask=n - 1 < min_words)


def overlaps(model: NgramModel, batch: TextBatch) -> pa.FloatArray:
    """Give the share of each document's runs of OVERLAP_WORDS words that were fitted on, as float32; null where it has none."""
    starts, keys = kernels.long_gram_hashes(batch.words.doc_starts, word_keys(batch), OVERLAP_WORDS)
    n = np.diff(starts)
    found, _ = kernels.count_known(model.grams, model.n_gram_buckets, starts, keys)
    return pa.array((found / np.maximum(n, 1)).astype(np.float32), mask=n == 0)


def spell(batch: TextBatch) -> pa.LargeStringArray:
    """Spell each document as the model reads it: its words in lower case, with a space between.

    >>> spell(TextBatch.from_arrow(pa.array(["The Cat, the cat's 5 mg!"]))).to_pylist()
    ['the cat the cat s 5 mg']
    """
    words = batch.words
    data, offsets = kernels.spell(batch.data, words.doc_starts, words.starts, words.ends, lowered())
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


@dataclasses.dataclass(frozen=True, slots=True)
class KenlmModel:
    """A model of someone else's, opened by the kenlm package."""

    model: Any


def load_kenlm(path: str) -> KenlmModel:
    """Open a .arpa file or a binary file of KenLM. Raises ValueError, in one line, where the package is missing and for another file."""
    try:
        import kenlm  # type: ignore[import-not-found]  # compiled at its installation, and only this needs it
    except ImportError:
        raise ValueError(f'{path} is read by the kenlm package, which is not installed; pip install "gapless[kenlm]"') from None
    quiet = kenlm.Config()
    quiet.show_progress, quiet.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    try:
        return KenlmModel(kenlm.Model(path, quiet))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} is no model that KenLM reads ({' '.join(str(error).split())[:200]})") from None


def kenlm_perplexities(model: KenlmModel, batch: TextBatch, *, reads: str, min_words: int) -> pa.FloatArray:
    """Give each document's perplexity as `perplexities` does.

    The model reads "words" (see `spell`) or "text", the document as it is with one space for any white space; a document is one sentence.
    Raises ValueError for any other `reads`.
    """
    if reads not in ("words", "text"):
        raise ValueError(f"reads is {reads!r}; it takes 'words' or 'text'")
    lines: list[str]
    if reads == "words":
        lines = spell(batch).to_pylist()
        n = np.diff(batch.words.doc_starts) + 1
    else:
        lines = [" ".join(bytes(batch.data[start:end]).decode().split()) for start, end in itertools.pairwise(batch.offsets.tolist())]
        n = np.array([line.count(" ") + bool(line) for line in lines]) + 1
    sums = np.fromiter((model.model.score(line, bos=True, eos=True) for line in lines), np.float64, len(lines))
    return _per_word(sums, n, min_words)
