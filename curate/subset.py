"""Which of the rows that passed are taken: ranks, strata, the cut, the pools of the stages and of the replay components.

The last part of `decide`, over its tables `marked` and `kept`. The domain is cut first, because what an epoch draws of the replay
components may follow from the domain's pool. Amounts are tokens where the recipe has a budget in tokens, else bytes, which are known of
every row.

The decision: whatever of a row's tokens is not counted is estimated, and every row that the estimate brings near a cut is asked for. A
cut is final only when no row before it is uncounted, so it is the same whatever had been counted and estimated on the way.
"""

from collections.abc import Sequence
from fractions import Fraction

import duckdb
import pyarrow as pa

from curate.expressions import Selection, Term
from curate.mix import Pool, apportion, replay_budgets, water_fill
from curate.recipe import DOMAIN_COMPONENT, DomainError, Recipe

MAX_STRATA = 1000
# Tokens that one byte is taken for where a source has no count yet. Only how much is counted at once depends on it.
_TOKENS_PER_BYTE = 0.3


def keys_of(recipe: Recipe, chosen: Selection) -> dict[str, str]:
    """Give SQL over `rows` and `rule_reason` for what a cut goes by: the condition of `select.where`, `order_value` (the keys of the
    ranking, packed) and `stratum` (the value as JSON; one empty text where there are no strata). Replay rows have none of them."""
    is_domain = f"component = {quoted(DOMAIN_COMPONENT)}"
    # A hash is dear, and a row that a rule drops is not ranked.
    drawn = f"CASE WHEN rule_reason IS NULL THEN hash_key('order|{recipe.seed}', doc_id) END"
    keys = [drawn if term.expression is None else f"({term.expression.sql})" for term in chosen.order]
    packed = ", ".join(f"t{number} := CASE WHEN {is_domain} THEN {key} END" for number, key in enumerate(keys))
    stratum = "''" if chosen.stratum is None else f"CASE WHEN {is_domain} THEN coalesce(to_json({chosen.stratum.sql})::VARCHAR, 'null') END"
    return {
        "is_chosen": "true" if chosen.where is None else f"CASE WHEN {is_domain} THEN ({chosen.where.sql}) IS TRUE ELSE true END",
        "order_value": f"struct_pack({packed})",
        "stratum": stratum,
    }


def cut(connection: duckdb.DuckDBPyConnection, recipe: Recipe, chosen: Selection) -> None:
    """Make the tables `cut` (ranks, what is taken, what has to be counted to know it) and `pools` (of the domain, by stage).

    Raises DomainError where `select.stratify_by` gives too many strata.
    """
    domain = quoted(DOMAIN_COMPONENT)
    is_past = _is_past(connection, recipe, chosen)
    values = {"order": _order(chosen.order), "is_past": is_past, "seed": recipe.seed, "tokens_per_byte": _TOKENS_PER_BYTE}
    connection.execute(_SIZED.format(domain=domain, **values))
    if recipe.select.threshold is None:
        _place(connection, recipe)
        within = _REST if chosen.stratum else _PREFIX
    else:
        within = _PAST
    # A row of another unit than tokens needs its count only where it is taken.
    near = "is_near" if recipe.select.budget_tokens is not None else "is_within"
    through = any(stage.budget_tokens for stage in recipe.schedule())
    n_through = "sum(n_estimated) FILTER (is_within) OVER (ORDER BY rank)::BIGINT" if through else "NULL::BIGINT"
    connection.execute(_TAKEN.format(within=within.format(domain=domain), near=near, n_through=n_through))
    budgets = replay_budgets(recipe, _pools(connection, recipe))
    listed = ", ".join(f"({quoted(name)}, {budget})" for name, budget in budgets.items())
    connection.execute(_CUT.format(domain=domain, budgets=listed or "(NULL, 0)"))


def stages_of(recipe: Recipe) -> str:
    """Give SQL for the numbers of the stages that may draw a row, by its component and the `n_through` of `cut`."""
    cases = []
    for name in recipe.components():
        numbers = [
            f"CASE WHEN n_through <= {stage.budget_tokens} THEN {number} END"
            if name == DOMAIN_COMPONENT and stage.budget_tokens
            else f"{number}"
            for number, stage in enumerate(recipe.schedule())
            if stage.shares.get(name)
        ]
        cases.append(f"WHEN component = {quoted(name)} THEN list_filter([{', '.join(numbers)}]::TINYINT[], lambda s: s IS NOT NULL)")
    return f"CASE {' '.join(cases)} END"


def quoted(text: str) -> str:
    """Write a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _order(terms: Sequence[Term]) -> str:
    return ", ".join(f"order_value.t{number} {term.direction} NULLS {term.nulls}" for number, term in enumerate(terms))


def _is_past(connection: duckdb.DuckDBPyConnection, recipe: Recipe, chosen: Selection) -> str:
    """Say in SQL whether a row reaches `select.threshold`; a float32 is compared as such, so that one equal to it does."""
    if (threshold := recipe.select.threshold) is None:
        return "NULL::BOOLEAN"
    kind = str(connection.sql("SELECT order_value.t0 FROM kept LIMIT 0").types[0])
    exact = "FLOAT" if kind == "FLOAT" else "DOUBLE"
    return f"coalesce(order_value.t0::{exact} {'>=' if chosen.order[0].direction == 'DESC' else '<='} {threshold!r}::{exact}, false)"


def _place(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> None:
    """Make the table `placed`: the domain's rows with the part of the whole that their stratum has, and what is before them in it."""
    select = recipe.select
    amount = "n_bytes" if select.budget_tokens is None else "n_estimated"
    domain = quoted(DOMAIN_COMPONENT)
    found = connection.execute(_STRATA.format(amount=amount, domain=domain)).fetchall()
    if len(found) > MAX_STRATA:
        raise DomainError(
            f"select.stratify_by = {select.stratify_by!r} gives {len(found):,} strata; it takes at most {MAX_STRATA:,}: coarser ones, "
            'as in "left(date, 4)" or "floor(log2(n_words))"'
        )
    n_bytes, stocks = ({row[0]: row[place] for row in found} for place in (1, 2))
    total = int(Fraction(str(select.top_share)) * sum(n_bytes.values())) if select.budget_tokens is None else select.budget_tokens
    if select.stratify == "equal":
        parts = water_fill(total, stocks)
    else:
        parts = apportion(total, n_bytes) if len(found) > 1 else dict.fromkeys(stocks, total)
    connection.register("strata", pa.table({"stratum": pa.array(parts, pa.string()), "budget": pa.array(parts.values(), pa.int64())}))
    connection.execute(_PLACED.format(amount=amount, domain=domain, total=total))
    connection.unregister("strata")


def _pools(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> list[Pool]:
    """Make the table `pools` (stage, n_tokens, is_all) and give its rows."""
    is_in = [f"n_through <= {stage.budget_tokens}" if stage.budget_tokens else "is_within" for stage in recipe.schedule()]
    selects = [
        f"SELECT {number} AS stage, coalesce(sum(n_estimated) FILTER ({condition}), 0)::BIGINT AS n_tokens,"
        f" coalesce(bool_and(coalesce({condition}, false)), true) AS is_all FROM taken"
        for number, condition in enumerate(is_in)
    ]
    connection.execute(f"CREATE OR REPLACE TABLE pools AS {' UNION ALL '.join(selects)}")
    return [Pool(*row) for row in connection.execute("SELECT n_tokens, is_all FROM pools ORDER BY stage").fetchall()]


_SIZED = """
CREATE OR REPLACE TABLE sized AS
WITH passed AS (SELECT * FROM kept WHERE keeper = row_id),
ranked AS (
    SELECT slot, row_number() OVER (ORDER BY {order}, row_id) AS rank, {is_past} AS is_past FROM passed WHERE component = {domain}
    UNION ALL BY NAME
    SELECT slot, row_number() OVER (PARTITION BY component ORDER BY hash_key('pool|{seed}|' || component, doc_id), row_id) AS rank
    FROM passed WHERE component <> {domain}
),
counted AS (
    SELECT slot, marked.source, marked.component, marked.n_bytes, rank, stratum, is_past, counts.n_tokens AS n_counted
    FROM marked LEFT JOIN ranked USING (slot)
    LEFT JOIN counts ON counts.doc_id = marked.doc_id AND counts.masks_key = marked.masks_key
    WHERE rank IS NOT NULL OR marked.is_holdout
),
ratios AS (SELECT source, sum(n_counted)::DOUBLE / sum(n_bytes) AS ratio FROM counted WHERE n_counted IS NOT NULL GROUP BY source)
SELECT counted.*, coalesce(n_counted, ceil(n_bytes * coalesce(ratio, {tokens_per_byte})))::BIGINT AS n_estimated
FROM counted LEFT JOIN ratios USING (source)
"""

_STRATA = """
SELECT stratum, sum(n_bytes)::BIGINT, sum({amount})::BIGINT FROM sized WHERE rank IS NOT NULL AND component = {domain} GROUP BY ALL
ORDER BY stratum
"""

# 5 % more than the estimate asks for is counted, so that the second round is rarely needed. The first uncounted row always qualifies
# while something is left, so this ends.
_PLACED = """
CREATE OR REPLACE TABLE placed AS
WITH before AS (
    SELECT slot, rank, n_counted, n_estimated, stratum, {amount} AS amount, budget,
        sum({amount}) OVER (PARTITION BY stratum ORDER BY rank)::BIGINT - {amount} AS n_before
    FROM sized JOIN strata USING (stratum) WHERE rank IS NOT NULL AND component = {domain}
)
SELECT *, n_before + amount <= budget AS is_within, n_before <= budget * 1.05 AS is_near, {total}::BIGINT AS total FROM before
"""

# The domain takes the longest prefix that fits.
_PREFIX = "SELECT * FROM placed"

# Of several strata each takes its longest prefix; what that leaves of the whole goes to the rest, in the order of the ranking.
_REST = """
SELECT * REPLACE (is_within OR n_before_rest + amount <= n_left AS is_within, is_near OR n_before_rest <= n_left * 1.05 AS is_near)
FROM (
    SELECT *, coalesce(sum(amount) FILTER (NOT is_within) OVER (ORDER BY rank), 0)::BIGINT - amount AS n_before_rest,
        (total - coalesce(sum(amount) FILTER (is_within) OVER (), 0))::BIGINT AS n_left
    FROM placed
)
"""

_PAST = "SELECT *, is_past AS is_within FROM sized WHERE rank IS NOT NULL AND component = {domain}"

_TAKEN = """
CREATE OR REPLACE TABLE taken AS
SELECT slot, rank, n_counted, n_estimated, stratum, is_within, {near} AS is_wanted,
    CASE WHEN is_within THEN {n_through} END AS n_through
FROM ({within})
"""

# A replay pool is covered: a draw cuts its last document, so the row that crosses the budget is in, or a component of long documents
# with a small share would be empty.
_CUT = """
CREATE OR REPLACE TABLE cut AS
WITH budgets(component, budget) AS (VALUES {budgets}),
before AS (
    SELECT slot, rank, n_counted, n_estimated, coalesce(budget, 0) AS budget,
        sum(n_estimated) OVER (PARTITION BY sized.component ORDER BY rank)::BIGINT - n_estimated AS n_before
    FROM sized LEFT JOIN budgets USING (component) WHERE rank IS NOT NULL AND sized.component <> {domain}
)
SELECT * FROM taken
UNION ALL BY NAME
SELECT slot, rank, n_counted, n_estimated, n_before < budget AS is_within, n_before <= budget * 1.05 AS is_wanted FROM before
UNION ALL BY NAME
SELECT slot, n_counted, n_estimated, true AS is_wanted FROM sized WHERE rank IS NULL
"""
