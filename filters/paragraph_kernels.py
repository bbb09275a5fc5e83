"""The kernel behind filters.paragraphs: the lines of many words, each named by its words, with what lies around it."""

from __future__ import annotations

import numpy as np

from filters.kernels import Ints, Keys, Places, fmix64, jit
from filters.line_kernels import BLANK, FLAGS_FOUND


@jit
def find_paragraphs(
    offsets: Ints,
    line_doc_starts: Ints,
    line_starts: Places,
    line_ends: Places,
    found: Places,
    word_doc_starts: Ints,
    word_starts: Places,
    hashes: Keys,
    min_words: int,
) -> tuple[Ints, Keys, Places, Places, Places]:
    n_docs, most = len(offsets) - 1, min(len(line_starts), len(word_starts) // min_words)
    doc_starts, keys = np.zeros(n_docs + 1, np.int64), np.empty(most, np.uint64)
    starts, ends, nexts = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.int32)
    n = 0
    for doc in range(n_docs):
        first, word, written_end, is_last = offsets[doc], word_doc_starts[doc], 0, False
        for line in range(line_doc_starts[doc], line_doc_starts[doc + 1]):
            if found[line, FLAGS_FOUND] & BLANK:
                continue
            if is_last:
                nexts[n - 1] = line_starts[line] - first
            key, n_words = np.uint64(0), 0
            while word < word_doc_starts[doc + 1] and word_starts[word] < line_ends[line]:
                key = fmix64(key ^ hashes[word])
                n_words += 1
                word += 1
            is_last = n_words >= min_words
            if is_last:
                keys[n], starts[n], ends[n], nexts[n] = key, written_end, line_ends[line] - first, offsets[doc + 1] - first
                n += 1
            written_end = line_ends[line] - first
        doc_starts[doc + 1] = n
    return doc_starts, keys[:n], starts[:n], ends[:n], nexts[:n]
