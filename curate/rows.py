"""What all formats share: rows of one file as a table of strings, and the one spelling of values that are not strings.

A reader maps the fields that the recipe names to our columns: integers become "123", floats what Python writes,
booleans "true" and "false", NaN and the empty string null, times ISO 8601 (with a zone: in UTC). So a row has the same
identity whatever format it comes in. The cost of that promise: floats are spelt one by one in Python.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.recipe import Fields
from curate.streams import Opener, Reject

NO_PAGE = "not a page"  # how the reasons of rows begin that are sound but no documents
ROLES = ("text", "id", "group", "url", "licence", "date", "lang", "title")
_DEFAULTS = {"licence": ("licence", "license"), "lang": ("lang", "language"), "group": ()}
SCHEMA = pa.schema([("position", pa.int64()), *((role, pa.large_string() if role == "text" else pa.string()) for role in ROLES)])

Wanted = Mapping[str, tuple[str, ...]]
Excerpts = Callable[[list[int]], list[bytes]]


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one file in its order (columns: position and ROLES), what was kept aside, the field names of its first row.

    `excerpts` gives the raw start of rows by position.
    """

    rows: pa.Table
    rejects: list[Reject]
    names: frozenset[str]
    excerpts: Excerpts


@dataclasses.dataclass(frozen=True, slots=True)
class Readable:
    """A file to read: how to open it, its compression if any, its name within the source, and its suffix without compression."""

    open: Opener
    compression: str | None
    name: str
    suffix: str


def wanted_fields(fields: Fields) -> dict[str, tuple[str, ...]]:
    """Name, for each of ROLES, the fields that may hold it; the first that is not null counts."""
    named = {role: getattr(fields, role) for role in ROLES}
    return {role: (name,) if name is not None else _DEFAULTS.get(role, (role,)) for role, name in named.items()}


def rejected(reject: Reject) -> Batch:
    """Make a batch of one row that is kept aside."""
    return Batch(SCHEMA.empty_table(), [reject], frozenset(), lambda positions: [])


def table_of(positions: Any, columns: Mapping[str, Any]) -> pa.Table:
    """Lay columns by role (Arrow arrays or sequences of strings) into SCHEMA; an absent one is null."""
    n_rows = len(positions)
    arrays = [pa.array(positions, pa.int64())]
    for field in list(SCHEMA)[1:]:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(n_rows, field.type))
        else:
            arrays.append(values.cast(field.type) if isinstance(values, pa.Array) else pa.array(values, field.type))
    return pa.table(arrays, schema=SCHEMA)


def strings_of(column: pa.Array, role: str) -> tuple[pa.Array, list[int], str]:
    """Spell a column as strings; also the rows for which that cannot be done, and the reason."""
    if is_text(column.type):
        return _decoded(column.dictionary_decode() if pa.types.is_dictionary(column.type) else column)
    kind = column.type
    is_span = pa.types.is_duration(kind) or pa.types.is_interval(kind)
    is_scalar = (pa.types.is_primitive(kind) and not is_span) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    if role == "title" and not is_scalar:
        return pa.nulls(len(column), pa.string()), [], ""
    if not is_scalar or (role == "text" and not pa.types.is_null(kind)):
        wrong = pc.indices_nonzero(column.is_valid()).to_pylist()
        return pa.nulls(len(column), pa.string()), wrong, "text is not a string" if role == "text" else f"{role} is not a scalar"
    return spell(column), [], ""


def spell(column: pa.Array) -> pa.Array:
    """Spell a column of plain values (no lists, structs, bytes) as strings."""
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))
    if pa.types.is_floating(column.type):
        return pa.array([None if x is None or x != x else repr(float(x)) for x in column.to_pylist()], pa.string())
    spelt = column.cast(pa.string())
    if pa.types.is_timestamp(column.type):
        spelt = pc.replace_substring(spelt, " ", "T", max_replacements=1)
        spelt = pc.replace_substring_regex(spelt, r"(\.\d*?)0+(Z?)$", r"\1\2")
        spelt = pc.replace_substring_regex(spelt, r"\.(Z?)$", r"\1")
    return spelt


def _decoded(column: pa.Array) -> tuple[pa.Array, list[int], str]:
    raw = column.cast(pa.large_binary())
    try:
        return raw.cast(pa.large_string()), [], ""
    except pa.ArrowInvalid:
        values = raw.to_pylist()
    wrong = [row for row, value in enumerate(values) if value is not None and not is_utf8(value)]
    for row in wrong:
        values[row] = None
    return pa.array([None if value is None else value.decode() for value in values], pa.large_string()), wrong, "invalid UTF-8"


def first_of(columns: list[pa.Array]) -> pa.Array:
    """Take the first value of each row that is neither null nor empty."""
    spelt = [column.cast(pa.string()) for column in columns]
    return pc.coalesce(*(pc.if_else(pc.equal(column, ""), None, column) for column in spelt))


def is_utf8(data: bytes) -> bool:
    """Check bytes at 10 GB/s, without making a string of them."""
    bounds = pa.py_buffer(np.array([0, len(data)], np.int64))
    whole = pa.Array.from_buffers(pa.large_binary(), 1, [None, bounds, pa.py_buffer(data)])
    try:
        whole.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def is_text(kind: Any) -> bool:
    """Say whether an Arrow type holds strings or bytes, dictionary-encoded or not."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(value) for test in (*tests, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))
