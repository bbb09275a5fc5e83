"""The corpus as a table: every row of the candidate and replay sources with its facts, in DuckDB, without its text.

Here a row gets its row_id: rows that are equal in everything are numbered, which needs all rows of a source at once.
Some 300 bytes a row pass through; DuckDB spills them to its temporary folder when memory is short.
"""

from collections.abc import Iterator, Mapping

import duckdb
import numpy as np
import pyarrow as pa

from curate.annotate import Facts
from curate.ingest import Ingested
from curate.manifest import MACROS
from curate.recipe import DOMAIN_COMPONENT, Recipe, Source
from curate.store import Store
from curate.tokens import index_paths

# Facts that are a column by themselves; null without them.
SCORES = ("quality", "perplexity")
_KEYS = pa.schema([("row_key", pa.string()), ("doc_id", pa.string()), ("shard", pa.string()), ("row", pa.int32())])
_DOCUMENT_COLUMNS = ["row_key", "doc_id", "source_id", "group", "url", "licence", "date", "lang", "n_bytes"]


def load_rows(
    store: Store,
    connection: duckdb.DuckDBPyConnection,
    recipe: Recipe,
    ingested: Mapping[str, Ingested],
    bounds: Mapping[str, str],
    facts: Mapping[str, Facts],
) -> None:
    """Make the table `rows`: documents, one struct column of signals per family, scores, their source's place and
    bound, the hash of their group that the bound is for, and whether other rows have the same text (`is_shared`).

    `bounds` is the holdout bound of each source, as `decide.holdout_bound` gives it. `facts` holds the families by name, in the order
    of their columns, and SCORES; without one of those the column of this name is null. Where the recipe masks repeated paragraphs, the
    family `paragraphs` has to be there: its spans are the masks.
    """
    connection.execute(MACROS)
    schema = _schema(facts)
    reader = pa.RecordBatchReader.from_batches(schema, _batches(store, recipe, ingested, bounds, facts))
    for statement in (_SHARED, _COPIES):  # of all rows only what is the same in some of them stays in memory
        connection.register("incoming", pa.RecordBatchReader.from_batches(_KEYS, _keys(store, recipe, ingested)))
        connection.execute(statement)
        connection.unregister("incoming")
    connection.register("incoming", reader)
    connection.execute(
        _ROWS.format(row_id=ROW_ID.format(number="coalesce(number, 0)"), masks=_BOILERPLATE if recipe.paragraphs.mask else "[]")
    )
    connection.unregister("incoming")
    connection.execute("DROP TABLE shared; DROP TABLE copies")


def load_counts(store: Store, connection: duckdb.DuckDBPyConnection, tokenizer: Mapping[str, str]) -> None:
    """Make the table `counts` (doc_id, masks_key, n_tokens) of everything that this tokenizer has counted."""
    schema = pa.schema([("doc_id", pa.string()), ("masks", pa.string()), ("n_tokens", pa.int32())])
    tables = (store.read_table(path, schema.names) for path in index_paths(store, tokenizer))
    connection.register("incoming", pa.RecordBatchReader.from_batches(schema, (batch for table in tables for batch in table.to_batches())))
    connection.execute(
        "CREATE OR REPLACE TABLE counts AS SELECT doc_id, masks AS masks_key, any_value(n_tokens) AS n_tokens FROM incoming GROUP BY ALL"
    )
    connection.unregister("incoming")


def component_of(source: Source) -> str:
    return DOMAIN_COMPONENT if source.component is None else source.component


def _schema(facts: Mapping[str, Facts]) -> pa.Schema:
    text = [pa.field(name, pa.string()) for name in _DOCUMENT_COLUMNS if name != "n_bytes"]
    more = [("n_bytes", pa.int64()), ("n_words", pa.int32()), ("shard", pa.string()), ("row", pa.int32())]
    more += [("source", pa.string()), ("component", pa.string()), ("source_place", pa.int32()), ("holdout_bound", pa.string())]
    more += [(name, pa.float32()) for name in SCORES]
    families = [pa.field(name, pa.struct(list(one.schema))) for name, one in facts.items() if name not in SCORES]
    return pa.schema([*text, *(pa.field(name, kind) for name, kind in more), *families])


def _batches(
    store: Store, recipe: Recipe, ingested: Mapping[str, Ingested], bounds: Mapping[str, str], facts: Mapping[str, Facts]
) -> Iterator[pa.RecordBatch]:
    schema = _schema(facts)
    for place, source in enumerate(recipe.sources):
        if source not in recipe.decided_sources():
            continue
        for shard in ingested[source.name].shards:
            name = shard.path.removeprefix("corpus/")
            documents = store.read_table(shard.path, _DOCUMENT_COLUMNS)
            tables = {key: store.read_table(one.path(name)).combine_chunks() for key, one in facts.items()}
            n = documents.num_rows
            columns = {column: documents[column].combine_chunks() for column in _DOCUMENT_COLUMNS}
            columns["n_words"] = tables["statistics"]["n_words"].combine_chunks()
            for score in SCORES:
                columns[score] = tables.pop(score)[score] if score in tables else pa.nulls(n, pa.float32())
            columns["row"] = pa.array(np.arange(n, dtype=np.int32))
            constants = {"shard": name, "source": source.name, "component": component_of(source), "holdout_bound": bounds[source.name]}
            columns |= {key: pa.repeat(pa.scalar(value), n) for key, value in constants.items()}
            columns["source_place"] = pa.repeat(pa.scalar(place, pa.int32()), n)
            for key, table in tables.items():
                columns[key] = pa.StructArray.from_arrays([column.combine_chunks() for column in table.columns], fields=list(table.schema))
            yield from pa.table([columns[field.name] for field in schema], schema=schema).to_batches()


def _keys(store: Store, recipe: Recipe, ingested: Mapping[str, Ingested]) -> Iterator[pa.RecordBatch]:
    for source in recipe.decided_sources():
        for shard in ingested[source.name].shards:
            keys = store.read_table(shard.path, ["row_key", "doc_id"])
            places = {
                "shard": pa.repeat(pa.scalar(shard.path.removeprefix("corpus/")), keys.num_rows),
                "row": pa.array(np.arange(keys.num_rows, dtype=np.int32)),
            }
            yield from pa.table({**{name: keys[name] for name in keys.column_names}, **places}, schema=_KEYS).to_batches()


# Rows that are equal in everything are numbered; they are interchangeable.
ROW_ID = "left(sha256(row_key || ':' || {number}), 32)"
NUMBER = """(row_number() OVER (PARTITION BY row_key ORDER BY shard, "row") - 1)"""
_BOILERPLATE = "list_transform(struct_extract(paragraphs, 'spans'), lambda span: struct_insert(span, kind := 'boilerplate'))"
_SHARED = "CREATE TEMP TABLE shared AS SELECT doc_id FROM incoming GROUP BY doc_id HAVING count(*) > 1"
_COPIES = f"""
CREATE TEMP TABLE copies AS
SELECT * FROM (SELECT shard, "row", {NUMBER} AS number FROM incoming SEMI JOIN shared USING (doc_id)) WHERE number > 0
"""
_ROWS = """
CREATE OR REPLACE TABLE rows AS
SELECT incoming.* EXCLUDE (row_key), {row_id} AS row_id, hash_key('holdout', "group") AS holdout_key,
    doc_id IN (SELECT doc_id FROM shared) AS is_shared, NULL::VARCHAR[] AS contaminated,
    {masks}::STRUCT("start" INTEGER, "end" INTEGER, kind VARCHAR)[] AS masks
FROM incoming LEFT JOIN copies USING (shard, "row")
"""
