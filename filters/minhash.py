"""Shingles, MinHash signatures and band keys of documents, and how similar two sets of shingles really are.

Near-duplicate search (curate.edges) asks this file three things: which documents may be similar (two that share a band key), how similar
they are (the exact Jaccard of their shingles, and how much of either's shorter shingles is in the other), and what a choice of bands and
rows finds (recall). The definition is written in
docs/minhash.md, with a plain Python twin; tests hold the two together. Signatures are those of datasketch's
MinHash(scheme="affine64") over our shingles, so they load there.

A shingle is a run of five words by docs/words.md, lower-cased. Numbers stay as they are, because 5 mg is not 50 mg. What this costs:
copies that differ in every number are not found. Everything is 64 bits wide; 32 would be faster and would take unequal shingles
for equal ones in large corpora.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters import shingle_kernels
from filters.chars import lowered
from filters.columns import TextBatch
from filters.kernels import Flags, Ints, Keys
from filters.shingle_kernels import Scores

# Raised with any change of a shingle, signature or band key.
VERSION = 1
SHINGLE_WORDS = 5
CONTAINED_WORDS = 3  # runs by which containment is measured: a cut at either end and a changed word cost less than with five
MIN_SHINGLES = 5

_LEAST_RECALL = 0.9
# Room for 26 bands of 11 rows; more hashes cost time and memory and make the curve hardly steeper.
_MOST_HASHES = 288


def shingles(batch: TextBatch, *, n_words: int = SHINGLE_WORDS) -> tuple[Ints, Keys]:
    """Find the distinct runs of so many words of every document, as hashes in ascending order.

    Those of document i are hashes[doc_starts[i]:doc_starts[i + 1]], for the returned (doc_starts, hashes).
    """
    starts, hashes = shingle_kernels.distinct_shingles(word_hashes(batch), batch.words.doc_starts, n_words)
    return starts, hashes


def signatures(batch: TextBatch, *, n_perms: int = 112, seed: int = 1) -> tuple[Keys, Flags]:
    """Sign every document: one row of n_perms minima each, and whether it has a signature.

    A document with fewer than MIN_SHINGLES distinct shingles has none; its row is that of an empty set in datasketch.
    """
    factors, summands = _permutations(n_perms, seed)
    words, starts = word_hashes(batch), batch.words.doc_starts
    rows, has_signature = shingle_kernels.sign(words, starts, SHINGLE_WORDS, factors, summands, MIN_SHINGLES)
    return rows, has_signature


def band_keys(batch: TextBatch, *, bands: int = 14, rows: int = 8, seed: int = 1) -> pa.FixedSizeListArray:
    """Fold the signature of every document into one key per band; null for a document without signature.

    Two documents share a key where all values of a band are equal. A key says which band it is of, so keys of different bands
    do not match.
    """
    signed, has_signature = signatures(batch, n_perms=bands * rows, seed=seed)
    keys = shingle_kernels.fold_bands(signed, bands)
    return pa.FixedSizeListArray.from_arrays(pa.array(keys.reshape(-1)), bands, mask=pa.array(~has_signature))


def jaccard(starts_a: Ints, ends_a: Ints, starts_b: Ints, ends_b: Ints, hashes: Keys) -> Scores:
    """Compare pairs of sets: pair i is hashes[starts_a[i]:ends_a[i]] and hashes[starts_b[i]:ends_b[i]], each ascending and distinct.

    Shared shingles per shingle of either; 0 where both are empty. `hashes` may be mapped from a file; it is only read.
    """
    scores: Scores = shingle_kernels.jaccard(*_places(starts_a, ends_a, starts_b, ends_b), _read_only(hashes, np.uint64))
    return scores


def containment(starts_a: Ints, ends_a: Ints, starts_b: Ints, ends_b: Ints, hashes: Keys) -> tuple[Scores, Scores]:
    """Compare pairs of sets, given as for `jaccard`: the share of the first one's elements that are in the second, and the other way round.

    Both are 0 where nothing is shared. The greater one is the containment of the smaller set (Broder 1997, On the resemblance and
    containment of documents, section 2).
    """
    of_a, of_b = shingle_kernels.containment(*_places(starts_a, ends_a, starts_b, ends_b), _read_only(hashes, np.uint64))
    return of_a, of_b


def recall(similarity: float, *, bands: int, rows: int) -> float:
    """Probability that two documents of this Jaccard similarity share a band key (Leskovec et al., Mining of Massive Datasets, 3.4.2).

    >>> round(recall(0.8, bands=14, rows=8), 3)
    0.924
    """
    return float(1 - (1 - similarity**rows) ** bands)


def least_threshold(bands: int, rows: int) -> float:
    """Smallest multiple of 0.05 at which at least 9 of 10 pairs are found.

    >>> least_threshold(14, 8), least_threshold(26, 11)
    (0.8, 0.8)
    """
    return next(step / 20 for step in range(1, 21) if recall(step / 20, bands=bands, rows=rows) >= _LEAST_RECALL)


def fitting_bands(threshold: float) -> tuple[int, int]:
    """Choose (bands, rows) for a threshold: as many rows as can be, because they keep dissimilar pairs apart, then as few bands.

    The choice has a least_threshold at or below the threshold, and at most 288 hashes (bands x rows). Raises ValueError for a
    threshold outside [0.05, 1].

    >>> fitting_bands(0.8)
    (26, 11)
    """
    if not 0.05 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} fits no bands; allowed: 0.05 to 1. Choose a similarity in this range.")
    shapes = ((bands, rows) for rows in range(_MOST_HASHES, 0, -1) for bands in range(1, _MOST_HASHES // rows + 1))
    return next((bands, rows) for bands, rows in shapes if least_threshold(bands, rows) <= threshold)


def _places(starts_a: Ints, ends_a: Ints, starts_b: Ints, ends_b: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    first_a, last_a = _read_only(starts_a, np.int64), _read_only(ends_a, np.int64)
    first_b, last_b = _read_only(starts_b, np.int64), _read_only(ends_b, np.int64)
    return first_a, last_a, first_b, last_b


def _read_only(values: npt.NDArray[Any], dtype: type[np.int64] | type[np.uint64]) -> npt.NDArray[Any]:
    # Mapped memory is read-only, and numba compiles once per kind of array.
    view = np.ascontiguousarray(values, dtype).view()
    view.flags.writeable = False
    return view


def word_hashes(batch: TextBatch) -> Keys:
    """Hash every word of `batch.words`, in lower case, to 64 bits."""
    words = batch.words
    hashes: Keys = shingle_kernels.hash_words(batch.data, words.starts, words.ends, lowered())
    return hashes


@functools.cache
def _permutations(n_perms: int, seed: int) -> tuple[Keys, Keys]:
    """Draw the factors and summands of a * x + b as datasketch.MinHash does for scheme "affine64"."""
    random = np.random.RandomState(seed)
    factors = random.randint(0, 1 << 63, n_perms, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    summands = random.randint(0, 1 << 64, n_perms, dtype=np.uint64)
    return factors, summands
