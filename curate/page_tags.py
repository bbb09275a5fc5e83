"""HTML in which a text cannot be mistaken for markup: elements are made of Html, and every other child is escaped.

Stands under the modules that write the page of a version. Decision: escaping is not a habit but a type, at the cost of a call for each
element. Besides, what a reader could not see or would be misled by (controls, marks that turn the direction of writing) is spelt out.
"""

import dataclasses
import html
import itertools
import re
from collections.abc import Iterable

from curate.printable import printable

_VOID = ("rect", "line", "br")


@dataclasses.dataclass(frozen=True, slots=True)
class Html:
    """Markup that is finished: nothing in it will be escaped again."""

    markup: str


Child = Html | str | int


def el(name: str, *children: Child, **attributes: str) -> Html:
    """Make an element. Attributes are named as in Python: class_ is class, text_anchor is text-anchor.

    >>> el("p", "1 < 2", class_="note").markup
    '<p class="note">1 &lt; 2</p>'
    """
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"' for key, value in attributes.items())
    if name in _VOID and not children:
        return Html(f"<{name}{given}>" if name == "br" else f"<{name}{given}/>")
    return Html(f"<{name}{given}>{together(children).markup}</{name}>")


def together(children: Iterable[Child]) -> Html:
    """Put children one after the other."""
    return Html("".join(child.markup if isinstance(child, Html) else _escaped(str(child)) for child in children))


def table(headings: Iterable[Child], rows: Iterable[Iterable[Child | None]]) -> Html:
    """Make a table that scrolls sideways where it is too wide; columns of numbers, also as text, stand to the right."""
    body = [list(row) for row in rows]
    is_number = [_are_numbers(column) for column in zip(*body, strict=True)]
    head = [_cell("th", heading, number, scope="col") for heading, number in itertools.zip_longest(headings, is_number, fillvalue=False)]
    trs = [el("tr", *(_cell("td", cell, number) for cell, number in zip(row, is_number, strict=True))) for row in body]
    return el("div", el("table", el("thead", el("tr", *head)), el("tbody", *trs)), class_="wide", tabindex="0")


def lines(text: str) -> Html:
    """Give a text of several lines, each escaped for itself, for an element that keeps them."""
    return Html("\n".join(_escaped(line) for line in text.split("\n")))


def details(summary: Child, *children: Child) -> Html:
    """Fold something away under a line of its own."""
    return el("details", el("summary", summary), *children)


def _are_numbers(column: Iterable[Child | None]) -> bool:
    plain = [str(cell) for cell in column if cell not in (None, "") and not isinstance(cell, Html)]
    return bool(plain) and all(re.fullmatch(r"~?[0-9][0-9,.]*%?", cell) for cell in plain)


def _cell(name: str, value: Child | None, is_number: bool, **attributes: str) -> Html:
    text = "" if value is None else f"{value:,}" if isinstance(value, int) else value
    return el(name, text, **attributes, **({"class_": "number"} if is_number else {}))


def _escaped(text: str) -> str:
    return html.escape(printable(text), quote=True)
