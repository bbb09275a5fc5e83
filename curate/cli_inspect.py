"""The commands that look at versions and hand them on: sql, why, diff, export. `cli` has the others, and adds these."""

import enum
import json
import pathlib
import sys
from typing import Annotated

import pyarrow as pa
import typer
from rich.markup import escape

from curate import manifest, report, sql
from curate.cli_options import Json, Root, Version, note, root_option
from curate.diff import diff, rows_query
from curate.diff_print import print_diff
from curate.export import FORMATS, SPLITS, export
from curate.manifest import ManifestError
from curate.store import Store
from curate.tables import print_json, print_lines, print_rows, print_table, terminal
from curate.why import explain
from curate.why_print import print_explanation, print_text
from curate.why_text import explain_text, read_text

inspecting = typer.Typer()
ExportFormat = enum.Enum("ExportFormat", {name: name for name in FORMATS}, type=str)  # type: ignore[misc]  # built from the one table
ExportSplit = enum.Enum("ExportSplit", {name: name for name in SPLITS}, type=str)  # type: ignore[misc]  # built from the one table


@inspecting.command("sql")
def sql_command(
    query: Annotated[str, typer.Argument(help=f"One SELECT over {', '.join(sql.TABLES)}.")],
    version: Annotated[str | None, typer.Option("--manifest", help="The version behind the tables.", show_default="the newest")] = None,
    root: Root = ".",
    as_json: Json = False,
) -> None:
    """Query a version with SQL (DuckDB's). The connection sees only the root and cannot write.

    Example: curate sql "SELECT reason, count(*) AS n FROM manifest GROUP BY ALL ORDER BY n DESC"
    """
    schema, batches = sql.stream(sql.connect(root, version), query)
    if as_json:
        print_lines(batches)
    else:
        print_rows(schema, batches)


@inspecting.command("why")
def why_command(
    id: Annotated[
        str | None, typer.Argument(help="A row_id or a doc_id, or its first digits, at least 8.", metavar="ROW_ID|DOC_ID")
    ] = None,
    file: Annotated[str | None, typer.Option(help="A text that need not be in the corpus: a file in UTF-8, or - for stdin.")] = None,
    source: Annotated[
        str | None, typer.Option(help="With --file: judge it as a row of this source.", show_default="every kind of source")
    ] = None,
    version: Annotated[str | None, typer.Option("--manifest", help="The version to explain.", show_default="the newest")] = None,
    root: Root = ".",
    as_json: Json = False,
) -> None:
    """Explain one document: why it is in or out, every rule with its margin, its rank, its copies, and what other versions say."""
    if (id is None) == (file is None) or (source is not None and file is None):
        raise ManifestError("curate why takes a ROW_ID or DOC_ID, or --file TEXT, which --source goes with; give one of the two")
    store = Store(root)
    known = manifest.versions(store)
    chosen = manifest.load(store, version or (known[-1] if known else "v1"))
    data = explain(store, chosen, id) if id is not None else explain_text(store, chosen, read_text(str(file)), source=source)
    if as_json:
        # Texts of documents stand in it; as ASCII it says the same, and no terminal acts upon it.
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
    else:
        (print_text if id is None else print_explanation)(terminal(), data)


@inspecting.command("diff")
def diff_command(
    before: Version,
    after: Version,
    rows: Annotated[bool, typer.Option("--rows", help="Print the rows that came in or went out instead, sorted by row_id.")] = False,
    root: Root = ".",
    as_json: Json = False,
) -> None:
    """Compare two versions: lines of the recipe, rows and tokens in and out by source, reason and quality, the mixture."""
    store = Store(root)
    versions = [manifest.load(store, version) for version in (before, after)]
    if rows:
        schema, batches = sql.stream(sql.connect(root, after), rows_query(before, after))
        if as_json:
            print_lines(batches)
        else:
            print_rows(schema, batches)
        return
    data = diff(store, *versions)
    if as_json:
        print_json(data)
    else:
        print_diff(terminal(), data)
        query = f'curate sql "{data["query"]}"{root_option(root)}'
        terminal().print(f"the rows, which --rows prints, too:\n{escape(query)}", highlight=False, soft_wrap=True)


@inspecting.command("export")
def export_command(
    version: Version,
    format_: Annotated[ExportFormat, typer.Option("--format", help="Gzipped JSON lines, Parquet, or a folder for load_dataset.")],
    out: Annotated[str | None, typer.Option(help="New folder to write into.", show_default="VERSION-FORMAT")] = None,
    split: Annotated[ExportSplit, typer.Option(help="What to write; the holdout must never be trained on.")] = ExportSplit.train,  # type: ignore[attr-defined]
    masked: Annotated[bool, typer.Option("--masked", help="Texts as training reads them, instead of whole ones with their masks.")] = False,
    root: Root = ".",
    as_json: Json = False,
) -> None:
    """Write the documents of a version, shuffled, with what the manifest says of each, for other programs."""
    folder = pathlib.Path(out or f"{version}-{format_.value}")
    store = Store(root)
    data = export(store, manifest.load(store, version), folder, format=format_.value, split=split.value, masked=masked)
    if as_json:
        print_json(data)
        return
    if data["sample"]:
        note(report.SAMPLE_NOTE)
    print_table(pa.Table.from_pylist([{"split": name, **counts} for name, counts in data["splits"].items()]))
    print_table(pa.Table.from_pylist([{**row, "licence": row["licence"] or "not stated"} for row in data["licences"]]))
    terminal().print(escape(data["path"]), soft_wrap=True, highlight=False)
