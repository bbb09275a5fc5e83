"""Documents for benches: real ones of ../shared/corpora, and generated ones where these are not there."""

from __future__ import annotations

import io
import json
import pathlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CORPORA = pathlib.Path(__file__).resolve().parents[3] / "shared" / "corpora"
_MIXED_LETTERS = b"cgjklmpqrsuxyz"  # not in: the be to of and that have with
_BATCH_ROWS = 20_000
# 3,000 documents: papers, abstracts, newsgroups, news, whole articles of an encyclopedia.
_MIXTURE = {
    "medical-papers/pmc-rct-00.jsonl.zst": 200,
    "medical-abstracts/pmc-rct-abstracts.jsonl.gz": 900,
    "general-forum/newsgroups.jsonl.zst": 900,
    "general-news/reuters.jsonl.gz": 900,
    "general-wiki/full-articles.jsonl.gz": 100,
}


def texts_of(path: str | pathlib.Path) -> Iterator[str]:
    """Read the texts of a JSON Lines file: plain, .gz or .zst."""
    with io.BufferedReader(pa.input_stream(str(path))) as rows:
        yield from (json.loads(row)["text"] or "" for row in rows)


def mixture(rng: random.Random) -> list[str]:
    """Draw 3,000 real documents."""
    return [text for path, n in _MIXTURE.items() for text in rng.sample(list(texts_of(CORPORA / path)), n)]


def generated_texts(rng: random.Random, n_docs: int) -> Iterator[str]:
    """Sentences of made-up words: most are of ASCII, some have accents, one document in ten is Cyrillic or Chinese."""
    alphabets = (
        ["etaoinshrdlucmfwygpbvk"] * 12
        + ["etaoinshrdlu\u00e9\u00fc\u00f8"] * 6
        + ["\u043e\u0435\u0430\u0438\u043d\u0442\u0441\u0440", "\u7684\u4e00\u662f\u4e0d\u4e86\u5728\u4eba\u6709"]
    )
    vocabularies = [["".join(rng.choices(letters, k=rng.randint(1, 12))) for _ in range(5000)] for letters in alphabets]
    for _ in range(n_docs):
        vocabulary = rng.choice(vocabularies)
        sentences = [" ".join(rng.choices(vocabulary, k=rng.randint(3, 25))).capitalize() for _ in range(rng.randint(1, 40))]
        # A few sentences come again, so that what looks for repetition finds some.
        sentences += rng.choices(sentences, k=rng.randint(0, 3))
        yield "".join(sentence + rng.choice((". ", ".\n", ", 3.5 mg; ", "\n- ", "...\n\n")) for sentence in sentences)


def write_copies(shards: Sequence[str], folder: pathlib.Path, times: int) -> int:
    """Write every shard (a Parquet file with texts) so many times into a folder, each copy in other letters; say how many bytes of text
    there are. No stop word of Gopher's has those letters; all other words change, so that no copy is a near copy of another.
    """
    folder.mkdir(parents=True)
    n_bytes = 0
    for copy in range(times):
        table = _letters(copy)
        for number, shard in enumerate(shards):
            schema = pa.schema([("id", pa.string()), ("text", pa.large_string())])
            with pq.ParquetWriter(folder / f"{copy:02}-{number:03}.parquet", schema, compression="zstd") as writer:
                for first, texts in _batches(shard):
                    n_bytes += texts.get_total_buffer_size()
                    ids = pa.array([f"{copy}-{number}-{first + row}" for row in range(len(texts))])
                    writer.write_table(pa.table([ids, _translated(texts, table)], schema=schema))
    return n_bytes


def _letters(copy: int) -> np.ndarray:
    """Give the byte that each byte becomes in a copy; the first copy stays as it is."""
    table = np.arange(256, dtype=np.uint8)
    if copy:
        mixed = list(_MIXED_LETTERS)
        random.Random(copy).shuffle(mixed)
        table[list(_MIXED_LETTERS)] = mixed
    return table


def _batches(shard: str) -> Iterator[tuple[int, pa.Array]]:
    first = 0
    for batch in pq.ParquetFile(shard).iter_batches(_BATCH_ROWS, columns=["text"]):
        # A copy of its own, so that the buffers hold these texts and no others.
        yield first, pa.concat_arrays([batch.column(0).cast(pa.large_string()), pa.array([], pa.large_string())])
        first += len(batch)


def _translated(texts: pa.Array, table: np.ndarray) -> pa.Array:
    _, offsets, data = texts.buffers()
    mixed = table[np.frombuffer(data, np.uint8)]
    return pa.LargeStringArray.from_buffers(len(texts), offsets, pa.py_buffer(mixed))
