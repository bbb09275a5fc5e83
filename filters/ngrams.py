"""A model of n-grams of words, interpolated modified Kneser-Ney, fitted in columns: the reference that perplexity is measured by.

The estimate is that of Chen and Goodman 1998, as Heafield et al. 2013 (lmplz) make it, without pruning, over the words of docs/words.md in
lower case; a document is one sentence. tests/filters/ngram_twin.py is a plain Python twin. Cost: one sort of the words per order, some
40 bytes a word on the way, 24 bytes an n-gram in the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from filters import perplexity_kernels as kernels
from filters.chars import lowered
from filters.columns import TextBatch
from filters.kernels import Flags, Ints, Keys, Packed
from filters.minhash import word_hashes
from filters.perplexity_kernels import Doubles

ORDERS = (3, 4, 5)
OVERLAP_WORDS = 13
SPECIAL = ("<unk>", "<s>", "</s>")
_UNK, _BOS, _EOS = range(3)
# Places per n-gram.
_ROOM = 1.75
# Discounts of an order whose counts are too few or too even for an estimate (those of lmplz --discount_fallback).
_FALLBACK = np.array([0.0, 0.5, 1.0, 1.5])


@dataclasses.dataclass(frozen=True, slots=True)
class NgramModel:
    """An opened model of the orders 1 to `order`.

    `tables[n - 1]` has eight uint64 a bucket (see filters.perplexity_kernels), that of words one bucket more at its end; `spelled` holds
    the words in the order of their names, and `grams` is a table of the hashes of every run of OVERLAP_WORDS words that was fitted on.
    """

    order: int
    n_ngrams: tuple[int, ...]
    tables: tuple[Keys, ...]
    grams: Keys
    spelled: pa.LargeStringArray
    n_docs: int
    n_words: int

    @property
    def vocab_size(self) -> int:
        """How many words the model knows, without <unk>, <s> and </s>."""
        return len(self.spelled)

    def n_buckets(self, order: int) -> int:
        """How many buckets are searched: those of words are followed by one with <unk>, <s> and </s>."""
        return len(self.tables[order - 1]) // 8 - (order == 1)

    @property
    def n_gram_buckets(self) -> int:
        return len(self.grams) // 8


@dataclasses.dataclass(frozen=True, slots=True)
class _Grams:
    """All distinct n-grams of one order, by context and word: the ranks of the first n - 1 words and of the last n - 1 words among those of
    the order below, the last word's id, and how often it occurs."""

    context: Packed
    suffix: Packed
    word: Packed
    count: Ints


def fit(batches: Iterable[TextBatch], *, order: int = 5) -> NgramModel:
    """Fit a model on documents; the same ones in the same order give the same model.

    Raises ValueError, in one line, for an order that is none of ORDERS and for documents without words.
    """
    if order not in ORDERS:
        raise ValueError(f"the order is {order}; it takes one of {', '.join(map(str, ORDERS))}")
    vocabulary, spelled, ids, lengths, grams = _read(batches)
    if not len(vocabulary):
        raise ValueError("the documents have no words")
    by_order = _count(ids, lengths, order, len(vocabulary))
    probabilities, backoffs = _estimate(by_order)
    tables, ranks = _tables(vocabulary, by_order, probabilities, backoffs)
    return NgramModel(
        order, tuple(len(one.word) for one in by_order), tables, grams, spelled.take(pa.array(ranks)), len(lengths), int(lengths.sum())
    )


def word_keys(batch: TextBatch) -> Keys:
    """Give the key of every word of a batch: its hash in lower case, to 63 bits."""
    keys: Keys = np.minimum(word_hashes(batch) & ~kernels.GOES_ON, kernels.EMPTY - np.uint64(1))
    return keys


def _read(batches: Iterable[TextBatch]) -> tuple[Keys, pa.LargeStringArray, Packed, Ints, Keys]:
    """Give the hashes of the vocabulary in ascending order, their spellings, each document's words as ids between <s> and </s>, how many
    words it has, and the table of long runs."""
    hashes, known, spelled, lengths, long = [], [], [], [], []
    for batch in batches:
        its_hashes, words = word_keys(batch), batch.words
        distinct, first = _distinct(its_hashes)
        alone = np.arange(len(first) + 1)
        data, offsets = kernels.spell(batch.data, alone, words.starts[first], words.ends[first], lowered())
        hashes.append(its_hashes)
        known.append(distinct)
        spelled.append(pa.LargeStringArray.from_buffers(len(first), pa.py_buffer(offsets), pa.py_buffer(data)))
        lengths.append(np.diff(words.doc_starts))
        long.append(kernels.long_gram_hashes(words.doc_starts, its_hashes, OVERLAP_WORDS)[1])
    if not hashes:
        raise ValueError("there are no documents")
    vocabulary, first = _distinct(np.concatenate(known))
    n_words = np.concatenate(lengths)
    # <s> and </s> around each document: its words move by 2 i + 1.
    starts = np.concatenate([[0], np.cumsum(n_words + 2)])
    ids = np.empty(starts[-1], np.uint32)
    is_word = np.ones(len(ids), bool)
    is_word[starts[:-1]] = is_word[starts[1:] - 1] = False
    ids[starts[:-1]], ids[starts[1:] - 1] = _BOS, _EOS
    ids[is_word] = np.searchsorted(vocabulary, np.concatenate(hashes)) + len(SPECIAL)
    runs = np.sort(np.concatenate(long))
    runs = runs[_is_first(runs)]
    table, _ = _place(runs, 0)
    return vocabulary, pa.concat_arrays(spelled).take(pa.array(first)), ids, n_words, table


def _distinct(keys: Keys) -> tuple[Keys, Ints]:
    """Give the distinct keys in ascending order, and a place of each, by one sort: numpy.unique hashes, which takes longer."""
    by_key = np.argsort(keys)
    ascending = keys[by_key]
    is_first = _is_first(ascending)
    return ascending[is_first], by_key[is_first]


def _is_first(ascending: Keys) -> Flags:
    is_first = np.ones(len(ascending), bool)
    is_first[1:] = ascending[1:] != ascending[:-1]
    return is_first


def _count(ids: Packed, lengths: Ints, order: int, n_known: int) -> list[_Grams]:
    """Find all distinct n-grams up to an order, with their adjusted counts: of the highest order, and of those that begin a document, how
    often they occur, of the others how many words they follow."""
    starts = np.concatenate([[0], np.cumsum(lengths + 2)])
    place = np.arange(len(ids)) - np.repeat(starts[:-1], lengths + 2)
    n_ids = n_known + len(SPECIAL)
    empty = np.zeros(n_ids, np.uint32)
    found = [_Grams(empty, empty, np.arange(n_ids, dtype=np.uint32), np.bincount(ids, minlength=n_ids))]
    names = ids
    for n in range(2, order + 1):
        at = np.flatnonzero(place >= n - 1)
        keys = (names[at - 1].astype(np.uint64) << np.uint64(32)) | ids[at]
        by_key = np.argsort(keys)
        keys = keys[by_key]
        is_first = _is_first(keys)
        bounds = np.flatnonzero(is_first)
        distinct = keys[bounds]
        suffix = names[at[by_key[bounds]]]
        counts = np.diff(np.append(bounds, len(keys)))
        found.append(_Grams((distinct >> np.uint64(32)).astype(np.uint32), suffix, distinct.astype(np.uint32), counts))
        names = np.zeros(len(ids), np.uint32)
        names[at[by_key]] = np.cumsum(is_first, dtype=np.uint32) - np.uint32(1)
        below = found[-2]
        n_before = np.bincount(suffix, minlength=len(below.word))
        found[-2] = dataclasses.replace(below, count=np.where(n_before > 0, n_before, below.count))
    # <s> is never predicted.
    found[0].count[_BOS] = 0
    return found


def _estimate(by_order: Sequence[_Grams]) -> tuple[list[Doubles], list[Doubles]]:
    """Give each n-gram's probability, and the weight that what follows it gives to the order below (1 where nothing follows it)."""
    probabilities: list[Doubles] = []
    backoffs: list[Doubles] = []
    for n, grams in enumerate(by_order, 1):
        discounts = _discounts(grams.count)
        n_contexts = 1 if n == 1 else len(by_order[n - 2].word)
        kinds = np.minimum(grams.count, 3)
        taken = discounts[kinds]
        totals = np.bincount(grams.context, grams.count, minlength=n_contexts)
        left = np.bincount(grams.context, taken, minlength=n_contexts)
        weights = np.divide(left, totals, out=np.ones(n_contexts), where=totals > 0)
        # What the order below says; below the first all words are alike, <unk> too and <s> not.
        lower = probabilities[-1][grams.suffix] if probabilities else 1.0 / (len(grams.word) - 1)
        probabilities.append((grams.count - taken) / totals[grams.context] + weights[grams.context] * lower)
        if n > 1:
            backoffs.append(weights)
    backoffs.append(np.ones(len(by_order[-1].word)))
    return probabilities, backoffs


def _discounts(count: Ints) -> Doubles:
    """Give what is taken from an n-gram that occurs 0, 1, 2, and 3 times or more (Chen and Goodman 1998, equation 26)."""
    n_with = [int(np.count_nonzero(count == times)) for times in range(5)]
    if not all(n_with[1:]):
        return _FALLBACK
    y = n_with[1] / (n_with[1] + 2 * n_with[2])
    discounts = np.array([0.0, *(times - (times + 1) * y * n_with[times + 1] / n_with[times] for times in (1, 2, 3))])
    return _FALLBACK if (discounts[1:] <= 0).any() else discounts


def _tables(
    vocabulary: Keys, by_order: Sequence[_Grams], probabilities: Sequence[Doubles], backoffs: Sequence[Doubles]
) -> tuple[tuple[Keys, ...], Ints]:
    """Make the tables, and give the ranks of the words in the order of their names."""
    first, of_words = _place(vocabulary, 1)
    specials = np.arange(len(SPECIAL), dtype=np.uint32) + np.uint32(len(first) // 2 - kernels.IN_BUCKET)
    words = np.concatenate([specials, of_words])
    _fill(first, words, probabilities[0], backoffs[0])
    first.view(np.float32)[_probabilities(words[_BOS])] = 0.0  # as lmplz does: nobody asks for it
    tables, names = [first], words
    for n, grams in enumerate(by_order[1:], 2):
        table, names = _place((names[grams.context].astype(np.uint64) << np.uint64(32)) | words[grams.word], 0)
        _fill(table, names, probabilities[n - 1], backoffs[n - 1])
        tables.append(table)
    return tuple(tables), np.argsort(of_words)


def _place(keys: Keys, n_more: int) -> tuple[Keys, Packed]:
    """Put keys into a table of their own, with so many more buckets at its end, and give their names."""
    n_buckets = max(1, int(len(keys) * _ROOM) // kernels.IN_BUCKET)
    table = aligned(8 * (n_buckets + n_more))
    table.reshape(-1, 8)[:, : kernels.IN_BUCKET] = kernels.EMPTY
    table.reshape(-1, 8)[:, kernels.IN_BUCKET :] = 0
    names = np.empty(len(keys), np.uint32)
    kernels.insert(table, n_buckets, keys, names)
    return table, names


def aligned(n: int) -> Keys:
    """Make room for n uint64 such that each bucket is one cache line."""
    room = np.empty(n + 8, np.uint64)
    first = -(room.ctypes.data // 8) % 8
    return room[first : first + n]


def _fill(table: Keys, names: Packed, probabilities: Doubles, backoffs: Doubles) -> None:
    values, at = table.view(np.float32), _probabilities(names)
    values[at] = np.log10(np.maximum(probabilities, np.finfo(np.float64).tiny))
    values[at + kernels.IN_BUCKET] = np.log10(backoffs)


def _probabilities(names: Packed) -> Ints:
    """Say where the probabilities are in a table as float32 (see kernels.probability_at)."""
    wide = names.astype(np.int64)
    return 16 * (wide >> 2) + 8 + (wide & 3)
