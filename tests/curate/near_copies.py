"""A corpus of every kind of copy, made from a seed, and what dedup has to find in it: pairs by brute force, in plain Python."""

import collections
import dataclasses
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import numpy as np

from curate import edges, executor, manifest
from curate.annotate import annotate, band_facts
from curate.executor import Run
from curate.manifest import Manifest
from curate.recipe import Dedup
from curate.store import Store
from filters import family
from tests.curate.corpora import text
from tests.filters import minhash_twin

BANDS = band_facts(Dedup())
HOT_BAND = 64
MIN_WORDS = 6
HOLDOUT = 0.1
_DATES = (None, "1999", "2012-05")
Edges = dict[tuple[str, str], tuple[float, float, float]]  # doc_a < doc_b: similarity, containment of doc_a, of doc_b
_OFF = "".join(f"{rule.name} = false\n" for rule in family("gopher_quality").rules if rule.name != "min_words")
# Every limit that could stop the build is off: what goes is compared row by row.
RECIPE = f"""
domain = "mixed"
[gopher_quality]
min_words = {MIN_WORDS}
{_OFF}
[dedup]
max_share = 1
max_copies = 1000000
[select]
budget_tokens = 100000000
[holdout]
share = {HOLDOUT}
[tokenizer]
vocab_size = 400
[sources.papers]
path = "data/papers"
fields = {{ group = "group", date = "date" }}
[sources.web]
path = "data/web"
fields = {{ group = "group", date = "date" }}
"""


def mixed(seed: int, *, n_texts: int = 24, n_notes: int = 110) -> dict[str, list[dict[str, Any]]]:
    """Make rows by source: texts with exact copies, near copies of many similarities, longer and shorter ones, chains in which each
    is near its neighbours only, notes of one template that are more than HOT_BAND, and texts too short to compare.
    """
    short = [*(f"Only {n % 3} words." for n in range(6)), *(f"Text {n % 4} of {seed} has only eight words." for n in range(12))]
    made: list[tuple[str, str | None]] = [(body, None) for body in short]
    for number in range(n_texts):
        body = text(f"{seed}-{number}", 60 + 3 * number)
        made.append((body, f"group-{number // 2}" if number % 3 == 0 else None))
        made += [(copy, None) for copy in _KINDS[number % len(_KINDS)](body, f"{seed}-{number}")]
    rows = [{"id": str(n), "text": body, "group": group, "date": _DATES[n % 3]} for n, (body, group) in enumerate(made)]
    rows += note_rows(n_notes, seed=seed)
    return {"papers": rows[::2], "web": rows[1::2]}


def note_rows(n: int, *, seed: int, n_words: int = 50, n_numbers: int = 1) -> list[dict[str, Any]]:
    """Make notes of one template that differ in their last words, numbers of one to eight digits."""
    template = " ".join(text(f"note-{seed}", n_words).split()[:n_words])
    bodies = [f"{template} {' '.join(_number(f'{seed}|{note}|{place}') for place in range(n_numbers))}" for note in range(n)]
    return [{"id": f"note-{n}", "text": body, "group": f"notes-{seed}", "date": _DATES[n % 3]} for n, body in enumerate(bodies)]


def _number(key: str) -> str:
    drawn = int(hashlib.sha256(key.encode()).hexdigest()[:12], 16)
    return str(drawn % 10 ** (1 + drawn // 10**8 % 8))


def _copies(body: str, key: str) -> list[str]:
    return [body, f"{body}\n", body.upper(), body.replace(".", " -"), f"{body} And {key}."]


def _changed(body: str, key: str) -> list[str]:
    """Change one word in so many, to a word that is nowhere else."""
    words = body.split()
    return [" ".join(f"w{n}x{key}" if n % every == every - 1 else word for n, word in enumerate(words)) for every in (5, 9, 14, 25, 50)]


def _longer(body: str, key: str) -> list[str]:
    words = body.split()
    return [f"{body} {text(f'more-{key}', n)}" for n in (4, 12, 30)] + [" ".join(words[3:-2]), " ".join(words[: len(words) // 2])]


def _chain(body: str, key: str) -> list[str]:
    """Replace the first words one step after the other."""
    words = body.split()
    return [" ".join([*(f"c{n}x{key}" for n in range(first)), *words[first:]]) for first in range(4, 21, 4)]


_KINDS = (_copies, _changed, _longer, _chain)


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """What brute force finds over a set of texts."""

    candidates: frozenset[tuple[str, str]]
    edges: Edges
    n_skipped: int

    @property
    def counts(self) -> dict[str, int]:
        """What the build has to say of it."""
        return {"n_candidates": len(self.candidates), "n_edges": len(self.edges), "n_skipped": self.n_skipped}


def expected(texts: Mapping[str, str]) -> Expected:
    """Compare, within each band key, every text with the HOT_BAND first ones by doc_id, as sets of shingles."""
    sharing = collections.defaultdict(list)
    for doc_id in sorted(texts):
        for key in _keys(texts[doc_id]) or []:
            sharing[key].append(doc_id)
    candidates = {pair for ids in sharing.values() for first, one in enumerate(ids[:HOT_BAND]) for pair in _pairs(one, ids[first + 1 :])}
    n_compared = sum(min(place, HOT_BAND) for ids in sharing.values() for place in range(len(ids)))
    n_pairs = sum(len(ids) * (len(ids) - 1) // 2 for ids in sharing.values())
    proofs = {(a, b): _proofs(texts[a], texts[b]) for a, b in candidates}
    found = {pair: values for pair, values in proofs.items() if values[0] >= 0.5 or max(values[1:]) >= np.float32(0.8)}
    return Expected(frozenset(candidates), found, n_pairs - n_compared)


def _pairs(one: str, others: Iterable[str]) -> Iterable[tuple[str, str]]:
    return ((one, other) for other in others)


@functools.cache
def _keys(body: str) -> tuple[int, ...] | None:
    keys = minhash_twin.band_keys(body, 14, 8, 1)
    return None if keys is None else tuple(keys)


@functools.cache
def _runs(body: str, n_words: int) -> set[int]:
    return set(minhash_twin.shingles(body, n_words))


@functools.cache
def _proofs(one: str, other: str) -> tuple[float, float, float]:
    values = (
        minhash_twin.jaccard(_runs(one, 5), _runs(other, 5)),
        minhash_twin.containment(_runs(one, 3), _runs(other, 3)),
        minhash_twin.containment(_runs(other, 3), _runs(one, 3)),
    )
    similarity, of_one, of_other = (float(np.float32(value)) for value in values)
    return similarity, of_one, of_other


def shards_of(store: Store, loaded: Manifest) -> list[str]:
    """Name the shards of a version's rows, relative to corpus/."""
    named = [shard["path"] for source in loaded.info["inputs"].values() if source["role"] != "reference" for shard in source["shards"]]
    return [path.removeprefix("corpus/") for path in named]


def texts_of(store: Store, shards: Iterable[str]) -> dict[str, str]:
    """Give the text of every doc_id."""
    found = {}
    for shard in shards:
        found |= {row["doc_id"]: row["text"] for row in store.read_table(f"corpus/{shard}", ["doc_id", "text"]).to_pylist()}
    return found


def link(store: Store, shards: Iterable[str], *, run: Run | None = None) -> tuple[dict[str, int], Edges]:
    """Link all rows of these shards as a build does: the counts, and the whole table of edges."""
    run = run or executor.local(1)
    annotate(store, list(shards), [BANDS], run=run)
    with duckdb.connect() as connection:
        connection.execute('CREATE TABLE frozen (doc_id VARCHAR, "group" VARCHAR, shard VARCHAR, "row" INTEGER)')
        connection.execute('CREATE TABLE rows (doc_id VARCHAR, shard VARCHAR, "row" INTEGER)')
        for shard in shards:
            connection.register("incoming", store.read_table(f"corpus/{shard}", ["doc_id"]))
            connection.execute("INSERT INTO rows SELECT doc_id, ?, row_number() OVER () - 1 FROM incoming", [shard])
            connection.unregister("incoming")
        linked = edges.link(store, connection, BANDS, run=run)
        table = connection.execute("SELECT doc_a, doc_b, similarity, containment_a, containment_b FROM edges").fetchall()
    found = {(a, b): (similarity, of_a, of_b) for a, b, similarity, of_a, of_b in table}
    assert len(found) == len(table), "a pair is an edge once"
    return {name: getattr(linked, name) for name in ("n_candidates", "n_edges", "n_skipped")}, found


def differing(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> dict[Any, Any]:
    """Give what two tables do not agree in; pytest would take minutes to say it of thousands of rows."""
    return {key: (one.get(key), other.get(key)) for key in {*one, *other} if one.get(key) != other.get(key)}


def edges_of(store: Store, loaded: Manifest) -> Edges:
    """Give the whole table of edges that a version was decided by; the build has verified all of them, so nothing is left to do."""
    before = stamps(store, edges.edge_paths(store))
    counts, found = link(store, shards_of(store, loaded))
    assert stamps(store, edges.edge_paths(store)) == before
    assert counts == {name: loaded.info["edges"][name] for name in counts}
    return found


def stamps(store: Store, paths: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """Give what changes when a file is written again, which is always a new file under the old name."""
    stats = {path: pathlib.Path(store.url(path)).stat() for path in paths}
    return {path: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


def verified(store: Store, paths: Iterable[str]) -> list[tuple[str, str]]:
    """List the pairs in files of verified pairs, each as often as it is there."""
    tables = (store.read_table(path, ["doc_a", "doc_b"]).to_pylist() for path in paths)
    return [(row["doc_a"], row["doc_b"]) for row in itertools.chain.from_iterable(tables)]


def rows_of(store: Store, loaded: Manifest) -> list[dict[str, Any]]:
    """Give every row of a version, by row_id."""
    rows = [row for split in manifest.SPLITS for row in manifest.rows(store, loaded, split).to_pylist()]
    return sorted(rows, key=lambda row: str(row["row_id"]))
