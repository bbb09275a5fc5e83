"""A build as a whole: the same input gives the same digests however it comes, and nothing is done or lost twice."""

import collections
import concurrent.futures
import gzip
import json
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import executor, manifest
from curate.build import Built, CheckFailed, build, database
from curate.recipe import DomainError
from curate.recipe_file import read_recipe
from curate.store import Store
from curate.verify import verify
from tests.curate.commands import curate
from tests.curate.corpora import documents, text, write_corpus, write_jsonl


def _build(root: pathlib.Path | str, recipe: str, *, workers: int = 1, settings: tuple[str, ...] = (), **more: Any) -> Built:
    store = Store(str(root))
    sources = more.pop("sources", ())
    return build(store, read_recipe(store, file=recipe, settings=settings, sources=sources), run=executor.local(workers), **more)


def _digests(built: Built) -> tuple[str, str]:
    return built.manifest.fingerprint, str(built.manifest.info["decision"])


def _all_rows(root: pathlib.Path, version: str = "v1") -> list[dict[str, Any]]:
    store = Store(str(root))
    loaded = manifest.load(store, version)
    return [row for split in manifest.SPLITS for row in manifest.rows(store, loaded, split).to_pylist()]


def test_every_row_is_in_the_manifest_or_in_quarantine_once(tiny):
    root, recipe = tiny.root, tiny.recipe
    read = collections.Counter()
    for path in sorted((pathlib.Path(recipe).parent / "data").rglob("*.jsonl*")):
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
        read.update((path.parent.name, json.loads(line)["id"]) for line in lines)
    decided = collections.Counter((row["source"], row["source_id"]) for row in _all_rows(root))
    assert decided == collections.Counter({key: n for key, n in read.items() if key[0] != "reference"})
    in_corpus = sum(pq.read_metadata(path).num_rows for path in (root / "corpus" / "reference").glob("*.parquet"))
    assert in_corpus == sum(n for key, n in read.items() if key[0] == "reference")


def test_what_must_always_hold(tiny):
    rows = _all_rows(tiny.root)
    by_split = {split: [row for row in rows if row["split"] == split] for split in manifest.SPLITS}
    assert all(by_split.values())
    kept_docs = [row["doc_id"] for row in by_split["train"]]
    assert len(kept_docs) == len(set(kept_docs))
    assert not {row["group"] for row in by_split["train"]} & {row["group"] for row in by_split["holdout"]}
    assert not set(kept_docs) & {row["doc_id"] for row in by_split["holdout"]}
    assert len({row["row_id"] for row in rows}) == len(rows)
    kept = {row["row_id"]: row for row in by_split["train"]}
    for row in by_split["dropped"]:
        assert row["reason"]
        if row["dup_of"] in kept:
            assert (kept[row["dup_of"]]["doc_id"] == row["doc_id"]) == (row["dup_kind"] == "exact")
            assert row["dup_similarity"] >= np.float32(0.8)
    spent = sum(row["n_tokens"] for row in by_split["train"] if row["component"] == "domain")
    assert 12_000 - 200 < spent <= 12_000
    stage = tiny.built.manifest.stages[0]
    assert sum(part.epoch_tokens for part in stage.components) == stage.epoch_tokens == 12_000
    reasons = {row["reason"] for row in by_split["dropped"]}
    assert {"gopher_quality.min_words", "duplicate.exact", "duplicate.jaccard", "budget"} <= reasons


def test_papers_and_abstracts_of_one_article_stay_together(tiny):
    groups = collections.defaultdict(set)
    for row in _all_rows(tiny.root):
        if row["group"].startswith("paper-p"):
            groups[row["group"]].add(row["split"] == "holdout")
    assert groups
    assert all(len(sides) == 1 for sides in groups.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "shape"),
    [
        (2, {}),
        (4, {"n_files": 5}),
        (1, {"reverse": True}),
        (1, {"n_files": 1, "formats": ("parquet",)}),
        (2, {"n_files": 3, "formats": ("parquet", "jsonl", "jsonl.gz"), "reverse": True}),
    ],
)
def test_the_same_rows_give_the_same_digests(tiny, tmp_path, workers, shape):
    built = _build(tmp_path / "root", write_corpus(tmp_path, **shape), workers=workers)
    assert _digests(built) == _digests(tiny.built)
    assert built.manifest.info["scorers"] == tiny.built.manifest.info["scorers"]


def test_a_second_build_publishes_nothing_and_names_the_first(tiny):
    before = sorted(path for path in tiny.root.rglob("*") if path.is_file())
    again = _build(tiny.root, tiny.recipe)
    assert (again.is_new, again.manifest.version) == (False, "v1")
    assert sorted(path for path in tiny.root.rglob("*") if path.is_file()) == before


def test_a_changed_threshold_recomputes_no_signal(own):
    mine = own()
    cached = {path: path.stat().st_mtime_ns for path in (mine.root / "cache" / "signals").rglob("*.parquet")}
    shards = sorted((mine.root / "corpus").rglob("*.parquet"))
    built = _build(mine.root, mine.recipe, settings=("gopher_quality.min_words=70",))
    assert (built.is_new, built.manifest.version, built.manifest.info["parent"]) == (True, "v2", "v1")
    assert cached == {path: path.stat().st_mtime_ns for path in (mine.root / "cache" / "signals").rglob("*.parquet")}
    assert shards == sorted((mine.root / "corpus").rglob("*.parquet"))
    assert built.manifest.tokenizer == mine.built.manifest.tokenizer


def test_the_cache_can_be_deleted(own):
    mine = own("cache")
    again = _build(mine.root, mine.recipe)
    assert not again.is_new
    assert _digests(again) == _digests(mine.built)


def test_a_lost_shard_is_made_again(own):
    mine = own()
    lost = next((mine.root / "corpus" / "papers").iterdir())
    data = lost.read_bytes()
    lost.unlink()
    assert _digests(_build(mine.root, mine.recipe)) == _digests(mine.built)
    assert lost.read_bytes() == data


def test_an_object_store_gives_the_same_digests(tiny, tmp_path):
    root = f"memory://build-{os.getpid()}-{tmp_path.name}"
    built = _build(root, tiny.recipe)
    assert _digests(built) == _digests(tiny.built)
    assert verify(Store(root), built.manifest) == ([], [])


@pytest.mark.slow
def test_two_builds_at_once_publish_two_versions(tmp_path):
    recipe = write_corpus(tmp_path)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        built = list(pool.map(lambda seed: _build(tmp_path / "root", recipe, settings=(f"seed={seed}",)), (1, 2)))
    assert sorted(one.manifest.version for one in built) == ["v1", "v2"]
    assert len({_digests(one) for one in built}) == 2
    assert len({one.manifest.tokenizer["sha256"] for one in built}) == 1


def test_an_added_source_leaves_the_tokenizer_and_the_evalset(own, tmp_path):
    mine = own()
    write_jsonl(tmp_path / "more" / "a.jsonl", documents("more", 120))
    second = _build(mine.root, mine.recipe, sources=(f"more={tmp_path}/more/*.jsonl",))
    assert second.manifest.version == "v2"
    for key in ("tokenizer", "evalset"):
        assert second.manifest.info[key] == mine.built.manifest.info[key]
    third = _build(mine.root, mine.recipe, sources=(f"more={tmp_path}/more/*.jsonl",), settings=("evalset=new",))
    assert third.manifest.info["evalset"]["digest"] != mine.built.manifest.info["evalset"]["digest"]
    assert verify(Store(str(mine.root)), third.manifest) == ([], [])


def test_refit_makes_a_new_tokenizer_and_keeps_the_old(own):
    mine = own()
    first = mine.built.manifest
    second = _build(mine.root, mine.recipe, settings=("tokenizer.vocab_size=500",))
    assert second.manifest.tokenizer == first.tokenizer
    third = _build(mine.root, mine.recipe, settings=("tokenizer.vocab_size=500",), refit=("tokenizer",))
    assert third.manifest.tokenizer["n_vocab"] != first.tokenizer["n_vocab"]
    assert verify(Store(str(mine.root)), first) == ([], [])


def test_a_named_tokenizer_is_pinned(tiny, own, tmp_path):
    mine = own("manifests", "*tokenizer*")
    pinned = mine.built.manifest.tokenizer
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_bytes((tiny.root / pinned["path"]).read_bytes())
    with pytest.raises(DomainError, match=r"tokenizer\.path .* gives no tokenizer"):
        _build(mine.root, mine.recipe, settings=(f"tokenizer.path={tmp_path}/model/tokenizer.jsn",))
    named = _build(mine.root, mine.recipe, settings=(f"tokenizer.path={tmp_path}/model",))
    assert named.manifest.tokenizer["sha256"] == pinned["sha256"]
    assert named.manifest.fingerprint == mine.built.manifest.fingerprint


def test_a_lower_holdout_is_refused(tiny):
    with pytest.raises(DomainError, match=r"source 'papers' holds out 0\.05, but v1 held out 0\.1"):
        _build(tiny.root, tiny.recipe, settings=("holdout.share=0.05",))


def test_a_source_that_holds_out_less_leaks_no_group(tmp_path):
    rows = [{"id": f"a{n}", "text": text(f"a{n}"), "pmid": f"g{n}"} for n in range(200)]
    write_jsonl(tmp_path / "data/papers/a.jsonl", rows)
    write_jsonl(tmp_path / "data/web/a.jsonl", [{**row, "id": f"b{n}", "text": text(f"b{n}")} for n, row in enumerate(rows)])
    (tmp_path / "recipe.toml").write_text(
        '[tokenizer]\nvocab_size = 600\n[sources.papers]\npath = "data/papers"\nholdout_share = 0.3\nfields = { group = "pmid" }\n'
        '[sources.web]\npath = "data/web"\nholdout_share = 0.0\nfields = { group = "pmid" }\n'
    )
    _build(tmp_path / "root", str(tmp_path / "recipe.toml"))
    rows = _all_rows(tmp_path / "root")
    held = {row["group"] for row in rows if row["split"] == "holdout"}
    assert 30 < len(held) < 90
    assert not held & {row["group"] for row in rows if row["split"] == "train"}
    assert {row["reason"] for row in rows if row["source"] == "web" and row["group"] in held} == {"holdout.leak"}


def test_interchangeable_rows_are_numbered(tmp_path):
    twice = {"id": "x", "text": text("x")}
    write_jsonl(tmp_path / "data/a.jsonl", [twice, *documents("d", 60), twice])
    (tmp_path / "recipe.toml").write_text('[tokenizer]\nvocab_size = 600\n[holdout]\nshare = 0.0\n[sources.a]\npath = "data"\n')
    _build(tmp_path / "root", str(tmp_path / "recipe.toml"))
    found = [row for row in _all_rows(tmp_path / "root") if row["source_id"] == "x"]
    assert len({row["row_id"] for row in found}) == 2
    assert sorted(row["reason"] or "" for row in found) == ["", "duplicate.exact"]
    assert [row["dup_of"] for row in found if row["dup_of"]] == [row["row_id"] for row in found if not row["dup_of"]]


def test_a_stock_below_the_budget_is_taken_whole(own):
    mine = own("manifests")
    built = _build(mine.root, mine.recipe, settings=("select.budget_tokens=10M",))
    assert all(row["reason"] != "budget" for row in _all_rows(mine.root))
    assert built.manifest.stages[0].components[0].pool_tokens < 100_000


def _verdict(root: pathlib.Path) -> list[str]:
    store = Store(str(root))
    return verify(store, manifest.load(store, "v1"))[0]


@pytest.mark.parametrize(
    "what", ["manifests/v1/train/*.parquet", "corpus/papers/*.parquet", "evalsets/*.parquet", "models/*.json", "cache/tokens/*/*.bin"]
)
def test_verify_finds_a_flipped_byte_and_a_missing_file(own, what):
    root = own().root
    assert _verdict(root) == []
    path = next(root.glob(what))
    data = path.read_bytes()
    for at in (4, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert any(path.name in fault for fault in _verdict(root)), at
    path.unlink()
    if "cache" not in what:
        assert any("is missing" in fault for fault in _verdict(root))


def test_verify_finds_an_edited_row_also_where_the_part_digest_was_edited_too(own):
    root = own().root
    store = Store(str(root))
    path = "manifests/v1/train/part-00000.parquet"
    table = store.read_table(path)
    edited = [*table["n_tokens"].to_pylist()]
    edited[3] += 1
    store.write_table(
        path, table.set_column(table.schema.get_field_index("n_tokens"), table.schema.field("n_tokens"), pa.array(edited, pa.int32()))
    )
    info = store.read_json("manifests/v1/manifest.json")
    next(part for part in info["parts"] if part["path"] == "train/part-00000.parquet")["sha256"] = store.digest(path)
    store.write_json("manifests/v1/manifest.json", info)
    assert any("fingerprint" in fault for fault in _verdict(root))


def test_too_much_quarantine_stops_the_build_and_a_little_does_not(own, tmp_path):
    mine = own("manifests")
    path = tmp_path / "data/papers/part-0.jsonl"
    good = path.read_bytes()
    path.write_bytes(good + b"{broken\n" * 3)
    built = _build(mine.root, mine.recipe)
    assert built.manifest.info["inputs"]["papers"]["n_quarantined"] == 3
    path.write_bytes(good + b"{broken\n" * 30)
    with pytest.raises(CheckFailed, match=r"30 of \d+ rows \(.*%\) are quarantined, more than the 1\.00% allowed"):
        _build(mine.root, mine.recipe)
    assert manifest.versions(Store(str(mine.root))) == ["v1"]


def test_exit_1_above_the_stated_share_in_one_line(tmp_path):
    recipe = write_corpus(tmp_path, formats=("jsonl",))
    with open(tmp_path / "data/papers/part-0.jsonl", "ab") as file:
        file.write(b"{broken\n" * 30)
    done = curate("build", "--recipe", recipe, "--workers", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert "are quarantined, more than the 1.00% allowed" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "manifests").exists()


def test_tables_that_are_too_many_for_memory_live_in_a_file_that_goes(tmp_path):
    store = Store(str(tmp_path))
    for n_rows, is_file in ((1000, False), (1_000_000, True)):
        with database(store, "100MB", n_rows) as connection:
            found = connection.execute("SELECT path FROM duckdb_databases() WHERE database_name = current_database()").fetchall()
            assert [path is not None for (path,) in found] == [is_file]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_decision_that_does_not_fit_into_memory_stops_the_build(own):
    mine = own("manifests")
    with pytest.raises(CheckFailed, match="does not fit into --memory 1MB"):
        _build(mine.root, mine.recipe, memory="1MB")
    assert not (mine.root / "manifests").exists()
    assert _build(mine.root, mine.recipe).is_new


def test_a_wholly_unreadable_source_stops_the_build(tmp_path):
    recipe = write_corpus(tmp_path, formats=("jsonl",))
    for path in (tmp_path / "data/web").iterdir():
        path.write_bytes(b"nonsense\n")
    with pytest.raises(CheckFailed, match="source 'web' is wholly unreadable"):
        _build(tmp_path / "root", recipe, settings=("quarantine.max_share=0.9",))


def test_nothing_left_says_why(own):
    mine = own("manifests")
    with pytest.raises(DomainError, match=r"nothing is left of component 'domain' \(\d+ gopher_quality\.min_words"):
        _build(mine.root, mine.recipe, settings=("gopher_quality.min_words=5000",))
    assert not (mine.root / "manifests").exists()


_UNSCORED = ("--set", "scorers=[]", "--set", "select.order_by=random", "--set", "mix.preset=none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--domain", "medcal"], "domain 'medcal' not found; known: law, medical"),
        (["build", "--recipe", "no.toml"], "recipe file 'no.toml' not found"),
        (["build", "--domain", "medical", "--source", "a=a/*.gz"], "scorers names 'quality'"),
        (["build", "--domain", "medical", *_UNSCORED[:4], "--source", "a=a/*.gz"], "leaves 18.0% of the tokens to github"),
        (["build", "--domain", "law"], "the recipe names no source"),
        (["build", "--domain", "medical", *_UNSCORED, "--source", "a=nowhere/x.jsonl"], "nowhere/x.jsonl"),
        (["build", "--domain", "medical", *_UNSCORED, "--source", "a=*.jsonl"], "*.jsonl"),
        (["build", "--domain", "medical", "--set", "dedup.threshold=0.7"], "dedup.bands = 27 and dedup.rows = 7"),
        (["build", "--domain", "medical", "--set", "dedup.threshold=0.3"], "from 0.5 to 1"),
        (["build", "--recipe", "model.toml"], "nowhere.bin"),
        (
            ["build", "--domain", "medical", "--set", "scorers=[]", "--set", "select.order_by=random", "--memory", "much"],
            "--memory is 'much'",
        ),
        (["build", "--domain", "medical", "--set", "scorers=['qualty']"], "Did you mean 'quality'"),
        (["build", "--domain", "medical", "--set", "selct.budget_tokens=3"], "did you mean 'select'"),
        (["build", "--recipe", "group.toml"], "pmidd"),
        (["build", "--recipe", "column.toml"], "body"),
        (["build"], "either --domain NAME or --recipe FILE"),
        (["show", "v9"], "manifest 'v9' not found"),
        (["sql", "SELECT 1"], "manifest 'v1' not found"),
        (["build", "--workers", "0"], "--workers"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(tmp_path, arguments, message):
    write_jsonl(tmp_path / "a/a.jsonl.gz", documents("a", 5))
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "b.parquet")
    (tmp_path / "group.toml").write_text('[sources.a]\npath = "a"\nfields = { group = "pmidd" }\n')
    (tmp_path / "column.toml").write_text('[sources.b]\npath = "b.parquet"\nfields = { text = "body" }\n')
    (tmp_path / "model.toml").write_text('scorers = ["quality"]\n[quality]\nmodel = "nowhere.bin"\n[sources.a]\npath = "a"\n')
    done = curate(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "manifests").exists()
    assert done.stdout == ""
