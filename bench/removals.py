"""Are the near duplicates that a real build removes really copies? Removed and kept text side by side, for people to judge.

    python bench/removals.py --full [--root DIR] [--n 200] [--seed 0] [--out removals.txt]

Builds tests/recipes/real.toml (a root that has this version is read as it is), draws removals by hash of their row_id, and writes each
beside the row that stands for it: words of the one that the other lacks in [- -] and {+ +}, long equal stretches cut short. The file
holds text of ../shared/corpora, so it is ignored by git. The summary, without text, says from which source to which rows went and
how alike they were. Fails where the similarity or containment of a drawn removal, measured again in plain Python, is not what the manifest
says.
"""

from __future__ import annotations

import argparse
import collections
import difflib
import hashlib
import itertools
import pathlib
import sys
import tempfile
import textwrap
from typing import Any

import numpy as np
from common.texts import CORPORA
from rich.console import Console
from rich.table import Table

from curate import executor, manifest
from curate.build import build
from curate.recipe_file import read_recipe
from curate.store import Store

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_RECIPE = _ROOT / "tests" / "recipes" / "real.toml"
_COLUMN_CHARS = 78
_MOST_EQUAL_WORDS = 60
_N_WORDS = {"jaccard": 5, "containment": 3}

Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="do it: it takes a build of the real corpus")
    parser.add_argument("--root", metavar="DIR", help="where to build (default: a temporary folder)")
    parser.add_argument("--n", type=int, default=200, help="how many removals to draw (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--out", metavar="PATH", default="removals.txt", help="file to write (default: removals.txt)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the build (default: 2)")
    args = parser.parse_args()
    if not args.full:
        print("left out: --full builds the real recipe and writes removals.txt")
        return 0
    if not CORPORA.is_dir():
        print("left out: ../shared/corpora is not here")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        store = Store(str(args.root or pathlib.Path(folder, "root")))
        built = build(store, read_recipe(store, file=str(_RECIPE)), run=executor.local(args.workers))
        rows = _near_removals(store, built.manifest)
        drawn = sorted(rows, key=lambda row: hashlib.sha256(f"{args.seed}|{row['row_id']}".encode()).digest())[: args.n]
        texts = _texts(store, drawn)
    with open(args.out, "w", encoding="utf-8") as file:
        for number, row in enumerate(drawn, 1):
            file.write(_shown(number, row, texts[row["row_id"]], texts[row["kept_id"]]))
    _print_summary(rows, drawn)
    print(f"wrote {len(drawn)} of {len(rows):,} near-duplicate removals, side by side, to {args.out}")
    problems = _wrong_similarities(drawn, texts)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _near_removals(store: Store, loaded: manifest.Manifest) -> list[Row]:
    with manifest.attach(store, loaded, "m") as connection:
        return connection.sql(_NEAR_REMOVALS).to_arrow_table().to_pylist()


def _texts(store: Store, drawn: list[Row]) -> dict[str, str]:
    wanted: dict[str, list[tuple[int, str]]] = collections.defaultdict(list)
    for row in drawn:
        wanted[row["shard"]].append((row["row"], row["row_id"]))
        wanted[row["kept_shard"]].append((row["kept_row"], row["kept_id"]))
    found = {}
    for shard, places in wanted.items():
        numbers = sorted({number for number, _ in places})
        bodies = store.read_rows(f"corpus/{shard}", numbers, ["text"])["text"].to_pylist()
        body_of = dict(zip(numbers, bodies, strict=True))
        found |= {row_id: body_of[number] for number, row_id in places}
    return found


def _wrong_similarities(drawn: list[Row], texts: dict[str, str]) -> list[str]:
    """Measure again in plain Python: shared word 5-grams per 5-gram of either, or the share of the removed text's 3-grams that is kept."""
    sys.path.insert(0, str(_ROOT))
    from tests.filters.minhash_twin import lower
    from tests.filters.word_twin import words

    def grams(row_id: str, n: int) -> set[tuple[str, ...]]:
        found = [lower(word) for word in words(texts[row_id])]
        return set(zip(*(found[start:] for start in range(n)), strict=False))

    problems = []
    for row in drawn:
        n_words = _N_WORDS[row["kind"]]
        removed, kept = grams(row["row_id"], n_words), grams(row["kept_id"], n_words)
        value = len(removed & kept) / len(removed if row["kind"] == "containment" else removed | kept)
        if abs(value - row["similarity"]) > 1e-6:
            problems.append(f"{row['row_id']}: {row['kind']} with {row['kept_id']} is {value:.4f}, not {row['similarity']:.4f}")
    return problems


def _shown(number: int, row: Row, removed: str, kept: str) -> str:
    names = f"removed {row['source']} {row['source_id']}, kept {row['kept_source']} {row['kept_source_id']}"
    head = f"{number}. {row['kind']} {row['similarity']:.4f}: {names}"
    ids = f"row_id {row['row_id']}, kept {row['kept_id']}; bytes {row['n_bytes']:,} and {row['kept_n_bytes']:,}"
    left, right = (_wrapped(side) for side in _marked(removed, kept))
    lines = [f"{one:{_COLUMN_CHARS}} | {other}".rstrip() for one, other in itertools.zip_longest(left, right, fillvalue="")]
    return "\n".join(["=" * (2 * _COLUMN_CHARS + 3), head, ids, "", *lines, "", ""])


def _marked(removed: str, kept: str) -> tuple[str, str]:
    """Mark the words that only one of the two has, and shorten what is equal in both alike.

    >>> _marked("take 5 mg now", "take 50 mg now")
    ('take [-5-] mg now', 'take {+50+} mg now')
    """
    one_words, other_words = removed.split(), kept.split()
    left, right = [], []
    matcher = difflib.SequenceMatcher(None, one_words, other_words, autojunk=len(one_words) > 2000)
    for kind, first, last, other_first, other_last in matcher.get_opcodes():
        if kind == "equal":
            words = _shortened(one_words[first:last])
            left.append(words)
            right.append(words)
            continue
        left += [f"[-{' '.join(one_words[first:last])}-]"] if last > first else []
        right += [f"{{+{' '.join(other_words[other_first:other_last])}+}}"] if other_last > other_first else []
    return " ".join(left), " ".join(right)


def _shortened(words: list[str]) -> str:
    n_cut = len(words) - _MOST_EQUAL_WORDS
    if n_cut <= 0:
        return " ".join(words)
    half = _MOST_EQUAL_WORDS // 2
    return " ".join([*words[:half], f"<... {n_cut} equal words ...>", *words[-half:]])


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMN_CHARS) or [""]


def _print_summary(rows: list[Row], drawn: list[Row]) -> None:
    table = Table("removed from", "kept in", "kind", "removals", "drawn", "least", "median", "most", "median bytes removed", "kept")
    n_drawn = collections.Counter(_flow(row) for row in drawn)
    flows: dict[tuple[str, str, str], list[Row]] = collections.defaultdict(list)
    for row in rows:
        flows[_flow(row)].append(row)
    for flow, found in sorted(flows.items(), key=lambda item: -len(item[1])):
        values = [row["similarity"] for row in found]
        sizes = [int(np.median([row[key] for row in found])) for key in ("n_bytes", "kept_n_bytes")]
        table.add_row(
            *flow, f"{len(found):,}", str(n_drawn[flow]), f"{min(values):.3f}", f"{np.median(values):.3f}", f"{max(values):.3f}",
            f"{sizes[0]:,}", f"{sizes[1]:,}",
        )  # fmt: skip
    Console(width=150).print(table)


def _flow(row: Row) -> tuple[str, str, str]:
    return row["source"], row["kept_source"], row["kind"]


_NEAR_REMOVALS = """
SELECT gone.row_id, gone.source::VARCHAR AS source, gone.source_id, gone.shard::VARCHAR AS shard, gone."row" AS "row", gone.n_bytes,
    gone.dup_kind AS kind, gone.dup_similarity AS similarity,
    kept.row_id AS kept_id, kept.source::VARCHAR AS kept_source, kept.source_id AS kept_source_id, kept.shard::VARCHAR AS kept_shard,
    kept."row" AS kept_row, kept.n_bytes AS kept_n_bytes
FROM m AS gone JOIN m AS kept ON gone.dup_of = kept.row_id
WHERE gone.dup_kind <> 'exact'
ORDER BY gone.row_id
"""


if __name__ == "__main__":
    sys.exit(main())
