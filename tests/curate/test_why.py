"""Why a document is in or out: what is shown is what the manifest and the signals hold, and a document cannot act on a terminal."""

import collections
import functools
import io
import json
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pytest
from rich.console import Console

from curate import executor
from curate.build import build
from curate.manifest import Manifest, ManifestError, load
from curate.recipe_file import read_recipe
from curate.sql import connect
from curate.store import Store
from curate.why import explain, word_diff
from curate.why_print import print_explanation, shortened
from tests.curate.commands import curate
from tests.curate.corpora import text, write_corpus, write_jsonl

_HOSTILE = "\x1b[31mred\x1b]0;title\x07 [bold]not bold[/] \u202eback \u009b2J \\[x] :smile:"
_OWN = """
import numpy as np
import pyarrow as pa
from filters.spec import Family, Rule, Signal


def shouts(text):
    return None if "quiet" in text else text.count("!") / 10


def _compute(batch):
    return {"n_all": pa.array(np.diff(batch.offsets).astype(np.int32))}


BYTES = Family(name="b", version=1, signals=(Signal("n_all", "int32", "bytes"),),
    rules=(Rule("max_all", "n_all", "<=", 9000, "here"),), compute=_compute)
"""
_ODD = """
[sources.odd]
path = "data/odd"
holdout_share = 0.0
rules = ["gopher_quality", "shouts", "volume"]
fields = { group = "pmid", title = "title" }
[families.shouts]
function = "own.py:shouts"
[families.volume]
function = "own.py:BYTES"
[shouts]
max_value = 0.3
[volume]
max_all = 9000
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Iterator[pathlib.Path]:
    """Two versions: v2 has a threshold that is raised. Source `odd` holds out nothing, and has groups of papers that do."""
    folder = tmp_path_factory.mktemp("why")
    recipe = pathlib.Path(write_corpus(folder))
    recipe.write_text(recipe.read_text() + _ODD)
    (folder / "own.py").write_text(_OWN)
    odd = [{"id": f"odd-{n}", "text": text(f"odd{n}"), "pmid": f"paper-p{n}", "title": None} for n in range(275)]
    odd.append({"id": "shout", "text": text("shout") + " !!!!", "pmid": "s1", "title": "A title"})
    odd.append({"id": "limit", "text": text("limit") + " !!!", "pmid": "s2", "title": None})
    odd.append({"id": "quiet", "text": text("quiet") + " quiet !!!!!", "pmid": "s3", "title": None})
    odd.append({"id": "hostile", "text": f"{_HOSTILE} {text('hostile')}", "pmid": f"[red]{_HOSTILE}", "title": _HOSTILE})
    odd.append({"id": "hostile-copy", "text": f"{_HOSTILE} {text('hostile')} {_HOSTILE}", "pmid": "s5", "title": None})
    odd += [{"id": f"boiler-{n}", "text": text("boiler"), "pmid": "s6", "title": None} for n in range(60)]
    write_jsonl(folder / "data" / "odd" / "a.jsonl", odd)
    store = Store(str(folder / "root"))
    for settings in ((), ("gopher_quality.min_words=65",)):
        build(store, read_recipe(store, file=str(recipe), settings=settings), run=executor.local(1))
    yield folder / "root"
    _connected.cache_clear()  # a connection that is open when Python ends is called a leak


@functools.cache
def _by_place(root: pathlib.Path, table: str) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["shard"], row["row"]): row for row in _table(root, f"SELECT * FROM {table}")}


def _explain(root: pathlib.Path, id: str, version: str = "v1") -> dict[str, Any]:
    store = Store(str(root))
    return explain(store, load(store, version), id)


@functools.cache
def _connected(root: pathlib.Path, version: str) -> duckdb.DuckDBPyConnection:
    return connect(str(root), version)


def _table(root: pathlib.Path, query: str, version: str = "v1") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _connected(root, version).sql(query).to_arrow_table().to_pylist()
    assert found, query
    return found


def _rows(root: pathlib.Path, condition: str, version: str = "v1") -> list[dict[str, Any]]:
    return _table(root, f"SELECT * FROM manifest WHERE {condition} ORDER BY row_id", version)


def _printed(data: dict[str, Any], *, is_terminal: bool = False) -> str:
    out = io.StringIO()
    print_explanation(Console(file=out, width=200, force_terminal=is_terminal, color_system="standard" if is_terminal else None), data)
    return out.getvalue()


_KINDS = {
    "train": "split = 'train' AND component = 'domain'",
    "replay": "split = 'train' AND component = 'wikipedia'",
    "budget": "reason = 'budget'",
    "rule": "reason = 'gopher_quality.min_words'",
    "own rule": "reason = 'shouts.max_value'",
    "exact copy": "reason = 'duplicate.exact'",
    "near copy": "reason = 'duplicate.jaccard'",
    "holdout": "split = 'holdout'",
    "leak": "reason = 'holdout.leak'",
}


@pytest.mark.parametrize("condition", _KINDS.values(), ids=_KINDS)
def test_what_is_shown_is_what_the_manifest_and_the_signals_hold(root, condition):
    for row in _rows(root, condition)[:3]:
        (shown,) = _explain(root, row["row_id"])["rows"]
        same = (
            "row_id",
            "doc_id",
            "source",
            "source_id",
            "component",
            "url",
            "date",
            "split",
            "reason",
            "rank",
            "n_tokens",
            "n_bytes",
            "n_words",
        )
        assert {key: shown[key] for key in same} == {key: row[key] for key in same}
        assert np.float32(shown["quality"]) == np.float32(row["quality"])
        document, signals = (_by_place(root, table)[row["shard"], row["row"]] for table in ("documents", "signals"))
        assert (shown["title"], shown["beginning"]) == (document["title"], document["text"][:400])
        judged = [rule for rule in shown["rules"] if rule["outcome"] != "unknown"]
        assert len(judged) == (11 if row["source"] == "odd" else 10)
        for rule in judged:
            value = signals[rule["family"]][rule["signal"]]
            assert value == (np.float32(rule["value"]) if isinstance(value, float) else rule["value"])
            sign = 1 if rule["keep"] == ">=" else -1
            assert rule["margin"] == pytest.approx(sign * (value - rule["threshold"]), abs=1e-6)
            assert (rule["margin"] < 0) == (rule["outcome"] == "breached")
            assert rule["is_reason"] == (row["reason"] == f"{rule['family']}.{rule['rule']}")
        breached = [f"{rule['family']}.{rule['rule']}" for rule in judged if rule["outcome"] == "breached"]
        dropped_by = [row["reason"]] if "gopher" in (row["reason"] or "") or "shouts" in (row["reason"] or "") else []
        assert row["split"] == "holdout" or breached[:1] == dropped_by


def test_rules_come_in_the_order_in_which_they_judge(root):
    (row,) = _explain(root, _rows(root, "source_id = 'shout'")[0]["row_id"])["rows"]
    names = [f"{rule['family']}.{rule['rule']}" for rule in row["rules"]]
    assert names[:2] == ["gopher_quality.min_words", "gopher_quality.max_words"]
    assert names[-2:] == ["shouts.max_value", "volume.max_all"]


def test_a_verdict_says_the_reason_in_words(root):
    short = _rows(root, "reason = 'gopher_quality.min_words' AND n_words = 20")[0]
    said = {
        "split = 'train'": "kept: training may draw it",
        "split = 'holdout'": "held out: its group is on the side that training never sees",
        "reason = 'budget'": "dropped: budget (it passed, but ranks below the cut of its component)",
        "reason = 'holdout.leak'": "dropped: holdout.leak (its text, its group or a near copy is held out; which of them is not stored)",
        f"row_id = '{short['row_id']}'": "dropped: gopher_quality.min_words (n_words is 20, the rule keeps >= 50)",
        "source_id = 'shout'": "dropped: shouts.max_value (value is 0.4, the rule keeps <= 0.3)",
    }
    for condition, verdict in said.items():
        (row,) = _explain(root, _rows(root, condition)[0]["row_id"])["rows"]
        assert row["verdict"] == verdict


def test_at_the_limit_the_margin_is_0_and_a_null_is_not_judged(root):
    found = {}
    for name in ("limit", "quiet"):
        (row,) = _explain(root, _rows(root, f"source_id = '{name}'")[0]["row_id"])["rows"]
        (found[name],) = [rule for rule in row["rules"] if rule["family"] == "shouts"]
    assert (found["limit"]["value"], found["limit"]["margin"], found["limit"]["outcome"]) == (0.3, 0.0, "passed")
    assert (found["quiet"]["value"], found["quiet"]["margin"], found["quiet"]["outcome"]) == (None, None, "not judged")


def test_a_rule_that_stands_in_code_is_unknown(root):
    data = _explain(root, _rows(root, "source_id = 'quiet'")[0]["row_id"])
    (rule,) = [rule for rule in data["rows"][0]["rules"] if rule["family"] == "volume"]
    assert (rule["rule"], rule["threshold"], rule["outcome"], rule["signal"]) == ("max_all", 9000, "unknown", None)
    n_bytes = data["rows"][0]["n_bytes"]
    said = f"the signal of volume.max_all is unknown: it is named in the family's code, which is not stored; its signals: n_all {n_bytes}"
    assert said in data["remarks"]


@pytest.mark.parametrize("kind", ["train", "replay", "budget", "exact copy", "holdout"])
def test_the_place_is_that_among_the_rows_that_passed(root, kind):
    row = _rows(root, _KINDS[kind])[-1]
    place = _explain(root, row["row_id"])["rows"][0]["place"]
    passed = _rows(root, f"component = '{row['component']}' AND rank IS NOT NULL")
    assert place["n_ranked"] == place["n_scored"] == len(passed)
    assert place["cut"] == sum(one["split"] == "train" for one in passed)
    n_below = sum(one["quality"] < row["quality"] for one in passed)
    assert place["quality_percentile"] == round(100 * n_below / len(passed), 2)


def test_a_near_copy_shows_the_row_in_its_place_and_the_words_that_differ(root):
    row = _rows(root, "reason = 'duplicate.jaccard' AND source = 'papers'")[0]
    (kept,) = _rows(root, f"row_id = '{row['dup_of']}'")
    found = _explain(root, row["row_id"])["rows"][0]["duplicate_of"]
    same = ("row_id", "doc_id", "source", "source_id", "split", "reason")
    assert {key: found[key] for key in same} == {key: kept[key] for key in same}
    assert (found["kind"], np.float32(found["similarity"])) == ("jaccard", np.float32(row["dup_similarity"]))
    texts = {one["row_id"]: _by_place(root, "documents")[one["shard"], one["row"]]["text"].split() for one in (row, kept)}
    assert [word for op, words in found["diff"] if op != "added" for word in words] == texts[kept["row_id"]]
    assert [word for op, words in found["diff"] if op != "removed" for word in words] == texts[row["row_id"]]
    assert {op for op, _ in found["diff"]} == {"same", "removed", "added"}


def test_an_exact_copy_has_no_diff_and_hangs_on_the_kept_row(root):
    row = _rows(root, "reason = 'duplicate.exact'")[0]
    found = _explain(root, row["row_id"])
    kept = found["rows"][0]["duplicate_of"]
    assert (kept["kind"], kept["similarity"], kept["diff"]) == ("exact", 1.0, [])
    hanging = _rows(root, f"dup_of = '{row['dup_of']}'")
    copies = _explain(root, row["dup_of"])["rows"][0]["copies"]
    assert copies["n_rows"] == len(hanging)
    assert [one["row_id"] for one in copies["first"]] == [one["row_id"] for one in hanging[:5]]
    assert "the texts are the same" in _printed(found)


def test_a_doc_id_explains_all_its_rows_and_a_row_id_lists_the_others(root):
    doc_id = _rows(root, "reason = 'duplicate.exact' AND source <> 'odd'")[0]["doc_id"]
    rows = _rows(root, f"doc_id = '{doc_id}'")
    assert len(rows) > 1
    by_doc = _explain(root, doc_id)
    assert sorted(row["row_id"] for row in by_doc["rows"]) == [row["row_id"] for row in rows]
    assert by_doc["rows"][-1]["reason"] == "duplicate.exact"
    assert by_doc["other_rows"] == []
    by_row = _explain(root, rows[0]["row_id"])
    assert [row["row_id"] for row in by_row["other_rows"]] == [row["row_id"] for row in rows[1:]]


def test_of_a_text_with_many_rows_the_kept_one_and_some_are_explained_and_all_listed(root):
    rows = _rows(root, "source_id LIKE 'boiler-%'")
    data = _explain(root, rows[0]["doc_id"])
    assert (len(data["rows"]), len(data["other_rows"])) == (50, 60 - 50)
    assert {row["row_id"] for row in [*data["rows"], *data["other_rows"]]} == {row["row_id"] for row in rows}
    assert data["rows"][0]["copies"]["n_rows"] == 60 - 1
    assert [one["row_id"] for one in data["rows"][0]["copies"]["first"]] == [row["row_id"] for row in rows if row["dup_of"]][:5]
    assert "the first 50 rows of this text are explained; name one of the 10 others by its row_id" in data["remarks"]


def test_a_beginning_of_an_id_names_it(root):
    row = _rows(root, "reason = 'budget'")[0]
    assert _explain(root, row["row_id"][:8].upper())["rows"][0]["row_id"] == row["row_id"]
    assert _explain(root, row["doc_id"][:9])["id"] == row["doc_id"]


@pytest.mark.parametrize("id", ["", "abc", "abcdef1", "xyzxyzxyz", "0" * 33, "' OR 1 = 1 --", "12345678%"])
def test_what_is_no_id_is_refused(root, id):
    with pytest.raises(ManifestError, match="is no id; a row_id or doc_id has 32 hex digits, of which at least the first 8"):
        _explain(root, id)


def test_an_unknown_id_says_where_to_look(root, tmp_path):
    with pytest.raises(ManifestError, match=r"'00000000' begins no row_id or doc_id of v1; .* curate sql"):
        _explain(root, "00000000")
    _replace_id(root, tmp_path, "12345678" + "a" * 24)
    with pytest.raises(ManifestError, match="'12345678' is not in v1 but in v2; add --manifest v2"):
        _explain(tmp_path / "root", "12345678", "v1")


def _replace_id(root: pathlib.Path, folder: pathlib.Path, *ids: str) -> None:
    """Copy a root and give the first rows of training in v2 other row_ids."""
    shutil.copytree(root, folder / "root")
    store = Store(str(folder / "root"))
    path = "manifests/v2/train/part-00000.parquet"
    table = store.read_table(path)
    changed = [*ids, *table["row_id"].to_pylist()[len(ids) :]]
    at = table.schema.get_field_index("row_id")
    store.write_table(path, table.set_column(at, table.schema.field(at), [changed]))


def test_an_ambiguous_beginning_names_those_it_may_be(root, tmp_path):
    ids = ["12345678" + "a" * 24, "12345678" + "b" * 24]
    _replace_id(root, tmp_path, *ids)
    with pytest.raises(
        ManifestError, match=f"'12345678' begins more than one id of v2 .row_id {ids[0]}, row_id {ids[1]}.; give more digits"
    ):
        _explain(tmp_path / "root", "12345678", "v2")
    assert _explain(tmp_path / "root", "12345678b", "v2")["id"] == ids[1]


def test_versions_say_what_became_of_the_text(root):
    row = _rows(root, "reason = 'gopher_quality.min_words' AND n_words BETWEEN 60 AND 64", "v2")[0]
    counted = collections.Counter(
        (version, one["split"], one["reason"]) for version in ("v1", "v2") for one in _rows(root, f"doc_id = '{row['doc_id']}'", version)
    )
    data = _explain(root, row["row_id"], "v2")
    assert {(one["version"], one["split"], one["reason"]): one["n_rows"] for one in data["versions"]} == counted
    assert len({one["reason"] for one in data["versions"]}) > 1
    assert [one["version"] for one in data["versions"]] == sorted(one["version"] for one in data["versions"])
    assert "keeps >= 65" in data["rows"][0]["verdict"]


@pytest.mark.parametrize("damaged", ["manifest.json", "dropped/part-00000.parquet"])
def test_a_damaged_version_is_left_out_with_a_remark(root, tmp_path, damaged):
    shutil.copytree(root, tmp_path / "root")
    (tmp_path / "root/manifests/v2" / damaged).write_bytes(b"{}")
    data = _explain(tmp_path / "root", _rows(root, "split = 'train'")[0]["row_id"])
    assert {one["version"] for one in data["versions"]} == {"v1"}
    assert any(remark.startswith("v2 is left out: ") for remark in data["remarks"])


def test_a_version_by_older_code_has_no_rules_to_show(root):
    store = Store(str(root))
    info = json.loads(json.dumps(load(store, "v1").info))
    for source in info["recipe"]["sources"]:
        del source["judged_by"], source["rules"]
    del info["families"]
    data = explain(store, Manifest("v1", info), _rows(root, _KINDS["rule"])[0]["row_id"])
    assert data["rows"][0]["rules"] is None
    assert data["rows"][0]["verdict"] == "dropped: gopher_quality.min_words (a rule of its source)"
    assert "remark: the rules are unknown: v1 was published by a gapless that did not store them" in _printed(data)


def test_what_is_not_stored_any_more_is_said(root, tmp_path):
    shutil.copytree(root, tmp_path / "root")
    shutil.rmtree(tmp_path / "root/cache")
    shutil.rmtree(tmp_path / "root/corpus")
    data = _explain(tmp_path / "root", _rows(root, "reason = 'duplicate.jaccard' AND source = 'papers'")[0]["row_id"])
    (row,) = data["rows"]
    assert (row["beginning"], row["duplicate_of"]["diff"]) == (None, None)
    assert {rule["outcome"] for rule in row["rules"]} == {"unknown"}
    missing = [remark.split("/")[:2] for remark in data["remarks"] if "is missing; restore it, or build again" in remark]
    assert {"/".join(place) for place in missing} == {"corpus/papers", "cache/signals"}
    assert "unknown" in _printed(data)


def test_signals_of_other_code_than_the_decision_are_said(root):
    store = Store(str(root))
    info = json.loads(json.dumps(load(store, "v1").info))
    for source in info["recipe"]["sources"]:
        source.get("judged_by", {}).get("gopher_quality", {})["min_words"] = 10
    data = explain(store, Manifest("v1", info), _rows(root, "reason = 'gopher_quality.min_words' AND source = 'papers'")[0]["row_id"])
    assert any("are of other code than those that v1 was decided by" in remark for remark in data["remarks"])


def test_a_document_cannot_act_on_the_terminal(root):
    rows = _rows(root, "source_id IN ('hostile', 'hostile-copy')")
    assert {row["reason"] for row in rows} & {"duplicate.jaccard"}
    for row in rows:
        out = _printed(_explain(root, row["row_id"]))
        assert all(char.isprintable() or char == "\n" for char in out)
        assert ("\\x1b[31mred" in out) == (row["source_id"] == "hostile")  # its title; what is a text has lost its controls in normalise
        assert "[bold]not bold[/]" in out
        assert "\\u202eback" in out
        assert ":smile:" in out


def test_a_diff_reads_without_colour_and_shortens_what_is_the_same():
    same = " ".join(f"w{n}" for n in range(40))
    diff, is_cut = word_diff(f"{same} old {same} gone", f"{same} new {same}")
    assert not is_cut
    last = " ".join(f"w{n}" for n in range(34, 40))
    first = " ".join(f"w{n}" for n in range(6))
    assert shortened(diff).plain == f"... {last} [-old-] {{+new+}} {first} ... {last} [-gone-]"
    assert shortened(word_diff(f"old {same}", same)[0]).plain == f"[-old-] {first} ..."
    colours = {shortened(diff).plain[span.start : span.end].strip(): span.style for span in shortened(diff).spans}
    assert (colours["[-old-]"], colours["{+new+}"], colours["[-gone-]"]) == ("red", "green", "red")


def test_a_diff_of_long_texts_is_of_their_first_words():
    words = [f"w{n}" for n in range(2_001)]
    diff, is_cut = word_diff(" ".join(words), " ".join(["new", *words]))
    assert is_cut
    assert diff == [("added", ["new"]), ("same", words[:1_999]), ("removed", words[1_999:2_000])]
    assert not word_diff(" ".join(words[:2_000]), " ".join(words[:2_000]))[1]


def _curate(root: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return curate("why", *arguments, "--root", str(root), cwd=root)


def test_json_is_the_same_as_plain_values_and_ascii(root):
    row = _rows(root, "source_id = 'hostile-copy'")[0]
    done = _curate(root, row["row_id"], "--manifest", "v1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads(json.dumps(_explain(root, row["row_id"])))
    assert done.stdout.isascii()
    assert all(char.isprintable() or char == "\n" for char in done.stdout)


def test_the_command_explains_the_newest_version_by_default(root):
    row = _rows(root, "split = 'train'", "v2")[0]
    done = _curate(root, row["row_id"][:12])
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{row['row_id']} in v2: kept: training may draw it" in done.stdout


def test_a_wrong_id_is_one_line_and_exit_2(root):
    done = _curate(root, "00000000")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: '00000000' begins no row_id or doc_id of v2")
    assert len(done.stderr.splitlines()) == 1
