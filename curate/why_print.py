"""What `curate why` prints: an explanation as tables, and what two texts differ in, in the terminal.

Stands behind `why`, which gathers the plain values. Whatever comes from a document is a Text of printable characters, so that neither
markup nor an escape sequence in it acts. Cost: nothing but the console's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.judging import number
from curate.printable import printable
from curate.recipe import DOMAIN_COMPONENT
from curate.report import SAMPLE_NOTE
from curate.why import N_CUT_WORDS

_CONTEXT_WORDS = 6
_WORD_CHARS = 80
_N_LISTED = 20
_STYLES = {"passed": "green", "breached": "red"}
# Score, the key of how many have it, how it is better than others, and the worst.
_SCORE_WORDS = (("quality", "n_scored", "above", "lowest"), ("perplexity", "n_with_perplexity", "below", "highest"))
_MARKS = {"same": ("", "", ""), "removed": ("[-", "-]", "red"), "added": ("{+", "+}", "green")}


def print_explanation(console: Console, data: Mapping[str, Any]) -> None:
    """Print an explanation, the note about the sample first: every row, the rows of the same text, and the versions that hold it."""
    if data["sample"]:
        console.print(f"[bold yellow]{SAMPLE_NOTE}[/]")
    for row in data["rows"]:
        _print_row(console, row, data["version"])
    if data["other_rows"]:
        shown = data["other_rows"][:_N_LISTED]
        _print_table(console, f"Other rows of this text in {data['version']}: {_first(len(shown), len(data['other_rows']))}", shown)
    _print_table(console, f"Versions that hold the text {data['doc_id']}", data["versions"])
    for remark in data["remarks"]:
        console.print(Text(f"remark: {printable(remark)}", style="yellow"), soft_wrap=True)


def print_text(console: Console, data: Mapping[str, Any]) -> None:
    """Print what a version would say of a text that is in no source."""
    if data["sample"]:
        console.print(f"[bold yellow]{SAMPLE_NOTE}[/]")
    for one in data["judged"]:
        style = "bold green" if one["verdict"].startswith(("passes", "no rule")) else "bold red"
        console.print(Text(printable(f"as a row of {', '.join(one['sources'])}: {one['verdict']}"), style=style), soft_wrap=True)
    fields = _fields()
    fields.add_row("doc_id", data["doc_id"])
    fields.add_row("size", _size(data))
    fields.add_row("begins", Text(_one_line(data["beginning"])))
    for name, line in _score_lines(data, DOMAIN_COMPONENT):
        fields.add_row(name, Text(line))
        if (cut := data["place"][f"cut_{name}"]) is not None:
            fields.add_row(
                "cut", "it would be above" if data[name] == cut or (data[name] < cut) == (name == "perplexity") else "it would be below"
            )
    if data["overlap"] is not None:
        fields.add_row("reference", f"{data['overlap']:.1%} of its runs of 13 words are in the reference")
    console.print(fields)
    for one in data["judged"]:
        if one["rules"]:
            console.print(_rules_table({"source": ", ".join(one["sources"]), "split": "", "rules": one["rules"]}))
    if data["rows"]:
        _print_table(console, f"It is in {data['version']} already; curate why {data['doc_id']} explains it", data["rows"])
    else:
        console.print(f"no row of {data['version']} has this text", highlight=False)
    if data["near"] is not None:
        _print_near(console, data)
    if data["versions"]:
        _print_table(console, f"Versions that hold the text {data['doc_id']}", data["versions"])
    for remark in data["remarks"]:
        console.print(Text(f"remark: {printable(remark)}", style="yellow"), soft_wrap=True)


def _print_near(console: Console, data: Mapping[str, Any]) -> None:
    near = data["near"]
    if not near["first"]:
        console.print(f"no other text of {data['version']} is nearly alike: none shares a band key", highlight=False)
        return
    compared = f"{near['n_compared']:,} compared of {near['n_candidates']:,} that share a band key"
    columns = ("row_id", "source", "split", "reason", "similarity", "containment", "containment_of_it", "goes_as")
    _print_table(console, f"Nearest texts of {data['version']} ({compared})", [{key: row[key] for key in columns} for row in near["first"]])
    console.print(
        "containment: the share of this text that is in that one; goes_as: the reason by which one of the two would be dropped", style="dim"
    )


def shortened(diff: Sequence[tuple[str, Sequence[str]]]) -> Text:
    """Write a word diff in one line: [-removed-] in red, {+added+} in green, of what is the same a few words beside each change."""
    line = Text()
    for place, (op, words) in enumerate(diff):
        before, after, style = _MARKS[op]
        shown = list(words)
        n_first = 0 if place == 0 else _CONTEXT_WORDS
        n_last = 0 if place == len(diff) - 1 else _CONTEXT_WORDS
        if op == "same" and len(words) > n_first + n_last:
            shown = [*words[:n_first], "...", *words[len(words) - n_last :]]
        short = [word if len(word) <= _WORD_CHARS else f"{word[:_WORD_CHARS]}..." for word in shown]
        line.append(f"{' ' if place else ''}{before}{printable(' '.join(short))}{after}", style=style)
    return line


def _print_row(console: Console, row: Mapping[str, Any], version: str) -> None:
    style = {"train": "bold green", "holdout": "bold cyan"}.get(row["split"], "bold red")
    console.print(Text(f"{row['row_id']} in {version}: {row['verdict']}", style=style), soft_wrap=True)
    fields = _fields()
    for name in ("doc_id", "group", "source", "source_id", "component", "url", "licence", "lang", "date", "title"):
        if row[name] is not None:
            fields.add_row(name, Text(_one_line(row[name])))
    fields.add_row("size", _size(row))
    if row["beginning"] is not None:
        fields.add_row("begins", Text(_one_line(row["beginning"])))
    for name, value in _place_lines(row):
        fields.add_row(name, Text(value))
    console.print(fields)
    if row["rules"] is not None:
        console.print(_rules_table(row) if row["rules"] else "no rule judges this source")
    if row["duplicate_of"]:
        _print_duplicate(console, row["duplicate_of"])
    if (copies := row["copies"])["n_rows"]:
        _print_table(console, f"Rows that went because of this one: {_first(len(copies['first']), copies['n_rows'])}", copies["first"])


def _fields() -> Table:
    fields = Table(show_header=False, box=None, padding=(0, 1))
    fields.add_column(style="dim")
    fields.add_column(overflow="fold")
    return fields


def _size(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{row[name]:,} {name[2:]}" for name in ("n_tokens", "n_words", "n_bytes") if row[name] is not None)


def _place_lines(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    place, lines = row["place"], _score_lines(row, row["component"])
    if row["rank"] is not None:
        order = f" by {place['order_by']}" if place["order_by"] else ""
        cut = "nothing of the component is in training" if place["cut"] is None else f"the cut is after rank {place['cut']:,}"
        if place["cut"] is not None and place["stratify_by"]:
            cut = f"each stratum of {place['stratify_by']} has a cut of its own, and the last row taken has rank {place['cut']:,}"
        lines.append(("rank", printable(f"{row['rank']:,} of {place['n_ranked']:,}{order}; {cut}")))
    return lines


def _score_lines(row: Mapping[str, Any], component: str) -> list[tuple[str, str]]:
    """Say each score that a row has, the share of the rows that are worse, and the worst one in training where it is a cut."""
    lines = []
    for name, of, better, worst in _SCORE_WORDS:
        if row[name] is None:
            continue
        place = row["place"]
        percentile, cut = place[f"{name}_percentile"], place[f"cut_{name}"]
        among = f"of the {place[of]:,} rows of component {component} that passed rules and dedup"
        more = "" if percentile is None else f", {better} {percentile:g} % {among}"
        lines.append((name, printable(f"{row[name]:.4f}{more}" + ("" if cut is None else f"; the {worst} in training is {cut:.4f}"))))
    return lines


def _rules_table(row: Mapping[str, Any]) -> Table:
    judged = ", which a held-out row is not judged by" if row["split"] == "holdout" else ""
    table = Table(title=Text(f"Rules of source {row['source']}{judged}", style="italic"), title_justify="left")
    for name, justify in [("rule", "left"), ("signal", "left"), ("value", "right"), ("keeps", "left"), ("margin", "right")]:
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    table.add_column("outcome")
    for rule in row["rules"]:
        cells = ["" if rule[name] is None else number(rule[name]) for name in ("value", "margin")]
        outcome = Text(rule["outcome"] + (", dropped it" if rule["is_reason"] else ""), style=_STYLES.get(rule["outcome"], "dim"))
        keeps = f"{rule['keep'] or '?'} {number(rule['threshold'])}"
        style = "bold" if rule["is_reason"] else None
        table.add_row(f"{rule['family']}.{rule['rule']}", rule["signal"] or "unknown", cells[0], keeps, cells[1], outcome, style=style)
    return table


def _print_duplicate(console: Console, kept: Mapping[str, Any]) -> None:
    what = f"In its place: {kept['row_id']} ({kept['kind']}, similarity {kept['similarity']:.4g})"
    _print_table(console, what, [{key: kept[key] for key in ("doc_id", "source", "source_id", "url", "split", "reason")}])
    if kept["kind"] == "exact":
        console.print("the texts are the same")
    elif kept["diff"] is not None:
        cut = f", of the first {N_CUT_WORDS:,} words of each, because there are too many" if kept["is_diff_cut"] else ""
        console.print(f"What differs: \\[-only in the kept row-], {{+only in this one+}}{cut}", style="dim")
        console.print(shortened(kept["diff"]))


def _print_table(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    # The title is a line of its own, because a table folds it to its width.
    console.print(Text(title, style="italic"), soft_wrap=True)
    table = Table()
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if value is None or isinstance(value, str) else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return _one_line(value)
    return "" if value is None else number(value)


def _first(n_shown: int, n_all: int) -> str:
    return f"{n_all:,}" if n_shown == n_all else f"the first {n_shown:,} of {n_all:,}"


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))
