"""What a family of signals is: the types that every file in `filters` fills in and that `curate` reads.

A family states facts (signals) and suggests limits (rules); it never drops a document. The limits in a rule are defaults: a recipe may
set others under the same names, and a changed limit recomputes nothing, because the facts do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from filters.columns import TextBatch


@dataclass(frozen=True, slots=True)
class Signal:
    """A column with one value per document, or null where the question has no meaning for that document."""

    name: str
    type: Literal["int32", "float32", "bool", "string"]
    meaning: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A limit on one signal. Its name is the name of the threshold in a recipe, and ends the reason of a drop.

    `gopher_quality.min_words` is the reason where rule `min_words` of family `gopher_quality` fails. A threshold of None is a rule that
    is off unless a recipe gives it one. `source` says where the default comes from: paper and section, or dataset card.
    """

    name: str
    signal: str
    keep: Literal[">=", "<="]
    threshold: float | None
    source: str

    def passes(self, values: pa.Array) -> pa.Array:
        """Judge one column: True where `signal keep threshold`, where the signal is null (not judged), and where the rule is off.

        A float32 signal is compared with the threshold as float32, so that a document exactly at the limit passes: a share of
        1 in 10 is stored as float32(0.1), which lies above the double 0.1. SQL over signals has to do the same (CAST(0.1 AS FLOAT)).

        >>> rule = Rule("max_hash_ratio", "hash_ratio", "<=", 0.1, "an example")
        >>> rule.passes(pa.array([1 / 10, 2 / 10, None], pa.float32())).to_pylist()
        [True, False, True]
        """
        if self.threshold is None:
            return pa.repeat(True, len(values))
        exact = pa.float32() if pa.types.is_float32(values.type) else pa.float64()
        compare = pc.greater_equal if self.keep == ">=" else pc.less_equal
        return compare(values.cast(exact), pa.scalar(self.threshold, exact)).fill_null(True)


@dataclass(frozen=True, slots=True)
class Family:
    """Signals that are computed together, the rules over them in the order in which they judge, and the version of both.

    `compute` returns exactly one array per signal, in the order of `signals`, of the batch's length and the declared type. Cached
    signals are keyed by `version`: any change of an output needs a new one. It is None where no text alone tells the signals
    (`filters.CORPUS_FAMILIES`). A family that `is_web` was made for web pages: a recipe has only web sources judged by it, unless told
    otherwise.
    """

    name: str
    version: int
    signals: tuple[Signal, ...]
    rules: tuple[Rule, ...]
    compute: Callable[[TextBatch], dict[str, pa.Array]] | None
    is_web: bool = False
