"""One row or text judged by the rules of a version: value, threshold and margin of each.

Stands under `why` and the report. Thresholds are those of the version's recipe; signals are given by the caller, so an answer that nobody
has is called unknown, never guessed. Cost: one comparison a rule.
"""

import dataclasses
import decimal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from curate.families import facts_of
from curate.manifest import Manifest
from filters import CORPUS_FAMILIES, FAMILIES, family
from filters.spec import Rule

# Rules of families of a recipe's own, by kind (families.py); those of a Family stand in its code, which no version holds.
_OWN_RULES = {
    "function": (Rule("min_value", "value", ">=", None, "the recipe"), Rule("max_value", "value", "<=", None, "the recipe")),
    "datatrove": (Rule("min_is_kept", "is_kept", ">=", None, "the recipe"),),
}


def judged(
    manifest: Manifest, source: str, signals_of: Callable[[str], Mapping[str, Any] | None], remarks: list[str], reason: str | None = None
) -> list[dict[str, Any]] | None:
    """Judge signals by every rule of a source that is on, in order; None where the version does not hold them.

    `signals_of` gives those of a family, None where they are not known; `reason` is the rule that dropped the row, if any.
    """
    sources: dict[str, Any] = {one["name"]: one for one in manifest.info["recipe"].get("sources", ())}
    entry = sources.get(source, {})
    if "judged_by" not in entry:
        remarks.append(f"the rules are unknown: {manifest.version} was published by a gapless that did not store them by source")
        return None
    rules = []
    for name in entry.get("rules") or entry["judged_by"]:
        known, signals = family_in(manifest, name), signals_of(name)
        limits = {rule: threshold for rule, threshold in entry["judged_by"][name].items() if threshold is not None}
        on = [rule for rule in (known[0] if known else ()) if rule.name in limits]
        for rule in [dataclasses.replace(rule, threshold=limits.pop(rule.name)) for rule in on]:
            rules.append({"family": name, **_judged(rule, signals), "is_reason": reason == f"{name}.{rule.name}"})
        for rule_name, threshold in limits.items():
            is_reason = reason == f"{name}.{rule_name}"
            stored = ", ".join(f"{signal} {value}" for signal, value in (signals or {}).items())
            why = "it is named in the family's code, which is not stored"
            remarks.append(f"the signal of {name}.{rule_name} is unknown: {why}" + (f"; its signals: {stored}" if stored else ""))
            unknown = {"signal": None, "keep": None, "threshold": threshold, "value": None, "margin": None}
            outcome = "breached" if is_reason else "unknown"
            rules.append({"family": name, "rule": rule_name, **unknown, "outcome": outcome, "is_reason": is_reason})
    return rules


def family_in(manifest: Manifest, name: str) -> tuple[Sequence[Rule], str, list[str]] | None:
    """Give the rules of a family, in order, the folder of its signals and their names: of a recipe's own or of the corpus as its version
    was decided by it, else as of now; None where nothing is known of it."""
    if own := manifest.info.get("families", {}).get(name):
        rules = family(name).rules if name in CORPUS_FAMILIES else _OWN_RULES.get(own["kind"], ())
        return rules, own["folder"], own["signals"]
    if name not in FAMILIES:
        return None
    facts = facts_of({}, name)
    return family(name).rules, facts.folder, facts.schema.names


def _judged(rule: Rule, signals: Mapping[str, Any] | None) -> dict[str, Any]:
    """Judge one value. The margin is what is left up to the threshold: negative is a breach."""
    entry = {"rule": rule.name, "signal": rule.signal, "keep": rule.keep, "threshold": rule.threshold}
    if signals is None or rule.signal not in signals:
        return {**entry, "value": None, "margin": None, "outcome": "unknown"}
    value = signals[rule.signal]
    if value is None:
        return {**entry, "value": None, "margin": None, "outcome": "not judged"}
    kind = pa.float32() if isinstance(value, float) else pa.float64()
    is_passed = rule.passes(pa.array([float(value)], kind))[0].as_py()
    # In decimals, so that 0.3 - 0.1 is 0.2. Beyond the digits of a float32 a threshold may differ and yet be met.
    exact = decimal.Decimal(str(float(value))) - decimal.Decimal(str(rule.threshold))
    exact = exact if rule.keep == ">=" else -exact
    exact = max(exact, decimal.Decimal(0)) if is_passed else exact
    is_whole = not isinstance(value, float) and exact == int(exact)
    return {**entry, "value": value, "margin": int(exact) if is_whole else float(exact), "outcome": "passed" if is_passed else "breached"}


def breach(rule: Mapping[str, Any]) -> str:
    """Say in words what a rule found."""
    return f"{rule['signal']} is {number(rule['value'])}, the rule keeps {rule['keep']} {number(rule['threshold'])}"


def number(value: Any) -> str:
    """Write a value of a signal, a threshold or a margin for people."""
    return format(value, ",") if isinstance(value, int) and not isinstance(value, bool) else f"{value:.6g}"
