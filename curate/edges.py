"""Verified edges between texts that are nearly alike: candidates by LSH, each proved by the true Jaccard of their word 5-grams and by how
much of either's word 3-grams is in the other.

Stands between annotate and decide. Edges join texts (doc_id), not rows, and do not depend on any rule, so a changed threshold needs
no new one. What a pair was found to be is cached for ever by the two texts: an added source verifies only pairs that are new.
Which pairs are compared is a pure function of the set of texts: within a band key every text is compared with the HOT_BAND texts
that come first by doc_id, so that a template shared by 100,000 documents costs 64 comparisons each, not 100,000.

Cost: 12 bytes per text and band through one hash aggregation and one self join in DuckDB, which spill; then the texts of pairs that
are new are read once, shard by shard, and their shingles (8 bytes each, some 2.4 times the text) are spooled to one file; a pair costs
two merges of two sorted runs (2 ns a shingle) in that file, which is memory-mapped and let go every 500 texts.
"""

import dataclasses
import fcntl
import functools
import hashlib
import itertools
import mmap
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.annotate import Facts, pieces
from curate.executor import Run
from curate.recipe import KEPT_CONTAINMENT, KEPT_SIMILARITY
from curate.store import Store
from filters import minhash
from filters.columns import TextBatch

HOT_BAND = 64
_CHUNK_PAIRS = 100_000
_MAPPED_TEXTS = 500  # then the pages that were touched are let go: a touch maps up to 64 kB
_BATCH_ROWS = 4096
_FOLDER = f"cache/edges/jaccard-containment-v{minhash.VERSION}"
_NUMBERS = ("similarity", "containment_a", "containment_b")
_VERIFIED = pa.schema([("doc_a", pa.string()), ("doc_b", pa.string()), *((name, pa.float32()) for name in _NUMBERS)])
# A text in the scratch folder: where its runs of five and of three words begin and end in the spool, and its doc_id.
_SPOOLED = np.dtype([(f"{end}_{n_words}", np.int64) for n_words in (5, 3) for end in ("first", "last")] + [("doc_id", "S32")])
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
    connection.execute(_MISSING)
    if n_missing := connection.execute("SELECT count(*) FROM missing").fetchall()[0][0]:
        sys.stderr.write(f"edges: {n_missing:,} pairs to verify\n")
        _verify(store, connection, run)
        _load_verified(store, connection)
    connection.execute(_EDGES.format(is_edge=IS_EDGE))
    counts = connection.execute(_COUNTS.format(hot_band=HOT_BAND)).fetchall()[0]
    for table in ("shards", "texts", "shared", "candidates", "verified", "missing"):
        connection.execute(f"DROP TABLE {table}")
    return Linked(*counts)


def edge_paths(store: Store) -> list[str]:
    """List the files of pairs that were verified, whatever came out: doc_a, doc_b, similarity, containment_a, containment_b."""
    return store.files(_FOLDER, ".parquet")


def _load_bands(store: Store, connection: duckdb.DuckDBPyConnection, bands: Facts) -> None:
    shards = connection.execute("SELECT number, shard FROM shards ORDER BY number").fetchall()
    schema = pa.schema([("number", pa.uint32()), ("row", pa.int32()), *bands.schema])
    connection.register("incoming", pa.RecordBatchReader.from_batches(schema, _band_batches(store, shards, bands, schema)))
    connection.execute(_BANDS)
    connection.unregister("incoming")


def _band_batches(store: Store, shards: Sequence[tuple[int, str]], bands: Facts, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for number, shard in shards:
        keys = store.read_table(bands.path(shard))
        places = [pa.repeat(pa.scalar(number, pa.uint32()), keys.num_rows), pa.array(np.arange(keys.num_rows, dtype=np.int32))]
        yield from pa.table([*places, *keys.columns], schema=schema).to_batches()


def _load_verified(store: Store, connection: duckdb.DuckDBPyConnection) -> None:
    tables = (store.read_table(path) for path in edge_paths(store))
    connection.register("incoming", pa.RecordBatchReader.from_batches(_VERIFIED, (part for table in tables for part in table.to_batches())))
    connection.execute(_KNOWN)
    connection.unregister("incoming")


def _verify(store: Store, connection: duckdb.DuckDBPyConnection, run: Run) -> None:
    """Spool the shingles of all texts in the missing pairs, compare the pairs in chunks, and keep what was found."""
    with store.scratch() as folder:
        folder.mkdir()
        n_texts = connection.execute("SELECT count(*) FROM texts").fetchall()[0][0]
        np.lib.format.open_memmap(folder / "texts.npy", "w+", _SPOOLED, (n_texts,))  # sparse: only wanted texts are written
        connection.execute(f"COPY ({_WANTED}) TO '{folder}/wanted.parquet' (FORMAT parquet)")
        shards = connection.execute(_WANTED_SHARDS).fetchall()
        run.here(shards, functools.partial(_spool_shard, store.url(), folder), label="shingle")
        # The few texts that come first in a hot band stay in memory while the many others pass.
        starts: list[int] = []
        for batch in connection.sql("SELECT a, b FROM missing ORDER BY b, a").to_arrow_reader(_CHUNK_PAIRS):
            starts.append(len(starts))
            np.save(folder / f"pairs-{starts[-1]}.npy", np.stack([column.to_numpy() for column in batch.columns]))
        run.here(starts, functools.partial(_verify_chunk, store.url(), folder), label="verify")


def _spool_shard(store_url: str, folder: pathlib.Path, numbered: tuple[int, str]) -> None:
    """Append the shingles of a shard's wanted texts, runs of five words and of three, to the spool, and note where those of each lie."""
    number, shard = numbered
    wanted = pq.read_table(folder / "wanted.parquet", filters=[("number", "=", number)])
    rows, ordinals = wanted["row"].to_numpy(), wanted["text"].to_numpy()
    spooled = np.load(folder / "texts.npy", mmap_mode="r+")
    first = 0
    with Store(store_url).open(f"corpus/{shard}") as handle, open(folder / "shingles.bin", "ab") as spool:
        for batch in pq.ParquetFile(handle, page_checksum_verification=True).iter_batches(_BATCH_ROWS, columns=["doc_id", "text"]):
            low, high = np.searchsorted(rows, [first, first + batch.num_rows])
            for piece in pieces(batch.take(pa.array(rows[low:high] - first))):
                texts = TextBatch.from_arrow(piece.column("text"))
                places = np.empty(piece.num_rows, _SPOOLED)
                places["doc_id"] = piece.column("doc_id").to_numpy(zero_copy_only=False).astype("S32")
                for n_words in (minhash.SHINGLE_WORDS, minhash.CONTAINED_WORDS):
                    doc_starts, hashes = minhash.shingles(texts, n_words=n_words)
                    at = _append(spool, hashes)
                    places[f"first_{n_words}"], places[f"last_{n_words}"] = at + doc_starts[:-1], at + doc_starts[1:]
                spooled[ordinals[low : low + piece.num_rows]] = places
                low += piece.num_rows
            first += batch.num_rows


def _append(spool: BinaryIO, hashes: np.ndarray) -> int:
    """Append to the file that all workers append to, and say at which of its numbers these begin."""
    fcntl.flock(spool, fcntl.LOCK_EX)
    at = spool.seek(0, os.SEEK_END) // hashes.itemsize
    hashes.tofile(spool)
    spool.flush()
    fcntl.flock(spool, fcntl.LOCK_UN)
    return at


def _verify_chunk(store_url: str, folder: pathlib.Path, chunk: int) -> None:
    pairs = np.load(folder / f"pairs-{chunk}.npy")
    of_a, of_b = np.load(folder / "texts.npy", mmap_mode="r")[pairs]
    numbers = np.empty((len(_NUMBERS), len(of_a)), np.float32)
    with open(folder / "shingles.bin", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as spool:
        others = np.flatnonzero(np.append(True, pairs[1, 1:] != pairs[1, :-1]))
        for start, end in itertools.pairwise([*others[::_MAPPED_TEXTS], len(of_a)]):
            _compare(of_a[start:end], of_b[start:end], spool, numbers[:, start:end])
            spool.madvise(mmap.MADV_DONTNEED)
    names = [one["doc_id"].tobytes() for one in (of_a, of_b)]
    found = [_texts_of_32(one) for one in names] + [pa.array(one) for one in numbers]
    name = hashlib.sha256(b"".join(names)).hexdigest()[:32]
    Store(store_url).write_table(f"{_FOLDER}/{name}.parquet", pa.table(found, schema=_VERIFIED))


def _compare(of_a: np.ndarray, of_b: np.ndarray, spool: mmap.mmap, numbers: np.ndarray) -> None:
    hashes = np.frombuffer(spool, np.uint64)
    numbers[0] = minhash.jaccard(*_places(of_a, of_b, 5), hashes)
    numbers[1:] = minhash.containment(*_places(of_a, of_b, 3), hashes)


def _places(of_a: np.ndarray, of_b: np.ndarray, n_words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    first_a, last_a, first_b, last_b = (np.ascontiguousarray(one[f"{end}_{n_words}"]) for one in (of_a, of_b) for end in ("first", "last"))
    return first_a, last_a, first_b, last_b


def _texts_of_32(data: bytes) -> pa.Array:
    offsets = np.arange(0, len(data) + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(len(data) // 32, pa.py_buffer(offsets), pa.py_buffer(data))


# One place a text; ordinals follow doc_id, so that "first by doc_id" is "smallest ordinal".
_TEXTS = """
CREATE OR REPLACE TABLE shards AS
SELECT (row_number() OVER (ORDER BY shard) - 1)::UINTEGER AS number, shard
FROM (SELECT shard FROM rows UNION SELECT shard FROM frozen);
CREATE OR REPLACE TABLE texts AS
SELECT (row_number() OVER (ORDER BY doc_id) - 1)::UINTEGER AS text, doc_id, place.number AS number, place."row" AS "row"
FROM (
    SELECT doc_id, min({'number': number, 'row': "row"}) AS place
    FROM (SELECT doc_id, shard, "row" FROM rows UNION ALL SELECT doc_id, shard, "row" FROM frozen) JOIN shards USING (shard)
    GROUP BY doc_id
)
"""

# Keys that more than one text has.
_BANDS = """
CREATE OR REPLACE TABLE shared AS
WITH bands AS MATERIALIZED (SELECT text, unnest(keys) AS key FROM incoming JOIN texts USING (number, "row"))
SELECT text, key, n FROM bands JOIN (SELECT key, count(*) AS n FROM bands GROUP BY key HAVING n > 1) USING (key)
"""

_CANDIDATES = """
CREATE OR REPLACE TABLE candidates AS
WITH placed AS (SELECT text, key, row_number() OVER (PARTITION BY key ORDER BY text) AS place FROM shared)
SELECT DISTINCT a.text AS a, b.text AS b FROM placed AS a JOIN placed AS b ON a.key = b.key AND a.place < b.place AND a.place <= {hot_band}
"""

_KNOWN = """
CREATE OR REPLACE TABLE verified AS
SELECT a.text AS a, b.text AS b, any_value(similarity) AS similarity,
    any_value(containment_a) AS containment_a, any_value(containment_b) AS containment_b
FROM incoming JOIN texts AS a ON doc_a = a.doc_id JOIN texts AS b ON doc_b = b.doc_id
GROUP BY ALL
"""

_MISSING = "CREATE OR REPLACE TABLE missing AS SELECT a, b FROM candidates ANTI JOIN verified USING (a, b)"

_WANTED = """
SELECT text, number, "row" FROM texts WHERE text IN (SELECT a FROM missing UNION ALL SELECT b FROM missing) ORDER BY number, "row"
"""

_WANTED_SHARDS = f"SELECT number, shard FROM shards SEMI JOIN ({_WANTED}) USING (number) ORDER BY number"

_EDGES = """
CREATE OR REPLACE TABLE edges AS
SELECT a.doc_id AS doc_a, b.doc_id AS doc_b, similarity, containment_a, containment_b
FROM candidates JOIN verified USING (a, b)
JOIN texts AS a ON candidates.a = a.text JOIN texts AS b ON candidates.b = b.text WHERE {is_edge}
"""

_COUNTS = """
SELECT (SELECT count(*) FROM candidates), (SELECT count(*) FROM edges),
    coalesce(sum(n * (n - 1) // 2 - ({hot_band} * n - {hot_band} * ({hot_band} + 1) // 2)), 0)::BIGINT
FROM (SELECT DISTINCT key, n FROM shared WHERE n > {hot_band})
"""
