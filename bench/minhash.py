"""How fast are MinHash signatures, from text to 112 values, beside datatrove, rensa and datasketch, and is their estimate right?

    python bench/minhash.py [--full] [--jsonl PATH ...]

Speed: every contestant gets the same documents and one thread, and they take turns; the table shows medians. By default generated text
and the peers whose environment (.venv-peers) is there; --full takes 3,000 documents of ../shared/corpora, or the files named,
and makes that environment first. Peers other than datatrove get our words, by one regular expression that this checks against them.

Estimate: on 10,000 pairs the share of equal values against the Jaccard similarity of the shingles: by default documents and copies of
which a part is replaced, with --full overlapping windows of papers and revisions of Wikipedia introductions.

Fails when a signature differs from datasketch's over the shingles of the plain Python twin, when the expression finds other words, or
when the estimate is biased or spread otherwise than it should; never on a time.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import pathlib
import random
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import datasketch
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common.contest import PEERS_DIR, ROOT, Peer, batches, in_turns, peers_python, time_s
from common.texts import CORPORA, generated_texts, mixture, texts_of
from common.words import word_expression, wrong_words

from filters import minhash
from filters.columns import TextBatch

_N_PERMS = 112
_N_RUNS = 5
_N_PAIRS = 10_000
_MIN_BIN_PAIRS = 300
_PEERS = {
    "rensa": "rensa RMinHash, 32 bits",
    "datasketch_xxh32": "datasketch bulk, xxh32, 32 bits",
    "datasketch_xxh64": "datasketch bulk, xxh64, 64 bits",
    "datasketch": "datasketch bulk, as it comes",
    "datatrove_our_words": "datatrove, our words",
    "datatrove": "datatrove, as it comes",
}


def main() -> int:
    args = _parse_args()
    rng = random.Random(0)
    if args.jsonl:
        texts = [text for path in args.jsonl for text in texts_of(path)]
    elif args.full:
        texts = mixture(rng)
    else:
        texts = list(generated_texts(rng, 600))
    problems = [*wrong_words(texts), *_wrong_signatures(rng.sample(texts, min(len(texts), 200)))]
    _print_speed(texts, peers_python(make=args.full))
    problems += _print_estimate(_real_pairs(rng) if args.full else _generated_pairs(rng))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="real documents and pairs (../shared/corpora), and all peers")
    parser.add_argument("--jsonl", metavar="PATH", nargs="+", help="time these JSON Lines files instead: plain, .gz or .zst")
    return parser.parse_args()


def _wrong_signatures(texts: list[str]) -> list[str]:
    sys.path.insert(0, str(ROOT))
    from tests.filters import minhash_twin

    signatures, has_signature = minhash.signatures(TextBatch.from_arrow(pa.array(texts)), n_perms=_N_PERMS, seed=1)
    n_wrong = 0
    for text, row, has in zip(texts, signatures, has_signature, strict=True):
        expected = datasketch.MinHash(_N_PERMS, seed=1, scheme="affine64", hashfunc=lambda shingle: shingle)
        shingles = minhash_twin.shingles(text)
        expected.update_batch(shingles if len(shingles) >= minhash.MIN_SHINGLES else [])
        n_wrong += row.tolist() != expected.hashvalues.tolist() or has == expected.is_empty()
    return [f"{n_wrong} of {len(texts)} signatures differ from datasketch's"] if n_wrong else []


def _print_speed(texts: list[str], python: pathlib.Path) -> None:
    column, find_words, find_word_chars = (
        pa.array(texts, pa.large_string()),
        re.compile(word_expression()).findall,
        re.compile(r"\w+").findall,
    )
    contestants: dict[str, Callable[[], float]] = {
        "gapless": lambda: time_s(lambda: [minhash.signatures(batch, n_perms=_N_PERMS) for batch in batches(column)], n_times=10),
        "gapless, words only": lambda: time_s(lambda: [batch.words for batch in batches(column)], n_times=10),
        r"re.findall(r'\w+')": lambda: time_s(lambda: [find_word_chars(text) for text in texts]),
        "our words as an expression": lambda: time_s(lambda: [find_words(text) for text in texts]),
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        paths = pathlib.Path(folder, "documents.parquet"), pathlib.Path(folder, "expression.txt")
        pq.write_table(pa.table({"text": column}), paths[0])
        paths[1].write_text(word_expression(), encoding="utf-8")
        for name, label in _PEERS.items():
            peer = stack.enter_context(Peer(python, "signatures.py", name, *paths))
            if peer.state == "ready":
                contestants[label] = peer.time_s
            else:
                print(f"left out: {label} ({peer.state}); --full makes {PEERS_DIR.name}")
        times_s = in_turns(contestants, _N_RUNS)
    n_mb = sum(len(text.encode()) for text in texts) / 1e6
    n_not_ascii = sum(not text.isascii() for text in texts)
    print(f"{len(texts):,} documents, {n_mb:.1f} MB, {n_not_ascii:,} not only ASCII; one thread, median of {_N_RUNS} runs in turn")
    print(f"{'':32} {'s':>8} {'docs/s':>8} {'MB/s':>7} {'gapless is':>10}   fastest..slowest")
    ours_s = statistics.median(times_s["gapless"])
    for label, runs_s in times_s.items():
        median_s = statistics.median(runs_s)
        rates = f"{len(texts) / median_s:8,.0f} {n_mb / median_s:7.2f} {median_s / ours_s:9.1f}x"
        print(f"{label:32} {median_s:8.4f} {rates}   {min(runs_s):.4f}..{max(runs_s):.4f}")


def _generated_pairs(rng: random.Random) -> Iterator[tuple[str, str]]:
    vocabulary = ["".join(rng.choices("etaoinshrdlu\u00e9\u00df", k=rng.randint(1, 10))) for _ in range(5000)]
    while True:
        words = rng.choices(vocabulary, k=rng.randint(40, 300))
        n_replaced = rng.randint(0, len(words))
        first = rng.randint(0, len(words) - n_replaced)
        copy = words[:first] + rng.choices(vocabulary, k=n_replaced) + words[first + n_replaced :]
        yield " ".join(words), " ".join(copy)


def _real_pairs(rng: random.Random) -> Iterator[tuple[str, str]]:
    """One pair in five are revisions of an introduction, the others windows of papers, overlapping by any share."""
    with io.BufferedReader(pa.input_stream(str(CORPORA / "dedup-labelled" / "wiki-revision-pairs.jsonl.gz"))) as file:
        rows = [json.loads(row) for row in file]
    revisions = [(row["text_a"], row["text_b"]) for row in rows if row["label"] == 1]
    yield from rng.sample(revisions, _N_PAIRS // 5)
    for path in sorted((CORPORA / "medical-papers").iterdir()):
        for text in texts_of(path):
            words, place = text.split(), 0
            while place + 800 < len(words):
                width, similarity = rng.randint(60, 400), rng.random()
                shift = round(width * (1 - similarity) / (1 + similarity))
                yield " ".join(words[place : place + width]), " ".join(words[place + shift : place + shift + width])
                place += shift + width


def _print_estimate(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Compare estimates with similarities in ten bins; say what is off in bins of at least 300 pairs."""
    texts = [text for pair in itertools.islice(pairs, _N_PAIRS) for text in pair]
    batch = TextBatch.from_arrow(pa.array(texts, pa.large_string()))
    signatures, has_signature = minhash.signatures(batch, n_perms=_N_PERMS)
    starts, hashes = minhash.shingles(batch)
    similarity = minhash.jaccard(starts[:-1:2], starts[1::2], starts[1:-1:2], starts[2::2], hashes)
    estimate = (signatures[::2] == signatures[1::2]).mean(axis=1)
    is_signed = has_signature[::2] & has_signature[1::2]
    problems = []
    if np.any((estimate != similarity)[is_signed & ((similarity == 0) | (similarity == 1))]):
        problems.append("pairs without or with all shingles in common are not estimated as 0 or 1")
    is_between = is_signed & (similarity > 0) & (similarity < 1)
    print(
        f"\n{is_signed.sum():,} pairs with signatures of {_N_PERMS} values, of which {is_between.sum():,} have a similarity between 0 and 1"
    )
    print(f"{'similarity':12} {'pairs':>6} {'bias':>8} {'std error':>9} {'std dev':>8} {'expected':>8}")
    for tenth in range(10):
        chosen = is_between & (similarity >= tenth / 10) & (similarity < (tenth + 1) / 10)
        n = int(chosen.sum())
        if n == 0:
            continue
        errors = (estimate - similarity)[chosen]
        variance = float((similarity * (1 - similarity))[chosen].mean()) / _N_PERMS
        bias, std_error = float(errors.mean()), (variance / n) ** 0.5
        label = f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}"
        print(f"{label:12} {n:6,} {bias:+8.4f} {std_error:9.4f} {float(errors.std()):8.4f} {variance**0.5:8.4f}")
        if n >= _MIN_BIN_PAIRS and (abs(bias) > 4 * std_error or abs(float(errors.var()) / variance - 1) > 0.25):
            problems.append(f"similarity {label}: the estimate is off")
    return problems


if __name__ == "__main__":
    sys.exit(main())
