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


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[pathlib.Path, Built]:
    root = tmp_path_factory.mktemp("real") / "root"
    return root, _build(root, read_recipe(Store(str(root)), file=_RECIPE), 2)


@pytest.fixture(scope="module")
def rows(base) -> list[dict[str, Any]]:
    store, loaded = Store(str(base[0])), base[1].manifest
    names = ["row_id", "doc_id", "group", "source", "source_id", "component", "split", "reason", "n_tokens", "dup_of"]
    return [row for split in manifest.SPLITS for row in manifest.rows(store, loaded, split, names).to_pylist()]


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


def test_a_changed_threshold_is_decided_anew_without_reading_text(base):
    root, _ = base
    before = {
        path: path.stat().st_mtime_ns for path in [*(root / "cache/signals").rglob("*.parquet"), *(root / "corpus").rglob("*.parquet")]
    }
    settings = ["gopher_quality.min_words=100"]
    again = _build(root, read_recipe(Store(str(root)), file=_RECIPE, settings=settings), 2)
    assert again.is_new
    assert before == {
        path: path.stat().st_mtime_ns for path in [*(root / "cache/signals").rglob("*.parquet"), *(root / "corpus").rglob("*.parquet")]
    }
    assert again.manifest.info["evalset"] == base[1].manifest.info["evalset"]
