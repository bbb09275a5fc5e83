"""Every format gives the same rows for the same content, and a reason with a position for everything that is no row."""

import contextlib
import datetime
import decimal
import gzip
import io
import itertools
import json
import pathlib
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import streams
from curate.jsonl import MAX_DEPTH, parse_columnar, parse_lines
from curate.readers import READERS
from curate.recipe import Fields
from curate.rows import Readable, wanted_fields
from curate.streams import MAX_DOC_BYTES, RawFile, Reject, blocks

DEFAULT = wanted_fields(Fields())


def read(form: str, data: bytes, *, suffix: str = "", compression: str | None = None, **fields: str) -> tuple[list[Any], list[Any]]:
    file = Readable(lambda: RawFile(io.BytesIO(data)), compression, "a/b", suffix)
    batches = list(READERS[form](file, wanted_fields(Fields(**fields))))
    rows = [{key: value for key, value in row.items() if value is not None} for batch in batches for row in batch.rows.to_pylist()]
    return rows, [(reject.position, reject.reason) for batch in batches for reject in batch.rejects]


def compressed(data: bytes, compression: str) -> bytes:
    return gzip.compress(data, 1) if compression == "gzip" else bytes(pa.Codec("zstd").compress(data, asbytes=True))


# --- streams ---


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_members_of_a_compressed_file_are_read_on(compression: str) -> None:
    data = compressed(b'{"text":"a"}\n', compression) + compressed(b'{"text":"b"}\n', compression)
    assert [row["text"] for row in read("jsonl", data, compression=compression)[0]] == ["a", "b"]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_truncated_stream_gives_the_rows_before_the_cut_and_one_reject(compression: str) -> None:
    lines = [f'{{"text":"{random.Random(i).getrandbits(120):030x}"}}' for i in range(20_000)]
    data = compressed("\n".join(lines).encode() + b"\n", compression)
    for cut in (10, len(data) // 2, len(data) - 1):
        rows, rejects = read("jsonl", data[:cut], compression=compression)
        assert [row["text"] for row in rows] == [json.loads(line)["text"] for line in lines[: len(rows)]]
        assert rejects == [(len(rows) + 1, "truncated")]
    n_block_bytes = 131_072  # zstd gives a block whole or not at all
    assert len(rows) > 20_000 - n_block_bytes / len(lines[0]) - 1


def test_a_truncated_gzip_loses_no_decodable_byte() -> None:
    text = b"".join(b'{"text":"%d"}\n' % i for i in range(1_000))
    rows, rejects = read("jsonl", gzip.compress(text)[:-8], compression="gzip")
    assert (len(rows), rejects) == (1_000, [(1_001, "truncated")])


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_stream_broken_in_the_middle_is_cut_there(compression: str) -> None:
    lines = b"".join(b'{"text":"%d"}\n' % random.Random(i).getrandbits(100) for i in range(50_000))
    data = bytearray(compressed(lines, compression))
    middle = len(data) // 2
    data[middle : middle + 200_000] = b"\xff" * 200_000
    rows, rejects = read("jsonl", bytes(data), compression=compression)
    assert 0 < len(rows) < 50_000
    assert rejects[-1][1] == "corrupt stream"
    assert read("jsonl", bytes(data), compression=compression) == (rows, rejects)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_is_not_compressed_at_all_is_one_reject(compression: str) -> None:
    assert read("jsonl", b'{"text":"a"}\n' * 9, compression=compression) == ([], [(1, "corrupt stream")])


def test_an_empty_file_has_no_rows() -> None:
    for form, compression in itertools.product(("jsonl", "csv"), (None, "gzip", "zstd")):
        assert read(form, b"", compression=compression) == ([], [])


@given(st.binary(max_size=60), st.lists(st.integers(1, 20)))
def test_blocks_do_not_depend_on_the_pieces(data: bytes, sizes: list[int]) -> None:
    stream = io.BytesIO(data)
    pieces = [piece for size in [*sizes, 99] if (piece := stream.read(size))]
    found = list(blocks(iter(pieces)))
    lines = b"".join(block.data for block in found)
    data = data.removeprefix(b"\xef\xbb\xbf")
    assert lines == data + b"\n" * (bool(data) and not data.endswith(b"\n"))
    ends = itertools.accumulate((block.data.count(b"\n") for block in found), initial=1)
    assert [block.first for block in found] == list(ends)[:-1]


def test_a_line_of_exactly_the_limit_is_read_and_one_byte_more_is_not() -> None:
    for n_extra, is_line in ((0, True), (1, False)):
        piece = b"x" * (MAX_DOC_BYTES // 2)
        (first, second, *rest) = blocks(iter([b"a\n", piece, piece + b"y" * n_extra + b"\nb\n"]))
        assert first.data == b"a\n"
        assert len(second.data) == (MAX_DOC_BYTES + 3 if is_line else 0)
        assert is_line or second.reject == Reject(2, "line too long", b"x" * 1_000)
        assert is_line or [block.data for block in rest] == [b"b\n"]


def test_a_line_of_100_mb_is_one_reject_and_never_held_whole() -> None:
    pieces = itertools.chain([b'{"text":"a"}\n{"text":"'], itertools.repeat(b"x" * 1_000_000, 100), [b'"}\n{"text":"b"}\n'])
    found = list(blocks(pieces))
    assert [block.data for block in found] == [b'{"text":"a"}\n', b"", b'{"text":"b"}\n']
    assert [block.first for block in found] == [1, 2, 3]
    assert found[1].reject == Reject(2, "line too long", (b'{"text":"' + b"x" * 1_000)[:1_000])


def test_a_file_that_fails_after_it_was_listed_is_an_error() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("gone")

    for form in ("jsonl", "csv", "text", "parquet"):
        for compression in (None, "gzip", "zstd"):
            file = Readable(lambda: RawFile(Failing(b"x" * 100)), compression, "a", "")
            with pytest.raises(streams.Gone):
                list(READERS[form](file, DEFAULT))


# --- JSON lines ---

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["", "\ud800", "\udc00", "\0", "Inf,", "[-NaN]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
KEYS = st.sampled_from(["text", "id", "url", "licence", "license", "date", "lang", "other", ""])
LINES = st.one_of(
    st.dictionaries(KEYS, JSON_VALUES, max_size=5).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(KEYS, st.text(), max_size=5).map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")),
    st.dictionaries(KEYS, st.integers(-(2**70), 2**70), max_size=5).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({"text": st.text(), "id": st.integers(-9, 9)}).map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [
            b"",
            b" ",
            b"\r",
            b"[1]",
            b"{}",
            b'{"text":',
            b'1} {"text":"b"}',
            b'{"text":"a"} {"text":"b"}',
            b'{"text":"a"}\r{"text":"b"}',
            b'{"text":"a","text":"b"}',
            b'{"text":"a","x":Inf}',
            b'{"text":"a","x":-NaN }',
            b'{"text":"a","x":[Infinity,NaN]}',
            b'{"text":"a","id":-0}',
            b'{"text":"a","id":1e999,"url":-Infinity}',
            b'{"text":"a","id":1.0,"url":NaN,"date":true}',
            b'{"text":"\xff"}',
            b'{"text":"a","x":"\xed\xa0\x80"}',
            b'{"text":"a\x00"}',
            b'{"text":"a"}\x00',
            b'\xef\xbb\xbf{"text":"a"}',
            b'{"te\\u0078t":"a"}',
            b'{"text":"a","x":01}',
            b'{"text":"a",}',
            b'{"text":"a\tb"}',
            b' {"text":"a"} ',
            b'{"text":"a","x":' + b"9" * 5_000 + b"}",
            b'{"text":"a","x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
            b'{"text":"a","x":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}",
            b'{"text":"a","x":"' + b"[" * 2 * MAX_DEPTH + b'"}',
            b'{"text":"' + b"[" * 2 * MAX_DEPTH + b'\\"}',
            b'{"x":' + b"[" * 100_000 + b"}",
        ]
    ),
    st.binary(max_size=9).map(lambda data: data.replace(b"\n", b"")),
)


@given(st.lists(LINES, min_size=1, max_size=4), st.sampled_from([b"\n", b"\r\n"]))
def test_the_columnar_parser_agrees_with_the_line_by_line_one_or_declines(lines: list[bytes], end: bytes) -> None:
    data = b"".join(line + end for line in lines)
    columnar, plain = parse_columnar(data, 7, DEFAULT), parse_lines(data, 7, DEFAULT)
    if columnar is not None:
        assert columnar.rows.to_pylist() == plain.rows.to_pylist()
        assert plain.rejects == []
        assert columnar.names == plain.names
        positions = columnar.rows["position"].to_pylist()
        assert columnar.excerpts(positions) == plain.excerpts(positions)


@pytest.mark.parametrize("value", ['"a"', "1", "-7", "true", "null", '""'])
def test_ordinary_lines_are_parsed_columnar(value: str) -> None:
    data = f'{{"text":"t","id":{value},"x":[{{}}]}}\n'.encode() * 3
    batch = parse_columnar(data, 1, DEFAULT)
    assert batch is not None
    assert batch.rows.to_pylist() == parse_lines(data, 1, DEFAULT).rows.to_pylist()


def test_ordinary_files_with_crlf_and_a_blank_end_are_parsed_columnar() -> None:
    assert parse_columnar(b'{"text":"a"}\r\n{"text":"b"}\r\n', 1, DEFAULT) is not None
    assert parse_columnar(b'{"text":"a"}\n\n\n', 1, DEFAULT) is not None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text":', "invalid JSON"),
        (b'{"text":"a"} {"text":"b"}', "invalid JSON"),
        (b"[1]", "not an object"),
        (b'"text"', "not an object"),
        (b'{"text":1}', "text is not a string"),
        (b'{"text":["a"]}', "text is not a string"),
        (b'{"text":true}', "text is not a string"),
        (b'{"text":"a","url":{"b":1}}', "url is not a scalar"),
        (b'{"text":"a","license":[]}', "licence is not a scalar"),
        (b'{"text":"\xff"}', "invalid UTF-8"),
        (b'{"text":"\\ud800"}', "lone surrogate"),
        (b'{"text":"a","id":"\\udfff"}', "lone surrogate"),
        (b'{"x":' + b"[" * 100_000, "nested too deeply"),
        (b'{"text":"a","x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "nested too deeply"),
    ],
)
def test_a_broken_line_is_rejected_with_its_number_and_reason(line: bytes, reason: str) -> None:
    rows, rejects = read("jsonl", b'{"text":"a"}\n\n' + line + b'\n{"text":"b"}')
    assert [(row["position"], row["text"]) for row in rows] == [(1, "a"), (4, "b")]
    assert rejects == [(3, reason)]


def test_a_reject_keeps_the_start_of_its_line() -> None:
    batch = parse_lines(b"x" * 3_000 + b"\n", 5, DEFAULT)
    assert batch.rejects == [Reject(5, "invalid JSON", b"x" * 1_000)]


def test_fields_are_mapped_by_name_and_by_default() -> None:
    row = b'{"body":"a","pmid":12,"id":"i","license":"","licence":"cc","language":"en","text":"no","year":2.50}'
    rows, _ = read("jsonl", row, text="body", group="pmid", date="year")
    assert rows == [{"position": 1, "text": "a", "group": "12", "id": "i", "licence": "cc", "lang": "en", "date": "2.5"}]


def test_a_number_of_a_million_digits_is_an_id_like_any_other() -> None:
    rows, _ = read("jsonl", b'{"text":"a","id":' + b"7" * 1_000_000 + b"}")
    assert rows[0]["id"] == "7" * 1_000_000


# --- one spelling in all formats ---


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def test_values_are_spelt_alike_in_jsonl_parquet_and_csv() -> None:
    values: list[tuple[Any, str | None]] = [
        (123, "123"),
        (2.5, "2.5"),
        (1.0, "1.0"),
        (1e30, "1e+30"),
        (True, "true"),
        ("", None),
        ("x", "x"),
    ]
    for value, spelt in values:
        expected = [{"position": 1, "text": "t"} | ({"id": spelt} if spelt else {})]
        assert read("jsonl", json.dumps({"text": "t", "id": value}).encode())[0] == expected
        assert read("parquet", parquet_bytes(pa.table({"text": ["t"], "id": [value]})))[0] == expected
        assert read("csv", f"text,id\nt,{spelt or ''}\n".encode())[0] == expected


def test_parquet_dates_are_iso_8601_whatever_their_unit() -> None:
    moment = datetime.datetime(2024, 2, 3, 4, 5, 6, 120_000)
    zone = datetime.timezone(datetime.timedelta(hours=2))
    for column, spelt in [
        (pa.array([datetime.date(2024, 2, 3)]), "2024-02-03"),
        (pa.array([moment], pa.timestamp("us")), "2024-02-03T04:05:06.12"),
        (pa.array([moment], pa.timestamp("ns")), "2024-02-03T04:05:06.12"),
        (pa.array([moment.replace(microsecond=0)], pa.timestamp("ms")), "2024-02-03T04:05:06"),
        (pa.array([moment.replace(second=0, microsecond=0)], pa.timestamp("us")), "2024-02-03T04:05:00"),
        (pa.array([moment.replace(tzinfo=zone)], pa.timestamp("us", "+02:00")), "2024-02-03T02:05:06.12Z"),
        (pa.array([decimal.Decimal("1.50")]), "1.50"),
    ]:
        rows, rejects = read("parquet", parquet_bytes(pa.table({"text": ["t"], "date": column})))
        assert (rows[0]["date"], rejects) == (spelt, [])


# --- Parquet ---


def test_parquet_rows_are_numbered_across_row_groups() -> None:
    table = pa.table({"text": [str(i) for i in range(10)], "id": list(range(10))})
    rows, rejects = read("parquet", parquet_bytes(table, row_group_size=3))
    assert [(row["position"], row["text"], row["id"]) for row in rows] == [(i + 1, str(i), str(i)) for i in range(10)]
    assert rejects == []


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_text_may_be_of_any_string_type(kind: pa.DataType) -> None:
    texts = pa.array(["a", None, "\u00e9"]).cast(kind)
    rows, rejects = read("parquet", parquet_bytes(pa.table({"text": texts})))
    assert ([row.get("text") for row in rows], rejects) == (["a", None, "\u00e9"], [])


def test_parquet_values_that_cannot_be_strings_are_rejected_by_row() -> None:
    text = pa.array([b"a", b"\xff", b"c", None], pa.binary())
    rows, rejects = read("parquet", parquet_bytes(pa.table({"text": text, "url": pa.array([None, None, ["x"], None])})))
    assert [row["position"] for row in rows] == [1, 4]
    assert rejects == [(2, "invalid UTF-8"), (3, "url is not a scalar")]
    rows, rejects = read("parquet", parquet_bytes(pa.table({"text": [1, None]})))
    assert ([row["position"] for row in rows], rejects) == ([2], [(1, "text is not a string")])


def test_parquet_nan_and_missing_columns_are_null() -> None:
    rows, _ = read("parquet", parquet_bytes(pa.table({"text": ["a"], "id": [float("nan")]})))
    assert rows == [{"position": 1, "text": "a"}]


def test_what_is_not_parquet_is_one_reject_for_the_file() -> None:
    whole = parquet_bytes(pa.table({"text": ["a"]}))
    for data in (b"", b"PAR1", whole[:-20], b"garbage" * 99):
        assert read("parquet", data) == ([], [(0, "unreadable: not a Parquet file")])


def test_a_broken_row_group_is_one_reject_and_the_others_are_read() -> None:
    texts = [f"{random.Random(i).getrandbits(800):0200x}" for i in range(300)]
    data = bytearray(parquet_bytes(pa.table({"text": texts}), row_group_size=100, compression="zstd", use_dictionary=False))
    column = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(1).column(0)
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    rows, rejects = read("parquet", bytes(data))
    assert [row["position"] for row in rows] == [*range(1, 101), *range(201, 301)]
    assert rejects == [(101, "unreadable: broken row group")]


def test_a_small_parquet_file_with_one_long_value_in_many_rows_stays_small() -> None:
    coded = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000, pa.int32()), pa.array(["x" * 900_000]))
    data = parquet_bytes(pa.table({"text": coded}), compression="zstd")
    assert len(data) < 20_000
    file = Readable(lambda: RawFile(io.BytesIO(data)), None, "a", "")
    before, n_rows = pa.total_allocated_bytes(), 0
    for batch in itertools.islice(READERS["parquet"](file, DEFAULT), 20):
        assert pa.total_allocated_bytes() - before < 100_000_000
        n_rows += batch.rows.num_rows
    assert n_rows == 20 * (8_000_000 // 900_000)


# --- CSV ---


def test_csv_fields_may_hold_commas_quotes_and_line_ends() -> None:
    data = b'\xef\xbb\xbfid,text\r\n1,"a, ""b""\r\nc"\r\n\r\n2,d'
    rows, rejects = read("csv", data)
    assert [(row["position"], row["id"], row["text"].replace("\r", "")) for row in rows] == [(1, "1", 'a, "b"\nc'), (2, "2", "d")]
    assert rejects == []


def test_tsv_is_told_by_its_suffix() -> None:
    assert read("csv", b"id\ttext\n1\ta,b\n", suffix=".tsv")[0] == [{"position": 1, "id": "1", "text": "a,b"}]


def test_csv_values_that_look_like_numbers_or_null_are_strings() -> None:
    assert read("csv", b"id,text\n007,NULL\n")[0] == [{"position": 1, "id": "007", "text": "NULL"}]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"2", "wrong number of columns"),
        (b"2,b,c", "wrong number of columns"),
        (b'2,"b"c', "malformed row"),
        (b"2,\xff", "invalid UTF-8"),
        (b'2,"\xff\n"', "invalid UTF-8"),
    ],
)
def test_a_broken_csv_row_is_rejected_with_its_number_and_reason(row: bytes, reason: str) -> None:
    rows, rejects = read("csv", b"id,text\n1,a\n" + row + b"\n3,c\n")
    assert [(r["position"], r["text"]) for r in rows] == [(1, "a"), (3, "c")]
    assert rejects == [(2, reason)]


def test_an_unclosed_quote_is_one_malformed_row() -> None:
    rows, rejects = read("csv", b'id,text\n1,a\n2,"b\n3,c\n')
    assert ([row["text"] for row in rows], rejects) == (["a"], [(2, "malformed row")])


def test_a_broken_csv_header_makes_the_file_unreadable() -> None:
    assert read("csv", b"id,\xff\n1,a\n") == ([], [(0, "unreadable: broken header")])


def test_a_csv_row_or_line_above_the_limit_is_one_reject() -> None:
    line = b"x" * 9_999_999 + b"\n"
    rows, rejects = read("csv", b"id,text\n1,a\n2," + b"y" * (MAX_DOC_BYTES + 1) + b"\n3,c\n")
    assert ([row["text"] for row in rows], rejects) == (["a", "c"], [(2, "line too long")])
    rows, rejects = read("csv", b'id,text\n1,a\n2,"' + line * 7 + b"\n")
    assert ([row["text"] for row in rows], rejects[0]) == (["a"], (2, "row too long"))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_truncated_csv_gives_the_rows_before_the_cut(compression: str) -> None:
    lines = [f'{i},"{random.Random(i).getrandbits(120):030x}\nline"' for i in range(1, 20_001)]
    data = compressed(("id,text\n" + "\n".join(lines) + "\n").encode(), compression)
    rows, rejects = read("csv", data[: len(data) // 2], compression=compression)
    assert [row["id"] for row in rows] == [str(i) for i in range(1, len(rows) + 1)]
    assert all(row["text"].endswith("\nline") for row in rows)
    assert rejects == [(len(rows) + 1, "truncated")]


# --- text ---


def test_a_text_file_is_one_document_named_by_its_path() -> None:
    assert read("text", "caf\u00e9\n".encode()) == ([{"position": 0, "text": "caf\u00e9\n", "id": "a/b"}], [])


def test_a_text_file_that_is_not_utf8_or_too_long_is_rejected() -> None:
    assert read("text", b"\xff\xfea\0") == ([], [(0, "invalid UTF-8")])
    assert read("text", b"x" * (MAX_DOC_BYTES + 1)) == ([], [(0, "text too long")])
    assert read("text", gzip.compress(b"abc" * 999)[:-9], compression="gzip") == ([], [(0, "truncated")])


def test_nothing_is_left_open(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(b'{"text":"a"}\n')
    opened = []

    def open_raw() -> RawFile:
        opened.append(RawFile((tmp_path / "a").open("rb")))
        return opened[-1]

    for form in READERS:
        with contextlib.closing(READERS[form](Readable(open_raw, None, "a", ""), DEFAULT)) as batches:  # type: ignore[type-var]
            next(batches, None)
    assert all(raw.closed for raw in opened)
