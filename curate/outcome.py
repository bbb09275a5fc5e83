"""What a decision came to: the fate of each row, kept beside the rows it is about, and its totals.

Stands after decide. `try` compares two outcomes; the one of the recipe as it stands was kept by the build that decided it, so that only
the changed one has to be decided. It is a cache: named by everything that the decision reads, so it is never another one's. Cost: some 5
bytes a row, and one aggregation over the rows.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from curate import families
from curate.annotate import Facts
from curate.manifest import batches
from curate.portable import portable
from curate.ready import folder_of
from curate.recipe import DOMAIN_COMPONENT, Recipe
from curate.store import Store, digest_of, parquet_writer
from curate.tokens import index_paths, segments_dir

# Raised whenever the same decision would be kept otherwise.
_VERSION = 2
_KEPT = pa.schema([
    ("slot", pa.int64()), ("split", pa.string()), ("reason", pa.string()), ("rank", pa.int64()), ("dup_similarity", pa.float32()),
    ("n_tokens", pa.int32()), ("n_estimated", pa.int64()),
])  # fmt: skip
# What a row has got to when it goes: the steps of a funnel, and the reasons by which it goes after each.
_STEPS = ("read", "not held out", "passed the rules", "met select.where", "no leak to the holdout", "no duplicate", "within the budget")
_DIGITS = 10_000  # scores are rounded to 1e-4, and so are the logarithms of perplexities


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """What a decision by a recipe reads: facts by name, the files of rows and edges, the tokenizer, the digest of the evalset that is taken
    over (None: there is none)."""

    recipe: Recipe
    facts: Mapping[str, Facts]
    rows_path: str
    edges_path: str | None
    tokenizer: Mapping[str, Any]
    evalset: str | None


def path_of(store: Store, known: Known) -> str:
    """Say where the outcome of a decision is kept."""
    counted = [segments_dir(known.tokenizer), *index_paths(store, known.tokenizer)]
    recipe = families.with_code(portable(known.recipe), known.facts)
    key = digest_of([_VERSION, known.rows_path, known.edges_path, known.evalset, counted, recipe])
    return f"{folder_of(known.recipe.domain)}/outcome-{key[:32]}.parquet"


def keep(store: Store, connection: duckdb.DuckDBPyConnection, known: Known, stages: Sequence[Mapping[str, Any]]) -> str:
    """Keep the table `outcome` with the groups and the stages of the decision (see stages.describe), and say where."""
    path = path_of(store, known)
    if store.exists(path):
        return path
    told = {"stages": stages, "groups": groups(connection, "outcome")}
    schema = _KEPT.with_metadata({name: json.dumps(value, sort_keys=True) for name, value in told.items()})
    with store.scratch() as scratch:
        with parquet_writer(scratch, schema) as writer:
            for batch in batches(connection, f"SELECT {', '.join(schema.names)} FROM outcome ORDER BY slot"):
                writer.write_table(pa.Table.from_batches([batch]).cast(schema))
        store.adopt(scratch, path)
    return path


def groups(connection: duckdb.DuckDBPyConnection, relation: str) -> list[dict[str, Any]]:
    """Add up rows by source, component, split and reason. `relation` is SQL with the columns of `outcome`."""
    found: list[dict[str, Any]] = connection.sql(_GROUPS.format(relation=relation, digits=_DIGITS)).to_arrow_table().to_pylist()
    return with_tokens(found)


def with_tokens(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Estimate the tokens of groups that have none from their source's bytes per token, or from those of all sources."""
    rates = {name: _rate(group for group in found if group["source"] == name) for name in {group["source"] for group in found}}
    overall = _rate(found)
    filled = []
    for group in found:
        rate = rates[group["source"]] or overall
        n_tokens = round(group["n_bytes"] * rate) if group["n_tokens"] is None else group["n_tokens"]
        filled.append({**group, "n_tokens": n_tokens})
    return filled


def funnel(found: Iterable[Mapping[str, Any]], *, has_where: bool) -> list[dict[str, Any]]:
    """Count what is left after each step of a decision, by its groups; `has_where` where the recipe has `select.where`."""
    gone = [(_last_step(group), group) for group in found]
    steps = []
    for place, step in enumerate(_STEPS):
        here = [group for last, group in gone if last >= place]
        if has_where or step != "met select.where":
            steps.append({"step": step, **total(here)})
    return steps


def total(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up rows, bytes and tokens of groups; `estimated` where some of the tokens are."""
    listed = list(found)
    sums = {name: sum(group[name] for group in listed) for name in ("rows", "n_bytes", "n_tokens")}
    return {**sums, "estimated": any(group["n_uncounted"] for group in listed)}


def is_kept(group: Mapping[str, Any]) -> bool:
    return bool(group["split"] == "train")


def is_ranked(group: Mapping[str, Any]) -> bool:
    """Whether the rows passed everything that comes before the budget."""
    return is_kept(group) or group["reason"] == "budget"


def is_domain(group: Mapping[str, Any]) -> bool:
    return bool(group["component"] == DOMAIN_COMPONENT)


def mean_quality(found: Iterable[Mapping[str, Any]]) -> float | None:
    """Give the mean score of the rows that have one."""
    listed = list(found)
    n_scored = sum(group["n_scored"] for group in listed)
    return round(sum(group["quality_sum"] for group in listed) / n_scored / _DIGITS, 4) if n_scored else None


def mean_perplexity(found: Iterable[Mapping[str, Any]]) -> float | None:
    """Give the geometric mean of the perplexities of the rows that have one."""
    listed = list(found)
    n_scored = sum(group["n_with_perplexity"] for group in listed)
    return round(math.exp(sum(group["perplexity_log_sum"] for group in listed) / n_scored / _DIGITS), 4) if n_scored else None


def _rate(found: Iterable[Mapping[str, Any]]) -> float:
    counted = [group for group in found if group["n_tokens"] is not None]
    n_bytes = sum(group["n_bytes"] for group in counted)
    return sum(group["n_tokens"] for group in counted) / n_bytes if n_bytes else 0.0


def _last_step(group: Mapping[str, Any]) -> int:
    """Give the last step that the rows of a group passed."""
    if group["split"] == "holdout":
        return 0
    if is_kept(group):
        return len(_STEPS) - 1
    reason = group["reason"]
    if reason.startswith("duplicate."):
        return 4
    return {"select.where": 2, "holdout.leak": 3, "budget": 5}.get(reason, 1)


# The rows of a table of outcomes, with what they are.
OF_ROWS = """
(SELECT outcomes.slot, row_id, rows.source, rows.component, shard, "row", rows.n_bytes, rows.quality, rows.perplexity, split, reason,
    rank, dup_similarity, n_tokens, n_estimated
 FROM {outcome} AS outcomes JOIN rows ON rows.rowid = slot)
"""

# Whole numbers only, so that no sum depends on the order of its parts.
_GROUPS = """
SELECT source::VARCHAR AS source, component::VARCHAR AS component, split, reason, count(*) AS rows, sum(n_bytes)::BIGINT AS n_bytes,
    sum(n_estimated)::BIGINT AS n_tokens, count(*) FILTER (n_tokens IS NULL) AS n_uncounted,
    coalesce(sum(round(quality::DOUBLE * {digits})::BIGINT), 0)::BIGINT AS quality_sum, count(quality) AS n_scored,
    min(quality) AS lowest_quality, max(rank) AS last_rank,
    coalesce(sum(round(ln(perplexity::DOUBLE) * {digits})::BIGINT), 0)::BIGINT AS perplexity_log_sum,
    count(perplexity) AS n_with_perplexity, max(perplexity) AS highest_perplexity
FROM {relation} GROUP BY ALL ORDER BY source, component, split, reason
"""
