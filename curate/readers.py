"""One source file as batches of rows, by format: between the bytes of a source and `ingest`.

Every row of a file comes out exactly once: in the table of a batch, or as a Reject with its position and a reason.
JSON lines and Parquet are read columnar. CSV is read with Python's C parser (0.2 GB/s, a few microseconds a row), not
with Arrow's, because that one takes an unclosed quote for a field that ends with the file, fails on a malformed row
that is not UTF-8, and gives up the rest of a file after a row longer than its block.
"""

import contextlib
import csv
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.jsonl import pick, read_jsonl
from curate.rows import ROLES, Batch, Readable, Wanted, first_of, is_text, rejected, strings_of, table_of
from curate.streams import BLOCK_BYTES, EXCERPT_BYTES, MAX_DOC_BYTES, Cut, Reject, blocks, chunks
from curate.web import read_html, read_warc

_CSV_ROWS = 4_096
_PARQUET_ROWS = 16_384


def read_csv(file: Readable, wanted: Wanted) -> Iterator[Batch]:
    """Read CSV, or TSV by its suffix: a header, then rows of as many fields; positions count the rows after the header."""
    rows = _csv_rows(file)
    header = next(rows, None)
    if header is None:
        return
    if header.reason:
        yield rejected(Reject(0, "unreadable: broken header", header.raw))
        return
    names = frozenset(header.values)
    while True:
        good, rejects, n_bytes = [], [], 0
        for row in itertools.islice(rows, _CSV_ROWS):
            reason = row.reason or ("" if len(row.values) == len(header.values) else "wrong number of columns")
            if reason:
                rejects.append(Reject(row.position, reason, row.raw))
            else:
                good.append(row)
                n_bytes += sum(map(len, row.values))
            if n_bytes > BLOCK_BYTES:
                break
        if not good and not rejects:
            return
        picked = [pick(dict(zip(header.values, row.values, strict=True)), wanted)[0] for row in good]
        columns = dict(zip(ROLES, zip(*picked, strict=True), strict=True)) if picked else {}
        raw = {row.position: row.raw for row in good}
        yield Batch(table_of(list(raw), columns), rejects, names, functools.partial(_look_up, raw))


def read_parquet(file: Readable, wanted: Wanted) -> Iterator[Batch]:
    """Read Parquet; positions count the rows of the file.

    A file without a readable footer is one reject. In a row group that cannot be read to its end, the batches before
    the damage count (they depend on nothing but the file) and the rest is one reject at the row where it starts; the
    row groups after it are read. Strings stay dictionary-encoded until a slice of 8 MB is taken, so that a small file
    in which one long value stands for many rows does not grow in memory.
    """
    with contextlib.closing(file.open()) as raw:
        source = pa.PythonFile(raw, mode="r")
        try:
            schema = pq.ParquetFile(source).schema_arrow
            names = [name for name in dict.fromkeys(itertools.chain(*wanted.values())) if name in schema.names]
            coded = [name for name in names if is_text(schema.field(name).type)]
            parquet = pq.ParquetFile(source, read_dictionary=coded, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            yield rejected(Reject(0, "unreadable: not a Parquet file", str(error).encode()[:EXCERPT_BYTES]))
            return
        start = 1
        for group in range(parquet.metadata.num_row_groups):
            position = start
            for rows in _row_group(parquet, group, names):
                if isinstance(rows, str):
                    yield rejected(Reject(position, "unreadable: broken row group", rows.encode()[:EXCERPT_BYTES]))
                    continue
                for part in _slices(rows):
                    yield _parquet_batch(part, position, wanted, frozenset(schema.names))
                    position += part.num_rows
            start += parquet.metadata.row_group(group).num_rows


def read_text(file: Readable, wanted: Wanted) -> Iterator[Batch]:
    """Read a file as one document; its id is its name within the source, its position 0."""
    pieces, n_bytes, reason = [], 0, ""
    try:
        for piece in chunks(file.open, file.compression):
            pieces.append(piece)
            n_bytes += len(piece)
            if n_bytes > MAX_DOC_BYTES:
                reason = "text too long"
                break
    except Cut as cut:
        reason = str(cut)
    data = b"".join(pieces)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        reason = reason or "invalid UTF-8"
    if reason:
        yield rejected(Reject(0, reason, data[:EXCERPT_BYTES]))
        return
    rows = table_of([0], {"text": [text], "id": [file.name]})
    yield Batch(rows, [], frozenset(), lambda positions: [data[:EXCERPT_BYTES] for _ in positions])


READERS: Mapping[str, Callable[[Readable, Wanted], Iterator[Batch]]] = {
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "csv": read_csv,
    "text": read_text,
    "html": read_html,
    "warc": read_warc,
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    position: int
    values: list[str]
    reason: str
    raw: bytes


class _Lines:
    """The decoded lines of a CSV file, with what went wrong since the last `start`: csv.reader pulls as many as a row has."""

    def __init__(self, file: Readable) -> None:
        self._blocks = blocks(chunks(file.open, file.compression))
        self._pending: Iterator[bytes] = iter(())
        self.start()

    def start(self) -> None:
        self.reason, self.raw, self._n_bytes = "", b"", 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._pending, None)
        while line is None:
            block = next(self._blocks)
            if block.reject is not None:
                self.reason, self.raw = block.reject.reason, (self.raw + block.reject.excerpt)[:EXCERPT_BYTES]
                return "\n" if self.reason == "line too long" else ""
            self._pending = iter(block.data.split(b"\n")[:-1])
            line = next(self._pending, None)
        self.raw = (self.raw + line + b"\n")[:EXCERPT_BYTES] if len(self.raw) < EXCERPT_BYTES else self.raw
        self._n_bytes += len(line) + 1
        if self._n_bytes > MAX_DOC_BYTES:
            self.reason = "row too long"
            raise csv.Error(self.reason)
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            self.reason = self.reason or "invalid UTF-8"
            return line.decode(errors="replace") + "\n"


def _look_up(raw: Mapping[int, bytes], positions: list[int]) -> list[bytes]:
    return [raw[position] for position in positions]


def _csv_rows(file: Readable) -> Iterator[_Row]:
    # The module has one limit for the whole process; nothing else of ours reads CSV.
    csv.field_size_limit(MAX_DOC_BYTES)
    lines = _Lines(file)
    reader = csv.reader(lines, delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
    position = 0
    while True:
        lines.start()
        values: list[str] = []
        try:
            values = next(reader)
            reason = lines.reason
        except csv.Error:
            reason = lines.reason or "malformed row"
        except StopIteration:
            return
        if values or reason:
            yield _Row(position, values, reason, lines.raw.removesuffix(b"\n"))
            position += 1


def _row_group(parquet: Any, group: int, names: list[str]) -> Iterator[Any]:
    # Batches, and then perhaps the message of the error that ended them.
    try:
        yield from parquet.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=names, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        yield str(error)


def _slices(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    n_bytes = np.zeros(rows.num_rows, np.int64)
    for column in rows.columns:
        if pa.types.is_dictionary(column.type):
            sizes = pc.binary_length(column.dictionary).cast(pa.int64()).take(column.indices)
            n_bytes += pc.fill_null(sizes, 0).to_numpy(zero_copy_only=False)
    start, done = 0, np.cumsum(n_bytes)
    while start < rows.num_rows:
        before = done[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(done, before + BLOCK_BYTES, side="right")))
        yield rows.slice(start, end - start)
        start = end


def _parquet_batch(rows: pa.RecordBatch, first: int, wanted: Wanted, names: frozenset[str]) -> Batch:
    columns, bad = {}, dict[int, str]()
    for role, fields in wanted.items():
        found = []
        for name in fields:
            if name in rows.schema.names:
                values, wrong, reason = strings_of(rows[name], role)
                found.append(values)
                bad = {**dict.fromkeys(wrong, reason), **bad}  # the reason of the first role stays
        if found:
            columns[role] = first_of(found) if role != "text" else found[0]
    table = table_of(np.arange(first, first + rows.num_rows), columns)
    too_long = pc.greater(pc.binary_length(table["text"]), MAX_DOC_BYTES).combine_chunks()
    bad |= dict.fromkeys(pc.indices_nonzero(pc.fill_null(too_long, False)).to_pylist(), "text too long")

    def excerpts(positions: list[int]) -> list[bytes]:
        cells = [{name: rows[name][position - first].as_py() for name in rows.schema.names} for position in positions]
        return [json.dumps(row, ensure_ascii=False, default=str).encode(errors="replace")[:EXCERPT_BYTES] for row in cells]

    order = sorted(bad)
    raw = excerpts([first + row for row in order])
    rejects = [Reject(first + row, bad[row], excerpt) for row, excerpt in zip(order, raw, strict=True)]
    is_good = np.ones(rows.num_rows, bool)
    is_good[order] = False
    return Batch(table.filter(pa.array(is_good)) if order else table, rejects, names, excerpts)
