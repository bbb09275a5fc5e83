"""One pure function: (columns, counts, recipe) -> what happens to each row, and why.

The order is the contract's: holdout -> rules (first reason wins, in the order of each source) -> holdout.leak -> keepers among the
rows that passed -> subset by order and token budget. It is SQL over the table `rows`, so it spills instead of growing,
and reads no text. Where a row above the cut has no token count yet the answer is "count these rows next"; the result
does not depend on which counts were there before.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

import duckdb
import pyarrow as pa

from curate.families import family_of
from curate.keepers import keepers
from curate.manifest import COLUMNS, share_key
from curate.mix import pool_budgets
from curate.recipe import DOMAIN_COMPONENT, FAMILY_NAME, DomainError, Recipe
from filters import CORPUS_FAMILIES, FAMILIES
from filters.spec import Family

# Tokens that one byte is taken for where a source has no count yet. Only how much is counted at once depends on it.
_TOKENS_PER_BYTE = 0.3
_ORDER = re.compile(r"(random|quality|n_bytes|n_words|([a-z][a-z0-9_]*)\.([a-z][a-z0-9_]*))(?: (ASC|DESC))?")
# Who is kept among copies (design.md, "No removal without proof"); null comes last.
_KEEPER_ORDER = "quality DESC NULLS LAST, source_place, n_bytes DESC, date ASC NULLS LAST, doc_id, row_id"


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """Rows whose tokens have to be counted before the decision is final: doc_id, shard, row, n_bytes, masks."""

    rows: pa.Table


def decide(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> Wanted | None:
    """Write the table `decided` (the columns of a manifest, and `is_eligible`: passes the rules), or say what to count.

    Reads the tables `rows` (see corpus.load_rows), `edges` (see edges.link), `counts` (doc_id, masks_key, n_tokens) and `frozen`
    (doc_id, group of the evalset that is taken over). Raises DomainError where the recipe's `select.order_by` names a column that
    is not there.
    """
    order_value, direction = _order(connection, recipe)
    values = {
        "rules": _rule_cases(recipe),
        "threshold": _float(recipe.dedup.threshold),
        "containment": _float(recipe.dedup.contained_from),
        "keeper_order": _KEEPER_ORDER,
        "has_near": _has_near(recipe),
        "signals": _signal_columns(connection, recipe),
        "order_value": order_value,
        "direction": direction,
        "domain": _text(DOMAIN_COMPONENT),
        "seed": recipe.seed,
        "budgets": ", ".join(f"({_text(name)}, {tokens})" for name, tokens in pool_budgets(recipe).items()),
        "tokens_per_byte": _TOKENS_PER_BYTE,
    }
    for statement in (_JUDGE, _MARK, _STANDING):
        connection.execute(statement.format(**values))
    for kind, statement in (("jaccard", _NEAR), ("containment", _CONTAINED)):
        connection.execute(statement.format(**values))
        _keep_near(connection, kind)
    for statement in (_KEEP, _RANK, _CUT):
        connection.execute(statement.format(**values))
    wanted = connection.sql(_WANTED).to_arrow_table()
    if wanted.num_rows:
        return Wanted(wanted)
    connection.execute(_DECIDED.format(columns=", ".join(f'"{name}"' for name in COLUMNS)))
    return None


def _keep_near(connection: duckdb.DuckDBPyConnection, kind: str) -> None:
    """Decide who is kept by `near_edges` (earlier, later, in the order of their place), and add who goes to `near`."""
    edges = connection.sql("SELECT earlier, later FROM near_edges ORDER BY place").to_arrow_table()
    n_rows = connection.execute("SELECT coalesce(max(later) + 1, 0) FROM near_edges").fetchall()[0][0]
    by = keepers(n_rows, edges["earlier"].to_numpy(), edges["later"].to_numpy())
    connection.register("chosen", pa.table({"place": by[by >= 0]}))
    connection.execute(_NEAR_KEPT, [kind])
    connection.unregister("chosen")


def _order(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> tuple[str, str]:
    """Turn `select.order_by` (random, or a column with ASC or DESC) into SQL over the table `rows`, and its direction."""
    match = _ORDER.fullmatch(recipe.select.order_by)
    allowed = "random, quality, n_bytes, n_words, or a signal as FAMILY.SIGNAL, with ASC or DESC"
    if match is None:
        raise DomainError(f"select.order_by is {recipe.select.order_by!r}; allowed: {allowed}")
    column, direction = match[1], match[4] or "ASC"
    if column == "random":
        return f"hash_key('order|{recipe.seed}', doc_id)", direction
    unknown = DomainError(f"select.order_by names {column!r}, which is no column here; allowed: {allowed}")
    if match[2] and match[2] not in (*FAMILIES, *CORPUS_FAMILIES, *recipe.families):
        raise unknown
    if match[2] and match[2] not in recipe.families_to_compute():
        raise DomainError(f"select.order_by names {column!r}, but {match[2]!r} is computed only where rules name it; add it to rules")
    expression = _signal(match[2], match[3]) if match[2] else column
    try:
        connection.sql(f"SELECT {expression} FROM rows LIMIT 0")
    except duckdb.Error:
        raise unknown from None
    return expression, direction


def _signal_columns(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> str:
    """Name the columns of signals, which no step after the rules reads and which are half of a row."""
    columns, families = connection.sql("SELECT * FROM rows LIMIT 0").columns, recipe.families_to_compute()
    return ", ".join(f'"{name}"' for name in columns if name in families)


def _has_near(recipe: Recipe) -> str:
    """Say as SQL which rows may go for one that is alike, or stand for one."""
    exact_only = [source.name for source in recipe.decided_sources() if not source.near_duplicates]
    return f"source NOT IN ({_texts(exact_only)})" if exact_only else "true"


def families_read(recipe: Recipe) -> tuple[str, ...]:
    """Name the families whose signals `decide` reads from `rows`: those that judge a source, and the one that `select.order_by` names."""
    judging = [name for source in recipe.decided_sources() for name in recipe.judged_by(source)]
    ordering = [recipe.select.order_by.split(".")[0]]
    known = recipe.families_to_compute()
    return tuple(name for name in dict.fromkeys(["statistics", *judging, *ordering]) if name in known)


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
            reason = _text(f"{found.name}.{rule.name}")
            cases.append(f"WHEN {_signal(found.name, rule.signal)}::{exact} {breach} {threshold}::{exact} THEN {reason}")
    return cases


def _signal(name: str, signal: str) -> str:
    assert FAMILY_NAME.fullmatch(name), name
    return f'struct_extract("{name}", {_text(signal)})'


def _float(threshold: float | None) -> str:
    return "NULL::FLOAT" if threshold is None else f"{threshold}::FLOAT"


def _texts(values: Iterable[str]) -> str:
    return ", ".join(_text(value) for value in values)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


_JUDGE = """
CREATE OR REPLACE TABLE judged AS
SELECT * EXCLUDE ({signals}), {rules} AS rule_reason, {order_value} AS order_value,
    hash_key('holdout', "group") < holdout_bound AS is_holdout
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
reasoned AS (
    SELECT *, CASE
        WHEN is_holdout THEN NULL
        WHEN rule_reason IS NOT NULL THEN rule_reason
        WHEN doc_id IN (SELECT doc_id FROM leaking) OR "group" IN (SELECT "group" FROM held) THEN 'holdout.leak'
    END AS early_reason FROM judged
)
SELECT *,
    CASE WHEN NOT is_holdout AND early_reason IS NULL
        THEN first_value(row_id) OVER (PARTITION BY doc_id, is_holdout, early_reason IS NULL ORDER BY {keeper_order}) END AS exact_keeper
FROM reasoned
"""

# Texts that passed and have an edge, by their first rows in keeper order; `near` holds those of them that go, and by which row.
_STANDING = """
CREATE OR REPLACE TABLE standing AS
SELECT row_id, doc_id, n_bytes, row_number() OVER (ORDER BY {keeper_order}) - 1 AS number FROM marked
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
CREATE OR REPLACE TABLE kept AS
SELECT marked.* EXCLUDE (exact_keeper), coalesce(near.keeper, exact_keeper) AS keeper, near_similarity, near_kind
FROM marked LEFT JOIN near ON marked.doc_id = near.doc_id AND exact_keeper IS NOT NULL
"""

_RANK = """
CREATE OR REPLACE TABLE ranked AS
WITH passed AS (SELECT * FROM kept WHERE keeper = row_id)
SELECT row_id, row_number() OVER (ORDER BY order_value {direction} NULLS LAST, row_id) AS rank FROM passed WHERE component = {domain}
UNION ALL
SELECT row_id, row_number() OVER (PARTITION BY component ORDER BY hash_key('pool|{seed}|' || component, doc_id), row_id)
FROM passed WHERE component <> {domain}
"""

# The domain takes the longest prefix that fits. A replay pool is covered: a draw cuts its last document, so the row that
# crosses the budget is in, or a component of long documents with a small share would be empty.
_CUT = """
CREATE OR REPLACE TABLE cut AS
WITH budgets(component, budget) AS (VALUES {budgets}),
counted AS (
    SELECT kept.row_id, kept.source, kept.component, kept.is_holdout, kept.n_bytes, rank, counts.n_tokens AS n_counted
    FROM kept LEFT JOIN ranked USING (row_id)
    LEFT JOIN counts ON counts.doc_id = kept.doc_id AND counts.masks_key = masks_key(kept.masks)
    WHERE rank IS NOT NULL OR kept.is_holdout
),
ratios AS (SELECT source, sum(n_counted)::DOUBLE / sum(n_bytes) AS ratio FROM counted WHERE n_counted IS NOT NULL GROUP BY source),
sized AS (
    SELECT counted.*, coalesce(n_counted, ceil(n_bytes * coalesce(ratio, {tokens_per_byte})))::BIGINT AS n_estimated
    FROM counted LEFT JOIN ratios USING (source)
),
placed AS (
    SELECT *, sum(n_estimated) OVER (PARTITION BY component, rank IS NULL ORDER BY rank)::BIGINT - n_estimated AS n_before FROM sized
)
SELECT row_id, rank, n_counted, is_holdout, n_before, budget,
    CASE WHEN component = {domain} THEN n_before + n_estimated <= budget ELSE n_before < budget END AS is_within
FROM placed LEFT JOIN budgets USING (component)
"""

# A row needs its count where the budget is not surely full before it; 5 % more than the estimate asks for, so that the
# second round is rarely needed. The first uncounted row always qualifies while tokens are left, so this ends.
_WANTED = """
SELECT doc_id, min(place).shard AS shard, min(place)."row" AS "row", any_value(n_bytes) AS n_bytes, any_value(masks) AS masks
FROM (
    SELECT doc_id, n_bytes, masks, {'shard': shard, 'row': "row"} AS place
    FROM kept JOIN cut USING (row_id)
    WHERE n_counted IS NULL AND (cut.is_holdout OR n_before <= budget * 1.05)
)
GROUP BY doc_id, masks_key(masks), masks::VARCHAR ORDER BY shard, "row"
"""

_DECIDED = """
CREATE OR REPLACE TABLE decided AS
WITH final AS (
    SELECT kept.* EXCLUDE (keeper), cut.rank, rule_reason IS NULL AS is_eligible,
        CASE WHEN keeper <> row_id THEN keeper END AS dup_of,
        CASE WHEN keeper <> row_id THEN coalesce(near_kind, 'exact') END AS dup_kind,
        CASE WHEN keeper <> row_id THEN coalesce(near_similarity, 1.0::FLOAT) END AS dup_similarity,
        coalesce(early_reason,
            CASE WHEN kept.is_holdout THEN NULL WHEN dup_kind IS NOT NULL THEN 'duplicate.' || dup_kind WHEN NOT is_within THEN 'budget' END
        ) AS reason,
        n_counted
    FROM kept LEFT JOIN cut USING (row_id)
),
placed AS (
    SELECT *, CASE WHEN is_holdout THEN 'holdout' WHEN reason IS NULL THEN 'train' ELSE 'dropped' END AS split FROM final
),
filled AS (
    SELECT * EXCLUDE (n_counted), CASE WHEN split <> 'dropped' THEN n_counted END::INTEGER AS n_tokens,
        CASE WHEN split = 'train' THEN [0]::TINYINT[] ELSE []::TINYINT[] END AS stages
    FROM placed
)
SELECT {columns}, is_eligible FROM filled
"""
