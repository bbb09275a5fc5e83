"""What the commands of `curate` share: options, the note on stderr, and how a next command names the root."""

import shlex
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

Root = Annotated[
    str, typer.Option("--root", help="Folder or fsspec URL that holds corpus, manifests and runs.", show_default="the current folder")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of tables.")]
Version = Annotated[str, typer.Argument(help="A version, such as v3; `curate list` shows them.", metavar="VERSION")]

Domain = Annotated[str | None, typer.Option(help="Name of a domain: ROOT/domains/NAME.toml, or a shipped one (medical).")]
RecipePath = Annotated[str | None, typer.Option(help="Path of a recipe in TOML, instead of --domain.")]
Sources = Annotated[list[str] | None, typer.Option(help="NAME=GLOB: the files of a source, or a new candidate source. Repeatable.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over the recipe, as in select.budget_tokens=8M. Repeatable.")]


def note(text: str) -> None:
    """Say something on stderr that is no result."""
    Console(stderr=True).print(escape(text), style="dim", soft_wrap=True, highlight=False)


def root_option(root: str) -> str:
    """Write --root for the next command, where it is needed."""
    return "" if root == "." else f" --root {root}"


def command_line(
    verb: str, *, domain: str | None, recipe: str | None, sources: Iterable[str] | None, settings: Iterable[str] | None, root: str
) -> str:
    """Write the command that does something else with the recipe of this one."""
    named = ["--domain", domain] if domain is not None else ["--recipe", str(recipe)]
    laid_over = [
        word for option, values in (("--source", sources), ("--set", settings)) for value in values or () for word in (option, value)
    ]
    return f"{shlex.join(['curate', verb, *named, *laid_over])}{root_option(root)}"
