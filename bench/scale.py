"""How do time and memory of `curate build` grow with the corpus? One corpus, then 4 and 16 of it with changed words.

    python bench/scale.py [--full] [--workers N] [--times 1 4 16]

A copy has letters permuted (those that no stop word of Gopher's has), so its words are others and no copy is a near copy of another, while
lengths, lines and repetition stay as they are. By default the sample corpus, 1 and 4 times; --full takes every candidate and replay
text of tests/recipes/real.toml, 1, 4 and 16 times. Rules, near-duplicate search, decision, tokens: everything but the classifier. Memory
is that of the whole process tree, pages that processes share counted once, sampled ten times a second.

Fails when the rules keep another number of rows of a copy than of the first, or a build fails; never on a time.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys
import tempfile

import pyarrow.parquet as pq
from common.memory import Watch
from common.texts import write_copies
from rich.console import Console
from rich.table import Table

from curate import executor, manifest
from curate.build import ensure_sample
from curate.ingest import ingest
from curate.manifest import attach
from curate.recipe_file import read_recipe
from curate.store import Store

_REAL = pathlib.Path(__file__).resolve().parents[1] / "tests" / "recipes" / "real.toml"
_RECIPE = """
extends = "medical"
domain = "scale"
scorers = []
[select]
order_by = "random"
budget_tokens = {budget}
[mix]
preset = "none"
[tokenizer]
vocab_size = 4096
max_fit_bytes = 10000000
[sources.pool]
path = "pool"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the real corpus")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--times", type=int, nargs="+", help="how many copies (default: 1 4, with --full 1 4 16)")
    args = parser.parse_args()
    table = Table("corpus", "rows", "MB", "build s", "s per GB", "annotate", "peak MB", "again s", "again, peak MB")
    uneven = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        shards = _shards(folder, is_real=args.full)
        for times in args.times or ([1, 4, 16] if args.full else [1, 4]):
            root = folder / f"x{times}"
            n_bytes = write_copies(shards, root / "pool", times)
            (root / "recipe.toml").write_text(_RECIPE.format(budget=n_bytes // 40))
            first_s, first_mb, log = _build(root, args.workers)
            again_s, again_mb, _ = _build(root, args.workers)
            counts = _passed(root)
            if max(counts) > 1.01 * min(counts):
                uneven.append(f"{times}x: {counts}")
            annotated = re.search(r"annotate: .* done in (.*)", log)
            rows = sum(pq.ParquetFile(path).metadata.num_rows for path in shards) * times
            table.add_row(
                f"{times}x", f"{rows:,}", f"{n_bytes / 1e6:,.0f}", f"{first_s:.1f}", f"{first_s / n_bytes * 1e9:.0f}",
                annotated[1] if annotated else "", f"{first_mb:,.0f}", f"{again_s:.1f}", f"{again_mb:,.0f}",
            )  # fmt: skip
            Console(width=150).print(table)
    for line in uneven:
        print(f"the rules keep different numbers of rows of the copies, {line}", file=sys.stderr)
    return 1 if uneven else 0


def _shards(folder: pathlib.Path, *, is_real: bool) -> list[str]:
    store = Store(str(folder / "base"))
    recipe = read_recipe(store, file=str(_REAL)) if is_real else read_recipe(store, domain="medical")
    if not is_real:
        ensure_sample(store)
    ingested = ingest(store, recipe.decided_sources(), run=executor.local(2))
    return [store.url(shard.path) for source in ingested.values() for shard in source.shards]


def _build(root: pathlib.Path, workers: int) -> tuple[float, float, str]:
    """Build in a process of its own: seconds, peak MB of the process tree, and what it said."""
    command = [
        sys.executable,
        "-m",
        "curate",
        "build",
        "--recipe",
        str(root / "recipe.toml"),
        "--root",
        str(root),
        "--workers",
        str(workers),
    ]
    watch = Watch()
    watch.run(command)
    print(f"  peak MB by what was said last: {watch.told()}")
    return watch.seconds, watch.peak_mb, "".join(watch.log)


def _passed(root: pathlib.Path) -> list[int]:
    """Count the rows of each copy that no rule dropped."""
    store = Store(str(root))
    connection = attach(store, manifest.load(store, manifest.versions(store)[-1]), "m")
    query = "SELECT count(*) FROM m WHERE reason IS NULL OR reason NOT LIKE '%.m%' GROUP BY split_part(source_id, '-', 1)::INT ORDER BY 1"
    return [n for (n,) in connection.execute(query).fetchall()]


if __name__ == "__main__":
    sys.exit(main())
