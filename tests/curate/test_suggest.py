"""`curate suggest`: the paper's ratios where they reach, a word where they do not, and lines that can be pasted."""

import json
import pathlib
import tomllib

import pytest

from curate import executor, manifest
from curate.build import build
from curate.presets import NO_PRESET, PRESETS
from curate.recipe import DomainError
from curate.recipe_file import read_recipe
from curate.store import Store
from curate.suggest import Stock, Suggestion, stock_of, suggest
from tests.curate.commands import curate
from tests.curate.corpora import write_corpus

_B = 1_000_000_000
_REPLAY = ("wikipedia", "books")


def _suggest(stock: int, budget: int, like: str = "llama-1", components: tuple[str, ...] = _REPLAY) -> Suggestion:
    return suggest(Stock(stock, "v1", is_estimated=False, components=components), budget, like)


def test_the_papers_budget_gives_the_papers_recipe() -> None:
    found = _suggest(50 * _B, 20 * _B)
    assert (found.subset_tokens, found.epochs, found.epoch_tokens) == (5 * _B, 4, 5 * _B)
    assert found.domain_share == 0.82
    assert found.repeats == round(4 * 0.82, 2)
    assert found.replace == ("common_crawl", "c4")
    assert "the best 10.0% of the stock" in found.reasons[0]
    assert len(found.limits) == 1  # only that other sizes of models were not tried


def test_a_stock_below_a_quarter_of_the_budget_is_taken_whole_and_no_more_often_than_is_good() -> None:
    found = _suggest(2 * _B, 20 * _B)
    assert (found.epoch_tokens, found.epochs, found.total_tokens) == (2 * _B, 4, 8 * _B)
    assert f"{20 * _B - 8 * _B:,} tokens of the budget are left" in found.reasons[0]
    rare = _suggest(2 * _B, 20 * _B, like="pile", components=("wikipedia",))
    assert rare.epochs == 10  # 28 % of the tokens are of the domain, so ten epochs see each 2.8 times
    assert rare.repeats <= 4
    assert rare.total_tokens == 20 * _B


@pytest.mark.parametrize("like", [*PRESETS, NO_PRESET])
@pytest.mark.parametrize(("stock", "budget"), [(50 * _B, 20 * _B), (10**6, 20 * _B), (10**9, 4), (3, 5)])
def test_no_token_is_seen_more_often_than_is_good(like: str, stock: int, budget: int) -> None:
    found = _suggest(stock, budget, like, components=("wikipedia",))
    assert found.repeats <= 4
    assert found.epoch_tokens <= stock
    assert 1 <= found.epoch_tokens * found.epochs <= max(budget, found.epoch_tokens)
    assert all("arXiv" in reason for reason in found.reasons)


def test_it_says_where_nobody_has_measured() -> None:
    tiny, small, large, half = (
        _suggest(10**6, 10**9), _suggest(10**8, 10**10), _suggest(10**12, 200 * _B), _suggest(9 * _B, 20 * _B)
    )  # fmt: skip
    assert "a tiny stock" in tiny.limits[0]
    assert "2409.07431" in tiny.limits[0]
    assert "a small stock" in small.limits[0]
    assert f"{50 * _B:,} tokens are none of the subsets that the paper tried" in large.limits[0]
    assert "the subset is 56% of the stock" in half.limits[0]
    assert all("above 8B nobody has tried" in one.limits[-1] for one in (tiny, small, large, half))


@pytest.mark.parametrize(
    ("like", "components", "why"),
    [
        ("llama-1", (), 'no source with role = "replay"'),
        ("llama-1", ("textbooks",), "the recipe's component 'textbooks' is none of llama-1"),
        ("llama-1", ("common_crawl", "c4"), "sources for all of the web part of llama-1"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_is_not_suggested(like: str, components: tuple[str, ...], why: str) -> None:
    found = _suggest(50 * _B, 20 * _B, like, components)
    assert (found.preset, found.domain_share) == (NO_PRESET, 1.0)
    assert sum(why in reason for reason in found.reasons) == 1


def test_what_is_wrong_is_said() -> None:
    for arguments, what in (
        ((50 * _B, 20 * _B, "lama"), "Did you mean 'llama-1'"),
        ((50 * _B, 3), "--tokens is 3; it takes at least 4"),
        ((0, 20 * _B), "nothing of the domain passed"),
    ):
        with pytest.raises(DomainError, match=what):
            _suggest(*arguments)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("suggest")
    store = Store(str(folder / "root"))
    build(store, read_recipe(store, file=write_corpus(folder)), run=executor.local(1))
    return folder


@pytest.mark.parametrize("like", [*PRESETS, NO_PRESET])
def test_the_lines_are_a_recipe(corpus: pathlib.Path, like: str) -> None:
    store = Store(str(corpus / "root"))
    recipe = read_recipe(store, file=str(corpus / "recipe.toml"))
    found = suggest(stock_of(store, recipe), 40_000, like)
    pasted = corpus / "pasted.toml"
    sources = (corpus / "recipe.toml").read_text().partition("[sources.papers]")
    pasted.write_text(f'domain = "tiny"\n{found.lines}\n{"".join(sources[1:])}')
    table = tomllib.loads(found.lines)
    assert table["mix"]["epochs"] == found.epochs
    by_lines = read_recipe(store, file=str(pasted))
    by_settings = read_recipe(store, file=str(corpus / "recipe.toml"), settings=found.settings)
    assert by_lines.mix == by_settings.mix
    assert by_lines.select.budget_tokens == by_settings.select.budget_tokens == 40_000 // 4
    assert by_lines.mix.shares["domain"] == pytest.approx(found.domain_share, abs=1e-6)


def test_the_lines_build(corpus: pathlib.Path) -> None:
    store = Store(str(corpus / "root"))
    stock = stock_of(store, read_recipe(store, file=str(corpus / "recipe.toml")))
    found = suggest(stock, 40_000, "llama-1")
    recipe = read_recipe(store, file=str(corpus / "recipe.toml"), settings=found.settings)
    built = build(store, recipe, run=executor.local(1)).manifest
    (stage,) = built.info["stages"]
    assert (stage["epochs"], stage["epoch_tokens"]) == (found.epochs, found.epoch_tokens)
    (domain,) = [part for part in stage["components"] if part["name"] == "domain"]
    assert domain["repeats"] == pytest.approx(found.repeats, rel=0.05)


def test_the_stock_is_what_passed_rules_and_dedup(corpus: pathlib.Path) -> None:
    store = Store(str(corpus / "root"))
    stock = stock_of(store, read_recipe(store, file=str(corpus / "recipe.toml")))
    version = manifest.load(store, stock.version)
    train, dropped = (manifest.rows(store, version, split).to_pylist() for split in ("train", "dropped"))
    counted = sum(row["n_tokens"] for row in train if row["component"] == "domain")
    left = sum(row["n_bytes"] for row in dropped if row["reason"] == "budget" and row["component"] == "domain")
    assert stock.is_estimated == bool(left)
    assert stock.n_tokens == pytest.approx(counted + left * 0.4, rel=0.3)
    assert stock.n_tokens >= counted
    with pytest.raises(DomainError, match="no version of domain 'tiny'"):
        stock_of(Store(str(corpus / "empty")), read_recipe(store, file=str(corpus / "recipe.toml")))


def test_the_command(corpus: pathlib.Path) -> None:
    options = ("--recipe", "recipe.toml", "--tokens", "40k", "--like", "llama-1", "--root", "root")
    told = curate("suggest", *options, cwd=corpus)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1].startswith("next: curate try --recipe recipe.toml --set select.budget_tokens=10000")
    plain = json.loads(curate("suggest", *options, "--json", cwd=corpus).stdout)
    assert plain["lines"] in told.stdout
    assert plain["total_tokens"] == plain["epochs"] * plain["epoch_tokens"]
    failed = curate("suggest", "--recipe", "recipe.toml", "--tokens", "lots", "--like", "llama-1", cwd=corpus)
    assert (failed.returncode, "--tokens is 'lots'" in failed.stderr) == (2, True)
