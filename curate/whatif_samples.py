"""The rows that a change moves and that are nearest to the limit that moved them, with the value that decided and how the text begins.

Stands under `whatif`, over its view `moved_rows`: for a row that goes the limit is the new one, for a row that comes the old one. Only
here are texts read, three a direction; nearness is the distance to the limit in parts of the limit, so that words, ratios and ranks
compare.
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb

from curate.families import family_of
from curate.judging import breach, number
from curate.manifest import Manifest
from curate.outcome import is_kept
from curate.recipe import FAMILY_NAME, Recipe
from curate.store import Store
from curate.subset import quoted

_N_SAMPLES = 3
_SHOWN_CHARS = 200
# By what a value is divided where a limit is zero.
_LEAST = 1e-9


@dataclasses.dataclass(frozen=True, slots=True)
class Sides:
    """The two that are compared: what was decided by, and totals (see outcome.groups)."""

    before: Recipe | Manifest
    before_groups: Sequence[Mapping[str, Any]]
    after: Recipe
    after_groups: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class _Measure:
    """What decided about rows that went for one reason: the value as SQL over `moved_rows` and `rows`, the limit by source, its name."""

    value: str
    limits: Mapping[str, float]
    signal: str
    keep: str


def samples(store: Store, connection: duckdb.DuckDBPyConnection, sides: Sides) -> list[dict[str, Any]]:
    """Give up to three rows that went out and three that came in, the nearest to their limit first."""
    found = []
    for direction, decided_by, groups in (("out", sides.after, sides.after_groups), ("in", sides.before, sides.before_groups)):
        reasons = connection.execute("SELECT DISTINCT reason FROM moved WHERE direction = ? ORDER BY reason", [direction]).fetchall()
        near = [row for (reason,) in reasons for row in _nearest(connection, direction, reason, sides, decided_by, groups)]
        near.sort(key=lambda row: (row["distance"] is None, row["distance"] or 0.0, row["row_id"]))
        found += [(direction, row) for row in near[:_N_SAMPLES]]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda each: _shown(store, *each), found))


def _nearest(
    connection: duckdb.DuckDBPyConnection, direction: str, reason: str, sides: Sides, decided_by: Recipe | Manifest,
    groups: Sequence[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    measure = _measure(connection, reason, sides.after, decided_by, groups)
    value, limit = "NULL::DOUBLE", "NULL::DOUBLE"
    if measure is not None and measure.limits:
        value = measure.value
        by = "moved.component" if reason == "budget" else "moved.source"
        limit = f"CASE {by} {' '.join(f'WHEN {quoted(name)} THEN {float(one)!r}::DOUBLE' for name, one in measure.limits.items())} END"
    query = _NEAREST.format(value=value, limit=limit, least=_LEAST, n_samples=_N_SAMPLES)
    for row in connection.sql(query, params={"direction": direction, "reason": reason}).to_arrow_table().to_pylist():
        yield {**row, "what": _what(reason, row, measure)}


def _measure(
    connection: duckdb.DuckDBPyConnection, reason: str, after: Recipe, decided_by: Recipe | Manifest, groups: Sequence[Mapping[str, Any]]
) -> _Measure | None:
    if reason == "budget":
        last = {
            name: max((group["last_rank"] for group in groups if group["component"] == name and is_kept(group)), default=1)
            for name in {group["component"] for group in groups}
        }
        return _Measure("moved.rank", last, "rank", "<=")
    if reason in ("duplicate.jaccard", "duplicate.containment"):
        key = {"duplicate.jaccard": "threshold", "duplicate.containment": "containment"}[reason]
        dedup = {"threshold": decided_by.dedup.threshold, "containment": decided_by.dedup.contained_from} if isinstance(
            decided_by, Recipe
        ) else decided_by.info["recipe"]["dedup"]  # fmt: skip
        limit = dedup.get(key)
        names = [group["source"] for group in groups]
        return None if limit is None else _Measure("moved.dup_similarity", dict.fromkeys(names, limit), f"{key} of dedup", "<")
    name, _, rule_name = reason.partition(".")
    columns = connection.sql("SELECT * FROM rows LIMIT 0").columns
    if not FAMILY_NAME.fullmatch(name) or name not in columns:
        return None  # no rule, or one whose signals this recipe does not read
    rule = next((rule for rule in family_of(after.families, name).rules if rule.name == rule_name), None)
    if rule is None:
        return None
    limits = {source: judged.get(name, {}).get(rule_name) for source, judged in _judged_by(decided_by).items()}
    on = {source: limit for source, limit in limits.items() if limit is not None}
    return _Measure(f'struct_extract(rows."{name}", {quoted(rule.signal)})', on, rule.signal, rule.keep)


def _judged_by(decided_by: Recipe | Manifest) -> dict[str, Mapping[str, Mapping[str, float | None]]]:
    if isinstance(decided_by, Recipe):
        return {source.name: decided_by.judged_by(source) for source in decided_by.decided_sources()}
    return {source["name"]: source.get("judged_by") or {} for source in decided_by.info["recipe"].get("sources", ())}


def _what(reason: str, row: Mapping[str, Any], measure: _Measure | None) -> str | None:
    """Say in words what decided about a row."""
    if measure is None or row["value"] is None or row["limit"] is None:
        return None
    value, limit = (int(one) if float(one).is_integer() else one for one in (row["value"], row["limit"]))
    if reason == "budget":
        return f"rank {number(value)}, and the last one taken has {number(limit)}"
    if reason.startswith("duplicate."):
        return f"{row['value']:.4g} like a kept row, which is one from {row['limit']:g} on"
    return breach({"signal": measure.signal, "value": value, "keep": measure.keep, "threshold": limit})


def _shown(store: Store, direction: str, row: Mapping[str, Any]) -> dict[str, Any]:
    path = f"corpus/{row['shard']}"
    text = store.read_rows(path, [row["row"]], ["text"])["text"][0].as_py() if store.exists(path) else None
    begins = None if text is None else " ".join(text[: 4 * _SHOWN_CHARS].split())[:_SHOWN_CHARS]
    kept = {name: row[name] for name in ("row_id", "source", "reason", "value", "limit", "what", "quality", "perplexity")}
    return {"direction": direction, **kept, "text": begins}


_NEAREST = """
SELECT moved.row_id, moved.source, moved.shard, moved."row", moved.reason, moved.quality::DOUBLE AS quality,
    moved.perplexity::DOUBLE AS perplexity,
    ({value})::DOUBLE AS value, {limit} AS "limit", abs(value - "limit") / greatest(abs("limit"), {least}) AS distance
FROM moved_rows AS moved LEFT JOIN rows ON rows.rowid = moved.slot
WHERE moved.direction = $direction AND moved.reason = $reason ORDER BY distance NULLS LAST, moved.row_id LIMIT {n_samples}
"""
