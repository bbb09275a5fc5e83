"""Results on a terminal: tables for people, JSON for machines.

Stands behind `cli`. What a table shows may come from a document, so nothing in it acts on the terminal. Cost: a table is held whole, so it
has a bound; rows beyond it are counted.
"""

import decimal
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from curate.printable import printable
from curate.sql import plain

_N_SHOWN = 1000


def terminal() -> Console:
    """Give the console of stdout; where that is no terminal, one that is wide enough for our tables."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def print_json(value: Any) -> None:
    """Print plain values as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def print_lines(batches: Iterable[pa.RecordBatch]) -> None:
    """Print rows as JSON, one a line, as they come."""
    for batch in batches:
        # Texts of documents stand in it; as ASCII it says the same, and no terminal acts upon it.
        sys.stdout.write("".join(json.dumps(row, default=str) + "\n" for row in plain(batch)))


def print_rows(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Print rows as a table: the first thousand, and how many more came."""
    shown = Table()
    for field in schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        shown.add_column(escape(printable(field.name)), justify="right" if number else "left", overflow="fold")
    n_rows = 0
    for batch in batches:
        for row in plain(batch.slice(0, max(0, _N_SHOWN - n_rows))):
            shown.add_row(*(_cell(value) for value in row.values()))
        n_rows += batch.num_rows
    terminal().print(shown)
    if n_rows > _N_SHOWN:
        terminal().print(f"... and {n_rows - _N_SHOWN:,} more rows; add LIMIT, or --json for all", style="dim")


def print_table(table: pa.Table) -> None:
    """Print a table that is at hand."""
    print_rows(table.schema, table.to_batches())


def _cell(value: Any) -> str:
    if value is None:
        return "[dim]null[/]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, decimal.Decimal) and value == int(value)):
        return f"{int(value):,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(printable(str(key)))} {_cell(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    return escape("\n".join(printable(line) for line in str(value).split("\n")))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
