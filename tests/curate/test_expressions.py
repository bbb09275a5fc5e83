"""Expressions of a recipe: what may stand in them, and that nothing else ever reaches a statement."""

import dataclasses

import duckdb
import pytest

from curate.decide import decide
from curate.expressions import COLUMNS, FUNCTIONS, check, guarded, score_of, selection
from curate.recipe import DomainError, Recipe, Select, Source
from tests.curate.test_decide import _connection, _row


def _recipe(**select):
    return Recipe("test", (Source("papers", ("x",)),), select=Select(**select))


def _refusal(**select):
    with pytest.raises(DomainError) as error:
        check(_recipe(**select))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "lang = 'en' AND n_words >= 100",
        "gopher_quality.mean_word_length BETWEEN 3 AND 8 OR source IN ('papers', 'notes')",
        "coalesce(quality, 0) > 0.5 AND NOT contains(lower(url), 'blog')",
        "try_cast(date AS DATE) >= DATE '1990-01-01' -- the newer ones",
        "len(list_filter(masks, lambda m: m.kind = 'email')) = 0",
        "CASE WHEN \"group\" IS NULL THEN n_bytes > 5 ELSE year(try_strptime(date, '%Y')) = 2001 END",
        "url LIKE 'https://%' AND licence IS NOT NULL AND regexp_matches(url, '[.]gov/')",
        "left(sha256(doc_id), 1) < '8'",
        "N_Words > 3",
    ],
)
def test_conditions_over_columns_are_allowed_and_can_be_computed(text):
    found = check(_recipe(where=text))
    assert found.where is not None
    assert _connection([_row(1)]).sql(f"SELECT {found.where.sql} FROM rows").types == ["BOOLEAN"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_words > (SELECT 1)", "a subquery stands"),
        ("EXISTS (FROM rows)", "a subquery stands"),
        ("n_words IN (SELECT n_words FROM rows)", "a subquery stands"),
        ("n_words::ENUM (SELECT 'a')", "no SQL expression"),
        ("n_words > 1; DROP TABLE rows", "no SQL expression"),
        ("n_words > 1; SELECT 1", "no SQL expression"),
        ("n_words > 1 FROM rows", "no other part of a query"),
        ("n_words > 1 UNION SELECT true", "no other part of a query"),
        ("n_words > 1 LIMIT 1", "no other part of a query"),
        ("DISTINCT n_words > 1", "no other part of a query"),
        ("n_words > 1 AS a", "no other part of a query"),
        ("n_words > 1, n_bytes > 1", "no other part of a query"),
        ("n_words > 1 FROM read_text('/etc/passwd')", "no other part of a query"),
        ("max(n_words) > 1", "calls 'max'"),
        ("count(*) > 1", "calls 'count_star'"),
        ("row_number() OVER (ORDER BY n_words) > 1", "a window function stands"),
        ("*", "a star stands"),
        ("rows.* IS NULL", "a star stands"),
        ("n_words > ?", "a parameter stands"),
        ("n_words > $1", "a parameter stands"),
        ("#1 > n_words", "the place of a column stands"),
        ("source COLLATE nocase = 'a'", "a collation stands"),
        ("random() < 0.5 AND n_words > 1", "it is not repeatable: write random, without brackets"),
        ("n_words > 1 AND date < now()::VARCHAR", "calls 'now'"),
        ("n_words > 1 AND uuid() > 'a'", "calls 'uuid'"),
        ("getenv('HOME') = source", "calls 'getenv'"),
        ("getvariable('a') = source", "calls 'getvariable'"),
        ("current_setting('home_directory') = source", "calls 'current_setting'"),
        ("age(date::TIMESTAMP) > INTERVAL 1 DAY", "calls 'age'"),
        ("nextval('a') > n_words", "calls 'nextval'"),
        ("unnest([n_words]) > 1", "calls 'unnest'"),
        ("lenght(source) > 1", "did you mean 'length'"),
        ("current_date > date::DATE", "names 'current_date', which is no column here"),
        ("current_user = source", "names 'current_user', which is no column here"),
        ("n_word > 1", "did you mean 'n_words'"),
        ("rows.n_words > 1", "names 'rows.n_words', which is no column here"),
        ("gopher_quality.no_such > 1", "did you mean 'gopher_quality."),
        ("gopher_quality IS NOT NULL", "names 'gopher_quality', which is no column here"),
        ("shard = 'a'", "names 'shard', which is no column here"),
        ("text LIKE '%a%'", "a decision reads no text"),
        ("n_tokens > 1", "tokens are counted only as far as the cut"),
        ("random < 'a'", "random stands alone"),
        ("1 = 1", "names no column"),
        ("len(list_filter(masks, m -> m.kind = 'email')) = 0", "an arrow stands"),
        ("url::JSON -> 'a' = n_words", "an arrow stands"),
        ("len(list_filter(masks, lambda m: shard = 'email')) = 0", "names 'shard'"),
        ("n_words +", "no SQL expression"),
        ("n_words", "which gives INTEGER; it takes what is true or false"),
        ("n_words > 'many' || n_bytes", "cannot be computed"),
        ("left(n_words, 'a', 2) = 'b'", "cannot be computed"),
    ],
)
def test_what_else_stands_in_a_condition_is_refused(text, message):
    assert message in _refusal(where=text)
    assert "select.where" in _refusal(where=text)


def test_an_order_has_terms_with_directions_and_the_recipes_own_random():
    terms = selection(_recipe(order_by="quality DESC NULLS FIRST, round(n_words / 100), Random DESC")).order
    assert [(term.expression and term.expression.sql, term.direction, term.nulls) for term in terms] == [
        ("quality", "DESC", "FIRST"), ('round((n_words / 100))', "ASC", "LAST"), (None, "DESC", "LAST"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quality DESC LIMIT 5", "no other part of a query"),
        ("ALL", "a star stands"),
        ("quality, 1", "names no column"),
        ("quality DESC; SELECT 1", "no SQL expression"),
        ("", "no SQL expression"),
    ],
)
def test_what_is_no_order_is_refused(text, message):
    assert message in _refusal(order_by=text)


def test_a_threshold_needs_a_number_to_compare_with():
    assert "ranks by first is none" in _refusal(order_by="date DESC", threshold=5.0)
    assert "ranks by first is none" in _refusal(order_by="random, n_words", threshold=5.0)
    check(_recipe(order_by="quality DESC, date", threshold=0.5))


def test_families_that_expressions_name_are_read():
    found = selection(_recipe(order_by="gopher_quality.n_words DESC", where="c4.n_sentences > 1 AND n_words > 1", stratify_by="source"))
    assert found.families == ("c4", "gopher_quality")


def test_only_a_ranking_by_one_score_has_a_cut_in_it():
    assert score_of(Select(order_by="quality DESC")) == "quality"
    assert score_of({"order_by": "quality DESC, random"}) == "quality"
    assert score_of(Select(order_by="perplexity, quality DESC")) == "perplexity"
    for other in (
        {"order_by": "quality"},
        {"order_by": "-quality"},
        {"order_by": "n_words DESC, quality DESC"},
        {"order_by": "perplexity DESC"},
    ):
        assert score_of(Select(**other)) is None
    assert score_of(Select(order_by="quality DESC", stratify_by="source")) is None


@pytest.mark.parametrize(
    ("order_by", "given", "strata", "where"),
    [
        ("perplexity", {}, "floor(log2(n_words))", "perplexity IS NOT NULL"),
        ("quality / perplexity DESC, random", {}, "floor(log2(n_words))", "perplexity IS NOT NULL"),
        ("perplexity", {"stratify_by": "source"}, "source", "perplexity IS NOT NULL"),
        ("perplexity", {"where": "n_words > 9"}, "floor(log2(n_words))", "n_words > 9"),
        ("perplexity", {"stratify_by": None, "where": None}, None, None),
        ("perplexity", {"threshold": 90.0}, None, "perplexity IS NOT NULL"),
        ("quality DESC, perplexity", {}, None, None),
        ("random", {}, None, None),
    ],
)
def test_a_ranking_by_perplexity_is_guarded_unless_the_recipe_says_otherwise(order_by, given, strata, where):
    select = guarded(Select(order_by=order_by, **given), given)
    assert (select.stratify_by, select.where) == (strata, where)


def test_every_function_is_there_and_duckdb_calls_it_repeatable():
    query = "SELECT function_name, bool_and(coalesce(stability, 'CONSISTENT') = 'CONSISTENT') FROM duckdb_functions() GROUP BY 1"
    known = dict(duckdb.sql(query.replace(" GROUP", " WHERE function_type IN ('scalar', 'macro') GROUP")).fetchall())
    assert {name for name in FUNCTIONS if not known.get(name)} == set()


def test_the_columns_are_those_of_a_decision():
    rows = _connection([_row(1)]).sql("SELECT * FROM rows")
    types = dict(zip(rows.columns, map(str, rows.types), strict=True))
    assert {name: types[name] for name in COLUMNS} == {
        **COLUMNS, "n_bytes": types["n_bytes"], "n_words": types["n_words"],
    }  # fmt: skip


def test_a_value_that_cannot_be_cast_is_said_in_one_line():
    recipe = dataclasses.replace(_recipe(where="date::DATE > DATE '2000-01-01'"), rules=())
    with pytest.raises(DomainError, match=r"cannot be computed for some row .*cast with try_cast") as error:
        decide(_connection([_row(1, date="spring")]), recipe)
    assert "\n" not in str(error.value)
