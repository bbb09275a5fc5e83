"""The order of training as a table: which piece of which document stands where in which step, known before the first.

    manifest.draw -> shuffle -> pack into sequences -> PLAN (cache/plans/KEY/epoch-K/part-0.parquet) -> stream

One row per piece of a document in a sequence, sorted by (step, sequence, slot). The plan is a pure function of its key
and epochs do not depend on each other, so any epoch can be built again anywhere, and state is a step number.

The decision: documents are shuffled within their component, and then the sequences that they fill, or both stand in the order of
the stage; whole sequences of one component are interleaved (train/packing.py). Cost: a sequence shows one component (except the few
in which a component runs out), and with best_fit the draws of all epochs are packed once before the first step, because only that
says how many steps there are.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import manifest as manifests
from curate.manifest import Manifest
from curate.store import Store, digest_of
from train.assemble import Ints as Ints
from train.config import TrainConfig
from train.packing import PACKINGS, Arranged, count_packed
from train.shuffle import Hashes, salt_of, splitmix64

PLAN_VERSION = 3

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
    """The order of a run in numbers. `tokenizer` is the SHA-256 of another one than the manifest's, else empty."""

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
    def n_padded(self) -> int:
        """Count the places at the ends of sequences that no token fills."""
        return sum(epoch.n_sequences * self.seq_len - epoch.n_tokens for epoch in self.epochs)

    @property
    def key(self) -> str:
        """Name the order by what fixes it; the counts of epochs follow, and the manifest's own tokenizer is in its fingerprint."""
        table = {"plan_version": PLAN_VERSION, **dataclasses.asdict(self), "epochs": [[epoch.stage, epoch.epoch] for epoch in self.epochs]}
        return digest_of({key: value for key, value in table.items() if key != "tokenizer" or value})[:32]

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


Draw = Callable[[Epoch], list[Drawn]]


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


def make_plan(
    manifest: Manifest, config: TrainConfig, *, n_tokens: Sequence[int], tokenizer: str = "", n_sequences: Sequence[int] | None = None
) -> Plan:
    """Say how many epochs, steps and tokens a run has, from the tokens of each epoch and, where packing leaves places
    empty, its sequences. Draws nothing."""
    epochs: list[Epoch] = []
    filled = [-(-n // config.seq_len) for n in n_tokens] if n_sequences is None else n_sequences
    for (stage, epoch), n, sequences in zip(list_epochs(manifest, config), n_tokens, filled, strict=True):
        first_step = epochs[-1].first_step + epochs[-1].n_steps if epochs else 0
        epochs.append(Epoch(stage, epoch, n, sequences, -(-sequences // config.global_batch), first_step))
    return Plan(manifest.fingerprint, config.seq_len, config.global_batch, config.packing, config.seed, tuple(epochs), tokenizer)


def find_plan(store: Store, manifest: Manifest, config: TrainConfig, *, n_tokens: Sequence[int], draw: Draw, tokenizer: str = "") -> Plan:
    """Make the plan of a run. Where only packing says how many sequences an epoch has, all epochs are drawn and packed once;
    plan.json keeps what they came to, for every run with this key."""
    plan = make_plan(manifest, config, n_tokens=n_tokens, tokenizer=tokenizer)
    if config.packing == "concat":
        return plan
    if store.exists(f"{plan.path}/plan.json"):
        n_sequences = [epoch["n_sequences"] for epoch in store.read_json(f"{plan.path}/plan.json")["epochs"]]
    else:
        n_sequences = [count_packed(arrange_all(draw(epoch), plan, epoch), plan.seq_len) for epoch in plan.epochs]
    plan = make_plan(manifest, config, n_tokens=n_tokens, tokenizer=tokenizer, n_sequences=n_sequences)
    write_summary(store, plan)
    return plan


def write_summary(store: Store, plan: Plan) -> None:
    """Write plan.json: what the plan is of, with the steps and tokens of each epoch."""
    counts = {"n_steps": plan.n_steps, "n_tokens": plan.n_tokens, "n_padded": plan.n_padded}
    store.write_json(f"{plan.path}/plan.json", {**counts, "plan_version": PLAN_VERSION, **dataclasses.asdict(plan)})


def plan_epoch(drawn: list[Drawn], plan: Plan, index: int) -> Iterator[pa.Table]:
    """Shuffle each component's documents and pack them into sequences: tables of SCHEMA, which follow on each other and hold whole
    sequences. Every drawn token is in them once."""
    epoch = plan.epochs[index]
    n_sequences = 0
    for pieces in PACKINGS[plan.packing](arrange_all(drawn, plan, epoch), plan.seq_len):
        n_sequences = int(pieces.sequence[-1]) + 1
        slot = np.arange(len(pieces.sequence)) - np.searchsorted(pieces.sequence, pieces.sequence)
        step = epoch.first_step + pieces.sequence // plan.global_batch
        columns = [step, pieces.sequence % plan.global_batch, slot, pieces.ordinal, pieces.start, pieces.length]
        yield pa.table([pa.array(column).cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
    assert n_sequences == epoch.n_sequences, f"epoch {index} has {n_sequences} sequences, the plan says {epoch.n_sequences}"


def arrange_all(drawn: list[Drawn], plan: Plan, epoch: Epoch) -> list[Arranged]:
    """Put the documents of each component in the order in which an epoch takes them."""
    found = []
    for part in drawn:
        order = arrange(part, seed=plan.seed, stage=epoch.stage, epoch=epoch.epoch)
        salt = salt_of(f"sequences|{plan.seed}|{epoch.stage}|{epoch.epoch}|{part.component}") if part.place is None else None
        found.append(Arranged(part.ordinal[order], part.n_tokens[order], salt))
    return found


def arrange(part: Drawn, *, seed: int, stage: int, epoch: int) -> Ints:
    """Order documents by a hash of (seed, stage, epoch, component, repeat, doc_id), a counter and not a generator; where they have places,
    by these, pass by pass, and equal ones by the hash."""
    purpose = salt_of(f"shuffle|{seed}|{stage}|{epoch}|{part.component}")
    salt = splitmix64(purpose + part.repeat.astype(np.uint64))
    hashes = splitmix64(part.key ^ salt)
    order: Ints = np.lexsort((part.ordinal, hashes) if part.place is None else (part.ordinal, hashes, part.place, part.repeat))
    return order


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
