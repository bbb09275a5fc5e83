"""The frozen list of held-out documents that versions and runs are compared on.

Drawn once from held-out rows that pass the rules, by hash per component, and taken over by later versions of the
domain: a curve that moved because its ruler moved would be worth nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import pyarrow as pa

from curate.expressions import BEST_FIRST, score_of
from curate.manifest import MASKS, Manifest, ManifestError
from curate.recipe import DOMAIN_COMPONENT, Recipe
from curate.store import Store, digest_of

N_DOCS = 200
N_BYTES = 1_000_000
_SCHEMA = pa.schema([
    ("component", pa.string()), ("row_id", pa.string()), ("doc_id", pa.string()), ("group", pa.string()),
    ("n_bytes", pa.int64()), ("masks", MASKS), ("shard", pa.string()), ("row", pa.int32()),
])  # fmt: skip


def inherited(store: Store, parent: Manifest | None, recipe: Recipe) -> pa.Table | None:
    """Give the parent's list where the recipe may take it over: nothing new is asked for and it knows all components."""
    if parent is None or recipe.evalset == "new" or set(recipe.components()) - set(parent.info["evalset"]["components"]):
        return None
    path = path_of(parent.info["evalset"])
    if not store.exists(path):
        raise ManifestError(
            f"{path}, the evalset of {parent.version}, is missing; restore it, or draw a new one with --set evalset='\"new\"'"
        )
    return store.read_table(path)


def drawn(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> pa.Table:
    """Draw a list from the table `decided`: per component by hash until 200 documents or 1 MB are reached.

    Where the recipe selects by score, the domain's list takes rows like those that were selected (at or above the cut), and the
    lists of the others rows below it: what the domain gains must not count as what the general text keeps.
    """
    score, cut, reaches = score_of(recipe.select), "NULL::FLOAT", "true"
    if score is not None:
        worst, at_least = ("min", ">=") if BEST_FIRST[score] == "DESC" else ("max", "<=")
        cut = f"(SELECT {worst}({score}) FROM decided WHERE split = 'train' AND component = '{DOMAIN_COMPONENT}')"
        reaches = f"{score} {at_least} cut"
    query = _DRAW.format(n_docs=N_DOCS, n_bytes=N_BYTES, cut=cut, reaches=reaches, domain=DOMAIN_COMPONENT)
    return connection.sql(query).to_arrow_table().cast(_SCHEMA)


def kept(store: Store, table: pa.Table, components: Iterable[str]) -> dict[str, Any]:
    """Write a list, and describe it for manifest.json. A component below 200 documents and 1 MB has no interval; one may
    have nothing at all."""
    sizes = table.select(["component", "n_bytes"]).to_pylist()
    parts: dict[str, dict[str, Any]] = {}
    for name in sorted({*components, *(row["component"] for row in sizes)}):
        own = [row["n_bytes"] for row in sizes if row["component"] == name]
        parts[name] = {"n_docs": len(own), "n_bytes": sum(own), "has_interval": len(own) >= N_DOCS or sum(own) >= N_BYTES}
    info = {"digest": digest_of_list(table), "components": parts}
    path = path_of(info)
    if not store.exists(path):
        store.write_table(path, table)
    return {**info, "sha256": store.digest(path)}


def digest_of_list(table: pa.Table) -> str:
    """Name a list by its content: which documents, in which order; where they lie does not matter."""
    return digest_of(table.select(["component", "row_id", "doc_id", "group", "n_bytes", "masks"]).to_pylist())[:32]


def path_of(info: Mapping[str, Any]) -> str:
    return f"evalsets/{info['digest']}.parquet"


_DRAW = """
WITH unique_texts AS (
    SELECT *, row_number() OVER (PARTITION BY component, doc_id ORDER BY row_id) AS occurrence
    FROM decided, (SELECT {cut} AS cut) WHERE split = 'holdout' AND is_eligible
    AND (cut IS NULL OR CASE WHEN component = '{domain}' THEN {reaches} ELSE ({reaches}) IS NOT TRUE END)
),
ordered AS (
    SELECT *, row_number() OVER w AS place, sum(n_bytes) OVER w - n_bytes AS n_before
    FROM unique_texts WHERE occurrence = 1
    WINDOW w AS (PARTITION BY component ORDER BY hash_key('evalset|' || component, doc_id), row_id)
)
SELECT component, row_id, doc_id, "group", n_bytes, masks, shard, "row"
FROM ordered WHERE place <= {n_docs} AND n_before < {n_bytes}
ORDER BY component, place
"""
