"""What a person may ask for, as frozen dataclasses: every key of a recipe with its default, and what of it enters a decision.

`recipe_file` finds and merges the TOML, `recipe_table` and `recipe_rules` check it and make these.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from curate.manifest import SHUFFLE
from filters import CORPUS_FAMILIES, FAMILIES, family

ROLES = ("candidate", "reference", "background", "replay", "benchmark")
SCORERS = ("quality", "perplexity")
READS = ("words", "text")  # by a model of KenLM's
NGRAM_SUFFIX = ".ngram"
KENLM_SUFFIXES = (".arpa", ".bin")
FORMATS = ("auto", "jsonl", "parquet", "csv", "text", "html", "warc")
SEPARATORS = ("auto", "bos", "eos", "both")
DOMAIN_COMPONENT = "domain"
MAIN_STAGE = "main"
STRATIFY = ("proportional", "equal")
ABSENT = ("spread", "refuse")
REDRAW = ("dynamic", "fixed")
KEPT_SIMILARITY = 0.5  # pairs of at least this Jaccard similarity are edges, so that a recipe's threshold may lie anywhere above
KEPT_CONTAINMENT = 0.8  # so are pairs of which one holds this share of the other
PROFILES = {"recall": (14, 8), "strict": (26, 11)}  # bands and rows: what they find is in docs/minhash.md
PLAIN_KEYS = ("domain", "extends", "seed", "rules", "scorers", "evalset")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
FAMILY_NAME = re.compile(r"[a-z][a-z0-9_]*")  # goes into SQL as the name of a column
_WEB_PATH = re.compile(r".*\.(warc|html|htm|xhtml)(\.gz|\.zst)?", re.DOTALL)


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
    """One named place of documents: paths or globs (any fsspec URL), how to read them, what they are for, and who judges them.

    Without `near_duplicates` only exact copies go: no row of the source goes for another that is alike, nor does another go for it.
    `rules` stand in place of the recipe's; `thresholds` (family -> rule -> value, None for off) hold only what is set for this source
    and lie over the recipe's.
    """

    name: str
    path: tuple[str, ...]
    role: str = "candidate"
    component: str | None = None
    format: str = "auto"
    fields: Fields = Fields()
    holdout_share: float | None = None
    max_dedup_share: float | None = None
    near_duplicates: bool = True
    web: bool | None = None
    rules: tuple[str, ...] | None = None
    thresholds: Mapping[str, Mapping[str, float | None]] = dataclasses.field(default_factory=dict)

    @property
    def is_web(self) -> bool:
        """Whether the documents are web pages: as the recipe says, else by the format, else by how a path ends; no file is looked at."""
        if self.web is not None:
            return self.web
        if self.format == "auto":
            return any(_WEB_PATH.fullmatch(path) for path in self.path)
        return self.format in ("warc", "html")


@dataclasses.dataclass(frozen=True, slots=True)
class OwnFamily:
    """A family of signals that a recipe brings along, `[families.NAME]`: a function of one's own or a filter of datatrove's.

    `function` is "package.module:attr" or "path/file.py:attr"; `arguments` go to the constructor of the `datatrove` class. `is_web`
    is what a Family of `filters.spec` says of itself; it is no key of the table but filled in as a recipe is read.
    """

    name: str
    function: str | None = None
    datatrove: str | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_web: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Holdout:
    """Share of the groups that training never sees (design.md, Holdout)."""

    share: float = 0.01


@dataclasses.dataclass(frozen=True, slots=True)
class Dedup:
    """Near duplicates: from which Jaccard similarity of word 5-grams on a row goes (None: exact copies only), from which share of its
    word 3-grams in a longer row (None: never for that), how pairs are found, and what stops a build: the share of a source's rows that
    may go, and the rows that may hang on one kept row (see budget.py).
    """

    threshold: float | None = 0.8
    containment: float | None = 0.9
    profile: str = "recall"
    bands: int | None = None
    rows: int | None = None
    seed: int = 1
    max_share: float = 0.3
    max_copies: int = 1000

    @property
    def shape(self) -> tuple[int, int]:
        """Bands and rows of a signature: as they are given, else by the profile."""
        if self.bands is None or self.rows is None:
            return PROFILES[self.profile]
        return self.bands, self.rows

    @property
    def contained_from(self) -> float | None:
        """The containment from which a row goes; None also where exact copies only are wanted."""
        return None if self.threshold is None else self.containment


@dataclasses.dataclass(frozen=True, slots=True)
class Paragraphs:
    """Repeated paragraphs: lines of at least `min_words` words that are in more than `max_documents` texts. With `mask` training leaves
    them out of every row; without it they are facts for rules.
    """

    min_words: int = 8
    max_documents: int = 10
    mask: bool = False


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
class Perplexity:
    """The n-gram model behind the column `perplexity`: one of one's own, or the order of one fitted on the reference; texts of fewer than
    `min_words` words have no score. `reads` is what a model of KenLM's gets: our words, or the text as it is.
    """

    model: str | None = None
    order: int = 5
    min_words: int = 200
    reads: str = "words"

    @property
    def is_kenlm(self) -> bool:
        """Whether the model is one of KenLM's, which has no runs of words to find copies of the reference by."""
        return self.model is not None and self.model.endswith(KENLM_SUFFIXES)


@dataclasses.dataclass(frozen=True, slots=True)
class Select:
    """Which domain rows are taken, in SQL expressions (see expressions.py), and how much of the ranking: a budget in tokens, a share of its
    bytes, or all up to a value of the first key. With `stratify_by` each stratum has its part of it."""

    order_by: str = "random"
    where: str | None = None
    budget_tokens: int | None = 1_000_000
    top_share: float | None = None
    threshold: float | None = None
    epoch_tokens: int | None = None
    stratify_by: str | None = None
    stratify: str = "proportional"


@dataclasses.dataclass(frozen=True, slots=True)
class Mix:
    """The mixture: shares of tokens by component, written out, of a preset (presets.py) or of a version. In a recipe that was read `shares`
    holds what has come of it; they add up to 1."""

    shares: Mapping[str, float] = dataclasses.field(default_factory=lambda: {DOMAIN_COMPONENT: 1.0})
    preset: str | None = None
    like: str | None = None
    replace: tuple[str, ...] = ()
    absent: str = "spread"
    epochs: int = 1
    redraw: str = "dynamic"
    max_repeats: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class StageChoice:
    """A stretch of training as written, `[[stages]]`; what it leaves out is taken from [mix] and [select]."""

    name: str
    shares: Mapping[str, float] | None = None
    preset: str | None = None
    like: str | None = None
    replace: tuple[str, ...] | None = None
    absent: str | None = None
    epochs: int | None = None
    redraw: str | None = None
    order: str = SHUFFLE
    budget_tokens: int | None = None
    epoch_tokens: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Mixture:
    """Where the shares of a stage come from: what was asked for, which of it the domain takes, and what has no source."""

    requested: Mapping[str, float]
    replaced: Mapping[str, float] = dataclasses.field(default_factory=dict)
    absent: Mapping[str, float] = dataclasses.field(default_factory=dict)
    preset: str | None = None
    like: str | None = None
    source: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Scheduled:
    """A stage as it is decided: what a StageChoice, or [mix], comes to."""

    name: str
    shares: Mapping[str, float]
    epochs: int
    redraw: str
    order: str = SHUFFLE
    budget_tokens: int | None = None
    epoch_tokens: int | None = None
    mixture: Mixture | None = None


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
    """A resolved recipe. `thresholds` has one value for each rule of the families that it or a source names; None switches a rule off."""

    domain: str
    sources: tuple[Source, ...]
    seed: int = 0
    rules: tuple[str, ...] = ("gopher_quality",)
    thresholds: Mapping[str, Mapping[str, float | None]] = dataclasses.field(default_factory=dict)
    families: Mapping[str, OwnFamily] = dataclasses.field(default_factory=dict)
    scorers: tuple[str, ...] = ()
    holdout: Holdout = Holdout()
    dedup: Dedup = Dedup()
    paragraphs: Paragraphs = Paragraphs()
    quality: Quality = Quality()
    perplexity: Perplexity = Perplexity()
    select: Select = Select()
    mix: Mix = dataclasses.field(default_factory=Mix)
    stages: tuple[Scheduled, ...] = ()
    tokenizer: TokenizerChoice = TokenizerChoice()
    quarantine: Quarantine = Quarantine()
    evalset: str = "reuse"
    is_sample: bool = False

    def holdout_share(self, source: Source) -> float:
        return self.holdout.share if source.holdout_share is None else source.holdout_share

    def max_dedup_share(self, source: Source) -> float:
        return self.dedup.max_share if source.max_dedup_share is None else source.max_dedup_share

    def schedule(self) -> tuple[Scheduled, ...]:
        """Give the stages of training in their order: those of the recipe, or else the one that [mix] describes."""
        return self.stages or (Scheduled(MAIN_STAGE, self.mix.shares, self.mix.epochs, self.mix.redraw),)

    def components(self) -> tuple[str, ...]:
        """Name the components of all stages."""
        return tuple(dict.fromkeys(name for stage in self.schedule() for name in stage.shares))

    def decided_sources(self) -> tuple[Source, ...]:
        """Sources whose rows the manifest holds, in the recipe's order."""
        return tuple(source for source in self.sources if source.role in ("candidate", "replay"))

    @property
    def has_overlaps(self) -> bool:
        """Whether a model tells how much of a row is in the reference."""
        return "perplexity" in self.scorers and not self.perplexity.is_kenlm

    def judged_by(self, source: Source) -> dict[str, dict[str, float | None]]:
        """Say what judges the rows of a source: family -> rule -> threshold (None: off), both in the order in which they judge.

        These are the source's own `rules`, or else the recipe's, of which families made for web pages judge web sources only.
        """
        names = source.rules
        if names is None:
            names = tuple(name for name in self.rules if source.is_web or not self._is_web(name))
        return {name: {**self._defaults(name), **self.thresholds.get(name, {}), **source.thresholds.get(name, {})} for name in names}

    def families_to_compute(self) -> tuple[str, ...]:
        """Name every shipped family of texts, in the order of their table, then those of the corpus and the recipe's own that judge some
        row of the manifest; one that masks rows needs not judge any, nor does what a scorer tells beside its score."""
        needed = {name for source in self.decided_sources() for name in self.judged_by(source)}
        needed |= {"paragraphs"} if self.paragraphs.mask else set()
        needed |= {"reference"} if self.has_overlaps else set()
        return (*FAMILIES, *(name for name in (*CORPUS_FAMILIES, *self.families) if name in needed))

    def _is_web(self, name: str) -> bool:
        return self.families[name].is_web if name in self.families else family(name).is_web

    def _defaults(self, name: str) -> dict[str, float | None]:
        return {} if name in self.families else {rule.name: rule.threshold for rule in family(name).rules}
