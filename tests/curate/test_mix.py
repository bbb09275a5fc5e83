"""Mixtures: presets come to exact shares, the domain's never moves, and parts of whole tokens add up."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.mix import Pool, apportion, epoch_tokens, replay_budgets, water_fill
from curate.portable import portable
from curate.presets import PRESETS
from curate.recipe import DomainError, Mix, Recipe, Scheduled, Select, Source, StageChoice
from curate.recipe_file import read_recipe
from curate.recipe_mix import resolve_stages
from curate.store import Store

_SHARES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 50), min_size=1).filter(lambda weights: any(weights.values()))


def _sources(*components):
    return [Source("papers", ("x",)), *(Source(name, ("x",), role="replay", component=name) for name in components)]


def _resolve(mix, *components, stages=(), select=None, shares_of=None):
    return resolve_stages(mix, stages, select or Select(), _sources(*components), shares_of or {}.__getitem__)


@settings(max_examples=60)
@given(weights=_SHARES, total=st.integers(0, 10**13))
def test_parts_add_up_and_none_is_off_by_a_token(weights, total):
    shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    parts = apportion(total, shares)
    assert sum(parts.values()) == total
    whole = sum(Fraction(str(share)) for share in shares.values())
    assert all(abs(parts[name] - total * Fraction(str(share)) / whole) < 1 for name, share in shares.items())


def test_parts_of_decimal_shares_are_the_decimals():
    assert apportion(100, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}) == {"a": 34, "b": 33, "c": 33}
    assert apportion(100, {"a": 0.29, "b": 0.71}) == {"a": 29, "b": 71}  # 0.29 * 100 is below 29 in floats
    assert apportion(10**12, {"domain": 0.82, "wikipedia": 0.09, "books": 0.09})["domain"] == 820_000_000_000


@settings(max_examples=60)
@given(stocks=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 60)), total=st.integers(0, 250), more=st.integers(0, 1000))
def test_equal_parts_respect_stocks_and_waste_nothing(stocks, total, more):
    parts = water_fill(total, stocks)
    assert sum(parts.values()) == min(total, sum(stocks.values()))
    assert all(parts[name] <= stocks[name] for name in stocks)
    open_ = [parts[name] for name in stocks if parts[name] < stocks[name]]
    assert not open_ or max(parts.values()) <= min(open_) + 1
    # A stock that is not used up may be any larger: an estimate of it decides nothing.
    assert water_fill(total, {name: stock + more * (parts[name] < stock) for name, stock in stocks.items()}) == parts


def test_the_papers_mixture_is_exact_and_what_is_absent_goes_to_the_other_replay_components():
    (stage,) = _resolve(Mix(preset="llama-1", replace=("common_crawl", "c4")), "wikipedia", "books")
    assert stage.shares == {"domain": 0.82, "wikipedia": 0.09, "books": 0.09}
    assert stage.mixture is not None
    assert stage.mixture.requested == {
        "domain": 0.82, "github": 0.045, "wikipedia": 0.045, "books": 0.045, "arxiv": 0.025, "stackexchange": 0.02,
    }  # fmt: skip
    assert stage.mixture.replaced == {"common_crawl": 0.67, "c4": 0.15}
    assert stage.mixture.absent == {"github": 0.045, "arxiv": 0.025, "stackexchange": 0.02}
    assert "arXiv 2302.13971" in stage.mixture.source


def test_a_mixture_with_all_its_sources_stays_as_it_is():
    rest = ("github", "wikipedia", "books", "arxiv", "stackexchange")
    (stage,) = _resolve(Mix(preset="llama-1", replace=("common_crawl", "c4"), absent="refuse"), *rest)
    assert (stage.shares, stage.mixture.absent) == (stage.mixture.requested, {})


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("absent", [0, 1, 3])
def test_the_domains_share_never_moves(name, absent):
    preset = PRESETS[name]
    rest = [part for part in preset.amounts if part not in preset.web]
    (stage,) = _resolve(Mix(preset=name, replace=preset.web), *rest[absent:])
    assert sum(map(Fraction, preset.amounts.values())) == pytest.approx(sum(map(float, preset.amounts.values())))
    assert stage.shares["domain"] == stage.mixture.requested["domain"]
    assert sum(stage.shares.values()) == pytest.approx(1.0, abs=1e-12)
    asked = stage.mixture.requested
    ratios = {round(stage.shares[part] / asked[part], 9) for part in rest[absent:]}
    assert len(ratios) == 1


def test_presets_are_what_their_sources_print():
    amounts = {name: {part: float(amount) for part, amount in preset.amounts.items()} for name, preset in PRESETS.items()}
    assert sum(amounts["llama-1"].values()) == sum(amounts["slimpajama"].values()) == 100.0
    assert sum(amounts["pile"].values()) == pytest.approx(100.0)
    assert len(amounts["pile"]) == 22
    assert sum(amounts["redpajama"].values()) == 878 + 175 + 59 + 26 + 28 + 24 + 20  # billions, of 1.2 trillion
    assert sum(amounts["olmo"].values()) == pytest.approx(3900, abs=1)  # of 3.90 trillion


def test_like_takes_the_shares_of_a_version_and_the_domain_stays_the_domain():
    shares = {"domain": Fraction(6, 10), "wikipedia": Fraction(3, 10), "books": Fraction(1, 10)}
    (stage,) = _resolve(Mix(like="v1"), "wikipedia", shares_of={"v1": shares}.__getitem__)
    assert stage.shares == {"domain": 0.6, "wikipedia": 0.4}
    (stage,) = _resolve(Mix(like="v1", replace=("books",)), "wikipedia", shares_of={"v1": shares}.__getitem__)
    assert stage.shares == {"domain": 0.7, "wikipedia": 0.3}


def test_no_preset_is_the_domain_alone_and_keeps_the_others_for_evaluation():
    (stage,) = _resolve(Mix(preset="none"), "wikipedia", "books")
    assert stage.shares == {"domain": 1.0, "wikipedia": 0.0, "books": 0.0}


_WEB = ("common_crawl", "c4")


@pytest.mark.parametrize(
    ("mix", "components", "message"),
    [
        (Mix(preset="lama-1", replace=_WEB), ["wikipedia"], "mix.preset is 'lama-1'; allowed: llama-1, redpajama"),
        (Mix(preset="llama-1"), ["wikipedia"], 'name them, as in replace = ["common_crawl", "c4"]'),
        (Mix(preset="llama-1", replace=("comon_crawl",)), ["wikipedia"], "did you mean 'common_crawl'"),
        (Mix(preset="llama-1", replace=_WEB, absent="refuse"), ["wikipedia"], "no source has the components github, books"),
        (Mix(preset="llama-1", replace=_WEB), [], "leaves 18.0% of the tokens to github, wikipedia"),
        (Mix(preset="llama-1", replace=_WEB), ["wikipedia", "forum"], "component 'forum' has a source, but mix.preset llama-1 has no such"),
        (Mix(preset="llama-1", replace=_WEB), ["wikipedia", "c4"], "component 'c4' has a source, but mix.replace gives its share"),
        (Mix(preset="llama-1", replace=_WEB, absent="drop"), ["wikipedia"], "mix.absent is 'drop'; allowed: spread, refuse"),
        (Mix(replace=_WEB), [], "mix.replace is about a preset or a version"),
        (Mix(redraw="never"), [], "mix.redraw is 'never'; allowed: dynamic, fixed"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(mix, components, message):
    with pytest.raises(DomainError) as error:
        _resolve(mix, *components)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


_ONE = {"domain": 0.5, "wikipedia": 0.5}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([StageChoice("a"), StageChoice("a")], "[[stages]] are named a, a; give each a name of its own"),
        ([StageChoice("a b")], "stage name 'a b' is not allowed"),
        ([StageChoice("a", order="random")], "stages.a.order: a stage is ordered by 'random'; allowed: shuffle, or one of quality"),
        ([StageChoice("a", order="quality; DROP TABLE x")], "a stage is ordered by"),
        ([StageChoice("a", epochs=0)], "stages.a.epochs is 0; it takes a whole number of at least 1"),
        ([StageChoice("a"), StageChoice("b", shares={"domain": 0.5})], "stages.b.shares add up to 0.5"),
        ([StageChoice("a"), StageChoice("b", budget_tokens=2_000_000)], "more than the 1,000,000 of select.budget_tokens"),
        ([StageChoice("a", budget_tokens=5)], "every stage has budget_tokens of its own"),
        ([StageChoice("a", shares={"wikipedia": 1.0})], "component 'domain' has a source but no share"),
        ([StageChoice("a", shares={"domain": 0.0, "wikipedia": 1.0})], "the domain would never be read"),
    ],
)
def test_stages_that_cannot_be_are_refused(stages, message):
    with pytest.raises(DomainError) as error:
        _resolve(Mix(_ONE), "wikipedia", stages=stages)
    assert message in str(error.value)


def test_a_stage_takes_from_the_mixture_what_it_leaves_out():
    stages = _resolve(
        Mix(_ONE, epochs=3), "wikipedia",
        stages=[StageChoice("broad"), StageChoice("best", shares={"domain": 1.0}, epochs=1, order="quality ASC", budget_tokens=5)],
    )  # fmt: skip
    assert [(stage.name, stage.shares, stage.epochs, stage.redraw, stage.order, stage.budget_tokens) for stage in stages] == [
        ("broad", _ONE, 3, "dynamic", "shuffle", None), ("best", {"domain": 1.0}, 1, "dynamic", "quality ASC", 5),
    ]  # fmt: skip


def test_an_epoch_is_as_long_as_the_budget_or_the_stock_that_is_below_it():
    def total(pool, *, select=None, **stage):
        recipe = Recipe(
            "test", (), select=select or Select(budget_tokens=1000), stages=(Scheduled("a", {"domain": 1.0}, 1, "fixed", **stage),)
        )
        return epoch_tokens(recipe, [pool])[0]["domain"]

    full, short = Pool(990, False), Pool(400, True)
    assert (total(full), total(short)) == (1000, 400)
    assert (total(full, budget_tokens=300), total(short, budget_tokens=500)) == (300, 400)
    assert total(full, budget_tokens=300, epoch_tokens=50) == 50
    assert total(short, select=Select(budget_tokens=1000, epoch_tokens=700)) == 700
    for select in (Select(budget_tokens=None, top_share=0.1), Select(budget_tokens=None, threshold=0.5)):
        assert total(full, select=select) == 990


def test_replay_pools_hold_what_all_stages_draw():
    stages = (Scheduled("a", {"domain": 0.8, "books": 0.2}, 3, "dynamic"), Scheduled("b", {"domain": 0.9, "books": 0.1}, 4, "fixed"))
    recipe = Recipe("test", (), select=Select(budget_tokens=1000), stages=stages)
    assert replay_budgets(recipe, [Pool(990, False)] * 2) == {"books": 3 * 200 + 100}


_RECIPE = '[select]\nbudget_tokens = 9\n[mix]\npreset = "llama-1"\nreplace = ["common_crawl", "c4"]\n[sources.a]\npath = "a"\n'
_WIKI = '[sources.wiki]\npath = "w"\nrole = "replay"\ncomponent = "wikipedia"\n'


def _read(tmp_path, text, *settings):
    store = Store(str(tmp_path))
    store.write_bytes("domains/base.toml", (_RECIPE + _WIKI).encode())
    store.write_bytes("recipe.toml", text.encode())
    return read_recipe(store, file=store.url("recipe.toml"), settings=settings)


def test_of_keys_that_exclude_each_other_the_nearer_one_stays(tmp_path):
    base = 'extends = "base"\n'
    assert _read(tmp_path, base).mix.shares == {"domain": 0.82, "wikipedia": 0.18}
    written = _read(tmp_path, base + "[mix]\nshares = { domain = 0.5, wikipedia = 0.5 }")
    assert (written.mix.shares, written.mix.preset, written.mix.replace) == (_ONE, None, ())
    assert _read(tmp_path, base + '[mix]\npreset = "slimpajama"').mix.shares["domain"] == 0.789
    assert _read(tmp_path, base, "mix.preset=none").mix.shares == {"domain": 1.0, "wikipedia": 0.0}
    part = _read(tmp_path, base + "[select]\ntop_share = 0.1").select
    assert (part.budget_tokens, part.top_share) == (None, 0.1)
    back = _read(tmp_path, base + "[select]\ntop_share = 0.1", "select.budget_tokens=5k").select
    assert (back.budget_tokens, back.top_share) == (5000, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[select]\nbudget_tokens = 5\ntop_share = 0.1", "[select] has budget_tokens and top_share, which exclude each other"),
        ("[select]\nthreshold = 5\ntop_share = 0.1", "[select] has top_share and threshold"),
        ('[mix]\nshares = { domain = 1.0 }\npreset = "llama-1"', "[mix] has shares and preset"),
        ("[select]\ntop_share = 1.5", "select.top_share is 1.5"),
        ('[select]\nstratify = "even"', "select.stratify is 'even'; allowed: proportional, equal"),
        ('[select]\nthreshold = 5.0\norder_by = "n_words"\nstratify_by = "source"', "select.stratify_by changes nothing"),
        ("[mix]\nmax_repeats = 0", "mix.max_repeats is 0; it takes a number above 0"),
        ("stages = 3", "stages is 3, but it is a list of tables with names"),
        ("[[stages]]\nepochs = 3", "write [[stages]]"),
        ('[[stages]]\nname = "a"\nepoch = 3', "did you mean 'epochs'"),
        ('[[stages]]\nname = "a"\npreset = "pile"\nlike = "v1"', "[stages.a] has preset and like"),
    ],
)
def test_mistakes_about_amounts_are_refused(tmp_path, text, message):
    with pytest.raises(DomainError) as error:
        _read(tmp_path, f'extends = "base"\n{text}')
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_preset_and_its_shares_written_out_are_one_decision(tmp_path):
    by_name = portable(_read(tmp_path, 'extends = "base"'))
    assert by_name == portable(_read(tmp_path, 'extends = "base"\n[mix]\nshares = { domain = 0.82, wikipedia = 0.18 }\nmax_repeats = 9'))
    assert by_name["mix"] == {"shares": {"domain": 0.82, "wikipedia": 0.18}, "epochs": 1, "redraw": "dynamic"}
    assert by_name["select"] == {"order_by": "random", "budget_tokens": 9, "epoch_tokens": None}  # as before there was any more
    assert "stages" not in by_name
    staged = portable(_read(tmp_path, 'extends = "base"\n[[stages]]\nname = "main"\nepochs = 2\n[[stages]]\nname = "rest"\norder = "rank"'))
    assert [stage["name"] for stage in staged["stages"]] == ["main", "rest"]


def test_the_shipped_domains_are_the_papers_recipe(tmp_path):
    store = Store(str(tmp_path))
    sources = ["sources.a.path=a", 'sources.w={path="w", role="replay", component="wikipedia"}', 'sources.r={path="r", role="reference"}']
    for domain in ("medical", "law"):
        recipe = read_recipe(store, domain=domain, settings=sources)
        assert recipe.domain == domain
        assert (recipe.select.order_by, recipe.select.budget_tokens) == ("quality DESC", 5_000_000_000)
        assert (recipe.mix.shares, recipe.mix.epochs, recipe.mix.redraw) == ({"domain": 0.82, "wikipedia": 0.18}, 4, "dynamic")
        assert recipe.schedule()[0].mixture.preset == "llama-1"
    sample = read_recipe(store, domain="medical")
    assert (sample.is_sample, sample.select.budget_tokens) == (True, 300_000)
    assert sample.mix.shares == {"domain": 0.82, "wikipedia": 0.09, "books": 0.09}
    with pytest.raises(DomainError, match="the recipe names no source"):
        read_recipe(store, domain="law")
