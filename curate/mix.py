"""From shares to whole tokens: what an epoch draws of each component, how large each pool has to be, and how often a token is seen.

Everything is exact: shares are taken as the decimals that they are written as, parts are whole and add up.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction

from curate.recipe import DOMAIN_COMPONENT, Recipe

# Up to four passes over the same text are nearly as good as as much new text; more are worth less and less.
MAX_GOOD_REPEATS = 4
REPEATS_SOURCE = "Muennighoff et al. 2023, arXiv 2305.16264"


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """What a stage may draw of the domain: its tokens, and whether the stock ran out before the budget did, so that it is all there is."""

    n_tokens: int
    is_all: bool


def apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Split a whole number by shares, by largest remainder (Hamilton): the parts add up to the total.

    >>> apportion(10, {"domain": 0.82, "wiki": 0.09, "books": 0.09})
    {'domain': 8, 'wiki': 1, 'books': 1}
    """
    decimals = {name: Fraction(str(share)) for name, share in shares.items()}
    whole = sum(decimals.values())
    exact = {name: total * share / whole for name, share in decimals.items()}
    parts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (parts[name] - exact[name], name))
    for name in by_remainder[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def water_fill(total: int, stocks: Mapping[str, int]) -> dict[str, int]:
    """Split a whole number into equal parts of which none is above its stock; what a small stock leaves is handed on to the others.

    The parts add up to the total, or to all stocks where these are less; what does not divide goes to the first ones by name. A stock
    above its part may be larger or smaller and changes nothing, as long as it stays above.

    >>> water_fill(100, {"a": 10, "b": 200, "c": 300})
    {'a': 10, 'b': 45, 'c': 45}
    """
    parts, left = dict.fromkeys(stocks, 0), total
    ascending = sorted(stocks, key=lambda name: (stocks[name], name))
    while ascending and stocks[ascending[0]] * len(ascending) <= left:
        name = ascending.pop(0)
        parts[name] = stocks[name]
        left -= stocks[name]
    for number, name in enumerate(sorted(ascending)):
        parts[name] = left // len(ascending) + (number < left % len(ascending))
    return parts


def epoch_tokens(recipe: Recipe, pools: Sequence[Pool]) -> tuple[dict[str, int], ...]:
    """Say how many tokens an epoch of each stage draws of each component. `pools` are the stages' pools of the domain."""
    select, drawn = recipe.select, []
    for stage, pool in zip(recipe.schedule(), pools, strict=True):
        limit = stage.budget_tokens or select.budget_tokens
        own = stage.epoch_tokens or (None if stage.budget_tokens else select.epoch_tokens)
        total = own or (pool.n_tokens if limit is None or pool.is_all else limit)
        drawn.append(apportion(total, stage.shares))
    return tuple(drawn)


def replay_budgets(recipe: Recipe, pools: Sequence[Pool]) -> dict[str, int]:
    """Say how many tokens the pool of each replay component is to hold: what all epochs of all stages draw, so that a dynamic redraw
    meets new text and hardly more is tokenised than can be read."""
    budgets = {name: 0 for name in recipe.components() if name != DOMAIN_COMPONENT}
    for stage, drawn in zip(recipe.schedule(), epoch_tokens(recipe, pools), strict=True):
        for name in budgets:
            budgets[name] += drawn.get(name, 0) * (stage.epochs if stage.redraw == "dynamic" else 1)
    return budgets
