"""Edges are true: every one is proved by the Jaccard of word 5-grams or by contained word 3-grams, none is computed twice, and workers and
order change nothing.
"""

import collections
import functools
import itertools
import pathlib
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import edges, executor
from curate.annotate import Facts, annotate, band_facts
from curate.ingest import ingest
from curate.keepers import keepers
from curate.recipe import Dedup, Source
from curate.store import Store
from filters import minhash
from filters.columns import TextBatch
from tests.curate.corpora import text, write_jsonl
from tests.filters.word_twin import words

_BANDS = band_facts(Dedup())


@functools.cache
def _grams(body: str, n_words: int = 5) -> set[tuple[str, ...]]:
    found = [word.lower() for word in words(body)]
    return set(zip(*(found[start:] for start in range(n_words)), strict=False))


def _containment(one: str, other: str) -> float:
    """The share of the word 3-grams of one text that are in the other."""
    a, b = _grams(one, 3), _grams(other, 3)
    return len(a & b) / len(a)


def _jaccard(one: str, other: str) -> float:
    a, b = _grams(one), _grams(other)
    return len(a & b) / len(a | b)


def _changed(body: str, every: int) -> str:
    """Change one word in so many, to a word that is nowhere else."""
    return " ".join(f"w{number}x" if number % every == every - 1 else word for number, word in enumerate(body.split()))


def _family(key: str) -> list[str]:
    body = text(key, 120)
    return [body, *(_changed(body, every) for every in (6, 15, 30, 50, 90)), body.upper() + " 5 mg", body + " 50 mg"]


_Found = dict[tuple[str, str], tuple[float, float, float]]  # similarity, containment of the first text, of the second


def _link(store: Store, folder: pathlib.Path, *, workers: int = 1, bands: Facts = _BANDS) -> tuple[edges.Linked, _Found]:
    run = executor.local(workers)
    sources = (Source("a", (str(folder / "*.jsonl"),)),)
    shards = [shard.path.removeprefix("corpus/") for shard in ingest(store, sources, run=run)["a"].shards]
    annotate(store, shards, [bands], run=run)
    connection = duckdb.connect()
    connection.execute('CREATE TABLE frozen (doc_id VARCHAR, "group" VARCHAR, shard VARCHAR, "row" INTEGER)')
    connection.execute('CREATE TABLE rows (doc_id VARCHAR, shard VARCHAR, "row" INTEGER)')
    for shard in shards:
        connection.register("incoming", store.read_table(f"corpus/{shard}", ["doc_id"]))
        connection.execute("INSERT INTO rows SELECT doc_id, ?, row_number() OVER () - 1 FROM incoming", [shard])
    linked = edges.link(store, connection, bands, run=run)
    return linked, {(a, b): (value, of_a, of_b) for a, b, value, of_a, of_b in connection.execute("FROM edges").fetchall()}


def _texts(store: Store) -> dict[str, str]:
    found = {}
    for path in store.files("corpus", ".parquet"):
        found |= {row["doc_id"]: row["text"] for row in store.read_table(path, ["doc_id", "text"]).to_pylist()}
    return found


def _write(folder: pathlib.Path, bodies: list[str], *, n_files: int = 1) -> None:
    rows = [{"id": str(number), "text": body} for number, body in enumerate(bodies)]
    for number in range(n_files):
        write_jsonl(folder / f"{number}.jsonl", rows[number::n_files])


_BODIES = [body for key in ("one", "two", "three") for body in _family(key)] + [text(f"alone{n}", 90) for n in range(40)] + ["too short"]


def test_edges_are_the_true_jaccard_and_containment_of_the_pairs_that_are_near(tmp_path: pathlib.Path) -> None:
    _write(tmp_path / "in", _BODIES)
    store = Store(str(tmp_path / "root"))
    linked, found = _link(store, tmp_path / "in")
    texts = _texts(store)
    true = {pair: _jaccard(texts[pair[0]], texts[pair[1]]) for pair in itertools.combinations(sorted(texts), 2) if _grams(texts[pair[0]])}
    assert linked.n_edges == len(found) > 20
    for (a, b), values in found.items():
        proofs = true[a, b], _containment(texts[a], texts[b]), _containment(texts[b], texts[a])
        assert values == tuple(float(np.float32(value)) for value in proofs)
        assert values[0] >= 0.5 or max(values[1:]) >= 0.8
    near = {pair for pair, value in true.items() if value >= 0.9}
    assert len(near) >= 6
    assert near <= set(found)


def test_numbers_are_not_folded_and_case_is(tmp_path: pathlib.Path) -> None:
    body = text("dose", 60)
    _write(tmp_path / "in", [body, body.upper(), body + " take 5 mg a day", body + " take 50 mg a day"])
    _, found = _link(Store(str(tmp_path / "root")), tmp_path / "in")
    assert [values for values in found.values() if values[0] == 1.0] == [(1.0, 1.0, 1.0)]  # equal but for the case


def test_a_text_inside_a_longer_one_is_an_edge_of_low_similarity(tmp_path: pathlib.Path) -> None:
    inside = [text(f"inside{number}", 80) for number in range(10)]
    _write(tmp_path / "in", [*inside, *(f"{body} {text(f'more{number}', 240)}" for number, body in enumerate(inside))])
    store = Store(str(tmp_path / "root"))
    _, found = _link(store, tmp_path / "in", bands=band_facts(Dedup(bands=100, rows=1)))  # the default ones find few pairs so unlike
    bodies = _texts(store)
    assert len(found) == len(inside)
    for (a, b), (similarity, of_a, of_b) in found.items():
        of_short, of_long = (of_a, of_b) if len(bodies[a]) < len(bodies[b]) else (of_b, of_a)
        assert of_short == 1.0
        assert max(similarity, of_long) < 0.4


@pytest.mark.parametrize(("workers", "n_files", "order"), [(2, 1, 1), (1, 5, -1), (4, 7, 1)])
def test_workers_files_and_order_change_no_edge(tmp_path: pathlib.Path, workers: int, n_files: int, order: int) -> None:
    _write(tmp_path / "a", _BODIES)
    _write(tmp_path / "b", _BODIES[::order], n_files=n_files)
    base = _link(Store(str(tmp_path / "root-a")), tmp_path / "a")
    assert _link(Store(str(tmp_path / "root-b")), tmp_path / "b", workers=workers) == base


def test_nothing_is_verified_twice_and_an_added_text_verifies_its_own_pairs(tmp_path: pathlib.Path) -> None:
    store = Store(str(tmp_path / "root"))
    _write(tmp_path / "in", _BODIES)
    first = _link(store, tmp_path / "in")
    files = edges.edge_paths(store)
    assert _link(store, tmp_path / "in") == first
    assert edges.edge_paths(store) == files
    known = set(_texts(store))
    more = [*_BODIES, _changed(_BODIES[0], 70)]
    _write(tmp_path / "in", more)
    grown = _link(store, tmp_path / "in")
    (new,) = set(edges.edge_paths(store)) - set(files)
    added = store.read_table(new).to_pylist()
    assert added
    assert all({row["doc_a"], row["doc_b"]} - known for row in added)
    scratch = Store(str(tmp_path / "scratch"))
    assert _link(scratch, tmp_path / "in") == grown


def test_a_hot_band_compares_each_text_with_the_first_64_and_counts_the_rest(tmp_path: pathlib.Path) -> None:
    template = text("template", 400)
    bodies = [f"{template} {number} {number + 7}" for number in range(100)]
    _write(tmp_path / "in", bodies)
    store = Store(str(tmp_path / "root"))
    linked, found = _link(store, tmp_path / "in")
    texts = sorted(_texts(store).items())
    keys = minhash.band_keys(TextBatch.from_arrow(pa.array([body for _, body in texts]))).to_pylist()
    sharing = collections.defaultdict(list)
    for (doc_id, _), bands in zip(texts, keys, strict=True):
        for key in bands:
            sharing[key].append(doc_id)
    compared = {pair for ids in sharing.values() for pair in itertools.combinations(ids, 2) if pair[0] in ids[:64]}
    assert set(found) == compared
    assert len(compared) < 100 * 99 // 2
    all_pairs = sum(len(ids) * (len(ids) - 1) // 2 for ids in sharing.values())
    assert linked.n_skipped == all_pairs - sum(min(64, number) for ids in sharing.values() for number in range(len(ids)))


def test_an_object_store_gives_the_same_edges(tmp_path: pathlib.Path) -> None:
    _write(tmp_path / "in", _BODIES)
    local = _link(Store(str(tmp_path / "root")), tmp_path / "in")
    assert _link(Store(f"memory://edges-{tmp_path.name}"), tmp_path / "in") == local


def test_texts_of_the_evalset_are_linked_too(tmp_path: pathlib.Path) -> None:
    store = Store(str(tmp_path / "root"))
    _write(tmp_path / "in", [text("kept", 100)])
    _write(tmp_path / "gone", [text("kept", 100) + " more"])
    run = executor.local(1)
    made = ingest(store, (Source("a", (str(tmp_path / "in"),)), Source("b", (str(tmp_path / "gone"),))), run=run)
    places = {name: made[name].shards[0].path.removeprefix("corpus/") for name in ("a", "b")}
    annotate(store, list(places.values()), [_BANDS], run=run)
    connection = duckdb.connect()
    for table, shard in (("rows", places["a"]), ("frozen", places["b"])):
        connection.register("incoming", store.read_table(f"corpus/{shard}", ["doc_id"]))
        connection.execute(f"CREATE TABLE {table} AS SELECT doc_id, '{shard}' AS shard, 0::INTEGER AS \"row\" FROM incoming")
    assert edges.link(store, connection, _BANDS, run=run).n_edges == 1


@given(st.integers(1, 12), st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30))
def test_keepers_are_greedy_and_every_drop_has_an_edge_to_a_kept_row(n_rows: int, pairs: set[tuple[int, int]]) -> None:
    joined: list[Any] = sorted({(max(a, b), min(a, b)) for a, b in pairs if a != b and max(a, b) < n_rows})
    earlier, later = (np.array([pair[side] for pair in joined], dtype=np.int64) for side in (1, 0))
    by = keepers(n_rows, earlier, later)
    kept = {row for row in range(n_rows) if by[row] < 0}
    for row in range(n_rows):
        neighbours = {int(earlier[i]) for i in range(len(joined)) if later[i] == row}
        assert (row in kept) == (not neighbours & kept)
        if row not in kept:
            assert int(later[by[row]]) == row
            assert int(earlier[by[row]]) in kept
