"""Time the path from raw files to a version, and what a changed threshold costs afterwards.

Generated text, JSON lines: 20,000 rows by default, a million with --full. Prints a table of wall time, rows/s and MB/s of text, and
the peak memory of this process; the result is checked (every row is decided once, a second build publishes nothing).
"""

import argparse
import json
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from curate import executor, manifest
from curate.build import Built, build
from curate.recipe_file import read_recipe
from curate.store import Store
from curate.verify import verify

_RECIPE = """
[select]
budget_tokens = {budget}
[tokenizer]
vocab_size = 8192
max_fit_bytes = 10000000
[sources.generated]
path = "data"
"""


def _write(folder: pathlib.Path, n_rows: int) -> int:
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["the", "of", "and", "to", *("".join(generator.choice(letters, n)) for n in generator.integers(2, 11, 20_000))]
    n_bytes = 0
    (folder / "data").mkdir()
    for number in range(max(1, n_rows // 50_000)):
        with open(folder / "data" / f"{number:04d}.jsonl", "w") as file:
            for row in range(min(50_000, n_rows)):
                picked = (generator.zipf(1.2, generator.integers(30, 400)) - 1) % len(words)
                text = " ".join(words[index] for index in picked) + "."
                n_bytes += len(text)
                file.write(json.dumps({"id": f"{number}-{row}", "text": text}) + "\n")
    return n_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="a million rows instead of 20,000")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    n_rows = 1_000_000 if options.full else 20_000
    table = Table("what", "wall s", "rows/s", "MB/s of text")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        n_bytes = _write(folder, n_rows)
        (folder / "recipe.toml").write_text(_RECIPE.format(budget=n_bytes // 40))
        store = Store(str(folder / "root"))

        def timed(what: str, call: Callable[[], Built]) -> Built:
            started = time.monotonic()
            built = call()
            wall_s = time.monotonic() - started
            table.add_row(what, f"{wall_s:.1f}", f"{n_rows / wall_s:,.0f}", f"{n_bytes / 1e6 / wall_s:.1f}")
            return built

        def run(*settings: str) -> Built:
            recipe = read_recipe(store, file=str(folder / "recipe.toml"), settings=settings)
            return build(store, recipe, run=executor.local(options.workers))

        first = timed("first build", run)
        again = timed("the same again", run)
        changed = timed("a changed threshold", lambda: run("gopher_quality.min_words=60"))
        started = time.monotonic()
        faults, _ = verify(store, changed.manifest)
        table.add_row("verify", f"{time.monotonic() - started:.1f}", "", "")
        n_decided = sum(manifest.rows(store, first.manifest, split, ["row_id"]).num_rows for split in manifest.SPLITS)
    Console().print(table)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{n_rows:,} rows, {n_bytes / 1e6:.1f} MB of text, {options.workers} workers; peak memory of the main process {peak_mb:.0f} MB")
    if n_decided != n_rows or again.is_new or not changed.is_new or faults:
        sys.exit(f"wrong result: {n_decided} rows decided, second build new: {again.is_new}, faults: {faults}")


if __name__ == "__main__":
    main()
