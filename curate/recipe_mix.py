"""The stages of a recipe and their mixtures: from presets, versions and shares as written to shares that add up to 1.

Stands beside `recipe_table`, which calls it with what it has read. Shares are exact fractions until the last step, so that 67 and 15
percent are 0.82. The decision: the domain's share never moves. What a component without a source leaves goes to the other replay
components in proportion, and the recipe remembers what was asked for; where nobody is left to take it the recipe is refused.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from curate.manifest import ManifestError, stage_order
from curate.presets import NO_PRESET, PRESETS
from curate.recipe import (
    ABSENT,
    DOMAIN_COMPONENT,
    MAIN_STAGE,
    NAME,
    REDRAW,
    DomainError,
    Mix,
    Mixture,
    Scheduled,
    Select,
    Source,
    StageChoice,
)
from curate.recipe_rules import nearest

# Keys that say one thing in different ways: a recipe has one of them, and the nearer layer's puts the others out. The keys that belong
# to one of them alone go out with it.
ALTERNATIVES = {
    "select": ("budget_tokens", "top_share", "threshold"),
    **dict.fromkeys(("mix", "stages"), ("shares", "preset", "like")),
}
BELONGING = {"preset": ("replace", "absent"), "like": ("replace", "absent")}
_MAX_STAGES = 100  # a stage's number is an int8 in the manifest

Shares = Mapping[str, Fraction]


def refuse_two(table: Mapping[str, Any], where: str, keys: Sequence[str]) -> None:
    """Refuse a table that says one thing in two ways."""
    if len(given := [key for key in keys if key in table]) > 1:
        raise DomainError(f"{where} has {' and '.join(given)}, which exclude each other; keep one of {', '.join(keys)}")


def resolve_stages(
    mix: Mix, given: Sequence[StageChoice], select: Select, sources: Sequence[Source], shares_of: Callable[[str], Shares]
) -> tuple[Scheduled, ...]:
    """Resolve the stages of a recipe, or the one that [mix] describes where it names none.

    `shares_of` gives the shares of a published version. Raises DomainError, in one line, for whatever cannot be.
    """
    have = tuple(dict.fromkeys(str(source.component) for source in sources if source.role == "replay"))
    if not any(source.role == "candidate" for source in sources):
        raise DomainError("no source has the role 'candidate', so there is nothing to select from; add one, or --source NAME=GLOB")
    if mix.replace and mix.preset is None and mix.like is None:
        raise DomainError(
            "mix.replace is about a preset or a version, and mix names none; add mix.preset, or take it out and write the shares"
        )
    choices = {f"stages.{choice.name}": _filled(choice, mix) for choice in given} or {"mix": _filled(StageChoice(MAIN_STAGE), mix)}
    if len(choices) < len(given) or len(given) > _MAX_STAGES:
        names = ", ".join(choice.name for choice in given)
        raise DomainError(f"[[stages]] are named {names}; give each a name of its own, and at most {_MAX_STAGES} of them")
    stages = tuple(_scheduled(choice, where, have, shares_of) for where, choice in choices.items())
    _check(stages, select, have)
    return stages


def _filled(choice: StageChoice, mix: Mix) -> StageChoice:
    """Take from [mix] what a stage leaves out: of the mixture all of it or nothing."""
    if choice.shares is None and choice.preset is None and choice.like is None:
        shares = mix.shares if mix.preset is None and mix.like is None else None
        choice = dataclasses.replace(choice, shares=shares, preset=mix.preset, like=mix.like)
    return dataclasses.replace(
        choice,
        replace=mix.replace if choice.replace is None else choice.replace,
        absent=mix.absent if choice.absent is None else choice.absent,
        epochs=mix.epochs if choice.epochs is None else choice.epochs,
        redraw=mix.redraw if choice.redraw is None else choice.redraw,
    )


def _scheduled(choice: StageChoice, where: str, have: Sequence[str], shares_of: Callable[[str], Shares]) -> Scheduled:
    for key, value, allowed in [("redraw", choice.redraw, REDRAW), ("absent", choice.absent, ABSENT)]:
        if value not in allowed:
            raise DomainError(f"{where}.{key} is {value!r}; allowed: {', '.join(allowed)}")
    for key, number in [("epochs", choice.epochs), ("budget_tokens", choice.budget_tokens), ("epoch_tokens", choice.epoch_tokens)]:
        if number is not None and number < 1:
            raise DomainError(f"{where}.{key} is {number!r}; it takes a whole number of at least 1")
    if not NAME.fullmatch(choice.name):
        raise DomainError(f"stage name {choice.name!r} is not allowed; use letters, digits, '.', '_' and '-'")
    try:
        stage_order(choice.order)
    except ManifestError as error:
        raise DomainError(f"{where}.order: {error}") from None
    shares, mixture = _mixture(choice, where, have, shares_of)
    assert choice.epochs is not None
    assert choice.redraw is not None
    return Scheduled(
        choice.name, shares, choice.epochs, choice.redraw, choice.order, choice.budget_tokens, choice.epoch_tokens, mixture
    )  # fmt: skip


def _mixture(
    choice: StageChoice, where: str, have: Sequence[str], shares_of: Callable[[str], Shares]
) -> tuple[Mapping[str, float], Mixture]:
    if choice.shares is not None:
        _check_written(choice.shares, where, have)
        return choice.shares, Mixture(choice.shares)
    if choice.preset == NO_PRESET:
        shares = {DOMAIN_COMPONENT: 1.0, **dict.fromkeys(have, 0.0)}
        return shares, Mixture(shares, preset=NO_PRESET)
    asked, web, source = _asked(choice, where, shares_of)
    name = f"{where}.preset {choice.preset}" if choice.preset else f"{where}.like {choice.like}"
    replaced = {part: asked[part] for part in _replaced(choice, where, name, asked, web, have)}
    domain = asked.get(DOMAIN_COMPONENT, Fraction(0)) + sum(replaced.values())
    rest = {part: share for part, share in asked.items() if part not in replaced and part != DOMAIN_COMPONENT}
    for part in have:
        if part not in rest:
            raise DomainError(
                f"component {part!r} has a source, but {name} has no such component; it has {', '.join(rest)}: name it as one of these, "
                "or write mix.shares"
            )
    absent = {part: share for part, share in rest.items() if part not in have and share}
    if absent and choice.absent == "refuse":
        raise DomainError(
            f"{where}.absent is 'refuse', and no source has the components {', '.join(absent)} of {name}; add sources with the role "
            "'replay', or set it to 'spread'"
        )
    present = sum(share for part, share in rest.items() if part in have)
    if absent and not present:
        raise DomainError(
            f"{name} leaves {float(sum(absent.values())):.1%} of the tokens to {', '.join(absent)}, and no source has any of them; add one "
            'with role = "replay" and its component, or train on the domain alone: --set mix.preset=none'
        )
    grown = {part: share * (1 + sum(absent.values()) / present) for part, share in rest.items() if part in have} if present else {}
    requested = {DOMAIN_COMPONENT: domain, **rest}
    return _floats({DOMAIN_COMPONENT: domain, **grown}), Mixture(
        _floats(requested), _floats(replaced), _floats(absent), choice.preset, choice.like, source
    )


def _asked(choice: StageChoice, where: str, shares_of: Callable[[str], Shares]) -> tuple[Shares, Sequence[str], str]:
    """Give the shares that a preset or a version names, the components that a domain usually stands in for, and the source."""
    if choice.like is not None:
        return shares_of(choice.like), (), f"the shares of {choice.like}, over all of its stages"
    if choice.preset not in PRESETS:
        allowed = [*PRESETS, NO_PRESET]
        raise DomainError(
            f"{where}.preset is {choice.preset!r}; allowed: {', '.join(allowed)}. Did you mean {nearest(str(choice.preset), allowed)!r}?"
        )
    preset = PRESETS[choice.preset]
    amounts = {part: Fraction(amount) for part, amount in preset.amounts.items()}
    return {part: amount / sum(amounts.values()) for part, amount in amounts.items()}, preset.web, preset.source


def _replaced(choice: StageChoice, where: str, name: str, asked: Shares, web: Sequence[str], have: Sequence[str]) -> Sequence[str]:
    """Check which components the domain takes the place of."""
    for part in choice.replace or ():
        if part not in asked or part == DOMAIN_COMPONENT:
            known = [one for one in asked if one != DOMAIN_COMPONENT]
            raise DomainError(
                f"{where}.replace names {part!r}, which {name} does not have; did you mean {nearest(part, known)!r}? "
                f"It has: {', '.join(known)}"
            )
        if part in have:
            raise DomainError(
                f"component {part!r} has a source, but {where}.replace gives its share to the domain; take it out of one of them"
            )
    if not choice.replace and not asked.get(DOMAIN_COMPONENT):
        raise DomainError(
            f"{where}.replace is missing: the domain has no share in {name} until it takes the place of some of its components; "
            f"name them, as in replace = {list(web or asked)}".replace("'", '"')
        )
    return tuple(dict.fromkeys(choice.replace or ()))


def _check_written(shares: Mapping[str, float], where: str, have: Sequence[str]) -> None:
    for part, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise DomainError(f"{where}.shares.{part} is {share:g}; it takes a share from 0 to 1")
        if part not in (DOMAIN_COMPONENT, *have):
            known = ", ".join((DOMAIN_COMPONENT, *have))
            raise DomainError(f"{where}.shares names the component {part!r}, which no source has; components here: {known}")
    if abs(sum(shares.values()) - 1.0) > 1e-9:
        raise DomainError(f"{where}.shares add up to {sum(shares.values()):g}; they must add up to 1")


def _check(stages: Sequence[Scheduled], select: Select, have: Sequence[str]) -> None:
    for part in (DOMAIN_COMPONENT, *have):
        if not any(part in stage.shares for stage in stages):
            raise DomainError(f"component {part!r} has a source but no share; add it to mix.shares (0 keeps it for evaluation only)")
    if not any(stage.shares.get(DOMAIN_COMPONENT) for stage in stages):
        raise DomainError(f"mix.shares.{DOMAIN_COMPONENT} is 0, so the domain would never be read; give it a share above 0")
    budgets = [stage.budget_tokens for stage in stages if stage.shares.get(DOMAIN_COMPONENT)]
    most = max((budget for budget in budgets if budget is not None), default=0)
    if select.budget_tokens is not None and most > select.budget_tokens:
        raise DomainError(
            f"a stage has budget_tokens {most:,}, more than the {select.budget_tokens:,} of select.budget_tokens, of which it takes the "
            "best; lower the one or raise the other"
        )
    if None not in budgets and most != select.budget_tokens:
        raise DomainError(
            "every stage has budget_tokens of its own, so part of what is selected would never be read; leave it out of one stage, or give "
            f"select.budget_tokens the largest of them, {most:,}"
        )


def _floats(shares: Shares) -> dict[str, float]:
    return {part: float(share) for part, share in shares.items()}
