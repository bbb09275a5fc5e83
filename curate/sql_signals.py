"""The tables `signals` and `breaches` of SQL: what is known of each row of a version, and which of its rules it breaches.

Stands under `sql`. Row i of a shard is row i of each of its files, so the families are laid side by side (POSITIONAL JOIN) and not joined
by key, which takes minutes for ten million rows. Cost: a query reads the families that it names, each struct whole; `breaches` reads the
signals that judge.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from curate.families import facts_of
from curate.judging import family_in
from curate.manifest import Manifest
from curate.sandbox import file_list, quoted, quoted_name
from curate.store import Store
from filters import FAMILIES
from filters.spec import Rule

# Parts of the shards that threads share.
_N_PARTS = 16
_N_BITS = 64


def signal_views(store: Store, connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> None:
    """Make the views, where there are signals: shard, row and a struct for each family; shard, row, `n_breached` and `breached`.

    Signals are those of the shipped families as they are computed now, of a recipe's own and of the corpus as its
    version was decided by them.
    """
    families = {name: (facts.folder, facts.schema.names) for name, facts in ((name, facts_of({}, name)) for name in FAMILIES)}
    families |= {name: (entry["folder"], entry["signals"]) for name, entry in manifest.info.get("families", {}).items()}
    files = {name: {path.rsplit("/", 1)[-1] for path in store.files(folder, ".parquet")} for name, (folder, _) in families.items()}
    families = {name: known for name, known in families.items() if files[name]}
    shards = [
        (shard["path"].removeprefix("corpus/"), source)
        for source, entry in manifest.info["inputs"].items()
        for shard in entry["shards"]
        if all(shard["path"].rsplit("/", 1)[-1] in files[name] for name in families)
    ]
    if not families or not shards:
        return
    connection.execute("CREATE TABLE signal_files (number UBIGINT, shard VARCHAR)")
    connection.executemany("INSERT INTO signal_files VALUES (?, ?)", [[number, shard] for number, (shard, _) in enumerate(shards)])
    groups = [_side_by_side(store, families, [shard for shard, _ in shards], part) for part in _parts(len(shards))]
    packed = ", ".join(_packed(name, signals) for name, (_, signals) in families.items())
    _create(connection, "signals", ", ".join(map(quoted_name, families)), packed, groups)
    if breached := _breached(connection, manifest, [source for _, source in shards]):
        bits, columns = breached
        _create(connection, "breaches", columns, bits, groups)


def _parts(n_shards: int) -> list[range]:
    """Cut the shards into parts that are read at once: laying side by side takes one thread."""
    bounds = [n_shards * part // _N_PARTS for part in range(_N_PARTS + 1)]
    return [range(first, last) for first, last in itertools.pairwise(bounds) if first < last]


def _side_by_side(store: Store, families: Mapping[str, tuple[str, Sequence[str]]], shards: Sequence[str], part: range) -> str:
    """Give the families of some shards as SQL, with the number of the shard and the row in it."""
    tables: list[str] = []
    for name, (folder, _) in families.items():
        urls = file_list([store.url(f"{folder}/{shards[number].rsplit('/', 1)[-1]}") for number in part])
        place = "" if tables else f", file_index + {part.start} AS number, file_row_number"
        tables.append(f"(SELECT *{place} FROM read_parquet({urls})) AS {quoted_name(name)}")
    return " POSITIONAL JOIN ".join(tables)


def _create(connection: duckdb.DuckDBPyConnection, view: str, columns: str, made: str, groups: Sequence[str]) -> None:
    # What is made of the families comes before shards get their names: a condition on it would else be tried row by row in the join.
    parts = " UNION ALL ".join(f"SELECT number, file_row_number, {made} FROM {group}" for group in groups)
    connection.execute(
        f'CREATE VIEW {view} AS SELECT shard, file_row_number::INTEGER AS "row", {columns} FROM ({parts}) JOIN signal_files USING (number)'
    )


def _packed(family: str, signals: Sequence[str]) -> str:
    columns = ", ".join(f"{quoted_name(one)} := {quoted_name(family)}.{quoted_name(one)}" for one in signals)
    return f"struct_pack({columns}) AS {quoted_name(family)}"


def _breached(connection: duckdb.DuckDBPyConnection, manifest: Manifest, sources: Sequence[str]) -> tuple[str, str] | None:
    """Give the rules that a row breaches as the bits of a number, and the columns of `breaches` made of it: how many they are, and which,
    in the order of judging.

    None where a version by older code does not hold its rules by source. Those that stand in the code of a recipe's own family, which no
    version holds, are left out. `sources` has that of each shard; the shards of a source follow on each other.
    """
    entries = {one["name"]: one for one in manifest.info["recipe"]["sources"]}
    if any("judged_by" not in entries[name] for name in sources):
        return None
    described = connection.sql("SELECT * FROM signals LIMIT 0")
    types = {name: dict(kind.children) for name, kind in zip(described.columns, described.types, strict=True) if kind.id == "struct"}
    by_source = {source: _breaches(manifest, entries[source], types) for source in dict.fromkeys(sources)}
    names = list(dict.fromkeys(itertools.chain.from_iterable(by_source.values())))
    kind = "UBIGINT" if len(names) <= _N_BITS else "UHUGEINT"
    cases = []
    for source, breaches in by_source.items():
        last = max(number for number, name in enumerate(sources) if name == source)
        bits = [f"CASE WHEN {breach} THEN {2 ** names.index(name)}::{kind} ELSE 0 END" for name, breach in breaches.items()]
        cases.append(f"WHEN number <= {last} THEN {' | '.join([f'0::{kind}', *bits])}")
    listed = f"([{', '.join(map(quoted, names))}]::VARCHAR[])"
    flags = ", ".join(f"bits & {2**number}::{kind} <> 0" for number in range(len(names)))
    # Most rows breach no rule, or one.
    one, some = f"[{listed}[log2(bits)::INTEGER + 1]]", f"list_where({listed}, [{flags}])"
    which = f"CASE WHEN bits = 0 THEN [] WHEN bit_count(bits) = 1 THEN {one} ELSE {some} END"
    return f"CASE {' '.join(cases)} END AS bits", f"bit_count(bits)::INTEGER AS n_breached, {which} AS breached"


def _breaches(manifest: Manifest, source: Mapping[str, Any], types: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Give each rule that judges a source, as FAMILY.RULE, with the condition under which a row breaches it."""
    found = {}
    for family in source["rules"]:
        known = family_in(manifest, family)
        for rule in known[0] if known else ():
            threshold = source["judged_by"][family].get(rule.name)
            if threshold is not None and rule.signal in types.get(family, {}):
                found[f"{family}.{rule.name}"] = _breach(family, rule, str(types[family][rule.signal]), threshold)
    return found


def _breach(family: str, rule: Rule, kind: str, threshold: float) -> str:
    # As the decision compares: ratios as float32, so that one equal to its threshold passes. Null is not judged.
    exact = "FLOAT" if kind == "FLOAT" else "DOUBLE"
    signal = f"{quoted_name(family)}.{quoted_name(rule.signal)}"
    return f"coalesce({signal}::{exact} {'<' if rule.keep == '>=' else '>'} {threshold}::{exact}, false)"
