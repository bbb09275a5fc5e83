"""A recipe is checked whole before a byte is read: every mistake is one line that says what is allowed."""

import pytest

from curate.mix import apportion, epoch_tokens, pool_budgets
from curate.recipe import DomainError, portable
from curate.recipe_file import known_domains, read_recipe
from curate.store import Store

_BASE = """
domain = "law"
[select]
budget_tokens = "2M"
[mix]
shares = { domain = 0.75, wikipedia = 0.25 }
[sources.cases]
path = "cases/*.jsonl"
[sources.wiki]
path = "wiki.parquet"
role = "replay"
component = "wikipedia"
"""


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def _read(store, text, **more):
    store.write_bytes("recipe.toml", text.encode())
    return read_recipe(store, file=store.url("recipe.toml"), **more)


def test_a_recipe_is_read_with_paths_beside_it(store):
    recipe = _read(store, _BASE)
    assert recipe.domain == "law"
    assert recipe.sources[0].path == (store.url("cases/*.jsonl"),)
    assert recipe.select.budget_tokens == 2_000_000
    assert [source.name for source in recipe.decided_sources()] == ["cases", "wiki"]
    assert recipe.thresholds["gopher_quality"]["min_words"] == 50


def test_without_sources_the_shipped_domain_reads_the_sample(store):
    recipe = read_recipe(store, domain="medical")
    assert recipe.is_sample
    assert {source.role for source in recipe.sources} == {"candidate", "reference", "background", "replay", "benchmark"}
    assert recipe.select.budget_tokens == 300_000
    given = read_recipe(store, domain="medical", settings=["select.budget_tokens=5000", "tokenizer.vocab_size=600"])
    assert (given.select.budget_tokens, given.tokenizer.vocab_size) == (5000, 600)


def test_a_source_on_the_command_line_is_a_candidate(store):
    recipe = read_recipe(store, domain="medical", sources=["notes=data/*.jsonl"], settings=["scorers=[]", "select.order_by=random"])
    assert not recipe.is_sample
    assert [(source.name, source.role, source.path) for source in recipe.sources] == [("notes", "candidate", ("data/*.jsonl",))]


def test_a_domain_of_the_root_comes_before_the_shipped_one_and_may_extend_it(store):
    store.write_bytes(
        "domains/medical.toml",
        b'extends = "medical"\nscorers = []\n[select]\norder_by = "random"\nbudget_tokens = 7\n[sources.a]\npath = "a.jsonl"\n',
    )
    recipe = read_recipe(store, domain="medical")
    assert (recipe.domain, recipe.select.budget_tokens, recipe.mix.epochs) == ("medical", 7, 4)
    assert recipe.sources[0].path == (store.url("a.jsonl"),)
    assert known_domains(store) == ["medical"]


def test_a_file_that_extends_a_domain_keeps_its_name(store):
    assert _read(store, 'extends = "medical"').domain == "medical"
    assert _read(store, _BASE.replace('domain = "law"', "")).domain == "recipe"


def test_a_recipe_without_sources_is_told_so(store):
    with pytest.raises(DomainError, match=r"names no source; add a table \[sources\.NAME\]"):
        _read(store, "seed = 1")


def test_settings_lie_over_the_recipe(store):
    recipe = _read(
        store, _BASE, settings=["gopher_quality.min_words=100", "gopher_quality.max_words=false", "select.budget_tokens=20B", "seed=3"]
    )
    assert recipe.thresholds["gopher_quality"]["min_words"] == 100
    assert recipe.thresholds["gopher_quality"]["max_words"] is None
    assert recipe.select.budget_tokens == 20 * 10**9
    assert recipe.seed == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("budget_token = 5\n", "'budget_token'; did you mean 'budget_tokens'"),
        ("order_by = 5\n", "select.order_by is 5; it takes a value of type str"),
        ("budget_tokens = 1.5\n", "select.budget_tokens is 1.5"),
        ("budget_tokens = 0\n", "at least 1"),
        ("budget_tokens = '8Q'\n", "'8Q'"),
    ],
)
def test_mistakes_in_a_section(store, change, message):
    with pytest.raises(DomainError) as error:
        _read(store, _BASE.replace('budget_tokens = "2M"\n', change))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('domain = "law"', 'domian = "law"', "did you mean 'domain'"),
        ('domain = "law"', "[gopher_quality]\nmin_word = 3", "did you mean 'min_words'"),
        ('domain = "law"', '[gopher_quality]\nmin_words = "many"', "gopher_quality.min_words is 'many'"),
        ('domain = "law"', 'rules = ["gofer"]', "unknown family 'gofer'"),
        ('domain = "law"', 'evalset = "none"', "evalset is 'none'; allowed: reuse, new"),
        ('domain = "law"', 'extends = "lawn"', "domain 'lawn' not found; known: medical"),
        ('domain = "law"', 'domain = "a/b"', "is not a name"),
        ('role = "replay"', 'role = "replya"', "Did you mean 'replay'"),
        ('component = "wikipedia"', "", "names its component"),
        ('component = "wikipedia"', 'component = "domain"', "name the replay component otherwise"),
        ('component = "wikipedia"', 'component = "wiki"', "which no source has"),
        ("wikipedia = 0.25", "wikipedia = 0.2", "add up to 0.95"),
        (", wikipedia = 0.25", ", books = 0.25", "'books', which no source has"),
        ("domain = 0.75, wikipedia = 0.25", "domain = 1.0", "'wikipedia' has a source but no share"),
        ("domain = 0.75, wikipedia = 0.25", "domain = 0.0, wikipedia = 1.0", "would never be read"),
        ('path = "wiki.parquet"', "", "has no path"),
        ('path = "wiki.parquet"', 'path = "wiki.parquet"\nfield = 3', "did you mean 'fields'"),
        ('path = "wiki.parquet"', 'path = "wiki.parquet"\nfields = { txt = "a" }', "did you mean 'text'"),
        ("[select]", "[select", "is not valid TOML"),
        ("[mix]", "[holdout]\nshare = 1.5\n[mix]", "sources.cases.holdout_share is 1.5"),
    ],
)
def test_mistakes_are_refused_with_what_is_allowed(store, old, new, message):
    with pytest.raises(DomainError) as error:
        _read(store, _BASE.replace(old, new))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_no_text_is_refused(store):
    store.write_bytes("recipe.toml", b"\xff\xfe")
    with pytest.raises(DomainError, match="is not UTF-8 text"):
        read_recipe(store, file=store.url("recipe.toml"))


def test_domains_that_extend_each_other_are_refused(store):
    store.write_bytes("domains/a.toml", b'extends = "b"')
    store.write_bytes("domains/b.toml", b'extends = "a"')
    with pytest.raises(DomainError, match="leads back to itself"):
        read_recipe(store, domain="a")


@pytest.mark.parametrize("more", [{"sources": ["novalue"]}, {"settings": ["novalue"]}, {"settings": ["sources.wiki.role=candidate"]}])
def test_mistakes_on_the_command_line(store, more):
    with pytest.raises(DomainError):
        _read(store, _BASE, **more)


def test_unknown_domain_lists_the_known_and_says_what_to_do(store):
    with pytest.raises(
        DomainError, match=r"domain 'medcal' not found; known: medical\. Create domains/medcal\.toml under --root to add it\."
    ):
        read_recipe(store, domain="medcal")


def test_the_portable_recipe_has_no_path(store):
    one = portable(_read(store, _BASE, settings=["tokenizer.path=/a/b"]))
    other = portable(
        _read(store, _BASE.replace("cases/*.jsonl", "elsewhere.jsonl"), settings=["tokenizer.path=/c", "quarantine.max_share=0.5"])
    )
    assert one == other
    assert "path" not in one["sources"][0]


def test_shares_become_whole_tokens_that_add_up(store):
    assert apportion(100, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}) == {"a": 34, "b": 33, "c": 33}
    recipe = _read(store, _BASE, settings=["mix.epochs=3", "select.epoch_tokens=1000"])
    assert epoch_tokens(recipe) == {"domain": 750, "wikipedia": 250}
    assert pool_budgets(recipe) == {"domain": 2_000_000, "wikipedia": 3 * 250}
    assert pool_budgets(_read(store, _BASE, settings=["mix.redraw=fixed", "mix.epochs=3", "select.epoch_tokens=1000"]))["wikipedia"] == 250
