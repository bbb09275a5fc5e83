"""What `curate diff` prints: the changed lines, what came in and went out, and the mixtures side by side.

Stands behind `diff`, which gathers the plain values. Cost: nothing but the console's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.printable import printable
from curate.report import SAMPLE_NOTE

_SIDES = ("before", "out", "in", "after")
_STYLES = {"in": "green", "out": "red"}


def print_diff(console: Console, data: Mapping[str, Any]) -> None:
    """Print what a diff found, the note about the sample first."""
    before, after, totals = data["before"], data["after"], data["totals"]
    if before["sample"] or after["sample"]:
        console.print(f"[bold yellow]{SAMPLE_NOTE}[/]")
    console.print(
        Text(
            f"{before['version']} ({before['rows']:,} rows, {before['n_tokens']:,} tokens in training) -> "
            f"{after['version']} ({after['rows']:,} rows, {after['n_tokens']:,} tokens)",
            style="bold",
        ),
        soft_wrap=True,
    )
    for remark in data["remarks"]:
        console.print(Text(f"remark: {printable(remark)}", style="yellow"), soft_wrap=True)
    _print_recipe(console, data)
    moves = [f"{_moved(totals, side)} {side}" for side in ("out", "in")]
    console.print(Text(f"{', '.join(moves)}", style="bold"), soft_wrap=True)
    if totals["rows_out"] or totals["rows_in"]:
        _print_moves(console, data)
    _print_components(console, data)


def _moved(totals: Mapping[str, int], side: str) -> str:
    same = totals[f"same_text_{side}"]
    there = "still in" if side == "out" else "already in"
    more = f" ({same:,} of them texts that are {there} as another row)" if same else ""
    return f"{totals[f'rows_{side}']:,} rows, {totals[f'tokens_{side}']:,} tokens, {totals[f'bytes_{side}']:,} bytes{more}"


def _print_recipe(console: Console, data: Mapping[str, Any]) -> None:
    if not data["recipe"]:
        console.print("the recipes are the same")
        return
    table = _table("Recipe", ["line", data["before"]["version"], data["after"]["version"]], n_left=3)
    for line in data["recipe"]:
        table.add_row(*(Text(printable(line[name])) for name in ("key", "before", "after")))
    console.print(table)


def _print_moves(console: Console, data: Mapping[str, Any]) -> None:
    unit = _unit(data)
    names = {side: f"in {data[side]['version']}" if side in data else side for side in _SIDES}
    table = _table("By source", ["source", *(f"{what} {names[side]}" for side in _SIDES for what in ("rows", unit))])
    for row in data["sources"]:
        table.add_row(Text(printable(row["source"])), *(f"{row[f'{what}_{side}']:,}" for side in _SIDES for what in ("rows", unit)))
    console.print(table)
    why = {"out": f"why it is out of {data['after']['version']}", "in": f"why it was out of {data['before']['version']}"}
    table = _table("By reason", ["", "reason", "rows", unit, "text is in as another row"], n_left=2)
    for row in data["reasons"]:
        style = _STYLES[row["direction"]]
        counts = [f"{row[name]:,}" for name in ("rows", f"n_{unit}", "same_text")]
        table.add_row(Text(row["direction"], style=style), Text(printable(row["reason"])), *counts)
    console.print(table)
    console.print(f"out: {why['out']}; in: {why['in']}", style="dim", highlight=False)
    for name, key, end in (("quality", "deciles", "from"), ("perplexity", "perplexity_deciles", "up_to")):
        if data[key] is not None:
            _print_deciles(console, data, name, key, end)


def _print_deciles(console: Console, data: Mapping[str, Any], name: str, key: str, end: str) -> None:
    unit = _unit(data)
    heading = ["decile", f"{name} in {data['before']['version']}", "rows out", f"{unit} out"]
    table = _table(f"Domain by {name}, the best tenth first", [*heading, f"{name} in {data['after']['version']}", "rows in", f"{unit} in"])
    for row in data[key]:
        sides = [(row[f"{end}_before"], "out"), (row[f"{end}_after"], "in")]
        cells = [cell for edge, side in sides for cell in (_edge(edge, end), f"{row[f'rows_{side}']:,}", f"{row[f'{unit}_{side}']:,}")]
        table.add_row(str(row["decile"]), *cells)
    console.print(table)


def _print_components(console: Console, data: Mapping[str, Any]) -> None:
    parts = ("share", "pool_tokens", "epoch_tokens", "repeats", "epochs")
    table = _table("Mixture", ["stage", "component", "share", "tokens of the pool", "tokens an epoch", "repeats", "epochs"], n_left=2)
    for row in data["components"]:
        cells = [_change(row["before"][name], row["after"][name]) for name in parts]
        table.add_row(Text(printable(row["stage"])), Text(printable(row["component"])), *cells)
    console.print(table)


def _change(before: Any, after: Any) -> str:
    words = ["-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}" for value in (before, after)]
    return words[0] if before == after else " -> ".join(words)


def _edge(edge: float | None, end: str) -> str:
    words, beyond = ("from", "below") if end == "from" else ("up to", "above")
    return beyond if edge is None else f"{words} {edge:.4f}"


def _unit(data: Mapping[str, Any]) -> str:
    before, after = ({key: one["tokenizer"][key] for key in ("sha256", "separator")} for one in (data["before"], data["after"]))
    return "tokens" if before == after else "bytes"


def _table(title: str, names: Sequence[str], n_left: int = 1) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number < n_left else "right", overflow="fold")
    return table
