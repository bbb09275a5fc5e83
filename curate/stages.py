"""The stages of training as manifest.json has them: what an epoch draws of each component, from which pool, and how often it is seen.

Stands between `decide`, which leaves the tables `decided` and `pools`, and publishing. A mixture that cannot be drawn, or that repeats a
component more often than the recipe allows, stops the build here; finished counts are kept.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import duckdb

from curate.mix import MAX_GOOD_REPEATS, REPEATS_SOURCE, Pool, epoch_tokens
from curate.recipe import DOMAIN_COMPONENT, DomainError, Recipe


def describe(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> list[dict[str, Any]]:
    """Describe the stages of a decision. Raises DomainError where a component has a share and nothing to draw from, or is seen more often
    than `mix.max_repeats`."""
    pools = [Pool(*row) for row in connection.execute("SELECT n_tokens, is_all FROM pools ORDER BY stage").fetchall()]
    stocks = {(number, name): tokens for number, name, tokens in connection.execute(_STOCKS).fetchall()}
    stages = []
    for number, (stage, draws) in enumerate(zip(recipe.schedule(), epoch_tokens(recipe, pools), strict=True)):
        components = []
        for name, share in stage.shares.items():
            stock = stocks.get((number, name), 0)
            if not stock and (draws[name] or (share and name == DOMAIN_COMPONENT)):
                raise DomainError(_nothing_left(connection, name))
            components.append({
                "name": name, "share": share, "epoch_tokens": draws[name], "pool_tokens": stock, "redraw": stage.redraw,
                "repeats": round(draws[name] * stage.epochs / stock, 4) if stock else 0.0, "seen_by_base": None,
            })  # fmt: skip
        mixture = None if stage.mixture is None else dataclasses.asdict(stage.mixture)
        stages.append({
            "name": stage.name, "epochs": stage.epochs, "epoch_tokens": sum(draws.values()), "order": stage.order,
            "components": components, "mixture": mixture,
        })  # fmt: skip
    _refuse_repeats(recipe, stages)
    return stages


def total_repeats(stages: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Say how often the tokens of each component are seen over all stages, on average, by the rows that every stage may draw."""
    seen: dict[str, float] = {}
    for stage in stages:
        for part in stage["components"]:
            seen[part["name"]] = seen.get(part["name"], 0.0) + part["repeats"]
    return {name: round(repeats, 4) for name, repeats in seen.items()}


def warnings(stages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say of each component that is seen more often than is good what that means."""
    return [
        f"the tokens of component {name} are seen {repeats:.1f} times; up to {MAX_GOOD_REPEATS} are nearly as good as new text, more are "
        f"worth less and less ({REPEATS_SOURCE})"
        for name, repeats in total_repeats(stages).items()
        if repeats > MAX_GOOD_REPEATS
    ]


def strata(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Count the domain's rows by stratum: those that passed, and those that were taken."""
    rows: list[dict[str, Any]] = connection.sql(_BY_STRATUM).to_arrow_table().to_pylist()
    return rows


def _refuse_repeats(recipe: Recipe, stages: list[dict[str, Any]]) -> None:
    cap = recipe.mix.max_repeats
    if cap is None:
        return
    for name, repeats in total_repeats(stages).items():
        if repeats > cap:
            n_epochs = sum(stage["epochs"] for stage in stages)
            raise DomainError(
                f"the tokens of component {name!r} would be seen {repeats:.2f} times, more than the {cap:g} of mix.max_repeats; "
                f"give it more text or a smaller share, run at most {int(n_epochs * cap / repeats)} epochs, or draw fewer tokens an epoch "
                "(select.epoch_tokens)"
            )


def _nothing_left(connection: duckdb.DuckDBPyConnection, component: str) -> str:
    query = "SELECT coalesce(reason, split), count(*) FROM decided WHERE component = ? GROUP BY 1 ORDER BY 2 DESC, 1"
    found = connection.execute(query, [component]).fetchall()
    why = ", ".join(f"{count} {reason}" for reason, count in found) or "no rows were read"
    do = "loosen a rule with --set FAMILY.RULE=VALUE, raise the budget, or check the sources"
    return f"nothing is left of component {component!r} ({why}); {do}"


_STOCKS = """
SELECT stage, component, sum(n_tokens)::BIGINT FROM (SELECT component, n_tokens, unnest(stages) AS stage FROM decided WHERE split = 'train')
GROUP BY ALL
"""

_BY_STRATUM = """
SELECT stratum, count(*) AS n_rows, count(*) FILTER (is_within) AS n_taken,
    coalesce(sum(n_counted) FILTER (is_within), 0)::BIGINT AS n_tokens
FROM taken GROUP BY ALL ORDER BY stratum
"""
