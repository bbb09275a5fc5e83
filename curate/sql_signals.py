"""The tables `signals` and `breaches` of SQL: what is known of each row of a version, and which of its rules it breaches.

Stands under `sql`. Row i of a shard is row i of each of its files, so the families are laid side by side (POSITIONAL JOIN) and not joined
by key, which takes minutes for ten million rows. Cost: a query reads the families that it names, each struct whole; `breaches` reads the
signals that judge.
"""

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
    tables: list[str] = []
    for name, (folder, _) in families.items():
        urls = file_list([store.url(f"{folder}/{shard.rsplit('/', 1)[-1]}") for shard, _ in shards])
        place = "" if tables else ", file_index, file_row_number"
        tables.append(f"(SELECT *{place} FROM read_parquet({urls})) AS {quoted_name(name)}")
    packed = ", ".join(_packed(name, signals) for name, (_, signals) in families.items())
    _create(connection, "signals", list(families), packed, tables)
    if breached := _breached(connection, manifest, [source for _, source in shards]):
        _create(connection, "breaches", ["n_breached", "breached"], breached, tables)


def _create(connection: duckdb.DuckDBPyConnection, view: str, names: Sequence[str], columns: str, tables: Sequence[str]) -> None:
    # The columns are made before shards get their names: a condition on them would else be tried row by row in the join.
    connection.execute(
        f'CREATE VIEW {view} AS SELECT shard, file_row_number::INTEGER AS "row", {", ".join(map(quoted_name, names))}'
        f" FROM (SELECT file_index, file_row_number, {columns} FROM {' POSITIONAL JOIN '.join(tables)})"
        " JOIN signal_files ON number = file_index"
    )


def _packed(family: str, signals: Sequence[str]) -> str:
    columns = ", ".join(f"{quoted_name(one)} := {quoted_name(family)}.{quoted_name(one)}" for one in signals)
    return f"struct_pack({columns}) AS {quoted_name(family)}"


def _breached(connection: duckdb.DuckDBPyConnection, manifest: Manifest, sources: Sequence[str]) -> str | None:
    """Give the columns of `breaches`: how many rules a row breaches, and which, in the order of judging; None where a version by older code
    does not hold its rules by source. Those that stand in the code of a recipe's own family, which no version holds, are left out.

    `sources` has that of each shard; the shards of a source follow on each other.
    """
    entries = {one["name"]: one for one in manifest.info["recipe"]["sources"]}
    if any("judged_by" not in entries[name] for name in sources):
        return None
    described = connection.sql("SELECT * FROM signals LIMIT 0")
    types = {name: dict(kind.children) for name, kind in zip(described.columns, described.types, strict=True) if kind.id == "struct"}
    counts, lists = [], []
    for source in dict.fromkeys(sources):
        last = max(number for number, name in enumerate(sources) if name == source)
        breaches = _breaches(manifest, entries[source], types)
        counts.append(f"WHEN file_index <= {last} THEN {' + '.join(['0', *(f'{breach}::INTEGER' for breach in breaches.values())])}")
        named = ", ".join(f"CASE WHEN {breach} THEN {quoted(name)} END" for name, breach in breaches.items())
        lists.append(f"WHEN file_index <= {last} THEN list_filter([{named}]::VARCHAR[], lambda one: one IS NOT NULL)")
    return f"CASE {' '.join(counts)} END AS n_breached, CASE {' '.join(lists)} END AS breached"


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
