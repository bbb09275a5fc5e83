"""One peer in a process of its own: text in, MinHash signatures out, once for every line on stdin.

    python bench/peers/signatures.py NAME DOCUMENTS.parquet WORD_EXPRESSION.txt

Runs in the environment of bench/requirements-peers.txt and imports nothing of ours. Prints "ready", or what is not installed; then the
seconds of each run, waiting in between, so that contestants take turns. Every peer makes 112 values of word 5-grams of lower-cased text,
on a path that it documents. Those that do not find words themselves get ours, by one compiled regular expression.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import pyarrow.parquet as pq

_N_PERMS = 112
_N_WARM_UP = 100

FindWords = Callable[[str], list[str]]
Sign = Callable[[list[str]], object]


def main() -> None:
    name, documents_path, expression_path = sys.argv[1:]
    texts = pq.read_table(documents_path)["text"].to_pylist()
    with open(expression_path, encoding="utf-8") as file:
        find_words = re.compile(file.read()).findall
    try:
        sign = PEERS[name](find_words)
    except ImportError as error:
        print(error)
        return
    sign(texts[:_N_WARM_UP])
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        sign(texts)
        print(time.perf_counter() - start, flush=True)


def _shingles(find_words: FindWords, texts: list[str]) -> Iterator[list[str]]:
    for text in texts:
        words = find_words(text.lower())
        yield list(map(" ".join, zip(words, words[1:], words[2:], words[3:], words[4:], strict=False)))


def _rensa(find_words: FindWords) -> Sign:
    from rensa import RMinHash

    return lambda texts: RMinHash.digest_matrix_from_token_sets(_shingles(find_words, texts), _N_PERMS, 1)


def _datasketch(find_words: FindWords) -> Sign:
    """As it comes: SHA-1, 32 bits."""
    from datasketch import MinHash

    encoded = lambda texts: ([shingle.encode() for shingle in shingles] for shingles in _shingles(find_words, texts))  # noqa: E731
    return lambda texts: MinHash.bulk(encoded(texts), num_perm=_N_PERMS)


def _datasketch_xxh32(find_words: FindWords) -> Sign:
    """The fastest: half as wide as ours."""
    import xxhash
    from datasketch import MinHash

    return lambda texts: MinHash.bulk(_shingles(find_words, texts), num_perm=_N_PERMS, hashfunc=xxhash.xxh32_intdigest)


def _datasketch_xxh64(find_words: FindWords) -> Sign:
    """As wide as ours."""
    import xxhash
    from datasketch import MinHash

    options = {"num_perm": _N_PERMS, "scheme": "affine64", "hashfunc": xxhash.xxh64_intdigest}
    return lambda texts: MinHash.bulk(_shingles(find_words, texts), **options)


def _datatrove(find_words: FindWords | None) -> Sign:
    """The two steps of MinhashDedupSignature with its defaults (14 x 8), without the files that it writes and sorts."""
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    step = MinhashDedupSignature(tempfile.gettempdir())
    if find_words is not None:
        step.word_tokenizer = type("Words", (), {"word_tokenize": staticmethod(find_words)})()
    return lambda texts: [step.get_signature(shingles) for text in texts if (shingles := step.get_shingles(text)).size]


PEERS: dict[str, Callable[[FindWords], Sign]] = {
    "rensa": _rensa,
    "datasketch": _datasketch,
    "datasketch_xxh32": _datasketch_xxh32,
    "datasketch_xxh64": _datasketch_xxh64,
    "datatrove": lambda _: _datatrove(None),
    "datatrove_our_words": _datatrove,
}


if __name__ == "__main__":
    main()
