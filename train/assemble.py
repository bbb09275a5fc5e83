"""Kernels that lay the pieces of a step into sequences, straight from the memory maps of the token segments.

    rows of the plan + where each document's tokens are -> inputs, targets, positions, components

One pass over the places of a batch and no Python for a document or a token. Segments are reached by address, since a
kernel that takes hundreds of arrays would be compiled for each number of them; the maps must outlive the call.

Shapes: B sequences, T tokens of a sequence; rows of the plan are sorted by (sequence, slot).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numba.extending
import numpy as np
import numpy.typing as npt

IGNORED = -100
NO_COMPONENT = -1

Ints = npt.NDArray[np.int64]
_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    """Where tokens are, by ordinal: `segment`, `offset` (in tokens), `component`, and `span_at`, which bounds each document's
    spans without loss in `span_start` and `span_end`. `address` is that of each segment; `like` has the dtype of their tokens."""

    address: npt.NDArray[np.uint64]
    like: npt.NDArray[Any]
    segment: npt.NDArray[np.int32]
    offset: Ints
    component: npt.NDArray[np.int8]
    span_at: npt.NDArray[np.int32]
    span_start: npt.NDArray[np.int32]
    span_end: npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Pieces of some sequences, as the plan has them; `sequence` counts from the first one that is wanted."""

    sequence: Ints
    ordinal: Ints
    start: Ints
    length: Ints


def fill_tokens(places: Places, rows: Rows, separator: int, inputs_BT: npt.NDArray[Any], targets_BT: npt.NDArray[Any]) -> None:
    """Write every input and target, of any integer type. An input is the token before its target in the document, or the separator."""
    spans = places.span_at, places.span_start, places.span_end
    where = places.address, places.like, places.segment, places.offset
    _fill_tokens(*where, *spans, rows.sequence, rows.ordinal, rows.start, rows.length, separator, inputs_BT, targets_BT)


def fill_places(places: Places, rows: Rows, positions_BT: Ints, components_BT: npt.NDArray[np.int8]) -> Ints:
    """Write the place of each token in its piece, and its component; gives the place of each piece in its sequence."""
    piece_place = np.empty(len(rows.sequence), dtype=np.int64)
    _fill_places(places.component, rows.sequence, rows.ordinal, rows.length, positions_BT, components_BT, piece_place)
    return piece_place


def count_without_loss(places: Places, rows: Rows) -> int:
    """Count the tokens of pieces that lie in spans without loss."""
    return int(_count_without_loss(places.span_at, places.span_start, places.span_end, rows.ordinal, rows.start, rows.length))


def jit(kernel: _Kernel) -> _Kernel:
    """Compile on first call and keep the result on disk. numba's own decorator has no types."""
    compiled: _Kernel = numba.njit(nogil=True, cache=True)(kernel)
    return compiled


@numba.extending.intrinsic  # type: ignore[untyped-decorator] # numba has no types
def _pointer(_context: Any, address: Any) -> Any:
    """Take an address for a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return numba.types.voidptr(address), generate


@jit
def _fill_tokens(
    address: Any,
    like: Any,
    segment: Any,
    offset: Any,
    span_at: Any,
    span_start: Any,
    span_end: Any,
    sequence: Any,
    ordinal: Any,
    start: Any,
    length: Any,
    separator: int,
    inputs: Any,
    targets: Any,
) -> None:
    piece = 0
    for b in range(len(inputs)):
        place = 0
        while piece < len(sequence) and sequence[piece] == b:
            document, first, n = ordinal[piece], start[piece], length[piece]
            # The token before the piece is its first input, so the view begins with it where there is one.
            behind = 1 if first > 0 else 0
            skipped = np.uint64(offset[document] + first - behind) * np.uint64(like.itemsize)
            view = numba.carray(_pointer(address[segment[document]] + skipped), n + behind, like.dtype)
            read = view[behind:]
            input_row, target_row = inputs[b, place : place + n], targets[b, place : place + n]
            input_row[0] = view[0] if behind else separator
            for i in range(n - 1):
                input_row[1 + i] = read[i]
            for i in range(n):
                target_row[i] = read[i]
            for span in range(span_at[document], span_at[document + 1]):
                for i in range(max(span_start[span], first), min(span_end[span], first + n)):
                    targets[b, place + i - first] = IGNORED
            place += n
            piece += 1
        inputs[b, place:] = separator
        targets[b, place:] = IGNORED


@jit
def _fill_places(component: Any, sequence: Any, ordinal: Any, length: Any, positions: Any, components: Any, piece_place: Any) -> None:
    piece = 0
    for b in range(len(positions)):
        place = 0
        while piece < len(sequence) and sequence[piece] == b:
            row = positions[b, place : place + length[piece]]
            for i in range(len(row)):
                row[i] = i
            components[b, place : place + length[piece]] = component[ordinal[piece]]
            piece_place[piece] = place
            place += length[piece]
            piece += 1
        rest = positions[b, place:]
        for i in range(len(rest)):
            rest[i] = i
        components[b, place:] = NO_COMPONENT


@jit
def _count_without_loss(span_at: Any, span_start: Any, span_end: Any, ordinal: Any, start: Any, length: Any) -> int:
    n = 0
    for piece in range(len(ordinal)):
        document, first = ordinal[piece], start[piece]
        for span in range(span_at[document], span_at[document + 1]):
            n += max(min(span_end[span], first + length[piece]) - max(span_start[span], first), 0)
    return n
