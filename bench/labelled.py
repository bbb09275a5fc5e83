"""Does near-duplicate search find what is known to be a copy, and nothing else? The labelled sets of ../shared/corpora/dedup-labelled.

    python bench/labelled.py

All texts of a set are searched at once, with the pieces that curate.edges is made of: band keys, pairs that share one, the Jaccard
similarity of their shingles, greedy keepers; equal texts are copies without it. Thresholds go from 0.5 to 0.95, with the recipe's 14 x 8
bands where these are made for the threshold and with `fitting_bands` where they are not. What a set's labels mean decides what counts:

- pairs (revisions of an introduction, dialogues translated to and fro): the labelled pairs alone;
- clusters (posts to several newsgroups): all pairs of texts; those of one Message-ID or one `exact` hash are copies, by chains of both;
- records (citations): rows that go, when those which experts kept come first; a row that experts removed is right, another wrong.

Labels say who copied, not how alike the texts are, so that a set's recall is mostly a fact about the set. What search owes is the
second table: of all pairs of a set at a true similarity, found without LSH (see `similar_pairs`), the share that it finds. Fails when
at the defaults more than 0.5 % of the hard unlike pairs are found, or less than 98 % of all pairs of similarity 0.85 or more.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import gzip
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from curate.keepers import keepers
from curate.normalise import normalise
from filters import minhash
from filters.columns import TextBatch

SETS_DIR = pathlib.Path(__file__).resolve().parents[2] / "shared" / "corpora" / "dedup-labelled"
THRESHOLD, BANDS, ROWS = 0.8, 14, 8  # the recipe's defaults
OWED_SIMILARITY, OWED_SHARE, MOST_HARD_SHARE = 0.85, 0.98, 0.005
_LEAST_SIMILARITY = 0.5
_BATCH_DOCS = 1000
_CHUNK_PAIRS = 1_000_000

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Labelled:
    """A set: rows by their ids, each row's place in `texts` (distinct, normalised), and what is known of them.

    One of the three is there: labelled pairs of rows (True: copies), the number of each row's cluster, whether experts removed the row.
    """

    name: str
    ids: list[str]
    text_of: list[int]
    texts: pa.Array
    pairs: dict[Pair, bool] = dataclasses.field(default_factory=dict)
    hard: frozenset[Pair] = frozenset()
    clusters: tuple[int, ...] = ()
    removed: tuple[bool, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """Copies found, others found, copies not found."""

    n_right: int
    n_wrong: int
    n_missed: int

    @property
    def precision(self) -> float:
        return self.n_right / max(1, self.n_right + self.n_wrong)

    @property
    def recall(self) -> float:
        return self.n_right / max(1, self.n_right + self.n_missed)

    @property
    def f1(self) -> float:
        return 2 * self.n_right / max(1, 2 * self.n_right + self.n_wrong + self.n_missed)


@dataclasses.dataclass(frozen=True, slots=True)
class ShingleSets:
    """Shingles of texts (those of text i are hashes[starts[i]:starts[i + 1]]), and which texts have a signature."""

    starts: np.ndarray
    hashes: np.ndarray

    @classmethod
    def of(cls, texts: pa.Array) -> ShingleSets:
        found = [minhash.shingles(batch) for batch in _batches(texts)]
        sizes = np.concatenate([np.diff(starts) for starts, _ in found])
        return cls(np.concatenate([[0], np.cumsum(sizes)]), np.concatenate([hashes for _, hashes in found]))

    def jaccard(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Compare texts a[i] and b[i], as float32, which edges are kept as and thresholds are compared with."""
        return minhash.jaccard(self.starts[a], self.starts[a + 1], self.starts[b], self.starts[b + 1], self.hashes).astype(np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the same: the sets are always read whole")
    parser.parse_args()
    if not SETS_DIR.is_dir():
        print("left out: ../shared/corpora is not here")
        return 0
    console, problems, missed = Console(width=150), [], []
    scored = Table("set", "threshold", "bands", "copies", "found", "right", "precision", "recall", "F1", "hard found")
    owed = Table("set", "similarity at least", "pairs of texts", "found at 0.8", "share", "missed", "of these unsigned")
    all_owed = collections.Counter[str]()
    for one in read_sets():
        sets = ShingleSets.of(one.texts)
        for step in range(10, 20):
            _add_score(scored, one, sets, step / 20)
        scored.add_section()
        true_pairs = similar_pairs(sets, _LEAST_SIMILARITY)
        lost = missed_pairs(one, sets, true_pairs)
        missed += [(one, *pair) for pair in lost if pair[2] >= np.float32(OWED_SIMILARITY)]
        for least in (0.8, 0.85, 0.9, 0.95, 1.0):
            _add_owed(owed, one.name, least, true_pairs, lost, sets)
        owed.add_section()
        all_owed["pairs"] += sum(value >= np.float32(OWED_SIMILARITY) for value in true_pairs.values())
        hard = hard_share(one, sets)
        problems += [f"{one.name}: {hard:.2%} of the hard unlike pairs are found"] if hard > MOST_HARD_SHARE else []
    console.print(scored)
    console.print(owed)
    share = 1 - len(missed) / max(1, all_owed["pairs"])
    print(f"all sets: {share:.2%} of {all_owed['pairs']:,} pairs of similarity {OWED_SIMILARITY} or more are found; not found:")
    for one, a, b, similarity in sorted(missed, key=lambda pair: -pair[3]):
        print(f"  {similarity:.4f}  {one.name}  {_id_of(one, a)}  {_id_of(one, b)}")
    problems += [f"only {share:.2%} of the pairs of similarity {OWED_SIMILARITY} or more are found"] if share < OWED_SHARE else []
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def read_sets() -> Iterator[Labelled]:
    """Read every set, texts normalised as ingest does it."""
    for path in sorted(SETS_DIR.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = sorted((json.loads(line) for line in file), key=lambda row: row["id"])
        name = path.name.removesuffix(".jsonl.gz")
        if "text_a" in rows[0]:
            yield _pair_set(name, rows)
        elif "cluster" in rows[0]:
            ids, text_of, texts = _documents([(row["id"], row["text"]) for row in rows])
            keys = [(f"cluster {row['cluster']}", f"exact {row['exact']}") for row in rows]
            yield Labelled(name, ids, text_of, texts, clusters=_chained(keys))
        else:
            ids, text_of, texts = _documents([(row["id"], row["text"]) for row in rows])
            yield Labelled(name, ids, text_of, texts, removed=tuple(row["duplicate"] for row in rows))


def similar_pairs(sets: ShingleSets, least: float) -> dict[Pair, np.float32]:
    """Find all pairs (a < b) of a Jaccard similarity of at least `least` without LSH: exact, by prefixes.

    With the shingles of every text in one order, rarest first, two such texts share one among the first n - ceil(least * n) + 1 of their
    n (Bayardo et al. 2007, Scaling Up All Pairs Similarity Search; Xiao et al. 2008, PPJoin). Only pairs that do are compared.
    """
    _, number, count = np.unique(sets.hashes, return_inverse=True, return_counts=True)
    sizes = np.diff(sets.starts)
    text = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((number, count[number], text))  # text stays ascending, so a text's shingles stay in their stretch
    place = np.arange(len(order)) - sets.starts[text]
    is_prefix = place <= sizes[text] - np.ceil(least * sizes[text] - 1e-6)
    is_shared = count[number[order]] > 1
    chosen = is_prefix & is_shared
    table = {"text": text[chosen], "key": number[order][chosen], "size": sizes[text[chosen]]}
    pairs = _sharing(pa.table(table), f"AND least(a.size, b.size) >= {least - 1e-6} * greatest(a.size, b.size)")
    return _at_least(sets, pairs, least)


def found_pairs(texts: pa.Array, sets: ShingleSets, threshold: float, bands: int, rows: int) -> dict[Pair, np.float32]:
    """Find pairs of texts (a < b) as a build does: those that share a band key and have this similarity."""
    keys = pa.chunked_array([minhash.band_keys(batch, bands=bands, rows=rows) for batch in _batches(texts)]).combine_chunks()
    signed = np.flatnonzero(keys.is_valid().to_numpy(zero_copy_only=False))
    table = pa.table({"text": np.repeat(signed, bands), "key": keys.drop_null().flatten()})
    return _at_least(sets, _sharing(table, ""), threshold)


def score(one: Labelled, found: set[Pair]) -> Score:
    """Compare pairs of rows that were found with what the set's labels say."""
    if one.pairs:
        copies = {pair for pair, label in one.pairs.items() if label}
        found = found & one.pairs.keys()
        return Score(len(found & copies), len(found - copies), len(copies - found))
    if one.clusters:
        n_right = sum(one.clusters[a] == one.clusters[b] for a, b in found)
        n_copies = sum(size * (size - 1) // 2 for size in collections.Counter(one.clusters).values())
        return Score(n_right, len(found) - n_right, n_copies - n_right)
    goes = _goes(one.removed, found)
    n_right = sum(copy for copy, gone in zip(one.removed, goes, strict=True) if gone)
    return Score(n_right, sum(goes) - n_right, sum(one.removed) - n_right)


def rows_found(one: Labelled, pairs: dict[Pair, np.float32]) -> set[Pair]:
    """Turn pairs of texts into pairs of rows; rows of one text are a pair without search."""
    rows = collections.defaultdict(list)
    for row, text in enumerate(one.text_of):
        rows[text].append(row)
    found = {pair for same in rows.values() for pair in itertools.combinations(same, 2)}
    return found | {(min(pair), max(pair)) for a, b in pairs for pair in itertools.product(rows[a], rows[b])}


def missed_pairs(one: Labelled, sets: ShingleSets, true_pairs: dict[Pair, np.float32]) -> list[tuple[int, int, np.float32]]:
    """List the pairs of texts, of those at or above the threshold, that are not found at the defaults."""
    found = found_pairs(one.texts, sets, THRESHOLD, BANDS, ROWS)
    return [(a, b, value) for (a, b), value in true_pairs.items() if value >= np.float32(THRESHOLD) and (a, b) not in found]


def hard_share(one: Labelled, sets: ShingleSets) -> float:
    """Say which share of the hard unlike pairs is found at the defaults."""
    found = rows_found(one, found_pairs(one.texts, sets, THRESHOLD, BANDS, ROWS))
    return len(one.hard & found) / max(1, len(one.hard))


def _batches(texts: pa.Array) -> Iterator[TextBatch]:
    return (TextBatch.from_arrow(texts.slice(start, _BATCH_DOCS)) for start in range(0, len(texts), _BATCH_DOCS))


def _sharing(table: pa.Table, condition: str) -> np.ndarray:
    """Find the pairs of texts that share a key: an array of two rows."""
    with duckdb.connect() as connection:
        connection.register("keys", table)
        query = f"SELECT DISTINCT a.text AS a, b.text AS b FROM keys AS a JOIN keys AS b ON a.key = b.key AND a.text < b.text {condition}"
        found = connection.sql(f"{query} ORDER BY ALL").to_arrow_table()
    return np.stack([found["a"].to_numpy(), found["b"].to_numpy()])


def _at_least(sets: ShingleSets, pairs: np.ndarray, least: float) -> dict[Pair, np.float32]:
    alike: dict[Pair, np.float32] = {}
    for start in range(0, pairs.shape[1], _CHUNK_PAIRS):
        a, b = pairs[:, start : start + _CHUNK_PAIRS]
        values = sets.jaccard(a, b)
        kept = values >= np.float32(least)
        alike.update(zip(zip(a[kept].tolist(), b[kept].tolist(), strict=True), values[kept], strict=True))
    return alike


def _goes(removed: Sequence[bool], found: set[Pair]) -> list[bool]:
    """Say which rows go when those that experts kept come first in the order of keepers."""
    order = sorted(range(len(removed)), key=lambda row: removed[row])
    place = {row: number for number, row in enumerate(order)}
    pairs = sorted((max(place[a], place[b]), min(place[a], place[b])) for a, b in found)
    later, earlier = np.array(pairs, np.int64).reshape(-1, 2).T
    by = keepers(len(order), np.ascontiguousarray(earlier), np.ascontiguousarray(later))
    return [bool(by[place[row]] >= 0) for row in range(len(removed))]


def _pair_set(name: str, rows: list[dict[str, Any]]) -> Labelled:
    # A text has an id of its own in one set; in the other its pair's and its side.
    sides = [[(row.get(side) or f"{row['id']} {side}", row[f"text_{side}"]) for side in ("a", "b")] for row in rows]
    ids, text_of, texts = _documents(sorted({document for pair in sides for document in pair}))
    place = {id: row for row, id in enumerate(ids)}
    pairs = [tuple(sorted((place[a], place[b]))) for (a, _), (b, _) in sides]
    labels = dict(zip(pairs, (row["label"] == 1 for row in rows), strict=True))
    hard = frozenset(pair for pair, row in zip(pairs, rows, strict=True) if row.get("hard") and row["label"] == 0)
    return Labelled(name, ids, text_of, texts, pairs=labels, hard=hard)


def _documents(rows: Sequence[tuple[str, str]]) -> tuple[list[str], list[int], pa.Array]:
    """Give the rows' ids, each one's place among the distinct texts, and these."""
    ids, bodies = zip(*rows, strict=True)
    if len(set(ids)) != len(ids):
        raise ValueError("an id names two texts; the set is not what its README.md says, fetch it again")
    column = normalise(pa.array(bodies, pa.large_string())).dictionary_encode()
    return list(ids), column.indices.to_pylist(), column.dictionary


def _chained(keys: list[tuple[str, str]]) -> tuple[int, ...]:
    """Number rows so that those which share a key, or a chain of keys, have one number: that of the first of them."""
    leader: dict[str, str] = {}

    def lead(key: str) -> str:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    for one, other in keys:
        leader[lead(other)] = lead(one)
    number: dict[str, int] = {}
    return tuple(number.setdefault(lead(one), len(number)) for one, _ in keys)


def _add_score(table: Table, one: Labelled, sets: ShingleSets, threshold: float) -> None:
    bands, rows = (BANDS, ROWS) if threshold >= minhash.least_threshold(BANDS, ROWS) else minhash.fitting_bands(threshold)
    found = rows_found(one, found_pairs(one.texts, sets, threshold, bands, rows))
    made = score(one, found)
    hard = f"{len(one.hard & found)} of {len(one.hard):,}" if one.hard else ""
    table.add_row(
        one.name, f"{threshold:.2f}", f"{bands} x {rows}", f"{made.n_right + made.n_missed:,}", f"{made.n_right + made.n_wrong:,}",
        f"{made.n_right:,}", f"{made.precision:.3f}", f"{made.recall:.3f}", f"{made.f1:.3f}", hard,
    )  # fmt: skip


def _add_owed(table: Table, name: str, least: float, true_pairs: dict[Pair, np.float32], lost: Any, sets: ShingleSets) -> None:
    n = sum(value >= np.float32(least) for value in true_pairs.values())
    gone = [(a, b) for a, b, value in lost if value >= np.float32(least)]
    sizes = np.diff(sets.starts)
    n_unsigned = sum(min(sizes[a], sizes[b]) < minhash.MIN_SHINGLES for a, b in gone)
    table.add_row(name, f"{least:.2f}", f"{n:,}", f"{n - len(gone):,}", f"{1 - len(gone) / max(1, n):.2%}", str(len(gone)), str(n_unsigned))


def _id_of(one: Labelled, text: int) -> str:
    return one.ids[one.text_of.index(text)]


if __name__ == "__main__":
    sys.exit(main())
