"""The real recipe on ../shared/corpora: every row is somewhere once, and the digests do not see how the files were cut."""

import collections
import gzip
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import executor, manifest
from curate.build import Built, build
from curate.recipe import Recipe
from curate.recipe_file import read_recipe
from curate.store import Store
from curate.verify import verify
from tests.filters.word_twin import words

_HERE = pathlib.Path(__file__).parent
_CORPORA = _HERE.parents[1] / "shared" / "corpora"
_RECIPE = str(_HERE / "recipes" / "real.toml")

pytestmark = [pytest.mark.real, pytest.mark.skipif(not _CORPORA.is_dir(), reason="../shared/corpora is not here")]


def _lines(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        yield from pq.read_table(path).to_pylist()
        return
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        data = pa.input_stream(pa.BufferReader(data), compression="zstd").read()
    yield from (json.loads(line) for line in data.split(b"\n") if line.strip())


def _build(root: pathlib.Path, recipe: Recipe, workers: int) -> Built:
    return build(Store(str(root)), recipe, run=executor.local(workers))


_COLUMNS = [
    "row_id", "doc_id", "group", "source", "source_id", "component", "shard", "row", "n_bytes", "n_tokens", "quality", "split", "reason",
    "dup_of", "dup_kind", "dup_similarity",
]  # fmt: skip


def _rows(store: Store, loaded: manifest.Manifest) -> list[dict[str, Any]]:
    return [row for split in manifest.SPLITS for row in manifest.rows(store, loaded, split, _COLUMNS).to_pylist()]


def _grams(body: str, n_words: int) -> set[tuple[str, ...]]:
    found = [word.lower() for word in words(body)]
    return set(zip(*(found[start:] for start in range(n_words)), strict=False))


def _check_every_removal(store: Store, rows: list[dict[str, Any]]) -> int:
    """Prove each near duplicate by the word 5-grams of its own text and of the kept one's, and each contained row by their 3-grams."""
    by_id = {row["row_id"]: row for row in rows}
    gone = [row for row in rows if row["dup_kind"] in ("jaccard", "containment")]
    wanted = {row["row_id"]: row for copy in gone for row in (copy, by_id[copy["dup_of"]])}
    texts = {}
    for shard in {row["shard"] for row in wanted.values()}:
        column = store.read_table(f"corpus/{shard}", ["text"])["text"]
        texts |= {row["row_id"]: column[row["row"]].as_py() for row in wanted.values() if row["shard"] == shard}
    for row in gone:
        kept = by_id[row["dup_of"]]
        assert kept["split"] == "train" or kept["reason"] == "budget"
        is_contained = row["dup_kind"] == "containment"
        one, other = (_grams(texts[row_id], 3 if is_contained else 5) for row_id in (row["row_id"], row["dup_of"]))
        proof = len(one & other) / (len(one) if is_contained else len(one | other))
        assert proof >= (0.9 - 1e-6 if is_contained else 0.8)
        assert not is_contained or kept["n_bytes"] >= row["n_bytes"]
        assert row["dup_similarity"] == pytest.approx(proof, abs=1e-6)
    return len(gone)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[pathlib.Path, Built]:
    root = tmp_path_factory.mktemp("real") / "root"
    return root, _build(root, read_recipe(Store(str(root)), file=_RECIPE), 2)


@pytest.fixture(scope="module")
def rows(base) -> list[dict[str, Any]]:
    store, loaded = Store(str(base[0])), base[1].manifest
    return _rows(store, loaded)


def test_every_row_is_in_the_manifest_the_corpus_or_in_quarantine_once(base, rows):
    root, built = base
    decided = collections.Counter((row["source"], row["source_id"]) for row in rows)
    for source, entry in built.manifest.info["inputs"].items():
        files = [path for path in sorted((_CORPORA / source).iterdir()) if path.is_file()]
        read = collections.Counter(str(row["id"]) for path in files for row in _lines(path))
        aside = [row for path in (root / "cache/quarantine" / source).glob("*.parquet") for row in pq.read_table(path).to_pylist()]
        assert entry["n_rows"] + len(aside) == sum(read.values())
        assert sum(pq.read_metadata(root / shard["path"]).num_rows for shard in entry["shards"]) == entry["n_rows"]
        if entry["holdout_share"] is not None:
            here = collections.Counter({key[1]: n for key, n in decided.items() if key[0] == source})
            assert not here - read
            assert sum((read - here).values()) == len(aside)


def test_articles_are_on_one_side(rows):
    pmids = {
        path_row["id"]: path_row.get("pmid")
        for name in ("medical-papers", "medical-abstracts")
        for path in (_CORPORA / name).iterdir()
        for path_row in _lines(path)
    }
    tied = [row for row in rows if row["source"].startswith("medical-") and pmids.get(row["source_id"])]
    assert len(tied) > 5000
    assert all(row["group"] == pmids[row["source_id"]] for row in tied)
    sides = collections.defaultdict(set)
    for row in rows:
        sides[row["group"]].add("holdout" if row["split"] == "holdout" else "train" if row["split"] == "train" else "dropped")
    assert not [group for group, found in sides.items() if {"holdout", "train"} <= found]
    assert all(row["group"] == row["doc_id"] for row in rows if row["source"] == "general-forum")


def test_the_mixture_is_that_of_the_base_with_the_domain_for_the_web(base):
    (stage,) = base[1].manifest.info["stages"]
    assert {part["name"]: (part["share"], part["epoch_tokens"] / stage["epoch_tokens"]) for part in stage["components"]} == {
        "domain": (0.82, 0.82), "wikipedia": (0.09, 0.09), "books": (0.09, 0.09),
    }  # fmt: skip
    assert stage["mixture"]["preset"] == "llama-1"
    assert stage["mixture"]["replaced"] == {"common_crawl": 0.67, "c4": 0.15}
    assert stage["mixture"]["absent"] == {"github": 0.045, "arxiv": 0.025, "stackexchange": 0.02}


def test_budget_duplicates_and_counts_hold(base, rows):
    assert (
        8_000_000 - 40_000 < sum(row["n_tokens"] for row in rows if row["split"] == "train" and row["component"] == "domain") <= 8_000_000
    )
    kept = [row["doc_id"] for row in rows if row["split"] == "train"]
    assert len(kept) == len(set(kept))
    by_id = {row["row_id"]: row for row in rows}
    copies = [row for row in rows if row["reason"] == "duplicate.exact"]
    assert copies
    assert all(by_id[row["dup_of"]]["doc_id"] == row["doc_id"] for row in copies)
    held = sum(row["split"] == "holdout" for row in rows) / len(rows)
    assert 0.04 < held < 0.06
    assert verify(Store(str(base[0])), base[1].manifest) == ([], [])


def test_every_near_duplicate_has_its_proof(base, rows):
    assert _check_every_removal(Store(str(base[0])), rows) > 100


def test_what_is_selected_is_medical_in_each_length_quartile(rows):
    newsgroup = {str(row["id"]): row["group"] for path in (_CORPORA / "general-forum").iterdir() for row in _lines(path)}
    taken = [row for row in rows if row["split"] == "train" and row["component"] == "domain"]
    taken.sort(key=lambda row: (row["n_bytes"], row["row_id"]))
    for quarter in range(4):
        part = taken[quarter * len(taken) // 4 : (quarter + 1) * len(taken) // 4]
        medical = [row["source"].startswith("medical") or newsgroup.get(row["source_id"]) == "sci.med" for row in part]
        assert sum(medical) / len(medical) >= 0.97


def test_other_files_another_order_and_other_workers_give_the_same_digests(base, tmp_path):
    recipe = read_recipe(Store(str(tmp_path)), file=_RECIPE)
    for source in recipe.sources:
        found = [row for path in sorted((_CORPORA / source.name).iterdir()) for row in _lines(path)][::-1]
        for number in range(7):
            piece = found[number::7]
            folder = tmp_path / source.name
            folder.mkdir(exist_ok=True)
            (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in piece))
    settings = [f'sources.{source.name}.path="{tmp_path}/{source.name}/*.jsonl"' for source in recipe.sources]
    again = _build(tmp_path / "root", read_recipe(Store(str(tmp_path / "root")), file=_RECIPE, settings=settings), 4)
    assert again.manifest.info["decision"] == base[1].manifest.info["decision"]
    assert again.manifest.fingerprint == base[1].manifest.fingerprint


def test_a_changed_threshold_is_decided_anew_without_reading_text(base, rows):
    root, _ = base
    folders = ("cache/signals", "cache/edges", "corpus", "models")
    before = {path: path.stat().st_mtime_ns for folder in folders for path in (root / folder).rglob("*") if path.is_file()}
    settings = ["gopher_quality.min_words=100"]
    again = _build(root, read_recipe(Store(str(root)), file=_RECIPE, settings=settings), 2)
    assert again.is_new
    assert before == {path: path.stat().st_mtime_ns for folder in folders for path in (root / folder).rglob("*") if path.is_file()}
    # The tighter rule dropped some keepers: their copies that still pass are kept or go by another kept row, again with proof.
    now = _rows(Store(str(root)), again.manifest)
    _check_every_removal(Store(str(root)), now)
    reason = {row["row_id"]: row["reason"] for row in now}
    orphans = [row for row in rows if row["dup_of"] and reason[row["dup_of"]] == "gopher_quality.min_words"]
    assert orphans
    assert not [
        row
        for row in orphans
        if reason[row["row_id"]]
        not in (None, "budget", "gopher_quality.min_words", "duplicate.exact", "duplicate.jaccard", "duplicate.containment")
    ]
    assert again.manifest.info["evalset"] == base[1].manifest.info["evalset"]
