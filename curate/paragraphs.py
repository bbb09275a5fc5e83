"""Paragraphs that are in many documents, as facts: how much of a document they are, and where they lie in it.

Stands between annotate and decide. The paragraphs of a text are facts about it, computed once with all others; which of them are repeated
is asked of all texts of the decided sources together. The list of these is a function of the set of texts, so it is kept in the cache by
the shards that it was made of, and not pinned; its content names the facts that come of it. Copies of a text count once; near copies count
each, because what is a near copy is decided later, by thresholds, and no fact may depend on these.

Cost: 8 bytes a paragraph through one aggregation in DuckDB, which spills; then names and places are read once more, 20 bytes a paragraph,
and looked up in the list, which workers map into memory. No text is read.
"""

import functools
import sys
from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa

from curate.annotate import Facts, signals_schema
from curate.executor import Run
from curate.recipe import Paragraphs
from curate.store import Store, digest_of
from filters import paragraphs
from filters.columns import TextBatch, ratios
from filters.paragraphs import PARAGRAPHS

_COLUMNS = {"keys": pa.uint64(), "starts": pa.int32(), "ends": pa.int32(), "nexts": pa.int32()}
_SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32())])
_SCHEMA = signals_schema(PARAGRAPHS).append(pa.field("spans", pa.list_(_SPAN)))


def paragraph_facts(settings: Paragraphs) -> Facts:
    """Give the facts that repeated paragraphs are found by: the name and the places of each paragraph (filters.paragraphs), as lists."""
    schema = pa.schema([(name, pa.list_(kind)) for name, kind in _COLUMNS.items()])
    compute = functools.partial(_paragraphs, min_words=settings.min_words)
    return Facts("paragraph_keys", PARAGRAPHS.version, schema, compute, {"min_words": settings.min_words})


def repeated_facts(store: Store, connection: duckdb.DuckDBPyConnection, settings: Paragraphs, shards: Sequence[str], *, run: Run) -> Facts:
    """Compute the family `paragraphs` of these shards (paths relative to corpus/), and give its facts.

    The columns are its signals, and `spans`: what repeated paragraphs take up, in bytes, in order and apart from each other. The facts
    `paragraph_facts(settings)` have to exist for all shards; the documents in them are those that count.
    """
    keys, listed = paragraph_facts(settings), _list_path(settings, shards)
    if not store.exists(listed):
        _write_list(store, connection, settings, shards)
    parameters = {"kind": "corpus", "min_words": settings.min_words}
    facts = Facts(PARAGRAPHS.name, PARAGRAPHS.version, _SCHEMA, None, parameters, store.digest(listed))
    if missing := [shard for shard in shards if not store.exists(facts.path(shard))]:
        run(missing, functools.partial(_write_signals, store.url(), keys.folder, facts.folder, listed), label="paragraphs")
    return facts


def _paragraphs(documents: pa.RecordBatch, texts: TextBatch, *, min_words: int) -> Sequence[pa.Array]:
    found = paragraphs.paragraphs(texts, min_words=min_words)
    return [_lists(found.doc_starts, pa.array(getattr(found, name))) for name in _COLUMNS]


def _list_path(settings: Paragraphs, shards: Sequence[str]) -> str:
    named_by = [PARAGRAPHS.version, settings.min_words, settings.max_documents, sorted(shards)]
    return f"cache/paragraphs/{digest_of(named_by)[:32]}.npy"


def _write_list(store: Store, connection: duckdb.DuckDBPyConnection, settings: Paragraphs, shards: Sequence[str]) -> None:
    """Write the names of the paragraphs that are in more than `max_documents` texts, ascending."""
    keys = paragraph_facts(settings)
    connection.execute(_TABLES)
    for number, shard in enumerate(shards):
        _insert(
            connection, 'INSERT INTO places SELECT doc_id, $1, "row" FROM incoming', number, store.read_table(f"corpus/{shard}", ["doc_id"])
        )
    connection.execute(_FIRSTS)
    for number, shard in enumerate(shards):
        _insert(connection, _OCCURRENCES, number, store.read_table(keys.path(shard), ["keys"]))
    found = connection.sql(_REPEATED, params=[settings.max_documents]).to_arrow_table()["key"].to_numpy()
    for table in ("places", "firsts", "occurrences"):
        connection.execute(f"DROP TABLE {table}")
    sys.stderr.write(f"paragraphs: {len(found):,} are in more than {settings.max_documents} documents\n")
    with store.scratch() as path:
        with open(path, "wb") as file:
            np.save(file, found)
        store.adopt(path, _list_path(settings, shards))


def _insert(connection: duckdb.DuckDBPyConnection, statement: str, number: int, table: pa.Table) -> None:
    connection.register("incoming", table.append_column("row", pa.array(np.arange(table.num_rows, dtype=np.int32))))
    connection.execute(statement, [number])
    connection.unregister("incoming")


def _write_signals(store_url: str, keys: str, signals: str, listed: str, shard: str) -> None:
    store, name = Store(store_url), shard.rsplit("/", 1)[-1]
    repeated = np.load(store.local(listed), mmap_mode="r")
    table = store.read_table(f"{keys}/{name}").combine_chunks()
    n_bytes = store.read_table(f"corpus/{shard}", ["n_bytes"])["n_bytes"].to_numpy()
    lists = {column: table[column].combine_chunks() for column in _COLUMNS}
    doc_starts = np.append(0, np.cumsum(lists["keys"].value_lengths().to_numpy(), dtype=np.int64))
    found = paragraphs.Paragraphs(doc_starts, **{column: values.flatten().to_numpy() for column, values in lists.items()})
    n_repeated, spans = paragraphs.repeated_spans(found, repeated)
    n_before = np.append(0, np.cumsum(spans.ends - spans.starts, dtype=np.int64))
    columns = {
        "repeated_ratio": ratios(np.diff(n_before[spans.doc_starts]), n_bytes),
        "n_repeated": pa.array(n_repeated.astype(np.int32)),
        "spans": _lists(spans.doc_starts, pa.StructArray.from_arrays([pa.array(spans.starts), pa.array(spans.ends)], fields=list(_SPAN))),
    }
    store.write_table(f"{signals}/{name}", pa.table(columns, schema=_SCHEMA))


def _lists(starts: np.ndarray, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), values)


_TABLES = """
CREATE OR REPLACE TABLE places (doc_id VARCHAR, shard INTEGER, "row" INTEGER);
CREATE OR REPLACE TABLE occurrences (key UBIGINT)
"""

# Of the copies of a text one speaks; whichever it is, it says the same.
_FIRSTS = """
CREATE OR REPLACE TABLE firsts AS
SELECT place.shard AS shard, place."row" AS "row" FROM (SELECT min({'shard': shard, 'row': "row"}) AS place FROM places GROUP BY doc_id)
ORDER BY ALL
"""
_OCCURRENCES = """
INSERT INTO occurrences SELECT unnest(list_distinct(keys)) FROM incoming JOIN firsts USING ("row") WHERE shard = $1
"""
_REPEATED = "SELECT key FROM occurrences GROUP BY key HAVING count(*) > $1 ORDER BY key"
