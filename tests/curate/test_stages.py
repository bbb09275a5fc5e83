"""Stages, strata and mixtures of whole builds: what is published adds up, verifies and is drawn as it was decided."""

import io
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from curate import executor, manifest, report
from curate.build import Built, build
from curate.manifest import Manifest
from curate.recipe import DomainError
from curate.recipe_file import read_recipe
from curate.store import Store
from curate.verify import verify
from tests.curate.corpora import write_corpus
from train.config import TrainConfig
from train.plan import draw_epoch, epoch_tokens, make_plan, plan_epoch

_BROAD = '{name = "broad", epochs = 2}'
_BEST = '{name = "best", shares = {domain = 1.0}, epochs = 1, budget_tokens = 4000, epoch_tokens = 3000, order = "quality ASC"}'
_STAGES = f"stages=[{_BROAD}, {_BEST}]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    path = tmp_path_factory.mktemp("stages")
    return Store(str(path / "root")), write_corpus(path)


def _build(folder: tuple[Store, str], *settings: str) -> Built:
    store, recipe = folder
    return build(store, read_recipe(store, file=recipe, settings=settings), run=executor.local(1))


def _rows(store: Store, version: Manifest, split: str = "train") -> list[dict[str, Any]]:
    return manifest.rows(store, version, split).to_pylist()


def _domain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted((row for row in rows if row["component"] == "domain"), key=lambda row: row["rank"])


@pytest.fixture(scope="module")
def staged(folder: tuple[Store, str]) -> Manifest:
    return _build(folder, _STAGES).manifest


def test_a_stage_with_a_budget_of_its_own_draws_from_the_best(folder, staged):
    rows = _rows(folder[0], staged)
    domain = _domain(rows)
    n_through, best = 0, set()
    for row in domain:
        n_through += row["n_tokens"]
        if n_through <= 4000:
            best.add(row["row_id"])
    assert 0 < len(best) < len(domain)
    assert {row["row_id"]: row["stages"] for row in domain} == {row["row_id"]: [0, 1] if row["row_id"] in best else [0] for row in domain}
    assert all(row["stages"] == [0] for row in rows if row["component"] == "wikipedia")
    assert verify(folder[0], staged) == ([], [])


def test_stages_say_what_an_epoch_draws_and_how_often_a_token_is_seen(staged):
    broad, best = staged.info["stages"]
    assert [(stage.name, stage.epochs, stage.epoch_tokens, stage.order) for stage in staged.stages] == [
        ("broad", 2, 12_000, "shuffle"), ("best", 1, 3000, "quality ASC"),
    ]  # fmt: skip
    assert [(part["name"], part["epoch_tokens"]) for part in broad["components"]] == [("domain", 9600), ("wikipedia", 2400)]
    assert [(part["name"], part["epoch_tokens"]) for part in best["components"]] == [("domain", 3000)]
    assert best["components"][0]["pool_tokens"] <= 4000 < broad["components"][0]["pool_tokens"] <= 12_000
    repeats = [stage["components"][0]["epoch_tokens"] * stage["epochs"] / stage["components"][0]["pool_tokens"] for stage in (broad, best)]
    assert staged.info["repeats"]["domain"] == pytest.approx(sum(repeats), abs=2e-4)


def test_every_draw_is_exact_and_redrawn_when_dynamic(folder, staged):
    for number, stage in enumerate(staged.stages):
        for part in stage.components:
            draws = [manifest.draw(folder[0], staged, stage=number, component=part.name, epoch=epoch) for epoch in (0, 1, 1)]
            assert [sum(draw["n_tokens"].to_pylist()) for draw in draws] == [part.epoch_tokens] * 3
            assert draws[1].equals(draws[2])
            assert not draws[0].equals(draws[1])


def test_the_plan_runs_the_stages_one_after_the_other_and_keeps_the_order_of_an_ordered_one(folder, staged):
    store, config = folder[0], TrainConfig(seq_len=64, global_batch=4, micro_batch=1)
    plan = make_plan(staged, config, n_tokens=epoch_tokens(staged, config))
    assert [(epoch.stage, epoch.epoch, epoch.n_tokens) for epoch in plan.epochs] == [(0, 0, 12_000), (0, 1, 12_000), (1, 0, 3000)]
    quality = manifest.rows(store, staged, "train", ["quality"])["quality"].to_pylist()
    tables = [pa.concat_tables(plan_epoch(draw_epoch(store, staged, epoch), plan, index)) for index, epoch in enumerate(plan.epochs)]
    assert [sum(table["length"].to_pylist()) for table in tables] == [12_000, 12_000, 3000]
    assert tables[1]["step"][0].as_py() == tables[0]["step"][-1].as_py() + 1
    scores = [[quality[ordinal] for ordinal in table["ordinal"].to_pylist()] for table in tables]
    assert scores[2] == sorted(scores[2])
    assert scores[0] != sorted(scores[0])


def test_the_fingerprint_covers_the_order_of_a_stage(folder, staged):
    other = _build(folder, _STAGES.replace("quality ASC", "quality DESC")).manifest
    assert other.fingerprint != staged.fingerprint
    named = _build(folder, _STAGES.replace('"best"', '"last"')).manifest
    assert (named.fingerprint, named.info["decision"] == staged.info["decision"]) == (staged.fingerprint, False)


def test_a_summary_shows_stages_shares_asked_for_and_repeats(folder):
    built = _build(folder, 'mix={preset="llama-1", replace=["common_crawl", "c4"]}', "mix.epochs=9", "select.budget_tokens=6000")
    page = io.StringIO()
    report.print_summary(Console(file=page, width=200), report.summary(folder[0], built.manifest))
    assert "mixture: llama-1; the domain stands for common_crawl, c4 (82.0%)" in page.getvalue()
    assert "no source has github, books, arxiv, stackexchange (13.5%): their share goes to wikipedia" in page.getvalue()
    assert "asked for" in page.getvalue()
    assert "the tokens of component domain are seen 7." in page.getvalue()
    assert "Muennighoff et al. 2023, arXiv 2305.16264" in page.getvalue()


def test_a_cap_on_repeats_stops_the_build(folder):
    before = manifest.versions(folder[0])
    with pytest.raises(
        DomainError, match=r"component 'domain' would be seen 7\.\d+ times, more than the 4 of mix\.max_repeats.*at most 4 epochs"
    ):
        _build(folder, "mix.epochs=9", "mix.max_repeats=4", "select.budget_tokens=6000")
    assert manifest.versions(folder[0]) == before


def test_a_short_stock_is_taken_whole_and_an_epoch_is_as_long(folder):
    built = _build(folder, "select.budget_tokens=5M")
    rows = _rows(folder[0], built.manifest)
    domain = sum(row["n_tokens"] for row in rows if row["component"] == "domain")
    assert built.manifest.stages[0].epoch_tokens == domain
    assert not [row for row in _rows(folder[0], built.manifest, "dropped") if row["reason"] == "budget" and row["component"] == "domain"]
    page = io.StringIO()
    report.print_summary(Console(file=page, width=200), report.summary(folder[0], built.manifest))
    assert f"the whole stock of the domain, {domain:,} tokens, is below the budget of 5,000,000" in page.getvalue()


def test_a_condition_judges_the_domain_only_and_has_its_step_in_the_funnel(folder):
    built = _build(folder, 'select.where="n_words % 2 = 0"')
    rows = {split: _rows(folder[0], built.manifest, split) for split in manifest.SPLITS}
    assert all(row["n_words"] % 2 == 0 for row in rows["train"] if row["component"] == "domain")
    assert any(row["n_words"] % 2 for row in rows["train"] if row["component"] == "wikipedia")
    gone = [row for row in rows["dropped"] if row["reason"] == "select.where"]
    assert gone
    assert all(row["n_words"] % 2 and row["component"] == "domain" for row in gone)
    steps = {step["step"]: step["rows"] for step in built.manifest.info["funnel"]}
    assert steps["passed the rules"] - steps["met select.where"] == len(gone)
    assert verify(folder[0], built.manifest) == ([], [])
    exam = {row["row_id"] for row in manifest.evalset(folder[0], built.manifest).to_pylist()}
    assert exam  # of the first version under this root


@pytest.mark.parametrize("stratify", ["proportional", "equal"])
def test_strata_share_the_budget_within_one_document(folder, stratify):
    settings = ["select.stratify_by=source", f"select.stratify={stratify}", "select.budget_tokens=9000"]
    built = _build(folder, *settings)
    ranked = _domain([row for split in ("train", "dropped") for row in _rows(folder[0], built.manifest, split) if row["rank"]])
    taken = [row for row in ranked if row["split"] == "train"]
    spent = {name: sum(row["n_tokens"] for row in taken if row["source"] == name) for name in ("papers", "web")}
    stock = {name: sum(row["n_bytes"] for row in ranked if row["source"] == name) for name in spent}
    parts = {name: 9000 * stock[name] / sum(stock.values()) if stratify == "proportional" else 4500 for name in spent}
    longest = max(row["n_tokens"] for row in taken)
    assert 9000 - longest < sum(spent.values()) <= 9000
    assert all(abs(spent[name] - parts[name]) < longest for name in spent)
    assert built.manifest.info["strata"] == [
        {
            "stratum": f'"{name}"', "n_rows": sum(row["source"] == name for row in ranked),
            "n_taken": sum(row["source"] == name for row in taken), "n_tokens": spent[name],
        }
        for name in ("papers", "web")
    ]  # fmt: skip
    assert verify(folder[0], built.manifest) == ([], [])


def test_a_top_share_is_one_of_bytes_and_a_threshold_takes_all_that_reach_it(folder):
    built = _build(folder, "select.top_share=0.25")
    ranked = _domain([row for split in ("train", "dropped") for row in _rows(folder[0], built.manifest, split) if row["rank"]])
    whole, n_taken = sum(row["n_bytes"] for row in ranked), sum(row["split"] == "train" for row in ranked)
    assert sum(row["n_bytes"] for row in ranked[:n_taken]) <= whole // 4 < sum(row["n_bytes"] for row in ranked[: n_taken + 1])
    assert all((row["split"] == "train") == (index < n_taken) for index, row in enumerate(ranked))
    pool = sum(row["n_tokens"] for row in ranked[:n_taken])
    assert built.manifest.stages[0].epoch_tokens == pool
    scores = sorted((row["quality"] for row in ranked), reverse=True)
    built = _build(folder, f"select.threshold={scores[20]:.4f}")
    assert min(row["quality"] for row in _domain(_rows(folder[0], built.manifest))) == pytest.approx(scores[20])
    assert sum(row["component"] == "domain" for row in _rows(folder[0], built.manifest)) == sum(score >= scores[20] for score in scores)


def test_like_takes_the_shares_of_a_version(folder, staged):
    built = _build(folder, f"mix={{like = {staged.version!r}}}")
    (stage,) = built.manifest.stages
    assert stage.components[0].share == pytest.approx((2 * 9600 + 3000) / (2 * 12_000 + 3000))
    assert built.manifest.info["stages"][0]["mixture"]["like"] == staged.version
