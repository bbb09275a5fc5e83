"""The verbs that look back at a run's data: `train trace` and `train verify`. Parse, call, print.

Exit 0 done, 1 where `verify` has found a difference, 2 where what was asked for is not there (train/cli.py).
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import rich.console
import rich.table
import typer
from rich.markup import escape

from curate.store import Store
from train.config import ConfigError

# A step of a large batch has a thousand pieces; --json has them all.
_MAX_ROWS = 50

_Name = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run under runs/.", show_default=False)]
_Step = Annotated[int | None, typer.Option("--step", metavar="N", help="Show what was in this step, from 0.", show_default=False)]
_Row = Annotated[str | None, typer.Option("--row", metavar="ROW_ID", help="Show in which steps this row was.", show_default=False)]
_Sample = Annotated[
    int | None, typer.Option("--sample", metavar="N", min=1, help="Compute the hashes of N steps, spread evenly.", show_default="all steps")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
_Root = Annotated[
    str, typer.Option("--root", help="Folder or fsspec URL that holds manifests/ and runs/.", show_default="the current folder")
]


def add_to(app: typer.Typer) -> None:
    """Give an app the verbs of this module."""
    app.command("trace")(trace_verb)
    app.command("verify")(verify_verb)


def trace_verb(run: _Name, step: _Step = None, row: _Row = None, as_json: _Json = False, root: _Root = ".") -> None:
    """Say which documents were in a step, or in which steps a row of the manifest was."""
    if (step is None) == (row is None):
        raise ConfigError("give one of --step N and --row ROW_ID; the first shows what was in a step, the second where a row was")
    from train.trace import open_traced, trace_row, trace_step

    traced = open_traced(Store(root), run)
    found = trace_step(traced, step) if step is not None else trace_row(traced, row or "")
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
    elif step is not None:
        _print_step(found)
    else:
        _print_row(found)


def verify_verb(run: _Name, sample: _Sample = None, as_json: _Json = False, root: _Root = ".") -> None:
    """Plan a run again and compute its stream hashes again; exit 1 with the first difference."""
    from train.trace import open_traced
    from train.verify import verify

    traced = open_traced(Store(root), run)
    found = verify(traced, n_sampled=sample)
    if as_json:
        typer.echo(json.dumps({"run": run, "plan": traced.plan.key, "n_done": traced.n_done, **dataclasses.asdict(found)}))
    else:
        missing = f" ({found.n_missing} not on disk)" if found.n_missing else ""
        typer.echo(f"plan {traced.plan.key}: {found.n_epochs} epochs{missing}, {found.n_rows:,} rows, digest {found.plan_digest[:16]}")
        typer.echo(f"stream: {found.n_steps:,} of {traced.n_done:,} steps computed again")
        typer.echo(f"difference: {found.difference}" if found.difference else f"run {run}: everything is as it was recorded")
    if found.difference:
        raise typer.Exit(1)


def _print_step(found: Mapping[str, Any]) -> None:
    console = _console()
    done = "" if found["is_done"] else ", not done yet"
    head = f"step {found['step']:,} of run {found['run']}, stage {found['stage']}, epoch {found['epoch']}{done}"
    counts = f"{found['n_documents']:,} documents of {found['manifest']}, {len(found['pieces']):,} pieces, {found['n_tokens']:,} tokens"
    console.print(f"{head}: {counts}", highlight=False, markup=False, soft_wrap=True)
    console.print(_table(found["sources"]))
    names = ("sequence", "slot", "component", "source", "row_id", "start", "length", "document_tokens")
    _print_pieces(console, found["pieces"], names)


def _print_row(found: Mapping[str, Any]) -> None:
    console = _console()
    head = f"row {found['row_id']} of {found['manifest']}: {found['component']}, {found['source']}, {found['document_tokens']:,} tokens"
    seen = (
        f"{found['n_tokens']:,} tokens of it in {found['n_steps']:,} steps of run {found['run']}, {found['n_tokens_done']:,} of them done"
    )
    console.print(f"{head}; {seen}", highlight=False, markup=False, soft_wrap=True)
    _print_pieces(console, found["pieces"], ("stage", "epoch", "step", "sequence", "slot", "start", "length", "is_done"))


def _print_pieces(console: rich.console.Console, pieces: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    if pieces:
        console.print(_table([{name: piece[name] for name in names} for piece in pieces[:_MAX_ROWS]]))
    if len(pieces) > _MAX_ROWS:
        console.print(f"and {len(pieces) - _MAX_ROWS:,} more pieces; --json has them all", highlight=False)


def _table(rows: Sequence[Mapping[str, Any]]) -> rich.table.Table:
    made = rich.table.Table()
    for name, value in rows[0].items():
        is_number = isinstance(value, int) and not isinstance(value, bool)
        made.add_column(name.removeprefix("n_").replace("_", " "), justify="right" if is_number else "left", no_wrap=name == "row_id")
    for row in rows:
        made.add_row(*(_cell(value) for value in row.values()))
    return made


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else escape("" if value is None else str(value))


def _console() -> rich.console.Console:
    return rich.console.Console() if sys.stdout.isatty() else rich.console.Console(width=160)
