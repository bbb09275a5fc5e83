"""What changed from one version to another: the recipe, the rows that came in or went out and why, and the mixture.

Stands beside report and why: it reads what was published and decides nothing. Rows are joined by row_id, so it does not matter in which
shards their texts lie or whether the versions are of one domain. A row is in where its split is train. Its tokens are those of the version
that has it in, the reason that of the other one. Cost: the row_ids of what is in training, twice through one hash join, and one scan of
either version for the reasons of the rows that moved; all in DuckDB, which spills beyond 1 GB.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb

from curate.expressions import BEST_FIRST
from curate.manifest import Manifest, ManifestError, attach, part_paths
from curate.sandbox import file_list, quoted
from curate.store import Store

_MEMORY = "1GB"
_NOT_SET = "not set"


def diff(store: Store, before: Manifest, after: Manifest) -> dict[str, Any]:
    """Gather what `curate diff` prints, as plain values. What two versions cannot be compared by is said in `remarks`.

    Raises ManifestError where a part of either is missing or damaged.
    """
    with store.scratch() as folder, contextlib.closing(attach(store, before, "a")) as connection:
        connection.execute(f"SET memory_limit = '{_MEMORY}'")
        connection.execute(f"SET temp_directory = {quoted(str(folder))}")
        try:
            connection.execute(f"CREATE VIEW b AS FROM read_parquet({file_list([store.url(path) for path in part_paths(store, after)])})")
            connection.execute(_MOVED)
            deciles = {name: _deciles(connection, name) for name in BEST_FIRST}
            found = {
                "totals": _rows(connection, _TOTALS)[0],
                "sources": _rows(connection, _SOURCES),
                "reasons": _rows(connection, _REASONS),
                "deciles": deciles["quality"],
                "perplexity_deciles": deciles["perplexity"],
            }
        except duckdb.Error as error:
            why = " ".join(str(error).split())
            raise ManifestError(
                f"a part of {before.version} or {after.version} is damaged ({why}); see curate verify {before.version} and "
                f"curate verify {after.version}"
            ) from None
    return {
        "before": _named(before),
        "after": _named(after),
        "recipe": recipe_changes(before, after),
        **found,
        "components": _components(before, after),
        "query": rows_query(before.version, after.version),
        "remarks": list(_remarks(before, after, deciles)),
    }


def rows_query(before: str, after: str) -> str:
    """Give the rows that came in or went out as a query for `curate sql`, sorted by row_id."""
    return _ROWS.format(before=before, after=after)


def recipe_changes(before: Manifest, after: Manifest) -> list[dict[str, str]]:
    """Give the lines of the two recipes that differ: key, and the values before and after as TOML.

    What changed alike for all sources that it holds for stands once, without the source.
    """
    old, new = ({**_flat(_without_sources(one.info["recipe"])), **_tokenizer(one)} for one in (before, after))
    changes = [(key, old.get(key, _NOT_SET), new.get(key, _NOT_SET)) for key in sorted({*old, *new})]
    changes += _source_changes(before, after)
    return [{"key": key, "before": was, "after": now} for key, was, now in changes if was != now]


def _source_changes(before: Manifest, after: Manifest) -> list[tuple[str, str, str]]:
    tables = [{one["name"]: _of_source(manifest, one) for one in manifest.info["recipe"]["sources"]} for manifest in (before, after)]
    old, new = tables
    changes = []
    for name in sorted({*old, *new} - ({*old} & {*new})):
        here, there = ("a source", _NOT_SET) if name in old else (_NOT_SET, "a source")
        changes.append((f"sources.{name}", here, there))
    both = sorted({*old} & {*new})
    for key in sorted({key for table in tables for one in table.values() for key in one}):
        of = {name: (old[name].get(key, _NOT_SET), new[name].get(key, _NOT_SET)) for name in both if key in old[name] or key in new[name]}
        if len(of) > 1 and len(set(of.values())) == 1:
            changes.append((key, *next(iter(of.values()))))
        else:
            changes += [(f"sources.{name}.{key}", was, now) for name, (was, now) in of.items()]
    return changes


def _of_source(manifest: Manifest, source: Mapping[str, Any]) -> dict[str, str]:
    """Give the lines of a source: its own keys, and the thresholds that judge it, of which those that are off count as such."""
    table = {key: value for key, value in source.items() if key not in ("name", "judged_by")}
    judged = {family: dict(limits) for family, limits in (source.get("judged_by") or {}).items()}
    return {**_flat(table), **_flat(judged, off="false")}


def _without_sources(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key != "sources"}


def _tokenizer(manifest: Manifest) -> dict[str, str]:
    # The recipe in a manifest has no path of it, and two that are fitted have one name.
    found = manifest.info["tokenizer"]
    return {"tokenizer": f"{json.dumps(found['name'])} ({found['sha256'][:16]})"}


def _flat(value: Mapping[str, Any], prefix: str = "", off: str = _NOT_SET) -> dict[str, str]:
    """Write a table as lines of TOML: dotted key -> value. Tables in a list are told apart by their name."""
    lines: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            lines |= _flat(item, f"{name}.", off)
        elif isinstance(item, list | tuple) and item and all(isinstance(one, Mapping) for one in item):
            for number, one in enumerate(item):
                lines |= _flat(one, f"{name}.{one.get('name', number)}.", off)
        elif item is not None:
            lines[name] = _toml(item)
        elif off != _NOT_SET:
            lines[name] = off
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _named(manifest: Manifest) -> dict[str, Any]:
    kept = manifest.info["funnel"][-1]
    return {
        "version": manifest.version,
        "domain": manifest.info["domain"],
        "sample": manifest.is_sample,
        "rows": kept["rows"],
        "n_bytes": kept["n_bytes"],
        "n_tokens": kept["n_tokens"],
        "tokenizer": {key: manifest.info["tokenizer"][key] for key in ("name", "sha256", "separator")},
    }


def _deciles(connection: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]] | None:
    """Count the domain's rows that moved by the decile of a score that they are in among the rows that passed, the best first.

    Those that went out by the deciles before, those that came in by those after; None where a version has no such scores.
    """
    edges = [connection.execute(_EDGES.format(table=table, name=name)).fetchall()[0][0] for table in "ab"]
    if None in edges:
        return None
    reaches, place, end = (">=", "10 - decile", "from") if BEST_FIRST[name] == "DESC" else ("<=", "decile", "up_to")
    query = _DECILES.format(name=name, reaches=reaches, place=place, end=end)
    return _rows(connection, query, {"before": edges[0], "after": edges[1]})


def _components(before: Manifest, after: Manifest) -> list[dict[str, Any]]:
    """Put the parts of both mixtures side by side, by stage and component; a part that a version has not is None there."""
    tables = []
    for manifest in (before, after):
        stages = manifest.info["stages"]
        tables.append({(stage["name"], part["name"]): (stage, part) for stage in stages for part in stage["components"]})
    rows = []
    for key in dict.fromkeys([*tables[0], *tables[1]]):
        row: dict[str, Any] = {"stage": key[0], "component": key[1]}
        for name, table in zip(("before", "after"), tables, strict=True):
            stage, part = table.get(key, ({}, {}))
            row[name] = {
                **{one: part.get(one) for one in ("share", "pool_tokens", "epoch_tokens", "repeats")},
                "epochs": stage.get("epochs"),
            }
        rows.append(row)
    return rows


def _remarks(before: Manifest, after: Manifest, deciles: Mapping[str, Sequence[Any] | None]) -> Iterator[str]:
    if before.version == after.version:
        yield f"both are {before.version}"
    if before.info["decision"] == after.info["decision"]:
        yield "the two decided the same: their digests of all rows and of the recipe are equal"
    elif before.fingerprint == after.fingerprint:
        yield "training reads the same from both: their fingerprints are equal"
    if before.info["domain"] != after.info["domain"]:
        domains = f"{before.version} is of domain {before.info['domain']}, {after.version} of {after.info['domain']}"
        yield f"{domains}; rows of sources that have one name in both meet"
    counted = [{key: value for key, value in one.info["tokenizer"].items() if key not in ("name", "path")} for one in (before, after)]
    if counted[0] != counted[1]:
        yield "the versions count tokens by other tokenizers or separators, so what came in and what went out do not compare; bytes do"
    scorers = [[model["sha256"] for scorer in one.info["scorers"] for model in scorer["models"]] for one in (before, after)]
    if all(scorers) and scorers[0] != scorers[1]:
        yield "the versions are scored by other models: deciles are each version's own"
    for name, found in deciles.items():
        without = [one.version for one in (before, after) if all(scorer["name"] != name for scorer in one.info["scorers"])]
        if found is None and (name == "quality" or len(without) < 2):
            yield f"there are no deciles of {name}, because {' and '.join(without) or 'a version'} has no scores"
    if before.is_sample != after.is_sample:
        yield f"{(before if before.is_sample else after).version} is of the sample corpus, the other is not"


def _rows(connection: duckdb.DuckDBPyConnection, query: str, values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = connection.sql(query, params=dict(values or {})).to_arrow_table().to_pylist()
    return found


# Why a row is out is what the version that has it out says; a row that it has not at all was not read.
_MOVED = """
CREATE TABLE moved AS
WITH here AS (FROM a WHERE split = 'train'), there AS (FROM b WHERE split = 'train'),
gone AS (SELECT row_id, doc_id, source, component, n_tokens, n_bytes, quality, perplexity FROM here ANTI JOIN there USING (row_id)),
come AS (SELECT row_id, doc_id, source, component, n_tokens, n_bytes, quality, perplexity FROM there ANTI JOIN here USING (row_id))
SELECT 'out' AS direction, gone.*, coalesce(b.reason, b.split, 'not read') AS reason,
    gone.doc_id IN (SELECT doc_id FROM there) AS is_same_text
FROM gone LEFT JOIN b USING (row_id)
UNION ALL
SELECT 'in', come.*, coalesce(a.reason, a.split, 'not read'), come.doc_id IN (SELECT doc_id FROM here) FROM come LEFT JOIN a USING (row_id)
"""

_COUNTED = """
    count(*) FILTER (side = '{side}') AS rows_{side}, coalesce(sum(n_tokens) FILTER (side = '{side}'), 0)::BIGINT AS tokens_{side},
    coalesce(sum(n_bytes) FILTER (side = '{side}'), 0)::BIGINT AS bytes_{side}"""
_MOVES = ", ".join(_COUNTED.format(side=side) for side in ("out", "in"))

_TOTALS = f"""
SELECT {_MOVES},
    count(*) FILTER (is_same_text AND side = 'out') AS same_text_out, count(*) FILTER (is_same_text AND side = 'in') AS same_text_in
FROM (SELECT *, direction AS side FROM moved)
"""

_SOURCES = f"""
SELECT source, {", ".join(_COUNTED.format(side=side) for side in ("before", "out", "in", "after"))}
FROM (
    SELECT source, 'before' AS side, n_tokens, n_bytes FROM a WHERE split = 'train'
    UNION ALL SELECT source, 'after', n_tokens, n_bytes FROM b WHERE split = 'train'
    UNION ALL SELECT source, direction, n_tokens, n_bytes FROM moved
)
GROUP BY source ORDER BY source
"""

_REASONS = """
SELECT direction, reason, count(*) AS rows, sum(n_tokens)::BIGINT AS n_tokens, sum(n_bytes)::BIGINT AS n_bytes,
    count(*) FILTER (is_same_text) AS same_text
FROM moved GROUP BY direction, reason ORDER BY direction DESC, rows DESC, reason
"""

_EDGES = """
SELECT quantile_disc({name}, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]) FROM {table}
WHERE component = 'domain' AND rank IS NOT NULL AND {name} IS NOT NULL
"""

_DECILES = f"""
WITH placed AS (
    SELECT direction AS side, n_tokens, n_bytes,
        10 - len(list_filter(CASE direction WHEN 'out' THEN $before ELSE $after END::FLOAT[],
            lambda edge: {{name}} {{reaches}} edge)) AS decile
    FROM moved WHERE component = 'domain' AND {{name}} IS NOT NULL
)
SELECT decile, ($before::FLOAT[])[{{place}}] AS {{end}}_before, ($after::FLOAT[])[{{place}}] AS {{end}}_after, {_MOVES}
FROM range(1, 11) AS t(decile) LEFT JOIN placed USING (decile) GROUP BY decile ORDER BY decile
"""

_ROWS = (
    "WITH a AS (FROM manifests WHERE version = '{before}'), b AS (FROM manifests WHERE version = '{after}')"
    " SELECT row_id, coalesce(a.doc_id, b.doc_id) AS doc_id, coalesce(a.source, b.source) AS source,"
    " CASE WHEN a.split = 'train' THEN 'out' ELSE 'in' END AS direction,"
    " CASE WHEN a.split = 'train' THEN coalesce(b.reason, b.split, 'not read') ELSE coalesce(a.reason, a.split, 'not read') END AS reason,"
    " CASE WHEN a.split = 'train' THEN a.n_tokens ELSE b.n_tokens END AS n_tokens,"
    " a.quality AS quality_before, b.quality AS quality_after, a.perplexity AS perplexity_before, b.perplexity AS perplexity_after,"
    " coalesce(b.url, a.url) AS url"
    " FROM a FULL JOIN b USING (row_id)"
    " WHERE coalesce(a.split = 'train', false) <> coalesce(b.split = 'train', false) ORDER BY row_id"
)
