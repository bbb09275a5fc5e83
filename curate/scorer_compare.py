"""The scorers of a version compared: do they rank alike, and what would each take that the other leaves, for `curate show --scorers`.

Stands beside `report`; it reads what a build has published and decides nothing. Each scorer ranks alone and over all rows, best first,
without strata: it is about the scorers, not about recipes, which `curate try` compares. Cost: two sorts of the domain's ranked rows in
DuckDB, which spills beyond 1 GB, and a row group of a shard for each sample.
"""

import contextlib
from typing import Any

import duckdb

from curate.expressions import BEST_FIRST
from curate.manifest import Manifest, ManifestError, attach
from curate.page_texts import excerpt, read_texts
from curate.recipe import DOMAIN_COMPONENT
from curate.sandbox import quoted
from curate.store import Store
from curate.why import plain

_MEMORY = "1GB"
_N_SAMPLES = 3


def compare_scorers(store: Store, manifest: Manifest) -> dict[str, Any]:
    """Compare the two scorers of a version over the domain's rows that passed rules and dedup, as plain values.

    `rank_correlation` is Spearman's, ties by their mean rank, over rows that have both scores; 1 is the same ranking. `takes` says what
    each would take within the tokens of the version's own domain rows in training, and which share of that the other one takes, too.
    Tokens that nobody counted are estimated from their source's bytes per token. Raises ManifestError where a version has not both.
    """
    names = [scorer["name"] for scorer in manifest.info["scorers"]]
    if missing := [name for name in BEST_FIRST if name not in names]:
        raise ManifestError(
            f"{manifest.version} has no scorer {missing[0]}, so there is nothing to compare; build with "
            f'--set \'scorers=["quality", "perplexity"]\', or leave out --scorers'
        )
    remarks: list[str] = []
    with store.scratch() as folder, contextlib.closing(attach(store, manifest, "m")) as connection:
        connection.execute(f"SET memory_limit = '{_MEMORY}'")
        connection.execute(f"SET temp_directory = {quoted(str(folder))}")
        try:
            found = _compared(connection)
        except duckdb.Error as error:
            why = " ".join(str(error).split())
            raise ManifestError(f"a part of {manifest.version} is damaged ({why}); see curate verify {manifest.version}") from None
    texts = read_texts(store, [row for one in found["takes"] for row in one["samples"]], remarks)
    for row in [row for one in found["takes"] for row in one["samples"]]:
        row["text"] = excerpt(texts[row["row_id"]]) if row["row_id"] in texts else None
        del row["masks"]
    return {"version": manifest.version, "sample": manifest.is_sample, **found, "remarks": list(dict.fromkeys(remarks))}


def _compared(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    connection.execute(_RANKED.format(domain=DOMAIN_COMPONENT, **{name: f"{name} {best}" for name, best in BEST_FIRST.items()}))
    correlation, n_both = connection.execute(_SPEARMAN).fetchall()[0]
    (budget,) = connection.execute(_BUDGET).fetchall()[0]
    takes = []
    for name, other in zip(BEST_FIRST, reversed(BEST_FIRST), strict=True):
        values = {"name": name, "other": other, "budget": budget}
        rows, n_tokens, is_estimated, rows_both, tokens_both = connection.execute(_TAKES.format(**values)).fetchall()[0]
        takes.append({
            "scorer": name, "rows": rows, "n_tokens": n_tokens, "estimated": is_estimated,
            "also_rows": round(rows_both / rows, 4) if rows else None,
            "also_tokens": round(tokens_both / n_tokens, 4) if n_tokens else None,
            "samples": plain(connection.sql(_ALONE.format(n=_N_SAMPLES, **values)).to_arrow_table()),
        })  # fmt: skip
    return {
        "rank_correlation": None if correlation is None else round(correlation, 4), "n_both": n_both, "budget_tokens": budget,
        "takes": takes,
    }  # fmt: skip


_RANKED = """
CREATE TEMP TABLE ranked AS
WITH ratios AS (SELECT source, sum(n_tokens)::DOUBLE / sum(n_bytes) AS ratio FROM m WHERE n_tokens IS NOT NULL GROUP BY source),
overall AS (SELECT sum(n_tokens)::DOUBLE / sum(n_bytes) AS ratio FROM m WHERE n_tokens IS NOT NULL),
sized AS (
    SELECT row_id, source::VARCHAR AS source, url, shard::VARCHAR AS shard, "row", masks, split, n_words, quality, perplexity,
        n_tokens IS NULL AS is_estimated,
        coalesce(n_tokens, round(n_bytes * coalesce(ratios.ratio, overall.ratio, 0)))::BIGINT AS n
    FROM m LEFT JOIN ratios USING (source), overall WHERE component = '{domain}' AND rank IS NOT NULL
)
SELECT *,
    row_number() OVER by_quality AS quality_place, sum(n) OVER by_quality AS quality_tokens,
    row_number() OVER by_perplexity AS perplexity_place, sum(n) OVER by_perplexity AS perplexity_tokens
FROM sized
WINDOW by_quality AS (ORDER BY {quality} NULLS LAST, row_id ROWS UNBOUNDED PRECEDING),
    by_perplexity AS (ORDER BY {perplexity} NULLS LAST, row_id ROWS UNBOUNDED PRECEDING)
"""

# The best first in both, so that rankings that agree have 1. Ties have the mean of their ranks.
_SPEARMAN = """
WITH both_scores AS (SELECT quality, perplexity FROM ranked WHERE quality IS NOT NULL AND perplexity IS NOT NULL),
ranks AS (
    SELECT rank() OVER (ORDER BY quality DESC) + (count(*) OVER (PARTITION BY quality) - 1) / 2 AS a,
        rank() OVER (ORDER BY perplexity) + (count(*) OVER (PARTITION BY perplexity) - 1) / 2 AS b
    FROM both_scores
)
SELECT CASE WHEN count(DISTINCT a) > 1 AND count(DISTINCT b) > 1 THEN corr(a, b) END, count(*) FROM ranks
"""
_BUDGET = "SELECT coalesce(sum(n) FILTER (split = 'train'), 0)::BIGINT FROM ranked"
_TAKEN = "({name} IS NOT NULL AND {name}_tokens <= {budget})"
_OTHER = "({other} IS NOT NULL AND {other}_tokens <= {budget})"
_TAKES = f"""
SELECT count(*), coalesce(sum(n), 0)::BIGINT, coalesce(bool_or(is_estimated), false),
    count(*) FILTER ({_OTHER}), coalesce(sum(n) FILTER ({_OTHER}), 0)::BIGINT
FROM ranked WHERE {_TAKEN}
"""
_ALONE = f"""
SELECT row_id, source, url, quality, perplexity, n_words, {{name}}_place AS place, {{other}}_place AS place_of_other, shard, "row", masks
FROM ranked WHERE {_TAKEN} AND NOT {_OTHER} ORDER BY {{name}}_place LIMIT {{n}}
"""
