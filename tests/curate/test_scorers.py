"""The classifier: no document is scored by a model that saw it, fits repeat to the byte, and a pinned model stays until it is refitted."""

import pathlib
import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate import executor, manifest, scorers
from curate.build import Built, build
from curate.recipe import DomainError
from curate.recipe_file import read_recipe
from curate.store import Store
from curate.verify import verify
from filters import bags, quality
from filters.columns import TextBatch
from tests.curate.corpora import documents, write_corpus, write_jsonl


def _build(root: pathlib.Path, recipe: str, *, workers: int = 1, settings: tuple[str, ...] = (), **more: Any) -> Built:
    store = Store(str(root))
    return build(store, read_recipe(store, file=recipe, settings=settings), run=executor.local(workers), **more)


def _rows(root: pathlib.Path, built: Built) -> list[dict[str, Any]]:
    store = Store(str(root))
    return [row for split in manifest.SPLITS for row in manifest.rows(store, built.manifest, split).to_pylist()]


@pytest.fixture
def base(tiny) -> tuple[pathlib.Path, str, Built]:
    return tiny.root, tiny.recipe, tiny.built


def test_the_domain_ranks_above_the_rest(base):
    root, _, built = base
    rows = _rows(root, built)
    mean = {name: np.mean([row["quality"] for row in rows if row["source"] == name and row["n_words"] >= 50]) for name in ("papers", "web")}
    assert mean["papers"] > mean["web"] + 0.2
    (scorer,) = built.manifest.info["scorers"]
    assert scorer["held_out_auc"]["auc"] > 0.6
    ranked = [row for row in rows if row["component"] == "domain" and row["rank"] is not None]
    ranked.sort(key=lambda row: row["rank"])
    assert [row["quality"] for row in ranked] == sorted((row["quality"] for row in ranked), reverse=True)


def test_no_document_is_scored_by_a_model_that_was_fitted_on_its_fold(base):
    root, _, built = base
    store, (scorer,) = Store(str(root)), built.manifest.info["scorers"]
    models = [quality.load(str(store.local(model["path"])), scorer["label"]) for model in scorer["models"]]
    for row in _rows(root, built):
        if row["source"] == "papers":
            text = store.read_table(f"corpus/{row['shard']}", ["text"])["text"][row["row"]]
            other = 1 if row["doc_id"] < "8" else 0
            assert np.float32(row["quality"]) == np.float32(
                models[other].score(bags.bags(TextBatch.from_arrow(pa.array([text.as_py()]))))[0].as_py()
            )
    assert scorers.fold_of(pa.array(["7f", "80", "00", "ff"])).tolist() == [0, 1, 0, 1]


def test_scores_are_round_and_between_0_and_1(base):
    values = np.array([row["quality"] for row in _rows(base[0], base[2])], np.float32)
    assert ((values >= 0) & (values <= 1)).all()
    assert (values == np.round(values.astype(np.float64), 4).astype(np.float32)).all()


@pytest.mark.slow  # tests/curate/test_build.py compares the scorers, too, where rows come in another order and cut and from two workers
def test_a_fit_repeats_to_the_byte_whatever_the_workers_and_the_cut_of_the_files(base, tmp_path):
    again = _build(tmp_path / "root", write_corpus(tmp_path, n_files=5, reverse=True), workers=2)
    assert again.manifest.info["scorers"] == base[2].manifest.info["scorers"]


def test_fitted_models_stay_until_they_are_refitted(own, tmp_path):
    mine = own()
    first = mine.built
    write_jsonl(tmp_path / "data/reference/more.jsonl", documents("paper-more", 60))
    second = _build(mine.root, mine.recipe, settings=("gopher_quality.min_words=55",))
    assert second.manifest.info["scorers"] == first.manifest.info["scorers"]
    third = _build(mine.root, mine.recipe, refit=("quality",))
    assert third.manifest.info["scorers"] != first.manifest.info["scorers"]
    fourth = _build(mine.root, mine.recipe, settings=("gopher_quality.min_words=54",))
    assert fourth.manifest.info["scorers"] == third.manifest.info["scorers"]
    assert verify(Store(str(mine.root)), first.manifest) == ([], [])


def test_other_settings_than_the_pinned_ones_are_refused_with_the_way_out(base, tmp_path):
    shutil.copytree(base[0], tmp_path / "root")
    with pytest.raises(DomainError, match=r"fitted with other settings \(dim is 9, was 8\).*--refit quality"):
        _build(tmp_path / "root", base[1], settings=("quality.dim=9",))


def test_a_lost_model_is_said(base, tmp_path):
    shutil.copytree(base[0], tmp_path / "root")
    lost = next((tmp_path / "root/models").glob("quality-*.bin"))
    lost.unlink()
    with pytest.raises(DomainError, match=rf"{lost.name}.* is missing; restore it, or use --refit quality"):
        _build(tmp_path / "root", base[1])
    assert any(lost.name in fault for fault in verify(Store(str(tmp_path / "root")), base[2].manifest)[0])


def test_a_model_of_ones_own_scores_and_is_kept(base, own, tmp_path):
    root, _, built = base
    mine = own("manifests", "models")
    model = tmp_path / "own.bin"
    shutil.copyfile(root / built.manifest.info["scorers"][0]["models"][0]["path"], model)
    named = _build(mine.root, mine.recipe, settings=(f"quality.model={model}",))
    model.unlink()
    (scorer,) = named.manifest.info["scorers"]
    assert [one["sha256"] for one in scorer["models"]] == [built.manifest.info["scorers"][0]["models"][0]["sha256"]]
    assert (scorer["fitted_on"], scorer["held_out_auc"]) == (None, None)
    assert verify(Store(str(mine.root)), named.manifest) == ([], [])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "quality.model"),
        (lambda data: b"not a model at all", "quality.model"),
        (lambda data: data + b"\0", "quality.model"),
    ],
)
def test_a_broken_model_is_one_line(base, tmp_path, damage, message):
    root, recipe, built = base
    own = tmp_path / "own.bin"
    own.write_bytes(damage((root / built.manifest.info["scorers"][0]["models"][0]["path"]).read_bytes()))
    with pytest.raises(DomainError, match=message):
        _build(tmp_path / "root", recipe, settings=(f"quality.model={own}",))


def test_an_unknown_label_names_those_there(base, tmp_path):
    root, recipe, built = base
    model = root / built.manifest.info["scorers"][0]["models"][0]["path"]
    with pytest.raises(DomainError, match=r"__label__hq.*__label__domain"):
        _build(tmp_path / "root", recipe, settings=(f"quality.model={model}", "quality.label=__label__hq"))


def test_a_reference_that_is_all_of_the_pool_is_refused(tmp_path):
    recipe = write_corpus(tmp_path)
    for path in (tmp_path / "data/reference").iterdir():
        path.unlink()
    rows = documents("paper", 150) + documents("web", 120) + documents("paper", 12)
    write_jsonl(tmp_path / "data/reference/a.jsonl", rows)
    with pytest.raises(DomainError, match="the quality classifier cannot be fitted"):
        _build(tmp_path / "root", recipe)


def test_without_a_reference_the_way_out_is_said(tmp_path):
    recipe = pathlib.Path(write_corpus(tmp_path))
    recipe.write_text(recipe.read_text().split("[sources.reference]")[0])
    with pytest.raises(DomainError, match=r"role 'reference'.*--set 'scorers=\[\]' --set select\.order_by=random"):
        read_recipe(Store(str(tmp_path / "root")), file=str(recipe))
    built = _build(tmp_path / "root", str(recipe), settings=("scorers=[]", "select.order_by=random"))
    assert built.manifest.info["scorers"] == []
    with pytest.raises(DomainError, match=r"select\.order_by names quality, but scorers does not"):
        read_recipe(Store(str(tmp_path / "root")), file=str(recipe), settings=("scorers=[]",))


def test_the_evalset_of_the_domain_lies_at_or_above_the_cut_and_the_others_below(base):
    root, _, built = base
    rows = {row["row_id"]: row for row in _rows(root, built)}
    cut = min(row["quality"] for row in rows.values() if row["split"] == "train" and row["component"] == "domain")
    listed = manifest.evalset(Store(str(root)), built.manifest).to_pylist()
    assert {row["component"] for row in listed} == {"domain", "wikipedia"}
    for row in listed:
        assert (rows[row["row_id"]]["quality"] >= cut) == (row["component"] == "domain")


def test_a_row_that_leaves_by_its_score_is_said_so(base):
    rows = _rows(base[0], base[2])
    cut = min(row["quality"] for row in rows if row["split"] == "train" and row["component"] == "domain")
    assert all(row["quality"] <= cut for row in rows if row["reason"] == "budget" and row["component"] == "domain")
