"""A plain Python twin of filters.ngrams: modified Kneser-Ney by dictionaries, as Chen and Goodman 1998 and lmplz define it."""

import collections
import math
from collections.abc import Sequence

FALLBACK = (0.0, 0.5, 1.0, 1.5)
Gram = tuple[str, ...]


class TwinModel:
    """Fitted on documents as lists of words."""

    def __init__(self, documents: Sequence[Sequence[str]], order: int) -> None:
        self.order = order
        padded = [("<s>", *document, "</s>") for document in documents]
        raw = [
            collections.Counter(tuple(words[at : at + n]) for words in padded for at in range(len(words) - n + 1))
            for n in range(1, order + 1)
        ]
        self.counts: list[dict[Gram, int]] = []
        for n in range(1, order):
            before: dict[Gram, set[str]] = collections.defaultdict(set)
            for gram in raw[n]:
                before[gram[1:]].add(gram[0])
            self.counts.append({gram: len(before[gram]) if gram in before else count for gram, count in raw[n - 1].items()})
        self.counts.append(dict(raw[-1]))
        del self.counts[0][("<s>",)]
        self.vocabulary = {gram[0] for gram in self.counts[0]} | {"<unk>"}
        self.discounts = [self._discounts(list(counts.values())) for counts in self.counts]
        # By context: how often anything follows it, and how much is taken from that.
        self.follow: list[dict[Gram, tuple[int, float]]] = []
        for n, counts in enumerate(self.counts):
            follow: dict[Gram, tuple[int, float]] = collections.defaultdict(lambda: (0, 0.0))
            for gram, count in counts.items():
                total, left = follow[gram[:-1]]
                follow[gram[:-1]] = total + count, left + self.discounts[n][min(count, 3)]
            self.follow.append(dict(follow))

    @staticmethod
    def _discounts(counts: Sequence[int]) -> Sequence[float]:
        t = [0, *(sum(count == times for count in counts) for times in (1, 2, 3, 4))]
        if not all(t[1:]):
            return FALLBACK
        y = t[1] / (t[1] + 2 * t[2])
        found = [0.0, *(times - (times + 1) * y * t[times + 1] / t[times] for times in (1, 2, 3))]
        return FALLBACK if min(found[1:]) <= 0 else found

    def probability(self, context: Gram, word: str) -> float:
        """P(word | context), interpolated over all orders."""
        if word not in self.vocabulary:
            word = "<unk>"
        n = len(context)
        total, left = self.follow[n].get(context, (0, 0.0))
        lower = self.probability(context[1:], word) if n else 1 / len(self.vocabulary)
        if not total:
            return lower
        count = self.counts[n].get((*context, word), 0)
        return (count - self.discounts[n][min(count, 3)]) / total + left / total * lower

    def log10_probability(self, words: Sequence[str]) -> float:
        """Of a document: its words and </s>."""
        padded = ["<s>", *(word if word in self.vocabulary else "<unk>" for word in words), "</s>"]
        return sum(
            math.log10(self.probability(tuple(padded[max(0, at - self.order + 1) : at]), padded[at])) for at in range(1, len(padded))
        )
