"""Dedup is a function of the set of rows: however they are cut, ordered, spread over workers or added one source after the other, the
edges, the keepers and the digests are the same; and they are those of brute force in plain Python.
"""

import pathlib
import random
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import edges, executor
from curate.build import Built, build
from curate.recipe_file import read_recipe
from curate.shards import SHARD_SCHEMA, ShardWriter
from curate.store import Store
from tests.curate.corpora import documents, write_jsonl, write_parquet
from tests.curate.decide_twin import Choice, decide_twin
from tests.curate.near_copies import (
    HOLDOUT,
    HOT_BAND,
    MIN_WORDS,
    RECIPE,
    Edges,
    differing,
    edges_of,
    expected,
    link,
    mixed,
    note_rows,
    rows_of,
    shards_of,
    stamps,
    texts_of,
    verified,
)

_Rows = Mapping[str, Sequence[dict[str, Any]]]
_Base = tuple[_Rows, Store, Built, Edges]


def _write(folder: pathlib.Path, rows: _Rows, *, n_files: int = 1, order: int = 0, formats: Sequence[str] = ("jsonl",)) -> str:
    """Write the sources in so many files each; a seed decides in which order rows, and files by name, come."""
    for source, given_rows in rows.items():
        mix = random.Random(f"{order}|{source}")
        shuffled = mix.sample(given_rows, len(given_rows))
        cuts = sorted(mix.sample(range(1, len(shuffled)), n_files - 1))
        for number, (first, last) in enumerate(zip([0, *cuts], [*cuts, len(shuffled)], strict=True)):
            path = folder / "data" / source / f"{mix.random()}.{formats[number % len(formats)]}"
            (write_parquet if path.suffix == ".parquet" else write_jsonl)(path, shuffled[first:last])
    (folder / "recipe.toml").write_text(RECIPE)
    return str(folder / "recipe.toml")


def _build(root: pathlib.Path, recipe: str, *, workers: int = 1, **more: Any) -> tuple[Store, Built]:
    store = Store(str(root))
    return store, build(store, read_recipe(store, file=recipe, sources=more.pop("sources", ()), **more), run=executor.local(workers))


def _decided(store: Store, built: Built) -> dict[str, tuple[Any, ...]]:
    columns = ("doc_id", "split", "reason", "dup_of", "dup_kind", "dup_similarity", "rank", "n_tokens")
    return {row["row_id"]: tuple(row[name] for name in columns) for row in rows_of(store, built.manifest)}


def _digests(built: Built) -> tuple[str, str]:
    return built.manifest.fingerprint, str(built.manifest.info["decision"])


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> _Base:
    folder = tmp_path_factory.mktemp("base")
    rows = mixed(0)
    store, built = _build(folder / "root", _write(folder, rows))
    return rows, store, built, edges_of(store, built.manifest)


def _check(store: Store, built: Built, base: _Base) -> None:
    assert not differing(edges_of(store, built.manifest), base[3])
    assert not differing(_decided(store, built), _decided(base[1], base[2]))
    assert _digests(built) == _digests(base[2])


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_edges_and_what_becomes_of_every_row_are_those_of_brute_force(tmp_path, seed):
    store, built = _build(tmp_path / "root", _write(tmp_path, mixed(seed)))
    found = edges_of(store, built.manifest)
    true = expected(texts_of(store, shards_of(store, built.manifest)))
    assert not differing(found, true.edges)
    assert {name: built.manifest.info["edges"][name] for name in true.counts} == true.counts
    assert true.n_skipped > 0
    rows = rows_of(store, built.manifest)
    _check_twin(rows, found)
    assert {row["reason"] for row in rows} == {
        None, "gopher_quality.min_words", "holdout.leak", "duplicate.exact", "duplicate.jaccard", "duplicate.containment",
    }  # fmt: skip


def _check_twin(rows: Sequence[dict[str, Any]], found: Edges) -> None:
    """Hold the rows of a version against the decision in plain Python over these edges, and their proofs against the edges."""
    places = {"papers": 0, "web": 1, "more": 2}
    decided = decide_twin(
        [{**row, "source_place": places[row["source"]]} for row in rows],
        {row["doc_id"]: 1 for row in rows},
        Choice(budget=len(rows)),
        shares=dict.fromkeys(places, HOLDOUT),
        min_words=dict.fromkeys(places, MIN_WORDS),
        seed=0,
        edges=[(*pair, *values) for pair, values in found.items()],
        threshold=float(np.float32(0.8)),
        containment=float(np.float32(0.9)),
    )
    assert not differing({row["row_id"]: (row["split"], row["reason"], row["rank"], row["dup_of"]) for row in rows}, decided)
    by_id = {row["row_id"]: row for row in rows}
    for row in rows:
        if row["dup_of"]:
            assert (row["dup_kind"], row["dup_similarity"]) == (row["reason"].split(".")[1], _proof(row, by_id[row["dup_of"]], found))


def _proof(row: Mapping[str, Any], kept: Mapping[str, Any], found: Edges) -> float:
    if row["doc_id"] == kept["doc_id"]:
        return 1.0
    similarity, *shares = found[min(row["doc_id"], kept["doc_id"]), max(row["doc_id"], kept["doc_id"])]
    return similarity if row["dup_kind"] == "jaccard" else shares[row["doc_id"] > kept["doc_id"]]


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(n_files=st.integers(1, 4), order=st.integers(0, 10**6), formats=st.permutations(["jsonl", "parquet", "jsonl.gz"]))
def test_order_files_and_formats_change_nothing(base, tmp_path_factory, n_files, order, formats):
    folder = tmp_path_factory.mktemp("layout")
    _check(*_build(folder / "root", _write(folder, base[0], n_files=n_files, order=order, formats=formats)), base)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_and_shards_change_nothing(base, tmp_path, workers):
    # A field that no one reads makes two files too much for one unit of ingest, so that each becomes a shard.
    rows = {**base[0], "web": [{**row, "pad": "x" * 33_000_000} if n < 2 else row for n, row in enumerate(base[0]["web"])]}
    recipe = _write(tmp_path, base[0])
    shutil.rmtree(tmp_path / "data/web")
    for number in range(2):
        write_jsonl(tmp_path / f"data/web/{number}.jsonl", rows["web"][number::2])
    store, built = _build(tmp_path / "root", recipe, workers=workers)
    assert len(shards_of(store, built.manifest)) == 3
    _check(store, built, base)


@settings(max_examples=5, deadline=None)
@given(cuts=st.lists(st.floats(0, 1), max_size=5), order=st.randoms(use_true_random=False))
def test_where_shards_are_cut_changes_no_edge(base, tmp_path_factory, cuts, order):
    _, store, built, found = base
    rows = pa.concat_tables(store.read_table(f"corpus/{shard}") for shard in shards_of(store, built.manifest)).cast(SHARD_SCHEMA)
    rows = rows.take(pa.array(order.sample(range(rows.num_rows), rows.num_rows)))
    ends = sorted({*(int(cut * rows.num_rows) for cut in cuts), rows.num_rows} - {0})
    other = Store(str(tmp_path_factory.mktemp("shards")))
    shards = []
    for first, last in zip([0, *ends], ends, strict=False):
        writer = ShardWriter(other, "mixed", {"first": str(first)})
        writer.add(rows.slice(first, last - first))
        shards += [shard.path.removeprefix("corpus/") for shard in writer.finish()]
    assert len(shards) == len(ends)
    counts, linked = link(other, shards)
    assert not differing(linked, found)
    assert counts == {name: built.manifest.info["edges"][name] for name in counts}


@pytest.mark.slow
def test_workers_change_nothing_where_pairs_are_verified_in_several_parts(tmp_path):
    # The notes are more alike than 0.8 in many hot bands, which makes more pairs than one part takes.
    made = note_rows(2000, seed=3, n_words=90, n_numbers=10)
    rows = {"papers": [*made[::2], *mixed(3)["papers"]], "web": made[1::2]}
    built = {}
    for workers in (1, 2, 4):
        folder = tmp_path / str(workers)
        built[workers] = _build(folder / "root", _write(folder, rows, n_files=workers, order=workers), workers=workers)
        assert len(edges.edge_paths(built[workers][0])) > 1
    alone = (rows, *built[1], edges_of(built[1][0], built[1][1].manifest))
    _check(*built[2], alone)
    _check(*built[4], alone)


_SCORED = """
scorers = ["quality"]
[quality]
dim = 8
bucket = 1000
rounds = 2
lr = 1.0
epochs = 20
[sources.reference]
path = "data/reference"
role = "reference"
"""


def _scored(folder: pathlib.Path, rows: _Rows) -> str:
    """Write the sources, with a reference, so that who is kept follows a score."""
    recipe = pathlib.Path(_write(folder, rows))
    write_jsonl(folder / "data/reference/a.jsonl", documents("reference", 20))
    scorers, tables = _SCORED.strip().split("\n", 1)
    recipe.write_text(f"{scorers}\n{RECIPE}\n{tables}")
    return str(recipe)


def _listed(store: Store) -> dict[str, tuple[int, int, int]]:
    return stamps(store, [*store.files("corpus"), *store.files("cache/signals"), *store.files("cache/edges")])


@pytest.mark.slow
def test_an_added_source_computes_what_is_new_and_ends_as_a_build_from_scratch(tmp_path):
    rows = mixed(4, n_notes=80)
    recipe = _scored(tmp_path, rows)
    store, first = _build(tmp_path / "root", recipe)
    old, before = edges_of(store, first.manifest), _listed(store)
    old_texts = texts_of(store, shards_of(store, first.manifest))
    seen = verified(store, edges.edge_paths(store))

    # Rows that are there already, near copies of those, more notes of the same template, and a family of its own.
    added = [{**row, "id": f"again-{row['id']}"} for row in rows["web"][::7]]
    added += [{"id": f"near-{row['id']}", "text": f"{row['text']} And more."} for row in rows["papers"][::5]]
    added += note_rows(160, seed=4)[80:]
    added += [{**row, "id": f"own-{row['id']}"} for row in mixed(5, n_texts=6, n_notes=1)["papers"]]
    write_jsonl(tmp_path / "more/a.jsonl", added)
    sources = (f"more={tmp_path}/more/*.jsonl",)
    shutil.copytree(tmp_path / "root/models", tmp_path / "scratch/models")
    for kept in ("evalsets", "manifests"):  # the version whose evalset is taken over
        shutil.copytree(tmp_path / "root" / kept, tmp_path / "scratch" / kept)
    _, second = _build(tmp_path / "root", recipe, sources=sources)

    after = _listed(store)
    assert {path: after[path] for path in before} == before
    new = set(after) - set(before)
    (shard,) = (path for path in new if path.startswith("corpus/"))
    signals = {path.rsplit("/", 1)[1] for path in new if path.startswith("cache/signals/")}
    assert signals == {shard.rsplit("/", 1)[1]}
    more = verified(store, [path for path in new if path.startswith("cache/edges/")])
    texts = texts_of(store, shards_of(store, second.manifest))
    true = expected(texts)
    assert len(seen) == len(expected(old_texts).candidates)
    assert len(more) == len(set(more))
    assert not set(seen) ^ expected(old_texts).candidates
    assert not set(more) ^ (true.candidates - set(seen))
    assert all(set(pair) - set(old_texts) for pair in more)

    found = edges_of(store, second.manifest)
    assert not differing(found, true.edges)
    # Texts that come earlier by doc_id push others out of the first HOT_BAND: their edges are known, and are edges no more.
    obsolete = set(old) - set(found)
    assert obsolete
    assert all(len([text for text in texts if text <= min(pair)]) > HOT_BAND for pair in obsolete)
    _check_twin(rows_of(store, second.manifest), found)

    scratch, whole = _build(tmp_path / "scratch", recipe, sources=sources)
    assert len(verified(scratch, edges.edge_paths(scratch))) == len(true.candidates)
    assert whole.manifest.info["scorers"] == first.manifest.info["scorers"]
    assert whole.manifest.info["evalset"] == first.manifest.info["evalset"]
    _check(scratch, whole, (rows, store, second, found))
