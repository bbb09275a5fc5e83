"""What a person may ask for, as frozen dataclasses: every key of a recipe with its default, and what of it enters a decision.

`recipe_file` finds and merges the TOML, `recipe_table` checks it and makes these.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

ROLES = ("candidate", "reference", "background", "replay", "benchmark")
SCORERS = ("quality",)
FORMATS = ("auto", "jsonl", "parquet", "csv", "text", "html", "warc")
SEPARATORS = ("auto", "bos", "eos", "both")
DOMAIN_COMPONENT = "domain"
KEPT_SIMILARITY = 0.5  # pairs of at least this Jaccard similarity are edges, so that a recipe's threshold may lie anywhere above
PLAIN_KEYS = ("domain", "extends", "seed", "rules", "scorers", "evalset")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class DomainError(ValueError):
    """The recipe, or what it names, is wrong: the person who wrote it acts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fields:
    """Which field of a source holds what. A field that the recipe names must be in at least one row of the source."""

    text: str | None = None
    id: str | None = None
    group: str | None = None
    url: str | None = None
    licence: str | None = None
    date: str | None = None
    lang: str | None = None
    title: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One named place of documents: paths or globs (any fsspec URL), how to read them, and what they are for."""

    name: str
    path: tuple[str, ...]
    role: str = "candidate"
    component: str | None = None
    format: str = "auto"
    fields: Fields = Fields()
    holdout_share: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Holdout:
    """Share of the groups that training never sees (design.md, Holdout)."""

    share: float = 0.01


@dataclasses.dataclass(frozen=True, slots=True)
class Dedup:
    """Near duplicates: from which Jaccard similarity of word 5-grams on a row goes (None: exact copies only), and how pairs are found."""

    threshold: float | None = 0.8
    bands: int = 14
    rows: int = 8
    seed: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Quality:
    """The classifier behind the column `quality`: a fastText model of one's own, or the settings of one fitted on the reference.

    The defaults are DCLM's (Li et al. 2024, arXiv 2406.11794, section 4.4 and its published training script) but for `bucket`, which
    is fastText's own 2,000,000 there. `max_docs` bounds each side of the fit.
    """

    model: str | None = None
    label: str = "__label__domain"
    dim: int = 100
    epochs: int = 5
    lr: float = 0.1
    word_ngrams: int = 2
    bucket: int = 262_144
    rounds: int = 3
    max_docs: int = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class Select:
    """Which domain rows are taken: the longest prefix of the ranking that fits the budget, in tokens."""

    order_by: str = "random"
    budget_tokens: int = 1_000_000
    epoch_tokens: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Mix:
    """Shares of tokens by component; they add up to 1."""

    shares: Mapping[str, float] = dataclasses.field(default_factory=lambda: {DOMAIN_COMPONENT: 1.0})
    epochs: int = 1
    redraw: str = "dynamic"


@dataclasses.dataclass(frozen=True, slots=True)
class TokenizerChoice:
    """A tokenizer.json, a folder that holds one, or a hub id; without a path one is fitted per root and domain."""

    path: str | None = None
    separator: str = "auto"
    vocab_size: int = 16_384
    max_fit_bytes: int = 50_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Quarantine:
    """Share of rows that may be unreadable before a build stops."""

    max_share: float = 0.01


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """A resolved recipe. `thresholds` has one value for each rule of the named families; None switches a rule off."""

    domain: str
    sources: tuple[Source, ...]
    seed: int = 0
    rules: tuple[str, ...] = ("gopher_quality",)
    thresholds: Mapping[str, Mapping[str, float | None]] = dataclasses.field(default_factory=dict)
    scorers: tuple[str, ...] = ()
    holdout: Holdout = Holdout()
    dedup: Dedup = Dedup()
    quality: Quality = Quality()
    select: Select = Select()
    mix: Mix = dataclasses.field(default_factory=Mix)
    tokenizer: TokenizerChoice = TokenizerChoice()
    quarantine: Quarantine = Quarantine()
    evalset: str = "reuse"
    is_sample: bool = False

    def holdout_share(self, source: Source) -> float:
        return self.holdout.share if source.holdout_share is None else source.holdout_share

    def decided_sources(self) -> tuple[Source, ...]:
        """Sources whose rows the manifest holds, in the recipe's order."""
        return tuple(source for source in self.sources if source.role in ("candidate", "replay"))


def portable(recipe: Recipe) -> dict[str, Any]:
    """Give the recipe as plain values without paths, globs, formats, the field of the titles and the quarantine's limit, which
    decide nothing about a row: what enters the digests and manifest.json."""
    table = dataclasses.asdict(recipe)
    for source in table["sources"]:
        del source["path"], source["format"], source["fields"]["title"]
    del table["tokenizer"]["path"], table["quality"]["model"], table["quarantine"]
    table["thresholds"] = {name: dict(values) for name, values in recipe.thresholds.items()}
    return table
