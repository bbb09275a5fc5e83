"""How fast are `statistics` and `gopher_quality`, beside a compiled regular expression that only finds the words?

    python bench/rules.py [--parquet PATH | --jsonl PATH] [--column text] [--max-mb 30 | --full]

One process, one thread. Both sides get the same texts in the form that suits them (Arrow array, list of str) and take turns after
a run that warms them up; the table shows medians. Without a path, generated text is used. Fails when our character counts differ
from Python's, never on a time.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from filters import family
from filters.columns import TextBatch

_BATCH_DOCS = 1000
_N_RUNS = 5
_N_GENERATED_DOCS = 8000


def main() -> int:
    args = _parse_args()
    texts = _up_to(_texts(args), sys.maxsize if args.full else args.max_mb * 1_000_000)
    column = pa.array(texts, pa.large_string())
    if _n_chars(column) != [len(text) for text in texts]:
        print("n_chars differs from Python's len", file=sys.stderr)
        return 1
    find_words = re.compile(r"\w+").findall
    contestants: dict[str, Callable[[], object]] = {
        r"re.findall(r'\w+')": lambda: [len(find_words(text)) for text in texts],
        "statistics": lambda: _compute(column, "statistics"),
        "gopher_quality": lambda: _compute(column, "gopher_quality"),
        "statistics + gopher_quality": lambda: _compute(column, "statistics", "gopher_quality"),
    }
    print(f"{len(texts):,} documents, one thread, median of {_N_RUNS} runs in turn")
    _print_table(_time_in_turn(contestants), n_mb=sum(len(text.encode()) for text in texts) / 1e6)
    return 0


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--parquet", metavar="PATH", help="a Parquet file")
    source.add_argument("--jsonl", metavar="PATH", help="a JSON Lines file, plain, .gz or .zst")
    parser.add_argument("--column", default="text", help="the column or field of the text (default: text)")
    parser.add_argument("--max-mb", type=int, default=30, help="stop reading after this much text in MB (default: 30)")
    parser.add_argument("--full", action="store_true", help="all of the file, or ten times as much generated text")
    return parser.parse_args()


def _texts(args: argparse.Namespace) -> Iterator[str]:
    if args.parquet:
        for batch in pq.ParquetFile(args.parquet).iter_batches(columns=[args.column]):
            yield from (text or "" for text in batch.column(0).to_pylist())
    elif args.jsonl:
        with io.BufferedReader(pa.input_stream(args.jsonl)) as rows:
            yield from (json.loads(row)[args.column] or "" for row in rows)
    else:
        yield from _generated_texts(random.Random(0), _N_GENERATED_DOCS * (10 if args.full else 1))


def _generated_texts(rng: random.Random, n_docs: int) -> Iterator[str]:
    letters = "etaoinshrdlucmfwygpbvk\u00e9\u00fc"
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(1, 12))) for _ in range(20_000)] + ["the", "of", "and", "to"] * 500
    for _ in range(n_docs):
        sentences = (" ".join(rng.choices(vocabulary, k=rng.randint(3, 25))) for _ in range(rng.randint(1, 30)))
        yield "".join(sentence + rng.choice((". ", ".\n", "...\n", "\n- ")) for sentence in sentences)


def _up_to(texts: Iterator[str], max_bytes: int) -> list[str]:
    taken: list[str] = []
    n_bytes = 0
    for text in texts:
        n_bytes += len(text.encode())
        if n_bytes > max_bytes:
            break
        taken.append(text)
    return taken


def _n_chars(column: pa.Array) -> list[int]:
    n_chars: list[int] = family("statistics").compute(TextBatch.from_arrow(column))["n_chars"].to_pylist()
    return n_chars


def _compute(column: pa.Array, *names: str) -> list[dict[str, Any]]:
    families = [family(name) for name in names]
    batches = (TextBatch.from_arrow(column.slice(start, _BATCH_DOCS)) for start in range(0, len(column), _BATCH_DOCS))
    return [one.compute(batch) for batch in batches for one in families]


def _time_in_turn(contestants: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    times_s: dict[str, list[float]] = {name: [] for name in contestants}
    for run in range(_N_RUNS + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            # The first turn compiles the kernels or reads them from numba's cache.
            if run > 0:
                times_s[name].append(time.perf_counter() - start)
    return times_s


def _print_table(times_s: dict[str, list[float]], n_mb: float) -> None:
    print(f"{f'{n_mb:.1f} MB':28} {'s':>7} {'MB/s':>7} {'ratio':>7}   fastest..slowest")
    baseline_s = statistics.median(next(iter(times_s.values())))
    for name, runs_s in times_s.items():
        median_s = statistics.median(runs_s)
        print(f"{name:28} {median_s:7.3f} {n_mb / median_s:7.0f} {baseline_s / median_s:7.1f}   {min(runs_s):.3f}..{max(runs_s):.3f}")


if __name__ == "__main__":
    sys.exit(main())
