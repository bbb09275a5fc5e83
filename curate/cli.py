"""The command `curate`: parse, call, print. Results go to stdout, progress and logs to stderr."""

import decimal
import enum
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from curate import annotate, budget, executor, manifest, models, report, sql
from curate.audit import audit, audited_sources, print_audit
from curate.build import MEMORY, CheckFailed, build
from curate.executor import WorkerDied
from curate.manifest import ManifestError
from curate.recipe import DomainError
from curate.recipe_file import read_recipe
from curate.sample import make_sample
from curate.sql import QueryError
from curate.store import Store
from curate.verify import verify
from curate.why import explain
from curate.why_print import print_explanation

app = typer.Typer(
    help="Turn raw, mixed, dirty text into versioned Parquet manifests: read, judge, deduplicate, select, mix.",
    no_args_is_help=True, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}, pretty_exceptions_enable=False,
)  # fmt: skip
Executor = enum.Enum("Executor", {name: name for name in executor.EXECUTORS}, type=str)  # type: ignore[misc]  # built from the one table
_EXECUTOR = "Where the work runs: processes of this machine, or Ray: the cluster at RAY_ADDRESS, else one of --workers CPUs, started here."
Refit = enum.Enum("Refit", {name: name for name in models.REFITS}, type=str)  # type: ignore[misc]  # built from the one table
Accept = enum.Enum("Accept", {name: name for name in budget.ACCEPTS}, type=str)  # type: ignore[misc]  # built from the one table

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # UsageError of the click that typer brings
Domain = Annotated[str | None, typer.Option(help="Name of a domain: ROOT/domains/NAME.toml, or a shipped one (medical).")]
RecipePath = Annotated[str | None, typer.Option(help="Path of a recipe in TOML, instead of --domain.")]
Sources = Annotated[list[str] | None, typer.Option(help="NAME=GLOB: the files of a source, or a new candidate source. Repeatable.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over the recipe, as in select.budget_tokens=8M. Repeatable.")]
Workers = Annotated[
    int | None, typer.Option(help="Processes that read and count; the result does not depend on it.", min=1, show_default="all cores")
]
Root = Annotated[
    str, typer.Option("--root", help="Folder or fsspec URL that holds corpus, manifests and runs.", show_default="the current folder")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of tables.")]
Version = Annotated[str, typer.Argument(help="A version, such as v3; `curate list` shows them.", metavar="VERSION")]


@app.command("build")
def build_command(
    domain: Domain = None,
    recipe: RecipePath = None,
    source: Sources = None,
    set_: Settings = None,
    root: Root = ".",
    workers: Workers = None,
    executor_: Annotated[Executor, typer.Option("--executor", help=_EXECUTOR)] = Executor.local,  # type: ignore[attr-defined]
    memory: Annotated[str, typer.Option(help="Memory for the tables of the decision, as in 4GB; beyond it they spill to disk.")] = MEMORY,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every input file again, also where size and time are unchanged.")] = False,
    refit: Annotated[list[Refit] | None, typer.Option(help="Fit this model of the domain anew. Repeatable.")] = None,
    accept: Annotated[
        list[Accept] | None, typer.Option(help="Publish although this check fails; without it a build shows samples and stops. Repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build the next version of a manifest. Running it again goes on where it stopped, and publishes nothing new twice."""
    store = Store(root)
    resolved = read_recipe(store, domain=domain, file=recipe, sources=source or (), settings=set_ or ())
    if resolved.is_sample:
        _note(report.SAMPLE_NOTE)
    _note(f"domain {resolved.domain}: {len(resolved.sources)} sources, budget {resolved.select.budget_tokens:,} tokens, root {store.url()}")
    with executor.start(executor_.value, workers or os.cpu_count() or 1) as run:
        built = build(
            store, resolved, run=run, rehash=rehash, memory=memory,
            refit={model.value for model in refit or ()}, accept={check.value for check in accept or ()},
        )  # fmt: skip
    data = report.summary(store, built.manifest)
    if as_json:
        _print_json({**data, "is_new": built.is_new})
        return
    console = _console()
    report.print_summary(console, data)
    if not built.is_new:
        console.print(f"nothing new: {built.manifest.version} decided the same; nothing was published")
    console.print(f"{data['path']}", soft_wrap=True, highlight=False)
    console.print(f"next: train run --manifest {built.manifest.version} --model tiny{_root_option(root)}", highlight=False, soft_wrap=True)


@app.command("audit")
def audit_command(
    domain: Domain = None,
    recipe: RecipePath = None,
    source: Sources = None,
    set_: Settings = None,
    of: Annotated[list[str] | None, typer.Option(help="Audit this source instead of the reference, whatever its role. Repeatable.")] = None,
    keep: Annotated[float, typer.Option(help="Share of the documents that a suggested threshold has to keep, up to 1.")] = 0.99,
    defaults: Annotated[bool, typer.Option("--defaults", help="Audit the limits of the literature instead of the recipe's.")] = False,
    root: Root = ".",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Show what each rule of every family would do to the reference, which is good by definition. Publishes nothing."""
    store = Store(root)
    resolved = read_recipe(store, domain=domain, file=recipe, sources=source or (), settings=set_ or ())
    audited = audited_sources(resolved, of or ())
    if resolved.is_sample:
        _note(report.SAMPLE_NOTE)
    _note(f"domain {resolved.domain}: every rule over {', '.join(one.name for one in audited)}, root {store.url()}")
    data = audit(store, resolved, audited, run=executor.local(workers or os.cpu_count() or 1), keep=keep, defaults=defaults)
    if as_json:
        _print_json(data)
        return
    console = _console()
    print_audit(console, data)
    named = ["--domain", domain] if domain is not None else ["--recipe", str(recipe)]
    laid_over = [word for option, values in [("--source", source), ("--set", set_)] for value in values or () for word in (option, value)]
    command = shlex.join(["curate", "build", *named, *laid_over])
    console.print(f"next: {escape(command)}{_root_option(root)}", highlight=False, soft_wrap=True)


@app.command("list")
def list_command(root: Root = ".", as_json: Json = False) -> None:
    """List the published versions, oldest first."""
    store = Store(root)
    found = [manifest.load(store, version).info for version in manifest.versions(store)]
    rows = [
        {
            "version": info["version"], "domain": info["domain"], "parent": info["parent"], "sample": info["sample"],
            "train rows": info["funnel"][-1]["rows"], "train tokens": info["funnel"][-1]["n_tokens"],
            "fingerprint": info["fingerprint"][:16],
        }
        for info in found
    ]  # fmt: skip
    if as_json:
        _print_json(rows)
    elif not rows:
        _console().print(
            f"no manifests under {escape(store.url())} yet; build one with: curate build --domain medical{_root_option(root)}",
            soft_wrap=True,
        )
    else:
        _print_table(pa.Table.from_pylist(rows))


@app.command("show")
def show_command(version: Version, root: Root = ".", as_json: Json = False) -> None:
    """Show a version: funnel, sources, components and the reasons of what was dropped."""
    store = Store(root)
    data = report.summary(store, manifest.load(store, version))
    if as_json:
        _print_json(data)
    else:
        report.print_summary(_console(), data)


@app.command("sql")
def sql_command(
    query: Annotated[str, typer.Argument(help="One SELECT over manifest, documents, signals, versions, runs, metrics, evaluations.")],
    version: Annotated[str | None, typer.Option("--manifest", help="The version behind the tables.", show_default="the newest")] = None,
    root: Root = ".",
    as_json: Json = False,
) -> None:
    """Query a version with SQL (DuckDB's). The connection sees only the root and cannot write.

    Example: curate sql "SELECT reason, count(*) AS n FROM manifest GROUP BY ALL ORDER BY n DESC"
    """
    connection = sql.connect(root, version)
    table = sql.select(connection, query)
    if as_json:
        for row in table.to_pylist():
            sys.stdout.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    else:
        _print_table(table)


@app.command("why")
def why_command(
    id: Annotated[str, typer.Argument(help="A row_id or a doc_id, or its first digits, at least 8.", metavar="ROW_ID|DOC_ID")],
    version: Annotated[str | None, typer.Option("--manifest", help="The version to explain.", show_default="the newest")] = None,
    root: Root = ".",
    as_json: Json = False,
) -> None:
    """Explain one document: why it is in or out, every rule with its margin, its rank, its copies, and what other versions say."""
    store = Store(root)
    known = manifest.versions(store)
    data = explain(store, manifest.load(store, version or (known[-1] if known else "v1")), id)
    if as_json:
        # Texts of documents stand in it; as ASCII it says the same, and no terminal acts upon it.
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
    else:
        print_explanation(_console(), data)


@app.command("verify")
def verify_command(version: Version, root: Root = ".", as_json: Json = False) -> None:
    """Recompute every digest of a version and check what must hold; exit 1 where something is not as it was published."""
    store = Store(root)
    faults, remarks = verify(store, manifest.load(store, version))
    if as_json:
        _print_json({"version": version, "faults": faults, "remarks": remarks})
    else:
        for line in remarks:
            _console().print(f"remark: {escape(line)}", soft_wrap=True)
        for line in faults:
            _console().print(f"[red]fault:[/] {escape(line)}", soft_wrap=True, highlight=False)
        if not faults:
            _console().print(f"{version}: every digest is as it was published", highlight=False)
    if faults:
        raise typer.Exit(1)


@app.command("make-sample")
def make_sample_command(
    out: Annotated[str, typer.Option(help="Folder to write into; made if it is not there.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.", min=0)] = 0,
) -> None:
    """Write the sample corpus: some 5,000 documents from templates, with copies, junk and broken rows planted."""
    if pathlib.Path(out).exists() and any(pathlib.Path(out).iterdir()):
        raise DomainError(f"--out {out!r} is not empty; name a new folder, so that nothing is overwritten")
    counts = make_sample(out, seed=seed)
    _print_table(pa.table({"file": list(counts), "rows": list(counts.values())}))
    _console().print(out, soft_wrap=True, highlight=False)


@app.command("warmup")
def warmup_command() -> None:
    """Compile the kernels once, so that the first build does not wait for it."""
    annotate.warm_up()
    _console().print("kernels are compiled and cached")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, of this process or of these arguments: exit 0 done, 1 a check failed, 2 the input is wrong, in one line."""
    try:
        sys.exit(app(arguments, standalone_mode=False) or 0)
    except (DomainError, ManifestError, QueryError) as error:
        _fail(str(error), 2)
    except _USAGE_ERROR as error:
        where = error.ctx.command_path if error.ctx else "curate"
        _fail(f"{error.format_message().rstrip('.')}; see {where} --help", 2)
    except (CheckFailed, WorkerDied) as error:
        _fail(str(error), 1)


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(code)


def _note(text: str) -> None:
    Console(stderr=True).print(escape(text), style="dim", soft_wrap=True, highlight=False)


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=160)


def _root_option(root: str) -> str:
    return "" if root == "." else f" --root {root}"


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _print_table(table: pa.Table) -> None:
    shown = Table()
    for field in table.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        shown.add_column(escape(field.name), justify="right" if number else "left", overflow="fold")
    for row in table.slice(0, 1000).to_pylist():
        shown.add_row(*(_cell(value) for value in row.values()))
    _console().print(shown)
    if table.num_rows > 1000:
        _console().print(f"... and {table.num_rows - 1000:,} more rows; add LIMIT, or --json for all", style="dim")


def _cell(value: Any) -> str:
    if value is None:
        return "[dim]null[/]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, decimal.Decimal) and value == int(value)):
        return f"{int(value):,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(str(key))} {_cell(item)}" for key, item in value.items())
    return escape(f"{value:.6g}" if isinstance(value, float) else str(value))
