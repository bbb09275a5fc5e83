"""The commands that look ahead: try, suggest. `cli` has the others, and adds these."""

import json
import sys
from typing import Annotated

import typer
from rich.markup import escape

from curate import manifest
from curate.cli_options import Domain, Json, RecipePath, Root, Settings, Sources, command_line, note
from curate.presets import PRESETS
from curate.recipe import DomainError
from curate.recipe_file import read_recipe
from curate.recipe_table import token_count
from curate.store import Store
from curate.suggest import stock_of, suggest
from curate.suggest_print import print_suggestion
from curate.tables import print_json, terminal
from curate.whatif import what_if
from curate.whatif_print import print_what_if

looking_ahead = typer.Typer()


@looking_ahead.command("try")
def try_command(
    domain: Domain = None,
    recipe: RecipePath = None,
    source: Sources = None,
    set_: Settings = None,
    against: Annotated[
        str | None, typer.Option(help="A version to compare with, as in v3.", show_default="the recipe without the --set values")
    ] = None,
    root: Root = ".",
    as_json: Json = False,
) -> None:
    """Show what a changed recipe would keep and drop, in seconds. Publishes nothing, counts nothing.

    Example: curate try --domain medical --set gopher_quality.min_words=100 --set select.budget_tokens=5M
    """
    if not set_ and against is None:
        raise DomainError("curate try takes --set KEY=VALUE, what to change, or --against VERSION, what to compare the recipe with")
    store = Store(root)
    changed = read_recipe(store, domain=domain, file=recipe, sources=source or (), settings=set_ or ())
    if against is not None:
        data = what_if(store, changed, manifest.load(store, against))
    else:
        data = what_if(store, changed, read_recipe(store, domain=domain, file=recipe, sources=source or ()))
    command = command_line("build", domain=domain, recipe=recipe, sources=source, settings=set_, root=root)
    if as_json:
        # Texts of documents stand in it; as ASCII it says the same, and no terminal acts upon it.
        sys.stdout.write(json.dumps({**data, "build": command}, indent=2) + "\n")
        return
    console = terminal()
    print_what_if(console, data)
    console.print(f"next: {escape(command)}", highlight=False, soft_wrap=True)


@looking_ahead.command("suggest")
def suggest_command(
    tokens: Annotated[str, typer.Option(help="Tokens of the whole training, as in 20B.")],
    like: Annotated[str, typer.Option(help=f"What the base model was trained on: {', '.join(PRESETS)}, or none.")],
    domain: Domain = None,
    recipe: RecipePath = None,
    source: Sources = None,
    set_: Settings = None,
    root: Root = ".",
    as_json: Json = False,
) -> None:
    """Suggest the size of the subset, epochs and mixture for a budget of training, from the stock of the newest version.

    Example: curate suggest --domain medical --tokens 20B --like llama-1
    """
    store = Store(root)
    budget = token_count(tokens)
    if budget is None:
        raise DomainError(f"--tokens is {tokens!r}; it takes a number of tokens, as in 20B or 500M")
    resolved = read_recipe(store, domain=domain, file=recipe, sources=source or (), settings=set_ or ())
    note(f"domain {resolved.domain}: what {budget:,} tokens of training are best spent on, root {store.url()}")
    suggestion = suggest(stock_of(store, resolved), budget, like)
    settings = [*(set_ or ()), *suggestion.settings]
    command = command_line("try", domain=domain, recipe=recipe, sources=source, settings=settings, root=root)
    if as_json:
        print_json({**suggestion.plain(), "try": command})
        return
    console = terminal()
    print_suggestion(console, suggestion)
    console.print(f"next: {escape(command)}", highlight=False, soft_wrap=True)
