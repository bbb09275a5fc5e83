"""One peer in a process of its own: texts in, rows to remove out, once for every line on stdin.

    python bench/peers/dedup.py NAME DOCUMENTS.parquet WORD_EXPRESSION.txt

Runs in the environment of bench/requirements-peers.txt and imports nothing of ours. Prints "ready", or what is not installed. A line on
stdin names a file; the answer is the seconds that it took, and the file then holds the numbers of the removed rows and the peak memory of
this process in MB, texts included. Texts are in memory before the clock starts. All have 112 values a signature over word 5-grams:

- datatrove: its four MinHash stages as documented (14 x 8), each in its LocalPipelineExecutor with one worker, words of spaCy;
- datatrove_our_words: the same with our words; it still folds accents and numbers, as it comes;
- datasketch: MinHash.bulk, then MinHashLSH at 0.8, which chooses its own bands: a document goes when the index has a candidate, else it
  is inserted. xxh64, our words;
- rensa: RMinHash, then RMinHashDeduplicator at 0.8 with LSH of 14 bands, our words.

The last two would take all documents without a shingle for one; those are kept without asking.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.parquet as pq

_N_PERMS, _N_BANDS, _THRESHOLD, _SEED = 112, 14, 0.8, 1
_N_WARM_UP = 50
_N_CHUNK = 1000

FindWords = Callable[[str], list[str]]
Remove = Callable[[list[str]], list[int]]


def main() -> None:
    name, documents_path, expression_path = sys.argv[1:]
    texts = pq.read_table(documents_path)["text"].to_pylist()
    with open(expression_path, encoding="utf-8") as file:
        find_words = re.compile(file.read()).findall
    try:
        remove = PEERS[name](find_words)
        remove(texts[:_N_WARM_UP])
    except ImportError as error:
        print(" ".join(str(error).split()))
        return
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        removed = remove(texts)
        seconds = time.perf_counter() - start
        with open(line.strip(), "w", encoding="utf-8") as file:
            json.dump({"removed": removed, "peak_mb": _peak_mb()}, file)
        print(seconds, flush=True)


def _peak_mb() -> float:
    # Not getrusage: that counts the process that this one was forked from.
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:"))


def _shingles(find_words: FindWords, texts: list[str]) -> Iterator[list[str]]:
    for text in texts:
        words = find_words(text.lower())
        yield list(map(" ".join, zip(words, words[1:], words[2:], words[3:], words[4:], strict=False)))


def _chunks(texts: list[str]) -> Iterator[list[str]]:
    return (texts[start : start + _N_CHUNK] for start in range(0, len(texts), _N_CHUNK))


def _datasketch(find_words: FindWords) -> Remove:
    import xxhash
    from datasketch import MinHash, MinHashLSH

    options = {"num_perm": _N_PERMS, "scheme": "affine64", "hashfunc": xxhash.xxh64_intdigest}

    def remove(texts: list[str]) -> list[int]:
        index, removed = MinHashLSH(threshold=_THRESHOLD, num_perm=_N_PERMS), []
        signatures = itertools.chain.from_iterable(MinHash.bulk(_shingles(find_words, chunk), **options) for chunk in _chunks(texts))
        for row, signature in enumerate(signatures):
            if signature.is_empty():
                continue
            if index.query(signature):
                removed.append(row)
            else:
                index.insert(row, signature)
        return removed

    return remove


def _rensa(find_words: FindWords) -> Remove:
    from rensa import RMinHash, RMinHashDeduplicator

    def remove(texts: list[str]) -> list[int]:
        index, removed, first = RMinHashDeduplicator(_THRESHOLD, _N_PERMS, True, _N_BANDS, seed=_SEED), [], 0
        for chunk in _chunks(texts):
            shingles = list(_shingles(find_words, chunk))
            signatures = RMinHash.from_token_sets(shingles, _N_PERMS, _SEED)
            for row, (some, signature) in enumerate(zip(shingles, signatures, strict=True), first):
                if some and not index.add(str(row), signature):
                    removed.append(row)
            first += len(chunk)
        return removed

    return remove


def _datatrove(find_words: FindWords | None) -> Remove:
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature

    words = None if find_words is None else type("Words", (), {"word_tokenize": staticmethod(find_words)})()

    def execute(pipeline: list[Any], folder: str, name: str, tasks: int = 1) -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # a page of statistics a stage
            LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{folder}/logs-{name}").run()

    def remove(texts: list[str]) -> list[int]:
        kept: set[int] = set()

        def read(data: Any, rank: int, world_size: int) -> Iterator[Document]:
            yield from (Document(text=text, id=str(row)) for row, text in enumerate(texts))

        def keep(data: Any, rank: int, world_size: int) -> Iterator[Document]:
            for document in data:
                kept.add(int(document.id))
                yield document

        folder = tempfile.mkdtemp()
        signing = MinhashDedupSignature(f"{folder}/signatures")
        if words is not None:
            signing.word_tokenizer = words
        execute([read, signing], folder, "signatures")
        execute([MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets")], folder, "buckets", _N_BANDS)
        execute([MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove")], folder, "cluster")
        execute([read, MinhashDedupFilter(f"{folder}/remove"), keep], folder, "filter")
        shutil.rmtree(folder)
        return [row for row in range(len(texts)) if row not in kept]

    return remove


PEERS: dict[str, Callable[[FindWords], Remove]] = {
    "datasketch": _datasketch,
    "rensa": _rensa,
    "datatrove": lambda _: _datatrove(None),
    "datatrove_our_words": _datatrove,
}


if __name__ == "__main__":
    main()
