"""What each rule that dropped something did: its signal around the limit, and documents that just passed or just failed.

Stands under `page`, beside `page_copies`. The signals are those that lie beside the shards, so what is missing there is said and never
computed anew. Decision: the rows of the version are sorted once as they lie in the shards, so that a signal is laid beside them and no
table is joined. Cost: that sort, which spills, then four scans of one signal for each rule; results are bins and three rows a side.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np

from curate.judging import family_in
from curate.manifest import Manifest
from curate.page_bins import RANGE, bins_over
from curate.sandbox import file_list, quoted, quoted_name
from curate.store import Store
from filters.spec import Rule

N_SAMPLES = 3
_COLUMNS = ("row_id", "source", "source_id", "split", "shard", "row", "masks")
# A row of the manifest as a sample shows it; `read_texts` takes it.
SAMPLE = "struct_pack({})".format(", ".join(f'"{name}" := m."{name}"' for name in _COLUMNS))


@dataclasses.dataclass(frozen=True, slots=True)
class _Judge:
    """A rule that dropped rows, and its limit for each source that it judges."""

    family: str
    rule: Rule
    limits: Mapping[str, float]

    @property
    def reason(self) -> str:
        return f"{self.family}.{self.rule.name}"

    @property
    def marks(self) -> list[float]:
        return list(dict.fromkeys(self.limits.values()))


def rules(
    store: Store, connection: duckdb.DuckDBPyConnection, manifest: Manifest, dropped: Mapping[str, int], remarks: list[str]
) -> list[dict[str, Any]]:
    """Describe the rules among the reasons `dropped` (reason -> rows), the one that dropped most first.

    Reads the view `m`. Each has limits, bins with what it dropped and what not, and the nearest rows: dropped, and passed by
    all rules and dedup; without bins where its signal is not stored.
    """
    judges = _judges(manifest, dropped)
    shards = _shards(connection, manifest) if judges else []
    found: dict[str, dict[str, Any]] = {}
    for family in dict.fromkeys(judge.family for judge in judges.values()):
        own = [judge for judge in judges.values() if judge.family == family]
        paths = _signal_paths(store, manifest, family, shards, remarks)
        if paths:
            _check_aligned(connection, paths)
            found |= {judge.reason: _described(connection, judge, paths) for judge in own}
    order = sorted((reason for reason in dropped if reason in judges), key=lambda reason: (-dropped[reason], reason))
    return [{**_limits(judges[reason]), "n_dropped": dropped[reason], **found.get(reason, {"bins": None})} for reason in order]


def _judges(manifest: Manifest, dropped: Mapping[str, int]) -> dict[str, _Judge]:
    """Find the rules behind reasons; those of a family whose rules no version holds are left out."""
    limits: dict[str, dict[str, float]] = {}
    for source in manifest.info["recipe"].get("sources", ()):
        for family, thresholds in (source.get("judged_by") or {}).items():
            for name, threshold in thresholds.items():
                if threshold is not None:
                    limits.setdefault(f"{family}.{name}", {})[source["name"]] = threshold
    judges = {}
    for reason in dropped:
        family, _, name = reason.partition(".")
        known = family_in(manifest, family) if reason in limits else None
        rule = next((rule for rule in known[0] if rule.name == name), None) if known else None
        if rule is not None:
            judges[reason] = _Judge(family, rule, limits[reason])
    return judges


def _limits(judge: _Judge) -> dict[str, Any]:
    by_limit: dict[float, list[str]] = {}
    for source, limit in judge.limits.items():
        by_limit.setdefault(limit, []).append(source)
    return {
        "reason": judge.reason, "signal": judge.rule.signal, "keep": judge.rule.keep, "origin": judge.rule.source,
        "limits": [{"limit": limit, "sources": sources} for limit, sources in by_limit.items()],
    }  # fmt: skip


def _shards(connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> list[str]:
    """Make the table `places`: the rows of the version in the order in which they lie in these shards, which it gives."""
    connection.execute(_PLACES)
    decided = [entry for entry in manifest.info["inputs"].values() if entry["holdout_share"] is not None]
    return sorted(shard["path"].removeprefix("corpus/") for entry in decided for shard in entry["shards"])


def _signal_paths(store: Store, manifest: Manifest, family: str, shards: Sequence[str], remarks: list[str]) -> str | None:
    """List the files of a family's signals in SQL, those of all shards or, where one is missing, none."""
    known = family_in(manifest, family)
    assert known is not None, "a judge has a family"
    paths = [f"{known[1]}/{shard.rsplit('/', 1)[-1]}" for shard in shards]
    missing = sum(not store.exists(path) for path in paths)
    if missing:
        remarks.append(f"signals of {family} are not stored for {missing:,} of {len(paths):,} shards; build again to see them here")
        return None
    return file_list([store.url(path) for path in paths])


def _check_aligned(connection: duckdb.DuckDBPyConnection, paths: str) -> None:
    n_rows, n_beside = connection.execute(_ALIGNED.format(paths=paths)).fetchall()[0]
    assert n_rows == n_beside, "a version holds every row of its shards, and signals as many"


def _described(connection: duckdb.DuckDBPyConnection, judge: _Judge, paths: str) -> dict[str, Any]:
    """Count a rule's rows in bins, and give the nearest rows on both sides of its limit."""
    limits = " ".join(f"WHEN {quoted(source)} THEN {float(limit)!r}::DOUBLE" for source, limit in judge.limits.items())
    names = {"signal": quoted_name(judge.rule.signal), "paths": paths, "reason": quoted(judge.reason)}
    connection.execute(
        _JUDGED.format(
            **names,
            limit=f"CASE source {limits} END" if len(judge.marks) > 1 else f"{judge.marks[0]!r}::DOUBLE",
            sources=", ".join(quoted(source) for source in judge.limits),
        )
    )
    kind, low, high = connection.execute(_RANGE).fetchall()[0]
    # Few rows fail most rules, so where those lie counts beside where all do.
    ends = [end for end in (low, high, *connection.execute(_GONE_RANGE).fetchall()[0]) if end is not None]
    is_whole = kind != "FLOAT"
    marks = judge.marks if is_whole else [float(np.float32(mark)) for mark in judge.marks]
    bins = bins_over(min(ends), max(ends), marks=marks, is_whole=is_whole, holds_upper=judge.rule.keep == "<=")
    counts = connection.execute(_COUNTS.format(bin=bins.sql("value"))).fetchall()
    return {
        "bins": dataclasses.asdict(bins),
        "counts": [{"bin": number, "dropped": n_gone, "other": n_rows - n_gone} for number, n_rows, n_gone in counts],
        "is_whole": is_whole,
        "dropped": _nearest(connection, "is_gone", is_whole),
        "kept": _nearest(connection, "is_passed", is_whole),
    }


def _nearest(connection: duckdb.DuckDBPyConnection, condition: str, is_whole: bool) -> list[dict[str, Any]]:
    """Give the rows whose value is nearest to the limit, the nearest first."""
    rows = connection.execute(_NEAREST.format(condition=condition, n=N_SAMPLES)).fetchall()
    return [{"value": int(value) if is_whole else value, **sample} for value, sample in rows]


_PLACES = """
CREATE OR REPLACE TEMP TABLE places AS
SELECT row_id, source::VARCHAR AS source, reason, rank IS NOT NULL AS is_passed, split = 'holdout' AS is_held, "row"
FROM m ORDER BY shard::VARCHAR, "row"
"""
_ALIGNED = """
SELECT count(*), count(*) FILTER ("row" = place)
FROM places POSITIONAL JOIN (SELECT file_row_number AS place FROM read_parquet({paths}, file_row_number = true)) AS signals
"""
_JUDGED = """
CREATE OR REPLACE TEMP VIEW judged AS
SELECT row_id, is_passed, reason IS NOT DISTINCT FROM {reason} AS is_gone, signal::DOUBLE AS value, abs(value - {limit}) AS distance, signal
FROM places POSITIONAL JOIN (SELECT {signal} AS signal FROM read_parquet({paths})) AS signals
WHERE NOT is_held AND signal IS NOT NULL AND source IN ({sources})
"""
_RANGE = f"SELECT any_value(typeof(signal)), {RANGE.format(value='value')} FROM judged"
_GONE_RANGE = "SELECT quantile_disc(value, 0.05), quantile_disc(value, 0.95) FROM judged WHERE is_gone"
_COUNTS = "SELECT {bin} AS bin, count(*), count(*) FILTER (is_gone) FROM judged GROUP BY 1 ORDER BY 1"
_NEAREST = f"""
WITH nearest AS (SELECT row_id, value, distance FROM judged WHERE {{condition}} ORDER BY distance, row_id LIMIT {{n}})
SELECT value, {SAMPLE} FROM nearest JOIN m USING (row_id) ORDER BY distance, row_id
"""
