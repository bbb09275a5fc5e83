"""What `curate show` prints of scorers: the top decile by perplexity against the pool, and, with --scorers, two scorers compared.

Stands behind `scorer_tables` and `scorer_compare`, which gather the plain values. Cost: nothing but the console's.
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curate.printable import printable

_SHOWN_CHARS = 200


def print_perplexity(console: Console, data: Mapping[str, Any]) -> None:
    """Print what the top decile by perplexity is like, with a warning for each thing that moves, and how many rows are flagged."""
    table = Table("", title="The top decile by perplexity against the pool", title_justify="left")
    for name in ("pool", "top decile"):
        table.add_column(name, justify="right")
    for line in data["lines"]:
        values = ["-" if line[side] is None else f"{line[side]:,.4g}" for side in ("pool", "top")]
        table.add_row(Text(printable(line["what"])), *values, style="yellow" if line["moves"] else None)
    console.print(table)
    for warning in data["warnings"]:
        console.print(Text(f"warning: {printable(warning)}", style="yellow"), soft_wrap=True)
    said = [f"the decile is {data['top']:,} of the {data['pool']:,} scored rows of the domain that passed rules and dedup"]
    said += [] if data["top_up_to"] is None else [f"it goes up to perplexity {data['top_up_to']:.4f}"]
    said.append(f"{data['n_cross_fitted']:,} rows are documents of the reference, scored by the half of it that they are not in")
    console.print("; ".join(said), highlight=False, soft_wrap=True)
    flagged = data["flagged"]
    if flagged is None:
        words = "how much of the rows is in the reference is not known: a model of KenLM's does not tell it, or cache/signals is gone"
    else:
        words = (
            f"flagged: {flagged['rows']:,} of {flagged['of']:,} rows in training have more than {flagged['above']:.0%} of their runs of "
            "13 words in the reference"
        )
    console.print(words, highlight=False, soft_wrap=True)


def print_comparison(console: Console, data: Mapping[str, Any]) -> None:
    """Print two scorers compared: their rank correlation, what each would take, and samples of what the other would not."""
    correlation = "not known" if data["rank_correlation"] is None else f"{data['rank_correlation']:.4f}"
    console.print(
        f"{data['version']}: rank correlation (Spearman) {correlation} over {data['n_both']:,} rows with both scores", highlight=False
    )
    title = f"What each scorer alone would take of {data['budget_tokens']:,} tokens, the best first over all rows"
    table = Table("scorer", title=title, title_justify="left")
    for name in ("rows", "tokens", "rows that the other takes, too", "tokens that the other takes, too"):
        table.add_column(name, justify="right")
    for one in data["takes"]:
        shares = ["-" if one[key] is None else f"{one[key]:.1%}" for key in ("also_rows", "also_tokens")]
        table.add_row(one["scorer"], f"{one['rows']:,}", f"{'~' if one['estimated'] else ''}{one['n_tokens']:,}", *shares)
    console.print(table)
    for one in data["takes"]:
        if one["samples"]:
            console.print(Text(f"{one['scorer']} alone would take, the best first", style="bold"))
        for row in one["samples"]:
            scores = ", ".join(f"{name} {row[name]:.4f}" for name in ("quality", "perplexity") if row[name] is not None)
            places = f"place {row['place']:,}, by the other {row['place_of_other']:,}"
            console.print(
                Text(printable(f"  {row['row_id']} of {row['source']}, {row['n_words']:,} words, {scores}; {places}")), soft_wrap=True
            )
            text = "its text is no more in the corpus" if row["text"] is None else " ".join(row["text"].split())[:_SHOWN_CHARS]
            console.print(Text(f"    {printable(text)}", style="dim"), soft_wrap=True)
    for remark in data["remarks"]:
        console.print(Text(f"remark: {printable(remark)}", style="yellow"), soft_wrap=True)
    if any(one["estimated"] for one in data["takes"]):
        console.print("~ partly estimated from the source's bytes per token", style="dim", highlight=False)
