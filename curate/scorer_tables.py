"""What a ranking by perplexity favours beside what it is meant to: the top decile against the pool, for `curate show`.

Stands under `report`. Lowest perplexity first floats templates, lists, repetition and near copies of the reference, so what the best
tenth is like is laid beside what all rows are like, and what moves is said. Cost: one pass over the signals of a version that was scored
by perplexity; some 40 bytes for each ranked row of the domain, in DuckDB.
"""

from collections.abc import Mapping
from typing import Any

import duckdb

from curate.manifest import Manifest
from curate.recipe import DOMAIN_COMPONENT
from curate.sql_signals import signal_views
from curate.store import Store

# A row of which more than this share of the runs of 13 words is in the reference is flagged.
FLAGGED = 0.2
_PARTS = 10  # the top decile
_MOVES = 2.0  # times more or less than the pool is said
# Below this a move is noise: rows of a source in the decile, there or expected, and the share of the characters in repeated runs.
_LEAST_ROWS, _LEAST_SHARE = 5, 0.01
_NEEDED = ("statistics", "gopher_repetition")


def perplexity_tables(store: Store, connection: duckdb.DuckDBPyConnection, manifest: Manifest, name: str) -> dict[str, Any] | None:
    """Describe the perplexities of a version, whose rows are the view `name` of the connection; None where nothing was scored so.

    `pool` is what the domain's scored rows that passed rules and dedup are like, `top` the tenth of them with the lowest perplexity.
    What the signals, which lie in the cache, do not tell any more is None or left out.
    """
    scorer = next((one for one in manifest.info["scorers"] if one["name"] == "perplexity"), None)
    if scorer is None:
        return None
    signal_views(store, connection, manifest)
    known = _families(connection)
    signals, join = (_SIGNALS, 'JOIN signals USING (shard, "row")') if known >= {*_NEEDED} else (_NO_SIGNALS, "")
    connection.execute(_SCORED.format(name=name, signals=signals, join=join, parts=_PARTS, domain=DOMAIN_COMPONENT))
    pool, top = (connection.sql(_LIKE.format(where=where)).to_arrow_table().to_pylist()[0] for where in ("true", "is_top"))
    lines = _lines(pool, top, is_known=known >= {*_NEEDED}) if pool["rows"] else []
    lines += _source_lines(connection, pool["rows"], top["rows"])
    return {
        "n_cross_fitted": scorer["n_cross_fitted"],
        "flagged": _flagged(connection, name) if "reference" in known else None,
        "pool": pool["rows"],
        "top": top["rows"],
        "top_up_to": None if top["highest"] is None else round(top["highest"], 4),
        "lines": lines,
        "warnings": [_warning(line) for line in lines if line["moves"]],
    }


def _families(connection: duckdb.DuckDBPyConnection) -> set[str]:
    if not connection.execute("SELECT count(*) FROM duckdb_views() WHERE view_name = 'signals'").fetchall()[0][0]:
        return set()
    return set(connection.sql("SELECT * FROM signals LIMIT 0").columns)


def _flagged(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, Any]:
    n_flagged, n_rows = connection.execute(_FLAGGED.format(name=name), [FLAGGED]).fetchall()[0]
    return {"above": FLAGGED, "rows": n_flagged, "of": n_rows}


def _lines(pool: Mapping[str, Any], top: Mapping[str, Any], *, is_known: bool) -> list[dict[str, Any]]:
    lines = [_line("median words", pool["words"], top["words"], least=0.0)]
    if not is_known:
        return lines
    shares = [one["duplicates"] / one["n_duplicates"] / 1e6 if one["n_duplicates"] else None for one in (pool, top)]
    return [
        *lines,
        _line("median compression ratio", pool["compression"], top["compression"], least=0.0),
        _line("mean share of characters in repeated runs of 5 words", *shares, least=_LEAST_SHARE),
    ]


def _source_lines(connection: duckdb.DuckDBPyConnection, n_pool: int, n_top: int) -> list[dict[str, Any]]:
    rows = connection.execute(_SOURCES).fetchall()
    return [
        _line(f"share of source {source}", n_here / n_pool, n_best / n_top, least=0.0)
        if max(n_best, n_here * n_top / n_pool) >= _LEAST_ROWS
        else {"what": f"share of source {source}", "pool": round(n_here / n_pool, 4), "top": round(n_best / n_top, 4), "moves": False}
        for source, n_here, n_best in rows
    ]


def _line(what: str, pool: float | None, top: float | None, *, least: float) -> dict[str, Any]:
    if pool is None or top is None:
        return {"what": what, "pool": pool, "top": top, "moves": False}
    moves = max(pool, top) > _MOVES * min(pool, top) and abs(pool - top) >= least
    return {"what": what, "pool": round(pool, 4), "top": round(top, 4), "moves": moves}


def _warning(line: Mapping[str, Any]) -> str:
    way = "higher" if line["top"] > line["pool"] else "lower"
    return (
        f"the top decile by perplexity is unlike the pool: {line['what']} {line['top']:g} against {line['pool']:g}, "
        f"more than {_MOVES:g} times {way}"
    )


_SCORED = """
CREATE TEMP TABLE scored AS
SELECT perplexity, n_words, source::VARCHAR AS source, row_number() OVER best <= ceil(count(*) OVER () / {parts}) AS is_top, {signals}
FROM {name} {join} WHERE component = '{domain}' AND rank IS NOT NULL AND perplexity IS NOT NULL
WINDOW best AS (ORDER BY perplexity, row_id)
"""

_SIGNALS = "statistics.compression_ratio AS compression, gopher_repetition.duplicate_5gram_ratio AS duplicates"
_NO_SIGNALS = "NULL::FLOAT AS compression, NULL::FLOAT AS duplicates"

# Sums of whole numbers only, so that none depends on the order of its parts.
_LIKE = """
SELECT count(*) AS rows, max(perplexity) AS highest, median(n_words) AS words, median(compression)::DOUBLE AS compression,
    coalesce(sum(round(duplicates::DOUBLE * 1e6)::BIGINT), 0)::BIGINT AS duplicates, count(duplicates) AS n_duplicates
FROM scored WHERE {where}
"""
_SOURCES = "SELECT source, count(*), count(*) FILTER (is_top) FROM scored GROUP BY source ORDER BY source"
_FLAGGED = """
SELECT count(*) FILTER (reference.overlap > $1::FLOAT), count(*) FROM {name} JOIN signals USING (shard, "row") WHERE split = 'train'
"""
