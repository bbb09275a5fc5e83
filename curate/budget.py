"""How much of a source dedup may take before a person looks: counts, limits, and samples side by side.

Stands between decide and everything that is published. Decision: dedup never empties a source in silence. Where more than a stated
share of a source's rows goes, or too many rows hang on one kept row, the build stops and shows what went beside what stayed, because
a template that many rows share looks like a copy to any measure, and only a person can tell the two apart. The limits say nothing
about a row, so they are part of no digest. The cost is one aggregation by source and one by kept row, in DuckDB, which spill; texts
are read of the samples only.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.printable import printable
from curate.recipe import Recipe
from curate.store import Store

ACCEPTS = ("dedup",)
MIN_ROWS = 20  # a share of fewer rows says nothing: of ten, four copies are an accident
_N_SAMPLES = 5
_SHOWN_CHARS = 600
_ID_CHARS = 100
_CONTEXT_CHARS = 40  # that both texts share, before the first difference
_SAMPLE_COLUMNS = ("row_id", "source", "source_id", "shard", "row")


@dataclasses.dataclass(frozen=True, slots=True)
class Breach:
    """A limit that dedup passed: what happened, in words, which keys of the recipe set the limit, and which rows went.

    `condition` is SQL over the table `decided` that picks the rows, `values` are its parameters.
    """

    what: str
    keys: tuple[str, ...]
    condition: str
    values: Mapping[str, str]


def breaches(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> list[Breach]:
    """Find the limits that are passed in the table `decided`: those of sources in the recipe's order, then that of one kept row.

    A row comes to dedup where it is not held out and passed the rules; it goes as a copy of a kept or of a held-out row. A source of
    fewer than 20 such rows is not judged by its share.
    """
    counts = shares(connection)
    found = []
    for source in recipe.decided_sources():
        n_came, n_gone = counts.get(source.name, (0, 0))
        limit = recipe.max_dedup_share(source)
        own = f"sources.{source.name}.max_dedup_share"
        # Divided, not multiplied: 29 / 100 is 0.29 to the last bit, but 0.29 * 100 is below 29.
        if n_came >= MIN_ROWS and n_gone / n_came > limit:
            key = "dedup.max_share" if source.max_dedup_share is None else own
            found.append(
                Breach(
                    f"source {source.name!r}: {n_gone:,} of {n_came:,} rows that came to dedup ({n_gone / n_came:.2%}) went as copies, "
                    f"more than the {limit:.2%} of {key}",
                    tuple(dict.fromkeys([own, key])),
                    f"{_GONE} AND source = $source",
                    {"source": source.name},
                )
            )
    kept = most_copies(connection)
    if kept is not None and kept[2] > recipe.dedup.max_copies:
        row_id, name, n_copies = kept
        what = (
            f"{n_copies:,} rows hang on one kept row, {row_id} of source {name!r}, "
            f"more than the {recipe.dedup.max_copies:,} of dedup.max_copies"
        )
        found.append(Breach(what, ("dedup.max_copies",), "dup_of = $row_id", {"row_id": row_id}))
    return found


def shares(connection: duckdb.DuckDBPyConnection) -> dict[str, tuple[int, int]]:
    """Count for each source of `decided` the rows that came to dedup, and those of them that went."""
    return {source: (n_came, n_gone) for source, n_came, n_gone in connection.execute(_SHARES).fetchall()}


def most_copies(connection: duckdb.DuckDBPyConnection) -> tuple[str, str, int] | None:
    """Give the kept row that most rows hang on (the first by its row_id), its source, and how many they are."""
    found: list[tuple[str, str, int]] = connection.execute(_MOST_COPIES).fetchall()
    return found[0] if found else None


def advice(found: Sequence[Breach]) -> str:
    """Say in one line what was passed and what to do."""
    keys = list(dict.fromkeys(key for breach in found for key in breach.keys))
    named = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} or {keys[-1]}"
    passed = "; ".join(breach.what for breach in found)
    return f"{passed}; nothing was published: look at the samples above, then run it again with --accept dedup, or set {named}"


def print_samples(
    store: Store, connection: duckdb.DuckDBPyConnection, recipe: Recipe, found: Sequence[Breach], *, console: Console
) -> None:
    """Print for each breach five rows that went, drawn by hash, each beside the row that was kept in its place."""
    for breach in found:
        console.print(Text(f"dedup: {breach.what}; for example:", style="bold"), soft_wrap=True)
        values = {**breach.values, "purpose": f"dedup|{recipe.seed}", "n_samples": _N_SAMPLES}
        samples = connection.sql(_SAMPLES.format(condition=breach.condition), params=values).to_arrow_table().to_pylist()
        texts = _texts(store, [row for sample in samples for row in (sample["gone"], sample["kept"]) if row is not None])
        for sample in samples:
            console.print(_side_by_side(sample, texts))


def _texts(store: Store, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Read the texts of some rows, by row_id, shard after shard, in one line each with single spaces."""
    found: dict[str, str] = {}
    for shard in sorted({row["shard"] for row in rows}):
        here = sorted({(row["row"], row["row_id"]) for row in rows if row["shard"] == shard})
        texts = store.read_rows(f"corpus/{shard}", [place for place, _ in here], ["text"])["text"].to_pylist()
        found |= {row_id: " ".join(text.split()) for (_, row_id), text in zip(here, texts, strict=True)}
    return found


def _side_by_side(sample: Mapping[str, Any], texts: Mapping[str, str]) -> Table:
    gone, kept = sample["gone"], sample["kept"]
    similarity = "" if kept is None else f", similarity {sample['dup_similarity']:.4g}"
    pair = [texts[row["row_id"]] for row in (gone, kept) if row is not None]
    start = 0 if kept is None else _start(*pair)
    table = Table(expand=True)
    for what, row in ((f"gone: {sample['reason']}{similarity}", gone), ("kept", kept)):
        if row is not None:
            named = f" ({row['source_id'][:_ID_CHARS]})" if row["source_id"] is not None else ""
            heading = Text(printable(f"{what}; {row['row_id']} of {row['source']}{named}"))
            table.add_column(heading, ratio=1, overflow="fold")
    table.add_row(*(Text(_excerpt(text, start)) for text in pair))
    return table


def _start(gone: str, kept: str) -> int:
    """Give the place from which on two texts are shown: a little before they first differ; 0 where they do not."""
    if gone == kept:
        return 0
    same = next((place for place, (ours, theirs) in enumerate(zip(gone, kept, strict=False)) if ours != theirs), min(len(gone), len(kept)))
    return max(0, same - _CONTEXT_CHARS)


def _excerpt(text: str, start: int) -> str:
    shown = printable(text[start : start + _SHOWN_CHARS])
    return f"{'...' if start else ''}{shown}{'...' if len(text) > start + _SHOWN_CHARS else ''}"


_GONE = "(starts_with(reason, 'duplicate.') OR reason = 'holdout.leak')"

_SHARES = f"""
SELECT source, count(*), count(*) FILTER ({_GONE}) FROM decided WHERE is_eligible AND split <> 'holdout' GROUP BY source ORDER BY source
"""

_MOST_COPIES = """
WITH most AS (
    SELECT dup_of, count(*) AS n_copies FROM decided WHERE dup_of IS NOT NULL GROUP BY dup_of ORDER BY n_copies DESC, dup_of LIMIT 1
)
SELECT row_id, source, n_copies FROM decided JOIN most ON row_id = most.dup_of
"""

_PLACE = ", ".join(f"'{name}': {{side}}.\"{name}\"" for name in _SAMPLE_COLUMNS)
_SAMPLES = f"""
WITH drawn AS (
    SELECT *, hash_key($purpose, row_id) AS key FROM decided WHERE {{condition}} ORDER BY key, row_id LIMIT $n_samples
)
SELECT drawn.reason, drawn.dup_similarity, {{{{{_PLACE.format(side="drawn")}}}}} AS gone,
    CASE WHEN drawn.dup_of IS NOT NULL THEN {{{{{_PLACE.format(side="kept")}}}}} END AS kept
FROM drawn LEFT JOIN decided AS kept ON kept.row_id = drawn.dup_of ORDER BY drawn.key, drawn.row_id
"""
