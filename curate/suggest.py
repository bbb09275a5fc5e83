"""How much of a stock of domain text to train on, for how many epochs and in which mixture, for a budget of training tokens.

A pure function of (stock, budget, preset) with its reasons; `stock_of` reads the stock from the newest version. Stands beside `try`: it
proposes lines for a recipe, and decides nothing. The decision it embodies: the ratios of one paper, within bounds of others, and a word
wherever nobody has measured; a number that looks exact would be believed. Cost: one aggregation over the domain's rows of a version.
"""

import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from curate import outcome
from curate.manifest import Manifest, attach, load, versions
from curate.mix import MAX_GOOD_REPEATS, REPEATS_SOURCE
from curate.presets import NO_PRESET, PRESETS
from curate.recipe import DomainError, Recipe
from curate.recipe_rules import nearest
from curate.store import Store

# The paper's headline run: the best 5B of 50B domain tokens, four epochs, 20B in all (sections 4 and 5.2).
EPOCHS = 4
PAPER = "arXiv 2406.14833"
_TESTED = (1_000_000_000, 10_000_000_000)  # subset sizes of its figure 5c; 5B was best
_SELECTED = 0.1  # of its domain corpus
_REPLAY = "Ibrahim et al. 2024, arXiv 2403.08763"
# Below this much domain text there is one published success that we know of, and below the second only a failure.
_SMALL, _TINY = 118_800_000, 1_300_000
_SMALL_SOURCE = "arXiv 2507.02964: 118.8M tokens of cyber security for models of 8B to 70B"
_TINY_SOURCE = "arXiv 2409.07431: 1.3M raw tokens made a model worse (39.5 to 38.2), 455M synthetic ones made of them better (56.2)"


@dataclasses.dataclass(frozen=True, slots=True)
class Stock:
    """Domain tokens that passed rules and dedup, of which version, whether some are estimated, and the replay components with a source."""

    n_tokens: int
    version: str
    is_estimated: bool
    components: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Suggestion:
    """What to write into a recipe, and why. `repeats` says how often a token of the domain is seen on average."""

    stock: Stock
    budget_tokens: int
    preset: str
    subset_tokens: int
    epochs: int
    epoch_tokens: int
    domain_share: float
    repeats: float
    replace: tuple[str, ...]
    reasons: tuple[str, ...]
    limits: tuple[str, ...]

    @property
    def total_tokens(self) -> int:
        return self.epochs * self.epoch_tokens

    @property
    def lines(self) -> str:
        """The lines of a recipe, in TOML; they stand in place of its own [select] budget and [mix]."""
        return "\n".join(["[select]", *map(" = ".join, self._select), "", "[mix]", *map(" = ".join, self._mix)])

    @property
    def settings(self) -> tuple[str, ...]:
        """The same as values of --set."""
        tables = {"select": self._select, "mix": self._mix}
        return tuple(f"{table}.{key}={value}" for table, keys in tables.items() for key, value in keys)

    @property
    def _select(self) -> list[tuple[str, str]]:
        return [("budget_tokens", str(self.subset_tokens))]

    @property
    def _mix(self) -> list[tuple[str, str]]:
        replaced = [("replace", json.dumps(list(self.replace)))] if self.replace else []
        return [("preset", json.dumps(self.preset)), *replaced, ("epochs", str(self.epochs)), ("redraw", '"dynamic"')]

    def plain(self) -> dict[str, Any]:
        """Give everything as plain values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "stock": dataclasses.asdict(self.stock), "total_tokens": self.total_tokens, "lines": self.lines}


def stock_of(store: Store, recipe: Recipe) -> Stock:
    """Add up the domain's rows that passed rules and dedup in the newest version of a recipe's domain.

    Raises DomainError where there is none.
    """
    found: Manifest | None = None
    for name in versions(store):
        if (version := load(store, name)).info["domain"] == recipe.domain:
            found = version
    if found is None:
        raise DomainError(f"no version of domain {recipe.domain!r} below {store.url()}, so its stock is unknown; run curate build first")
    connection = attach(store, found, "published")
    groups = outcome.groups(connection, "(SELECT *, n_tokens::BIGINT AS n_estimated FROM published)")
    passed = outcome.total(group for group in groups if outcome.is_domain(group) and outcome.is_ranked(group))
    replay = dict.fromkeys(str(source.component) for source in recipe.sources if source.role == "replay")
    return Stock(passed["n_tokens"], found.version, passed["estimated"], tuple(replay))


def suggest(stock: Stock, budget_tokens: int, like: str) -> Suggestion:
    """Suggest a subset, epochs and a mixture for a whole training of `budget_tokens` on a base that was trained like `like`.

    Raises DomainError for an unknown preset, an empty stock, or a budget below one token an epoch.
    """
    if like not in (*PRESETS, NO_PRESET):
        allowed = [*PRESETS, NO_PRESET]
        raise DomainError(f"--like is {like!r}; allowed: {', '.join(allowed)}. Did you mean {nearest(like, allowed)!r}?")
    if budget_tokens < EPOCHS:
        raise DomainError(f"--tokens is {budget_tokens}; it takes at least {EPOCHS}, one for each epoch")
    if not stock.n_tokens:
        raise DomainError(f"nothing of the domain passed rules and dedup in {stock.version}; loosen a rule, or add sources")
    preset, replace, said = _mixture(stock, like)
    share = _domain_share(preset, replace)
    subset = budget_tokens // EPOCHS
    pool = min(subset, stock.n_tokens)
    # A stock that is below the subset may be gone through as often as its tokens stay nearly as good as new ones.
    epochs = min(max(EPOCHS, int(MAX_GOOD_REPEATS / share)), -(-budget_tokens // pool))
    epochs = EPOCHS if pool == subset else epochs
    repeats = round(float(share) * epochs, 2)
    reasons = (*_sizes(stock, subset, epochs, budget_tokens), *_epochs(epochs, repeats), *said, *_replay(share, preset))
    return Suggestion(
        stock, budget_tokens, preset, subset, epochs, pool, round(float(share), 6), repeats, replace,
        reasons, tuple(_limits(stock, pool, subset)),
    )  # fmt: skip


def _mixture(stock: Stock, like: str) -> tuple[str, tuple[str, ...], list[str]]:
    """Choose what can be drawn of the preset: its name, what the domain stands for in it, and what is to be said of it."""
    if like == NO_PRESET:
        return NO_PRESET, (), []
    preset = PRESETS[like]
    replace = tuple(part for part in preset.web if part not in stock.components)
    rest = [part for part in preset.amounts if part not in replace]
    unknown = [part for part in stock.components if part not in rest]
    there = [part for part in rest if part in stock.components]
    if unknown or not there or not replace:
        why = (
            f"the recipe's component {unknown[0]!r} is none of {like}" if unknown
            else f"the recipe has sources for all of the web part of {like}" if not replace
            else "the recipe has no source with role = \"replay\""
        )  # fmt: skip
        return NO_PRESET, (), [
            f"the mixture of {like} cannot be drawn, because {why}; the lines below train on the domain alone. Better add replay sources "
            f"named as some of {', '.join(rest)}, and ask again: without any the base's own abilities are at risk ({_REPLAY})"
        ]  # fmt: skip
    absent = [part for part in rest if part not in there]
    said = f"a mixture like the base's, {like}, with the domain in place of {', '.join(replace)} ({PAPER}, section 4; {preset.source})"
    left = f"; no source has {', '.join(absent)}: their share goes to {', '.join(there)}" if absent else ""
    return like, replace, [f"{said}{left}"]


def _domain_share(preset: str, replace: Sequence[str]) -> Fraction:
    if preset == NO_PRESET:
        return Fraction(1)
    amounts = {part: Fraction(amount) for part, amount in PRESETS[preset].amounts.items()}
    return sum((amounts[part] for part in replace), Fraction(0)) / sum(amounts.values())


def _sizes(stock: Stock, subset: int, epochs: int, budget_tokens: int) -> list[str]:
    held = f"{'about ' if stock.is_estimated else ''}{stock.n_tokens:,} tokens in {stock.version}"
    if subset <= stock.n_tokens:
        return [
            f"subset {subset:,} tokens: a quarter of the {budget_tokens:,} of training, as 5B of 20B in the paper ({PAPER}, section 4). It "
            f"is the best {subset / stock.n_tokens:.1%} of the stock, {held}; the paper took the best 10 % of 50B"
        ]
    left = budget_tokens - epochs * stock.n_tokens
    rest = f"; {left:,} tokens of the budget are left, which more passes hardly turn into gain ({REPEATS_SOURCE})" if left > 0 else ""
    return [
        f"subset: the whole stock, {held}, which is below the {subset:,} of a quarter of the budget ({PAPER}, section 4). A build takes it "
        f"whole, and an epoch is as long as it{rest}"
    ]


def _epochs(epochs: int, repeats: float) -> list[str]:
    return [
        f"{epochs} epochs, each drawn anew: a token of the domain is seen {repeats:g} times on average. The paper peaked at 4 epochs (3.28 "
        f"times) and, as a reviewer read its figure 4, fell at 5 ({PAPER}); up to {MAX_GOOD_REPEATS} times are nearly as good as new text "
        f"({REPEATS_SOURCE})"
    ]


def _replay(share: Fraction, preset: str) -> list[str]:
    if preset == NO_PRESET:
        return []
    return [
        f"replay {float(1 - share):.1%}: 5 % is enough where the domain is near to what the base has read, 25 % where it is far, such as "
        f"another language ({_REPLAY}, 405M and 10B); the paper had 18 % ({PAPER}, section 4)"
    ]


def _limits(stock: Stock, pool: int, subset: int) -> list[str]:
    """Say where the literature does not reach."""
    limits = []
    if pool <= _TINY:
        limits.append(f"{pool:,} tokens are a tiny stock: no continual pre-training on so little is known to help. {_TINY_SOURCE}")
    elif pool < _SMALL:
        limits.append(f"{pool:,} tokens are a small stock; the smallest that we know to help is larger ({_SMALL_SOURCE})")
    low, high = _TESTED
    if not low <= pool <= high:
        limits.append(
            f"{pool:,} tokens are none of the subsets that the paper tried: of 1B, 5B and 10B the first was soon learnt by heart, and the "
            f"last brought the gap back ({PAPER}, section 5.2)"
        )
    if subset < stock.n_tokens < 2 * subset:
        limits.append(
            f"the subset is {subset / stock.n_tokens:.0%} of the stock, so a ranking by quality changes little; the paper took "
            f"{_SELECTED:.0%} ({PAPER}, section 4)"
        )
    limits.append(
        "the best size was found with models of 1B to 3B, by single runs; a 410M model, trained on from the Pile on general text, did best "
        f"with 11B for 7 epochs ({PAPER}, appendix D); above 8B nobody has tried. Train small first, and measure the gap"
    )
    return limits
