"""Where the tokens of each train row are: found once a plan, kept beside it, so that opening a run does not cost its corpus.

    manifest rows + indexes of cache/tokens -> cache/plans/KEY/documents.parquet -> Documents, memory maps -> stream

Finding a million documents among their segments takes seconds; reading where they were found takes a tenth of one. Segments
are named by their content, so what was found holds for as long as they are there; where one is gone, documents are looked up
again. Cost: some 20 bytes a document in memory, and fewer on disk.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate import manifest as manifests
from curate import tokens
from curate.manifest import Manifest
from curate.store import Store
from curate.tokens import Segments
from train.assemble import NO_COMPONENT, Ints
from train.plan import Plan

_SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))
_SCHEMA = pa.schema([("segment", pa.int32()), ("offset", pa.int64()), ("component", pa.int8()), ("no_loss", _SPANS)])
_META = b"gapless"


@dataclasses.dataclass(frozen=True, slots=True)
class Documents:
    """By ordinal: segment and offset in it (in tokens) of a document, its component, its spans without loss; and the maps of the segments.
    Rows that no epoch draws under another tokenizer have the first place of all."""

    arrays: tuple[npt.NDArray[Any], ...]
    segment: npt.NDArray[np.int32]
    offset: Ints
    component: npt.NDArray[np.int8]
    no_loss: pa.ListArray
    separator: int


def component_names(manifest: Manifest) -> tuple[str, ...]:
    """Name the components of all stages, in the order that `Documents.component` counts in."""
    return tuple(dict.fromkeys(part.name for stage in manifest.stages for part in stage.components))


def open_documents(store: Store, manifest: Manifest, plan: Plan, *, tokenizer: Mapping[str, Any], n_tokens: Ints | None) -> Documents:
    """Open the documents of a plan under a tokenizer; `n_tokens` as in `open_stream`. Raises ManifestError where some have no tokens."""
    path = f"{plan.path}/documents.parquet"
    table = store.read_table(path) if store.exists(path) else None
    if table is None or not all(store.exists(segment) for segment in _meta(table)["segments"]):
        table = find_documents(store, manifest, tokenizer, n_tokens)
        store.write_table(path, table)
    return map_documents(store, table)


def map_documents(store: Store, table: pa.Table) -> Documents:
    """Map the segments that a table of documents names."""
    meta = _meta(table)
    arrays = tuple(np.memmap(store.local(segment), dtype=meta["dtype"], mode="r") for segment in meta["segments"])
    segment, offset, component = (table[name].to_numpy() for name in ("segment", "offset", "component"))
    return Documents(arrays, segment, offset, component, table["no_loss"].combine_chunks(), meta["separator"])


def find_documents(store: Store, manifest: Manifest, tokenizer: Mapping[str, Any], n_tokens: Ints | None) -> pa.Table:
    """Look documents up among the segments; names these, their dtype and the separator in the metadata."""
    table = manifests.rows(store, manifest, "train", ["doc_id", "masks", "component"])
    segments = tokens.open_segments(store, tokenizer)
    names = component_names(manifest)
    code = pc.index_in(table["component"].cast(pa.string()).combine_chunks(), pa.array(names, pa.string())).fill_null(NO_COMPONENT)
    places = _locate(segments, table, np.arange(table.num_rows) if n_tokens is None else np.flatnonzero(n_tokens))
    before, after = tokens.separators(store, tokenizer)
    meta = {
        "segments": [index.removesuffix(".parquet") + ".bin" for index in tokens.index_paths(store, tokenizer)],
        "dtype": str(segments.arrays[0].dtype) if segments.arrays else "uint16",
        # What precedes a document in a stream is the end of another one.
        "separator": (after or before)[-1],
    }
    schema = _SCHEMA.with_metadata({_META: json.dumps(meta).encode()})
    return pa.table([places["segment"], places["offset"], code.cast(pa.int8()), places["no_loss"]], schema=schema)


def _meta(table: pa.Table) -> dict[str, Any]:
    return dict(json.loads(table.schema.metadata[_META]))


def _locate(segments: Segments, table: pa.Table, ordinals: Ints) -> pa.Table:
    """Find the tokens of some rows of a table; the others have none, and no plan asks for them."""
    some = table.take(pa.array(ordinals))
    found = segments.locate(some["doc_id"], some["masks"])
    segment, offset = (np.zeros(table.num_rows, column.dtype) for column in (found.segment, found.offset))
    segment[ordinals], offset[ordinals] = found.segment, found.offset
    at = np.full(table.num_rows, -1, dtype=np.int64)
    at[ordinals] = np.arange(len(ordinals))
    no_loss = found.no_loss.take(pa.array(at, mask=at < 0)).fill_null([])
    return pa.table({"segment": segment, "offset": offset, "no_loss": no_loss})
