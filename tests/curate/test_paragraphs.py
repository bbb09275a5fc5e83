"""Paragraphs of many documents: counted by text over all sources, a fact, a rule and a mask; and nothing of it where nobody asks."""

import pathlib
from typing import Any

import numpy as np
import pytest

from curate import executor, manifest, tokens
from curate.build import Built, build
from curate.portable import portable
from curate.recipe import DomainError
from curate.recipe_file import read_recipe
from curate.recipe_rules import own_families
from curate.sql import connect, select
from curate.store import Store
from curate.verify import verify
from curate.why import explain
from filters import CORPUS_FAMILIES
from tests.curate.corpora import text, write_jsonl

_MORE_THAN = 3
_RECIPE = """
domain = "tiny"
rules = ["paragraphs"]
[paragraphs]
max_documents = 3
mask = true
max_repeated_ratio = 0.6
[dedup]
threshold = false
[holdout]
share = 0.3
[tokenizer]
vocab_size = 400
[sources.papers]
path = "data/papers"
[sources.web]
path = "data/web"
"""
_NOTICE = "This notice with all of its many words is on every page of the site."
_SAME_NOTICE = "this  notice - with all of ITS many words - is on every page of the site"
_FEW = "These nine or ten words are not on enough pages."
_MENU = "Home and search and help"  # too few words for a paragraph


def _document(key: str, *more: str) -> dict[str, Any]:
    return {"id": key, "text": "\n\n".join([text(key, 30), *more, _MENU, text(f"{key}b", 30)])}


def _rows(notice: str = _NOTICE) -> dict[str, list[dict[str, Any]]]:
    """The notice is in five documents of two sources, the few words in three, twice in each, and in a copy of one of them."""
    papers = [_document(f"paper{n}") for n in range(20)] + [_document(f"notice{n}", notice) for n in range(3)]
    few = [_document(f"few{n}", _FEW, _FEW) for n in range(_MORE_THAN)]
    web = [_document(f"web{n}") for n in range(20)] + [_document("spelt", _SAME_NOTICE), {"id": "mostly", "text": f"Caf\u00e9\n{notice}"}]
    return {"papers": papers + few, "web": [*web, {**few[0], "id": "copy"}]}


def _write(folder: pathlib.Path, recipe: str = _RECIPE, *, n_files: int = 1, order: int = 1) -> str:
    for source, rows in _rows().items():
        for number in range(n_files):
            write_jsonl(folder / f"data/{source}/{number}.jsonl", rows[::order][number::n_files])
    (folder / "recipe.toml").write_text(recipe)
    return str(folder / "recipe.toml")


def _build(folder: pathlib.Path, recipe: str, *, workers: int = 1, **more: Any) -> Built:
    store = Store(str(folder / "root"))
    return build(store, read_recipe(store, file=recipe, **more), run=executor.local(workers))


def _by_id(folder: pathlib.Path, built: Built) -> dict[str, dict[str, Any]]:
    store = Store(str(folder / "root"))
    return {row["source_id"]: row for split in manifest.SPLITS for row in manifest.rows(store, built.manifest, split).to_pylist()}


def _files(folder: pathlib.Path) -> dict[str, int]:
    cache = folder / "root" / "cache"
    found = [path for name in ("signals", "paragraphs") for path in (cache / name).rglob("*.*") if path.is_file()]
    return {str(path.relative_to(cache)): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[pathlib.Path, str, Built]:
    folder = tmp_path_factory.mktemp("paragraphs")
    recipe = _write(folder)
    return folder, recipe, _build(folder, recipe)


@pytest.fixture(scope="module")
def unmasked(base) -> Built:
    """The same corpus in the same root, without rules and masks."""
    folder, recipe, _ = base
    return _build(folder, recipe, settings=["paragraphs.mask=false", "rules=[]"])


def test_what_is_in_more_documents_is_masked_and_what_is_in_exactly_as_many_is_not(base):
    folder, _, built = base
    documents = {row["id"]: row["text"] for rows in _rows().values() for row in rows}
    for id, row in _by_id(folder, built).items():
        data = documents[id].encode()
        notice = next((line for line in (_NOTICE, _SAME_NOTICE) if line in documents[id]), None)
        if notice is None:
            assert row["masks"] == [], id
            continue
        (mask,) = row["masks"]
        assert mask["kind"] == "boilerplate"
        assert data[mask["start"] : mask["end"]].decode() == ("\n" if id == "mostly" else "\n\n") + notice
    assert {row["split"] for id, row in _by_id(folder, built).items() if id.startswith("few")} >= {"train"}


def test_a_document_of_little_else_is_dropped_by_the_share_of_its_bytes(base):
    folder, _, built = base
    rows = _by_id(folder, built)
    dropped = {id: row["reason"] for id, row in rows.items() if row["reason"] not in (None, "duplicate.exact")}
    held_out = {id for id, row in rows.items() if row["split"] == "holdout"}
    assert "mostly" not in held_out
    assert dropped == {"mostly": "paragraphs.max_repeated_ratio"}
    (mask,) = rows["mostly"]["masks"]
    (found,) = explain(Store(str(folder / "root")), built.manifest, rows["mostly"]["row_id"])["rows"]
    share = (mask["end"] - mask["start"]) / len(f"Caf\u00e9\n{_NOTICE}".encode())
    (judged,) = found["rules"]
    assert (judged["signal"], judged["outcome"], judged["is_reason"]) == ("repeated_ratio", "breached", True)
    assert np.float32(judged["value"]) == np.float32(share)


def test_training_reads_no_masked_paragraph(base, unmasked):
    folder, _, built = base
    store = Store(str(folder / "root"))
    segments, tokenizer = tokens.open_segments(store, built.manifest.tokenizer), tokens.load_tokenizer(store, built.manifest.tokenizer)
    kept = manifest.rows(store, built.manifest, "train")
    located = segments.locate(kept["doc_id"], kept["masks"])
    documents = {row["id"]: row["text"] for rows in _rows().values() for row in rows}
    plain = {row["row_id"]: row["n_tokens"] for row in manifest.rows(store, unmasked.manifest, "train").to_pylist()}
    n_masked = 0
    for number, row in enumerate(kept.to_pylist()):
        start = located.offset[number]
        read = tokenizer.decode(segments.arrays[located.segment[number]][start : start + located.n_tokens[number]].tolist())
        expected = documents[row["source_id"]].replace(f"\n\n{_NOTICE}", "").replace(f"\n\n{_SAME_NOTICE}", "")
        assert read == expected
        n_masked += bool(row["masks"])
        assert (row["n_tokens"] < plain[row["row_id"]]) == bool(row["masks"])
    assert n_masked


def test_held_out_rows_are_masked_too_and_an_evalset_keeps_its_masks(base, unmasked):
    folder, _, built = base
    store = Store(str(folder / "root"))
    exam = manifest.evalset(store, built.manifest).to_pylist()
    held_out = {row["row_id"]: row["masks"] for row in manifest.rows(store, built.manifest, "holdout").to_pylist()}
    assert any(held_out.values())
    assert all(row["masks"] == held_out[row["row_id"]] for row in exam)
    assert unmasked.manifest.info["evalset"] == built.manifest.info["evalset"]
    assert not any(row["masks"] for row in _by_id(folder, unmasked).values())


def test_versions_with_and_without_masks_verify(base, unmasked):
    store = Store(str(base[0] / "root"))
    assert verify(store, base[2].manifest) == ([], [])
    assert verify(store, unmasked.manifest) == ([], [])


def test_sql_has_the_signals_and_the_spans(base, unmasked):
    query = (
        "SELECT source_id, paragraphs.n_repeated AS n, masks = list_transform(paragraphs.spans,"
        " lambda one: struct_insert(one, kind := 'boilerplate')) AS is_masked FROM manifest JOIN signals USING (shard, \"row\")"
    )
    found = {row["source_id"]: row for row in select(connect(str(base[0] / "root"), base[2].manifest.version), query).to_pylist()}
    assert {id for id, row in found.items() if row["n"]} == {"notice0", "notice1", "notice2", "spelt", "mostly"}
    assert all(row["is_masked"] for row in found.values())


@pytest.mark.slow
def test_the_same_rows_give_the_same_digests(base, tmp_path):
    again = _build(tmp_path, _write(tmp_path, n_files=3, order=-1), workers=2).manifest
    assert (again.fingerprint, again.info["decision"]) == (base[2].manifest.fingerprint, base[2].manifest.info["decision"])


def test_another_limit_computes_nothing_and_an_added_source_counts_anew(base, unmasked):
    folder, recipe, built = base
    before = _files(folder)
    _build(folder, recipe, settings=["paragraphs.max_repeated_ratio=0.9"])
    assert _files(folder) == before
    write_jsonl(folder / "more" / "one.jsonl", [_document("another", _FEW)])
    added = _build(folder, recipe, sources=[f"more={folder}/more/*.jsonl"])
    after = _files(folder)
    assert {path: after[path] for path in before} == before
    old = {path.name for source in ("papers", "web") for path in (folder / "root" / "corpus" / source).iterdir()}
    assert {path.split("/")[1] for path in after.keys() - before.keys() if pathlib.Path(path).name in old} == {"paragraphs"}
    rows = _by_id(folder, added)
    assert all(row["masks"] for id, row in rows.items() if id.startswith("few") or id in ("copy", "another"))
    assert rows["notice0"]["masks"] == _by_id(folder, built)["notice0"]["masks"]


def test_where_nobody_asks_nothing_is_computed_and_the_decision_is_as_before(tmp_path):
    _write(tmp_path, _RECIPE.replace('rules = ["paragraphs"]', "rules = []").replace("mask = true", "mask = false"))
    recipe = read_recipe(Store(str(tmp_path / "root")), file=str(tmp_path / "recipe.toml"))
    assert "paragraphs" not in portable(recipe)
    built = _build(tmp_path, str(tmp_path / "recipe.toml"))
    assert not [path for path in _files(tmp_path) if "paragraph" in path]
    assert built.manifest.info["families"] == {}


def test_the_settings_decide_where_something_is_asked(base):
    folder, recipe, _ = base
    store = Store(str(folder / "root"))
    given = [portable(read_recipe(store, file=recipe, settings=[setting])) for setting in ("paragraphs.mask=false", "rules=[]")]
    assert [table["paragraphs"] for table in given] == [{"min_words": 8, "max_documents": 3, "mask": mask} for mask in (False, True)]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("paragraphs.max_documents=0", "paragraphs.max_documents is 0; it takes a whole number of at least 1"),
        ("paragraphs.min_words=0", "paragraphs.min_words is 0; it takes a whole number of at least 1"),
        ("paragraphs.mask=1", "paragraphs.mask is 1; it takes a value of type bool"),
        ("paragraphs.max_repeated=1", "did you mean 'max_repeated_ratio'? Known: min_words, max_documents, mask, max_repeated_ratio"),
        ("paragraphs.max_repeated_ratio='a'", "paragraphs.max_repeated_ratio is 'a'; it takes a number, or false"),
        ("sources.web.paragraphs.mask=true", r"\[sources.web.paragraphs\] has the unknown key 'mask'"),
    ],
)
def test_wrong_settings_are_refused(base, setting, message):
    with pytest.raises(DomainError, match=message.replace("?", r"\?")):
        read_recipe(Store(str(base[0] / "root")), file=base[1], settings=[setting])


def test_an_order_by_what_is_not_computed_is_refused(tmp_path):
    recipe = _write(tmp_path, _RECIPE.replace('rules = ["paragraphs"]', "rules = []").replace("mask = true", "mask = false"))
    with pytest.raises(DomainError, match="'paragraphs' is computed only where rules name it; add it to rules"):
        _build(tmp_path, recipe, settings=["select.order_by='paragraphs.repeated_ratio'"])


def test_the_manifest_names_where_the_signals_lie(base):
    entry = base[2].manifest.info["families"]["paragraphs"]
    assert (base[0] / "root" / entry["folder"]).is_dir()
    assert {key: entry[key] for key in ("kind", "min_words", "signals")} == {
        "kind": "corpus", "min_words": 8, "signals": ["repeated_ratio", "n_repeated", "spans"],
    }  # fmt: skip


@pytest.mark.parametrize("name", [*CORPUS_FAMILIES, "paragraph_keys"])
def test_no_own_family_takes_the_name_of_one_of_the_corpus(name):
    with pytest.raises(DomainError, match=f"families.{name} has a name that is taken"):
        own_families({name: {"function": "a.py:b"}}, taken=())
