"""What `curate suggest` prints: the numbers, the reasons with their sources, where the literature ends, and lines to paste.

Stands behind `suggest`. Cost: nothing but the console's.
"""

from rich.console import Console
from rich.text import Text

from curate.printable import printable
from curate.suggest import Suggestion


def print_suggestion(console: Console, one: Suggestion) -> None:
    """Print a suggestion."""
    total = f"{one.epochs} epochs of {one.epoch_tokens:,} tokens, {one.total_tokens:,} in all: {one.domain_share:.1%} domain"
    console.print(Text(f"{total}, {1 - one.domain_share:.1%} replay", style="bold"), soft_wrap=True)
    for heading, lines in (("why", one.reasons), ("where the literature ends", one.limits)):
        console.print(Text(heading, style="bold"))
        for line in lines:
            console.print(Text(printable(f"  - {line}")), soft_wrap=True)
    console.print(Text("recipe lines, in place of its own [select] budget and [mix]", style="bold"))
    console.print(Text(one.lines), soft_wrap=True)
