"""The command `curate`: parse, call, print. Results go to stdout, progress and logs to stderr."""

import enum
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.markup import escape

from curate import annotate, budget, executor, manifest, models, report
from curate.audit import audit, audited_sources, print_audit
from curate.build import MEMORY, CheckFailed, build
from curate.cli_inspect import inspecting
from curate.cli_options import Domain, Json, RecipePath, Root, Settings, Sources, Version, command_line, note, root_option
from curate.cli_whatif import looking_ahead
from curate.executor import WorkerDied
from curate.manifest import ManifestError
from curate.page_write import write_report
from curate.recipe import DomainError, Recipe
from curate.recipe_file import read_recipe
from curate.sample import make_sample
from curate.sandbox import QueryError
from curate.scorer_compare import compare_scorers
from curate.scorer_print import print_comparison
from curate.store import Store
from curate.tables import print_json, print_table, terminal
from curate.verify import verify

app = typer.Typer(
    help="Turn raw, mixed, dirty text into versioned Parquet manifests: read, judge, deduplicate, select, mix.",
    no_args_is_help=True, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}, pretty_exceptions_enable=False,
)  # fmt: skip
Executor = enum.Enum("Executor", {name: name for name in executor.EXECUTORS}, type=str)  # type: ignore[misc]  # built from the one table
_EXECUTOR = "Where the work runs: processes of this machine, or Ray: the cluster at RAY_ADDRESS, else one of --workers CPUs, started here."
Refit = enum.Enum("Refit", {name: name for name in models.REFITS}, type=str)  # type: ignore[misc]  # built from the one table
Accept = enum.Enum("Accept", {name: name for name in budget.ACCEPTS}, type=str)  # type: ignore[misc]  # built from the one table

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # UsageError of the click that typer brings
Workers = Annotated[
    int | None, typer.Option(help="Processes that read and count; the result does not depend on it.", min=1, show_default="all cores")
]


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
        note(report.SAMPLE_NOTE)
    note(f"domain {resolved.domain}: {len(resolved.sources)} sources, {_budget(resolved)}, root {store.url()}")
    with executor.start(executor_.value, workers or os.cpu_count() or 1) as run:
        built = build(
            store, resolved, run=run, rehash=rehash, memory=memory,
            refit={model.value for model in refit or ()}, accept={check.value for check in accept or ()},
        )  # fmt: skip
    data = report.summary(store, built.manifest)
    if as_json:
        print_json({**data, "is_new": built.is_new})
        return
    console = terminal()
    report.print_summary(console, data)
    if not built.is_new:
        console.print(f"nothing new: {built.manifest.version} decided the same; nothing was published")
    console.print(f"{data['path']}", soft_wrap=True, highlight=False)
    console.print(f"next: train run --manifest {built.manifest.version} --model tiny{root_option(root)}", highlight=False, soft_wrap=True)


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
        note(report.SAMPLE_NOTE)
    note(f"domain {resolved.domain}: every rule over {', '.join(one.name for one in audited)}, root {store.url()}")
    data = audit(store, resolved, audited, run=executor.local(workers or os.cpu_count() or 1), keep=keep, defaults=defaults)
    if as_json:
        print_json(data)
        return
    console = terminal()
    print_audit(console, data)
    command = command_line("build", domain=domain, recipe=recipe, sources=source, settings=set_, root=root)
    console.print(f"next: {escape(command)}", highlight=False, soft_wrap=True)


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
        print_json(rows)
    elif not rows:
        terminal().print(
            f"no manifests under {escape(store.url())} yet; build one with: curate build --domain medical{root_option(root)}",
            soft_wrap=True,
        )
    else:
        print_table(pa.Table.from_pylist(rows))


@app.command("show")
def show_command(
    version: Version,
    scorers: Annotated[bool, typer.Option("--scorers", help="Compare quality and perplexity instead: ranks, subsets, samples.")] = False,
    root: Root = ".",
    as_json: Json = False,
) -> None:
    """Show a version: funnel, sources, components and the reasons of what was dropped."""
    store = Store(root)
    chosen = manifest.load(store, version)
    data = compare_scorers(store, chosen) if scorers else report.summary(store, chosen)
    if as_json:
        print_json(data)
    else:
        (print_comparison if scorers else report.print_summary)(terminal(), data)


@app.command("report")
def report_command(
    version: Version,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write a Hugging Face dataset card instead of the page.")] = False,
    out: Annotated[
        str | None, typer.Option(help="File to write, a path or an fsspec URL.", show_default="ROOT/reports/VERSION.html, or .md")
    ] = None,
    root: Root = ".",
) -> None:
    """Write one page about a version: funnel, sources, scores, samples at each limit, duplicates, mixture, recipe. It needs no network."""
    store = Store(root)
    sys.stdout.write(f"{write_report(store, manifest.load(store, version), out=out, as_card=markdown)}\n")


@app.command("verify")
def verify_command(version: Version, root: Root = ".", as_json: Json = False) -> None:
    """Recompute every digest of a version and check what must hold; exit 1 where something is not as it was published."""
    store = Store(root)
    faults, remarks = verify(store, manifest.load(store, version))
    if as_json:
        print_json({"version": version, "faults": faults, "remarks": remarks})
    else:
        for line in remarks:
            terminal().print(f"remark: {escape(line)}", soft_wrap=True)
        for line in faults:
            terminal().print(f"[red]fault:[/] {escape(line)}", soft_wrap=True, highlight=False)
        if not faults:
            terminal().print(f"{version}: every digest is as it was published", highlight=False)
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
    print_table(pa.table({"file": list(counts), "rows": list(counts.values())}))
    terminal().print(out, soft_wrap=True, highlight=False)


@app.command("warmup")
def warmup_command() -> None:
    """Compile the kernels once, so that the first build does not wait for it."""
    annotate.warm_up()
    terminal().print("kernels are compiled and cached")


app.add_typer(inspecting)
app.add_typer(looking_ahead)


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


def _budget(recipe: Recipe) -> str:
    select = recipe.select
    if select.budget_tokens is not None:
        return f"budget {select.budget_tokens:,} tokens"
    return f"top share {select.top_share:g}" if select.top_share is not None else f"threshold {select.threshold:g} of {select.order_by}"
