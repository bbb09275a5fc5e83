"""A recipe is checked whole before a byte is read: every mistake is one line that says what is allowed."""

import pytest

from curate.mix import Pool, epoch_tokens, replay_budgets
from curate.portable import portable
from curate.recipe import DomainError
from curate.recipe_file import known_domains, read_recipe
from curate.store import Store
from filters import FAMILIES

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
    recipe = read_recipe(
        store, domain="medical", sources=["notes=data/*.jsonl"], settings=["scorers=[]", "select.order_by=random", "mix.preset=none"]
    )
    assert not recipe.is_sample
    assert [(source.name, source.role, source.path) for source in recipe.sources] == [("notes", "candidate", ("data/*.jsonl",))]


def test_a_domain_of_the_root_comes_before_the_shipped_one_and_may_extend_it(store):
    store.write_bytes(
        "domains/medical.toml",
        b'extends = "medical"\nscorers = []\nmix = { preset = "none" }\n[select]\norder_by = "random"\nbudget_tokens = 7\n'
        b'[sources.a]\npath = "a.jsonl"\n',
    )
    recipe = read_recipe(store, domain="medical")
    assert (recipe.domain, recipe.select.budget_tokens, recipe.mix.epochs) == ("medical", 7, 4)
    assert recipe.sources[0].path == (store.url("a.jsonl"),)
    assert known_domains(store) == ["law", "medical"]


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
        ('domain = "law"', 'extends = "lawn"', "domain 'lawn' not found; known: law, medical"),
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["dedup.bands=20"], "dedup.bands is given and dedup.rows is not; give both, or neither and a dedup.profile"),
        (["dedup.rows=8"], "dedup.rows is given and dedup.bands is not"),
        (["dedup.bands=0", "dedup.rows=8"], "dedup.bands is 0; it takes a whole number of at least 1"),
        (['dedup.profile="strikt"'], "dedup.profile is 'strikt'; allowed: recall, strict. Did you mean 'strict'?"),
        (['dedup.profile="strict"', "dedup.threshold=0.7"], "but 26 x 11 bands are made for 0.8"),
        (["dedup.bands=26", "dedup.rows=11", "dedup.threshold=0.75"], "but 26 x 11 bands are made for 0.8"),
        (["dedup.containment=0.7"], "dedup.containment is 0.7; it takes a share of word 3-grams from 0.8 to 1, or false for none"),
    ],
)
def test_mistakes_in_dedup(store, settings, message):
    with pytest.raises(DomainError) as error:
        _read(store, _BASE, settings=settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bands_and_rows_are_given_or_by_the_profile_and_enter_a_decision_as_numbers(store):
    for settings, shape in [
        ([], (14, 8)),
        (['dedup.profile="strict"'], (26, 11)),
        (['dedup.profile="strict"', "dedup.bands=27", "dedup.rows=7"], (27, 7)),
    ]:
        recipe = _read(store, _BASE, settings=settings)
        assert recipe.dedup.shape == shape
        assert (portable(recipe)["dedup"]["bands"], portable(recipe)["dedup"]["rows"]) == shape
        assert "profile" not in portable(recipe)["dedup"]


def test_a_decision_that_looks_at_no_containment_is_written_as_before_there_was_any(store):
    assert portable(_read(store, _BASE))["dedup"]["containment"] == 0.9
    for setting in ("dedup.containment=false", "dedup.threshold=false"):
        recipe = _read(store, _BASE, settings=[setting])
        assert recipe.dedup.contained_from is None
        assert set(portable(recipe)["dedup"]) == {"threshold", "bands", "rows", "seed"}


@pytest.mark.parametrize("more", [{"sources": ["novalue"]}, {"settings": ["novalue"]}, {"settings": ["sources.wiki.role=candidate"]}])
def test_mistakes_on_the_command_line(store, more):
    with pytest.raises(DomainError):
        _read(store, _BASE, **more)


def test_unknown_domain_lists_the_known_and_says_what_to_do(store):
    with pytest.raises(
        DomainError, match=r"domain 'medcal' not found; known: law, medical\. Create domains/medcal\.toml under --root to add it\."
    ):
        read_recipe(store, domain="medcal")


def test_the_portable_recipe_has_no_path(store):
    one = portable(_read(store, _BASE, settings=["tokenizer.path=/a/b"]))
    other = portable(
        _read(store, _BASE.replace("cases/*.jsonl", "elsewhere.jsonl"), settings=["tokenizer.path=/c", "quarantine.max_share=0.5"])
    )
    assert one == other
    assert "path" not in one["sources"][0]


# --- who judges what ---

_WEB = _BASE.replace('domain = "law"', 'domain = "law"\nrules = ["fineweb", "gopher_quality"]')
_OWN = '\n[families.shout]\nfunction = "own/shout.py:shout"\n'


def _source(store, text, name="cases", **more):
    recipe = _read(store, text, **more)
    return recipe, next(source for source in recipe.sources if source.name == name)


@pytest.mark.parametrize(
    ("spec", "is_web"),
    [
        ('path = "a.jsonl"', False),
        ('path = "a"', False),
        ('path = "a.html.txt"', False),
        ('path = ["a.jsonl", "b/*.warc.gz"]', True),
        ('path = "a.xhtml"', True),
        ('path = "a/**/*.htm.zst"', True),
        ('path = "a.warc"\nformat = "text"', False),
        ('path = "a"\nformat = "warc"', True),
        ('path = "a"\nformat = "html"', True),
        ('path = "a"\nformat = "html"\nweb = false', False),
        ('path = "a.jsonl"\nweb = true', True),
    ],
)
def test_families_for_web_pages_judge_web_sources_only(store, spec, is_web):
    recipe, source = _source(store, _WEB.replace('path = "cases/*.jsonl"', spec))
    assert source.is_web == is_web
    assert list(recipe.judged_by(source)) == (["fineweb", "gopher_quality"] if is_web else ["gopher_quality"])


def test_a_source_has_its_own_families_in_its_own_order(store):
    recipe, source = _source(
        store, _WEB + 'rules = ["gopher_repetition", "fineweb"]\n[gopher_repetition]\nmax_top_2gram_ratio = 0.5', "wiki"
    )
    judged = recipe.judged_by(source)
    assert list(judged) == ["gopher_repetition", "fineweb"]
    assert judged["gopher_repetition"]["max_top_2gram_ratio"] == 0.5
    assert list(recipe.thresholds) == ["fineweb", "gopher_quality", "gopher_repetition"]
    assert list(recipe.judged_by(recipe.sources[0])) == ["gopher_quality"]
    recipe, source = _source(store, _BASE, settings=["sources.cases.rules=[]"])
    assert recipe.judged_by(source) == {}


def test_thresholds_come_from_the_family_the_recipe_and_the_source(store):
    text = (
        _BASE + "[gopher_quality]\nmin_words = 100\nmax_words = 900\n[sources.wiki.gopher_quality]\nmin_words = false\nmin_stop_words = 4"
    )
    recipe, wiki = _source(store, text, "wiki", settings=["sources.cases.gopher_quality.min_words=20"])
    assert wiki.thresholds == {"gopher_quality": {"min_words": None, "min_stop_words": 4}}
    assert recipe.thresholds["gopher_quality"]["min_words"] == 100
    keys = ["min_words", "max_words", "max_hash_ratio", "min_stop_words"]
    found = [[recipe.judged_by(source)["gopher_quality"][key] for key in keys] for source in recipe.sources]
    assert found == [[20, 900, 0.1, 2], [None, 900, 0.1, 4]]


def test_a_setting_for_a_source_of_the_sample_leaves_it_the_sample(store):
    recipe = read_recipe(store, domain="medical", settings=["sources.forum.gopher_quality.min_words=5", "sources.web.web=true"])
    sources = {source.name: source for source in recipe.sources}
    assert recipe.is_sample
    assert recipe.judged_by(sources["forum"])["gopher_quality"]["min_words"] == 5
    assert sources["web"].is_web
    assert not sources["forum"].is_web
    with pytest.raises(DomainError, match=r"\[sources.forums\] has no path"):
        read_recipe(store, domain="medical", settings=["sources.forums.gopher_quality.min_words=5"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_WEB + 'rules = "fineweb"', "sources.wiki.rules is 'fineweb'; it takes a list of families"),
        (_WEB + "rules = false", "sources.wiki.rules is False; it takes a list of families"),
        (_WEB + 'rules = ["finweb"]', "sources.wiki.rules names the unknown family 'finweb'; did you mean 'fineweb'"),
        (_WEB + 'rules = ["c4", "c4"]', "a family judges once"),
        (_WEB + "web = 1", "sources.wiki.web is 1; it takes a value of type bool"),
        (_WEB + "[sources.wiki.gopher_qality]\na = 1", "did you mean 'gopher_quality'"),
        (_WEB + "[sources.wiki.gopher_quality]\nmin_word = 1", "[sources.wiki.gopher_quality] has the unknown key 'min_word'"),
        (_WEB + "[sources.wiki.gopher_quality]\nmin_words = true", "sources.wiki.gopher_quality.min_words is True; it takes a number"),
        (_WEB + "[gopher_quality]\nmin_words = nan", "gopher_quality.min_words is nan; it takes a number"),
        (_WEB + "gopher_quality = 3", "sources.wiki.gopher_quality is 3, but it is a table"),
        (_WEB + "[c4]\nmin_sentence = 3", "did you mean 'min_sentences'"),
        (
            _WEB + "[sources.wiki.fineweb]\nmax_newline_ratio = 0.5",
            "which is no web source; set sources.wiki.web = true, or list 'fineweb' in sources.wiki.rules",
        ),
        (_WEB + "[sources.wiki.c4]\nmin_sentences = 2", "list 'c4' in sources.wiki.rules or in rules, or take this out"),
        (_WEB + "rules = []\n[sources.wiki.gopher_quality]\nmin_words = 2", "'gopher_quality' in sources.wiki.rules, or take"),
        (_WEB.replace('role = "replay"\ncomponent = "wikipedia"', 'role = "reference"\nrules = []'), "which no rule judges"),
        ('sources = 3\ndomain = "law"', "sources is 3, but it is a table"),
        ("families = 3\n" + _BASE, "families is 3, but it is a table"),
        (_BASE + "[families.shout]", "has neither function nor datatrove; it takes one"),
        (_BASE + '[families.shout]\nfunction = "a.py:b"\ndatatrove = "C"', "has both function and datatrove; it takes one"),
        (_BASE + '[families.shout]\nfunctoin = "a.py:b"', "did you mean 'function'"),
        (_BASE + "[families.shout]\nfunction = 3", "families.shout.function is 3; it takes a text"),
        (_BASE + "[families]\nshout = 3", "families.shout is 3, but it is a table"),
        (_BASE + '[families.shout]\ndatatrove = "C"\narguments = 3', "families.shout.arguments is 3, but it is a table"),
        (_BASE + _OWN + "arguments = { a = 3 }", "which only a filter of datatrove takes"),
        (_BASE + '[families.Shout]\nfunction = "a.py:b"', "family name 'Shout' is not allowed"),
        (_BASE + _OWN + "[shout]\nmin_valu = 3", "did you mean 'min_value'"),
        (_BASE + _OWN.replace("shout.py", "gone.py") + "[sources.more]\npath = 'a'\nrules = ['shout']", "gone.py' not found"),
        *(
            (_BASE + f'[families.{name}]\nfunction = "a.py:b"', f"families.{name} has a name that is taken")
            for name in ["c4", "select", "sample", "sources", "rules", "web", "role", "source", "reason", "minhash", "kept"]
        ),
    ],
)  # fmt: skip
def test_mistakes_about_who_judges_are_refused(store, text, message):
    store.write_bytes("own/shout.py", b"def shout(text):\n    return None\n")
    with pytest.raises(DomainError) as error:
        _read(store, text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_family_of_the_recipes_own_is_computed_where_a_source_is_judged_by_it(store):
    store.write_bytes("own/shout.py", b"def shout(text):\n    return text.isupper()\n")
    recipe, source = _source(store, _BASE + 'rules = ["shout"]\n[shout]\nmax_value = 0' + _OWN, "wiki")
    assert recipe.families["shout"].function == f"{store.url('own/shout.py')}:shout"
    assert recipe.judged_by(source) == {"shout": {"min_value": None, "max_value": 0}}
    assert recipe.families_to_compute() == (*FAMILIES, "shout")
    assert _read(store, _BASE + _OWN).families_to_compute() == tuple(FAMILIES)
    assert _read(store, _BASE + _OWN.replace("shout.py", "gone.py")).families_to_compute() == tuple(FAMILIES)
    assert list(_read(store, _BASE + _OWN, settings=['rules=["shout"]']).thresholds) == ["shout"]


def test_a_family_for_web_pages_of_the_recipes_own_judges_web_sources_only(store):
    spec = 'Family("f", 1, (Signal("a", "bool", "m"),), (Rule("min_a", "a", ">=", None, "s"),), None, is_web=True)'
    store.write_bytes("own/shout.py", f"from filters.spec import Family, Rule, Signal\nshout = {spec}\n".encode())
    recipe, source = _source(store, _BASE.replace('domain = "law"', 'domain = "law"\nrules = ["shout"]') + "web = true\n" + _OWN, "wiki")
    assert recipe.judged_by(source) == {"shout": {"min_a": None}}
    assert recipe.judged_by(recipe.sources[0]) == {}


def test_paths_of_own_families_start_at_the_recipes_folder(store):
    text = _BASE + '[families.a]\nfunction = "package.module:f"\n[families.b]\ndatatrove = "C4"\n[families.c]\ndatatrove = "x/y.py:K"\n'
    found = _read(store, text + '[families.d]\nfunction = "s3://bucket/y.py:f"').families
    assert [found[name].function or found[name].datatrove for name in "abcd"] == [
        "package.module:f", "C4", f"{store.url('x/y.py')}:K", "s3://bucket/y.py:f",
    ]  # fmt: skip


def test_the_portable_recipe_has_who_judges_and_no_path_of_a_family(store, tmp_path):
    def portable_with(folder, path):
        store.write_bytes(f"{folder}/shout.py", b"def shout(text):\n    return None\n")
        text = _WEB.replace("cases/*.jsonl", path) + 'rules = ["shout", "c4"]\n' + _OWN.replace("own/", f"{folder}/")
        return portable(_read(store, text + '[families.idle]\nfunction = "a.py:b"'))

    one, other = portable_with("own", "a/*.html"), portable_with("elsewhere", "b.warc")
    assert one == other
    assert str(tmp_path) not in str(one)
    assert one["families"] == {"shout": {"function": "shout", "datatrove": None, "arguments": {}}}
    cases, wiki = one["sources"]
    assert (cases["web"], cases["rules"], wiki["web"], wiki["rules"]) == (True, ["fineweb", "gopher_quality"], False, ["shout", "c4"])
    assert wiki["judged_by"]["shout"] == {"min_value": None, "max_value": None}
    assert wiki["judged_by"]["c4"]["min_sentences"] == 5


def test_thresholds_said_twice_are_the_same_decision(store):
    assert portable(_read(store, _BASE)) == portable(
        _read(store, _BASE + "[sources.wiki.gopher_quality]\nmin_words = 50", settings=["sources.cases.web=false"])
    )


def test_shares_become_whole_tokens_that_add_up(store):
    pools = [Pool(1_900_000, False)]
    recipe = _read(store, _BASE, settings=["mix.epochs=3", "select.epoch_tokens=1000"])
    assert epoch_tokens(recipe, pools) == ({"domain": 750, "wikipedia": 250},)
    assert replay_budgets(recipe, pools) == {"wikipedia": 3 * 250}
    fixed = _read(store, _BASE, settings=["mix.redraw=fixed", "mix.epochs=3", "select.epoch_tokens=1000"])
    assert replay_budgets(fixed, pools) == {"wikipedia": 250}
