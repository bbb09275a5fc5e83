"""What the commands of `curate` share: options, the note on stderr, and how a next command names the root."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

Root = Annotated[
    str, typer.Option("--root", help="Folder or fsspec URL that holds corpus, manifests and runs.", show_default="the current folder")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of tables.")]
Version = Annotated[str, typer.Argument(help="A version, such as v3; `curate list` shows them.", metavar="VERSION")]


def note(text: str) -> None:
    """Say something on stderr that is no result."""
    Console(stderr=True).print(escape(text), style="dim", soft_wrap=True, highlight=False)


def root_option(root: str) -> str:
    """Write --root for the next command, where it is needed."""
    return "" if root == "." else f" --root {root}"
