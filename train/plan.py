"""The order of training as a table: which piece of which document stands where in which step, known before the first.

    manifest.draw -> shuffle -> deal into sequences -> PLAN (cache/plans/KEY/epoch-K/part-0.parquet) -> stream

One row per piece of a document in a sequence, sorted by (step, sequence, slot). The plan is a pure function of its key
and epochs do not depend on each other, so any epoch can be built again anywhere, and state is a step number.

The decision: documents are shuffled within their component, or stand in the order of the stage, and whole sequences of one
component are interleaved, so that after every sequence each component is within one sequence of its share. Cost: a sequence
shows one component (except the few in which a component runs out), and documents are cut at sequence ends.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate import manifest as manifests
from curate.manifest import Manifest
from curate.store import Store, digest_of
from train.config import TrainConfig

PLAN_VERSION = 1

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("sequence", pa.int32()),
        ("slot", pa.int32()),
        ("ordinal", pa.int64()),
        ("start", pa.int32()),
        ("length", pa.int32()),
    ]
)

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over a stage's mixture. `stage` and `epoch` count from 0 and are what `manifest.draw` takes."""

    stage: int
    epoch: int
    n_tokens: int
    n_sequences: int
    n_steps: int
    first_step: int


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What fixes the order: everything in here is in the key. `tokenizer` is the SHA-256 of another one than the manifest's, else empty."""

    fingerprint: str
    seq_len: int
    global_batch: int
    packing: str
    seed: int
    epochs: tuple[Epoch, ...]
    tokenizer: str = ""

    @property
    def n_steps(self) -> int:
        return sum(epoch.n_steps for epoch in self.epochs)

    @property
    def n_tokens(self) -> int:
        return sum(epoch.n_tokens for epoch in self.epochs)

    @property
    def key(self) -> str:
        return digest_of(self.table)[:32]

    @property
    def table(self) -> dict[str, Any]:
        """The plain values that the key is the digest of; the manifest's own tokenizer is in its fingerprint."""
        table = {"plan_version": PLAN_VERSION, **dataclasses.asdict(self)}
        return {key: value for key, value in table.items() if key != "tokenizer" or value}

    @property
    def path(self) -> str:
        return f"cache/plans/{self.key}"

    def epoch_of(self, step: int) -> int:
        """Give the index of the epoch that a step is in."""
        return next(index for index, epoch in enumerate(self.epochs) if step < epoch.first_step + epoch.n_steps)


@dataclasses.dataclass(frozen=True, slots=True)
class Drawn:
    """The documents that an epoch takes of one component, in any order; `key` is the first 64 bits of each doc_id. `place` ranks them where
    the stage has an order, None where it is shuffled."""

    component: str
    ordinal: Ints
    repeat: Ints
    n_tokens: Ints
    key: Hashes
    place: Ints | None = None


def list_epochs(manifest: Manifest, config: TrainConfig) -> list[tuple[int, int]]:
    """Name the epochs of a run in their order, as (stage, epoch of the stage)."""
    return [
        (number, epoch)
        for number, stage in enumerate(manifest.stages)
        for epoch in range(stage.epochs if config.epochs is None else config.epochs)
    ]


def epoch_tokens(manifest: Manifest, config: TrainConfig) -> list[int]:
    """Give the tokens of each epoch under the manifest's own tokenizer; they follow from the manifest alone."""
    return [sum(part.epoch_tokens for part in manifest.stages[stage].components) for stage, _ in list_epochs(manifest, config)]


def make_plan(manifest: Manifest, config: TrainConfig, *, n_tokens: Sequence[int], tokenizer: str = "") -> Plan:
    """Say how many epochs, steps and tokens a run has, from the tokens of each epoch. Draws nothing."""
    epochs: list[Epoch] = []
    for (stage, epoch), n in zip(list_epochs(manifest, config), n_tokens, strict=True):
        n_sequences = -(-n // config.seq_len)
        first_step = epochs[-1].first_step + epochs[-1].n_steps if epochs else 0
        epochs.append(Epoch(stage, epoch, n, n_sequences, -(-n_sequences // config.global_batch), first_step))
    return Plan(manifest.fingerprint, config.seq_len, config.global_batch, config.packing, config.seed, tuple(epochs), tokenizer)


def write_summary(store: Store, plan: Plan) -> None:
    """Write plan.json: what the plan is of, with the steps and tokens of each epoch."""
    store.write_json(f"{plan.path}/plan.json", {"n_steps": plan.n_steps, "n_tokens": plan.n_tokens, **plan.table})


def open_epoch(store: Store, plan: Plan, index: int, draw: Callable[[Epoch], list[Drawn]]) -> pa.Table:
    """Read an epoch's table, built from its draw first where the cache has none."""
    path = f"{plan.path}/epoch-{index}/part-0.parquet"
    if not store.exists(path):
        store.write_table(path, plan_epoch(draw(plan.epochs[index]), plan, index))
    return store.read_table(path)


def plan_epoch(drawn: list[Drawn], plan: Plan, index: int) -> pa.Table:
    """Shuffle each component's documents, deal them into sequences and cut them. Every drawn token is in it once."""
    epoch = plan.epochs[index]
    sequence, component, start, _ = _deal(np.array([part.n_tokens.sum() for part in drawn], dtype=np.int64), plan.seq_len)
    pieces = []
    for code, part in enumerate(drawn):
        order = arrange(part, seed=plan.seed, stage=epoch.stage, epoch=epoch.epoch)
        of_component = np.flatnonzero(component == code)
        run, document, first, n_tokens = _cut(part.n_tokens[order], start[of_component])
        pieces.append(np.stack([of_component[run], part.ordinal[order][document], first, n_tokens]))
    # Runs are numbered in the order of the stream and a component's pieces are in order within each.
    found = np.concatenate(pieces, axis=1)
    run, ordinal, first, n_tokens = found[:, np.argsort(found[0], kind="stable")]
    place = sequence[run]
    slot = np.arange(len(place)) - np.searchsorted(place, place)
    columns = [epoch.first_step + place // plan.global_batch, place % plan.global_batch, slot, ordinal, first, n_tokens]
    return pa.table([pa.array(column).cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def arrange(part: Drawn, *, seed: int, stage: int, epoch: int) -> Ints:
    """Order documents by a hash of (seed, stage, epoch, component, repeat, doc_id), a counter and not a generator; where they have places,
    by these, pass by pass, and equal ones by the hash."""
    name = f"shuffle|{seed}|{stage}|{epoch}|{part.component}"
    purpose = np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], dtype="<u8").astype(np.uint64)
    salt = splitmix64(purpose + part.repeat.astype(np.uint64))
    hashes = splitmix64(part.key ^ salt)
    order: Ints = np.lexsort((part.ordinal, hashes) if part.place is None else (part.ordinal, hashes, part.place, part.repeat))
    return order


def splitmix64(values: Hashes) -> Hashes:
    """Mix 64 bits into 64 bits, one to one (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def doc_keys(doc_ids: pa.ChunkedArray) -> Hashes:
    """Read the first 16 of the 32 hex digits of each doc_id as a number.

    >>> [int(key) for key in doc_keys(pa.chunked_array([["0" * 15 + "a" + "f" * 16]]))]
    [10]
    """
    fixed = doc_ids.cast(pa.binary()).cast(pa.binary(32)).combine_chunks()
    digits = np.frombuffer(fixed.buffers()[1], dtype=np.uint8)[fixed.offset * 32 :][: len(fixed) * 32].reshape(-1, 32)[:, :16]
    nibbles = np.where(digits >= ord("a"), digits - (ord("a") - 10), digits - ord("0")).astype(np.uint64)
    shifts = np.arange(60, -1, -4, dtype=np.uint64)
    # The nibbles do not overlap, so their sum is their union.
    keys: Hashes = (nibbles << shifts).sum(axis=1, dtype=np.uint64)
    return keys


def draw_epoch(store: Store, manifest: Manifest, epoch: Epoch) -> list[Drawn]:
    """Take from each component what `manifest.draw` says."""
    keys = doc_keys(manifests.rows(store, manifest, "train", ["doc_id"])["doc_id"])
    stage, drawn = manifest.stages[epoch.stage], []
    places = _places(store, manifest, stage.order)
    for part in stage.components:
        table = manifests.draw(store, manifest, stage=epoch.stage, component=part.name, epoch=epoch.epoch)
        columns: Mapping[str, Ints] = {name: table[name].to_numpy().astype(np.int64) for name in ("ordinal", "repeat", "n_tokens")}
        place = None if places is None else places[columns["ordinal"]]
        drawn.append(Drawn(part.name, key=keys[columns["ordinal"]], place=place, **columns))
    return drawn


def _places(store: Store, manifest: Manifest, order: str) -> Ints | None:
    """Rank the rows of split train by the column that a stage is ordered by, equal values alike and null last; None for a shuffle."""
    if (found := manifests.stage_order(order)) is None:
        return None
    column = manifests.rows(store, manifest, "train", [found[0]])[found[0]].combine_chunks()
    values = pc.unique(column.drop_null()).sort("ascending" if found[1] == "ASC" else "descending")
    places: Ints = pc.index_in(column, value_set=values).fill_null(len(values)).to_numpy().astype(np.int64)
    return places


def redraw_epoch(store: Store, manifest: Manifest, n_tokens: Ints, epoch: Epoch) -> list[Drawn]:
    """Take the same documents, in counts under another tokenizer, by ordinal; see `rescale`."""
    old = manifests.rows(store, manifest, "train", ["n_tokens"])["n_tokens"].to_numpy().astype(np.int64)
    drawn = draw_epoch(store, manifest, epoch)
    return [dataclasses.replace(part, n_tokens=rescale(part.n_tokens, old[part.ordinal], n_tokens[part.ordinal])) for part in drawn]


def rescale(n_taken: Ints, n_old: Ints, n_new: Ints) -> Ints:
    """Take the same part of each document in other counts: n_taken of n_old in n_new, half up, at least one.

    >>> rescale(np.array([10, 5, 1]), np.array([10, 10, 10]), np.array([7, 7, 3])).tolist()
    [7, 4, 1]
    """
    rescaled: Ints = np.maximum((n_taken * n_new + n_old // 2) // n_old, 1)
    return rescaled


def _cut(n_tokens: Ints, run_starts: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Cut a component's documents, laid end to end, where a run starts: (run, document, start, length) of each piece."""
    ends = np.cumsum(n_tokens)
    starts = ends - n_tokens
    cuts = np.unique(np.concatenate([starts[n_tokens > 0], run_starts]))
    document = np.searchsorted(ends, cuts, side="right")
    run = np.searchsorted(run_starts, cuts, side="right") - 1
    length = np.diff(cuts, append=ends[-1] if len(ends) else 0)
    return run, document, cuts - starts[document] if len(cuts) else cuts, length


def _jit(kernel: _Kernel) -> _Kernel:
    """Compile on first call and keep the result on disk. numba's own decorator has no types."""
    compiled: _Kernel = numba.njit(nogil=True, cache=True)(kernel)
    return compiled


@_jit
def _deal(n_tokens: Ints, seq_len: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Give each sequence to a component, in turn: (sequence, component, start in the component, length) of each run.

    By Tijdeman's rule (The chairman assignment problem, Discrete Mathematics 32, 1980): of the components that are due
    by at least 1 / (2k - 2) of a sequence, the one that would first fall a sequence behind. Taking the largest
    deficit can be off by more than a sequence. Where a component runs out within a sequence, the
    next one fills it up, so only the last sequence of an epoch can be short.
    """
    k = len(n_tokens)
    total = n_tokens.sum()
    n_sequences = -(-total // seq_len)
    given = np.zeros(k, dtype=np.int64)
    runs = np.zeros((4, n_sequences + k), dtype=np.int64)
    n_runs = 0
    due = seq_len / max(2 * k - 2, 1)
    for sequence in range(n_sequences):
        end = min((sequence + 1) * seq_len, total)
        room = end - sequence * seq_len
        while room > 0:
            best, best_deadline, neediest, largest = -1, 0.0, -1, 0.0
            for c in range(k):
                if given[c] == n_tokens[c]:
                    continue
                share = n_tokens[c] / total
                deficit = share * end - given[c]
                deadline = (given[c] + seq_len - due) / share
                if deficit >= due and (best < 0 or deadline < best_deadline):
                    best, best_deadline = c, deadline
                if neediest < 0 or deficit > largest:
                    neediest, largest = c, deficit
            chosen = best if best >= 0 else neediest
            take = min(room, n_tokens[chosen] - given[chosen])
            runs[0, n_runs], runs[1, n_runs], runs[2, n_runs], runs[3, n_runs] = sequence, chosen, given[chosen], take
            given[chosen] += take
            room -= take
            n_runs += 1
    return runs[0, :n_runs], runs[1, :n_runs], runs[2, :n_runs], runs[3, :n_runs]
