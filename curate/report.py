"""What a version looks like to a person: funnel, sources, components and reasons, as tables in the terminal."""

from collections.abc import Mapping
from typing import Any

import duckdb
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from curate.expressions import score_of
from curate.manifest import SHUFFLE, Manifest, attach
from curate.recipe import DOMAIN_COMPONENT
from curate.scorer_print import print_perplexity
from curate.scorer_tables import perplexity_tables
from curate.stages import total_repeats, warnings
from curate.store import Store

_BAR = 60  # characters of the longest bar
_FULL, _EMPTY = "\u2588", "\u2591"
SAMPLE_NOTE = "SAMPLE CORPUS: made from templates by `curate make-sample`, to try the commands on; nothing learnt from it means anything"


def funnel(connection: duckdb.DuckDBPyConnection, *, has_where: bool = False) -> list[dict[str, Any]]:
    """Count what is left after each step of the decision, from the table `decided`; `has_where` where the recipe has `select.where`.

    Rows, bytes and tokens; tokens of rows that were never counted are estimated from their source's bytes per token
    (of all sources where it has no count), and the step is marked.
    """
    names = ["step", "rows", "n_bytes", "n_tokens", "estimated"]
    steps = [dict(zip(names, row, strict=True)) for row in connection.execute(_FUNNEL).fetchall()]
    return [step for step in steps if has_where or step["step"] != "met select.where"]


def summary(store: Store, manifest: Manifest) -> dict[str, Any]:
    """Gather what `curate show` prints, as plain values."""
    info = manifest.info
    connection = attach(store, manifest, "m")
    sources = connection.sql(_SOURCES).to_arrow_table().to_pylist()
    for row in sources:
        row["quarantined"] = info["inputs"][row["source"]]["n_quarantined"]
    others = [
        {"source": name, "role": entry["role"], "rows": entry["n_rows"], "quarantined": entry["n_quarantined"]}
        for name, entry in info["inputs"].items()
        if entry["holdout_share"] is None
    ]
    return {
        "sample": info["sample"],
        "version": manifest.version,
        "domain": info["domain"],
        "parent": info["parent"],
        "path": store.url(f"manifests/{manifest.version}"),
        "tokenizer": {key: info["tokenizer"][key] for key in ("name", "sha256", "separator", "n_vocab")},
        "funnel": info["funnel"],
        "sources": sources,
        "other_sources": others,
        "stages": [_stage(stage, info["evalset"]["components"]) for stage in info["stages"]],
        "repeats": total_repeats(info["stages"]),
        "strata": info.get("strata", []),
        "budget_tokens": info["recipe"].get("select", {}).get("budget_tokens"),
        "is_whole_stock": not connection.execute(_LEFT_OUT).fetchall()[0][0],
        "warnings": warnings(info["stages"]),
        "edges": info.get("edges"),
        "accepted": info.get("accepted", []),
        "scorers": info["scorers"],
        "scores": _scores(connection, info),
        "perplexity": perplexity_tables(store, connection, manifest, "m"),
        "reasons": connection.sql(_REASONS).to_arrow_table().to_pylist(),
        "fingerprint": info["fingerprint"],
        "decision": info["decision"],
    }


def _scores(connection: duckdb.DuckDBPyConnection, info: Mapping[str, Any]) -> dict[str, Any] | None:
    """Count the domain's ranked rows by quality, in steps of 0.05, and give the score at the cut where the ranking is by it."""
    if all(scorer["name"] != "quality" for scorer in info["scorers"]):
        return None
    (cut,) = connection.execute(_SCORE_CUT).fetchall()[0]
    by_score = score_of(info["recipe"]["select"]) == "quality"
    return {"bins": connection.sql(_SCORES).to_arrow_table().to_pylist(), "cut": cut if by_score else None}


def _stage(stage: Mapping[str, Any], exams: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a stage: to each component what was asked for, where that is known, and its part of the evalset."""
    mixture = stage.get("mixture")
    requested = mixture["requested"] if mixture else {}
    parts = [
        {**part, "requested": requested.get(part["name"], part["share"]), "evalset": exams.get(part["name"])}
        for part in stage["components"]
    ]
    return {**stage, "order": stage.get("order", SHUFFLE), "mixture": mixture, "components": parts}


def print_summary(console: Console, data: Mapping[str, Any]) -> None:
    """Print a summary as tables, the note about the sample first."""
    if data["sample"]:
        console.print(f"[bold yellow]{SAMPLE_NOTE}[/]")
    parent = f", after {data['parent']}" if data["parent"] else ""
    console.print(f"[bold]{data['version']}[/]  domain {escape(data['domain'])}{parent}  {escape(data['path'])}", soft_wrap=True)
    tokenizer = data["tokenizer"]
    console.print(
        f"tokenizer {escape(tokenizer['name'])} ({tokenizer['n_vocab']:,} entries, separator {tokenizer['separator']})", highlight=False
    )
    steps = Table("step", title="Funnel", title_justify="left")
    for name in ("rows", "bytes", "tokens", "rows left"):
        steps.add_column(name, justify="right")
    for step in data["funnel"]:
        mark = "~" if step["estimated"] else ""
        share = step["rows"] / max(1, data["funnel"][0]["rows"])
        steps.add_row(step["step"], f"{step['rows']:,}", f"{step['n_bytes']:,}", f"{mark}{step['n_tokens']:,}", f"{share:.1%}")
    console.print(steps)
    console.print("~ estimated from the bytes per token of what was counted", style="dim")
    console.print(_plain_table("Sources", data["sources"]))
    if data["other_sources"]:
        console.print(_plain_table("Other sources (in the corpus, not in the manifest)", data["other_sources"]))
    for stage in data["stages"]:
        _print_stage(console, stage, is_only=len(data["stages"]) == 1)
    _print_stock(console, data)
    for warning in data["warnings"]:
        console.print(f"warning: {escape(warning)}", style="yellow", soft_wrap=True, highlight=False)
    if data["strata"]:
        console.print(_plain_table("Strata of the domain", data["strata"]))
    console.print(_plain_table("Reasons", data["reasons"]) if data["reasons"] else "nothing was dropped")
    if data["edges"]:
        linked = data["edges"]
        console.print(
            f"near copies: {linked['n_candidates']:,} pairs compared, {linked['n_edges']:,} alike (Jaccard of word 5-grams 0.5 or "
            "more, or 0.8 of the word 3-grams of one are in the other)"
            + (f", {linked['n_skipped']:,} left uncompared in hot bands" if linked["n_skipped"] else ""),
            highlight=False,
        )
    if data["accepted"]:
        console.print(f"accepted by a person though its limits were passed: {', '.join(data['accepted'])}", style="yellow")
    if data["scores"]:
        _print_scores(console, data["scores"], next(one for one in data["scorers"] if one["name"] == "quality"))
    if data["perplexity"]:
        print_perplexity(console, data["perplexity"])


def _print_stage(console: Console, stage: Mapping[str, Any], *, is_only: bool) -> None:
    rows = [
        {
            "component": part["name"], "asked for": f"{part['requested']:.1%}", "share": f"{part['share']:.1%}",
            "tokens an epoch": part["epoch_tokens"], "pool tokens": part["pool_tokens"],
            "repeats": f"{part['repeats']:.2f}", "redraw": part["redraw"], "evalset": _evalset_words(part["evalset"]),
        }
        for part in stage["components"]
    ]  # fmt: skip
    name = "Components" if is_only else f"Stage {stage['name']}"
    order = "" if stage["order"] == SHUFFLE else f", by {stage['order']}"
    console.print(_plain_table(f"{name} ({stage['epochs']} epochs of {stage['epoch_tokens']:,} tokens{order})", rows))
    mixture = stage["mixture"]
    if not mixture or not (mixture["preset"] or mixture["like"]):
        return
    said = f"mixture: {mixture['preset'] or mixture['like']}"
    if mixture["replaced"]:
        said += f"; the domain stands for {_shares(mixture['replaced'])}"
    if mixture["absent"]:
        others = ", ".join(part["name"] for part in stage["components"] if part["name"] != DOMAIN_COMPONENT and part["share"])
        said += f"; no source has {_shares(mixture['absent'])}: their share goes to {others}"
    console.print(escape(said), soft_wrap=True, highlight=False)


def _print_stock(console: Console, data: Mapping[str, Any]) -> None:
    """Say where a stock is below what was asked of it: the domain's budget, or an epoch's tokens of a component."""
    by_name = {part["name"]: part for stage in data["stages"] for part in stage["components"]}
    domain = by_name.get(DOMAIN_COMPONENT)
    if data["budget_tokens"] and domain and data["is_whole_stock"]:
        console.print(
            f"the whole stock of the domain, {domain['pool_tokens']:,} tokens, is below the budget of {data['budget_tokens']:,} and "
            "taken",
            style="yellow", soft_wrap=True,
        )  # fmt: skip
    for stage in data["stages"]:
        for part in stage["components"]:
            if part["epoch_tokens"] > part["pool_tokens"]:
                console.print(
                    f"component {escape(part['name'])}: its whole stock of {part['pool_tokens']:,} tokens is below "
                    f"the {part['epoch_tokens']:,} of an epoch, so it repeats",
                    style="yellow", soft_wrap=True,
                )  # fmt: skip


def _shares(shares: Mapping[str, float]) -> str:
    return f"{', '.join(shares)} ({sum(shares.values()):.1%})"


def _print_scores(console: Console, scores: Mapping[str, Any], scorer: Mapping[str, Any]) -> None:
    table = Table("quality", title="Scores of the domain's rows that passed rules and dedup", title_justify="left")
    table.add_column("rows", justify="right")
    table.add_column("train", justify="right")
    table.add_column("train, over budget")
    most = max(row["rows"] for row in scores["bins"])
    for row in scores["bins"]:
        wide = -(-_BAR * row["rows"] // most)
        full = min(wide, -(-_BAR * row["train"] // most))
        bar = _FULL * full + _EMPTY * (wide - full)
        table.add_row(f"{row['from']:.2f}-{row['from'] + 0.05:.2f}", f"{row['rows']:,}", f"{row['train']:,}", bar)
    console.print(table)
    if scores["cut"] is not None:
        console.print(f"cut at quality {scores['cut']:.4f}: the lowest score in training", highlight=False)
    if auc := scorer["held_out_auc"]:
        console.print(f"held-out AUC {auc['auc']:.4f} ({auc['of']})", highlight=False)


def _plain_table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in rows[0] if rows else ["nothing"]:
        number = any(isinstance(row[name], int) for row in rows) if rows else False
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else escape("" if value is None else str(value)) for value in row.values()))
    return table


def _evalset_words(entry: Mapping[str, Any] | None) -> str:
    if entry is None or not entry["n_docs"]:
        return "none: not evaluated"
    return f"{entry['n_docs']:,} documents, {entry['n_bytes'] / 1e6:.2f} MB" + ("" if entry["has_interval"] else ", no interval")


_FUNNEL = """
WITH ratios AS (SELECT source, sum(n_tokens)::DOUBLE / sum(n_bytes) AS ratio FROM decided WHERE n_tokens IS NOT NULL GROUP BY source),
overall AS (SELECT sum(n_tokens)::DOUBLE / sum(n_bytes) AS ratio FROM decided WHERE n_tokens IS NOT NULL),
sized AS (
    SELECT n_bytes, n_tokens IS NULL AS is_estimated,
        coalesce(n_tokens, round(n_bytes * coalesce(ratios.ratio, overall.ratio, 0)))::BIGINT AS n,
        CASE WHEN split = 'holdout' THEN 1 WHEN reason IS NULL THEN 9 WHEN reason = 'select.where' THEN 3
             WHEN reason = 'holdout.leak' THEN 4 WHEN reason LIKE 'duplicate.%' THEN 5 WHEN reason = 'budget' THEN 6 ELSE 2 END AS gone_at
    FROM decided LEFT JOIN ratios USING (source), overall
),
steps(place, step) AS (
    VALUES (0, 'read'), (1, 'not held out'), (2, 'passed the rules'), (3, 'met select.where'), (4, 'no leak to the holdout'),
        (5, 'no duplicate'), (6, 'within the budget')
)
SELECT step, count(n), coalesce(sum(n_bytes), 0)::BIGINT, coalesce(sum(n), 0)::BIGINT, coalesce(bool_or(is_estimated), false)
FROM steps LEFT JOIN sized ON gone_at > place GROUP BY place, step ORDER BY place
"""

_SOURCES = """
SELECT source::VARCHAR AS source, count(*) AS rows, count(*) FILTER (split = 'train') AS train,
    count(*) FILTER (split = 'holdout') AS holdout,
    count(*) FILTER (split = 'dropped') AS dropped, sum(n_bytes)::BIGINT AS n_bytes,
    coalesce(sum(n_tokens) FILTER (split = 'train'), 0)::BIGINT AS train_tokens
FROM m GROUP BY 1 ORDER BY 1
"""

_REASONS = """
SELECT reason, source::VARCHAR AS source, count(*) AS rows, sum(n_bytes)::BIGINT AS n_bytes
FROM m WHERE reason IS NOT NULL GROUP BY 1, 2 ORDER BY rows DESC, reason, source
"""

_LEFT_OUT = f"SELECT count(*) FROM m WHERE component = '{DOMAIN_COMPONENT}' AND reason = 'budget'"
_RANKED = "component = 'domain' AND rank IS NOT NULL AND quality IS NOT NULL"
_SCORES = f"""
SELECT least(floor(quality * 20), 19) / 20 AS "from", count(*) AS rows, count(*) FILTER (split = 'train') AS train
FROM m WHERE {_RANKED} GROUP BY 1 ORDER BY 1 DESC
"""
_SCORE_CUT = f"SELECT min(quality) FROM m WHERE {_RANKED} AND split = 'train'"
