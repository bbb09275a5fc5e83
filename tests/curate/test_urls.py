"""Rows of one URL: counted and put in order over all sources, whatever spelling the URL has; a fact and a rule."""

import pathlib
from typing import Any

import pytest

from curate import executor, manifest
from curate.build import Built, build
from curate.recipe_file import read_recipe
from curate.sql import connect, select
from curate.store import Store
from curate.verify import verify
from curate.why import explain
from tests.curate.corpora import text, write_jsonl

_RECIPE = """
domain = "tiny"
rules = ["urls"]
[urls]
max_place = 1
[dedup]
threshold = false
[holdout]
share = 0.0
[tokenizer]
vocab_size = 400
[sources.papers]
path = "data/papers"
[sources.web]
path = "data/web"
"""
# URL, and by id in the order of their places: date, number of words. The second URL is spelt otherwise in each row.
_SPELT = (
    ("http://www.example.org:80/Page/?q=1#top", "new", "2021-05", 30),
    ("HTTPS://Example.ORG/Page?q=1", "old", "2020-05", 90),
    ("example.org:443/Page?q=1#x?y", "undated", None, 99),
    ("//www.EXAMPLE.org/Page//?q=1", "short", None, 40),
)
_OTHERS = ("http://example.org/Page", "http://example.org/page?q=1", "http://example.org:8080/Page?q=1", "http://w.example.org/Page?q=1")


def _rows() -> dict[str, list[dict[str, Any]]]:
    spelt = [{"id": id, "url": url, "date": date, "text": text(id, n_words)} for url, id, date, n_words in _SPELT]
    others = [{"id": f"other{n}", "url": url, "date": "2019", "text": text(f"other{n}")} for n, url in enumerate(_OTHERS)]
    none = [{"id": f"none{n}", "url": url, "date": "2019", "text": text(f"none{n}")} for n, url in enumerate((None, "", "http://", "#a"))]
    same = {"id": "same", "url": "u.org", "date": "2019", "text": text("same")}
    return {"papers": [*spelt[2:], *others, same, same], "web": [*spelt[:2], *none, same]}


def _write(folder: pathlib.Path, *, n_files: int = 1, order: int = 1) -> str:
    for source, rows in _rows().items():
        for number in range(n_files):
            write_jsonl(folder / f"data/{source}/{number}.jsonl", rows[::order][number::n_files])
    (folder / "recipe.toml").write_text(_RECIPE)
    return str(folder / "recipe.toml")


def _build(folder: pathlib.Path, recipe: str, **more: Any) -> Built:
    store = Store(str(folder / "root"))
    return build(store, read_recipe(store, file=recipe, **more), run=executor.local(1))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[pathlib.Path, str, Built]:
    folder = tmp_path_factory.mktemp("urls")
    recipe = _write(folder)
    return folder, recipe, _build(folder, recipe)


def _signals(folder: pathlib.Path, built: Built) -> list[dict[str, Any]]:
    query = 'SELECT row_id, source_id, reason, urls.* FROM manifest JOIN signals USING (shard, "row") ORDER BY urls.place, row_id'
    return select(connect(str(folder / "root"), built.manifest.version), query).to_pylist()


def test_spellings_of_a_url_are_one_and_the_newest_then_the_longest_comes_first(base):
    found = {row["source_id"]: (row["n_rows"], row["place"]) for row in _signals(base[0], base[2])}
    assert {id: found[id] for _, id, _, _ in _SPELT} == {id: (4, place) for place, (_, id, _, _) in enumerate(_SPELT, 1)}


def test_what_names_another_page_is_another_url(base):
    found = {row["source_id"]: (row["n_rows"], row["place"]) for row in _signals(base[0], base[2])}
    assert {id: place for id, place in found.items() if id.startswith("other")} == {f"other{n}": (1, 1) for n in range(len(_OTHERS))}


def test_rows_without_a_url_are_not_judged(base):
    found = {row["source_id"]: row for row in _signals(base[0], base[2]) if row["source_id"].startswith("none")}
    assert len(found) == 4
    assert {(row["n_rows"], row["place"], row["reason"]) for row in found.values()} == {(None, None, None)}


def test_rows_alike_in_date_and_length_are_in_the_order_of_row_id(base):
    same = [row for row in _signals(base[0], base[2]) if row["source_id"] == "same"]
    assert [row["place"] for row in same] == [1, 2, 3]
    assert [row["row_id"] for row in same] == sorted(row["row_id"] for row in same)


def test_the_rule_keeps_the_newest_of_each_url(base):
    folder, _, built = base
    rows = _signals(folder, built)
    assert {row["source_id"] for row in rows if row["reason"] == "urls.max_place"} == {"old", "undated", "short", "same"}
    assert all((row["reason"] == "urls.max_place") == ((row["place"] or 1) > 1) for row in rows)
    old = next(row["row_id"] for row in rows if row["source_id"] == "old")
    (found,) = explain(Store(str(folder / "root")), built.manifest, old)["rows"]
    assert found["verdict"] == "dropped: urls.max_place (place is 2, the rule keeps <= 1)"
    assert verify(Store(str(folder / "root")), built.manifest) == ([], [])


def test_another_order_of_the_rows_gives_the_same_digests(base, tmp_path):
    again = _build(tmp_path, _write(tmp_path, n_files=2, order=-1)).manifest
    assert (again.fingerprint, again.info["decision"]) == (base[2].manifest.fingerprint, base[2].manifest.info["decision"])


def test_facts_are_computed_once_for_a_set_of_shards_and_only_where_a_rule_asks(base, tmp_path):
    folder, recipe, _ = base
    cached = {path: path.stat().st_mtime_ns for path in (folder / "root/cache/signals/urls").rglob("*.parquet")}
    assert len(cached) == 2
    _build(folder, recipe, settings=["urls.max_place=2"])
    assert cached == {path: path.stat().st_mtime_ns for path in (folder / "root/cache/signals/urls").rglob("*.parquet")}
    write_jsonl(tmp_path / "newer.jsonl", [{"id": "newer", "url": "example.org/Page?q=1", "date": "2022", "text": text("newer")}])
    added = _build(folder, recipe, sources=[f"more={tmp_path}/newer.jsonl"])
    assert {row["source_id"]: row["place"] for row in _signals(folder, added) if row["n_rows"] == 5}["new"] == 2
    _build(tmp_path, recipe, settings=["rules=[]"])
    assert not (tmp_path / "root/cache/signals/urls").exists()
    assert manifest.load(Store(str(tmp_path / "root")), "v1").info["families"] == {}
