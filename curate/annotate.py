"""Compute the facts that are missing: one column file per shard, kind of facts and settings.

Stands between ingest and decide. A shard's text is read once for all facts that lack it, batch by batch, so memory
is one batch of text; a family that is added later computes only itself. Cost: every byte of text is decoded from
Parquet once and walked once per kind of span (words, lines).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.executor import Run
from curate.recipe import Dedup
from curate.store import Store, digest_of, parquet_writer
from filters import FAMILIES, family, minhash
from filters.columns import TextBatch

_BATCH_ROWS = 4096
_TYPES = {"int32": pa.int32(), "float32": pa.float32(), "bool": pa.bool_()}


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """A file of columns beside each shard: what names it, and how a batch of documents (doc_id, text) becomes its columns.

    `compute` is a module's function, or a partial of one, so that it travels to worker processes; it gets the documents and
    their texts as a TextBatch, whose words and lines are shared by all facts of one pass.
    """

    name: str
    version: int
    schema: pa.Schema
    compute: Callable[[pa.RecordBatch, TextBatch], Sequence[pa.Array]]
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: str | None = None

    def path(self, shard: str) -> str:
        """Say where the facts of a shard (relative to corpus/) lie. Row i of the file is row i of the shard."""
        settings = digest_of({"version": self.version, "parameters": dict(self.parameters), "model": self.model})[:8]
        return f"cache/signals/{self.name}/v{self.version}-{settings}/{shard.rsplit('/', 1)[-1]}"


def family_facts(name: str) -> Facts:
    """Give the facts of a family: a column per signal."""
    found = family(name)
    schema = pa.schema([pa.field(signal.name, _TYPES[signal.type]) for signal in found.signals])
    return Facts(name, found.version, schema, functools.partial(_signals, name))


def band_facts(dedup: Dedup) -> Facts:
    """Give the facts that near duplicates are found by: the column `keys`, one key per band; null for short texts."""
    parameters = {"bands": dedup.bands, "rows": dedup.rows, "seed": dedup.seed}
    schema = pa.schema([("keys", pa.list_(pa.uint64(), dedup.bands))])
    compute = functools.partial(_bands, bands=dedup.bands, rows=dedup.rows, seed=dedup.seed)
    return Facts("minhash", minhash.VERSION, schema, compute, parameters)


def annotate(store: Store, shards: Sequence[str], facts: Sequence[Facts], *, run: Run) -> None:
    """Make sure that these facts exist for these shards (paths relative to corpus/)."""
    missing = [shard for shard in shards if _missing(store, shard, facts)]
    run(missing, functools.partial(_annotate_shard, store.url(), tuple(facts)), label="annotate")


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache, on one short text."""
    batch = TextBatch.from_arrow(pa.array(["A few words, to warm the kernels up.\n- twice, and some more of them."]))
    for name in FAMILIES:
        family(name).compute(batch)
    minhash.band_keys(batch)


def _signals(name: str, documents: pa.RecordBatch, texts: TextBatch) -> Sequence[pa.Array]:
    found = family(name)
    columns = found.compute(texts)
    return [columns[signal.name] for signal in found.signals]


def _bands(documents: pa.RecordBatch, texts: TextBatch, *, bands: int, rows: int, seed: int) -> Sequence[pa.Array]:
    return [minhash.band_keys(texts, bands=bands, rows=rows, seed=seed)]


def _missing(store: Store, shard: str, facts: Sequence[Facts]) -> list[Facts]:
    return [one for one in facts if not store.exists(one.path(shard))]


def _annotate_shard(store_url: str, facts: Sequence[Facts], shard: str) -> None:
    store = Store(store_url)
    missing = _missing(store, shard, facts)
    tables: dict[str, list[pa.RecordBatch]] = {one.name: [] for one in missing}
    with store.open(f"corpus/{shard}") as handle:
        parquet = pq.ParquetFile(handle, page_checksum_verification=True)
        for documents in parquet.iter_batches(_BATCH_ROWS, columns=["doc_id", "text"]):
            texts = TextBatch.from_arrow(documents.column("text"))
            for one in missing:
                tables[one.name].append(pa.record_batch(one.compute(documents, texts), schema=one.schema))
    for one in missing:
        with store.scratch() as path:
            with parquet_writer(path, one.schema) as writer:
                writer.write_table(pa.Table.from_batches(tables[one.name], schema=one.schema))
            store.adopt(path, one.path(shard))
