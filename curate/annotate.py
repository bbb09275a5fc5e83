"""Compute the facts that are missing: one column file per shard, family and settings of that family.

Stands between ingest and decide. A shard's text is read once for all families that lack it, batch by batch, so memory
is one batch of text; a family that is added later computes only itself. Cost: every byte of text is decoded from
Parquet once and walked once per kind of span (words, lines).
"""

import functools
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from curate.executor import Run
from curate.store import Store, digest_of, parquet_writer
from filters import FAMILIES, family
from filters.columns import TextBatch
from filters.spec import Family

_BATCH_ROWS = 4096
_TYPES = {"int32": pa.int32(), "float32": pa.float32(), "bool": pa.bool_()}


def signals_path(facts: Family, shard: str) -> str:
    """Say where the signals of a shard lie; `shard` is relative to corpus/. Row i of the file is row i of the shard."""
    settings = digest_of({"version": facts.version, "parameters": {}, "model": None})[:8]
    return f"cache/signals/{facts.name}/v{facts.version}-{settings}/{shard.rsplit('/', 1)[-1]}"


def schema_of(facts: Family) -> pa.Schema:
    return pa.schema([pa.field(signal.name, _TYPES[signal.type]) for signal in facts.signals])


def annotate(store: Store, shards: Sequence[str], *, run: Run) -> None:
    """Make sure that every family's signals exist for these shards (paths relative to corpus/)."""
    missing = [shard for shard in shards if _missing(store, shard)]
    run(missing, functools.partial(_annotate_shard, store.url()), label="annotate")


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache, on one short text."""
    batch = TextBatch.from_arrow(pa.array(["A few words, to warm the kernels up.\n- twice"]))
    for name in FAMILIES:
        family(name).compute(batch)


def _missing(store: Store, shard: str) -> list[Family]:
    return [family(name) for name in FAMILIES if not store.exists(signals_path(family(name), shard))]


def _annotate_shard(store_url: str, shard: str) -> None:
    store = Store(store_url)
    missing = _missing(store, shard)
    with store.open(f"corpus/{shard}") as handle:
        batches = pq.ParquetFile(handle, page_checksum_verification=True).iter_batches(_BATCH_ROWS, columns=["text"])
        tables: dict[str, list[pa.RecordBatch]] = {facts.name: [] for facts in missing}
        for batch in batches:
            texts = TextBatch.from_arrow(batch.column(0))
            for facts in missing:
                columns = facts.compute(texts)
                tables[facts.name].append(pa.record_batch([columns[signal.name] for signal in facts.signals], schema=schema_of(facts)))
    for facts in missing:
        with store.scratch() as path:
            with parquet_writer(path, schema_of(facts)) as writer:
                writer.write_table(pa.Table.from_batches(tables[facts.name], schema=schema_of(facts)))
            store.adopt(path, signals_path(facts, shard))
