"""Batches from the plan and the token segments: the state is the step number, nothing else.

    PLAN + cache/tokens -> Stream.batch(step) -> prefetch -> loop

The form: every token of the plan is a target exactly once. The input under each target is the token before it in its
document; where the document begins, the separator. So a piece of a document gives the same inputs and targets wherever it
stands, and nothing of its neighbours. Shapes never change: what is left open has
the separator for input and IGNORED for target. `no_loss` spans stay as inputs and are IGNORED as targets.

Nothing is read but the tokens of the batch, from memory maps; the cost is one table of where each document's tokens
are, some 20 bytes a document.

Shapes: B sequences of this process, T tokens of a sequence.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from curate.manifest import Manifest
from curate.store import Store
from curate.tokens import Segments
from train.assemble import IGNORED as IGNORED
from train.assemble import NO_COMPONENT as NO_COMPONENT
from train.assemble import Ints, Places, Rows, count_without_loss, fill_places, fill_tokens
from train.config import ConfigError
from train.documents import Documents, component_names, open_documents
from train.plan import Draw, Plan, draw_epoch, redraw_epoch
from train.plan_file import Columns, PlannedEpoch, Planner

Array = TypeVar("Array")
Numbers = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces of a batch in order: row of the batch and column where it begins, length and start in the document in tokens, ordinal."""

    sequence: Ints
    place: Ints
    length: Ints
    start: Ints
    ordinal: Ints


@dataclasses.dataclass(frozen=True, slots=True)
class Batch(Generic[Array]):
    """What one process sees of a step. `components_BT` (int8) indexes the stream's components, NO_COMPONENT where nothing stands.

    Inputs, targets and positions are int32. A position counts from 0 within its piece, and what is left open is a piece of its own:
    tokens belong together from one 0 to the next. The two counts are of the whole global batch: tokens of the plan, and targets with loss.
    """

    inputs_BT: Array
    targets_BT: Array
    positions_BT: Array
    components_BT: Array
    pieces: Pieces
    n_tokens: int
    n_targets_global: int

    def micro(self, n_sequences: int) -> Iterator["Batch[Array]"]:
        """Cut the batch into micro-batches, in order, without copying; the counts stay those of the global batch."""
        arrays: Any = (self.inputs_BT, self.targets_BT, self.positions_BT, self.components_BT)
        for first in range(0, len(arrays[0]), n_sequences):
            low, high = np.searchsorted(self.pieces.sequence, [first, first + n_sequences])
            here = {field.name: getattr(self.pieces, field.name)[low:high] for field in dataclasses.fields(Pieces)}
            pieces = Pieces(**{**here, "sequence": here["sequence"] - first})
            inputs, targets, positions, components = (array[first : first + n_sequences] for array in arrays)
            yield Batch(inputs, targets, positions, components, pieces, self.n_tokens, self.n_targets_global)


class Epochs(Protocol):
    """Where the epochs of a plan come from; `begin` may prepare one in the background."""

    def begin(self, index: int) -> None: ...
    def open(self, index: int) -> PlannedEpoch: ...
    def close(self) -> None: ...


class Stream:
    """The batches of a run, by step number. Keeps the epoch that was last asked for open; for one thread at a time."""

    def __init__(self, plan: Plan, documents: Documents, epochs: Epochs) -> None:
        self.plan = plan
        # The maps are held for as long as their addresses are.
        self._documents, self._places, self._epochs = documents, _places(documents), epochs
        self._index = -1
        self._epoch: PlannedEpoch | None = None
        self._words = np.empty((2, 0, plan.seq_len), dtype=np.int32)

    def begin(self, step: int) -> None:
        """Have the epoch of a step planned in the background, where it is not planned yet."""
        self._epochs.begin(self.plan.epoch_of(step))

    def batch(self, step: int, *, first: int = 0, n: int | None = None) -> Batch[Numbers]:
        """Assemble sequences `first` to `first` + `n` (default: all) of the global batch of a step, counted from 0 over the run."""
        shape = (self.plan.global_batch if n is None else n, self.plan.seq_len)
        inputs, targets, positions = (np.empty(shape, dtype=np.int32) for _ in range(3))
        components = np.empty(shape, dtype=np.int8)
        filled = self.fill(step, first, (inputs, targets, positions, components))
        return Batch(inputs, targets, positions, components, *filled)

    def fill(self, step: int, first: int, arrays: Sequence[Numbers]) -> tuple[Pieces, int, int]:
        """Write the four arrays of a batch, which begins at sequence `first`, and give what else is in it."""
        inputs_BT, targets_BT, positions_BT, components_BT = arrays
        rows = self._rows(step)
        here = _between(rows, first, first + len(inputs_BT))
        fill_tokens(self._places, here, self._documents.separator, inputs_BT, targets_BT)
        place = fill_places(self._places, here, positions_BT, components_BT)
        n_tokens = int(rows.length.sum())
        n_targets = n_tokens - count_without_loss(self._places, rows)
        return Pieces(here.sequence, place, here.length, here.start, here.ordinal), n_tokens, n_targets

    def chain_hash(self, previous: str, step: int) -> str:
        """Extend the running hash of the token stream by a step: SHA-256 of the hash before ("" at step 0), then of the
        inputs and of the targets of its whole global batch as little-endian int32. It is the same on any number of processes."""
        if not self._words.size:
            self._words = np.empty((2, self.plan.global_batch, self.plan.seq_len), dtype=np.int32)
        fill_tokens(self._places, self._rows(step), self._documents.separator, *self._words)
        return hash_of(previous, *self._words)

    def close(self) -> None:
        """Stop what goes on in the background."""
        self._epochs.close()

    def columns(self, step: int) -> Columns:
        """Give the rows of the plan for a step."""
        index = self.plan.epoch_of(step)
        if self._epoch is None or index != self._index:
            self._index, self._epoch = index, self._epochs.open(index)
        return self._epoch.rows(step)

    def _rows(self, step: int) -> Rows:
        found = self.columns(step)
        return Rows(found["sequence"], found["ordinal"], found["start"], found["length"])


def open_stream(
    store: Store, manifest: Manifest, plan: Plan, *, tokenizer: Mapping[str, Any], n_tokens: Ints | None
) -> tuple[Stream, tuple[str, ...]]:
    """Open a manifest's documents under a plan and a tokenizer, and name the components that `components_BT` indexes.

    `n_tokens` are their counts where the tokenizer is not the manifest's own: by ordinal, 0 where no epoch draws the row.
    """
    documents = open_documents(store, manifest, plan, tokenizer=tokenizer, n_tokens=n_tokens)
    return Stream(plan, documents, Planner(store, plan, find_draw(store, manifest, n_tokens))), component_names(manifest)


def find_draw(store: Store, manifest: Manifest, n_tokens: Ints | None) -> Draw:
    """Say how the epochs of a run are drawn; `n_tokens` as in `open_stream`."""
    if n_tokens is None:
        return functools.partial(draw_epoch, store, manifest)
    return functools.partial(redraw_epoch, store, manifest, n_tokens)


def rank_slice(global_batch: int, *, rank: int, world: int, micro_batch: int) -> tuple[int, int]:
    """Give the first sequence and the number of sequences of the global batch that a process of `world` reads.

    Raises ConfigError where they cannot be shared out in whole micro-batches.
    """
    if global_batch % (world * micro_batch):
        if global_batch % world:
            valid = [n for n in range(1, global_batch + 1) if global_batch % n == 0]
            advice = f"start {_either(valid)} of them, or change global_batch"
        else:
            each = global_batch // world
            advice = f"set micro_batch to {_either([n for n in range(1, each + 1) if each % n == 0])}"
        raise ConfigError(
            f"global_batch {global_batch} cannot be shared out to {world} processes in micro-batches of {micro_batch}; {advice}"
        )
    n = global_batch // world
    return rank * n, n


def hash_of(previous: str, inputs_BT: Numbers, targets_BT: Numbers) -> str:
    """Extend a running hash by a global batch; see `Stream.chain_hash`."""
    digest = hashlib.sha256(bytes.fromhex(previous))
    for array in (inputs_BT, targets_BT):
        digest.update(np.ascontiguousarray(array, dtype="<i4").data)
    return digest.hexdigest()


def gather(segments: Segments, segment: npt.NDArray[np.int32] | Ints, source: Ints) -> Ints:
    """Read single tokens: the one at place `source` of each segment."""
    found = np.empty(len(source), dtype=np.int64)
    for number in np.unique(segment):
        here = segment == number
        found[here] = segments.arrays[number][source[here]]
    return found


def spread(first: Ints, length: Ints) -> Ints:
    """List first, first + 1, ... for each pair, end to end.

    >>> spread(np.array([7, 1]), np.array([2, 3])).tolist()
    [7, 8, 1, 2, 3]
    """
    ends = np.cumsum(length)
    numbers: Ints = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - length), length)
    return numbers


def _places(documents: Documents) -> Places:
    address = np.array([array.ctypes.data for array in documents.arrays], dtype=np.uint64)
    like = np.empty(0, dtype=documents.arrays[0].dtype if documents.arrays else np.uint16)
    spans = documents.no_loss.values
    start, end = (spans.field(name).to_numpy(zero_copy_only=False) for name in ("start", "end"))
    at = documents.no_loss.offsets.to_numpy()
    return Places(address, like, documents.segment, documents.offset, documents.component, at, start, end)


def _between(rows: Rows, first: int, last: int) -> Rows:
    low, high = np.searchsorted(rows.sequence, [first, last])
    return Rows(rows.sequence[low:high] - first, rows.ordinal[low:high], rows.start[low:high], rows.length[low:high])


def _either(values: list[int]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last
