"""What `curate try` prints: what a change moves, step by step, by source and by reason, and the rows at the edge.

Stands behind `whatif`, which gathers the plain values. Amounts that are partly estimated have a `~`. Cost: nothing but the console's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.printable import printable
from curate.report import SAMPLE_NOTE

_STYLES = {"out": "red", "in": "green"}
_HEADINGS = {"out": "newly dropped, nearest to the limit first", "in": "newly kept, nearest to the limit first"}


def print_what_if(console: Console, data: Mapping[str, Any]) -> None:
    """Print what a change would keep and drop, the note about the sample first."""
    before, after = data["before"], data["after"]
    if data["sample"]:
        console.print(f"[bold yellow]{SAMPLE_NOTE}[/]")
    sides = [f"{side['name']}: {side['kept']['rows']:,} rows, {amount(side['kept'])} tokens in training" for side in (before, after)]
    console.print(Text("; ".join(sides), style="bold"), soft_wrap=True)
    for remark in data["remarks"]:
        console.print(Text(f"remark: {printable(remark)}", style="yellow"), soft_wrap=True)
    _print_funnel(console, before, after)
    _print_sources(console, data)
    _print_reasons(console, data)
    _print_mixture(console, before, after)
    _print_cut(console, before, after)
    for direction in ("out", "in"):
        _print_samples(console, [row for row in data["samples"] if row["direction"] == direction], direction)
    if any(side["kept"]["estimated"] for side in (before, after)):
        console.print("~ partly estimated from the source's bytes per token; a build counts it", style="dim", highlight=False)


def amount(total: Mapping[str, Any]) -> str:
    """Write tokens, marked where some of them are estimated."""
    return f"{'~' if total['estimated'] else ''}{total['n_tokens']:,}"


def _print_funnel(console: Console, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    names = [f"{what}, {side['name']}" for what in ("rows", "tokens") for side in (before, after)]
    table = _table("Funnel", ["left after", *names])
    steps = [{step["step"]: step for step in side["funnel"]} for side in (before, after)]
    for step in dict.fromkeys([*steps[1], *steps[0]]):
        found = [one.get(step) for one in steps]
        table.add_row(
            step, *("-" if one is None else f"{one['rows']:,}" for one in found), *("-" if one is None else amount(one) for one in found)
        )
    console.print(table)


def _print_sources(console: Console, data: Mapping[str, Any]) -> None:
    names = [f"{what} {side}" for side in ("before", "out", "in", "after") for what in ("rows", "tokens")]
    table = _table("In training, by source", ["source", *names])
    before, after = (data[side]["sources"] for side in ("before", "after"))
    none = {"rows": 0, "n_tokens": 0, "estimated": False}
    moves = {(move["source"], move["direction"]): move for move in data["moves"]}
    for source in sorted({*before, *after}):
        parts = [before.get(source, none), *(moves.get((source, way), none) for way in ("out", "in")), after.get(source, none)]
        table.add_row(Text(printable(source)), *(cell for part in parts for cell in (f"{part['rows']:,}", amount(part))))
    console.print(table)


def _print_reasons(console: Console, data: Mapping[str, Any]) -> None:
    if not data["reasons"]:
        console.print("no row moves")
        return
    table = _table("What moves, by reason", ["", "reason", "rows", "tokens"], n_left=2)
    for row in data["reasons"]:
        way = {"out": "kept -> dropped", "in": "dropped -> kept"}[row["direction"]]
        table.add_row(Text(way, style=_STYLES[row["direction"]]), Text(printable(row["reason"])), f"{row['rows']:,}", amount(row))
    console.print(table)
    before, after = (data[side]["name"] for side in ("before", "after"))
    console.print(f"kept -> dropped: why it is out {after}; dropped -> kept: why it was out of {before}", style="dim", highlight=False)


def _print_mixture(console: Console, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    parts = ("share", "epoch_tokens", "pool_tokens", "repeats", "epochs")
    table = _table("Mixture", ["stage", "component", "share", "tokens an epoch", "tokens of the pool", "repeats", "epochs"], n_left=2)
    sides = [{(one["stage"], one["name"]): one for one in side["components"]} for side in (before, after)]
    for stage, name in dict.fromkeys([*sides[1], *sides[0]]):
        both = [side.get((stage, name), {}) for side in sides]
        table.add_row(Text(printable(stage)), Text(printable(name)), *(_change(*(one.get(part) for one in both)) for part in parts))
    console.print(table)


def _print_cut(console: Console, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    cuts = [side["cut"] for side in (before, after)]
    last, ranked = (_change(*(cut[name] for cut in cuts)) for name in ("last_rank", "ranked"))
    scores = [] if cuts[1]["quality"] is None else [f"lowest quality taken {_change(*(cut['quality'] for cut in cuts))}"]
    if cuts[1]["perplexity"] is not None:
        scores.append(f"highest perplexity taken {_change(*(cut['perplexity'] for cut in cuts))}")
    lines = [f"domain: last rank taken {last}, of {ranked} ranked", *scores]
    for mean, words in (("mean_quality", "mean quality"), ("mean_perplexity", "geometric mean of perplexity")):
        means = [(name, *(side[mean][name] for side in (before, after))) for name in ("domain", "all")]
        lines += [f"{words} in training ({name}) {_change(was, now)}" for name, was, now in means if was is not None or now is not None]
    for line in lines:
        console.print(line, highlight=False)


def _print_samples(console: Console, rows: Sequence[Mapping[str, Any]], direction: str) -> None:
    if not rows:
        return
    console.print(Text(_HEADINGS[direction], style=_STYLES[direction]))
    for row in rows:
        why = f"{row['reason']}: {row['what']}" if row["what"] else row["reason"]
        scores = "".join(f", {name} {row[name]:.4f}" for name in ("quality", "perplexity") if row[name] is not None)
        console.print(Text(printable(f"  {row['row_id']} of {row['source']}{scores}; {why}")), soft_wrap=True)
        text = "its text is no more in the corpus" if row["text"] is None else row["text"]
        console.print(Text(f"    {printable(text)}", style="dim"), soft_wrap=True)


def _change(before: Any, after: Any) -> str:
    words = ["-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}" for value in (before, after)]
    return words[0] if before == after else " -> ".join(words)


def _table(title: str, names: Sequence[str], n_left: int = 1) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number < n_left else "right", overflow="fold")
    return table
