"""Who is kept among texts that are nearly alike: greedy in a given order over verified edges, part of `decide`.

It is asked twice: over edges by similarity in keeper order, then, over the rows that are left, by containment with the longest first.

A row goes only where an edge joins it to a row that is kept; there is no transitive closure, so a chain of small changes never
carries a text away from the one that stands for it. Cost: one pass over the edges among rows that passed, 16 bytes each.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from filters.kernels import jit

_NONE = -1
_FEW = 200_000  # edges that are done while compiled code is still being loaded, which takes 0.3 s


def keepers(n_rows: int, earlier: npt.NDArray[np.int64], later: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Say for each row the edge by which it goes, or -1 where it is kept.

    Rows are numbered in the order that decides who is kept. Edge i joins earlier[i] < later[i]; edges are sorted by `later`, and among
    those of one row the first whose other end is kept decides.

    >>> keepers(4, np.array([0, 1, 2]), np.array([1, 2, 3])).tolist()  # a chain 0 - 1 - 2 - 3: 0 and 2 are kept
    [-1, 0, -1, 2]
    """
    pick = _greedy if len(later) < _FEW else _pick
    edge: npt.NDArray[np.int64] = pick(n_rows, earlier, later)
    return edge


def _greedy(n_rows: int, earlier: npt.NDArray[np.int64], later: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    by = np.full(n_rows, _NONE, np.int64)
    for i in range(len(later)):
        if by[later[i]] == _NONE and by[earlier[i]] == _NONE:
            by[later[i]] = i
    return by


_pick: Callable[..., Any] = jit(_greedy)
