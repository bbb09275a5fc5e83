"""The n-gram model of the reference as a scorer: no row is scored by a model that saw it, and what its ranking favours is said."""

import contextlib
import io
import json
import math
import pathlib
import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from curate import executor, manifest, report
from curate.build import Built, build
from curate.diff import diff
from curate.page import gather
from curate.page_html import page
from curate.recipe import DomainError
from curate.recipe_file import read_recipe
from curate.scorer_compare import compare_scorers
from curate.scorers import fold_of
from curate.sql import connect, select
from curate.store import Store
from curate.verify import verify
from curate.why import explain
from curate.why_text import explain_text
from filters import perplexity
from filters.columns import TextBatch
from tests.curate.commands import curate
from tests.curate.corpora import documents, write_corpus, write_jsonl

_MIN_WORDS = 70
_MORE = f"""
[perplexity]
order = 3
min_words = {_MIN_WORDS}
[sources.copies]
path = "data/copies"
holdout_share = 0.0
"""
_BY_PERPLEXITY = "select.order_by=perplexity"
_NEAR = " and a few more words at the end of it"


def _write(folder: pathlib.Path, **shape: Any) -> str:
    """Write the small corpus with a source that has some documents of the reference, and one that is nearly one of them."""
    recipe = pathlib.Path(write_corpus(folder, **shape))
    reference = documents("reference", 20)
    write_jsonl(folder / "data/copies/a.jsonl", [*reference[10:16], {"id": "near", "text": reference[9]["text"] + _NEAR}])
    recipe.write_text(recipe.read_text().replace('scorers = ["quality"]', 'scorers = ["quality", "perplexity"]') + _MORE)
    return str(recipe)


def _build(folder: pathlib.Path, *settings: str, workers: int = 1, **more: Any) -> Built:
    store = Store(str(folder / "root"))
    recipe = read_recipe(store, file=str(folder / "recipe.toml"), settings=settings)
    return build(store, recipe, run=executor.local(workers), **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """v1 ranks by quality, v2 by perplexity, v3 by both. Tests only read it."""
    folder = tmp_path_factory.mktemp("perplexity")
    _write(folder)
    for settings in ([], [_BY_PERPLEXITY], ["select.order_by='quality / perplexity DESC'"]):
        _build(folder, *settings)
    return folder


@pytest.fixture
def mine(folder: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy to be built on."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def _version(folder: pathlib.Path, name: str) -> tuple[Store, manifest.Manifest]:
    store = Store(str(folder / "root"))
    return store, manifest.load(store, name)


def _rows(folder: pathlib.Path, name: str) -> list[dict[str, Any]]:
    """Give all rows of a version, each with its text and its overlap."""
    connection = connect(str(folder / "root"), name)
    query = (
        "SELECT manifest.*, text, reference.overlap AS overlap, statistics.compression_ratio AS compression,"
        ' gopher_repetition.duplicate_5gram_ratio AS duplicates FROM manifest JOIN documents USING (shard, "row")'
        ' JOIN signals USING (shard, "row") ORDER BY row_id'
    )
    found: list[dict[str, Any]] = select(connection, query).to_pylist()
    connection.close()
    return found


def _scorer(folder: pathlib.Path, name: str = "v1") -> dict[str, Any]:
    return next(one for one in _version(folder, name)[1].info["scorers"] if one["name"] == "perplexity")


def _reference(folder: pathlib.Path) -> dict[str, str]:
    store, version = _version(folder, "v1")
    tables = [store.read_table(shard["path"], ["doc_id", "text"]) for shard in version.info["inputs"]["reference"]["shards"]]
    return dict(sorted((row["doc_id"], row["text"]) for table in tables for row in table.to_pylist()))


def _batch(*texts: str) -> TextBatch:
    return TextBatch.from_arrow(pa.array(texts, pa.large_string()))


def _in_domain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["component"] == "domain" and row["rank"] is not None]


def test_a_row_is_asked_of_a_model_that_did_not_see_it(folder):
    reference = _reference(folder)
    whole = perplexity.fit([_batch(*reference.values())], order=3)
    folds = dict(zip(reference, fold_of(pa.array(reference)), strict=True))
    without = [perplexity.fit([_batch(*(text for id, text in reference.items() if folds[id] != fold))], order=3) for fold in (0, 1)]
    rows = _rows(folder, "v1")
    crossed = [row for row in rows if row["doc_id"] in reference]
    assert {folds[row["doc_id"]] for row in crossed} == {0, 1}
    assert _scorer(folder)["n_cross_fitted"] == len(crossed) == 6
    for row in rows:
        model = without[folds[row["doc_id"]]] if row["doc_id"] in reference else whole
        batch = _batch(row["text"])
        assert [row["perplexity"]] == perplexity.perplexities(model, batch, min_words=_MIN_WORDS).to_pylist()
        assert [row["overlap"]] == perplexity.overlaps(model, batch).to_pylist()
        assert (row["perplexity"] is None) == (row["n_words"] < _MIN_WORDS)


def test_a_near_copy_of_the_reference_is_told_by_its_overlap(folder):
    overlaps = {(row["source"], row["source_id"]): row["overlap"] for row in _rows(folder, "v1")}
    assert overlaps.pop(("copies", "near")) > 0.8
    assert max(value for value in overlaps.values() if value is not None) <= 0.2


@pytest.mark.slow
def test_without_rows_of_the_reference_there_are_no_halves_until_there_are(tmp_path):
    _write(tmp_path)
    recipe = tmp_path / "recipe.toml"
    with_copies = recipe.read_text()
    recipe.write_text(with_copies.split("[sources.copies]")[0])
    first = _build(tmp_path).manifest.info["scorers"][1]
    assert ([one["part"] for one in first["models"]], first["n_cross_fitted"]) == (["whole", "documents"], 0)
    recipe.write_text(with_copies)
    second = _build(tmp_path).manifest.info["scorers"][1]
    assert ([one["part"] for one in second["models"]], second["n_cross_fitted"]) == (["whole", "documents", "fold 0", "fold 1"], 6)
    assert second["models"][:2] == first["models"]
    write_jsonl(tmp_path / "data/papers/more.jsonl", documents("reference", 8))
    assert _build(tmp_path).manifest.info["scorers"][1]["models"] == second["models"]


@pytest.mark.slow
def test_halves_of_a_reference_that_is_gone_are_refused_with_the_way_out(tmp_path):
    _write(tmp_path)
    recipe = tmp_path / "recipe.toml"
    with_copies = recipe.read_text()
    recipe.write_text(with_copies.split("[sources.copies]")[0])
    _build(tmp_path)
    recipe.write_text(with_copies)
    (tmp_path / "data/reference/part-0.jsonl").unlink()
    with pytest.raises(DomainError, match=r"of its 18 documents are in no source any more; fit it anew with --refit perplexity"):
        _build(tmp_path)


@pytest.mark.slow
def test_the_same_rows_give_the_same_digests_whatever_the_workers_and_the_cut_of_the_files(folder, tmp_path):
    _write(tmp_path, n_files=3, reverse=True)
    again, first = _build(tmp_path, workers=2).manifest.info, _version(folder, "v1")[1].info
    assert again["scorers"] == first["scorers"]
    assert (again["decision"], again["fingerprint"]) == (first["decision"], first["fingerprint"])


def test_a_threshold_drops_near_copies_and_recomputes_nothing(mine):
    signals = {path: path.stat().st_mtime_ns for path in (mine / "root/cache/signals").rglob("*.parquet")}
    settings = ('rules=["gopher_quality", "reference"]', "reference.max_overlap=0.2")
    built = _build(mine, *settings)
    assert {path: path.stat().st_mtime_ns for path in (mine / "root/cache/signals").rglob("*.parquet")} == signals
    gone = [(row["source"], row["source_id"]) for row in _rows(mine, built.manifest.version) if row["reason"] == "reference.max_overlap"]
    assert gone == [("copies", "near")]
    by_signal = _build(mine, "select.where='reference.overlap <= 0.2'").manifest
    gone = [row["source_id"] for row in _rows(mine, by_signal.version) if row["reason"] == "select.where" and row["source"] == "copies"]
    assert gone == ["near"]


def test_a_fitted_model_stays_until_it_is_refitted(mine):
    first = _scorer(mine)
    write_jsonl(mine / "data/reference/more.jsonl", documents("paper-more", 30))
    assert _build(mine, "gopher_quality.min_words=55").manifest.info["scorers"][1]["models"] == first["models"]
    third = _build(mine, refit=("perplexity",)).manifest
    assert third.info["scorers"][1]["models"] != first["models"]
    assert third.info["scorers"][0] == _version(mine, "v1")[1].info["scorers"][0]
    assert verify(*_version(mine, "v1")) == ([], [])
    with pytest.raises(DomainError, match=r"fitted with other settings \(order is 4, was 3\); fit it anew with --refit perplexity"):
        _build(mine, "perplexity.order=4")
    lost = mine / "root" / third.info["scorers"][1]["models"][0]["path"]
    lost.unlink()
    with pytest.raises(DomainError, match=rf"{lost.name}, a model of the perplexity model, is missing; restore it, or use --refit"):
        _build(mine)


def test_a_model_of_ones_own_scores_and_is_kept(mine):
    model = shutil.copy(mine / "root" / _scorer(mine)["models"][0]["path"], mine / "own.ngram")
    built = _build(mine, f"perplexity.model={model}").manifest
    (own,) = (one for one in built.info["scorers"] if one["name"] == "perplexity")
    assert ([one["part"] for one in own["models"]], own["fitted_on"], own["n_cross_fitted"]) == (["whole"], None, 0)
    assert "own.ngram" not in str(built.info["recipe"])
    assert verify(Store(str(mine / "root")), built) == ([], [])
    exact = [row["overlap"] for row in _rows(mine, built.version) if row["source"] == "copies" and row["n_words"] >= 13]
    assert min(exact) > 0.8  # nobody knows what it was fitted on


def test_a_model_of_kenlm_scores(mine):
    pytest.importorskip("kenlm")
    model = perplexity.load(str(mine / "root" / _scorer(mine)["models"][0]["path"]))
    perplexity.write_arpa(model, str(mine / "own.arpa"))
    built = _build(mine, f"perplexity.model={mine / 'own.arpa'}").manifest
    scores = {row["row_id"]: row["perplexity"] for row in manifest.rows(Store(str(mine / "root")), built, "train").to_pylist()}
    texts = {row["row_id"]: row["text"] for row in _rows(mine, "v1")}
    for row_id, score in scores.items():
        (expected,) = perplexity.perplexities(model, _batch(texts[row_id]), min_words=_MIN_WORDS).to_pylist()
        assert score is None if expected is None else math.isclose(score, expected, rel_tol=1e-3)
    data = report.summary(Store(str(mine / "root")), built)
    assert data["perplexity"]["flagged"] is None
    with pytest.raises(DomainError, match="a model of KenLM's does not tell"):
        _build(mine, f"perplexity.model={mine / 'own.arpa'}", 'rules=["reference"]')


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("perplexity.order=6",), r"perplexity\.order is 6; it takes one of 3, 4, 5"),
        (("perplexity.min_words=0",), r"perplexity\.min_words is 0; it takes a whole number of at least 1"),
        (("perplexity.reads=sentences",), r"perplexity\.reads is 'sentences'; allowed: words, text"),
        (("perplexity.reads=text",), r"only a model of KenLM's reads anything but words"),
        (("perplexity.model=model.gz",), r"perplexity\.model is 'model\.gz'; it takes a model of KenLM's \(\.arpa, \.bin\)"),
        (("perplexity.model=none.arpa",), r"perplexity\.model 'none\.arpa' is no file"),
        (("perplexity.model=recipe.bin",), r"perplexity\.model 'recipe\.bin': "),
        (("perplexity.model=recipe.ngram",), r"perplexity\.model 'recipe\.ngram': "),
        (('scorers=["quality"]', _BY_PERPLEXITY), r"names perplexity, but scorers does not; set scorers = \[\"quality\", \"perplexity\"\]"),
        (('scorers=["perplexity"]', "select.order_by='quality / perplexity DESC'"), "select.order_by names quality, but scorers does not"),
        (('scorers=["quality"]', "select.where='reference.overlap < 0.2'"), "computed only by the scorer perplexity.*add it to scorers"),
        (('scorers=["quality"]', 'rules=["reference"]'), "rules names 'reference', whose signal the scorer perplexity tells"),
        (("scorers=perplexities",), "scorers is 'p'"),
    ],
)
def test_mistakes_are_one_line(mine, settings, message):
    for suffix in ("bin", "ngram"):
        shutil.copy(mine / "recipe.toml", mine / f"recipe.{suffix}")
    with contextlib.chdir(mine), pytest.raises(DomainError, match=message) as error:
        _build(mine, *settings)
    assert "\n" not in str(error.value)


def test_a_ranking_by_perplexity_goes_by_length_and_takes_no_row_without_a_score(folder, mine, capsys):
    chosen = _version(folder, "v2")[1].info["recipe"]["select"]
    assert (chosen["stratify_by"], chosen["where"]) == ("floor(log2(n_words))", "perplexity IS NOT NULL")
    rows = _rows(folder, "v2")
    assert {row["reason"] for row in rows if row["component"] == "domain" and row["n_words"] < _MIN_WORDS} >= {"select.where"}
    ranked = sorted(_in_domain(rows), key=lambda row: row["rank"])
    assert [row["perplexity"] for row in ranked] == sorted(row["perplexity"] for row in ranked)
    both = sorted(_in_domain(_rows(folder, "v3")), key=lambda row: row["rank"])
    ratios = [np.float32(row["quality"]) / np.float32(row["perplexity"]) for row in both]
    assert ratios == sorted(ratios, reverse=True)
    capsys.readouterr()
    assert not _build(mine, _BY_PERPLEXITY).is_new
    said = 'ranking by perplexity: select.stratify_by = "floor(log2(n_words))" and select.where = "perplexity IS NOT NULL"'
    assert said in capsys.readouterr().err
    plain = _build(mine, _BY_PERPLEXITY, "select.stratify_by=false", "select.where=false").manifest
    assert not {"stratify_by", "where"} & {*plain.info["recipe"]["select"]}
    assert "ranking by perplexity" not in capsys.readouterr().err
    last = [row for row in _in_domain(_rows(mine, plain.version)) if row["perplexity"] is None]
    assert min(row["rank"] for row in last) == len(_in_domain(_rows(mine, plain.version))) - len(last) + 1


def test_a_recipe_without_perplexity_is_the_same_decision_as_before_there_was_any(tiny):
    assert "perplexity" not in tiny.built.manifest.info["recipe"]
    assert report.summary(Store(str(tiny.root)), tiny.built.manifest)["perplexity"] is None


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_top_decile_is_laid_beside_the_pool(folder, version):
    data = report.summary(*_version(folder, version))["perplexity"]
    rows = _rows(folder, version)
    pool = sorted((row for row in _in_domain(rows) if row["perplexity"] is not None), key=lambda row: (row["perplexity"], row["row_id"]))
    top = pool[: -(-len(pool) // 10)]
    assert (data["pool"], data["top"], data["top_up_to"]) == (len(pool), len(top), round(top[-1]["perplexity"], 4))
    train = [row for row in rows if row["split"] == "train"]
    flagged = sum((row["overlap"] or 0.0) > np.float32(0.2) for row in train)
    assert data["flagged"] == {"above": 0.2, "rows": flagged, "of": len(train)}
    lines = {line["what"]: line for line in data["lines"]}
    for side, part in (("pool", pool), ("top", top)):
        assert lines["median words"][side] == np.median([row["n_words"] for row in part])
        compression = np.median([row["compression"] for row in part])
        assert math.isclose(lines["median compression ratio"][side], compression, abs_tol=1e-4)
        repeated = np.mean([row["duplicates"] for row in part if row["duplicates"] is not None])
        assert math.isclose(lines["mean share of characters in repeated runs of 5 words"][side], repeated, abs_tol=1e-4)
        for source in {row["source"] for row in pool}:
            share = sum(row["source"] == source for row in part) / len(part)
            assert lines[f"share of source {source}"][side] == round(share, 4)
    web = lines["share of source web"]
    assert web["moves"]
    assert web["top"] < web["pool"] / 2
    assert any(
        warning.startswith("the top decile by perplexity is unlike the pool: share of source web 0 ") for warning in data["warnings"]
    )
    assert not lines["share of source copies"]["moves"]  # one row: too few to say


def test_signals_that_are_gone_are_said(mine):
    shutil.rmtree(mine / "root/cache/signals")
    said = io.StringIO()
    data = report.summary(*_version(mine, "v2"))
    assert (data["perplexity"]["flagged"], [line["what"] for line in data["perplexity"]["lines"]][:2]) == (
        None, ["median words", "share of source copies"],
    )  # fmt: skip
    report.print_summary(Console(file=said, width=200), data)
    assert "how much of the rows is in the reference is not known" in said.getvalue()


def test_scorers_are_compared_as_plain_python_does(folder):
    store, version = _version(folder, "v1")
    data = compare_scorers(store, version)
    rows = _rows(folder, "v1")
    rates = {}
    counted = [row for row in rows if row["n_tokens"] is not None]
    for source in {row["source"] for row in rows}:
        here = [row for row in counted if row["source"] == source] or counted
        rates[source] = sum(row["n_tokens"] for row in here) / sum(row["n_bytes"] for row in here)
    domain = _in_domain(rows)
    size = {row["row_id"]: row["n_tokens"] or round(row["n_bytes"] * rates[row["source"]]) for row in domain}
    budget = sum(row["n_tokens"] for row in domain if row["split"] == "train")
    assert data["budget_tokens"] == budget
    taken = {}
    for name, sign in (("quality", -1), ("perplexity", 1)):
        ranked = sorted((row for row in domain if row[name] is not None), key=lambda row: (sign * row[name], row["row_id"]))
        taken[name] = [
            row["row_id"] for row, n in zip(ranked, np.cumsum([size[row["row_id"]] for row in ranked]), strict=True) if n <= budget
        ]
    assert {*taken["quality"]} != {*taken["perplexity"]}
    for one, (name, other) in zip(data["takes"], (("quality", "perplexity"), ("perplexity", "quality")), strict=True):
        both = {*taken[name]} & {*taken[other]}
        tokens = sum(size[id] for id in taken[name])
        assert (one["scorer"], one["rows"], one["n_tokens"]) == (name, len(taken[name]), tokens)
        assert one["also_rows"] == round(len(both) / len(taken[name]), 4)
        assert one["also_tokens"] == round(sum(size[id] for id in both) / tokens, 4)
        assert [row["row_id"] for row in one["samples"]] == [id for id in taken[name] if id not in both][:3]
        assert all(row["text"] for row in one["samples"])
    pairs = [(row["quality"], -row["perplexity"]) for row in domain if row["perplexity"] is not None]
    ranks = [
        [sum(other < value for other in side) + (sum(other == value for other in side) - 1) / 2 for value in side]
        for side in zip(*pairs, strict=True)
    ]
    assert math.isclose(data["rank_correlation"], np.corrcoef(*ranks)[0, 1], abs_tol=1e-4)
    assert data["n_both"] == len(pairs)


def test_show_compares_and_says_which_scorer_is_missing(folder, tiny):
    done = curate("show", "v1", "--scorers", "--root", "root", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "rank correlation (Spearman)" in done.stdout
    assert "perplexity alone would take, the best first" in done.stdout
    assert '"rank_correlation"' in curate("show", "v1", "--scorers", "--json", "--root", "root", cwd=folder).stdout
    none = curate("show", "v1", "--scorers", "--root", "root", cwd=tiny.root.parent)
    assert (none.returncode, len(none.stderr.splitlines())) == (2, 1)
    assert "v1 has no scorer perplexity, so there is nothing to compare" in none.stderr


def test_why_says_the_perplexity_and_its_place(folder):
    store, version = _version(folder, "v1")
    rows = _rows(folder, "v1")
    scored = [row["perplexity"] for row in _in_domain(rows) if row["perplexity"] is not None]
    row = next(row for row in rows if row["source_id"] == "near")
    place = explain(store, version, row["row_id"])["rows"][0]["place"]
    assert place["n_with_perplexity"] == len(scored)
    assert place["perplexity_percentile"] == round(100 * sum(one > row["perplexity"] for one in scored) / len(scored), 2)
    done = curate("why", row["row_id"], "--manifest", "v1", "--root", "root", cwd=folder)
    assert f"{row['perplexity']:.4f}, below {place['perplexity_percentile']:g} %" in done.stdout
    ranked = next(row["row_id"] for row in _in_domain(_rows(folder, "v2")) if row["rank"] is not None)
    done = curate("why", ranked, "--manifest", "v2", "--root", "root", cwd=folder)
    assert "each stratum of floor(log2(n_words)) has a cut of its own" in " ".join(done.stdout.split())
    asked = explain_text(store, version, row["text"])
    assert (asked["perplexity"], asked["quality"]) == (pytest.approx(row["perplexity"]), pytest.approx(row["quality"]))
    assert asked["overlap"] == pytest.approx(row["overlap"])
    assert explain_text(store, version, "A short text.")["perplexity"] is None


def test_a_diff_has_tenths_of_perplexity_and_a_page_has_the_decile(folder):
    store, before = _version(folder, "v1")
    after = manifest.load(store, "v2")
    data = diff(store, before, after)
    kept = [{row["row_id"]: row for row in _rows(folder, name) if row["split"] == "train"} for name in ("v1", "v2")]
    come = [row for id, row in kept[1].items() if id not in kept[0] and row["component"] == "domain"]
    assert sum(row["rows_in"] for row in data["perplexity_deciles"]) == len(come) > 0
    ranked = sorted(row["perplexity"] for row in _in_domain(_rows(folder, "v2")))
    assert data["perplexity_deciles"][0]["up_to_after"] == ranked[-(-len(ranked) // 10) - 1]
    assert data["perplexity_deciles"][0]["rows_in"] == sum(
        row["perplexity"] <= data["perplexity_deciles"][0]["up_to_after"] for row in come
    )
    written = page(gather(store, after))
    assert "The top decile by perplexity against the pool" in written
    assert "Score perplexity" in written


def test_what_is_tried_is_what_is_built_and_missing_facts_are_named(mine):
    assert not _build(mine).is_new  # reads the files under their new paths
    settings = (_BY_PERPLEXITY, "select.budget_tokens=9000")
    arguments = [word for one in settings for word in ("--set", one)]
    tried = curate("try", "--recipe", "recipe.toml", *arguments, "--json", "--root", "root", cwd=mine)
    built = _build(mine, *settings).manifest
    data = json.loads(tried.stdout)
    assert data["after"]["kept"]["rows"] == built.info["funnel"][-1]["rows"]
    train = manifest.rows(Store(str(mine / "root")), built, "train").to_pylist()
    logs = [math.log(row["perplexity"]) for row in train if row["component"] == "domain"]
    assert math.isclose(data["after"]["mean_perplexity"]["domain"], math.exp(sum(logs) / len(logs)), rel_tol=1e-3)
    missing = curate("try", "--recipe", "recipe.toml", "--set", "perplexity.min_words=71", "--root", "root", cwd=mine)
    assert (missing.returncode, len(missing.stderr.splitlines())) == (2, 1)
    assert "the facts of 'perplexity' are missing for" in missing.stderr
