"""Compute the facts that are missing: one column file per shard, kind of facts and settings.

Stands between ingest and decide. A shard's text is read once for all facts that lack it, batch by batch, so memory
is one batch of text; a family that is added later computes only itself. Cost: every byte of text is decoded from
Parquet once and walked once per kind of span (words, lines). What takes one document at a time in Python says how fast
it was, a line per shard on stderr, because nothing else here is nearly as slow.
"""

import dataclasses
import functools
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.executor import Run, Size
from curate.recipe import Dedup
from curate.store import Store, digest_of
from filters import FAMILIES, bags, family, minhash, paragraphs, perplexity
from filters.columns import TextBatch
from filters.spec import Family

_BATCH_ROWS, _BATCH_BYTES = 4096, 4_000_000
SIGNAL_TYPES = {"int32": pa.int32(), "float32": pa.float32(), "bool": pa.bool_(), "string": pa.string()}
_NO_DOCUMENTS = pa.record_batch({"doc_id": pa.array([], pa.string()), "text": pa.array([], pa.string())})


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """A file of columns beside each shard: what names it, and how a batch of documents (doc_id, text) becomes its columns.

    `compute` is a module's function, or a partial of one, so that it travels to worker processes; it gets the documents and
    their texts as a TextBatch, whose words and lines are shared by all facts of one pass. It is None where the facts are not made of texts:
    what only the corpus tells is written by who counts it (curate.paragraphs, curate.urls), and annotate is not asked for it.
    """

    name: str
    version: int
    schema: pa.Schema
    compute: Callable[[pa.RecordBatch, TextBatch], Sequence[pa.Array]] | None
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: str | None = None
    is_per_document: bool = False

    @property
    def folder(self) -> str:
        """Where these facts lie, of all shards."""
        settings = digest_of({"version": self.version, "parameters": dict(self.parameters), "model": self.model})[:8]
        return f"cache/signals/{self.name}/v{self.version}-{settings}"

    def path(self, shard: str) -> str:
        """Say where the facts of a shard (relative to corpus/) lie. Row i of the file is row i of the shard."""
        return f"{self.folder}/{shard.rsplit('/', 1)[-1]}"


def family_facts(name: str) -> Facts:
    """Give the facts of a shipped family: a column per signal. `families.facts_of` gives those of a recipe's own, too."""
    found = family(name)
    return Facts(name, found.version, signals_schema(found), functools.partial(_signals, name))


def signals_schema(found: Family) -> pa.Schema:
    """Give the columns of a family."""
    return pa.schema([pa.field(signal.name, SIGNAL_TYPES[signal.type]) for signal in found.signals])


def band_facts(dedup: Dedup) -> Facts:
    """Give the facts that near duplicates are found by: the column `keys`, one key per band; null for short texts."""
    bands, rows = dedup.shape
    parameters = {"bands": bands, "rows": rows, "seed": dedup.seed}
    schema = pa.schema([("keys", pa.list_(pa.uint64(), bands))])
    compute = functools.partial(_bands, bands=bands, rows=rows, seed=dedup.seed)
    return Facts("minhash", minhash.VERSION, schema, compute, parameters)


def annotate(store: Store, shards: Sequence[str], facts: Sequence[Facts], *, run: Run) -> None:
    """Make sure that these facts exist for these shards (paths relative to corpus/)."""
    missing = [shard for shard in shards if _missing(store, shard, facts)]
    if not missing:
        return
    warm_up()  # compiled once here, loaded by the workers
    sizes = [_size(store, shard) for shard in missing]
    run(missing, functools.partial(_annotate_shard, store.url(), tuple(facts)), label="annotate", sizes=sizes)


def warm_up() -> None:
    """Compile the kernels, or load them from their cache, on one short text."""
    batch = TextBatch.from_arrow(pa.array(["A few words [1], to warm the kernels up.\n- twice, and some more of them."]))
    for name in FAMILIES:
        _signals(name, _NO_DOCUMENTS, batch)
    paragraphs.paragraphs(batch, min_words=1)
    bags.bags(batch)
    minhash.band_keys(batch)
    starts, hashes = minhash.shingles(batch)
    minhash.jaccard(starts[:1], starts[1:], starts[:1], starts[1:], hashes)
    minhash.containment(starts[:1], starts[1:], starts[:1], starts[1:], hashes)
    perplexity.overlaps(model := perplexity.fit([batch], order=3), batch)
    perplexity.perplexities(model, batch, min_words=1)


def _signals(name: str, documents: pa.RecordBatch, texts: TextBatch) -> Sequence[pa.Array]:
    found = family(name)
    assert found.compute is not None, f"{name} is not made of texts"
    columns = found.compute(texts)
    return [columns[signal.name] for signal in found.signals]


def _bands(documents: pa.RecordBatch, texts: TextBatch, *, bands: int, rows: int, seed: int) -> Sequence[pa.Array]:
    return [minhash.band_keys(texts, bands=bands, rows=rows, seed=seed)]


def columns_of(facts: Facts, documents: pa.RecordBatch, texts: TextBatch) -> Sequence[pa.Array]:
    """Compute facts that are made of texts, a column for each field of their schema."""
    assert facts.compute is not None, f"{facts.name} is not made of texts"
    return facts.compute(documents, texts)


def _missing(store: Store, shard: str, facts: Sequence[Facts]) -> list[Facts]:
    return [one for one in facts if not store.exists(one.path(shard))]


def _size(store: Store, shard: str) -> Size:
    with store.open(f"corpus/{shard}") as handle:
        parquet = pq.ParquetFile(handle).metadata
    groups = [parquet.row_group(number) for number in range(parquet.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    return Size(parquet.num_rows, sum(column.total_uncompressed_size for column in columns if column.path_in_schema == "text"))


def pieces(documents: pa.RecordBatch) -> list[pa.RecordBatch]:
    """Cut documents (a column `text`) into pieces of 4 MB of text, or of one document that is longer.

    Places of words and lines take three times as much, and the caches of a CPU are small.
    """
    ends = np.cumsum(pc.binary_length(documents.column("text")).to_numpy(zero_copy_only=False), dtype=np.int64)
    firsts = [0, *(np.flatnonzero(np.diff(ends // _BATCH_BYTES)) + 1).tolist(), documents.num_rows]
    return [documents.slice(first, last - first) for first, last in itertools.pairwise(firsts) if last > first]


def _annotate_shard(store_url: str, facts: Sequence[Facts], shard: str) -> None:
    store = Store(store_url)
    missing = _missing(store, shard, facts)
    tables: list[list[pa.RecordBatch]] = [[] for _ in missing]
    seconds = [0.0] * len(missing)
    for one in missing:
        if one.is_per_document:
            columns_of(one, _NO_DOCUMENTS, TextBatch.from_arrow(_NO_DOCUMENTS.column("text")))  # loads what it needs, outside of its time
    with store.open(f"corpus/{shard}") as handle:
        parquet = pq.ParquetFile(handle, page_checksum_verification=True)
        for documents in parquet.iter_batches(_BATCH_ROWS, columns=["doc_id", "text"]):
            for piece in pieces(documents):
                texts = TextBatch.from_arrow(piece.column("text"))
                for place, one in enumerate(missing):
                    started = time.perf_counter()
                    tables[place].append(pa.record_batch(columns_of(one, piece, texts), schema=one.schema))
                    seconds[place] += time.perf_counter() - started
    for place, one in enumerate(missing):
        table = pa.Table.from_batches(tables[place], schema=one.schema)
        store.write_table(one.path(shard), table)
        if one.is_per_document:
            rate = table.num_rows / max(seconds[place], 1e-9)
            sys.stderr.write(f"{one.name}: {table.num_rows:,} docs at {rate:,.0f} docs/s (Python, document by document)\n")
