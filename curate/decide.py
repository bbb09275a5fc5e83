"""One pure function: (columns, counts, recipe) -> what happens to each row, and why.

The order is the contract's: holdout -> rules (first reason wins, in the order of each source), then `select.where` -> holdout.leak ->
keepers among the rows that passed -> subset (subset.py) and mixture. It is SQL over the table `rows`, so it spills instead of growing,
and reads no text. Where a row above the cut has no token count yet the answer is "count these rows next"; the result
does not depend on which counts were there before.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import duckdb
import pyarrow as pa

from curate.expressions import selection
from curate.families import family_of
from curate.keepers import keepers
from curate.manifest import COLUMNS, share_key
from curate.recipe import FAMILY_NAME, DomainError, Recipe
from curate.subset import cut, keys_of, quoted, stages_of
from filters.spec import Family

# Who is kept among copies (design.md, "No removal without proof"); null comes last.
_KEEPER_ORDER = "quality DESC NULLS LAST, source_place, n_bytes DESC, date ASC NULLS LAST, doc_id, row_id"

# The columns of a manifest that a decision makes.
_DECIDED_COLUMNS = ("stages", "n_tokens", "dup_of", "dup_kind", "dup_similarity", "split", "reason", "rank", "is_eligible")


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """Rows whose tokens have to be counted before the decision is final: doc_id, shard, row, n_bytes, masks."""

    rows: pa.Table


def decide(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> Wanted | None:
    """Write the tables `decided` (the columns of a manifest, and `is_eligible`: passes the rules) and `outcome` (see `estimate`), or say
    what to count.

    Reads the tables `rows` (see corpus.load_rows), `edges` (see edges.link), `counts` (doc_id, masks_key, n_tokens) and `frozen`
    (doc_id, group of the evalset that is taken over); leaves the tables `cut` and `pools` (see subset.cut). Raises DomainError where an
    expression of [select] names a column that is not there, or cannot be computed.
    """
    _until_the_cut(connection, recipe)
    wanted = connection.sql(_WANTED).to_arrow_table()
    if wanted.num_rows:
        return Wanted(wanted)
    connection.execute(_OUTCOME.format(stages=stages_of(recipe)))
    tables = {name: "outcome" if name in _DECIDED_COLUMNS else "rows" for name in [*COLUMNS, "is_eligible"]}
    connection.execute(_DECIDED.format(columns=", ".join(f'{table}."{name}"' for name, table in tables.items())))
    return None


def estimate(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> None:
    """Decide without counting, into the table `outcome`: what happens to each row, by its `slot` (rowid) in `rows`, with its source,
    component, n_bytes and scores.

    Its `n_estimated` is, of every row that was ranked or held out, the count, or else what its source's bytes per token give; `n_tokens` is
    null where there is no count.
    """
    _until_the_cut(connection, recipe)
    connection.execute(_OUTCOME.format(stages=stages_of(recipe)))


def _until_the_cut(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> None:
    chosen = selection(recipe)
    connection.execute("SET TimeZone = 'UTC'")  # an expression may read a time, which is the same everywhere
    values = {
        "rules": _rule_cases(recipe),
        "threshold": _float(recipe.dedup.threshold),
        "containment": _float(recipe.dedup.contained_from),
        "keeper_order": _KEEPER_ORDER,
        "has_near": _has_near(recipe),
        **keys_of(recipe, chosen),
    }
    connection.execute(_JUDGE.format(**values))
    try:
        connection.execute(_MARK.format(**values))
    except (duckdb.DataError, duckdb.ProgrammingError) as error:
        if not chosen.expressions:
            raise
        why = " ".join(str(error).split("LINE 1")[0].split())
        raise DomainError(f"an expression of [select] cannot be computed for some row ({why}); cast with try_cast(... AS ...)") from None
    connection.execute(_EXACT.format(**values))
    connection.execute(_STANDING.format(**values))
    for kind, statement in (("jaccard", _NEAR), ("containment", _CONTAINED)):
        connection.execute(statement.format(**values))
        _keep_near(connection, kind)
    connection.execute(_KEEP)
    cut(connection, recipe, chosen)


def _keep_near(connection: duckdb.DuckDBPyConnection, kind: str) -> None:
    """Decide who is kept by `near_edges` (earlier, later, in the order of their place), and add who goes to `near`."""
    edges = connection.sql("SELECT earlier, later FROM near_edges ORDER BY place").to_arrow_table()
    n_rows = connection.execute("SELECT coalesce(max(later) + 1, 0) FROM near_edges").fetchall()[0][0]
    by = keepers(n_rows, edges["earlier"].to_numpy(), edges["later"].to_numpy())
    connection.register("chosen", pa.table({"place": by[by >= 0]}))
    connection.execute(_NEAR_KEPT, [kind])
    connection.unregister("chosen")


def _has_near(recipe: Recipe) -> str:
    """Say as SQL which rows may go for one that is alike, or stand for one."""
    exact_only = [source.name for source in recipe.decided_sources() if not source.near_duplicates]
    return f"source NOT IN ({_texts(exact_only)})" if exact_only else "true"


def families_read(recipe: Recipe) -> tuple[str, ...]:
    """Name the families whose signals `decide` reads from `rows`: those that judge a source, and those that [select] names."""
    judging = [name for source in recipe.decided_sources() for name in recipe.judged_by(source)]
    known = recipe.families_to_compute()
    return tuple(name for name in dict.fromkeys(["statistics", *judging, *selection(recipe).families]) if name in known)


def holdout_bound(share: float) -> str:
    """Give the bound on hash_key('holdout', group) below which a row is held out."""
    return share_key(share)


def _rule_cases(recipe: Recipe) -> str:
    """Give the first reason of a row as SQL: one CASE for all sources that are judged alike."""
    alike: dict[str, list[str]] = {}
    for source in recipe.decided_sources():
        cases = [
            case for name, limits in recipe.judged_by(source).items() for case in _family_cases(family_of(recipe.families, name), limits)
        ]
        alike.setdefault(f"CASE {' '.join(cases)} END" if cases else "NULL::VARCHAR", []).append(source.name)
    if len(alike) <= 1:
        return next(iter(alike), "NULL::VARCHAR")
    return f"CASE {' '.join(f'WHEN source IN ({_texts(names)}) THEN {judged}' for judged, names in alike.items())} END"


def _family_cases(found: Family, limits: Mapping[str, float | None]) -> list[str]:
    types = {signal.name: signal.type for signal in found.signals}
    cases = []
    for rule in found.rules:
        if (threshold := limits[rule.name]) is not None:
            kind = types[rule.signal]
            assert kind != "string", f"{found.name}.{rule.name} is over a text"
            # Ratios are float32 and are compared as such, so that one equal to its threshold passes (see filters.spec.Rule).
            exact = "FLOAT" if kind == "float32" else "DOUBLE"
            breach = "<" if rule.keep == ">=" else ">"
            reason = quoted(f"{found.name}.{rule.name}")
            cases.append(f"WHEN {_signal(found.name, rule.signal)}::{exact} {breach} {threshold}::{exact} THEN {reason}")
    return cases


def _signal(name: str, signal: str) -> str:
    assert FAMILY_NAME.fullmatch(name), name
    return f'struct_extract("{name}", {quoted(signal)})'


def _float(threshold: float | None) -> str:
    return "NULL::FLOAT" if threshold is None else f"{threshold}::FLOAT"


def _texts(values: Iterable[str]) -> str:
    return ", ".join(quoted(value) for value in values)


# Tables on the way hold only what is decided by; a row's other columns are taken from `rows` at the end, by its slot there.
_JUDGE = """
CREATE OR REPLACE VIEW judged AS
SELECT rowid AS slot, row_id, doc_id, "group", source, component, source_place, n_bytes, date, quality, perplexity,
    masks_key(masks) AS masks_key,
    coalesce({rules}, CASE WHEN NOT {is_chosen} THEN 'select.where' END) AS rule_reason,
    {order_value} AS order_value, {stratum} AS stratum, holdout_key < holdout_bound AS is_holdout, is_shared
FROM rows
"""

# A row with the text or the group of a held-out row would leak it, even where its own source holds out less; so would a near copy, and
# one that is contained in it or contains it.
_MARK = """
CREATE OR REPLACE TABLE marked AS
WITH held AS (SELECT doc_id, "group" FROM judged WHERE is_holdout UNION ALL SELECT doc_id, "group" FROM frozen),
alike AS (
    SELECT doc_a, doc_b FROM edges WHERE similarity >= {threshold} OR greatest(containment_a, containment_b) >= {containment}
),
leaking AS (
    SELECT doc_id FROM held
    UNION SELECT doc_b FROM alike JOIN held ON doc_a = doc_id
    UNION SELECT doc_a FROM alike JOIN held ON doc_b = doc_id
),
SELECT * EXCLUDE ("group"), CASE
    WHEN is_holdout THEN NULL
    WHEN rule_reason IS NOT NULL THEN rule_reason
    WHEN doc_id IN (SELECT doc_id FROM leaking) OR "group" IN (SELECT "group" FROM held) THEN 'holdout.leak'
END AS early_reason FROM judged
"""

# Of the rows of one text the first one in keeper order stands for them.
_EXACT = """
CREATE OR REPLACE TABLE firsts AS
SELECT slot, first_value(row_id) OVER (PARTITION BY doc_id ORDER BY {keeper_order}) AS first_row
FROM marked WHERE is_shared AND NOT is_holdout AND early_reason IS NULL;
CREATE OR REPLACE VIEW exact AS
SELECT marked.*, CASE WHEN NOT is_holdout AND early_reason IS NULL THEN coalesce(first_row, row_id) END AS exact_keeper
FROM marked LEFT JOIN firsts USING (slot)
"""

# Texts that passed and have an edge, by their first rows in keeper order; `near` holds those of them that go, and by which row.
_STANDING = """
CREATE OR REPLACE TABLE standing AS
SELECT row_id, doc_id, n_bytes, row_number() OVER (ORDER BY {keeper_order}) - 1 AS number FROM exact
WHERE exact_keeper = row_id AND {has_near} AND doc_id IN (SELECT doc_a FROM edges UNION ALL SELECT doc_b FROM edges);
CREATE OR REPLACE TABLE near (doc_id VARCHAR, keeper VARCHAR, near_similarity FLOAT, near_kind VARCHAR)
"""

# An edge points from the row that is earlier in keeper order. Of several kept copies the most similar one stands for a text.
_NEAR = """
CREATE OR REPLACE TABLE near_edges AS
WITH pointed AS (
    SELECT least(a.number, b.number) AS earlier, greatest(a.number, b.number) AS later, similarity,
        CASE WHEN a.number < b.number THEN a.row_id ELSE b.row_id END AS keeper,
        CASE WHEN a.number < b.number THEN b.doc_id ELSE a.doc_id END AS doc_id
    FROM edges JOIN standing AS a ON doc_a = a.doc_id JOIN standing AS b ON doc_b = b.doc_id
    WHERE similarity >= {threshold}
)
SELECT *, row_number() OVER (ORDER BY later, similarity DESC, earlier) - 1 AS place FROM pointed
"""

# Then, among the rows that are left, an edge points from the longer one to the one it contains; those of a length are in keeper order. A
# row that stands for near copies stays, so that whatever went for it has it in its place.
_CONTAINED = """
CREATE OR REPLACE TABLE near_edges AS
WITH lengths AS (
    SELECT row_id, doc_id, number, row_number() OVER (ORDER BY n_bytes DESC, number) - 1 AS place
    FROM standing ANTI JOIN near USING (doc_id)
),
directed AS (
    SELECT doc_a AS doc_id, doc_b AS other, containment_a AS similarity FROM edges
    UNION ALL SELECT doc_b, doc_a, containment_b FROM edges
),
pointed AS (
    SELECT longer.place AS earlier, shorter.place AS later, similarity, longer.row_id AS keeper, shorter.doc_id, longer.number
    FROM directed JOIN lengths AS shorter USING (doc_id) JOIN lengths AS longer ON other = longer.doc_id
    WHERE similarity >= {containment} AND longer.place < shorter.place AND shorter.row_id NOT IN (SELECT keeper FROM near)
)
SELECT *, row_number() OVER (ORDER BY later, similarity DESC, number) - 1 AS place FROM pointed
"""

_NEAR_KEPT = "INSERT INTO near SELECT doc_id, keeper, similarity, $1 FROM near_edges SEMI JOIN chosen USING (place)"

_KEEP = """
CREATE OR REPLACE VIEW kept AS
SELECT exact.* EXCLUDE (exact_keeper), coalesce(near.keeper, exact_keeper) AS keeper, near_similarity, near_kind
FROM exact LEFT JOIN near ON exact.doc_id = near.doc_id AND exact_keeper IS NOT NULL
"""

_WANTED = """
SELECT doc_id, min(place).shard AS shard, min(place)."row" AS "row", any_value(n_bytes) AS n_bytes, any_value(masks) AS masks
FROM (
    SELECT doc_id, n_bytes, masks, {'shard': shard, 'row': "row"} AS place
    FROM rows JOIN cut ON rows.rowid = slot
    WHERE n_counted IS NULL AND is_wanted
)
GROUP BY doc_id, masks_key(masks), masks::VARCHAR ORDER BY shard, "row"
"""

# What happens to each row; `slot` is its place in `rows`.
_OUTCOME = """
CREATE OR REPLACE TABLE outcome AS
WITH final AS (
    SELECT slot, source, component, n_bytes, quality, perplexity, is_holdout, cut.rank, n_counted, n_estimated, n_through,
        rule_reason IS NULL AS is_eligible,
        CASE WHEN keeper <> row_id THEN keeper END AS dup_of,
        CASE WHEN keeper <> row_id THEN coalesce(near_kind, 'exact') END AS dup_kind,
        CASE WHEN keeper <> row_id THEN coalesce(near_similarity, 1.0::FLOAT) END AS dup_similarity,
        coalesce(early_reason,
            CASE WHEN is_holdout THEN NULL WHEN dup_kind IS NOT NULL THEN 'duplicate.' || dup_kind WHEN NOT is_within THEN 'budget' END
        ) AS reason
    FROM kept LEFT JOIN cut USING (slot)
),
placed AS (
    SELECT *, CASE WHEN is_holdout THEN 'holdout' WHEN reason IS NULL THEN 'train' ELSE 'dropped' END AS split FROM final
)
SELECT * EXCLUDE (is_holdout, n_counted, n_through), CASE WHEN split <> 'dropped' THEN n_counted END::INTEGER AS n_tokens,
    CASE WHEN split = 'train' THEN {stages} ELSE []::TINYINT[] END AS stages
FROM placed
"""

_DECIDED = "CREATE OR REPLACE TABLE decided AS SELECT {columns} FROM outcome JOIN rows ON rows.rowid = slot"
