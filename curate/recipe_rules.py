"""Who judges whom: families, rules and thresholds in the tables of a recipe, for the whole of it and for single sources.

Stands beside `recipe_table`, which calls it. Names are checked here because they go into SQL and into reasons that never change their
meaning. A family of the recipe's own is loaded where the recipe names it, so its code runs before the first byte of a source is read:
the cost of refusing a wrong rule at once.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from curate.families import family_of
from curate.manifest import COLUMNS
from curate.recipe import FAMILY_NAME, DomainError, OwnFamily, Recipe
from filters import CORPUS_FAMILIES, FAMILIES, family

# A family is a column in the tables of a decision and of `curate sql`, so these and their other columns keep their names. A test
# compares them with a decision's.
_TABLES = (
    *(
        "rows",
        "edges",
        "counts",
        "frozen",
        "judged",
        "marked",
        "firsts",
        "exact",
        "standing",
        "near_edges",
        "near",
        "chosen",
        "kept",
        "sized",
        "placed",
        "taken",
        "pools",
        "strata",
        "cut",
        "outcome",
        "decided",
    ),
    *("incoming", "documents", "signals", "shards", "manifest", "versions", "runs", "metrics", "evaluations"),
)
_COLUMNS = (
    *(
        "row_key",
        "copy",
        "title",
        "text",
        "source_place",
        "holdout_bound",
        "holdout_key",
        "is_holdout",
        "is_shared",
        "rule_reason",
        "early_reason",
        "exact_keeper",
        "first_row",
    ),
    *(
        "keeper",
        "near_similarity",
        "doc_a",
        "doc_b",
        "similarity",
        "containment_a",
        "containment_b",
        "near_kind",
        "earlier",
        "later",
        "place",
        "number",
        "n_counted",
        "n_estimated",
    ),
    *(
        "n_before",
        "budget",
        "ratio",
        "order_value",
        "is_within",
        "is_near",
        "is_past",
        "is_wanted",
        "is_all",
        "is_eligible",
        "stratum",
        "stage",
        "amount",
        "total",
        "n_through",
        "slot",
        "masks_key",
        "file",
        "filename",
        "file_row_number",
    ),
)
_FACTS = ("minhash", "paragraph_keys")  # kept beside the families' signals
_LARGEST = 3.4e38  # of float32, as which ratios are compared


def own_families(table: Any, *, taken: Iterable[str]) -> dict[str, OwnFamily]:
    """Read the tables [families.NAME]; a name that is `taken`, by a key of recipes or sources, would have two meanings."""
    if not isinstance(table, Mapping):
        raise DomainError(f"families is {table!r}, but it is a table; write [families.NAME] with function or datatrove")
    reserved = {*taken, *FAMILIES, *CORPUS_FAMILIES, *COLUMNS, *_COLUMNS, *_TABLES, *_FACTS}
    found = {}
    for name, spec in table.items():
        if not FAMILY_NAME.fullmatch(name):
            raise DomainError(f"family name {name!r} is not allowed; use a small letter, then small letters, digits and '_'")
        if name in reserved:
            raise DomainError(f"families.{name} has a name that is taken, by a shipped family, a key, a table or a column; take another")
        found[name] = _own_family(name, spec)
    return found


def rule_families(own: Mapping[str, OwnFamily]) -> list[str]:
    """Name the families that may judge: the shipped ones with rules, and the recipe's own."""
    return [*(name for name in FAMILIES | CORPUS_FAMILIES if family(name).rules), *own]


def read_families(value: Any, known: list[str], *, where: str) -> tuple[str, ...]:
    """Check a list of families that judge."""
    if not isinstance(value, list | tuple):
        raise DomainError(f"{where} is {value!r}; it takes a list of families, as in {known[:1]}, or [] for none")
    for name in value:
        if name not in known:
            near = nearest(str(name), known)
            raise DomainError(f"{where} names the unknown family {name!r}; did you mean {near!r}? Known: {', '.join(known)}")
    if len(set(value)) < len(value):
        raise DomainError(f"{where} is {list(value)!r}; a family judges once: name each once")
    return tuple(value)


def read_thresholds(name: str, table: Any, own: Mapping[str, OwnFamily], *, where: str) -> dict[str, float | None]:
    """Check the thresholds that a table sets for a family; None stands for a rule that is switched off."""
    rules = [rule.name for rule in family_of(own, name).rules]
    if not isinstance(table, Mapping):
        raise DomainError(f"{where} is {table!r}, but it is a table; write [{where}] with rules of {name}: {', '.join(rules)}")
    refuse_unknown(table, rules, where=f"[{where}]")
    for key, value in table.items():
        if value is not False and not _is_number(value):
            raise DomainError(f"{where}.{key} is {value!r}; it takes a number, or false to switch the rule off")
    return {key: None if value is False else value for key, value in table.items()}


def resolved_thresholds(name: str, given: Mapping[str, float | None], own: Mapping[str, OwnFamily]) -> dict[str, float | None]:
    """Give every rule of a family its threshold, in the order in which they judge."""
    return {rule.name: given.get(rule.name, rule.threshold) for rule in family_of(own, name).rules}


def named_families(own: Mapping[str, OwnFamily], named: Iterable[str]) -> dict[str, OwnFamily]:
    """Let those of the own families that are `named` say whether they are made for web pages; the others stay unloaded."""
    is_web = {name: family_of(own, name).is_web for name in named if name in own}
    return {name: dataclasses.replace(one, is_web=is_web.get(name, False)) for name, one in own.items()}


def check_judges(recipe: Recipe) -> None:
    """Refuse rules and thresholds of a source that would judge nothing."""
    decided = recipe.decided_sources()
    for source in recipe.sources:
        if source not in decided and (source.rules is not None or source.thresholds):
            raise DomainError(
                f"source {source.name!r} has role {source.role!r}, which no rule judges; take its rules and thresholds out, "
                "or give it the role 'candidate' or 'replay'"
            )
        judged = recipe.judged_by(source)
        for name in source.thresholds:
            if name in judged:
                continue
            what, where = (
                f"sources.{source.name}",
                f"[sources.{source.name}.{name}] sets a threshold, but {name} does not judge this source",
            )
            if source.rules is None and name in recipe.rules:
                raise DomainError(f"{where}, which is no web source; set {what}.web = true, or list {name!r} in {what}.rules")
            raise DomainError(f"{where}; list {name!r} in {what}.rules{' or in rules' if source.rules is None else ''}, or take this out")


def refuse_unknown(table: Mapping[str, Any], known: list[str], *, where: str) -> None:
    for key in table:
        if key not in known:
            near = f"did you mean {nearest(key, known)!r}? Known: {', '.join(known)}" if known else "it takes none: take it out"
            raise DomainError(f"{where} has the unknown key {key!r}; {near}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Give the most similar of the known names; there is at least one."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def _own_family(name: str, spec: Any) -> OwnFamily:
    where = f"families.{name}"
    if not isinstance(spec, Mapping):
        raise DomainError(f"{where} is {spec!r}, but it is a table; write [{where}] with function or datatrove")
    refuse_unknown(spec, ["function", "datatrove", "arguments"], where=f"[{where}]")
    if ("function" in spec) == ("datatrove" in spec):
        raise DomainError(
            f"[{where}] has {'both function and datatrove' if 'function' in spec else 'neither function nor datatrove'}; it takes one "
            'of them, as in function = "rules.py:dosage" or datatrove = "GopherQualityFilter"'
        )
    for key in ("function", "datatrove"):
        if not isinstance(spec.get(key, ""), str):
            raise DomainError(f'{where}.{key} is {spec[key]!r}; it takes a text, as in "rules.py:dosage"')
    arguments = spec.get("arguments", {})
    if not isinstance(arguments, Mapping):
        raise DomainError(f"{where}.arguments is {arguments!r}, but it is a table; write [{where}.arguments]")
    if arguments and "function" in spec:
        raise DomainError(f"{where} has arguments, which only a filter of datatrove takes; write them into the function")
    return OwnFamily(name, spec.get("function"), spec.get("datatrove"), dict(arguments))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) <= _LARGEST
