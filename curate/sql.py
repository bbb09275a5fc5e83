"""SQL over a root: DuckDB with tables manifest, manifests, documents, signals, breaches, edges, versions, runs, metrics and evaluations.

A query of a person is foreign: it is exactly one SELECT by DuckDB's own parser (see sandbox), on a connection that sees files of the
root only, runs no Python, can change no setting and cannot write. Cost: `connect` reads every manifest.json and lists the files of
signals; a query has 2 GB, beyond which it spills to the scratch folder of the root, and its result is streamed.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa

from curate.edges import IS_EDGE, edge_paths
from curate.manifest import COLUMNS, Manifest, attach, load, versions
from curate.sandbox import QueryError, check, file_list, quoted, quoted_name
from curate.sql_signals import signal_views
from curate.store import Store

TABLES = ("manifest", "manifests", "documents", "signals", "breaches", "edges", "versions", "runs", "metrics", "evaluations")
_MEMORY = "2GB"
_BATCH_ROWS = 2048  # what DuckDB makes at once; texts may be long


def connect(root: str, version: str | None = None) -> duckdb.DuckDBPyConnection:
    """Open a locked connection on a root; `version` is the one behind the tables, by default the newest.

    It sees only the root. What you run on it yourself may still COPY below the root; `stream` and `select` refuse that.

    >>> connect("demo").sql("SELECT split, count(*) FROM manifest GROUP BY ALL")  # doctest: +SKIP
    """
    store = Store(root)
    known = versions(store)
    chosen = load(store, version or (known[-1] if known else "v1"))
    connection = attach(store, chosen, "manifest")
    manifests = [load(store, name) for name in known]
    _manifests_view(store, connection, manifests)
    _documents_view(store, connection, chosen)
    signal_views(store, connection, chosen)
    _edges_view(store, connection)
    _records(store, connection, manifests)
    connection.execute(f"SET memory_limit = '{_MEMORY}'")
    spill = store.scratch_path()
    with contextlib.suppress(OSError):  # a root that is only read from can still be queried
        spill.parent.mkdir(parents=True, exist_ok=True)
    connection.execute(f"SET temp_directory = {quoted(str(spill))}")
    # What the environment and the home folder hold is nobody's business here; both are read by default.
    connection.execute("SET http_proxy = ''")
    connection.execute("SET secret_directory = ''")
    connection.execute(f"SET allowed_directories = {file_list(_own_folders(store))}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET lock_configuration = true")
    return connection


def select(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """Run one SELECT. Raises QueryError, in one line, for anything else."""
    schema, batches = stream(connection, query)
    return pa.Table.from_batches(list(batches), schema)


def stream(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Run one SELECT and give its columns and its rows as they come, so that a long result needs no memory.

    Raises QueryError, in one line, for anything else; also while the rows come, where one of them cannot be computed.
    """
    try:
        check(connection, query)
        reader = connection.sql(query).to_arrow_reader(_BATCH_ROWS)
    except duckdb.Error as error:
        raise _failed(error) from None
    return reader.schema, _guarded(reader)


def plain(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Give rows as plain values. Raises QueryError for those that Python has none for, such as a date in the year 100,000."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (OverflowError, ValueError) as error:
        raise QueryError(f"a value cannot be shown ({error}); cast it in the query, as in CAST(value AS VARCHAR)") from None
    return rows


def _guarded(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise _failed(error) from None


def _failed(error: Exception) -> QueryError:
    return QueryError(f"{' '.join(str(error).split())}; tables: {', '.join(TABLES)}")


def _manifests_view(store: Store, connection: duckdb.DuckDBPyConnection, manifests: list[Manifest]) -> None:
    """The rows of all versions and a column `version`; a part that is missing is left out, because the question may be about another."""
    here = set(store.files("manifests", ".parquet"))
    parts = [f"manifests/{one.version}/{part['path']}" for one in manifests for part in one.info["parts"]]
    columns = ", ".join(quoted_name(column) for column in COLUMNS)
    version = "regexp_extract(filename, '/(v[0-9]+)/[a-z]+/[^/]+$', 1)"
    urls = file_list([store.url(path) for path in parts if path in here])
    connection.execute(f"CREATE VIEW manifests AS SELECT {columns}, {version} AS version FROM read_parquet({urls}, filename = true)")


def _own_folders(store: Store) -> list[str]:
    url = store.url().rstrip("/") + "/"
    if store.is_local:
        return [url]
    protocol, _, path = url.partition("://")
    return [url, f"{protocol}:///{path}"]  # DuckDB checks the name that was asked for and the one that fsspec lists


def _documents_view(store: Store, connection: duckdb.DuckDBPyConnection, chosen: Manifest) -> None:
    shards = {shard["path"]: source for source, entry in chosen.info["inputs"].items() for shard in entry["shards"]}
    connection.execute("CREATE TABLE shards (shard VARCHAR, file VARCHAR, source VARCHAR)")
    connection.executemany(
        "INSERT INTO shards VALUES (?, ?, ?)",
        [[path.removeprefix("corpus/"), path.rsplit("/", 1)[-1], source] for path, source in shards.items()] or [["", "", ""]],
    )
    texts = [store.url(path) for path in shards if store.exists(path)]
    if texts:
        connection.execute(
            'CREATE VIEW documents AS SELECT shard, file_row_number::INTEGER AS "row", source,'
            " * EXCLUDE (filename, file_row_number, file, shard, source, row_key)"
            f" FROM read_parquet({file_list(texts)}, filename = true, file_row_number = true)"
            " JOIN shards ON file = parse_filename(filename)"
        )


def _edges_view(store: Store, connection: duckdb.DuckDBPyConnection) -> None:
    """Pairs of the version's texts that are nearly alike, or of which one holds the other, whichever build verified them."""
    pairs = "SELECT NULL::VARCHAR AS doc_a, NULL::VARCHAR AS doc_b"
    pairs += "".join(f", NULL::FLOAT AS {name}" for name in ("similarity", "containment_a", "containment_b"))
    if paths := edge_paths(store):
        pairs = f"SELECT * FROM read_parquet({file_list([store.url(path) for path in paths])})"
    connection.execute(
        f"CREATE VIEW edges AS SELECT DISTINCT doc_a, doc_b, similarity, containment_a, containment_b FROM ({pairs}) WHERE {IS_EDGE}"
        " AND doc_a IN (SELECT doc_id FROM manifest) AND doc_b IN (SELECT doc_id FROM manifest)"
    )


def _records(store: Store, connection: duckdb.DuckDBPyConnection, manifests: list[Manifest]) -> None:
    rows = [_version_row(one) for one in manifests]
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
