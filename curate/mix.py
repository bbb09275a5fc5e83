"""From shares to whole tokens: what an epoch draws of each component and how large each pool has to be."""

from collections.abc import Mapping

from curate.recipe import DOMAIN_COMPONENT, Recipe


def apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Split a whole number by shares that add up to 1, by largest remainder (Hamilton): the parts add up to the total.

    >>> apportion(10, {"domain": 0.82, "wiki": 0.09, "books": 0.09})
    {'domain': 8, 'wiki': 1, 'books': 1}
    """
    exact = {name: total * share for name, share in shares.items()}
    parts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (parts[name] - exact[name], name))
    for name in by_remainder[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def epoch_tokens(recipe: Recipe) -> dict[str, int]:
    """Say how many tokens an epoch draws of each component."""
    return apportion(recipe.select.epoch_tokens or recipe.select.budget_tokens, recipe.mix.shares)


def pool_budgets(recipe: Recipe) -> dict[str, int]:
    """Say how many tokens each component's pool is to hold: the selection's budget for the domain; for replay what all
    epochs draw, so that a dynamic redraw meets new text and hardly more is tokenised than can be read."""
    draws = recipe.mix.epochs if recipe.mix.redraw == "dynamic" else 1
    budgets = {name: tokens * draws for name, tokens in epoch_tokens(recipe).items()}
    return {**budgets, DOMAIN_COMPONENT: recipe.select.budget_tokens}
