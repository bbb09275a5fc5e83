"""The scorers of a recipe: which models give the scores, and the facts that follow from these.

Stands between ingest and annotate, over `scorers` (the classifier) and `scorer_perplexity` (the n-gram model); `_SCORERS` is the one table
of them, and a new one is a module and a row. Cost: nothing of its own.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from curate.annotate import Facts
from curate.executor import Run
from curate.ingest import Ingested
from curate.recipe import SCORERS, DomainError, Recipe
from curate.scorer_perplexity import known_perplexity, perplexity_facts, resolve_perplexity
from curate.scorers import known_quality, quality_facts, resolve_quality
from curate.store import Store


class _Resolve(Protocol):
    def __call__(self, store: Store, recipe: Recipe, ingested: Mapping[str, Ingested], *, refit: bool, run: Run) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Scorer:
    """What to call it; what gives its models in a build, and without fitting (None: not there); and the facts that it gives, by name."""

    what: str
    resolve: _Resolve
    known: Callable[[Store, Recipe], dict[str, Any] | None]
    facts: Callable[[Store, Mapping[str, Any]], dict[str, Facts]]


_SCORERS = {
    "quality": _Scorer("quality classifier", resolve_quality, known_quality, lambda store, info: {"quality": quality_facts(store, info)}),
    "perplexity": _Scorer("perplexity model", resolve_perplexity, known_perplexity, perplexity_facts),
}
assert tuple(_SCORERS) == SCORERS


def resolve(store: Store, recipe: Recipe, ingested: Mapping[str, Ingested], *, refit: Collection[str], run: Run) -> list[dict[str, Any]]:
    """Give the scorers of a build as manifest.json records them, fitted where they are not pinned. Raises DomainError as they do."""
    wanted = [name for name in SCORERS if name in recipe.scorers]
    return [_SCORERS[name].resolve(store, recipe, ingested, refit=name in refit, run=run) for name in wanted]


def known(store: Store, recipe: Recipe) -> list[dict[str, Any]]:
    """Give the scorers that `resolve` would give, without fitting or keeping any. Raises DomainError where one is not there."""
    found = []
    for name in [name for name in SCORERS if name in recipe.scorers]:
        info = _SCORERS[name].known(store, recipe)
        if info is None:
            raise DomainError(
                f"the {_SCORERS[name].what} of domain {recipe.domain!r} was never fitted, or is another one; run curate build with these "
                "settings first"
            )
        found.append(info)
    return found


def facts_of(store: Store, infos: Sequence[Mapping[str, Any]]) -> dict[str, Facts]:
    """Give the facts of scorers: `quality`, `perplexity`, and the family `reference`."""
    return {name: facts for info in infos for name, facts in _SCORERS[info["name"]].facts(store, info).items()}
