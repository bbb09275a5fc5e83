"""How fast is near-duplicate search beside datatrove, datasketch and rensa, and who removes what is no copy?

    python bench/dedup.py [--full] [--times N] [--runs N]

Every contestant gets the same documents, in the same order, and one core, and they take turns; ingest, imports, compiling and loading
models are not timed. Ours is the code of a build: `annotate` reads the corpus from its Parquet files and writes band keys, `edges.link`
finds and verifies pairs, `keepers` decides (longest first), all at the recipe's defaults; rows that go for containment are left out,
because no peer has it. Its facts and edges are deleted before every run. What the peers do is told in bench/peers/dedup.py.

A removal is right when a row of the same text, or one of a true Jaccard similarity of 0.8 or more over our word 5-grams, is kept, any one;
all such pairs are found without LSH (`labelled.similar_pairs`). Pairs left are those of which both are kept. Peak memory is that of a
contestant's process; the peers hold all texts.

By default generated documents and the peers that are there; --full takes all candidate and replay text of tests/recipes/real.toml,
four times, each copy in other letters, and makes the environment of the peers first. There datatrove with spaCy, which would take the
better part of an hour, gets one source once, general-news, and so do we.
Fails when a removal of ours is wrong, or when we leave more than a tenth of the true pairs; never on a time.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from common.contest import PEERS_DIR, ROOT, Peer, in_turns, peers_python
from common.texts import generated_texts, write_copies
from common.words import word_expression
from labelled import ShingleSets, similar_pairs
from rich.console import Console
from rich.table import Table

from curate import edges, executor
from curate.annotate import annotate, band_facts, warm_up
from curate.ingest import ingest
from curate.keepers import keepers
from curate.recipe import Dedup, Source
from curate.recipe_file import read_recipe
from curate.store import Store

_REAL = ROOT / "tests" / "recipes" / "real.toml"
_SAMPLE_SOURCES = ("general-news",)
_N_DOCS = 900
_MOST_LEFT = 0.1
_OURS = "gapless"
_FAST_PEERS = {"rensa": "rensa, our words", "datasketch": "datasketch, our words", "datatrove_our_words": "datatrove, our words"}
_SLOW_PEERS = {"datatrove": "datatrove, as it comes (spaCy)"}

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """Documents below a root: their shards (relative to corpus/), their texts in this order, and whose texts are alike.

    `text_of` gives each row's distinct text, `alike` the texts of a true similarity at or above the threshold, each way.
    """

    root: str
    shards: tuple[str, ...]
    texts: pa.Array
    text_of: list[int]
    alike: dict[int, list[int]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="real documents (../shared/corpora), and all peers")
    parser.add_argument(
        "--times", type=int, default=4, help="with --full: how many copies of the corpus, each in other letters (default: 4)"
    )
    parser.add_argument("--runs", type=int, default=1, help="runs of each, of which the median counts (default: 1)")
    args = parser.parse_args()
    python, n_runs = peers_python(make=args.full), args.runs
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "root")
        if not args.full:
            return _contest("generated documents", _pool(root, _generated_shards(root)), _FAST_PEERS | _SLOW_PEERS, python, n_runs)
        shards = _real_shards(root)
        sample = [shard for name in _SAMPLE_SOURCES for shard in shards[name]]
        urls = [f"{root}/corpus/{shard}" for found in shards.values() for shard in found]
        many = pathlib.Path(folder, "many")
        write_copies(urls, many / "pool", args.times)
        everything = _ingested(Store(str(many)), (Source("pool", (f"{many}/pool",)),))["pool"]
        code = _contest(f"all candidate and replay text, {args.times} times", _pool(many, everything), _FAST_PEERS, python, n_runs)
        return max(code, _contest(" and ".join(_SAMPLE_SOURCES), _pool(root, sample), _SLOW_PEERS, python, n_runs))


def _real_shards(root: pathlib.Path) -> dict[str, list[str]]:
    store = Store(str(root))
    return _ingested(store, read_recipe(store, file=str(_REAL)).decided_sources())


def _generated_shards(root: pathlib.Path) -> list[str]:
    """Two in three documents stand alone; the others are copies of them, from equal to one changed word in eight."""
    rng = random.Random(0)
    texts = list(generated_texts(rng, _N_DOCS * 2 // 3))
    for text in rng.sample(texts, _N_DOCS - len(texts)):
        words = text.split(" ")
        for place in rng.sample(range(len(words)), rng.randint(0, len(words) // 8)):
            words[place] = f"w{rng.randrange(10**6)}"
        texts.append(" ".join(words))
    rng.shuffle(texts)
    root.mkdir()
    path = root / "generated.jsonl"
    path.write_text("".join(json.dumps({"id": str(row), "text": text}) + "\n" for row, text in enumerate(texts)), encoding="utf-8")
    return _ingested(Store(str(root)), (Source("generated", (str(path),)),))["generated"]


def _ingested(store: Store, sources: Sequence[Source]) -> dict[str, list[str]]:
    found = ingest(store, sources, run=executor.local(1))
    return {name: [shard.path.removeprefix("corpus/") for shard in one.shards] for name, one in found.items()}


def _pool(root: pathlib.Path, shards: list[str]) -> Pool:
    store = Store(str(root))
    columns = [store.read_table(f"corpus/{shard}", ["text"])["text"].combine_chunks().cast(pa.large_string()) for shard in shards]
    texts = pa.concat_arrays(columns)
    distinct = texts.dictionary_encode()
    alike = collections.defaultdict(list)
    for a, b in similar_pairs(ShingleSets.of(distinct.dictionary), Dedup().threshold):
        alike[a].append(b)
        alike[b].append(a)
    return Pool(str(root), tuple(shards), texts, distinct.indices.to_pylist(), alike)


def _contest(title: str, pool: Pool, peers: dict[str, str], python: pathlib.Path, n_runs: int) -> int:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = pathlib.Path(name)
        pq.write_table(pa.table({"text": pool.texts}), folder / "documents.parquet")
        (folder / "expression.txt").write_text(word_expression(), encoding="utf-8")
        contestants: dict[str, Callable[[], float]] = {_OURS: functools.partial(_ours_s, pool, folder / f"{_OURS}.json")}
        for peer_name, label in peers.items():
            peer = stack.enter_context(Peer(python, "dedup.py", peer_name, folder / "documents.parquet", folder / "expression.txt"))
            if peer.state == "ready":
                contestants[label] = functools.partial(peer.time_s, str(folder / f"{label}.json"))
            else:
                print(f"left out: {label} ({peer.state}); --full makes {PEERS_DIR.name}")
        times_s = in_turns(contestants, n_runs)
        results = {label: json.loads((folder / f"{label}.json").read_text(encoding="utf-8")) for label in contestants}
    return _report(title, pool, times_s, results)


def _ours_s(pool: Pool, out_path: pathlib.Path) -> float:
    """Run ours in a process of its own, as the peers are, and write what they write."""
    process = multiprocessing.get_context("spawn").Process(target=_run_ours, args=(pool.root, pool.shards, str(out_path)))
    process.start()
    process.join()
    if process.exitcode != 0:
        sys.exit(f"our own search failed with exit code {process.exitcode}")
    return float(json.loads(out_path.read_text(encoding="utf-8"))["seconds"])


def _run_ours(root: str, shards: Sequence[str], out_path: str) -> None:
    for done in ("signals", "edges"):
        shutil.rmtree(pathlib.Path(root, "cache", done), ignore_errors=True)
    warm_up()
    keepers(1, np.zeros(0, np.int64), np.zeros(0, np.int64))
    start = time.perf_counter()
    removed, steps_s = _search(Store(root), shards)
    seconds = time.perf_counter() - start
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
    found = {"removed": removed, "seconds": seconds, "peak_mb": peak_mb, "steps_s": steps_s}
    pathlib.Path(out_path).write_text(json.dumps(found), encoding="utf-8")


def _search(store: Store, shards: Sequence[str]) -> tuple[list[int], dict[str, float]]:
    """Give the rows that go, counted through the shards, and the seconds of each step."""
    dedup, run = Dedup(), executor.local(1)
    bands, clock = band_facts(dedup), [time.perf_counter()]
    annotate(store, shards, [bands], run=run)
    clock.append(time.perf_counter())
    with duckdb.connect(config={"memory_limit": "400MB", "threads": 1, "temp_directory": store.url("cache/spill")}) as connection:
        connection.execute('CREATE TABLE frozen (doc_id VARCHAR, "group" VARCHAR, shard VARCHAR, "row" INTEGER)')
        connection.execute('CREATE TABLE rows (place BIGINT, doc_id VARCHAR, n_bytes BIGINT, shard VARCHAR, "row" INTEGER)')
        n_rows = 0
        for shard in shards:
            documents = store.read_table(f"corpus/{shard}", ["doc_id", "n_bytes"])
            number = pa.array(np.arange(documents.num_rows))
            connection.register("incoming", documents.append_column("number", number))
            connection.execute("INSERT INTO rows SELECT number + ?, doc_id, n_bytes, ?, number FROM incoming", [n_rows, shard])
            n_rows += documents.num_rows
        edges.link(store, connection, bands, run=run)
        clock.append(time.perf_counter())
        connection.execute(_STANDING)
        pairs = connection.execute(_POINTED, [dedup.threshold]).fetchnumpy()
        gone = connection.execute("SELECT place FROM standing WHERE first <> place").fetchnumpy()["place"].tolist()
        by = keepers(n_rows, pairs["earlier"].astype(np.int64), pairs["later"].astype(np.int64))
        gone += (
            connection.execute(
                "SELECT place FROM standing WHERE first = place AND number IN (SELECT unnest(?))", [np.flatnonzero(by >= 0).tolist()]
            )
            .fetchnumpy()["place"]
            .tolist()
        )
        clock.append(time.perf_counter())
    return sorted(gone), dict(zip(("annotate", "link", "keepers"), np.diff(clock).tolist(), strict=True))


def _report(title: str, pool: Pool, times_s: dict[str, list[float]], results: dict[str, dict]) -> int:
    n_mb = pc.sum(pc.binary_length(pool.texts)).as_py() / 1e6
    n_pairs = sum(map(len, pool.alike.values())) // 2
    n_same = len(pool.text_of) - len(set(pool.text_of))
    head = f"{title}: {len(pool.text_of):,} rows, {n_mb:.1f} MB, {n_same:,} rows repeat a text, {n_pairs:,} pairs of texts are alike"
    table = Table("", "s", "MB/s", "time, of ours", "peak MB", "removed", "right", "wrong", "pairs left", title=head, title_justify="left")
    ours_s, problems = statistics.median(times_s[_OURS]), []
    for label, runs_s in times_s.items():
        removed, seconds = results[label]["removed"], statistics.median(runs_s)
        n_right, n_left = _judged(pool, set(removed))
        table.add_row(
            label, f"{seconds:.2f}", f"{n_mb / seconds:.2f}", f"{seconds / ours_s:.1f}x", f"{results[label]['peak_mb']:,.0f}",
            f"{len(removed):,}", f"{n_right:,}", f"{len(removed) - n_right:,}", f"{n_left:,}",
        )  # fmt: skip
        if label == _OURS and n_right < len(removed):
            problems.append(f"{title}: {len(removed) - n_right} rows that we remove have no kept copy")
        if label == _OURS and n_left > _MOST_LEFT * max(1, n_pairs):
            problems.append(f"{title}: we leave {n_left} of {n_pairs} pairs")
    Console(width=150).print(table)
    print("ours: " + ", ".join(f"{step} {seconds:.2f} s" for step, seconds in results[_OURS]["steps_s"].items()))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _judged(pool: Pool, removed: set[int]) -> tuple[int, int]:
    """Count the removed rows that have a kept copy, and the pairs of texts alike that are both kept, repeated texts included."""
    n_kept = collections.Counter(text for row, text in enumerate(pool.text_of) if row not in removed)
    n_right = sum(any(n_kept[other] for other in (pool.text_of[row], *pool.alike.get(pool.text_of[row], ()))) for row in removed)
    n_repeats = sum(n > 1 for n in n_kept.values())
    n_alike = sum(1 for a, others in pool.alike.items() for b in others if a < b and n_kept[a] and n_kept[b])
    return n_right, n_repeats + n_alike


# Rows in the order of keepers without a score; the first row of a text stands for it, and only that one is compared.
_STANDING = """
CREATE TABLE standing AS
SELECT doc_id, place, first_value(place) OVER (PARTITION BY doc_id ORDER BY place) AS first,
    row_number() OVER (ORDER BY n_bytes DESC, doc_id, place) - 1 AS number
FROM rows
"""

_POINTED = """
WITH texts AS (SELECT doc_id, number FROM standing WHERE first = place)
SELECT least(a.number, b.number) AS earlier, greatest(a.number, b.number) AS later
FROM edges JOIN texts AS a ON doc_a = a.doc_id JOIN texts AS b ON doc_b = b.doc_id
WHERE similarity >= $1::FLOAT ORDER BY later, similarity DESC, earlier
"""


if __name__ == "__main__":
    sys.exit(main())
