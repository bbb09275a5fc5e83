"""The command `train`: parse, call, print.

Results go to stdout, progress and warnings to stderr. What a person got wrong is one line and exit 2; anything else is
our bug and keeps its traceback. torch takes seconds to import, so a verb imports what it needs when it runs.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

import rich.console
import typer

from curate.manifest import ManifestError
from curate.store import Store
from train import cli_trace
from train.config import ConfigError

if TYPE_CHECKING:
    from train.loop import Opened
    from train.parallel import World
    from train.run import Request, Run

_EXTRA = ("torch", "transformers", "safetensors", "matplotlib")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Continue the pre-training of a language model on a manifest, and see what it gains and forgets.",
)

_Manifest = Annotated[str, typer.Option("--manifest", metavar="vN", help="Version to train on.", show_default=False)]
_Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="PATH|HUB-ID|tiny", help="A folder, a hub id, or a random model of some 1 M parameters.", show_default="tiny"
    ),
]
_Config = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="TOML file with keys of docs/training.md.", show_default="every key's default"),
]
_Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One key as TOML, over --config. Repeatable.", show_default=False)
]
_Out = Annotated[str | None, typer.Option("--out", metavar="NAME", help="Name of the run, a folder under runs/.", show_default="vN-MODEL")]
_Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the newest checkpoint, with the run's own model and config; begin where there is none.")
]
_Continue = Annotated[
    str | None,
    typer.Option(
        "--continue",
        metavar="RUN[/step-N]",
        help="Begin with the weights and optimizer of another run: its checkpoint before the annealing, or else its newest.",
        show_default=False,
    ),
]
_Accept = Annotated[
    list[str] | None, typer.Option("--accept", metavar="sample", help="Accept a real model on the sample corpus.", show_default=False)
]
_Root = Annotated[
    str, typer.Option("--root", help="Folder or fsspec URL that holds manifests/ and runs/.", show_default="the current folder")
]
_Name = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run under runs/.", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]


@app.command("run")
def run_verb(
    manifest: _Manifest,
    model: _Model = None,
    config: _Config = None,
    settings: _Settings = None,
    out: _Out = None,
    resume: _Resume = False,
    continued: _Continue = None,
    accept: _Accept = None,
    root: _Root = ".",
) -> None:
    """Train on a manifest for its epochs; evaluate, keep checkpoints, and go on after a crash."""
    if unknown := [what for what in accept or [] if what != "sample"]:
        raise ConfigError(f"--accept {unknown[0]!r} is unknown; allowed: sample")
    import transformers

    from train.parallel import joined
    from train.run import Request

    # Our own bar counts steps; those of transformers, which count files, would break it.
    transformers.utils.logging.disable_progress_bar()
    request = Request(manifest, model, config, tuple(settings or ()), out, resume, tuple(accept or ()), continued)
    with joined() as world:
        for line in _run(Store(root), request, world, suffix="" if root == "." else f" --root {root}"):
            if world.is_first:
                typer.echo(line)


def _run(store: Store, request: "Request", world: "World", suffix: str) -> Iterator[str]:
    """Train, and say what there is to say as it comes."""
    from train.loop import open_run, train
    from train.run import prepare
    from train.run_record import is_finished

    with world.first_alone():
        run = prepare(store, request, world)
    if is_finished(store, run.name):
        yield f"run {run.name} is finished: {store.url(run.folder)}\nnext: train report {run.name}{suffix}"
        return
    console = rich.console.Console(stderr=True, quiet=not world.is_first)
    for warning in run.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False)
    opened = open_run(run)
    yield _announce(run, opened)
    path = train(run, opened, console)
    yield f"model: {store.url(path)}\nnext: train report {run.name}{suffix}"


@app.command("report")
def report_verb(run: _Name, as_json: _Json = False, root: _Root = ".") -> None:
    """Draw a run's curves: a PNG, one self-contained HTML page, and a table of what changed."""
    from train.report import head, read_report, summary, table, write_report

    store = Store(root)
    report = read_report(store, run)
    paths = write_report(store, report)
    if as_json:
        typer.echo(json.dumps({**summary(report), "paths": paths}, ensure_ascii=False))
        return
    for line in head(report):
        typer.echo(line)
    _console().print(table(report))
    for path in paths:
        typer.echo(path)


cli_trace.add_to(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: exit 0 done, 2 the user's input is wrong, in one line."""
    try:
        code = app(arguments, standalone_mode=False)
    except (ConfigError, ManifestError) as error:
        _fail(str(error))
    except typer.TyperException as error:
        _fail(f"{error.format_message().rstrip('.')}; see: train -h")
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        _fail(f"training needs {error.name}, which is not installed; install the extra: pip install '.[train]' torch==2.13.0")
    except typer.Abort:
        sys.exit(130)
    sys.exit(code or 0)


def _console() -> rich.console.Console:
    return rich.console.Console() if sys.stdout.isatty() else rich.console.Console(width=160)


def _announce(run: "Run", opened: "Opened") -> str:
    """Say what a run will do, the sample corpus first."""
    config, plan, manifest = run.config, run.plan, run.manifest
    stages = [", ".join(f"{part.name} {part.share:.0%}" for part in stage.components) for stage in manifest.stages]
    from train.model import n_parameters
    from train.run import sample_warning

    evalset = ", ".join(f"{name} {count:,} documents" for name, count in opened.evalset.n_documents().items())
    lines = [
        *([sample_warning(manifest.version)] if manifest.is_sample else []),
        f"manifest   {manifest.version} ({manifest.info['domain']}), fingerprint {manifest.fingerprint[:16]}",
        f"mixture    {'; then '.join(stages)}",
        f"model      {run.base.name}, {n_parameters(opened.model):,} parameters, {_devices(run)}",
        *_recounted(run),
        f"steps      {run.n_steps:,} of {config.global_batch} x {config.seq_len} tokens",
        f"plan       {len(plan.epochs)} epochs, {plan.n_tokens:,} tokens, {plan.path}",
        f"evalset    {evalset or 'empty: nothing will be evaluated'}",
        f"run        {run.store.url(run.folder)}, "
        + ("from the beginning" if run.state is None else f"from the checkpoint at step {run.state.step:,}"),
    ]
    return "\n".join(lines)


def _devices(run: "Run") -> str:
    n, dtype = run.world.size, str(run.dtype).removeprefix("torch.")
    return f"{dtype} on {run.device}" if n == 1 else f"{dtype} on {n} processes of {run.device.type}, {run.config.parallel}"


def _recounted(run: "Run") -> list[str]:
    """Say what the model's own tokenizer changes, where it is not the manifest's."""
    from train.recount import lines

    if run.recount is None:
        return []
    (name, digest), (own, own_digest) = ((info["name"], info["sha256"][:16]) for info in (run.base.tokenizer, run.manifest.tokenizer))
    head = f"tokenizer  {name}, {digest}: recounted, {run.manifest.version} has {own}, {own_digest}"
    return [head, *(f"           {line}" for line in lines(run.recount.parts))]


def _fail(message: str) -> NoReturn:
    rank = os.environ.get("RANK", "0")
    who = "" if rank == "0" else f" (process {rank})"
    sys.stderr.write(f"error{who}: {' '.join(message.split())}\n")
    sys.exit(2)
