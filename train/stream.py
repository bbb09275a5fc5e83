"""Batches from the plan and the token segments: the state is the step number, nothing else.

The form: `targets_BT` is exactly what the plan says, so every token of the plan is a target exactly once. The input
under each target is the token before it: in the sequence, or, for a sequence's first token, in its document; where the
document begins there, the separator. Shapes never change: what a short last step leaves open is filled with separators
and has IGNORED labels. `no_loss` spans stay as inputs and have IGNORED labels too.

Nothing is read but the tokens of the batch, from memory maps; the cost is one table of where each document's tokens
are, some 40 bytes a document.

Shapes: B sequences of a global batch, T tokens of a sequence.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate import manifest as manifests
from curate import tokens
from curate.manifest import Manifest
from curate.store import Store
from curate.tokens import Located, Segments
from train.plan import Ints, Plan, draw_epoch, open_epoch, redraw_epoch

IGNORED = -100
NO_COMPONENT = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """One step. `components_BT` indexes the stream's components, NO_COMPONENT where nothing stands."""

    inputs_BT: Ints
    targets_BT: Ints
    labels_BT: Ints
    components_BT: npt.NDArray[np.int8]
    n_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class Documents:
    """Where the tokens of each train row are, by ordinal, and which component it belongs to."""

    located: Located
    component: npt.NDArray[np.int8]


class Stream:
    """The batches of a run, by step number. Keeps the table of the epoch that was last asked for."""

    def __init__(
        self, plan: Plan, segments: Segments, documents: Documents, *, separator: int, read_epoch: Callable[[int], pa.Table]
    ) -> None:
        self._plan, self._segments, self._documents = plan, segments, documents
        self._separator, self._read_epoch = separator, read_epoch
        self._epoch = -1
        self._columns: dict[str, Any] = {}

    def batch(self, step: int) -> Batch:
        """Assemble the batch of a step, counted from 0 over the run."""
        epoch = self._plan.epoch_of(step)
        if epoch != self._epoch:
            table = self._read_epoch(epoch)
            self._columns = {name: table[name].to_numpy() for name in table.column_names}
            self._epoch = epoch
        first, last = np.searchsorted(self._columns["step"], [step, step + 1])
        return self._assemble({name: column[first:last].astype(np.int64) for name, column in self._columns.items()})

    def _assemble(self, rows: dict[str, Ints]) -> Batch:
        shape = (self._plan.global_batch, self._plan.seq_len)
        ordinal, length = rows["ordinal"], rows["length"]
        source = self._documents.located.offset[ordinal] + rows["start"]
        segment = self._documents.located.segment[ordinal]
        place = _places(rows["sequence"], length, self._plan.seq_len)
        targets = np.full(shape, self._separator, dtype=np.int64)
        flat, at = targets.reshape(-1), spread(place, length)
        flat[at] = gather(self._segments, np.repeat(segment, length), spread(source, length))
        components = np.full(shape, NO_COMPONENT, dtype=np.int8)
        components.reshape(-1)[at] = np.repeat(self._documents.component[ordinal], length)
        labels = np.where(components == NO_COMPONENT, IGNORED, targets)
        labels.reshape(-1)[self._without_loss(rows, place)] = IGNORED
        inputs = np.full(shape, self._separator, dtype=np.int64)
        inputs[:, 1:] = targets[:, :-1]
        opens = (rows["slot"] == 0) & (rows["start"] > 0)
        inputs[rows["sequence"][opens], 0] = gather(self._segments, segment[opens], source[opens] - 1)
        return Batch(inputs, targets, labels, components, int(length.sum()))

    def _without_loss(self, rows: dict[str, Ints], place: Ints) -> Ints:
        """Give the places in the flat batch that lie in no-loss spans of their documents."""
        spans = self._documents.located.no_loss.take(pa.array(rows["ordinal"]))
        flat = spans.flatten()
        piece = np.repeat(np.arange(len(spans)), spans.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))
        start, end = (flat.field(name).to_numpy(zero_copy_only=False).astype(np.int64) for name in ("start", "end"))
        first = np.maximum(start, rows["start"][piece])
        length = np.maximum(np.minimum(end, (rows["start"] + rows["length"])[piece]) - first, 0)
        return spread(place[piece] + first - rows["start"][piece], length)


def open_stream(
    store: Store, manifest: Manifest, plan: Plan, *, tokenizer: Mapping[str, Any], n_tokens: Ints | None
) -> tuple[Stream, tuple[str, ...]]:
    """Open a manifest's documents under a plan and a tokenizer, and name the components that `components_BT` indexes.

    `n_tokens` are their counts where the tokenizer is not the manifest's own: by ordinal, 0 where no epoch draws the row.
    """
    table = manifests.rows(store, manifest, "train", ["doc_id", "masks", "component"])
    segments = tokens.open_segments(store, tokenizer)
    if n_tokens is None:
        located, draw = segments.locate(table["doc_id"], table["masks"]), functools.partial(draw_epoch, store, manifest)
    else:
        located, draw = _locate(segments, table, np.flatnonzero(n_tokens)), functools.partial(redraw_epoch, store, manifest, n_tokens)
    names = tuple(dict.fromkeys(part.name for stage in manifest.stages for part in stage.components))
    code = pc.index_in(table["component"].cast(pa.string()).combine_chunks(), pa.array(names, pa.string()))
    documents = Documents(located, code.fill_null(NO_COMPONENT).to_numpy().astype(np.int8))
    before, after = tokens.separators(store, tokenizer)
    # What precedes a document in a stream is the end of another one.
    separator = (after or before)[-1]
    return Stream(plan, segments, documents, separator=separator, read_epoch=lambda index: open_epoch(store, plan, index, draw)), names


def chain_hash(previous: str, batch: Batch) -> str:
    """Extend the running hash of the token stream by a step: SHA-256 of the hash before and of inputs and labels."""
    digest = hashlib.sha256(bytes.fromhex(previous))
    for array in (batch.inputs_BT, batch.labels_BT):
        digest.update(array.astype("<i4").tobytes())
    return digest.hexdigest()


def gather(segments: Segments, segment: npt.NDArray[np.int32] | Ints, source: Ints) -> Ints:
    """Read single tokens: the one at place `source` of each segment."""
    found = np.empty(len(source), dtype=np.int64)
    for number in np.unique(segment):
        here = segment == number
        found[here] = segments.arrays[number][source[here]]
    return found


def _locate(segments: Segments, table: pa.Table, ordinals: Ints) -> Located:
    """Find the tokens of some rows of a table; the others have none, and no plan asks for them."""
    some = table.take(pa.array(ordinals))
    found = segments.locate(some["doc_id"], some["masks"])
    segment, offset, n_tokens = (np.zeros(table.num_rows, column.dtype) for column in (found.segment, found.offset, found.n_tokens))
    segment[ordinals], offset[ordinals], n_tokens[ordinals] = found.segment, found.offset, found.n_tokens
    at = np.full(table.num_rows, -1, dtype=np.int64)
    at[ordinals] = np.arange(len(ordinals))
    return Located(segment, offset, n_tokens, found.no_loss.take(pa.array(at, mask=at < 0)))


def _places(sequence: Ints, length: Ints, seq_len: int) -> Ints:
    """Give each piece's first place in the flat batch: pieces fill their sequence from its start."""
    ends = np.cumsum(length)
    starts = ends - length
    places: Ints = sequence * seq_len + starts - starts[np.searchsorted(sequence, sequence)]
    return places


def spread(first: Ints, length: Ints) -> Ints:
    """List first, first + 1, ... for each pair, end to end.

    >>> spread(np.array([7, 1]), np.array([2, 3])).tolist()
    [7, 8, 1, 2, 3]
    """
    ends = np.cumsum(length)
    numbers: Ints = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - length), length)
    return numbers
