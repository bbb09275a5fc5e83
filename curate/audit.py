"""What every rule of every family would do to text that is good by definition: the facts behind `curate audit`.

Stands beside build: sources are ingested and annotated as there and share its cached signals; then rules are counted instead of rows
decided, and nothing is published. The reference of a domain is trusted, so a rule that kills a good part of it does not fit the domain.

Decision: counts and thresholds are exact, no sketch and no sample. The cost is that signals are read once more, one column at a time,
for the rules that kill too much: 4 bytes a document. Everything else holds the signals of one shard.
"""

import dataclasses
import decimal
import difflib
import fractions
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from curate.annotate import Facts, annotate
from curate.build import check_quarantine, ensure_sample
from curate.executor import Run
from curate.families import facts_of, family_of
from curate.ingest import ingest
from curate.manifest import MACROS
from curate.printable import printable
from curate.recipe import DomainError, Recipe, Source
from curate.report import SAMPLE_NOTE
from curate.store import Store
from filters import FAMILIES
from filters.spec import Rule

_N_EXAMPLES = 3
_EXCERPT_CHARS = 160
_DIGITS = 3  # of a suggested threshold: more would say more than a reference can


@dataclasses.dataclass(frozen=True, slots=True)
class _Audited:
    """A rule with the threshold that is audited, and whether the recipe judges some source by it."""

    family: str
    rule: Rule
    is_integer: bool
    is_on: bool


@dataclasses.dataclass(slots=True)
class _Tally:
    """What the rules do to the shards so far: an array has a place for each audited rule, `by_family` ends with all families together.

    `examples` has for each rule some killed documents by doc_id, in the order of the hash they are drawn by.
    """

    n_documents: int
    n_judged: npt.NDArray[np.int64]
    n_killed: npt.NDArray[np.int64]
    n_alone: npt.NDArray[np.int64]
    by_family: npt.NDArray[np.int64]
    examples: list[dict[str, dict[str, Any]]]


def audited_sources(recipe: Recipe, of: Sequence[str] = ()) -> tuple[Source, ...]:
    """Give the sources of these names, in the recipe's order; without a name, those with the role `reference`.

    Raises DomainError for a name that is no source, and where no source has the role.
    """
    known = [source.name for source in recipe.sources]
    for name in of:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise DomainError(f"--of {name!r} is no source of the recipe; did you mean {near!r}? Sources: {', '.join(known)}")
    found = tuple(source for source in recipe.sources if (source.name in of if of else source.role == "reference"))
    if not found:
        raise DomainError(
            "no source has the role 'reference', so no text here is good by definition; add one (--source NAME=GLOB --set "
            f"sources.NAME.role=reference), or name the sources to audit with --of NAME; sources: {', '.join(known)}"
        )
    return found


def audit(
    store: Store, recipe: Recipe, sources: Sequence[Source], *, run: Run, keep: float = 0.99, defaults: bool = False
) -> dict[str, Any]:
    """Judge these sources of a recipe by every rule of every family, and give what `curate audit` prints, as plain values.

    A rule is audited at the recipe's threshold, else at its family's default; with `defaults` always at this. `keeping_threshold` stands
    where a rule kills more than the share 1 - `keep` of the documents: the tightest one of three significant digits that keeps `keep` of
    them, or False where none does. A document without a value of the signal is kept, as in a build. Raises DomainError for wrong input,
    CheckFailed as a build.
    """
    if not 0.0 < keep <= 1.0:
        raise DomainError(f"--keep is {keep:g}; it takes the share of documents to keep, above 0, at most 1, as in --keep 0.99")
    store.sweep()
    if recipe.is_sample:
        ensure_sample(store)
    ingested = ingest(store, sources, run=run)
    check_quarantine(recipe, ingested)
    places = [(source.name, shard.path.removeprefix("corpus/")) for source in sources for shard in ingested[source.name].shards]
    if not places:
        raise DomainError(f"no document is in {_names(sources)}; name a source that holds some, with --of NAME")
    audited = _audited(recipe, {} if defaults else recipe.thresholds)
    facts = {name: facts_of(recipe.families, name) for name in dict.fromkeys(one.family for one in audited)}
    annotate(store, [shard for _, shard in places], list(facts.values()), run=run)
    sys.stderr.write(f"audit: {len(audited)} rules over {sum(ingested[source.name].n_rows for source in sources)} documents\n")
    tally = _tallied(store, audited, facts, places, purpose=f"audit|{recipe.seed}")
    n_allowed = tally.n_documents - math.ceil(fractions.Fraction(str(keep)) * tally.n_documents)
    excerpts = _excerpts(store, tally)
    rules = []
    for number, one in enumerate(audited):
        keeping = None
        if tally.n_killed[number] > n_allowed:
            values = _values(store, facts[one.family], one, [shard for _, shard in places], int(tally.n_judged[number]))
            keeping = keeping_threshold(one.rule.keep, values, n_allowed=n_allowed)
        rules.append(_rule_entry(one, tally, number, keeping, excerpts))
    rules.sort(key=lambda entry: -entry["n_killed"])  # stable: equal ones stay in the order in which they judge
    summed = [
        {"family": name, "n_killed": int(n), "share": int(n) / tally.n_documents}
        for name, n in zip([*facts, "all together"], tally.by_family, strict=True)
    ]
    return {
        "sample": recipe.is_sample,
        "domain": recipe.domain,
        "sources": [{"source": source.name, "role": source.role, "n_documents": ingested[source.name].n_rows} for source in sources],
        "n_documents": tally.n_documents,
        "keep": keep,
        "rules": rules,
        "families": summed[:-1],
        "all": {"n_killed": summed[-1]["n_killed"], "share": summed[-1]["share"]},
        "toml": _toml(rules, "the reference" if all(source.role == "reference" for source in sources) else _names(sources)),
    }


def keeping_threshold(keep: Literal[">=", "<="], values: npt.NDArray[Any], *, n_allowed: int) -> float | Literal[False]:
    """Give the tightest threshold, of at most three significant digits, at which a rule kills at most `n_allowed` of the values.

    Whole numbers get a whole number, float32 values one that holds when it is compared as float32. False where no number does,
    because the values are no numbers. The values are reordered; `n_allowed` is below their number.

    >>> keeping_threshold(">=", np.arange(1, 1001, dtype=np.int32), n_allowed=10)
    11
    >>> keeping_threshold("<=", np.array([0.1, 0.1234], np.float32), n_allowed=0)
    0.124
    """
    sign = 1 if keep == "<=" else -1
    if sign < 0:
        np.negative(values, out=values)  # what is killed is now above, and so is NaN, which always is
    place = len(values) - 1 - n_allowed
    values.partition(place)
    bound = values[place]
    if not np.isfinite(bound):
        return False
    # The shortest decimal that is this float32 (0.1, not 0.100000001): a number of three digits at or above it compares as such.
    exact = decimal.Decimal(str(bound))
    last_digit = decimal.Decimal(1).scaleb(exact.adjusted() + 1 - _DIGITS)
    rounded = sign * exact.quantize(last_digit, decimal.ROUND_CEILING)
    return int(rounded) if np.issubdtype(values.dtype, np.integer) else float(rounded) + 0.0  # no -0.0


def print_audit(console: Console, data: Mapping[str, Any]) -> None:
    """Print an audit: the rules that kill, the families, examples, and the TOML that loosens what kills too much."""
    if data["sample"]:
        console.print(f"[bold yellow]{SAMPLE_NOTE}[/]")
    percent = f"{100 * data['keep']:g} %"
    killing = [entry for entry in data["rules"] if entry["n_killed"]]
    names = ", ".join(f"{source['source']} ({source['role']})" for source in data["sources"])
    table = Table(title=f"Rules over {data['n_documents']:,} documents of {escape(names)}", title_justify="left")
    for name, is_number in [("rule", 0), ("keeps", 0), ("recipe", 0), ("kills", 1), ("of judged", 1), ("of all", 1), ("alone", 1)]:
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    table.add_column(f"{percent} stay at")
    for entry in killing:
        keeping = entry["keeping_threshold"]
        shares = (f"{entry['n_killed']:,}", f"{entry['share_of_judged']:.2%}", f"{entry['share']:.2%}", f"{entry['n_alone']:,}")
        stays = "as it is" if keeping is None else "off only" if keeping is False else f"{entry['keep']} {_number(keeping)}"
        limit = f"{entry['signal']} {entry['keep']} {_number(entry['threshold'])}"
        table.add_row(f"{entry['family']}.{entry['rule']}", limit, "on" if entry["is_on"] else "not used", *shares, stays)
    if killing:
        console.print(table)
    n_off = sum(entry["is_off"] for entry in data["rules"])
    n_quiet = len(data["rules"]) - len(killing) - n_off
    console.print(f"{n_quiet} of {len(data['rules'])} rules kill nothing" + (f", {n_off} are off" if n_off else ""), highlight=False)
    summed = Table("family", title="Families", title_justify="left")
    summed.add_column("kills", justify="right")
    summed.add_column("of all", justify="right")
    for entry in [*data["families"], {"family": "all together", **data["all"]}]:
        summed.add_row(entry["family"], f"{entry['n_killed']:,}", f"{entry['share']:.2%}")
    console.print(summed)
    if killing:
        console.print("Examples, drawn by hash: document, source, value, beginning", style="italic")
    for entry in killing:
        console.print(f"{entry['family']}.{entry['rule']} ({entry['signal']})", highlight=False, style="bold")
        for example in entry["examples"]:
            line = f"  {example['doc_id']}  {example['source']}  {_number(example['value'])}  {printable(example['text'])}"
            console.print(Text(line), soft_wrap=True)  # a Text, so that nothing in it is markup
    if data["toml"]:
        console.print(f"\nThresholds at which each of these rules keeps {percent}, for the recipe:\n", highlight=False)
        console.print(Text(data["toml"]), soft_wrap=True)
    else:
        console.print(f"every rule keeps {percent} of these documents", highlight=False)


def _audited(recipe: Recipe, thresholds: Mapping[str, Mapping[str, float | None]]) -> list[_Audited]:
    """Give every rule of every family, shipped or the recipe's own, in the order of the families, with these thresholds, else its own."""
    judging = [recipe.judged_by(source) for source in recipe.decided_sources()]
    audited = []
    for name in dict.fromkeys([*FAMILIES, *recipe.families]):
        found, given = family_of(recipe.families, name), thresholds.get(name, {})
        types = {signal.name: signal.type for signal in found.signals}
        for rule in found.rules:
            is_on = any(judged.get(name, {}).get(rule.name) is not None for judged in judging)
            rule = dataclasses.replace(rule, threshold=given.get(rule.name, rule.threshold))
            audited.append(_Audited(name, rule, types[rule.signal] != "float32", is_on))
    return audited


def _tallied(
    store: Store, audited: Sequence[_Audited], facts: Mapping[str, Facts], places: Sequence[tuple[str, str]], *, purpose: str
) -> _Tally:
    """Judge shard after shard (source, path below corpus/) by every rule; `purpose` is what examples are drawn for."""
    zeros = np.zeros(len(audited), np.int64)
    tally = _Tally(0, zeros, zeros.copy(), zeros.copy(), np.zeros(len(facts) + 1, np.int64), [{} for _ in audited])
    members = [[number for number, one in enumerate(audited) if one.family == name] for name in facts]
    with duckdb.connect() as connection:
        connection.execute(MACROS)
        for source, shard in places:
            columns = _columns(store, audited, facts, shard)
            kills = np.stack([pc.invert(one.rule.passes(column)) for one, column in zip(audited, columns, strict=True)])
            n_killing = kills.sum(axis=0)
            tally.n_documents += kills.shape[1]
            tally.n_judged += np.array([len(column) - column.null_count for column in columns])
            tally.n_killed += kills.sum(axis=1)
            tally.n_alone += kills[:, n_killing == 1].sum(axis=1)
            tally.by_family += np.array([*(kills[rows].any(axis=0).sum() for rows in members), (n_killing > 0).sum()])
            drawn = _by_hash(connection, store.read_table(f"corpus/{shard}", ["doc_id"]), np.flatnonzero(n_killing), purpose)
            for number, column in enumerate(columns):
                chosen = drawn.take(pa.array(np.flatnonzero(kills[number][drawn["row"].to_numpy()])[:_N_EXAMPLES])).to_pylist()
                here = {one["doc_id"]: {**one, "source": source, "shard": shard, "value": _value(column[one["row"]])} for one in chosen}
                both = {**here, **tally.examples[number]}  # of one text the earlier place
                tally.examples[number] = {doc_id: both[doc_id] for doc_id in sorted(both, key=lambda it: both[it]["key"])[:_N_EXAMPLES]}
    return tally


def _columns(store: Store, audited: Sequence[_Audited], facts: Mapping[str, Facts], shard: str) -> list[pa.Array]:
    """Read the signal of each rule of one shard."""
    wanted = {name: sorted({one.rule.signal for one in audited if one.family == name}) for name in facts}
    tables = {name: store.read_table(facts[name].path(shard), signals).combine_chunks() for name, signals in wanted.items()}
    return [tables[one.family][one.rule.signal].combine_chunks() for one in audited]


def _by_hash(connection: duckdb.DuckDBPyConnection, documents: pa.Table, rows: npt.NDArray[np.int64], purpose: str) -> pa.Table:
    """Put the texts of these rows into the order of their hashes: key, doc_id and the first row of each."""
    connection.register("killed", documents.take(pa.array(rows)).append_column("row", pa.array(rows)))
    drawn = connection.sql(_BY_HASH, params={"purpose": purpose}).to_arrow_table()
    connection.unregister("killed")
    return drawn


def _values(store: Store, facts: Facts, one: _Audited, shards: Sequence[str], n_values: int) -> npt.NDArray[Any]:
    """Read all values of a rule's signal that are not null."""
    values: npt.NDArray[Any] = np.empty(n_values, np.int32 if one.is_integer else np.float32)
    start = 0
    for shard in shards:
        column = store.read_table(facts.path(shard), [one.rule.signal])[one.rule.signal].drop_null()
        values[start : start + len(column)] = column.cast(pa.from_numpy_dtype(values.dtype)).to_numpy()
        start += len(column)
    return values


def _excerpts(store: Store, tally: _Tally) -> dict[str, str]:
    """Read how the texts of the examples begin, by doc_id: on one line, with single spaces."""
    wanted: dict[str, set[int]] = {}
    for example in (example for drawn in tally.examples for example in drawn.values()):
        wanted.setdefault(example["shard"], set()).add(example["row"])
    found = {}
    for shard, rows in wanted.items():
        for one in store.read_rows(f"corpus/{shard}", sorted(rows), ["doc_id", "text"]).to_pylist():
            words = one["text"].split(maxsplit=_EXCERPT_CHARS)[:_EXCERPT_CHARS]
            found[one["doc_id"]] = " ".join(words)[:_EXCERPT_CHARS].rstrip()
    return found


def _rule_entry(one: _Audited, tally: _Tally, number: int, keeping: float | None, excerpts: Mapping[str, str]) -> dict[str, Any]:
    n_judged, n_killed = int(tally.n_judged[number]), int(tally.n_killed[number])
    return {
        "family": one.family,
        "rule": one.rule.name,
        "signal": one.rule.signal,
        "keep": one.rule.keep,
        "threshold": one.rule.threshold,
        "is_on": one.is_on,
        "is_off": one.rule.threshold is None,
        "n_judged": n_judged,
        "n_killed": n_killed,
        "share_of_judged": n_killed / n_judged if n_judged else None,
        "share": n_killed / tally.n_documents,
        "n_alone": int(tally.n_alone[number]),
        "keeping_threshold": keeping,
        "examples": [
            {**{key: example[key] for key in ("doc_id", "source", "value")}, "text": excerpts[example["doc_id"]]}
            for example in tally.examples[number].values()
        ],
    }


def _toml(rules: Sequence[Mapping[str, Any]], of: str) -> str:
    """Write the thresholds that keep enough as tables of a recipe; empty where every rule does."""
    lines: dict[str, list[str]] = {}
    for entry in rules:
        if (keeping := entry["keeping_threshold"]) is not None:
            value = "false" if keeping is False else _number(keeping, thousands="")
            comment = f"# kills {100 * entry['share']:.1f} % of {of} at {_number(entry['threshold'], thousands='')}"
            lines.setdefault(entry["family"], []).append(f"{entry['rule']} = {value}   {comment}")
    return "\n".join(f"[{name}]\n" + "".join(f"{line}\n" for line in table) for name, table in lines.items())


def _value(scalar: pa.Scalar) -> Any:
    """Give a value as JSON has it; a float32 by its shortest decimal, so that 1 in 10 is 0.1."""
    return float(str(np.float32(scalar.as_py()))) if pa.types.is_float32(scalar.type) else scalar.as_py()


def _number(value: Any, thousands: str = ",") -> str:
    return format(value, thousands) if isinstance(value, int) and not isinstance(value, bool) else f"{value:.6g}"


def _names(sources: Sequence[Source]) -> str:
    return ", ".join(source.name for source in sources)


_BY_HASH = 'SELECT hash_key($purpose, doc_id) AS key, doc_id, min("row") AS "row" FROM killed GROUP BY doc_id ORDER BY key, doc_id'
