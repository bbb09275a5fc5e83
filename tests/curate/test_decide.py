"""The decision equals its plain Python twin, whatever was counted before, and answers with reasons in the stated order."""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.decide import decide, estimate, families_read, holdout_bound
from curate.edges import NO_EDGES
from curate.manifest import COLUMNS, MACROS
from curate.recipe import Dedup, DomainError, Mix, OwnFamily, Recipe, Scheduled, Select, Source
from curate.recipe_rules import own_families
from curate.tokens import mask_key
from filters import FAMILIES, family
from tests.curate.decide_twin import Choice, Edge, decide_twin, hash16

_SOURCES = (Source("papers", ("x",)), Source("web", ("x",)), Source("wiki", ("x",), role="replay", component="wikipedia"))
_EDGE = "INSERT INTO edges VALUES (?, ?, ?, ?, ?)"
_SHARES = {"papers": 0.1, "web": 0.3, "wiki": 0.1}


def _recipe(*, budget: int = 100, order_by: str = "random", min_words: float | None = 3) -> Recipe:
    thresholds = {rule.name: None for rule in family("gopher_quality").rules} | {"min_words": min_words}
    return Recipe(
        "test",
        _SOURCES,
        thresholds={"gopher_quality": thresholds},
        select=Select(order_by=order_by, budget_tokens=budget),
        mix=Mix({"domain": 0.8, "wikipedia": 0.2}),
    )


def _limited(recipe: Recipe, min_words: Mapping[str, int | None]) -> Recipe:
    """Let each source have its own limit, given where it is not the recipe's 3; None: no rule judges it."""
    sources = []
    for source in recipe.sources:
        least = min_words[source.name]
        rules = () if least is None else None
        thresholds = {} if least in (None, 3) else {"gopher_quality": {"min_words": float(least or 0)}}
        sources.append(dataclasses.replace(source, rules=rules, thresholds=thresholds))
    return dataclasses.replace(recipe, sources=tuple(sources))


def _row(number: int, **given: Any) -> dict[str, Any]:
    source = given.get("source", "papers")
    place = [known.name for known in _SOURCES].index(source)
    row = {
        "row_id": f"r{number:03d}",
        "doc_id": f"d{number:03d}",
        "source_id": None,
        "source": source,
        "component": "wikipedia" if source == "wiki" else "domain",
        "shard": f"{source}/s.parquet",
        "row": number,
        "url": None,
        "licence": None,
        "lang": None,
        "date": None,
        "n_bytes": 40,
        "n_words": 10,
        "source_place": place,
        "holdout_bound": holdout_bound(_SHARES[source]),
        "masks": [],
        "quality": None,
    }
    row |= given
    row.setdefault("group", row["doc_id"])
    return row


def _connection(rows: list[dict[str, Any]]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(MACROS)
    connection.register("given", pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["row_id"]))))
    structs = []
    for name in FAMILIES:
        names = [signal.name for signal in family(name).signals]
        structs.append(f"struct_pack({', '.join(f'{signal} := n_words' for signal in names)}) AS {name}")
    connection.execute(
        "CREATE TABLE rows AS SELECT hash_key('holdout', \"group\") AS holdout_key, count(*) OVER (PARTITION BY doc_id) > 1 AS is_shared,"
        f" * EXCLUDE (masks, url, licence, lang, source_id, date, quality), {', '.join(structs)},"
        " date::VARCHAR AS date,"
        " url::VARCHAR AS url, licence::VARCHAR AS licence, lang::VARCHAR AS lang, source_id::VARCHAR AS source_id,"
        " quality::FLOAT AS quality, NULL::FLOAT AS perplexity, NULL::VARCHAR[] AS contaminated,"
        ' []::STRUCT("start" INTEGER, "end" INTEGER, kind VARCHAR)[] AS masks FROM given ORDER BY row_id'
    )
    connection.execute('CREATE TABLE frozen (doc_id VARCHAR, "group" VARCHAR)')
    connection.execute(NO_EDGES)
    connection.execute("CREATE TABLE counts (doc_id VARCHAR, masks_key VARCHAR, n_tokens INTEGER)")
    return connection


def _settle(connection: duckdb.DuckDBPyConnection, recipe: Recipe, n_tokens: dict[str, int]) -> int:
    rounds = 0
    while (wanted := decide(connection, recipe)) is not None:
        rounds += 1
        _insert(connection, "counts", [(doc_id, "", n_tokens[doc_id]) for doc_id in wanted.rows["doc_id"].to_pylist()])
    return rounds


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows in one statement, for each takes half a millisecond."""
    if rows:
        one = f"({', '.join('?' * len(rows[0]))})"
        connection.execute(f"INSERT INTO {table} VALUES {', '.join([one] * len(rows))}", list(itertools.chain(*rows)))


def _decided(connection: duckdb.DuckDBPyConnection) -> dict[str, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in connection.execute("SELECT row_id, split, reason, rank, dup_of FROM decided").fetchall()}


_ROWS = st.lists(
    st.fixed_dictionaries({
        "source": st.sampled_from(["papers", "web", "wiki"]),
        "doc_id": st.sampled_from([f"d{n:03d}" for n in range(25)]),
        "group": st.sampled_from([f"g{n}" for n in range(12)]),
        "date": st.sampled_from([None, "1990", "2001"]),
        "n_words": st.integers(0, 8),
        "quality": st.sampled_from([None, 0.25, 0.5]),
    }),
    min_size=1,
    max_size=40,
)  # fmt: skip


# Values that float32 holds exactly, on both sides of the threshold and at it.
_SHARE = st.sampled_from([0.0, 0.8, 0.875, 0.9, 0.9375, 1.0])
_EDGES = st.dictionaries(
    st.tuples(st.integers(0, 24), st.integers(0, 24)),
    st.tuples(st.sampled_from([0.25, 0.5, 0.75, 0.8, 0.875, 0.9375, 1.0]), _SHARE, _SHARE),
    max_size=40,
)


_LIMITS = st.fixed_dictionaries({name: st.sampled_from([3, None, 1, 6]) for name in _SHARES})


@settings(max_examples=40, deadline=None)
@given(
    given_rows=_ROWS,
    budget=st.integers(1, 200),
    counted=st.sets(st.integers(0, 24)),
    edges=_EDGES,
    limits=_LIMITS,
    containment=st.sampled_from([None, 0.875, 0.9]),
    exact_only=st.sampled_from([(), ("wiki",), ("papers", "web")]),
)
def test_the_decision_equals_its_twin(
    given_rows: list[dict[str, Any]],
    budget: int,
    counted: set[int],
    edges: dict[tuple[int, int], tuple[float, float, float]],
    limits: dict[str, int | None],
    containment: float | None,
    exact_only: tuple[str, ...],
) -> None:
    rows = [_row(number, **given) for number, given in enumerate(given_rows)]
    by_doc = {row["doc_id"]: 10 * (int(row["doc_id"][1:]) // 3) + 40 for row in rows}
    quality = {row["doc_id"]: row["quality"] for row in rows}  # a fact about the text: the same in all its rows
    for row in rows:
        row["n_bytes"], row["quality"] = by_doc[row["doc_id"]], quality[row["doc_id"]]
    joined = [(f"d{min(a, b):03d}", f"d{max(a, b):03d}", *values) for (a, b), values in edges.items() if a != b]
    joined = list({pair[:2]: pair for pair in joined}.values())
    n_tokens = {doc_id: 1 + n_bytes // 17 for doc_id, n_bytes in by_doc.items()}
    connection, recipe = _connection(rows), _limited(_recipe(budget=budget), limits)
    sources = [dataclasses.replace(source, near_duplicates=source.name not in exact_only) for source in recipe.sources]
    recipe = dataclasses.replace(recipe, sources=tuple(sources), dedup=Dedup(containment=containment))
    _insert(connection, "counts", [(f"d{number:03d}", "", n_tokens.get(f"d{number:03d}", 9)) for number in counted])
    _insert(connection, "edges", joined)
    _settle(connection, recipe, n_tokens)
    assert _decided(connection) == decide_twin(
        rows,
        n_tokens,
        Choice(budget=budget),
        shares=_SHARES,
        min_words=limits,
        seed=0,
        edges=joined,
        containment=containment,
        exact_only=exact_only,
    )
    _check_proofs(connection, joined, containment)


_BY = [
    ("random", lambda row: (hash16(f"order|0|{row['doc_id']}"),)),
    ("n_words DESC, date DESC", lambda row: (-row["n_words"], row["date"] is None, -int(row["date"] or "0"))),
    ("date NULLS FIRST, n_words", lambda row: (row["date"] is not None, row["date"] or "", row["n_words"])),
    ("coalesce(quality, 0.5) DESC, random", lambda row: (-(row["quality"] or 0.5), hash16(f"order|0|{row['doc_id']}"))),
]
_WHERE = [
    (None, lambda row: True),
    ("date > '1995'", lambda row: row["date"] is not None and row["date"] > "1995"),
    ("source = 'web' OR gopher_quality.n_words % 2 = 0", lambda row: row["source"] == "web" or row["n_words"] % 2 == 0),
]
_STRATUM = [
    (None, lambda row: ""),
    ("source", lambda row: row["source"]),
    ("left(date, 2)", lambda row: row["date"] and row["date"][:2]),
    ("floor(n_words / 3)", lambda row: float(row["n_words"] // 3)),
]
_AMOUNT = st.one_of(
    st.integers(1, 200).map(lambda budget: ({"budget_tokens": budget}, {"budget": budget})),
    st.sampled_from(["0.1", "0.35", "1"]).map(lambda part: ({"top_share": float(part)}, {"top_share": Fraction(part)})),
    st.integers(3, 7).map(lambda least: ({"threshold": float(least)}, {"reaches": lambda row: row["n_words"] >= least})),
)


_CASE = st.fixed_dictionaries({
    "given_rows": _ROWS, "by": st.sampled_from(_BY), "where": st.sampled_from(_WHERE), "stratum": st.sampled_from(_STRATUM),
    "amount": _AMOUNT, "is_equal": st.booleans(), "epochs": st.integers(1, 3), "counted": st.sets(st.integers(0, 24)),
})  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(case=_CASE)
def test_what_is_selected_equals_the_twin(case: dict[str, Any]) -> None:
    _check_selected(**case)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(case=_CASE)
def test_what_is_selected_equals_the_twin_many_times(case: dict[str, Any]) -> None:
    _check_selected(**case)


def _check_selected(
    given_rows: list[dict[str, Any]], by: Any, where: Any, stratum: Any, amount: Any, is_equal: bool, epochs: int, counted: set[int]
) -> None:
    if "threshold" in amount[0]:
        by, stratum = _BY[1], _STRATUM[0]
    rows = [_row(number, **given) for number, given in enumerate(given_rows)]
    n_bytes = {row["doc_id"]: 10 * (int(row["doc_id"][1:]) // 3) + 40 for row in rows}
    quality = {row["doc_id"]: row["quality"] for row in rows}
    for row in rows:
        row["n_bytes"], row["quality"] = n_bytes[row["doc_id"]], quality[row["doc_id"]]
    n_tokens = {doc_id: 1 + size * (1 + size // 10 % 4) // 20 for doc_id, size in n_bytes.items()}
    select = Select(
        order_by=by[0], where=where[0], stratify_by=stratum[0], stratify="equal" if is_equal else "proportional",
        **{"budget_tokens": None, **amount[0]},
    )  # fmt: skip
    recipe = dataclasses.replace(_recipe(), select=select, mix=Mix({"domain": 0.8, "wikipedia": 0.2}, epochs=epochs))
    choice = Choice(where=where[1], key=by[1], stratum=stratum[1], is_equal=is_equal, epochs=epochs, **amount[1])
    connection = _connection(rows)
    for number in counted:
        connection.execute("INSERT INTO counts VALUES (?, '', ?)", [f"d{number:03d}", n_tokens.get(f"d{number:03d}", 9)])
    estimate(connection, recipe)  # whatever it has found, the decision stays the same
    _settle(connection, recipe, n_tokens)
    limits = dict.fromkeys(_SHARES, 3)
    assert _decided(connection) == decide_twin(rows, n_tokens, choice, shares=_SHARES, min_words=limits, seed=0)
    assert connection.execute("SELECT count(*) FROM decided WHERE (n_tokens IS NULL) <> (split = 'dropped')").fetchall() == [(0,)]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.tuples(st.sampled_from([40, 50, 60]), st.sampled_from([0.25, 0.5, 0.75])), min_size=3, max_size=6),
    values=st.lists(st.tuples(st.sampled_from([0.5, 0.5, 0.8, 0.9375]), _SHARE, _SHARE), min_size=15, max_size=15),
)
def test_who_stands_for_whom_equals_the_twin_where_every_text_has_an_edge_to_every_other(
    texts: list[tuple[int, float]], values: list[tuple[float, float, float]]
) -> None:
    rows = [_row(number, n_bytes=n_bytes, quality=quality, group="a") for number, (n_bytes, quality) in enumerate(texts)]
    doc_pairs = itertools.combinations([row["doc_id"] for row in rows], 2)
    edges = [(*pair, *numbers) for pair, numbers in zip(doc_pairs, values, strict=False)]
    connection, recipe, n_tokens = _connection(rows), _recipe(), {row["doc_id"]: 1 for row in rows}
    _insert(connection, "edges", edges)
    _settle(connection, recipe, n_tokens)
    limits = dict.fromkeys(_SHARES, 3)
    assert _decided(connection) == decide_twin(rows, n_tokens, Choice(budget=100), shares=_SHARES, min_words=limits, seed=0, edges=edges)
    _check_proofs(connection, edges, 0.9)


def _check_proofs(connection: duckdb.DuckDBPyConnection, edges: list[Edge], containment: float | None) -> None:
    """A near copy has an edge to the row in its place, which is kept, and longer where it contains the copy."""
    values = {(a, b): (one, other) for a, b, *shares in edges for a, b, one, other in ((a, b, *shares[:2]), (b, a, shares[0], shares[2]))}
    columns = "row_id, doc_id, n_bytes, split, reason, dup_of, dup_kind, dup_similarity"
    by_id = {row["row_id"]: row for row in connection.sql(f"SELECT {columns} FROM decided").to_arrow_table().to_pylist()}
    for row in by_id.values():
        if row["dup_kind"] in ("jaccard", "containment"):
            kept = by_id[row["dup_of"]]
            assert kept["split"] == "train" or kept["reason"] == "budget"
            similarity, share = values[row["doc_id"], kept["doc_id"]]
            proof, least = (similarity, 0.8) if row["dup_kind"] == "jaccard" else (share, containment)
            assert least is not None
            assert proof >= least
            assert row["dup_similarity"] == np.float32(proof)
            assert row["dup_kind"] == "jaccard" or kept["n_bytes"] >= row["n_bytes"]


def test_every_row_has_all_columns_of_a_manifest() -> None:
    connection = _connection([_row(1)])
    _settle(connection, _recipe(), {"d001": 5})
    assert connection.sql("SELECT * FROM decided").columns == [*COLUMNS, "is_eligible"]


def test_only_rows_above_the_cut_are_counted() -> None:
    rows = [_row(number, n_bytes=100) for number in range(200)]
    connection = _connection(rows)
    rounds = _settle(connection, _recipe(budget=300), {row["doc_id"]: 30 for row in rows})
    n_counted, n_train, n_holdout = (
        connection.execute(query).fetchall()[0][0]
        for query in (
            "SELECT count(*) FROM counts",
            "SELECT count(*) FROM decided WHERE split = 'train'",
            "SELECT count(*) FROM decided WHERE split = 'holdout'",
        )
    )
    assert n_train == 300 // 30
    assert n_counted <= n_train + n_holdout + 2
    assert rounds <= 2


def test_an_estimate_that_was_too_high_is_corrected_in_the_next_round() -> None:
    rows = [_row(number, n_bytes=1000) for number in range(100)]
    connection = _connection(rows)
    rounds = _settle(connection, _recipe(budget=50), {row["doc_id"]: 1 for row in rows})  # 0.001 tokens a byte, 0.3 are expected
    assert rounds > 1
    assert connection.execute("SELECT sum(n_tokens) FROM decided WHERE split = 'train'").fetchall() == [(50,)]


def test_dropped_rows_show_no_count_also_where_it_is_known() -> None:
    rows = [_row(number) for number in range(30)]
    connection = _connection(rows)
    _insert(connection, "counts", [(row["doc_id"], "", 7) for row in rows])
    assert decide(connection, _recipe(budget=20)) is None
    assert connection.execute("SELECT count(*) FROM decided WHERE (n_tokens IS NULL) <> (split = 'dropped')").fetchall() == [(0,)]


def test_a_rule_that_is_off_and_a_null_signal_drop_nothing() -> None:
    connection = _connection([_row(1, n_words=0)])
    _settle(connection, _recipe(min_words=None), {"d001": 5})
    assert _decided(connection)["r001"][1] is None
    connection = _connection([_row(1, n_words=0), _row(2)])
    connection.execute("UPDATE rows SET gopher_quality = NULL WHERE row_id = 'r001'")
    _settle(connection, _recipe(), {"d001": 5, "d002": 5})
    assert _decided(connection)["r001"][1] is None


def test_each_source_is_judged_by_its_own_rules_in_their_order() -> None:
    limits = {name: {rule.name: None for rule in family(name).rules} for name in ("gopher_quality", "gopher_repetition", "fineweb")}
    limits["gopher_quality"]["min_words"] = limits["fineweb"]["min_ended_lines_ratio"] = 20.0
    limits["gopher_repetition"]["max_top_2gram_ratio"] = 5.0
    recipe = Recipe(
        "test",
        (
            Source("papers", ("x",)),
            Source("web", ("x",), web=True),
            Source("wiki", ("x",), role="replay", component="wikipedia", rules=("gopher_repetition", "gopher_quality")),
        ),
        rules=("fineweb", "gopher_quality", "gopher_repetition"),
        thresholds=limits,
        mix=Mix({"domain": 0.8, "wikipedia": 0.2}),
    )
    connection = _connection([_row(n, source=name, holdout_bound="0") for n, name in enumerate(("papers", "web", "wiki"))])
    _settle(connection, recipe, {})
    assert [row[1] for _, row in sorted(_decided(connection).items())] == [
        "gopher_quality.min_words", "fineweb.min_ended_lines_ratio", "gopher_repetition.max_top_2gram_ratio",
    ]  # fmt: skip


def test_a_ratio_at_its_threshold_passes() -> None:
    limits = {rule.name: 0.1 if rule.name == "max_hash_ratio" else None for rule in family("gopher_quality").rules}
    connection = _connection([_row(1), _row(2)])
    ratio = "CASE row_id WHEN 'r001' THEN 0.1::FLOAT ELSE 0.1001::FLOAT END"  # 0.1 as a float lies above 0.1 as a double
    connection.execute(f"CREATE OR REPLACE TABLE rows AS SELECT * REPLACE (struct_pack(hash_ratio := {ratio}) AS gopher_quality) FROM rows")
    _settle(connection, dataclasses.replace(_recipe(), thresholds={"gopher_quality": limits}), {"d001": 5, "d002": 5})
    assert {key: row[1] for key, row in _decided(connection).items()} == {"r001": None, "r002": "gopher_quality.max_hash_ratio"}


_OWN = """
from filters.spec import Family, Rule, Signal
RULE = Rule("min_is_kept", "is_kept", ">=", 1, "s")
FAMILY = Family("own", 1, (Signal("is_kept", "bool", "m"), Signal("why", "string", "m")), (RULE,), None)
"""


def _own(folder: pathlib.Path, rules: tuple[str, ...], **more: Any) -> Recipe:
    (folder / "own.py").write_text(_OWN)
    families = {"own": OwnFamily("own", function=f"{folder}/own.py:FAMILY")}
    thresholds = {**_recipe().thresholds, "own": {"min_is_kept": 1}}
    return dataclasses.replace(_recipe(**more), rules=rules, families=families, thresholds=thresholds)


def _with_own(rows: list[dict[str, Any]]) -> duckdb.DuckDBPyConnection:
    connection = _connection(rows)
    struct = "struct_pack(is_kept := row_id <> 'r002', why := 'no')"
    connection.execute(f"CREATE OR REPLACE TABLE rows AS SELECT *, {struct} AS own FROM rows")
    return connection


def test_a_family_of_the_recipes_own_judges_and_ranks(tmp_path: pathlib.Path) -> None:
    rows = [_row(n, group="a") for n in (1, 2, 3)]
    connection = _with_own(rows)
    _settle(connection, _own(tmp_path, ("own",), order_by="own.is_kept DESC"), {row["doc_id"]: 5 for row in rows})
    assert {key: row[1] for key, row in _decided(connection).items()} == {"r001": None, "r002": "own.min_is_kept", "r003": None}


def test_an_own_family_that_judges_nothing_gives_no_order(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DomainError, match="'own' is computed only where rules name it; add it to rules"):
        decide(_connection([_row(1)]), _own(tmp_path, ("gopher_quality",), order_by="own.is_kept"))


def test_no_own_family_has_the_name_of_a_table_or_column() -> None:
    connection = _connection([_row(1)])
    _settle(connection, _recipe(), {"d001": 5})
    found = connection.execute("SELECT table_name, column_name FROM information_schema.columns").fetchall()
    for name in {name for row in found for name in row} - {"given"}:  # the table of this test
        with pytest.raises(DomainError, match="has a name that is taken"):
            own_families({name: {"function": "a.py:b"}}, taken=())


def test_a_count_is_a_count_under_the_masks_of_the_row() -> None:
    connection = _connection([_row(1), _row(2)])
    connection.execute("UPDATE rows SET masks = [{'start': 0, 'end': 4, 'kind': 'email'}] WHERE row_id = 'r001'")
    connection.execute("INSERT INTO counts VALUES ('d001', '', 9), ('d002', '', 9)")
    wanted = decide(connection, _recipe())
    assert wanted is not None
    masks = [{"start": 0, "end": 4, "kind": "email"}]
    assert wanted.rows.select(["doc_id", "masks"]).to_pylist() == [{"doc_id": "d001", "masks": masks}]
    connection.execute("INSERT INTO counts VALUES ('d001', ?, 5)", [mask_key(masks)])
    assert decide(connection, _recipe()) is None
    assert connection.execute("SELECT row_id, n_tokens, masks FROM decided ORDER BY row_id").fetchall() == [
        ("r001", 5, masks),
        ("r002", 9, []),
    ]


def test_texts_of_the_evalset_that_is_taken_over_are_never_trained_on() -> None:
    connection = _connection([_row(1), _row(2)])
    connection.execute("INSERT INTO frozen VALUES ('d001', 'elsewhere')")
    _settle(connection, _recipe(), {"d001": 5, "d002": 5})
    assert _decided(connection)["r001"][:2] == ("dropped", "holdout.leak")


@pytest.mark.parametrize(("order_by", "first"), [("n_bytes DESC", "r003"), ("n_bytes ASC", "r001"), ("n_bytes", "r001")])
def test_order_by_a_length(order_by: str, first: str) -> None:
    connection = _connection([_row(number, n_bytes=number, group="a") for number in (1, 2, 3)])
    _settle(connection, _recipe(order_by=order_by), {"d001": 5, "d002": 5, "d003": 5})
    assert next(row_id for row_id, row in _decided(connection).items() if row[2] == 1) == first


@pytest.mark.parametrize(
    "order_by", ["quality; DROP TABLE rows", "(SELECT 1)", "n_bytes DESC LIMIT 3", "gopher_quality.no_such DESC", "rows.n_bytes"]
)
def test_order_by_refuses_what_it_does_not_know(order_by: str) -> None:
    connection = _connection([_row(1)])
    with pytest.raises(DomainError, match=r"select\.order_by"):
        decide(connection, _recipe(order_by=order_by))


def test_too_many_strata_are_refused() -> None:
    recipe = dataclasses.replace(_recipe(), select=Select(stratify_by="row_id"))
    connection = _connection([_row(number, holdout_bound="0") for number in range(1001)])
    with pytest.raises(DomainError, match=r"select\.stratify_by = 'row_id' gives 1,001 strata; it takes at most 1,000"):
        decide(connection, recipe)


def test_what_a_small_stratum_leaves_goes_to_the_others_and_is_counted() -> None:
    rows = [_row(0, n_bytes=1000, group="a"), *(_row(number, n_bytes=100, source="web", group="a") for number in range(1, 11))]
    recipe = dataclasses.replace(_recipe(), select=Select("n_bytes DESC", budget_tokens=120, stratify_by="source"))
    connection = _connection(rows)
    _settle(connection, recipe, {row["doc_id"]: 10 if row["source"] == "papers" else 20 for row in rows})
    taken = connection.sql(
        "SELECT source, count(*), sum(n_tokens), count(n_tokens) FROM decided WHERE split = 'train' GROUP BY 1 ORDER BY 1"
    )
    assert taken.fetchall() == [("papers", 1, 10, 1), ("web", 5, 100, 5)]  # of 60 tokens each 10 are there, and 10 fit no more


def test_an_estimate_of_a_decision_says_which_tokens_are_counted() -> None:
    rows = [_row(number, group="a") for number in range(4)]
    connection = _connection(rows)
    connection.execute("INSERT INTO counts VALUES ('d001', '', 20)")
    estimate(connection, _recipe(budget=1000))
    found = connection.sql(
        "SELECT row_id, n_tokens, n_estimated, split FROM outcome JOIN rows ON rows.rowid = slot ORDER BY row_id"
    ).fetchall()
    assert found == [(f"r{n:03d}", 20 if n == 1 else None, 20, "train") for n in range(4)]  # half a token a byte, as in the one counted


def test_families_that_an_expression_names_are_read() -> None:
    recipe = dataclasses.replace(_recipe(order_by="c4.n_sentences DESC"), rules=())
    assert families_read(recipe) == ("statistics", "c4")


def test_a_row_says_which_stages_may_draw_it() -> None:
    recipe = dataclasses.replace(
        _recipe(order_by="n_bytes DESC"),
        stages=(
            Scheduled("all", {"domain": 0.5, "wikipedia": 0.5}, 1, "fixed"),
            Scheduled("best", {"domain": 1.0}, 1, "fixed", budget_tokens=10),
            Scheduled("general", {"wikipedia": 1.0}, 1, "fixed", epoch_tokens=5),
        ),
    )
    rows = [_row(number, n_bytes=100 - number, source="wiki" if number == 4 else "papers", holdout_bound="0") for number in range(5)]
    connection = _connection(rows)
    _settle(connection, recipe, {row["doc_id"]: 5 for row in rows})
    found = dict(connection.sql("SELECT row_id, stages FROM decided").fetchall())
    assert found == {"r000": [0, 1], "r001": [0, 1], "r002": [0], "r003": [0], "r004": [0, 2]}


def _near(rows: list[dict[str, Any]], edges: list[tuple[Any, ...]], **more: Any) -> dict[str, tuple[Any, ...]]:
    """Decide over edges of two doc_ids, a similarity, and where it matters the shares of the first in the second and of that in it."""
    connection = _connection(rows)
    for pair in edges:
        connection.execute(_EDGE, [*pair, 0.0, 0.0][:5])
    _settle(connection, _recipe(**more), {row["doc_id"]: 5 for row in rows})
    found = connection.execute("SELECT row_id, split, reason, dup_of, dup_kind, round(dup_similarity::DOUBLE, 4) FROM decided").fetchall()
    return {row[0]: row[1:] for row in found}


def test_a_chain_of_near_copies_keeps_both_ends() -> None:
    rows = [_row(number, n_bytes=100 - number, group="a") for number in (1, 2, 3)]
    found = _near(rows, [("d001", "d002", 0.9), ("d002", "d003", 0.85)])
    assert found["r001"][:2] == found["r003"][:2] == ("train", None)
    assert found["r002"] == ("dropped", "duplicate.jaccard", "r001", "jaccard", 0.9)


def test_near_duplicates_keep_the_best_scored() -> None:
    rows = [_row(1, quality=0.2, n_bytes=900, group="a"), _row(2, quality=0.9, group="a")]
    found = _near(rows, [("d001", "d002", 0.8)])  # at the threshold, and 0.8 is no float32
    assert found["r002"][0] == "train"
    assert found["r001"] == ("dropped", "duplicate.jaccard", "r002", "jaccard", 0.8)


def test_below_the_threshold_or_without_one_nothing_goes() -> None:
    rows = [_row(1, group="a"), _row(2, group="a")]
    assert _near(rows, [("d001", "d002", 0.79)])["r002"][0] == "train"
    recipe = dataclasses.replace(_recipe(), dedup=Dedup(threshold=None))
    connection = _connection(rows)
    connection.execute("INSERT INTO edges VALUES ('d001', 'd002', 1.0, 1.0, 1.0)")
    _settle(connection, recipe, {"d001": 5, "d002": 5})
    assert {row[0] for row in _decided(connection).values()} == {"train"}


def test_exact_copies_of_a_near_copy_go_by_the_row_that_is_kept() -> None:
    rows = [_row(1, n_bytes=90, group="a"), _row(2, group="a"), _row(3, doc_id="d002", group="a")]
    found = _near(rows, [("d001", "d002", 0.9)])
    assert found["r002"] == found["r003"] == ("dropped", "duplicate.jaccard", "r001", "jaccard", 0.9)


def test_a_tighter_rule_that_drops_a_keeper_brings_back_its_next_best_copy() -> None:
    rows = [_row(1, n_bytes=90, n_words=5, group="a"), _row(2, n_bytes=80, n_words=9, group="a"), _row(3, n_words=9, group="a")]
    edges = [("d001", "d002", 0.9), ("d001", "d003", 0.9), ("d002", "d003", 0.9)]
    assert [row_id for row_id, row in _near(rows, edges).items() if row[0] == "train"] == ["r001"]
    found = _near(rows, edges, min_words=6)
    assert found["r001"][1] == "gopher_quality.min_words"
    assert found["r002"][0] == "train"
    assert found["r003"][1:3] == ("duplicate.jaccard", "r002")


def test_near_copies_of_held_out_and_frozen_texts_leak() -> None:
    held = next(n for n in range(100) if int(hash16(f"holdout|d{n:03d}"), 16) < int(0.1 * 2**64))
    free = [n for n in range(100) if int(hash16(f"holdout|d{n:03d}"), 16) > int(0.5 * 2**64)][:3]
    rows = [_row(n) for n in (held, *free)]
    connection = _connection(rows)
    connection.execute("INSERT INTO frozen VALUES ('frozen', 'elsewhere')")
    for other, number in ((f"d{held:03d}", free[0]), ("frozen", free[1])):
        connection.execute("INSERT INTO edges VALUES (?, ?, 0.8, 0.0, 0.0)", sorted([other, f"d{number:03d}"]))
    _settle(connection, _recipe(), {row["doc_id"]: 5 for row in rows})
    found = _decided(connection)
    assert [found[f"r{n:03d}"][:2] for n in (held, *free)] == [
        ("holdout", None), ("dropped", "holdout.leak"), ("dropped", "holdout.leak"), ("train", None),
    ]  # fmt: skip


def test_a_text_goes_for_the_longer_one_that_contains_it_also_where_it_is_the_better_scored() -> None:
    rows = [_row(1, quality=0.9, group="a"), _row(2, quality=0.1, n_bytes=400, group="a")]
    assert _near(rows, [("d001", "d002", 0.3, 0.95, 0.3)])["r001"] == ("dropped", "duplicate.containment", "r002", "containment", 0.95)
    assert _near(rows, [("d001", "d002", 0.3, 0.9, 0.3)])["r001"][0] == "dropped"  # at the threshold, and 0.9 is no float32
    assert _near(rows, [("d001", "d002", 0.3, 0.89, 0.3)])["r001"][0] == "train"


def test_the_longer_text_never_goes_for_being_contained() -> None:
    rows = [_row(1, quality=0.9, group="a"), _row(2, n_bytes=400, group="a")]
    found = _near(rows, [("d001", "d002", 0.3, 0.3, 1.0)])  # the longer one says nothing new, but it says it more often
    assert found["r001"][0] == found["r002"][0] == "train"


def test_similarity_comes_before_containment() -> None:
    rows = [_row(1, n_bytes=400, group="a"), _row(2, n_bytes=90, group="a"), _row(3, n_bytes=80, group="a")]
    found = _near(rows, [("d001", "d003", 0.3, 0.3, 1.0), ("d002", "d003", 0.85, 0.9, 0.9)])
    assert found["r003"] == ("dropped", "duplicate.jaccard", "r002", "jaccard", 0.85)


def test_a_row_that_stands_for_near_copies_stays_though_it_is_contained() -> None:
    rows = [_row(1, n_bytes=400, group="a"), _row(2, n_bytes=90, group="a"), _row(3, n_bytes=80, group="a")]
    found = _near(rows, [("d001", "d002", 0.3, 0.3, 1.0), ("d002", "d003", 0.85, 0.85, 0.85)])
    assert found["r002"][0] == "train"
    assert found["r003"][1:3] == ("duplicate.jaccard", "r002")


def test_what_contains_a_row_is_kept_itself() -> None:
    rows = [_row(number, n_bytes=500 - number, group="a") for number in (1, 2, 3)]
    chain = [("d001", "d002", 0.3, 0.3, 0.95), ("d002", "d003", 0.3, 0.3, 0.95)]
    found = _near(rows, chain)
    assert [found[row_id][0] for row_id in ("r001", "r002", "r003")] == ["train", "dropped", "train"]
    found = _near(rows, [*chain, ("d001", "d003", 0.3, 0.3, 0.92)])
    assert found["r003"] == ("dropped", "duplicate.containment", "r001", "containment", 0.92)


def test_of_two_longer_texts_the_one_that_holds_more_stands() -> None:
    rows = [_row(1, n_bytes=500, group="a"), _row(2, n_bytes=400, group="a"), _row(3, group="a")]
    found = _near(rows, [("d001", "d003", 0.3, 0.1, 0.92), ("d002", "d003", 0.3, 0.1, 0.95)])
    assert found["r003"][2:] == ("r002", "containment", 0.95)


def test_exact_copies_of_a_contained_text_go_by_the_row_that_is_kept() -> None:
    rows = [_row(1, n_bytes=400, group="a"), _row(2, group="a"), _row(3, doc_id="d002", group="a")]
    found = _near(rows, [("d001", "d002", 0.3, 0.3, 1.0)])
    assert found["r002"] == found["r003"] == ("dropped", "duplicate.containment", "r001", "containment", 1.0)


def test_containment_is_off_where_the_recipe_says_so() -> None:
    rows = [_row(1, group="a"), _row(2, group="a")]
    for dedup in (Dedup(containment=None), Dedup(threshold=None)):
        connection = _connection(rows)
        connection.execute(_EDGE, ["d001", "d002", 0.3, 1.0, 1.0])
        _settle(connection, dataclasses.replace(_recipe(), dedup=dedup), {"d001": 5, "d002": 5})
        assert {row[0] for row in _decided(connection).values()} == {"train"}


@pytest.mark.parametrize("shares", [(1.0, 0.2), (0.2, 1.0)])
def test_a_text_that_contains_a_held_out_one_or_is_contained_in_it_leaks(shares: tuple[float, float]) -> None:
    connection = _connection([_row(1), _row(2)])
    connection.execute("INSERT INTO frozen VALUES ('frozen', 'elsewhere')")
    connection.execute(_EDGE, ["d001", "frozen", 0.2, *shares])
    _settle(connection, _recipe(), {"d001": 5, "d002": 5})
    assert _decided(connection)["r001"][:2] == ("dropped", "holdout.leak")
    assert _decided(connection)["r002"][0] == "train"


def test_order_by_quality_ranks_the_best_first_and_null_last() -> None:
    rows = [_row(1, quality=0.1, group="a"), _row(2, quality=None, group="a"), _row(3, quality=0.7, group="a")]
    connection = _connection(rows)
    _settle(connection, _recipe(order_by="quality DESC"), {"d001": 5, "d002": 5, "d003": 5})
    assert [row[2] for _, row in sorted(_decided(connection).items())] == [2, 3, 1]


@pytest.mark.parametrize(
    ("order_by", "ranks"),
    [("quality DESC NULLS FIRST", [3, 1, 2]), ("quality NULLS FIRST", [2, 1, 3]), ("quality", [1, 3, 2]), ("-quality, n_bytes", [2, 3, 1])],
)
def test_null_stands_where_the_order_says(order_by: str, ranks: list[int]) -> None:
    rows = [_row(1, quality=0.1, group="a"), _row(2, quality=None, group="a"), _row(3, quality=0.7, group="a")]
    connection = _connection(rows)
    _settle(connection, _recipe(order_by=order_by), {"d001": 5, "d002": 5, "d003": 5})
    assert [row[2] for _, row in sorted(_decided(connection).items())] == ranks
