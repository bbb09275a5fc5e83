"""Verified edges between texts that are nearly alike: candidates by LSH, each proved by the true Jaccard of their word 5-grams and by how
much of either's word 3-grams is in the other.

Stands between annotate and decide. Edges join texts (doc_id), not rows, and do not depend on any rule, so a changed threshold needs
no new one. What a pair was found to be is cached for ever by the two texts: an added source verifies only pairs that are new.
Which pairs are compared is a pure function of the set of texts: within a band key every text is compared with the HOT_BAND texts
that come first by doc_id, so that a template shared by 100,000 documents costs 64 comparisons each, not 100,000.

Cost: 16 bytes per text and band through one hash aggregation and one self join in DuckDB, which spill; then the texts of pairs that
are new are read once, in order, shard by shard, and their shingles (8 bytes each, some 2.8 times the text) are spooled to one
memory-mapped file; a pair costs two merges of two sorted runs (2 ns a shingle).
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.annotate import Facts, pieces
from curate.executor import Run
from curate.recipe import KEPT_CONTAINMENT, KEPT_SIMILARITY
from curate.store import Store, digest_of
from filters import minhash
from filters.columns import TextBatch

HOT_BAND = 64
_CHUNK_PAIRS = 500_000
_BATCH_ROWS = 4096
_FOLDER = f"cache/edges/jaccard-containment-v{minhash.VERSION}"
_NUMBERS = ("similarity", "containment_a", "containment_b")
_VERIFIED = pa.schema([("doc_a", pa.string()), ("doc_b", pa.string()), *((name, pa.float32()) for name in _NUMBERS)])
# An edge: a pair that some threshold of a recipe may take.
IS_EDGE = f"(similarity >= {KEPT_SIMILARITY}::FLOAT OR greatest(containment_a, containment_b) >= {KEPT_CONTAINMENT}::FLOAT)"
# An empty table of edges.
NO_EDGES = "CREATE OR REPLACE TABLE edges (doc_a VARCHAR, doc_b VARCHAR, similarity FLOAT, containment_a FLOAT, containment_b FLOAT)"


@dataclasses.dataclass(frozen=True, slots=True)
class Linked:
    """How the edges came about: pairs that shared a band key, those proved alike, and pairs that a hot band left uncompared."""

    n_candidates: int
    n_edges: int
    n_skipped: int


def link(store: Store, connection: duckdb.DuckDBPyConnection, bands: Facts, *, run: Run) -> Linked:
    """Make the table `edges` over the texts of the tables `rows` and `frozen`: doc_a < doc_b and, as float32, their similarity, the share
    of doc_a's word 3-grams that are in doc_b (containment_a), and the other way round. See IS_EDGE for what is in.

    Both need doc_id, shard and row; the facts `bands` have to exist for their shards.
    """
    connection.execute(_TEXTS)
    _load_bands(store, connection, bands)
    connection.execute(_CANDIDATES.format(hot_band=HOT_BAND))
    _load_verified(store, connection)
    missing = connection.sql(_MISSING).to_arrow_table()
    if missing.num_rows:
        _verify(store, connection, missing, run)
        _load_verified(store, connection)
    connection.execute(_EDGES.format(is_edge=IS_EDGE))
    counts = connection.execute(_COUNTS.format(hot_band=HOT_BAND)).fetchall()[0]
    for table in ("texts", "bands", "candidates", "verified"):
        connection.execute(f"DROP TABLE {table}")
    return Linked(*counts)


def edge_paths(store: Store) -> list[str]:
    """List the files of pairs that were verified, whatever came out: doc_a, doc_b, similarity, containment_a, containment_b."""
    return store.files(_FOLDER, ".parquet")


def _load_bands(store: Store, connection: duckdb.DuckDBPyConnection, bands: Facts) -> None:
    connection.execute("CREATE OR REPLACE TABLE bands (text UINTEGER, key UBIGINT)")
    for (shard,) in connection.execute("SELECT DISTINCT shard FROM texts ORDER BY shard").fetchall():
        keys = store.read_table(bands.path(shard))
        connection.register("incoming", keys.append_column("row", pa.array(np.arange(keys.num_rows, dtype=np.int32))))
        connection.execute('INSERT INTO bands SELECT text, unnest(keys) FROM incoming JOIN texts USING ("row") WHERE shard = ?', [shard])
        connection.unregister("incoming")


def _load_verified(store: Store, connection: duckdb.DuckDBPyConnection) -> None:
    tables = (store.read_table(path) for path in edge_paths(store))
    connection.register("incoming", pa.RecordBatchReader.from_batches(_VERIFIED, (part for table in tables for part in table.to_batches())))
    connection.execute(_KNOWN)
    connection.unregister("incoming")


def _verify(store: Store, connection: duckdb.DuckDBPyConnection, missing: pa.Table, run: Run) -> None:
    """Spool the shingles of all texts in the missing pairs, compare the pairs in chunks, and keep what was found."""
    sys.stderr.write(f"edges: {missing.num_rows:,} pairs to verify\n")
    with store.scratch() as folder:
        folder.mkdir()
        connection.register("missing", missing)
        wanted = connection.sql(_SPOOLED).to_arrow_table()
        pq.write_table(wanted, folder / "wanted.parquet")
        shards = wanted["shard"].unique().to_pylist()
        run.here(shards, functools.partial(_spool_shard, store.url(), folder), label="shingle")
        spans = _join_spools(folder, shards, wanted)
        connection.register("spans", spans)
        pairs = connection.sql(_PAIRS).to_arrow_table()
        connection.unregister("spans")
        connection.unregister("missing")
        starts = range(0, pairs.num_rows, _CHUNK_PAIRS)
        for start in starts:
            pq.write_table(pairs.slice(start, _CHUNK_PAIRS), folder / f"pairs-{start}.parquet")
        run.here(list(starts), functools.partial(_verify_chunk, store.url(), folder), label="verify")


def _spool_shard(store_url: str, folder: pathlib.Path, shard: str) -> None:
    """Write the shingles of a shard's wanted texts, runs of five words and of three, and where those of each lie: a row of four places."""
    wanted = pq.read_table(folder / "wanted.parquet", filters=[("shard", "=", shard)])["row"].to_numpy()
    places: list[np.ndarray] = []
    n_written = 0
    with Store(store_url).open(f"corpus/{shard}") as handle, open(folder / f"{_flat_name(shard)}.bin", "wb") as spool:
        first = 0
        for batch in pq.ParquetFile(handle, page_checksum_verification=True).iter_batches(_BATCH_ROWS, columns=["text"]):
            low, high = np.searchsorted(wanted, [first, first + batch.num_rows])
            for piece in pieces(batch.take(pa.array(wanted[low:high] - first))):
                texts = TextBatch.from_arrow(piece.column(0))
                columns = []
                for n_words in (minhash.SHINGLE_WORDS, minhash.CONTAINED_WORDS):
                    doc_starts, hashes = minhash.shingles(texts, n_words=n_words)
                    columns += [n_written + doc_starts[:-1], n_written + doc_starts[1:]]
                    n_written += len(hashes)
                    hashes.tofile(spool)
                places.append(np.stack(columns, axis=1))
            first += batch.num_rows
    np.save(folder / f"{_flat_name(shard)}.npy", np.concatenate(places))


def _join_spools(folder: pathlib.Path, shards: Sequence[str], wanted: pa.Table) -> pa.Table:
    """Append the shards' spools to one file, and say where each text's runs of five and of three words lie in it."""
    places = []
    with open(folder / "shingles.bin", "wb") as joined:
        for shard in shards:  # the order of `wanted`
            part = folder / f"{_flat_name(shard)}.bin"
            places.append(np.load(folder / f"{_flat_name(shard)}.npy") + joined.tell() // 8)
            with open(part, "rb") as spool:
                while data := spool.read(1 << 24):
                    joined.write(data)
            part.unlink()
    names = ("first_5", "last_5", "first_3", "last_3")
    return pa.table({"text": wanted["text"], **dict(zip(names, np.concatenate(places).T.copy(), strict=True))})


def _verify_chunk(store_url: str, folder: pathlib.Path, start: int) -> None:
    pairs = pq.read_table(folder / f"pairs-{start}.parquet")
    hashes = np.memmap(folder / "shingles.bin", np.uint64, mode="r").view(np.ndarray)
    similarity = minhash.jaccard(*_places(pairs, 5), hashes)
    numbers = (similarity, *minhash.containment(*_places(pairs, 3), hashes))
    found = pa.table([pairs["doc_a"], pairs["doc_b"], *(pa.array(one.astype(np.float32)) for one in numbers)], schema=_VERIFIED)
    named_by = [pairs["doc_a"].to_pylist(), pairs["doc_b"].to_pylist()]
    Store(store_url).write_table(f"{_FOLDER}/{digest_of(named_by)[:32]}.parquet", found)


def _places(pairs: pa.Table, n_words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    first_a, last_a, first_b, last_b = (pairs[f"{end}_{n_words}_{text}"].to_numpy() for text in "ab" for end in ("first", "last"))
    return first_a, last_a, first_b, last_b


def _flat_name(shard: str) -> str:
    return shard.replace("/", "-")


# One place a text; ordinals follow doc_id, so that "first by doc_id" is "smallest ordinal".
_TEXTS = """
CREATE OR REPLACE TABLE texts AS
SELECT (row_number() OVER (ORDER BY doc_id) - 1)::UINTEGER AS text, doc_id, place.shard AS shard, place."row" AS "row"
FROM (
    SELECT doc_id, min({'shard': shard, 'row': "row"}) AS place
    FROM (SELECT doc_id, shard, "row" FROM rows UNION ALL SELECT doc_id, shard, "row" FROM frozen) GROUP BY doc_id
)
"""

_CANDIDATES = """
CREATE OR REPLACE TABLE candidates AS
WITH placed AS (
    SELECT text, key, row_number() OVER (PARTITION BY key ORDER BY text) AS place
    FROM bands SEMI JOIN (SELECT key FROM bands GROUP BY key HAVING count(*) > 1) USING (key)
)
SELECT DISTINCT a.text AS a, b.text AS b FROM placed AS a JOIN placed AS b ON a.key = b.key AND a.place < b.place AND a.place <= {hot_band}
"""

_KNOWN = """
CREATE OR REPLACE TABLE verified AS
SELECT a.text AS a, b.text AS b, any_value(similarity) AS similarity,
    any_value(containment_a) AS containment_a, any_value(containment_b) AS containment_b
FROM incoming JOIN texts AS a ON doc_a = a.doc_id JOIN texts AS b ON doc_b = b.doc_id
GROUP BY ALL
"""

_MISSING = "SELECT a, b FROM candidates ANTI JOIN verified USING (a, b)"

_SPOOLED = """
SELECT text, shard, "row" FROM texts WHERE text IN (SELECT a FROM missing UNION ALL SELECT b FROM missing) ORDER BY shard, "row"
"""

_PAIRS = """
SELECT a.doc_id AS doc_a, b.doc_id AS doc_b,
    of_a.first_5 AS first_5_a, of_a.last_5 AS last_5_a, of_b.first_5 AS first_5_b, of_b.last_5 AS last_5_b,
    of_a.first_3 AS first_3_a, of_a.last_3 AS last_3_a, of_b.first_3 AS first_3_b, of_b.last_3 AS last_3_b
FROM missing JOIN spans AS of_a ON missing.a = of_a.text JOIN spans AS of_b ON missing.b = of_b.text
JOIN texts AS a ON missing.a = a.text JOIN texts AS b ON missing.b = b.text
ORDER BY missing.a, missing.b
"""

_EDGES = """
CREATE OR REPLACE TABLE edges AS
SELECT a.doc_id AS doc_a, b.doc_id AS doc_b, similarity, containment_a, containment_b
FROM candidates JOIN verified USING (a, b)
JOIN texts AS a ON candidates.a = a.text JOIN texts AS b ON candidates.b = b.text WHERE {is_edge}
"""

_COUNTS = """
SELECT (SELECT count(*) FROM candidates), (SELECT count(*) FROM edges),
    coalesce(sum(n * (n - 1) // 2 - ({hot_band} * n - {hot_band} * ({hot_band} + 1) // 2)), 0)::BIGINT
FROM (SELECT count(*) AS n FROM bands GROUP BY key HAVING count(*) > {hot_band})
"""
