"""A version as files for other programs: texts with what the manifest says of each, as JSON lines, Parquet or a Hugging Face folder.

Stands behind the manifest: it copies what was decided and decides nothing. The documents of a split are shuffled by a hash of their
row_id, so a reader may take them as they come, wherever the texts lie; who wants another order sorts by `rank` within `component`.
Texts are read once, shard by shard, dealt out to the files that they belong to, and each file is then put in order in memory. So memory
is some five times PART_BYTES whatever the version holds, at the cost of writing the texts twice. JSON lines are written as .jsonl.gz,
which every reader opens without a package more; it takes ten times as long as zstd, which the Parquet files have.
"""

import contextlib
import gzip
import itertools
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.manifest import MASKS, Manifest, ManifestError, attach, batches
from curate.page import gather
from curate.page_card import card
from curate.sandbox import quoted
from curate.store import Store, parquet_writer
from curate.tokens import NO_LOSS, cut_text

# What --split takes -> splits of the manifest. Rows that were dropped are never exported.
SPLITS = {"train": ("train",), "holdout": ("holdout",), "all": ("train", "holdout")}
FORMATS = ("jsonl", "parquet", "hf")
PART_BYTES = 128_000_000  # text of a file
_SLICE_BYTES = 16_000_000  # text that is written at once: a row group
_BATCH_ROWS = 8192
_MEMORY = "1GB"
SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        *((name, pa.string()) for name in ("row_id", "doc_id", "group", "source", "source_id", "component")),
        *((name, pa.string()) for name in ("title", "url", "licence", "lang", "date")),
        ("n_bytes", pa.int64()),
        ("n_words", pa.int32()),
        ("n_tokens", pa.int32()),
        ("quality", pa.float32()),
        ("perplexity", pa.float32()),
        ("rank", pa.int64()),
        ("masks", MASKS),
    ]
)
_FROM_SHARD = ("text", "title")
_BUCKETS = pa.schema([*SCHEMA, ("place", pa.int64())])


def export(
    store: Store, manifest: Manifest, out: pathlib.Path, *,
    format: str, split: str = "train", masked: bool = False, part_bytes: int = PART_BYTES,
) -> dict[str, Any]:  # fmt: skip
    """Write the documents of a version below a new folder `out`, which appears whole or not at all, and say what is in it.

    `split` is one of SPLITS, `format` one of FORMATS. Texts are whole, with their masks as byte spans beside them; where `masked` they are
    as training reads them, and the spans left are those without loss. A file has some `part_bytes` of text. The same version gives the
    same bytes.
    Raises ManifestError where `out` is not empty, nothing is in the split, or a shard is missing or damaged.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ManifestError(f"--out {str(out)!r} is there and not an empty folder; name a new one, so that nothing is overwritten")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}-", suffix=".part", dir=out.absolute().parent))
    try:
        with contextlib.closing(attach(store, manifest, "m")) as connection:
            connection.execute(f"SET memory_limit = '{_MEMORY}'")
            connection.execute(f"SET temp_directory = {quoted(str(work / 'spill'))}")
            counts, licences = _ordered(connection, manifest, SPLITS[split], part_bytes)
            _deal(store, connection, work / "buckets", masked=masked)
        folder = work / "whole"
        files = [file for name in counts for file in _write_split(work / "buckets", folder, name, format)]
        if format == "hf":
            text = card(gather(store, manifest), splits=tuple(counts))
            (folder / "README.md").write_text(text, encoding="utf-8")
        for path in folder.rglob("*.*"):
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
        os.rename(folder, out.absolute())
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        "version": manifest.version, "sample": manifest.is_sample, "path": str(out), "format": format, "masked": masked,
        "splits": counts, "licences": licences, "files": files,
    }  # fmt: skip


def _ordered(
    connection: duckdb.DuckDBPyConnection, manifest: Manifest, splits: Sequence[str], part_bytes: int
) -> tuple[dict[str, dict[str, int]], list[dict[str, Any]]]:
    """Give every row its file and its place, in the table `placed`; count rows by split, and by licence."""
    wanted = ", ".join(quoted(name) for name in splits)
    connection.execute(_PLACED.format(wanted=wanted, seed=manifest.seed, part_bytes=part_bytes))
    found = {name: values for name, *values in connection.execute(_COUNTS.format(wanted=wanted)).fetchall()}
    counts = {name: dict(zip(("rows", "n_bytes", "n_tokens"), found[name], strict=True)) for name in splits if name in found}
    if not counts:
        raise ManifestError(f"{manifest.version} has no rows in {' and '.join(splits)}; another --split may have: {', '.join(SPLITS)}")
    licences: list[dict[str, Any]] = connection.sql(_LICENCES.format(wanted=wanted)).to_arrow_table().to_pylist()
    rows = ", ".join(f"{entry['rows']:,} documents of {name}" for name, entry in counts.items())
    sys.stderr.write(f"export: {rows}\n")
    return counts, licences


def _deal(store: Store, connection: duckdb.DuckDBPyConnection, folder: pathlib.Path, *, masked: bool) -> None:
    """Read the texts shard by shard, and append each row to the bucket of its file."""
    folder.mkdir()
    columns = ", ".join(f'm."{name}"' for name in SCHEMA.names if name not in _FROM_SHARD)
    query = f'SELECT m.shard, m."row", {columns}, part, place, m.split FROM m JOIN placed USING (row_id) ORDER BY m.shard, m."row"'
    for batch in batches(connection, query, _BATCH_ROWS):
        rows = pa.Table.from_batches([batch])
        for shard in rows["shard"].unique().to_pylist():
            here = rows.filter(pc.equal(rows["shard"], shard))
            texts = _texts(store, f"corpus/{shard}", here["row"].to_pylist())
            table = pa.table(
                [(texts if name in _FROM_SHARD else here)[name].cast(kind) for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)],
                schema=SCHEMA,
            )
            table = _as_read(table) if masked else table
            _append(folder, table.append_column("place", here["place"]), here["split"], here["part"])


def _texts(store: Store, path: str, rows: Sequence[int]) -> pa.Table:
    try:
        return store.read_rows(path, rows, list(_FROM_SHARD))
    except FileNotFoundError:
        raise ManifestError(f"{path} is missing; restore it, or build again") from None
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(f"{path} is damaged ({' '.join(str(error).split())}); restore it, or build again") from None


def _append(folder: pathlib.Path, table: pa.Table, split: pa.ChunkedArray, part: pa.ChunkedArray) -> None:
    names = pc.binary_join_element_wise(split, part.cast(pa.string()), "-").combine_chunks().dictionary_encode()
    numbers = names.indices.to_numpy()
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers))
    for name, first, last in zip(names.dictionary.to_pylist(), [0, *ends[:-1]], ends, strict=True):
        # Opened anew each time: a version may have more files than a process may keep open.
        with open(folder / f"{name}.arrow", "ab") as file, pa.ipc.new_stream(file, _BUCKETS, options=_LZ4) as writer:
            writer.write_table(table.take(pa.array(order[first:last])))


def _as_read(table: pa.Table) -> pa.Table:
    """Give texts as training reads them, and as masks the spans without loss in them. Only rows that have masks are touched."""
    has_masks = pc.greater(pc.list_value_length(table["masks"]), 0).combine_chunks()
    rows = np.flatnonzero(has_masks.to_numpy(zero_copy_only=False))
    if not len(rows):
        return table
    masks, texts = table["masks"].to_pylist(), []
    for row in rows:
        pieces = cut_text(table["text"][int(row)].as_py(), masks[row])
        ends = np.cumsum([len(piece.encode()) for piece, _ in pieces]).tolist()
        spans = zip(pieces, [0, *ends[:-1]], ends, strict=True)
        masks[row] = [{"start": start, "end": end, "kind": NO_LOSS} for (_, has_loss), start, end in spans if not has_loss]
        texts.append("".join(piece for piece, _ in pieces))
    text = pc.replace_with_mask(table["text"].combine_chunks(), has_masks, pa.array(texts, pa.large_string()))
    at, below = (table.schema.get_field_index(name) for name in ("text", "masks"))
    return table.set_column(at, SCHEMA.field("text"), text).set_column(below, SCHEMA.field("masks"), pa.array(masks, MASKS))


def _write_split(buckets: pathlib.Path, folder: pathlib.Path, split: str, format: str) -> Iterator[dict[str, Any]]:
    """Put each bucket of a split in order, and write it."""
    found = sorted(buckets.glob(f"{split}-*.arrow"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))
    folder = folder / "data" if format == "hf" else folder
    folder.mkdir(parents=True, exist_ok=True)
    for number, bucket in enumerate(found):
        path = folder / f"{split}-{number:05d}-of-{len(found):05d}.{'jsonl.gz' if format == 'jsonl' else 'parquet'}"
        table = _bucket(bucket)
        (_write_json if format == "jsonl" else _write_parquet)(path, _slices(table))
        bucket.unlink()
        yield {"path": path.relative_to(folder.parent if format == "hf" else folder).as_posix(), "rows": table.num_rows}


def _bucket(path: pathlib.Path) -> pa.Table:
    tables = []
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        while file.tell() < end:
            tables.append(pa.ipc.open_stream(file).read_all())
    return pa.concat_tables(tables).combine_chunks()


def _slices(table: pa.Table) -> Iterator[pa.Table]:
    """Give a bucket in order, in slices of some 16 MB of text."""
    order = np.argsort(table["place"].to_numpy())
    ends = np.cumsum(table["n_bytes"].to_numpy()[order])
    bounds = [0, *(np.flatnonzero(np.diff(ends // _SLICE_BYTES)) + 1).tolist(), len(order)]
    for first, last in itertools.pairwise(bounds):
        yield table.drop_columns(["place"]).take(pa.array(order[first:last]))


def _write_parquet(path: pathlib.Path, slices: Iterator[pa.Table]) -> None:
    with parquet_writer(path, SCHEMA) as writer:
        for table in slices:
            writer.write_table(table)


def _write_json(path: pathlib.Path, slices: Iterator[pa.Table]) -> None:
    # Scores have four digits; as a float32 in full, 0.1 is 0.10000000149011612.
    values = {field.name: f'"{field.name}"{"::DECIMAL(18, 4)" if pa.types.is_float32(field.type) else ""}' for field in SCHEMA}
    packed = ", ".join(f'"{name}" := {value}' for name, value in values.items())
    # No name and no clock in the header, so that the same rows give the same bytes.
    with (
        duckdb.connect() as connection,
        open(path, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as file,
    ):
        for table in slices:
            connection.register("slice", table)
            lines = connection.sql(f"SELECT to_json(struct_pack({packed}))::VARCHAR || chr(10) AS line FROM slice").to_arrow_table()["line"]
            for chunk in lines.cast(pa.large_string()).chunks:
                bounds = np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
                file.write(memoryview(chunk.buffers()[2])[bounds[0] : bounds[-1]])


_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")

_PLACED = """
CREATE TABLE placed AS
WITH keyed AS (SELECT split, row_id, n_bytes, hash_key('export|{seed}', row_id) AS key FROM m WHERE split IN ({wanted})),
filled AS (
    SELECT split, row_id, row_number() OVER w - 1 AS place, ((sum(n_bytes) OVER w)::BIGINT - n_bytes) // {part_bytes} AS filling
    FROM keyed WINDOW w AS (PARTITION BY split ORDER BY key, row_id)
)
SELECT row_id, place, dense_rank() OVER (PARTITION BY split ORDER BY filling) - 1 AS part FROM filled
"""

_COUNTS = """
SELECT split, count(*), sum(n_bytes)::BIGINT, coalesce(sum(n_tokens), 0)::BIGINT FROM m WHERE split IN ({wanted}) GROUP BY split
"""

_LICENCES = """
SELECT licence, count(*) AS rows, sum(n_bytes)::BIGINT AS n_bytes, coalesce(sum(n_tokens), 0)::BIGINT AS n_tokens
FROM m WHERE split IN ({wanted}) GROUP BY licence ORDER BY rows DESC, licence NULLS LAST
"""
