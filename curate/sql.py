"""SQL over a root: DuckDB with tables manifest, documents, signals, edges, versions, runs, metrics and evaluations.

A query of a person is foreign: it is exactly one SELECT by DuckDB's own parser, on a connection that sees files of the
root only, runs no Python, can change no setting and cannot write.
"""

from typing import Any

import duckdb
import pyarrow as pa

from curate.edges import IS_EDGE, edge_paths
from curate.families import facts_of
from curate.manifest import Manifest, attach, load, versions
from curate.store import Store
from filters import FAMILIES

TABLES = ("manifest", "documents", "signals", "edges", "versions", "runs", "metrics", "evaluations")


class QueryError(ValueError):
    """The SQL is not one SELECT, or DuckDB cannot run it: the person who wrote it acts."""


def connect(root: str, version: str | None = None) -> duckdb.DuckDBPyConnection:
    """Open a locked connection on a root; `version` is the one behind the tables, by default the newest.

    >>> connect("demo").sql("SELECT split, count(*) FROM manifest GROUP BY ALL")  # doctest: +SKIP
    """
    store = Store(root)
    known = versions(store)
    chosen = load(store, version or (known[-1] if known else "v1"))
    connection = attach(store, chosen, "manifest")
    _views(store, connection, chosen)
    _edges_view(store, connection)
    _records(store, connection, known)
    connection.execute(f"SET allowed_directories = {_list(_own_folders(store))}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET lock_configuration = true")
    return connection


def select(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """Run one SELECT. Raises QueryError, in one line, for anything else."""
    try:
        statements = duckdb.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
            raise QueryError(f"the query is {kinds}; exactly one SELECT is allowed, over the tables {', '.join(TABLES)}")
        return connection.sql(query).to_arrow_table()
    except duckdb.Error as error:
        raise QueryError(f"{' '.join(str(error).split())}; tables: {', '.join(TABLES)}") from None


def _own_folders(store: Store) -> list[str]:
    url = store.url().rstrip("/") + "/"
    if store.is_local:
        return [url]
    protocol, _, path = url.partition("://")
    return [url, f"{protocol}:///{path}"]  # DuckDB checks the name that was asked for and the one that fsspec lists


def _views(store: Store, connection: duckdb.DuckDBPyConnection, chosen: Manifest) -> None:
    shards = {shard["path"]: source for source, entry in chosen.info["inputs"].items() for shard in entry["shards"]}
    connection.execute("CREATE TABLE shards (shard VARCHAR, file VARCHAR, source VARCHAR)")
    connection.executemany(
        "INSERT INTO shards VALUES (?, ?, ?)",
        [[path.removeprefix("corpus/"), path.rsplit("/", 1)[-1], source] for path, source in shards.items()] or [["", "", ""]],
    )
    place = 'shard, file_row_number::INTEGER AS "row"'
    files = "JOIN shards ON file = parse_filename(filename)"
    texts = [store.url(path) for path in shards if store.exists(path)]
    if texts:
        connection.execute(
            f"CREATE VIEW documents AS SELECT {place}, source, * EXCLUDE (filename, file_row_number, file, shard, source, row_key)"
            f" FROM read_parquet({_list(texts)}, filename = true, file_row_number = true) {files}"
        )
    _signals_view(store, connection, chosen, [path.rsplit("/", 1)[-1] for path in shards], place, files)


def _signals_view(store: Store, connection: duckdb.DuckDBPyConnection, chosen: Manifest, names: list[str], place: str, files: str) -> None:
    """Signals of the shipped families as they are computed now, of a recipe's own and of the corpus as its version was decided by them."""
    shipped = {name: facts_of({}, name) for name in FAMILIES}
    families = {name: (facts.folder, facts.schema.names) for name, facts in shipped.items()}
    families |= {name: (entry["folder"], entry["signals"]) for name, entry in chosen.info.get("families", {}).items()}
    joined, columns = [], ["shard", '"row"']
    for family, (folder, signals) in families.items():
        paths = [path for name in names if store.exists(path := f"{folder}/{name}")]
        if paths:
            packed = ", ".join(f"{_name(signal)} := {_name(signal)}" for signal in signals)
            urls = _list([store.url(path) for path in paths])
            joined.append(
                f"(SELECT {place}, struct_pack({packed}) AS {_name(family)}"
                f" FROM read_parquet({urls}, filename = true, file_row_number = true) {files})"
            )
            columns.append(_name(family))
    if joined:
        using = ' USING (shard, "row")'
        tables = " JOIN ".join(f"{table} AS t{number}{using if number else ''}" for number, table in enumerate(joined))
        connection.execute(f"CREATE VIEW signals AS SELECT {', '.join(columns)} FROM {tables}")


def _edges_view(store: Store, connection: duckdb.DuckDBPyConnection) -> None:
    """Pairs of the version's texts that are nearly alike, or of which one holds the other, whichever build verified them."""
    pairs = "SELECT NULL::VARCHAR AS doc_a, NULL::VARCHAR AS doc_b"
    pairs += "".join(f", NULL::FLOAT AS {name}" for name in ("similarity", "containment_a", "containment_b"))
    if paths := edge_paths(store):
        pairs = f"SELECT * FROM read_parquet({_list([store.url(path) for path in paths])})"
    connection.execute(
        f"CREATE VIEW edges AS SELECT DISTINCT doc_a, doc_b, similarity, containment_a, containment_b FROM ({pairs}) WHERE {IS_EDGE}"
        " AND doc_a IN (SELECT doc_id FROM manifest) AND doc_b IN (SELECT doc_id FROM manifest)"
    )


def _records(store: Store, connection: duckdb.DuckDBPyConnection, known: list[str]) -> None:
    rows = [_version_row(load(store, name)) for name in known]
    _table(connection, "versions", rows, ["version", "domain", "parent", "sample", "fingerprint", "decision", "train_rows", "train_tokens"])
    runs = [name for name in store.children("runs") if store.exists(f"runs/{name}/run.json")]
    _table(connection, "runs", [{"run": name, **_flat(store.read_json(f"runs/{name}/run.json"))} for name in runs], ["run"])
    for table, first in [("metrics", "step"), ("evaluations", "step")]:
        lines = [{"run": name, **_flat(line)} for name in runs for line in store.read_lines(f"runs/{name}/{table}.jsonl")]
        _table(connection, table, lines, ["run", first])


def _version_row(manifest: Manifest) -> dict[str, Any]:
    info = manifest.info
    kept = info["funnel"][-1]
    return {
        **{key: info[key] for key in ("version", "domain", "parent", "sample", "fingerprint", "decision")},
        "train_rows": kept["rows"],
        "train_tokens": kept["n_tokens"],
    }


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{prefix}{key}_")
        else:
            flat[f"{prefix}{key}"] = item if item is None or isinstance(item, bool | int | float | str) else str(item)
    return flat


def _table(connection: duckdb.DuckDBPyConnection, name: str, rows: list[dict[str, Any]], least: list[str]) -> None:
    names = list(dict.fromkeys([*least, *(key for row in rows for key in row)]))
    columns = {}
    for key in names:
        values = [row.get(key) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1 and kinds != {int, float}:
            values = [None if value is None else str(value) for value in values]
        columns[key] = pa.array(values) if kinds else pa.array(values, pa.string())
    connection.register("incoming", pa.table(columns))
    connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")
    connection.unregister("incoming")


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _list(values: list[str]) -> str:
    return f"[{', '.join(_quote(value) for value in values)}]"
