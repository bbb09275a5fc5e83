"""Versions compared, asked about a text of nobody's, and handed on as files: what is said is what the rows hold."""

import collections
import gzip
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import executor
from curate.build import build
from curate.diff import diff, recipe_changes, rows_query
from curate.export import export
from curate.manifest import Manifest, ManifestError, hash_key, load, rows
from curate.recipe_file import read_recipe
from curate.sql import connect, select
from curate.store import Store
from curate.why import explain
from curate.why_text import explain_text
from tests.curate.commands import curate
from tests.curate.corpora import text, write_corpus

_SPLITS = ("train", "holdout", "dropped")
_V2 = (
    "gopher_quality.min_words=65", "select.budget_tokens=9000", "dedup.threshold=0.9", "mix.shares={ domain = 0.7, wikipedia = 0.3 }",
    "sources.wiki.rules=[]",
)  # fmt: skip
_V3 = ("domain=elsewhere", "scorers=[]", "select.order_by=random", "dedup.threshold=false", "tokenizer.vocab_size=500")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> pathlib.Path:
    """v2 has other rules and budgets than v1, and the same rows in other shards; v3 has another domain and tokenizer, and no scores."""
    folder = tmp_path_factory.mktemp("inspect")
    store = Store(str(folder / "root"))
    for settings, n_files in [((), 2), (_V2, 3), (_V3, 3)]:
        recipe = write_corpus(folder, n_files=n_files, reverse=n_files == 3)
        build(store, read_recipe(store, file=recipe, settings=settings), run=executor.local(1))
    return folder / "root"


@pytest.fixture(scope="module")
def diffed(root) -> dict[str, Any]:
    return _diff(root, "v1", "v2")


def _diff(root: pathlib.Path, before: str, after: str) -> dict[str, Any]:
    store = Store(str(root))
    return diff(store, load(store, before), load(store, after))


def _rows(root: pathlib.Path, version: str, *splits: str) -> dict[str, dict[str, Any]]:
    store = Store(str(root))
    tables = [rows(store, load(store, version), split) for split in splits or _SPLITS]
    return {row["row_id"]: row for table in tables for row in table.to_pylist()}


def _moved(root: pathlib.Path) -> list[tuple[str, str, dict[str, Any]]]:
    """Give the rows that went out or came in from v1 to v2: direction, reason, and the row of the version that has it in."""
    old, new = _rows(root, "v1"), _rows(root, "v2")
    moved = []
    for row_id in sorted({*old, *new}):
        here, there = old.get(row_id), new.get(row_id)
        was_in, is_in = (row is not None and row["split"] == "train" for row in (here, there))
        if was_in != is_in:
            kept, other = (here, there) if was_in else (there, here)
            moved.append(("out" if was_in else "in", "not read" if other is None else other["reason"] or other["split"], kept))
    return moved


@pytest.mark.slow
def test_shards_differ_and_rows_do_not(root):
    shards = [{row["shard"] for row in _rows(root, version).values()} for version in ("v1", "v2")]
    assert not shards[0] & shards[1]
    assert {*_rows(root, "v1")} == {*_rows(root, "v2")}


def test_what_moved_is_counted_by_source_and_by_reason(root, diffed):
    moved = _moved(root)
    by_reason = collections.Counter((direction, reason) for direction, reason, _ in moved)
    assert {(row["direction"], row["reason"]): row["rows"] for row in diffed["reasons"]} == by_reason
    assert {reason for direction, reason in by_reason if direction == "out"} >= {"budget", "gopher_quality.min_words"}
    tokens: collections.Counter[tuple[str, str]] = collections.Counter()
    for direction, reason, row in moved:
        tokens[direction, reason] += row["n_tokens"]
    assert {(row["direction"], row["reason"]): row["n_tokens"] for row in diffed["reasons"]} == tokens
    for source in diffed["sources"]:
        here = [(direction, row) for direction, _, row in moved if row["source"] == source["source"]]
        for side in ("out", "in"):
            found = [row for direction, row in here if direction == side]
            counted = [len(found), sum(row["n_tokens"] for row in found), sum(row["n_bytes"] for row in found)]
            assert [source[f"{what}_{side}"] for what in ("rows", "tokens", "bytes")] == counted
        for side, version in (("before", "v1"), ("after", "v2")):
            kept = [row for row in _rows(root, version, "train").values() if row["source"] == source["source"]]
            assert [source[f"rows_{side}"], source[f"tokens_{side}"]] == [len(kept), sum(row["n_tokens"] for row in kept)]
    assert sum(source["rows_in"] for source in diffed["sources"]) == diffed["totals"]["rows_in"] > 0


def test_a_text_that_is_in_as_another_row_is_said(root, diffed):
    kept = {version: {row["doc_id"] for row in _rows(root, version, "train").values()} for version in ("v1", "v2")}
    for side, other in (("out", "v2"), ("in", "v1")):
        same = sum(row["doc_id"] in kept[other] for direction, _, row in _moved(root) if direction == side)
        assert diffed["totals"][f"same_text_{side}"] == same


def test_deciles_are_those_of_the_rows_that_passed(root, diffed):
    for side, version in (("out", "v1"), ("in", "v2")):
        ranked = sorted(row["quality"] for row in _rows(root, version).values() if row["component"] == "domain" and row["rank"])
        edges = [ranked[-(-len(ranked) * tenth // 10) - 1] for tenth in range(1, 10)]
        expected = collections.Counter(
            10 - sum(row["quality"] >= edge for edge in edges)
            for direction, _, row in _moved(root)
            if direction == side and row["component"] == "domain"
        )
        assert {row["decile"]: row[f"rows_{side}"] for row in diffed["deciles"] if row[f"rows_{side}"]} == expected
        shown = [row["from_before" if side == "out" else "from_after"] for row in diffed["deciles"]]
        assert shown == [*reversed(edges), None]
    assert [row["decile"] for row in diffed["deciles"]] == list(range(1, 11))


def test_lines_of_the_recipe_stand_once_where_they_hold_for_all_sources(diffed):
    lines = {line["key"]: (line["before"], line["after"]) for line in diffed["recipe"]}
    gone = {key: lines.pop(key) for key in list(lines) if key.startswith("sources.wiki.gopher_quality.")}
    assert (gone["sources.wiki.gopher_quality.min_words"], {after for _, after in gone.values()}) == (("50", "not set"), {"not set"})
    assert lines == {
        "dedup.threshold": ("0.8", "0.9"),
        "mix.shares.domain": ("0.8", "0.7"),
        "mix.shares.wikipedia": ("0.2", "0.3"),
        "select.budget_tokens": ("12000", "9000"),
        "sources.papers.gopher_quality.min_words": ("50", "65"),
        "sources.web.gopher_quality.min_words": ("50", "65"),
        "sources.wiki.rules": ('["gopher_quality"]', "[]"),
    }
    sources = [{"name": name, "role": "candidate", "judged_by": {"f": {"min": 1.5, "off": None}}} for name in "ab"]
    before, after = (Manifest("v1", {"recipe": {"sources": sources}, "tokenizer": {"name": "t", "sha256": "0" * 64}}) for _ in range(2))
    after = Manifest("v2", {**after.info, "recipe": {"sources": [{**one, "judged_by": {"f": {"min": None, "off": 2}}} for one in sources]}})
    alike = [{"key": "f.min", "before": "1.5", "after": "false"}, {"key": "f.off", "before": "false", "after": "2"}]
    assert recipe_changes(before, after) == alike
    parts = {row["component"]: (row["before"]["share"], row["after"]["share"]) for row in diffed["components"]}
    assert parts == {"domain": (0.8, 0.7), "wikipedia": (0.2, 0.3)}


def test_the_rows_are_a_query_and_an_option(root):
    expected = [(row["row_id"], direction, reason, row["n_tokens"]) for direction, reason, row in _moved(root)]
    found = select(connect(str(root), "v1"), rows_query("v1", "v2")).to_pylist()
    assert [(row["row_id"], row["direction"], row["reason"], row["n_tokens"]) for row in found] == expected
    done = curate("diff", "v1", "v2", "--rows", "--json", "--root", str(root), cwd=root)
    assert [json.loads(line)["row_id"] for line in done.stdout.splitlines()] == [row_id for row_id, *_ in expected]
    printed = curate("diff", "v1", "v2", "--root", str(root), cwd=root)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert f'curate sql "{rows_query("v1", "v2")}" --root {root}' in printed.stdout
    assert "gopher_quality.min_words" in printed.stdout


def test_what_cannot_be_compared_is_said(root):
    data = _diff(root, "v2", "v3")
    assert data["deciles"] is None
    said = " | ".join(data["remarks"])
    assert "v2 is of domain tiny, v3 of elsewhere" in said
    assert "other tokenizers" in said
    assert "because v3 has no scores" in said
    printed = curate("diff", "v2", "v3", "--root", str(root), cwd=root)
    assert printed.returncode == 0
    assert "bytes out" in printed.stdout
    assert "tokens out" not in printed.stdout


def test_a_version_does_not_differ_from_itself(root):
    data = _diff(root, "v1", "v1")
    assert (data["recipe"], data["reasons"], data["totals"]["rows_in"], data["totals"]["rows_out"]) == ([], [], 0, 0)
    assert "the two decided the same: their digests of all rows and of the recipe are equal" in data["remarks"]


def _text_of(root: pathlib.Path, row: dict[str, Any]) -> str:
    return str(Store(str(root)).read_rows(f"corpus/{row['shard']}", [row["row"]], ["text"])["text"][0].as_py())


def _asked(root: pathlib.Path, body: str, version: str = "v1", **more: Any) -> dict[str, Any]:
    store = Store(str(root))
    return explain_text(store, load(store, version), body, **more)


def _explained(root: pathlib.Path, row_id: str) -> dict[str, Any]:
    store = Store(str(root))
    return dict(explain(store, load(store, "v1"), row_id)["rows"][0])


def test_a_text_of_the_corpus_is_told_what_its_row_is_told(root):
    for row in list(_rows(root, "v1", "train", "dropped").values())[::50]:
        asked = _asked(root, f"\r\n{_text_of(root, row)}  ", source=row["source"])
        shown = _explained(root, row["row_id"])
        keys = ("family", "rule", "value", "threshold", "margin", "outcome")
        (judged,) = asked["judged"]
        assert [[rule[key] for key in keys] for rule in judged["rules"]] == [[rule[key] for key in keys] for rule in shown["rules"]]
        assert (asked["doc_id"], asked["n_words"], asked["quality"]) == (row["doc_id"], row["n_words"], shown["quality"])
        assert row["n_tokens"] in (None, asked["n_tokens"])
        assert row["doc_id"] in {one["doc_id"] for one in asked["rows"]}
        if row["component"] == "domain":
            assert asked["place"] == shown["place"]


def _shingles(body: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", body.lower())
    return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}


def test_the_nearest_text_is_found_and_measured(root):
    row = max((row for row in _rows(root, "v1", "train").values() if row["component"] == "domain"), key=lambda row: row["n_words"])
    body = _text_of(root, row)
    changed = f"{body} Three more words."
    near = _asked(root, changed)["near"]
    first = near["first"][0]
    assert (first["row_id"], first["goes_as"], near["n_candidates"] >= 1) == (row["row_id"], "duplicate.jaccard", True)
    five, three = ((_shingles(changed, n), _shingles(body, n)) for n in (5, 3))
    assert first["similarity"] == pytest.approx(len(five[0] & five[1]) / len(five[0] | five[1]), abs=1e-6)
    assert first["containment"] == pytest.approx(len(three[0] & three[1]) / len(three[0]), abs=1e-6)
    assert first["containment_of_it"] == 1.0
    strange = _asked(root, text("nobody-wrote-this", 90))
    assert strange["near"]["first"] == []
    assert strange["versions"] == strange["rows"] == []


def test_sources_that_are_judged_alike_stand_together(root):
    judged = _asked(root, text("a", 60), "v2")["judged"]
    assert [(one["sources"], one["verdict"]) for one in judged] == [
        (["papers", "web"], "would be dropped: gopher_quality.min_words (n_words is 60, the rule keeps >= 65)"),
        (["wiki"], "no rule judges it"),
    ]
    assert _asked(root, text("a", 70), "v2", source="web")["judged"][0]["verdict"] == "passes the rules"
    with pytest.raises(ManifestError, match="no candidate or replay source 'reference'; it has: papers, web, wiki"):
        _asked(root, "a", source="reference")


def test_what_cannot_be_said_of_a_text_is_said(root, tmp_path):
    said = " | ".join(_asked(root, "Short.", "v3")["remarks"])
    for words in ("its rank is not known", "v3 has no scores", "v3 was built for exact copies only"):
        assert words in said
    assert "too short for near copies" in " ".join(_asked(root, "Short.")["remarks"])
    assert _asked(root, "Short.")["judged"][0]["verdict"].startswith("would be dropped: gopher_quality.min_words (n_words is 1,")
    with pytest.raises(ManifestError, match="empty"):
        _asked(root, " \x00\n")
    shutil.copytree(root, tmp_path / "root", ignore=shutil.ignore_patterns("minhash", "quality-*"))
    said = " | ".join(_asked(tmp_path / "root", text("a", 60))["remarks"])
    assert "near copies may be missing" in said
    assert "its quality is unknown: models/quality-" in said


def test_the_command_takes_a_file_or_stdin(root, tmp_path, monkeypatch):
    body = "\u202e[bold]\x1b[31m " + text("a", 60)
    (tmp_path / "a.txt").write_text(body, encoding="utf-8")
    done = curate("why", "--file", "a.txt", "--manifest", "v1", "--root", str(root), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[bold]" in done.stdout
    assert all(char.isprintable() or char == "\n" for char in done.stdout)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body.encode())))
    piped = curate("why", "--file", "-", "--manifest", "v1", "--json", "--root", str(root), cwd=tmp_path)
    assert json.loads(piped.stdout) == json.loads(json.dumps(_asked(root, body)))


@pytest.mark.parametrize(
    "arguments", [[], ["12345678", "--file", "a.txt"], ["12345678", "--source", "web"], ["--file", "none.txt"], ["--file", "latin.txt"]]
)
def test_a_question_that_is_none_is_one_line(root, tmp_path, arguments):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    done = curate("why", *arguments, "--root", str(root), cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def _export(root: pathlib.Path, out: pathlib.Path, *, format: str = "jsonl", **more: Any) -> dict[str, Any]:
    store = Store(str(root))
    return export(store, load(store, "v1"), out, format=format, **more)


def _read(folder: pathlib.Path, split: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(folder.rglob(f"{split}-*")):
        if path.suffix == ".gz":
            found += [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        else:
            found += pq.read_table(path).to_pylist()
    return found


@pytest.mark.parametrize("format", ["jsonl", "parquet", "hf"])
def test_an_export_holds_the_documents_shuffled_with_what_is_known_of_them(root, tmp_path, format):
    done = _export(root, tmp_path / "out", format=format, split="all")
    for split in ("train", "holdout"):
        expected = _rows(root, "v1", split)
        documents = _read(tmp_path / "out", split)
        keys = sorted(expected, key=lambda row_id: (hash_key("export|0", row_id), row_id))
        assert [document["row_id"] for document in documents] == keys
        for document in documents[::7]:
            row = expected[document["row_id"]]
            assert document["text"] == _text_of(root, row)
            same = (
                "doc_id",
                "group",
                "source",
                "source_id",
                "component",
                "url",
                "licence",
                "n_bytes",
                "n_words",
                "n_tokens",
                "rank",
                "masks",
            )
            assert {key: document[key] for key in same} == {key: row[key] for key in same}
            assert np.float32(document["quality"]) == pytest.approx(np.float32(row["quality"]), abs=6e-5)
        assert done["splits"][split] == {
            "rows": len(expected), "n_bytes": sum(row["n_bytes"] for row in expected.values()),
            "n_tokens": sum(row["n_tokens"] for row in expected.values()),
        }  # fmt: skip
    licences = collections.Counter(row["licence"] for row in _rows(root, "v1", "train", "holdout").values())
    assert {row["licence"]: row["rows"] for row in done["licences"]} == licences


def test_the_holdout_is_written_only_where_it_is_asked_for(root, tmp_path):
    _export(root, tmp_path / "out", format="hf")
    assert not _read(tmp_path / "out", "holdout")
    assert "holdout-*" not in (tmp_path / "out" / "README.md").read_text().split("\n---\n")[0]


def test_an_export_has_the_same_bytes_wherever_the_texts_lie(root, tmp_path):
    _export(root, tmp_path / "one", format="hf", split="all", part_bytes=20_000)
    shutil.copytree(root, tmp_path / "root")
    store = Store(str(tmp_path / "root"))
    for split in ("train", "holdout", "dropped"):
        path = f"manifests/v1/{split}/part-00000.parquet"
        table = store.read_table(path)
        sizes = {name: pq.read_metadata(tmp_path / "root/corpus" / name).num_rows for name in table["shard"].unique().to_pylist()}
        places = [sizes[row["shard"]] - 1 - row["row"] for row in table.select(["shard", "row"]).to_pylist()]
        at = table.schema.get_field_index("row")
        store.write_table(path, table.set_column(at, table.schema.field(at), pa.array(places, pa.int32())))
    for shard in store.files("corpus", ".parquet"):
        table = store.read_table(shard)
        store.write_table(shard, table.take(list(range(table.num_rows))[::-1]))
    _export(tmp_path / "root", tmp_path / "two", format="hf", split="all", part_bytes=20_000)
    names = sorted(path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*.parquet"))
    assert len(names) > 2
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


@pytest.mark.slow
def test_files_of_any_size_hold_the_same_documents_in_the_same_order(root, tmp_path):
    _export(root, tmp_path / "one")
    done = _export(root, tmp_path / "many", part_bytes=5_000)
    assert _read(tmp_path / "one", "train") == _read(tmp_path / "many", "train")
    assert [file["path"] for file in done["files"]] == [
        f"train-{n:05d}-of-{len(done['files']):05d}.jsonl.gz" for n in range(len(done["files"]))
    ]
    _export(root, tmp_path / "again")
    assert (tmp_path / "one/train-00000-of-00001.jsonl.gz").read_bytes() == (tmp_path / "again/train-00000-of-00001.jsonl.gz").read_bytes()


def test_masked_texts_are_as_training_reads_them(root, tmp_path):
    shutil.copytree(root, tmp_path / "root")
    store = Store(str(tmp_path / "root"))
    path = "manifests/v1/train/part-00000.parquet"
    table = store.read_table(path)
    masks = table["masks"].to_pylist()
    masks[3] = [{"start": 0, "end": 4, "kind": "email"}, {"start": 8, "end": 12, "kind": "no_loss"}]
    at = table.schema.get_field_index("masks")
    store.write_table(path, table.set_column(at, table.schema.field(at), pa.array(masks, table.schema.field(at).type)))
    row = table.slice(3, 1).to_pylist()[0]
    whole = _text_of(root, row)
    for masked, expected in (
        (False, (whole, masks[3])),
        (True, (f"<email>{whole[4:]}", [{"start": len("<email>") + 4, "end": len("<email>") + 8, "kind": "no_loss"}])),
    ):
        _export(tmp_path / "root", tmp_path / f"{masked}", masked=masked)
        documents = {document["row_id"]: document for document in _read(tmp_path / f"{masked}", "train")}
        assert (documents[row["row_id"]]["text"], documents[row["row_id"]]["masks"]) == expected
        other = table.slice(5, 1).to_pylist()[0]
        assert documents[other["row_id"]]["text"] == _text_of(root, other)


def test_an_export_appears_whole_or_not_at_all(root, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(ManifestError, match="not an empty folder; name a new one"):
        _export(root, tmp_path / "full")
    shutil.copytree(root, tmp_path / "root")
    shard = next(iter(_rows(root, "v1", "train").values()))["shard"]
    (tmp_path / "root/corpus" / shard).unlink()
    with pytest.raises(ManifestError, match=f"corpus/{shard} is missing; restore it"):
        _export(tmp_path / "root", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "root"]
    (tmp_path / "empty").mkdir()
    assert _export(root, tmp_path / "empty")["path"] == str(tmp_path / "empty")


def test_the_folder_opens_with_load_dataset(root, tmp_path):
    done = curate("export", "v1", "--format", "hf", "--split", "all", "--root", str(root), "--json", cwd=tmp_path)
    counts = {name: entry["rows"] for name, entry in json.loads(done.stdout)["splits"].items()}
    code = (
        "import datasets, json\n"
        "found = datasets.load_dataset('v1-hf', cache_dir='hub')\n"
        "print(json.dumps([{name: len(part) for name, part in found.items()}, found['train'][0]['text'], found['train'].column_names]))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    opened = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    found, first, names = json.loads(opened.stdout)
    assert found == counts
    assert first == _read(tmp_path / "v1-hf", "train")[0]["text"]
    assert names[0] == "text"
