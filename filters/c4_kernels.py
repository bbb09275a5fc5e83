"""The kernel behind filters.c4: which lines C4's rules leave, and what the lines that are left hold, per document."""

from __future__ import annotations

from typing import Final

import numpy as np

from filters.kernels import Ints, Places, jit
from filters.line_kernels import BLANK, FEW_WORDS, FLAGS_FOUND, LONG_WORD, SENTENCES_FOUND, UNENDED
from filters.phrase_kernels import CURLY, JAVASCRIPT, LOREM, POLICY

# Columns: lines and bytes that each line rule alone would cut, then what the lines that are left hold.
LINE_RULES: Final = (LONG_WORD, UNENDED, FEW_WORDS, JAVASCRIPT, POLICY)
N_RULES: Final = 5
LEFT_LOREM, LEFT_CURLY, LEFT_SENTENCES, LEFT_BYTES = range(2 * N_RULES, 2 * N_RULES + 4)
_N_COLUMNS: Final = 2 * N_RULES + 4


@jit
def judge_lines(doc_starts: Ints, starts: Places, ends: Places, found: Places, ignored: int) -> Ints:
    """`ignored` is a flag that cuts no line here. Blank lines are nobody's; the page rules see lines in the order of C4's code."""
    n_docs = len(doc_starts) - 1
    sums = np.zeros((n_docs, _N_COLUMNS), np.int64)
    for doc in range(n_docs):
        own = sums[doc]
        for line in range(doc_starts[doc], doc_starts[doc + 1]):
            bits, size = found[line, FLAGS_FOUND], ends[line] - starts[line]
            if bits & BLANK:
                continue
            for rule in range(N_RULES):
                if bits & LINE_RULES[rule]:
                    own[rule] += 1
                    own[N_RULES + rule] += size
            bits &= ~ignored
            if bits & (LONG_WORD | UNENDED | FEW_WORDS):
                continue
            own[LEFT_LOREM] += bits & LOREM != 0
            if bits & JAVASCRIPT:
                continue
            own[LEFT_CURLY] += bits & CURLY != 0
            if bits & POLICY:
                continue
            own[LEFT_SENTENCES] += found[line, SENTENCES_FOUND]
            own[LEFT_BYTES] += size
    return sums
