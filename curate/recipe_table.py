"""From the merged tables of a recipe to the recipe: every key and value checked before the first byte of a source is read.

Nothing has two spellings and nothing unknown passes: a wrong key is refused with the nearest known one. Every error is one line
that says what was got, what is allowed and what to do. What is about families and rules is in `recipe_rules`.
"""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from curate import expressions
from curate.recipe import (
    DOMAIN_COMPONENT,
    FORMATS,
    KENLM_SUFFIXES,
    KEPT_CONTAINMENT,
    KEPT_SIMILARITY,
    NAME,
    NGRAM_SUFFIX,
    PLAIN_KEYS,
    PROFILES,
    READS,
    ROLES,
    SCORERS,
    SEPARATORS,
    STRATIFY,
    Dedup,
    DomainError,
    Fields,
    Holdout,
    Mix,
    OwnFamily,
    Paragraphs,
    Perplexity,
    Quality,
    Quarantine,
    Recipe,
    Select,
    Source,
    StageChoice,
    TokenizerChoice,
)
from curate.recipe_mix import ALTERNATIVES, refuse_two, resolve_stages
from curate.recipe_rules import (
    check_judges,
    named_families,
    nearest,
    own_families,
    read_families,
    read_thresholds,
    refuse_unknown,
    resolved_thresholds,
    rule_families,
)
from filters import CORPUS_FAMILIES, family
from filters.minhash import fitting_bands, least_threshold, recall
from filters.ngrams import ORDERS

_SUFFIXES = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_SECTIONS: dict[str, type] = {
    "holdout": Holdout,
    "dedup": Dedup,
    "paragraphs": Paragraphs,
    "quality": Quality,
    "perplexity": Perplexity,
    "select": Select,
    "mix": Mix,
    "tokenizer": TokenizerChoice,
    "quarantine": Quarantine,
}
_SOURCE_KEYS = [field.name for field in dataclasses.fields(Source) if field.name not in ("name", "thresholds")]


def token_count(text: str) -> int | None:
    """Read a count such as 8M, 20B or 500_000; None where it is none.

    >>> token_count("1.5B")
    1500000000
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([kMBT])", text):
        return round(float(match[1]) * _SUFFIXES[match[2]])
    return int(text) if re.fullmatch(r"\d+(_\d+)*", text) else None


def build_recipe(table: Mapping[str, Any], *, is_sample: bool, shares_of: Callable[[str], Mapping[str, Fraction]]) -> Recipe:
    """Check the tables of a recipe and make it; `shares_of` gives the shares of a published version.

    Raises DomainError, in one line, for everything that is wrong.
    """
    own = own_families(table.get("families", {}), taken=[*PLAIN_KEYS, *_SECTIONS, *_SOURCE_KEYS, "sources", "families", "stages", "sample"])
    known = rule_families(own)
    refuse_unknown(table, [*PLAIN_KEYS, *_SECTIONS, *known, "sources", "families", "stages"], where="the recipe")
    if not NAME.fullmatch(str(table["domain"])):
        raise DomainError(f"domain {table['domain']!r} is not a name; use letters, digits, '.', '_' and '-'")
    if not isinstance(table["sources"], Mapping):
        raise DomainError(f"sources is {table['sources']!r}, but it is a table; write [sources.NAME] with a path")
    sections = {key: _section(cls, table.get(key, {}), key, beside=_rules_beside(key)) for key, cls in _SECTIONS.items()}
    choices = _stages(table.get("stages", []))
    if sections["select"].top_share is not None or sections["select"].threshold is not None:
        sections["select"] = dataclasses.replace(sections["select"], budget_tokens=None)
    sections["select"] = expressions.guarded(sections["select"], table.get("select", {}))
    plain = {key: table[key] for key in ("seed", "evalset") if key in table}
    rules = read_families(table.get("rules", Recipe.__dataclass_fields__["rules"].default), known, where="rules")
    scorers = tuple(table.get("scorers", ()))
    for name in scorers:
        _one_of(name, SCORERS, "scorers")
    sources = tuple(_source(name, spec, known, own) for name, spec in table["sources"].items())
    given = {name: read_thresholds(name, _limits(name, table[name]), own, where=name) for name in known if name in table}
    named = dict.fromkeys([*rules, *(name for source in sources for name in source.rules or ())])
    recipe = Recipe(
        domain=table["domain"],
        sources=sources,
        rules=rules,
        scorers=scorers,
        thresholds={name: resolved_thresholds(name, given.get(name, {}), own) for name in named},
        families=named_families(own, named),
        is_sample=is_sample,
        **sections,
        **plain,
    )
    _check(recipe)
    stages = resolve_stages(recipe.mix, choices, recipe.select, sources, shares_of)
    return dataclasses.replace(recipe, stages=stages, mix=dataclasses.replace(recipe.mix, shares=stages[0].shares))


def _stages(tables: Any) -> list[StageChoice]:
    if not isinstance(tables, list | tuple) or not all(isinstance(table, Mapping) and "name" in table for table in tables):
        raise DomainError(f'stages is {tables!r}, but it is a list of tables with names; write [[stages]], and name = "..." below it')
    return [_section(StageChoice, table, f"stages.{table['name']}") for table in tables]


def _section(cls: type, table: Any, where: str, *, beside: Sequence[str] = ()) -> Any:
    known = [*_names(cls), *beside]
    if not isinstance(table, Mapping):
        raise DomainError(f"{where} is {table!r}, but it is a table; write [{where}] with keys {', '.join(known)}")
    refuse_unknown(table, known, where=f"[{where}]")
    refuse_two(table, f"[{where}]", ALTERNATIVES.get(where.split(".")[0], ()))
    hints = typing.get_type_hints(cls)
    return cls(**{key: _typed(value, hints[key], f"{where}.{key}") for key, value in table.items() if key not in beside})


def _rules_beside(section: str) -> list[str]:
    """Name the rules whose limits stand in a table with settings, because the settings are those of their family."""
    return [rule.name for rule in family(section).rules] if section in CORPUS_FAMILIES else []


def _limits(name: str, table: Any) -> Any:
    """Leave the limits of rules of a table that may hold settings, too."""
    return {key: table[key] for key in table if key in _rules_beside(name)} if name in _SECTIONS else table


def _source(name: str, spec: Any, known: list[str], own: Mapping[str, OwnFamily]) -> Source:
    where = f"sources.{name}"
    if not NAME.fullmatch(name):
        raise DomainError(f"source name {name!r} is not allowed; use letters, digits, '.', '_' and '-'")
    if not isinstance(spec, Mapping) or "path" not in spec:
        raise DomainError(f'[{where}] has no path; add path = "FILE or GLOB"')
    refuse_unknown(spec, [*_SOURCE_KEYS, *known], where=f"[{where}]")
    thresholds = {key: read_thresholds(key, spec[key], own, where=f"{where}.{key}") for key in known if key in spec}
    spec = {key: value for key, value in spec.items() if key not in known}
    path = (spec["path"],) if isinstance(spec["path"], str) else tuple(spec["path"])
    fields = _section(Fields, spec.pop("fields", {}), f"{where}.fields")
    if "rules" in spec:
        spec["rules"] = read_families(spec["rules"], known, where=f"{where}.rules")
    source = _section(Source, {**spec, "path": path, "name": name}, where)
    return dataclasses.replace(typing.cast(Source, source), fields=fields, thresholds=thresholds)


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _typed(value: Any, hint: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if int in options and isinstance(value, str) and value[-1:] in _SUFFIXES and (count := token_count(value)) is not None:
        value = count
    if value is False and types.NoneType in options and bool not in options:
        return None
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if origin in (bool, int, float, str) and type(value) is origin:
            return value
        if origin is tuple and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
            return {key: _typed(item, float, f"{where}.{key}") for key, item in value.items()}
    names = " or ".join(getattr(option, "__name__", str(option)) for option in options if option is not types.NoneType)
    raise DomainError(f"{where} is {value!r}; it takes a value of type {names}")


def _check(recipe: Recipe) -> None:
    for source in recipe.sources:
        _one_of(source.role, ROLES, f"sources.{source.name}.role")
        _one_of(source.format, FORMATS, f"sources.{source.name}.format")
        _share(recipe.holdout_share(source), f"sources.{source.name}.holdout_share")
        if source.max_dedup_share is not None:
            _share(source.max_dedup_share, f"sources.{source.name}.max_dedup_share", top=1.0)
        if (source.role == "replay") != (source.component is not None):
            raise DomainError(
                f"source {source.name!r} has role {source.role!r} and component {source.component!r}; "
                "a replay source, and no other, names its component"
            )
        if source.component == DOMAIN_COMPONENT:
            raise DomainError(
                f"source {source.name!r} has component {DOMAIN_COMPONENT!r}, which is the name of the candidates' own; "
                "name the replay component otherwise"
            )
    _one_of(recipe.tokenizer.separator, SEPARATORS, "tokenizer.separator")
    _one_of(recipe.evalset, ("reuse", "new"), "evalset")
    _share(recipe.quarantine.max_share, "quarantine.max_share")
    _share(recipe.dedup.max_share, "dedup.max_share", top=1.0)
    for name, value, least in [
        ("select.budget_tokens", 1 if recipe.select.budget_tokens is None else recipe.select.budget_tokens, 1),
        ("select.epoch_tokens", 1 if recipe.select.epoch_tokens is None else recipe.select.epoch_tokens, 1),
        ("mix.epochs", recipe.mix.epochs, 1),
        ("tokenizer.vocab_size", recipe.tokenizer.vocab_size, 300),
        ("seed", recipe.seed, 0),
        ("dedup.bands", 1 if recipe.dedup.bands is None else recipe.dedup.bands, 1),
        ("dedup.rows", 1 if recipe.dedup.rows is None else recipe.dedup.rows, 1),
        ("dedup.seed", recipe.dedup.seed, 0),
        ("dedup.max_copies", recipe.dedup.max_copies, 1),
        ("paragraphs.min_words", recipe.paragraphs.min_words, 1),
        ("paragraphs.max_documents", recipe.paragraphs.max_documents, 1),
        ("quality.dim", recipe.quality.dim, 1),
        ("quality.epochs", recipe.quality.epochs, 1),
        ("quality.word_ngrams", recipe.quality.word_ngrams, 1),
        ("quality.bucket", recipe.quality.bucket, 1),
        ("quality.rounds", recipe.quality.rounds, 1),
        ("quality.max_docs", recipe.quality.max_docs, 10),
        ("perplexity.min_words", recipe.perplexity.min_words, 1),
    ]:
        if not isinstance(value, int) or value < least:
            raise DomainError(f"{name} is {value!r}; it takes a whole number of at least {least}")
    check_judges(recipe)
    _check_dedup(recipe.dedup)
    _check_scorers(recipe)
    _check_select(recipe)


def _check_dedup(dedup: Dedup) -> None:
    _one_of(dedup.profile, tuple(PROFILES), "dedup.profile")
    if (dedup.bands is None) != (dedup.rows is None):
        given, other = ("bands", "rows") if dedup.rows is None else ("rows", "bands")
        raise DomainError(f"dedup.{given} is given and dedup.{other} is not; give both, or neither and a dedup.profile")
    if dedup.threshold is None:
        return
    if dedup.containment is not None and not KEPT_CONTAINMENT <= dedup.containment <= 1.0:
        raise DomainError(
            f"dedup.containment is {dedup.containment:g}; it takes a share of word 3-grams from {KEPT_CONTAINMENT:g} to 1, "
            "or false for none"
        )
    if not KEPT_SIMILARITY <= dedup.threshold <= 1.0:
        raise DomainError(
            f"dedup.threshold is {dedup.threshold:g}; it takes a Jaccard similarity from {KEPT_SIMILARITY:g} to 1, "
            "or false for exact copies only"
        )
    bands, rows = dedup.shape
    least = least_threshold(bands, rows)
    if dedup.threshold < least:
        fitting = fitting_bands(dedup.threshold)
        found = recall(dedup.threshold, bands=bands, rows=rows)
        raise DomainError(
            f"dedup.threshold is {dedup.threshold:g}, but {bands} x {rows} bands are made for {least:g} and would find only "
            f"{found:.0%} of such pairs; set it to {least:g} or more, or dedup.bands = {fitting[0]} and dedup.rows = {fitting[1]}"
        )


def _check_scorers(recipe: Recipe) -> None:
    has_reference = any(source.role == "reference" for source in recipe.sources)
    own = {"quality": (recipe.quality.model, "a fastText model"), "perplexity": (recipe.perplexity.model, "an n-gram model")}
    for name in recipe.scorers:
        if own[name][0] is None and not has_reference:
            raise DomainError(
                f"scorers names {name!r}, which is fitted on sources with the role 'reference', and none is there; add one "
                f"(trusted text of the domain), name {own[name][1]} with {name}.model, or go without: "
                "--set 'scorers=[]' --set select.order_by=random"
            )
    _check_perplexity(recipe)
    if not 0.0 < recipe.quality.lr <= 10.0:
        raise DomainError(f"quality.lr is {recipe.quality.lr:g}; it takes a learning rate above 0, at most 10")


def _check_perplexity(recipe: Recipe) -> None:
    chosen = recipe.perplexity
    if chosen.order not in ORDERS:
        raise DomainError(f"perplexity.order is {chosen.order}; it takes one of {', '.join(map(str, ORDERS))}")
    _one_of(chosen.reads, READS, "perplexity.reads")
    suffixes = (*KENLM_SUFFIXES, NGRAM_SUFFIX)
    if chosen.model is not None and not chosen.model.endswith(suffixes):
        raise DomainError(
            f"perplexity.model is {chosen.model!r}; it takes a model of KenLM's ({', '.join(KENLM_SUFFIXES)}) or one that was fitted here "
            f"({NGRAM_SUFFIX}, under models/): rename it, or name another"
        )
    if chosen.reads != READS[0] and not chosen.is_kenlm:
        raise DomainError(
            f"perplexity.reads is {chosen.reads!r}, but only a model of KenLM's reads anything but words; name one with perplexity.model "
            f"({', '.join(KENLM_SUFFIXES)}), or take this out"
        )
    judges = {name for source in recipe.decided_sources() for name in recipe.judged_by(source)}
    if "reference" in judges and not recipe.has_overlaps:
        what = "a model of KenLM's does not tell" if "perplexity" in recipe.scorers else "the scorer perplexity tells"
        raise DomainError(
            f"rules names 'reference', whose signal {what}; set scorers = {_with(recipe, 'perplexity')} and fit the model here "
            "(without perplexity.model), or take 'reference' out of rules"
        )


def _with(recipe: Recipe, scorer: str) -> str:
    return json.dumps(list(dict.fromkeys([*recipe.scorers, scorer])))


def _check_select(recipe: Recipe) -> None:
    select = recipe.select
    _one_of(select.stratify, STRATIFY, "select.stratify")
    if select.top_share is not None and not 0.0 < select.top_share <= 1.0:
        raise DomainError(f"select.top_share is {select.top_share:g}; it takes a share above 0, at most 1")
    if select.threshold is not None and select.stratify_by is not None:
        raise DomainError("select.threshold is the same for every row, so select.stratify_by changes nothing; take one of them out")
    if recipe.mix.max_repeats is not None and not recipe.mix.max_repeats > 0:
        raise DomainError(f"mix.max_repeats is {recipe.mix.max_repeats:g}; it takes a number above 0")
    for key, one in expressions.check(recipe).expressions:
        for scorer in SCORERS:
            if (scorer,) in one.names and scorer not in recipe.scorers:
                raise DomainError(
                    f"{key} names {scorer}, but scorers does not; set scorers = {_with(recipe, scorer)}, or name something else"
                )


def _one_of(value: str, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise DomainError(f"{where} is {value!r}; allowed: {', '.join(allowed)}. Did you mean {nearest(str(value), allowed)!r}?")


def _share(value: float, where: str, top: float = 0.999999) -> None:
    if not 0.0 <= value <= top:
        raise DomainError(f"{where} is {value:g}; it takes a share from 0 to {top:g}")
