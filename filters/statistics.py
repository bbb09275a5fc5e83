"""Family `statistics`: how long a document is. No rules: lengths are used by decisions of other kinds (budgets, reports, order).

`n_words` here counts by the word rule in every script; `gopher_quality.n_words` is null where words mean nothing.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from filters.columns import TextBatch, count_chars
from filters.spec import Family, Signal


def _compute(batch: TextBatch) -> dict[str, pa.Array]:
    counts = {"n_chars": count_chars(batch), "n_words": np.diff(batch.words.doc_starts), "n_lines": np.diff(batch.lines.doc_starts)}
    return {name: pa.array(values.astype(np.int32)) for name, values in counts.items()}


STATISTICS = Family(
    name="statistics",
    version=1,
    signals=(
        Signal("n_chars", "int32", "code points"),
        Signal("n_words", "int32", "words by the rule in docs/words.md, in every script"),
        Signal("n_lines", "int32", "lines, empty ones included"),
    ),
    rules=(),
    compute=_compute,
)
