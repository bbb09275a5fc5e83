"""What does a decision cost once texts are read and tokens counted? Generated rows, 1 and 10 million of them with --full.

    python bench/decisions.py [--full] [--rows N ...] [--workers N]

Each row has 20 to 60 words; a twentieth are copies, another twentieth near copies. A first build reads, annotates, scores and counts them.
Then whole commands, each in a process of its own, medians of five (of three from 10 million rows on) after one that warms up: builds of
changed thresholds, each of which publishes a version (the tokens of rows that no version held are counted), and `curate try` of the
same thresholds. Then the ten questions of manifests/README.md over the versions in one session of curate.connect, medians of three.
Memory is that of the process tree, of the command that warms up.

Fails when `try` says another outcome than the build, when a row is not in the manifest exactly once, or when a question finds
nothing; never on a time.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from common.memory import Watch
from rich.console import Console
from rich.table import Table

from curate.sql import connect, select

_PAGE = pathlib.Path(__file__).resolve().parents[1] / "manifests" / "README.md"
_BLOCK = 100_000
_SOURCES = {"pool": 0.6, "web": 0.3, "wiki": 0.1}
_STOP_WORDS = ["the", "of", "and", "to", "be", "that", "have", "with"]
_RECIPE = """
extends = "medical"
domain = "scale"
[quality]
dim = 8
bucket = 10000
rounds = 1
[select]
budget_tokens = {budget}
[mix]
shares = {{ domain = 0.8, wikipedia = 0.2 }}
epochs = 1
[gopher_quality]
min_words = 25
[dedup]
max_share = 0.9
[tokenizer]
vocab_size = 4096
max_fit_bytes = 3000000
[sources.pool]
path = "data/pool"
fields = {{ url = "url", date = "date" }}
[sources.web]
path = "data/web"
fields = {{ url = "url", date = "date" }}
[sources.wiki]
path = "data/wiki"
role = "replay"
component = "wikipedia"
[sources.reference]
path = "data/reference"
role = "reference"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="1 and 10 million rows")
    parser.add_argument("--rows", type=int, nargs="+", help="how many rows (default: 20000)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    args = parser.parse_args()
    costs = Table("rows", "what", "median s", "all s", "peak MB")
    asked = Table("rows", *(f"{number}." for number in range(1, 11)), title="questions of manifests/README.md, median s")
    for n_rows in args.rows or ([1_000_000, 10_000_000] if args.full else [20_000]):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            _write(folder, n_rows)
            _costs(folder, n_rows, args.workers, costs)
            asked.add_row(f"{n_rows:,}", *(f"{seconds:.2f}" for seconds in _questions(str(folder / "root"), n_rows)))
        Console(width=150).print(costs, asked)


def _write(folder: pathlib.Path, n_rows: int) -> None:
    """Write the sources as Parquet, a block at a time."""
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghilmnoprstuv"))
    made = ["".join(generator.choice(letters, size)) for size in generator.integers(3, 10, 5000)]
    words = pa.array([word for word in _STOP_WORDS for _ in range(200)] + made)
    for source, share in _SOURCES.items():
        (folder / "data" / source).mkdir(parents=True)
        left = round(n_rows * share)
        for part in range(-(-left // _BLOCK)):
            texts = _texts(generator, words, min(_BLOCK, left - part * _BLOCK))
            numbers = pa.array(np.arange(len(texts)) + part * _BLOCK).cast(pa.string())
            sites = pa.array(generator.integers(0, 5000, len(texts))).cast(pa.string())
            years = pa.array(generator.integers(1990, 2026, len(texts))).cast(pa.string())
            table = {
                "id": numbers, "text": texts, "date": pc.binary_join_element_wise(years, "01", "01", "-"),
                "url": pc.binary_join_element_wise("https://site", sites, ".example.org/", source, "/", numbers, ""),
            }  # fmt: skip
            pq.write_table(pa.table(table), folder / "data" / source / f"{part:04d}.parquet")
    (folder / "data" / "reference").mkdir()
    reference = _texts(generator, words.slice(0, 3000), 2000)
    pq.write_table(pa.table({"text": reference}), folder / "data" / "reference" / "0.parquet")
    (folder / "recipe.toml").write_text(_RECIPE.format(budget=n_rows * 20))


def _texts(generator: np.random.Generator, words: pa.Array, n: int) -> pa.Array:
    sizes = generator.integers(20, 60, n)
    picked = words.take(pa.array(generator.integers(0, len(words), int(sizes.sum()))))
    bounds = pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    texts = pc.binary_join(pa.ListArray.from_arrays(bounds, picked), " ")
    place = np.arange(n)
    place[10::20] -= 1  # copies, and near copies with another end
    texts = texts.take(pa.array(place - (np.arange(n) % 20 == 15)))
    ends = pa.array(np.where(np.arange(n) % 20 == 15, " ending.", ""))
    return pc.binary_join_element_wise(texts, ends, "")


def _costs(folder: pathlib.Path, n_rows: int, workers: int, table: Table) -> None:
    common = ["--recipe", str(folder / "recipe.toml"), "--root", str(folder / "root")]

    def run(what: str, *commands: list[str]) -> list[str]:
        """Watch the memory of the first, which slows it, and time the others."""
        watch, seconds = Watch(), []
        said = [watch.run([sys.executable, "-m", "curate", *commands[0], *common])]
        for command in commands[1:]:
            started = time.monotonic()
            called = [sys.executable, "-m", "curate", *command, *common]
            said.append(subprocess.run(called, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout)
            seconds.append(time.monotonic() - started)
        seconds = seconds or [watch.seconds]
        every = " ".join(f"{each:.1f}" for each in seconds)
        table.add_row(f"{n_rows:,}", what, f"{statistics.median(seconds):.2f}", every, f"{watch.peak_mb:,.0f}")
        return said

    run("first build", ["build", "--workers", str(workers)])
    numbers = (30, 26, 27, 28, 29, 31) if n_rows <= 1_000_000 else (30, 26, 27, 28)
    limits = [f"--set=gopher_quality.min_words={number}" for number in numbers]
    run("build a changed threshold, a new version", *(["build", "--workers", str(workers), limit] for limit in limits))
    [*_, tried] = run("try a changed threshold", *(["try", "--json", limit] for limit in limits))
    kept = json.loads(tried)["after"]["kept"]
    connection = connect(str(folder / "root"))
    [built] = select(connection, "SELECT count(*) AS rows, sum(n_tokens)::BIGINT AS tokens FROM manifest WHERE split = 'train'").to_pylist()
    if kept["rows"] != built["rows"] or kept["n_tokens"] != built["tokens"]:
        sys.exit(f"try says {kept}, and the build {built}")


def _questions(root: str, n_rows: int) -> list[float]:
    connection = connect(root)
    [n_decided] = select(connection, "SELECT count(*) AS n, count(DISTINCT row_id) AS once FROM manifest").to_pylist()
    if set(n_decided.values()) != {n_rows}:
        sys.exit(f"wrong result: {n_rows} rows were written, the manifest has {n_decided}")
    questions = _PAGE.read_text().split("### Ten questions")[1].split("```sql")[1].split("```")[0].split(";")
    return [_asked(connection, question) for question in questions if question.strip()]


def _asked(connection: object, question: str) -> float:
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        found = select(connection, question)
        seconds.append(time.monotonic() - started)
        if not found.num_rows:
            sys.exit(f"a question found nothing: {question}")
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
