"""What a person asks for: a TOML recipe, read into frozen dataclasses and checked before the first byte is read.

A recipe is found by domain name (ROOT/domains first, then the shipped ones) or by file; `extends` lays it over another
one, table by table; `--set` and `--source` lay over both. Nothing has two spellings and nothing unknown passes: a wrong
key is refused with the nearest known one.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from filters import FAMILIES, family

ROLES = ("candidate", "reference", "background", "replay", "benchmark")
FORMATS = ("auto", "jsonl", "parquet", "csv", "text")
SEPARATORS = ("auto", "bos", "eos", "both")
DOMAIN_COMPONENT = "domain"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SUFFIXES = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


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
    holdout: Holdout = Holdout()
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


_SECTIONS: dict[str, type] = {
    "holdout": Holdout,
    "select": Select,
    "mix": Mix,
    "tokenizer": TokenizerChoice,
    "quarantine": Quarantine,
}
PLAIN_KEYS = ("domain", "extends", "seed", "rules", "evalset")


def portable(recipe: Recipe) -> dict[str, Any]:
    """Give the recipe as plain values without paths, globs, formats and the quarantine's limit, which decide nothing about a
    row: what enters the digests and manifest.json."""
    table = dataclasses.asdict(recipe)
    for source in table["sources"]:
        del source["path"], source["format"]
    del table["tokenizer"]["path"], table["quarantine"]
    table["thresholds"] = {name: dict(values) for name, values in recipe.thresholds.items()}
    return table


def build_recipe(table: Mapping[str, Any], *, is_sample: bool) -> Recipe:
    """Check the tables of a recipe and make it. Raises DomainError, in one line, for everything that is wrong."""
    families = [name for name in FAMILIES if family(name).rules]
    _refuse_unknown(table, [*PLAIN_KEYS, *_SECTIONS, *families, "sources"], where="the recipe")
    if not NAME.fullmatch(str(table["domain"])):
        raise DomainError(f"domain {table['domain']!r} is not a name; use letters, digits, '.', '_' and '-'")
    sections = {key: _section(cls, table.get(key, {}), key) for key, cls in _SECTIONS.items()}
    plain = {key: table[key] for key in ("seed", "evalset") if key in table}
    rules = tuple(table.get("rules", Recipe.__dataclass_fields__["rules"].default))
    for name in rules:
        if name not in families:
            raise DomainError(f"rules names the unknown family {name!r}; known: {', '.join(families)}")
    sources = tuple(_source(name, spec) for name, spec in table["sources"].items())
    recipe = Recipe(
        domain=table["domain"],
        sources=sources,
        rules=rules,
        thresholds={name: _thresholds(name, table.get(name, {})) for name in rules},
        is_sample=is_sample,
        **sections,
        **plain,
    )
    _check(recipe)
    return recipe


def _section(cls: type, table: Any, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise DomainError(f"{where} is {table!r}, but it is a table; write [{where}] with keys {', '.join(_names(cls))}")
    _refuse_unknown(table, _names(cls), where=f"[{where}]")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _typed(value, hints[key], f"{where}.{key}") for key, value in table.items()})


def _source(name: str, spec: Any) -> Source:
    where = f"sources.{name}"
    if not NAME.fullmatch(name):
        raise DomainError(f"source name {name!r} is not allowed; use letters, digits, '.', '_' and '-'")
    if not isinstance(spec, Mapping) or "path" not in spec:
        raise DomainError(f'[{where}] has no path; add path = "FILE or GLOB"')
    spec = dict(spec)
    path = (spec["path"],) if isinstance(spec["path"], str) else tuple(spec["path"])
    fields = _section(Fields, spec.pop("fields", {}), f"{where}.fields")
    source = _section(Source, {**spec, "path": path, "name": name}, where)
    return dataclasses.replace(typing.cast(Source, source), fields=fields)


def _thresholds(name: str, table: Mapping[str, Any]) -> dict[str, float | None]:
    rules = {rule.name: rule.threshold for rule in family(name).rules}
    _refuse_unknown(table, list(rules), where=f"[{name}]")
    for key, value in table.items():
        if value is not False and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DomainError(f"{name}.{key} is {value!r}; it takes a number, or false to switch the rule off")
    given = {key: None if value is False else value for key, value in table.items()}
    return {**rules, **given}


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _refuse_unknown(table: Mapping[str, Any], known: list[str], *, where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise DomainError(f"{where} has the unknown key {key!r}; did you mean {near[0]!r}? Known: {', '.join(known)}")


def _typed(value: Any, hint: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if int in options and isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)([kMBT])", value)):
        value = round(float(match[1]) * _SUFFIXES[match[2]])
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if origin in (int, float, str) and type(value) is origin:
            return value
        if origin is tuple and isinstance(value, tuple) and all(isinstance(item, str) for item in value):
            return value
        if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
            return {key: _typed(item, float, f"{where}.{key}") for key, item in value.items()}
    names = " or ".join(getattr(option, "__name__", str(option)) for option in options if option is not types.NoneType)
    raise DomainError(f"{where} is {value!r}; it takes a value of type {names}")


def _check(recipe: Recipe) -> None:
    for source in recipe.sources:
        _one_of(source.role, ROLES, f"sources.{source.name}.role")
        _one_of(source.format, FORMATS, f"sources.{source.name}.format")
        _share(recipe.holdout_share(source), f"sources.{source.name}.holdout_share")
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
    _one_of(recipe.mix.redraw, ("fixed", "dynamic"), "mix.redraw")
    _one_of(recipe.evalset, ("reuse", "new"), "evalset")
    _share(recipe.quarantine.max_share, "quarantine.max_share")
    for name, value, least in [
        ("select.budget_tokens", recipe.select.budget_tokens, 1),
        ("select.epoch_tokens", recipe.select.epoch_tokens or 1, 1),
        ("mix.epochs", recipe.mix.epochs, 1),
        ("tokenizer.vocab_size", recipe.tokenizer.vocab_size, 300),
        ("seed", recipe.seed, 0),
    ]:
        if not isinstance(value, int) or value < least:
            raise DomainError(f"{name} is {value!r}; it takes a whole number of at least {least}")
    _check_mix(recipe)


def _check_mix(recipe: Recipe) -> None:
    have = [DOMAIN_COMPONENT] * any(source.role == "candidate" for source in recipe.sources)
    have += [str(source.component) for source in recipe.sources if source.role == "replay"]
    if DOMAIN_COMPONENT not in have:
        raise DomainError("no source has the role 'candidate', so there is nothing to select from; add one, or --source NAME=GLOB")
    for name, share in recipe.mix.shares.items():
        _share(share, f"mix.shares.{name}", top=1.0)
        if name not in have:
            raise DomainError(
                f"mix.shares names the component {name!r}, which no source has; components here: {', '.join(dict.fromkeys(have))}"
            )
    for name in have:
        if name not in recipe.mix.shares:
            raise DomainError(f"component {name!r} has a source but no share; add it to mix.shares (0 keeps it for evaluation only)")
    total = sum(recipe.mix.shares.values())
    if abs(total - 1.0) > 1e-9:
        raise DomainError(f"mix.shares add up to {total:g}; they must add up to 1")
    if recipe.mix.shares[DOMAIN_COMPONENT] == 0.0:
        raise DomainError(f"mix.shares.{DOMAIN_COMPONENT} is 0, so the domain would never be read; give it a share above 0")


def _one_of(value: str, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.0)
        raise DomainError(f"{where} is {value!r}; allowed: {', '.join(allowed)}. Did you mean {near[0]!r}?")


def _share(value: float, where: str, top: float = 0.999999) -> None:
    if not 0.0 <= value <= top:
        raise DomainError(f"{where} is {value:g}; it takes a share from 0 to {top:g}")
