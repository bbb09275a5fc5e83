"""How do time and memory grow from text to verified edges, and how many planted near copies are found?

    python bench/edges.py [--full] [--docs N ...] [--workers N] [--memory SIZE]

Documents of 100 to 300 words drawn from 60,000 made-up ones, frequent ones first. Every fifth is a copy of an earlier document with words
replaced, between none and one in sixteen; every hundredth is one template of 180 words with 20 of its own, so that at 10 million documents
100,000 share band keys. Each size goes through the code of a build in a process of its own: ingest of Parquet files, band keys, then
`edges.link` at the recipe's defaults. Generating and checking are not timed. Memory is that of the whole process tree, pages that
processes share counted once, sampled ten times a second; "anonymous" leaves out pages of files, which the machine can take back.

A planted pair counts by its true Jaccard similarity over runs of five words, reckoned from the numbers of the words, not from text. By
default 20,000 and 40,000 documents; --full takes 1, 2, 5 and 10 million, which needs 40 GB of disk.
Fails when an edge states another similarity than a planted pair has, or when fewer planted pairs are found than bands and rows promise
(four standard errors below); never on a time.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import pathlib
import sys
import tempfile
import time

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common.memory import Watch
from rich.console import Console
from rich.table import Table

from curate import edges, executor
from curate.annotate import annotate, band_facts
from curate.ingest import ingest
from curate.recipe import KEPT_SIMILARITY, Dedup, Source
from curate.store import Store
from filters.kernels import fmix64, jit

_N_VOCABULARY = 60_000
_N_DRAWS = 1 << 16
_CHUNK_DOCS = 50_000
_LONGEST = 300
_COPY_EVERY, _TEMPLATE_EVERY = 5, 100
_TEMPLATE_WORDS, _OWN_WORDS = 180, 20
_FROM = (0.8, 0.9, 0.95)


@jit
def _random(a: int, b: int) -> np.uint64:
    """Give the random number that these two numbers name."""
    return fmix64(fmix64(np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)) ^ np.uint64(b))


@jit
def _original(doc: int, draws: np.ndarray, words: np.ndarray) -> int:
    """Write the words of a document that is no copy, and say how many there are."""
    if doc % _TEMPLATE_EVERY == 7:
        for k in range(_TEMPLATE_WORDS + _OWN_WORDS):
            words[k] = draws[_random(7 if k < _TEMPLATE_WORDS else doc + 8, k) & np.uint64(_N_DRAWS - 1)]
        return _TEMPLATE_WORDS + _OWN_WORDS
    n = 100 + int(_random(doc, _LONGEST) % np.uint64(_LONGEST - 99))
    for k in range(n):
        words[k] = draws[_random(doc, k) & np.uint64(_N_DRAWS - 1)]
    return n


@jit
def _base(doc: int) -> int:
    """Name the document that this one is a copy of; -1 where it is none."""
    if doc % _COPY_EVERY != _COPY_EVERY - 1:
        return -1
    base = int(_random(doc, 1000) % np.uint64(doc))
    return base - base % _COPY_EVERY + (0 if (base - base % _COPY_EVERY) % _TEMPLATE_EVERY != 7 else 1)


@jit
def _words(doc: int, draws: np.ndarray, words: np.ndarray) -> int:
    base = _base(doc)
    if base < 0:
        return _original(doc, draws, words)
    n = _original(base, draws, words)
    # Of 65,536 words this many are replaced: none to one in sixteen.
    n_replaced = _random(doc, 1001) & np.uint64(4095)
    for k in range(n):
        drawn = _random(doc, k)
        if (drawn >> np.uint64(32)) & np.uint64(65535) < n_replaced:
            words[k] = draws[drawn & np.uint64(_N_DRAWS - 1)]
    return n


@jit
def _write(first: int, n_docs: int, draws: np.ndarray, letters: np.ndarray, ends: np.ndarray, data: np.ndarray, offsets: np.ndarray) -> int:
    words = np.empty(_LONGEST, np.int64)
    at = 0
    for i in range(n_docs):
        n = _words(first + i, draws, words)
        for k in range(n):
            for j in range(ends[words[k]], ends[words[k] + 1]):
                data[at] = letters[j]
                at += 1
            data[at] = 10 if k % 50 == 49 else 32
            at += 1
        at -= 1
        offsets[i + 1] = at
    return at


@jit
def _runs(words: np.ndarray, n: int) -> np.ndarray:
    found = np.empty(n - 4, np.uint64)
    for i in range(n - 4):
        run = np.uint64(0)
        for k in range(i, i + 5):
            run = run * np.uint64(1_000_003) + np.uint64(words[k])
        found[i] = fmix64(run)
    return np.unique(found)


@jit
def _planted(n_docs: int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Name all planted pairs, and the true similarity of each."""
    n_pairs = n_docs // _COPY_EVERY
    copies, bases, similarity = np.empty(n_pairs, np.int64), np.empty(n_pairs, np.int64), np.empty(n_pairs)
    words, pair = np.empty(_LONGEST, np.int64), 0
    for doc in range(_COPY_EVERY - 1, n_docs, _COPY_EVERY):
        copies[pair], bases[pair] = doc, _base(doc)
        a = _runs(words, _words(doc, draws, words))
        b = _runs(words, _words(bases[pair], draws, words))
        i, j, n_both = 0, 0, 0
        while i < len(a) and j < len(b):
            left, right = a[i], b[j]
            n_both += left == right
            i += left <= right
            j += right <= left
        similarity[pair] = n_both / (len(a) + len(b) - n_both)
        pair += 1
    return copies[:pair], bases[:pair], similarity[:pair]


def _vocabulary() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give which word each of the draws is (log-uniform, as word frequencies roughly are), the words' letters, and where each begins.

    The first four letters tell a word from all others; up to three more give it a length.
    """
    draws = (np.exp(np.arange(_N_DRAWS) / _N_DRAWS * math.log(_N_VOCABULARY)) - 1).astype(np.int64)
    numbers = np.arange(_N_VOCABULARY) * 7919 % 26**4
    lengths = 4 + numbers // 26 % 4
    ends = np.concatenate([[0], np.cumsum(lengths)])
    letters = (97 + np.arange(ends[-1]) % 26).astype(np.uint8)
    for place in range(4):
        letters[ends[:-1] + place] = 97 + numbers // 26**place % 26
    return draws, letters, ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="1, 2, 5 and 10 million documents")
    parser.add_argument("--docs", type=int, nargs="+", help="these numbers of documents instead")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--memory", default="2GB", help="memory for DuckDB (default: 2GB; a build takes it as --memory)")
    parser.add_argument("--root", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.root:
        _link(args.root, args.workers, args.memory)
        return 0
    sizes = args.docs or ([1_000_000, 2_000_000, 5_000_000, 10_000_000] if args.full else [20_000, 40_000])
    table = Table(
        "documents", "GB", "ingest s", "band keys s", "edges s", "in all s", "peak MB", "anonymous", "candidates", "edges", "skipped"
    )
    for lowest in _FROM:
        table.add_column(f"found from {lowest}")
    table.add_column("promised")
    faults, points = [], []
    for n_docs in sizes:
        with tempfile.TemporaryDirectory() as folder:
            n_bytes = _generate(pathlib.Path(folder) / "pool", n_docs)
            watch = Watch()
            told = watch.run([sys.executable, __file__, "--root", folder, "--workers", str(args.workers), "--memory", args.memory])
            seconds, linked = json.loads(told.splitlines()[-1])
            recall, promised, wrong = _check(folder, n_docs)
        all_s = sum(seconds.values())
        points.append((n_docs, all_s))
        table.add_row(
            f"{n_docs:,}", f"{n_bytes / 1e9:.2f}", *(f"{one:.1f}" for one in seconds.values()), f"{all_s:.1f}", f"{watch.peak_mb:,.0f}",
            f"{watch.peak_anonymous_mb:,.0f}", *(f"{linked[name]:,}" for name in ("n_candidates", "n_edges", "n_skipped")),
            *(f"{found:.2%}" for found, _ in recall), f"{promised[0]:.2%}",
        )  # fmt: skip
        Console(width=190).print(table)
        print(f"  peak MB by stage: {watch.told()}")
        faults += [f"{n_docs:,} documents: {wrong:,} edges state another similarity than their planted pair has"] if wrong else []
        for (found, n), expected, lowest in zip(recall, promised, _FROM, strict=True):
            if found < expected - 4 * math.sqrt(expected * (1 - expected) / max(n, 1)):
                faults.append(f"{n_docs:,} documents: {found:.2%} of the planted pairs from {lowest} found, {expected:.2%} promised")
    if len(points) > 1:
        print(f"time grows with documents to the power of {np.polyfit(*np.log(np.array(points)).T, 1)[0]:.2f}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _generate(folder: pathlib.Path, n_docs: int) -> int:
    """Write the documents as Parquet files of 50,000 (id, text); say how many bytes of text there are."""
    folder.mkdir(parents=True)
    with multiprocessing.Pool(2) as pool:
        starts = range(0, n_docs, _CHUNK_DOCS)
        return sum(pool.starmap(_generate_file, [(folder, start, min(_CHUNK_DOCS, n_docs - start)) for start in starts], chunksize=1))


def _generate_file(folder: pathlib.Path, first: int, n_docs: int) -> int:
    draws, letters, ends = _vocabulary()
    data, offsets = np.empty(n_docs * _LONGEST * 8, np.uint8), np.zeros(n_docs + 1, np.int64)
    n_bytes = _write(first, n_docs, draws, letters, ends, data, offsets)
    texts = pa.LargeStringArray.from_buffers(n_docs, pa.py_buffer(offsets), pa.py_buffer(data[:n_bytes]))
    ids = pa.array(np.arange(first, first + n_docs)).cast(pa.string())
    pq.write_table(pa.table({"id": ids, "text": texts}), folder / f"{first:010}.parquet", compression="zstd", compression_level=1)
    return n_bytes


def _link(root: str, workers: int, memory: str) -> None:
    """From text files to the edges' file, with the seconds of each stage and the counts on the last line of stdout."""
    store, run = Store(root), executor.local(workers)
    seconds, started = {}, time.perf_counter()

    def _lap(name: str) -> None:
        nonlocal started
        seconds[name] = time.perf_counter() - started
        started = time.perf_counter()

    ingested = ingest(store, [Source(name="pool", path=(f"{root}/pool",))], run=run)["pool"]
    shards = [shard.path.removeprefix("corpus/") for shard in ingested.shards]
    _lap("ingest")
    bands = band_facts(Dedup())
    annotate(store, shards, [bands], run=run)
    _lap("band keys")
    with store.scratch() as folder:
        folder.mkdir()
        with duckdb.connect(f"{folder}/link.duckdb", config={"memory_limit": memory, "temp_directory": f"{folder}/spill"}) as connection:
            for name in ("rows", "frozen"):
                connection.execute(f'CREATE TABLE {name} (doc_id VARCHAR, shard VARCHAR, "row" INTEGER)')
            for shard in ingested.shards:
                connection.execute(
                    "INSERT INTO rows SELECT doc_id, ?, file_row_number FROM read_parquet(?, file_row_number = true)",
                    [shard.path.removeprefix("corpus/"), store.url(shard.path)],
                )
            linked = edges.link(store, connection, bands, run=run)
    _lap("edges")
    print(json.dumps([seconds, {"n_candidates": linked.n_candidates, "n_edges": linked.n_edges, "n_skipped": linked.n_skipped}]))


def _check(root: str, n_docs: int) -> tuple[list[tuple[float, int]], list[float], int]:
    """Compare what was verified with what was planted: from each of _FROM on the share that was found and of how many, the share that
    bands and rows promise, and how many edges state another similarity."""
    copies, bases, similarity = _planted(n_docs, _vocabulary()[0])
    store = Store(root)
    with duckdb.connect(config={"memory_limit": "4GB", "temp_directory": f"{root}/check"}) as connection:
        connection.register("planted", pa.table({"copy": copies, "base": bases, "similarity": similarity.astype(np.float32)}))
        shards, pairs = ([store.url(path) for path in paths] for paths in (store.files("corpus", ".parquet"), edges.edge_paths(store)))
        connection.execute("CREATE TABLE named AS SELECT source_id::BIGINT AS doc, doc_id FROM read_parquet(?)", [shards])
        connection.execute(
            """
            CREATE TABLE checked AS
            SELECT planted.similarity AS planted, found.similarity AS found
            FROM planted JOIN named AS a ON copy = a.doc JOIN named AS b ON base = b.doc
            LEFT JOIN read_parquet(?) AS found ON doc_a = least(a.doc_id, b.doc_id) AND doc_b = greatest(a.doc_id, b.doc_id)
            WHERE a.doc_id <> b.doc_id
            """,
            [pairs],
        )
        true, was_found = (
            connection.sql(f"SELECT {one} AS one FROM checked").fetchnumpy()["one"] for one in ("planted", "found IS NOT NULL")
        )
        wrong = connection.sql(f"SELECT count(*) FROM checked WHERE found <> planted AND planted >= {KEPT_SIMILARITY}").fetchall()[0][0]
    promised = _promised(true.astype(np.float64))
    masks = [true >= np.float32(lowest) for lowest in _FROM]
    return [(float(was_found[one].mean()), int(one.sum())) for one in masks], [float(promised[one].mean()) for one in masks], wrong


def _promised(similarity: np.ndarray) -> np.ndarray:
    bands, rows = Dedup().shape
    return 1 - (1 - similarity**rows) ** bands


if __name__ == "__main__":
    sys.exit(main())
