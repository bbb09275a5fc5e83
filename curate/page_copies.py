"""Duplicates of a version: how many went, the rows that most of them hang on, and pairs just above and just below the thresholds.

Stands under `page`, beside `page_rules`. Pairs below a threshold come from the edges, which a build keeps in the cache; where they are not
there any more that is said. Cost: aggregations of the copies, and one scan of the edges with the rows of training joined.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from curate.edges import edge_paths
from curate.manifest import Manifest
from curate.page_bins import bins_over
from curate.page_rules import N_SAMPLES, SAMPLE
from curate.page_texts import excerpt
from curate.sandbox import file_list
from curate.store import Store
from curate.why import word_diff

_N_CLUSTERS = 10
_N_DIFF_CHARS = 20_000  # of each text: enough to see what differs, and what comparing them takes is bounded


def copies(store: Store, connection: duckdb.DuckDBPyConnection, manifest: Manifest, remarks: list[str]) -> dict[str, Any]:
    """Describe the rows that went as copies. Reads the view `m`."""
    dedup = manifest.info["recipe"].get("dedup", {})
    limits = {"jaccard": dedup.get("threshold"), "containment": dedup.get("containment")}
    names = ("kind", "rows", "kept", "n_bytes")
    found: dict[str, Any] = {
        "limits": limits,
        "edges": manifest.info.get("edges"),
        "kinds": [dict(zip(names, row, strict=True)) for row in connection.execute(_KINDS).fetchall()],
        "clusters": [{"n_copies": n, "kinds": kinds, **row} for n, kinds, row in connection.execute(_CLUSTERS).fetchall()],
        "pairs": [],
    }
    paths = edge_paths(store)
    if found["edges"] is not None and found["edges"]["n_edges"] and not paths:
        remarks.append("the edges are not stored any more, so no pairs below the thresholds are shown; build again to see them")
    for kind, limit in limits.items():
        if limit is not None and found["edges"] is not None:
            found["pairs"].append(_pairs(store, connection, kind, limit, paths))
    return found


def with_diffs(found: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    """Put what differs into each pair, and the beginning of the text into each cluster, where the texts are there."""
    for cluster in found["clusters"]:
        cluster["text"] = excerpt(texts[cluster["row_id"]]) if cluster["row_id"] in texts else None
    for pair in (pair for group in found["pairs"] for side in ("dropped", "kept") for pair in group[side]):
        ends = [texts.get(pair[end]["row_id"]) for end in ("other", "one")]
        pair["diff"] = None
        if ends[0] is not None and ends[1] is not None:
            pair["diff"] = word_diff(ends[0][:_N_DIFF_CHARS], ends[1][:_N_DIFF_CHARS])[0]


def rows_shown(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the rows whose texts the section shows."""
    pairs = [pair for group in found["pairs"] for side in ("dropped", "kept") for pair in group[side]]
    return [*found["clusters"], *(pair[end] for pair in pairs for end in ("one", "other"))]


def _pairs(store: Store, connection: duckdb.DuckDBPyConnection, kind: str, limit: float, paths: Sequence[str]) -> dict[str, Any]:
    """Count how alike the copies of a kind are, and give the pairs nearest to its threshold: gone above it, both kept below it."""
    bins = bins_over(limit, 1.0, marks=[limit])
    counts = connection.execute(_ALIKE.format(bin=bins.sql("dup_similarity")), [kind]).fetchall()
    dropped = connection.execute(_ABOVE.format(n=N_SAMPLES), [kind]).fetchall()
    kept: list[tuple[Any, ...]] = []
    if paths:
        value = "similarity" if kind == "jaccard" else "greatest(containment_a, containment_b)"
        kept = connection.execute(
            _BELOW.format(value=value, urls=file_list([store.url(path) for path in paths]), n=N_SAMPLES), [limit]
        ).fetchall()
    names = ("similarity", "one", "other")
    return {
        "kind": kind,
        "limit": limit,
        "bins": {"base": bins.base, "width": bins.width, "first": bins.first, "last": bins.last, "holds_upper": False},
        "counts": [{"bin": number, "dropped": n, "other": 0} for number, n in counts],
        "dropped": [dict(zip(names, row, strict=True)) for row in dropped],
        "kept": [dict(zip(names, row, strict=True)) for row in kept],
    }


_KINDS = """
SELECT dup_kind, count(*), count(DISTINCT dup_of), sum(n_bytes)::BIGINT FROM m WHERE dup_of IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1
"""
_CLUSTERS = f"""
WITH most AS (
    SELECT dup_of, count(*) AS n, list(DISTINCT dup_kind ORDER BY dup_kind) AS kinds FROM m WHERE dup_of IS NOT NULL
    GROUP BY dup_of HAVING n > 1 ORDER BY n DESC, dup_of LIMIT {_N_CLUSTERS}
)
SELECT n, kinds, {SAMPLE} FROM m JOIN most ON m.row_id = most.dup_of ORDER BY n DESC, m.row_id
"""
_ALIKE = "SELECT {bin} AS bin, count(*) FROM m WHERE dup_kind = ? GROUP BY 1 ORDER BY 1"
_ABOVE = f"""
WITH gone AS (SELECT dup_similarity, dup_of, {SAMPLE} AS one FROM m WHERE dup_kind = ? ORDER BY dup_similarity, row_id LIMIT {{n}})
SELECT gone.dup_similarity, one, {SAMPLE} FROM gone JOIN m ON m.row_id = gone.dup_of ORDER BY 1, one.row_id
"""
# An edge joins texts, and each text is kept at most once.
_BELOW = f"""
WITH pairs AS (SELECT DISTINCT doc_a, doc_b, {{value}} AS value FROM read_parquet({{urls}}) WHERE value < ?::FLOAT),
kept AS (SELECT doc_id, {SAMPLE} AS row FROM m WHERE split = 'train')
SELECT value, a.row, b.row FROM pairs JOIN kept AS a ON doc_a = a.doc_id JOIN kept AS b ON doc_b = b.doc_id
ORDER BY value DESC, doc_a, doc_b LIMIT {{n}}
"""
