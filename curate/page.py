"""What the page and the dataset card of a version say, as plain values: `gather` reads, `page_html` and `page_card` write.

Stands beside `report`, which prints the same version in a terminal. Decisions: it reads what a build has published and stored and decides
nothing; it is a pure function of those files, with no clock and no path of a machine in it; texts are shown only of the few rows that
explain a limit. Cost: aggregations over the parts of the version in DuckDB, which spill to the scratch folder beyond 1 GB.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from curate.manifest import Manifest, ManifestError, attach
from curate.page_bins import RANGE, bins_over
from curate.page_copies import copies, rows_shown, with_diffs
from curate.page_rules import N_SAMPLES, SAMPLE, rules
from curate.page_texts import excerpt, read_texts
from curate.recipe import DOMAIN_COMPONENT
from curate.sandbox import quoted
from curate.scorer_tables import perplexity_tables
from curate.store import Store

# What became of a row, in the order of the bars; `FATES` says it to people.
FATES = {
    "kept": "kept for training",
    "held_out": "held out",
    "not_selected": "not selected",
    "copies": "copies and leaks",
    "rules": "dropped by a rule",
}
_MEMORY = "1GB"
_N_LISTED = 20


def gather(store: Store, manifest: Manifest) -> dict[str, Any]:
    """Gather what the page of a version says.

    Raises ManifestError where a part of it cannot be read. What is missing beside it (texts, signals, edges) is said in `remarks`.
    """
    info = json.loads(json.dumps(manifest.info, sort_keys=True))  # in one order, whether it was just built or read
    remarks: list[str] = []
    with contextlib.closing(attach(store, manifest, "m")) as connection, store.scratch() as folder:
        folder.mkdir()
        connection.execute(f"SET temp_directory = {quoted(str(folder))}")
        connection.execute(f"SET memory_limit = '{_MEMORY}'")
        try:
            connection.execute(_SIZED)
            data = {
                **{key: info[key] for key in ("version", "domain", "parent", "sample", "fingerprint", "decision", "seed", "funnel")},
                **{key: info[key] for key in ("tokenizer", "stages", "evalset", "inputs", "recipe", "software", "scorers")},
                "accepted": info.get("accepted", []),
                "strata": info.get("strata", []),
                "repeats": info.get("repeats", {}),
                **_counted(connection),
                "scores": [_scores(connection, info, scorer) for scorer in info["scorers"]],
                "cut": _cut(connection, info),
                "perplexity": perplexity_tables(store, connection, manifest, "m"),
            }
            dropped = {entry["reason"]: entry["rows"] for entry in data["reasons"]}
            data["rules"] = rules(store, connection, manifest, dropped, remarks)
            data["copies"] = copies(store, connection, manifest, remarks)
        except duckdb.Error as error:
            why = " ".join(str(error).split())
            raise ManifestError(f"what {info['version']} was decided by is damaged ({why}); see curate verify {info['version']}") from None
    _with_texts(store, data, remarks)
    return {**data, "remarks": list(dict.fromkeys(remarks))}


def _counted(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Count rows and tokens by source and component and what became of them, by reason, and those of training by licence and language."""
    by_fate = _table(connection, _BY_FATE)
    kept = {name: _table(connection, _KEPT_BY.format(column=name)) for name in ("licence", "lang")}
    return {
        "sources": _stacked(by_fate, "source"),
        "components": _stacked(by_fate, "component"),
        "reasons": [
            {**entry, "by_source": dict(zip(entry["sources"], entry["by_source"], strict=True))} for entry in _table(connection, _REASONS)
        ],
        "licences": kept["licence"],
        "languages": kept["lang"],
    }


def _stacked(rows: Sequence[Mapping[str, Any]], by: str) -> list[dict[str, Any]]:
    """Add up rows, bytes and tokens by a column and what became of them, most tokens first."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = found.setdefault(row[by], {"name": row[by], "rows": {}, "n_bytes": 0, "n_tokens": {}, "is_estimated": False})
        entry["n_bytes"] += row["n_bytes"]
        entry["is_estimated"] |= row["is_estimated"]
        for what, value in (("rows", row["rows"]), ("n_tokens", row["n_tokens"])):
            entry[what][row["fate"]] = entry[what].get(row["fate"], 0) + value
    return sorted(found.values(), key=lambda entry: (-sum(entry["n_tokens"].values()), entry["name"]))


def _scores(connection: duckdb.DuckDBPyConnection, info: Mapping[str, Any], scorer: Mapping[str, Any]) -> dict[str, Any]:
    """Count the domain's ranked rows by a score, in training and not, and give the cut where the ranking is by this score."""
    name = str(scorer["name"])
    found: dict[str, Any] = {"name": name, "held_out_auc": scorer.get("held_out_auc"), "bins": None, "counts": [], "cut": None}
    low, high = connection.execute(f"SELECT {RANGE.format(value=name)} FROM sized WHERE {_RANKED}").fetchall()[0]
    if low is None:
        return found
    bins = bins_over(low, high)
    counts = connection.execute(_SCORES.format(bin=bins.sql(name), name=name)).fetchall()
    first = re.match(
        rf'"?{re.escape(name)}"?(\s+DESC)?\s*(?:NULLS\s+\w+\s*)?(?:,|$)', str(info["recipe"]["select"]["order_by"]).strip(), re.I
    )
    if first and not info["recipe"]["select"].get("stratify_by"):
        worst = "min" if first[1] else "max"
        (found["cut"],) = connection.execute(f"SELECT {worst}({name}) FROM sized WHERE {_RANKED} AND split = 'train'").fetchall()[0]
    return {
        **found,
        "bins": dataclasses.asdict(bins),
        "counts": [{"bin": number, "kept": n_kept, "other": n_rows - n_kept} for number, n_rows, n_kept in counts],
    }


def _cut(connection: duckdb.DuckDBPyConnection, info: Mapping[str, Any]) -> dict[str, Any]:
    """Give the last rows of the domain that were selected and the first that were not, by rank."""
    sides = {}
    for side, condition, order in (("kept", "split = 'train'", "DESC"), ("dropped", "fate = 'not_selected'", "ASC")):
        rows = connection.execute(_AT_CUT.format(condition=condition, order=order, n=N_SAMPLES)).fetchall()
        sides[side] = [
            {"value": rank, "quality": quality, "perplexity": perplexity, **sample} for rank, quality, perplexity, sample in rows
        ]
    return {"order_by": info["recipe"]["select"]["order_by"], **sides}


def _with_texts(store: Store, data: dict[str, Any], remarks: list[str]) -> None:
    """Read all texts that are shown, each shard once, and put them where they belong."""
    samples = [row for group in (*data["rules"], data["cut"]) for side in ("kept", "dropped") for row in group.get(side, ())]
    texts = read_texts(store, [*samples, *rows_shown(data["copies"])], remarks)
    for row in samples:
        row["text"] = excerpt(texts[row["row_id"]]) if row["row_id"] in texts else None
    with_diffs(data["copies"], texts)


def _table(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = connection.sql(query).to_arrow_table().to_pylist()
    return rows


# Tokens of rows that were never counted are estimated from their source's bytes per token, as in the funnel.
_SIZED = """
CREATE TEMP VIEW sized AS
WITH ratios AS (SELECT source, sum(n_tokens)::DOUBLE / sum(n_bytes) AS ratio FROM m WHERE n_tokens IS NOT NULL GROUP BY source),
overall AS (SELECT sum(n_tokens)::DOUBLE / sum(n_bytes) AS ratio FROM m WHERE n_tokens IS NOT NULL)
SELECT m.*, n_tokens IS NULL AS is_estimated,
    coalesce(n_tokens, round(n_bytes * coalesce(ratios.ratio, overall.ratio, 0)))::BIGINT AS n,
    CASE WHEN split = 'train' THEN 'kept' WHEN split = 'holdout' THEN 'held_out'
        WHEN starts_with(reason, 'duplicate.') OR reason = 'holdout.leak' THEN 'copies'
        WHEN reason = 'budget' OR starts_with(reason, 'select.') THEN 'not_selected' ELSE 'rules' END AS fate
FROM m LEFT JOIN ratios USING (source), overall
"""
_BY_FATE = """
SELECT source::VARCHAR AS source, component::VARCHAR AS component, fate, count(*) AS rows, sum(n_bytes)::BIGINT AS n_bytes,
    sum(n)::BIGINT AS n_tokens, bool_or(is_estimated) AS is_estimated
FROM sized GROUP BY ALL ORDER BY 1, 2, 3
"""
_REASONS = """
WITH found AS (
    SELECT reason, fate, source::VARCHAR AS source, count(*) AS rows, sum(n)::BIGINT AS n_tokens
    FROM sized WHERE reason IS NOT NULL GROUP BY 1, 2, 3
)
SELECT reason, fate, sum(rows)::BIGINT AS rows, sum(n_tokens)::BIGINT AS n_tokens,
    list(source ORDER BY rows DESC, source) AS sources, list(rows ORDER BY rows DESC, source) AS by_source
FROM found GROUP BY reason, fate ORDER BY rows DESC, reason
"""
_KEPT_BY = f"""
SELECT {{column}} AS name, count(*) AS rows, sum(n)::BIGINT AS n_tokens FROM sized WHERE split = 'train'
GROUP BY 1 ORDER BY 3 DESC, 1 LIMIT {_N_LISTED}
"""
_RANKED = f"component = '{DOMAIN_COMPONENT}' AND rank IS NOT NULL"
_SCORES = f"""
SELECT {{bin}} AS bin, count(*), count(*) FILTER (split = 'train') FROM sized WHERE {_RANKED} AND {{name}} IS NOT NULL
GROUP BY 1 ORDER BY 1
"""
_AT_CUT = f"""
SELECT rank, quality, perplexity, {SAMPLE} FROM sized AS m WHERE {_RANKED} AND {{condition}} ORDER BY rank {{order}}, row_id LIMIT {{n}}
"""
