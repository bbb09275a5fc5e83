"""Web pages: every record of a WARC and every HTML file is a row or is kept aside with a reason, whatever it holds."""

import collections
import contextlib
import functools
import gzip
import io
import itertools
import json
import pathlib
import random
import re
import tracemalloc
import urllib.parse
import zlib
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import executor, manifest
from curate.build import Built, CheckFailed, build, check_quarantine
from curate.ingest import ingest
from curate.pages import MAX_PAGE_BYTES, Refused, decode, read_page
from curate.portable import portable
from curate.readers import READERS
from curate.recipe import DomainError, Fields, Recipe, Source
from curate.recipe_file import read_recipe
from curate.rows import Readable, wanted_fields
from curate.sql import connect
from curate.store import Store
from curate.streams import Gone, RawFile
from curate.verify import verify

_HERE = pathlib.Path(__file__).parents[1]
_CORPORA = _HERE.parents[1] / "shared" / "corpora" / "web-html"
_ROOTS = itertools.count()  # roots in memory outlive an example, so none is used twice

ARTICLE = "<p>The heart pumps blood through the vessels of the body.</p><p>Its valves keep the blood from flowing back.</p>"
TEXT = "The heart pumps blood through the vessels of the body.\n\nIts valves keep the blood from flowing back."


def page(body: str = ARTICLE, head: str = "<title>The \n heart</title>") -> bytes:
    return f"<!DOCTYPE html><html><head>{head}</head><body><nav><a href='/'>Home</a></nav><main>{body}</main></body></html>".encode()


def record(
    body: bytes = b"",
    *,
    number: int = 1,
    kind: str = "response",
    status: str | None = "HTTP/1.1 200 OK",
    content_type: str | None = "text/html",
    http: bytes = b"",
    warc: bytes = b"",
    n_bytes: int | None = None,
) -> bytes:
    """Write one record by hand; without `status` its block is the body alone, under `content_type`."""
    kinds = b"Content-Type: %b\r\n" % content_type.encode() if content_type is not None else b""
    block = body if status is None else status.encode() + b"\r\n" + kinds + http + b"\r\n" + body
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2024-05-0{number % 9 + 1}T00:00:00Z\r\n".encode()
    head += f"WARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Target-URI: https://a.org/{number}\r\n".encode() + warc
    head += kinds if status is None else b"Content-Type: application/http; msgtype=response\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % (len(block) if n_bytes is None else n_bytes) + block + b"\r\n\r\n"


def compressed(records: list[bytes], how: str) -> bytes:
    if how == "gz":
        return b"".join(gzip.compress(one, 1, mtime=0) for one in records)
    if how == "zst":
        return bytes(pa.Codec("zstd").compress(b"".join(records), asbytes=True))
    return gzip.compress(b"".join(records), 1, mtime=0) if how == "one gz" else b"".join(records)


def read(data: bytes, *, form: str = "warc", how: str = "", **fields: str) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    compression = {"": None, "zst": "zstd"}.get(how, "gzip")
    batches = list(READERS[form](Readable(lambda: RawFile(io.BytesIO(data)), compression, "a/b", ""), wanted_fields(Fields(**fields))))
    rows = [{key: value for key, value in row.items() if value is not None} for batch in batches for row in batch.rows.to_pylist()]
    for batch in batches:
        assert batch.rows["position"].to_pylist() == sorted(batch.rows["position"].to_pylist())
        assert all(len(excerpt) <= 1_000 for excerpt in batch.excerpts(batch.rows["position"].to_pylist()))
        assert all(len(reject.excerpt) <= 1_000 for reject in batch.rejects)
    return rows, [(reject.position, reject.reason) for batch in batches for reject in batch.rejects]


def reasons(*records: bytes) -> list[str]:
    return [reason for _, reason in read(b"".join(records))[1]]


def text_of(data: bytes, charset: str | None = None) -> str:
    return read_page(data, charset).text


# --- WARC ---


@pytest.mark.parametrize("how", ["", "gz", "one gz", "zst"])
def test_a_record_is_a_row_with_its_address_date_and_title(how):
    data = compressed([record(kind="warcinfo", status=None), record(kind="request"), record(page(), number=7)], how)
    row = {"position": 3, "text": TEXT, "id": "urn:uuid:7", "url": "https://a.org/7", "date": "2024-05-08T00:00:00Z", "title": "The heart"}
    assert read(data, how=how) == ([row], [])


def test_the_recipe_may_take_a_field_of_a_page_for_another():
    (row,), _ = read(record(page()), group="host", lang="title")
    assert (row["group"], row["lang"]) == ("a.org", "The heart")


def test_a_record_without_an_id_is_named_by_its_address():
    (row,), _ = read(record(page()).replace(b"WARC-Record-ID", b"X-Id").replace(b"https://a.org/1", b"<https://a.org/1>"))
    assert (row["id"], row["url"]) == ("https://a.org/1", "https://a.org/1")


def test_resources_and_conversions_are_pages_too_and_plain_text_is_taken_as_it_is():
    plain = b"a < b & c\n\nd"
    records = [
        record(page(), kind="resource", status=None),
        record(plain, kind="conversion", status=None, content_type="text/plain; charset=utf-8"),
        record(plain, content_type="text/plain"),
    ]
    rows, rejects = read(b"".join(records))
    assert ([row["text"] for row in rows], rejects) == ([TEXT, plain.decode(), plain.decode()], [])
    assert "title" not in rows[1]


@pytest.mark.parametrize(
    ("aside", "reason"),
    [
        (record(page(), status="HTTP/1.1 404 Not Found"), "not a page: status 404"),
        (record(page(), status="HTTP/2 301"), "not a page: status 301"),
        (record(b"\x89PNG\r\n", content_type="image/png"), "not a page: image/png"),
        (record(b"x" * 9_000_000, content_type="video/mp4"), "not a page: video/mp4"),
        (record(b"%PDF-1.7 ...", content_type="text/html"), "not a page: application/pdf"),
        (record(page(), content_type="x/" + "y" * 99), "not a page: other type"),
        (record(b"{}", content_type=None), "not a page: no content type"),
        (record(b"", content_type="text/html"), "not a page: no main content"),
        (record(b" \n", content_type="text/plain"), "not a page: no main content"),
        (record(b"<html><body><nav>Home</nav></body></html>"), "not a page: no main content"),
        (record(b"1.2.3.4", status=None, content_type="text/dns"), "not a page: text/dns"),
        (record(page(), kind="continuation"), "not a page: continuation record"),
        (record(page(), kind="other"), "not a page: unknown record"),
        (record(b"log", kind="resource", status=None).replace(b"https://a.org", b"metadata://wget"), "not a page: metadata"),
    ],
)
def test_what_is_no_page_is_kept_aside_under_that_name_and_the_file_read_on(aside, reason):
    rows, rejects = read(record(kind="request") + aside + record(page(), number=2))
    assert ([row["position"] for row in rows], rejects) == ([3], [(2, reason)])


def test_html_without_a_content_type_is_known_by_its_look():
    assert read(record(page(), content_type=None))[0][0]["text"] == TEXT


@pytest.mark.parametrize(
    "block", [record(page(), status=""), record(page(), status="garbage"), record(page(), http=b"X: " + b"y" * 70_000 + b"\r\n")]
)
def test_a_broken_http_header_costs_one_record(block):
    rows, rejects = read(record(page()) + block + record(page(), number=3))
    assert ([row["position"] for row in rows], rejects) == ([1, 3], [(2, "broken HTTP header")])


def test_http_headers_may_end_in_bare_line_feeds():
    block = b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n" + page()
    data = record(block, status=None, content_type="application/http; msgtype=response")
    assert read(data)[0][0]["text"] == TEXT


@pytest.mark.parametrize("how", ["", "gz", "one gz"])
def test_a_cut_archive_gives_the_records_before_the_cut_and_one_reject(how):
    rng = random.Random(1)
    records = [record(page(ARTICLE + f"<p>{rng.randbytes(900).hex()}</p>"), number=number) for number in range(1, 5)]
    data, whole = compressed(records, how), [row["id"] for row in read(b"".join(records))[0]]
    for n_bytes in [*range(len(data) // 4 + 5, len(data) - 5, 401), len(data) - 4]:
        rows, rejects = read(data[:n_bytes], how=how)
        n_rows = len(rows)
        assert [row["id"] for row in rows] == whole[:n_rows]
        # Between two records nothing tells that there were more; a compressed stream ends with its checksum.
        assert rejects in ([(n_rows + 1, "truncated")], [] if not how else None)
    assert n_rows == 4


@pytest.mark.parametrize("how", ["gz", "one gz"])
def test_an_archive_broken_in_the_middle_is_read_up_to_there(how):
    rng = random.Random(2)
    data = bytearray(compressed([record(page(ARTICLE + rng.randbytes(3_000).hex()), number=number) for number in range(1, 901)], how))
    middle = len(data) // 2
    data[middle : middle + 99_999] = b"\xff" * 99_999
    rows, rejects = read(bytes(data), how=how)
    assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
    assert 100 < len(rows) < 900
    assert rejects == [(len(rows) + 1, "corrupt stream")]


def test_what_is_no_warc_file_is_one_reject():
    for data in (page(), b"garbage\n" * 99, random.Random(3).randbytes(5_000)):
        assert read(data) == ([], [(0, "unreadable: not a WARC file")])
        assert read(gzip.compress(data), how="gz") == ([], [(0, "unreadable: not a WARC file")])
    assert read(page(), how="gz") == ([], [(1, "corrupt stream")])
    assert read(b"") == ([], [])


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (record(page(), n_bytes=10**12), "truncated"),
        (record(page(), n_bytes=60), "broken record"),
        (record(page(), n_bytes=-5), "broken record"),
        (record(page()).replace(b"Content-Length", b"X-Length"), "broken record"),
        (record(page()).replace(b"WARC/1.0", b"JUNK/1.0"), "broken record"),
    ],
)
def test_where_a_record_is_broken_the_rest_is_one_reject_with_its_bytes(broken, reason):
    data = record(page()) + broken + b"".join(record(page(), number=number) for number in range(2, 300))
    batches = list(READERS["warc"](Readable(lambda: RawFile(io.BytesIO(data)), None, "a", ""), wanted_fields(Fields())))
    positions = [position for batch in batches for position in batch.rows["position"].to_pylist()]
    reject = batches[-1].rejects[-1]
    assert positions == list(range(1, reject.position))
    assert reject.reason == reason
    assert reject.position <= 3
    assert reject.excerpt
    assert reject.excerpt in data
    assert b"JUNK" not in data or reject.excerpt.startswith(b"JUNK/1.0")


def test_a_bad_row_keeps_the_start_of_its_record():
    data = record(b"x", status="HTTP/1.1 500 Oops")
    (batch,) = READERS["warc"](Readable(lambda: RawFile(io.BytesIO(data)), None, "a", ""), wanted_fields(Fields()))
    assert batch.rejects[0].excerpt == data.removesuffix(b"\r\n\r\n")


def test_a_record_above_the_limit_is_one_reject_and_never_held_whole():
    long = record(b"<p>" + b"word " * (MAX_PAGE_BYTES // 5))
    data = gzip.compress(record(b"x" * 60_000_000) + long + record(page()), 1)
    tracemalloc.start()
    rows, rejects = read(data, how="gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ([row["position"] for row in rows], rejects) == ([3], [(1, "page too long"), (2, "page too long")])
    assert peak < 4 * MAX_PAGE_BYTES


def test_a_file_that_fails_after_it_was_listed_is_an_error():
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 500:
                raise OSError("gone")
            return super().read(min(size or -1, 400))

    for form, compression in itertools.product(("warc", "html"), (None, "gzip", "zstd")):
        file = Readable(lambda: RawFile(Failing(record(page()) * 9)), compression, "a", "")
        if compression is None:
            with pytest.raises(Gone):
                list(READERS[form](file, wanted_fields(Fields())))
        else:
            assert [len(batch.rejects) for batch in READERS[form](file, wanted_fields(Fields()))] == [1]


# --- bodies ---


def chunks(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%X;x=y\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: x\r\n\r\n"


def bare_deflate(body: bytes) -> bytes:
    return zlib.compress(body)[2:-4]


def codec(name: str, body: bytes) -> bytes:
    return bytes(pa.Codec(name).compress(body, asbytes=True))


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"Transfer-Encoding: chunked", chunks(page(), 50)),
        (b"Transfer-Encoding: chunked", chunks(page(), 50).replace(b"\r\n", b"\n")),
        (b"Content-Encoding: gzip", gzip.compress(page())),
        (b"Content-Encoding: x-gzip", gzip.compress(page()) + b"junk"),
        (b"Content-Encoding: deflate", zlib.compress(page())),
        (b"Content-Encoding: deflate", bare_deflate(page())),
        (b"Content-Encoding: br", codec("brotli", page())),
        (b"Content-Encoding: zstd", codec("zstd", page())),
        (b"Content-Encoding: gzip, gzip", gzip.compress(gzip.compress(page()))),
        (b"Content-Encoding: identity", page()),
        (b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip", chunks(gzip.compress(page()), 30)),
        # Stored decoded under the header as it came.
        (b"Transfer-Encoding: chunked", page()),
        *((b"Content-Encoding: " + name, page()) for name in (b"gzip", b"deflate", b"br", b"zstd")),
        # Cut after the main content.
        (b"Transfer-Encoding: chunked", chunks(page(), 50)[:-40]),
        (b"Content-Encoding: gzip", gzip.compress(page())[:-8]),
    ],
)
def test_transfer_and_content_encodings_are_undone(header, body):
    rows, rejects = read(record(body, http=header + b"\r\n") + record(page(), number=2))
    assert ([row["text"] for row in rows], rejects) == ([TEXT, TEXT], [])


@pytest.mark.parametrize(
    ("header", "body", "reason"),
    [
        (b"Content-Encoding: gzip", b"\x1f\x8b junk", "broken content encoding"),
        (b"Content-Encoding: br", codec("brotli", page() * 99)[:-9], "broken content encoding"),
        (b"Content-Encoding: zstd", b"junk", "broken content encoding"),
        (b"Content-Encoding: lzma", page(), "unknown content encoding"),
        (b"Content-Encoding: " + b"gzip," * 999, page(), "unknown content encoding"),
        (b"Transfer-Encoding: chunked", b"5\r\n<p>ab\r\nzz\r\n", "broken content encoding"),
        (b"Content-Encoding: gzip", gzip.compress(gzip.compress(page())), "not a page: application/gzip"),
    ],
)
def test_a_body_that_cannot_be_decoded_costs_one_record(header, body, reason):
    rows, rejects = read(record(body, http=header + b"\r\n") + record(page(), number=2))
    assert ([row["text"] for row in rows], rejects) == ([TEXT], [(1, reason)])


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        (b"gzip", functools.partial(gzip.compress, compresslevel=1)),
        (b"deflate", functools.partial(zlib.compress, level=1)),
        (b"br", functools.partial(codec, "brotli")),
        (b"zstd", functools.partial(codec, "zstd")),
    ],
)
def test_a_body_that_expands_too_far_costs_one_record_and_is_never_held_whole(encoding, compress):
    body = compress(b"<p>word " * 20_000_000)
    data = record(body, http=b"Content-Encoding: %b\r\n" % encoding) + record(page(), number=2)
    tracemalloc.start()
    rows, rejects = read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ([row["text"] for row in rows], rejects) == ([TEXT], [(1, "page too long")])
    assert peak < 10 * MAX_PAGE_BYTES


# --- encodings ---

GERMAN = "Größe und Maße der Häuser für die Straße"
RUSSIAN = "Сердце качает кровь по сосудам тела. Клапаны не дают ей течь назад."
CHINESE = "心脏通过身体的血管泵送血液。它的瓣膜防止血液倒流。"
JAPANESE = "心臓は体の血管に血液を送り出します。弁は血液が逆流するのを防ぎます。"
META = '<meta charset="{}">'.format


@pytest.mark.parametrize(
    ("text", "encoding", "told", "head"),
    [
        (GERMAN, "utf-8", None, ""),
        (GERMAN, "utf-8", "iso-8859-1", ""),
        (GERMAN, "utf-8", "ascii", META("windows-1252")),
        (GERMAN, "iso-8859-1", "ISO-8859-1", ""),
        (GERMAN, "iso-8859-1", "utf-8", META("utf-8")),
        (GERMAN + " \u201c\u201d\u20ac", "windows-1252", None, META("windows-1252")),
        (GERMAN + " \u201c\u201d\u20ac", "windows-1252", "iso-8859-1", ""),
        (GERMAN, "utf-8-sig", "koi8-r", META("koi8-r")),
        (GERMAN, "utf-16", None, ""),
        (GERMAN, "utf-16", "utf-8", META("utf-8")),
        (GERMAN, "utf-16-le", "utf-16", ""),
        (GERMAN, "utf-16-be", "UTF-16BE", ""),
        (GERMAN, "utf-8", "utf-16", ""),
        ("Only ASCII", "ascii", "utf-16", META("utf-16")),
        (RUSSIAN, "koi8-r", "KOI8-R", ""),
        (RUSSIAN, "windows-1251", None, '<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">'),
        (RUSSIAN * 9, "windows-1251", None, ""),
        (RUSSIAN * 9, "windows-1251", "no-such-encoding", ""),
        (CHINESE, "gb18030", "gb2312", ""),
        (CHINESE + "\U00020000", "gb18030", None, META("gb18030")),
        (CHINESE * 9, "gb18030", None, ""),
        (JAPANESE + "\u2460", "cp932", "Shift_JIS", ""),
        (JAPANESE, "iso-2022-jp", "iso-2022-jp", ""),
        (JAPANESE, "euc-jp", None, META("euc-jp")),
    ],
)
def test_a_page_is_decoded_by_its_bytes_its_server_its_meta_or_a_guess(text, encoding, told, head):
    assert text_of(page(f"<p>{text}</p>", head).decode().encode(encoding), told) == text


def test_a_few_bad_bytes_are_damage_and_many_are_another_encoding():
    damaged = page(f"<p>{RUSSIAN * 5}</p>").replace("тела".encode(), "тела".encode()[:-1], 1)
    assert text_of(damaged, "utf-8").startswith(RUSSIAN.replace("тела", "тел\ufffd"))
    cut = page(f"<p>{RUSSIAN * 5}")[: -len("</main></body></html>") - 1]
    assert text_of(cut, "utf-8").startswith(RUSSIAN)


def test_what_is_no_text_is_refused():
    for data in (random.Random(4).randbytes(20_000), page().decode().encode("utf-16-le"), b"\0" * 999, page() + b"\0" * 99):
        with pytest.raises(Refused, match="invalid encoding"):
            read_page(data, None)
    assert decode(b"", None) == ""
    assert text_of(page(f"<p>{'word ' * 99}\0 end</p>")).endswith(("word end", "word \ufffd end"))


def test_an_encoding_is_never_a_codec_of_python():
    for name in ("zlib", "unicode_escape", "punycode", "utf-7", "rot13", "idna", "undefined", "\0", "é" * 999):
        assert text_of(page(), name) == TEXT


# --- pages that cost too much ---


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("<div>" * 200_000 + "x" + "</div>" * 200_000, "nested too deeply"),
        ("<a><div>" * 20_000, "nested too deeply"),
        ("<div>" * 400 + "<span>x </span>" * 150_000, "nested too deeply"),
        ("<p>" + "".join(f"<b a={i}>" for i in range(3_000)) + "</p>" + "<p>x</p>" * 20_000, "nested too deeply"),
        ("<p>" + "".join(f"<FONT a={i}><!--</FONT>-->" for i in range(3_000)) + "</p>" + "<p>x</p>" * 20_000, "nested too deeply"),
        ("<p " + " ".join(f"a{i}='>'" for i in range(100_000)) + ">x", "too many attributes"),
        ("</p " + "/".join(f"a{i}" for i in range(100_000)) + ">x", "too many attributes"),
        ("<p>x" * 500_000, "too many elements"),
        ("<" * MAX_PAGE_BYTES + "p>x", "page too long"),
    ],
)
def test_a_page_that_would_cost_minutes_or_gigabytes_is_refused(html, reason):
    assert read(html.encode(), form="html") == ([], [(0, reason)])


@pytest.mark.parametrize(
    "html",
    [
        "<b>" * 900 + "<p>x",
        "<p><b>x</b> <i>y</i></p>" * 4_000,
        "<p>x<br>" * 9_000,
        f"<p style='{'a:b;' * 100_000}' data-x='{'{1} ' * 9_000}'>x",
        f"<script>if (a<b) {{ {'c = d; ' * 9_000} }}</script><p>x",
        "x",
        "<p>x</p></html><p>y",
        "<html><body>x\0y",
        "<title>" * 9 + "</title><p>x",
        "<table><tr><td>" * 300 + "x",
    ],
)
def test_an_odd_page_is_read(html):
    assert "x" in text_of(html.encode())


# --- HTML files ---


def test_an_html_file_is_one_document_that_says_its_own_address_and_date():
    head = (
        '<title>t</title><link rel="alternate canonical" href=" https://b.org/x "><meta property="og:url" content="https://no.org/">'
        '<meta property="article:published_time" content="2020-02-03">'
    )
    row = {"position": 0, "text": TEXT, "id": "a/b", "url": "https://b.org/x", "date": "2020-02-03", "title": "t", "group": "b.org"}
    assert read(page(head=head), form="html", group="host") == ([row], [])
    assert read(page(head='<meta property="og:url" content="https://b.org/">'), form="html")[0][0]["url"] == "https://b.org/"
    assert "url" not in read(page(head='<link rel="canonical" href="/x">'), form="html")[0][0]


def test_an_html_file_that_is_cut_or_empty_is_one_reject():
    assert read(gzip.compress(page())[:-9], form="html", how="gz") == ([], [(0, "truncated")])
    assert read(b"", form="html") == ([], [(0, "not a page: no main content")])


def test_a_folder_of_html_files_is_named_by_relative_path(tmp_path):
    for name, data in [("a.html", page()), ("sub/b.HTM", page()), ("c.xhtml", page()), ("d.html.gz", gzip.compress(page()))]:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    rows, _ = taken(Store(str(tmp_path / "root")), tmp_path / "in")
    assert [(row["source_id"], row["title"]) for row in rows] == [
        (name, "The heart") for name in ("a.html", "c.xhtml", "d.html.gz", "sub/b.HTM")
    ]


# --- nothing breaks it ---

NAMES = (
    "p",
    "div",
    "b",
    "a",
    "table",
    "td",
    "li",
    "ul",
    "select",
    "option",
    "svg",
    "math",
    "template",
    "title",
    "script",
    "plaintext",
    "br",
)
TAGS = st.sampled_from(NAMES)
MARKUP = st.one_of(
    TAGS.map("<{}>".format),
    TAGS.map("</{}>".format),
    st.tuples(TAGS, st.text(max_size=9)).map(lambda pair: f"<{pair[0]} {pair[1]}"),
    st.text(max_size=9),
    st.sampled_from(["<!--", "-->", "<![CDATA[", "]]>", "&#x110000;", "&amp", "<", "</", "<?", "\0", "<meta charset=utf-16>", "<a href='"]),
)
EDITS = st.lists(st.tuples(st.integers(0, 9_999), st.integers(0, 40), st.binary(max_size=8)), max_size=5)


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for place, n_bytes, new in edits:
        place %= len(data) + 1
        data = data[:place] + new + data[place + n_bytes :]
    return data


@settings(deadline=None)
@given(st.lists(MARKUP, max_size=30), EDITS, st.sampled_from(["utf-8", "utf-16", "gb18030", "koi8-r"]), st.text(max_size=9))
def test_any_html_is_one_row_or_one_reject(markup, edits, encoding, charset):
    data = edited(page("".join(markup)).decode().encode(encoding, "replace"), edits)
    rows, rejects = read(data, form="html")
    assert len(rows) + len(rejects) == 1
    with contextlib.suppress(Refused):
        assert read_page(data, charset).text.strip()


RECORDS = st.builds(
    record,
    st.sampled_from([page(), b"", b"\xff\xfe", gzip.compress(page()), chunks(page(), 90)]),
    number=st.integers(1, 9),
    kind=st.sampled_from(["response", "response", "resource", "request", "warcinfo", "metadata", "revisit", "conversion", "x"]),
    status=st.sampled_from(["HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.1 503 No", "?", None]),
    content_type=st.sampled_from(["text/html", "text/html; charset=gbk", "text/plain", "image/gif", "", None]),
    http=st.sampled_from([b"", b"Content-Encoding: gzip\r\n", b"Transfer-Encoding: chunked\r\n", b"X: \xff\r\n"]),
)
PROTOCOL = (b"WARC-Type: request", b"WARC-Type: warcinfo", b"WARC-Type: metadata", b"WARC-Type: revisit")


@settings(deadline=None)
@given(st.lists(RECORDS, max_size=6), st.sampled_from(["", "gz", "one gz", "zst"]))
def test_every_record_is_a_row_or_a_reject(records, how):
    rows, rejects = read(compressed(records, how), how=how)
    places = sorted([row["position"] for row in rows] + [position for position, _ in rejects])
    assert places == [place for place, one in enumerate(records, 1) if not any(kind in one for kind in PROTOCOL)]


@settings(deadline=None)
@given(st.lists(RECORDS, min_size=1, max_size=4), EDITS, st.sampled_from(["", "gz"]))
def test_a_damaged_archive_never_breaks_the_reader(records, edits, how):
    whole = compressed(records, how)
    data = edited(whole, edits)
    rows, rejects = read(data, how=how)
    places = [row["position"] for row in rows] + [position for position, _ in rejects]
    assert len(set(places)) == len(places)
    assert read(data, how=how) == (rows, rejects)
    # What lies before the damage is read as if there were none.
    ends = list(itertools.accumulate(len(compressed([one], how)) for one in records))
    n_same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(whole, data, strict=False)))
    n_intact = sum(end <= n_same for end in ends)
    for found, before in zip((rows, rejects), read(compressed(records[:n_intact], how), how=how), strict=True):
        assert found[: len(before)] == before


# --- in the corpus ---


def taken(store: Store, *paths: object, **fields: str) -> tuple[list[dict[str, Any]], Any]:
    source = Source("s", tuple(str(path) for path in paths), fields=Fields(**fields))
    found = ingest(store, [source], run=executor.local(1))["s"]
    return [row for shard in found.shards for row in store.read_table(shard.path).to_pylist()], found


def test_rows_do_not_depend_on_how_archives_are_cut_and_compressed(tmp_path):
    records = [record(page(f"<p>Text of page {number % 3}.</p>"), number=number % 4) for number in range(20)]
    records += [record(page(), status="HTTP/1.1 404 No"), record(kind="request")]
    (tmp_path / "one").mkdir()
    (tmp_path / "one/all.warc").write_bytes(b"".join(records))
    (tmp_path / "many").mkdir()
    for number, how in enumerate(["", "gz", "one gz", "zst"]):
        name = f"{3 - number}.warc" + {"": "", "zst": ".zst"}.get(how, ".gz")
        (tmp_path / "many" / name).write_bytes(compressed(records[::-1][number::4], how))
    one, found = taken(Store(str(tmp_path / "a")), tmp_path / "one")
    many, again = taken(Store(str(tmp_path / "b")), tmp_path / "many")
    keys = [collections.Counter(row["row_key"] for row in rows) for rows in (one, many)]
    assert keys[0] == keys[1]
    assert len(keys[0]) < len(one) == found.n_rows == again.n_rows == 20
    assert found.reasons == again.reasons == {"not a page: status 404": 1}


def test_archives_are_read_from_any_file_system():
    root = f"memory://web{next(_ROOTS)}"
    with fsspec.open(f"{root}/in/a.warc.gz", "wb") as file:
        file.write(compressed([record(page())], "gz"))
    assert [row["text"] for row in taken(Store(f"{root}/root"), f"{root}/in")[0]] == [TEXT]


def test_a_field_that_pages_do_not_have_is_named_with_those_that_they_have(tmp_path):
    (tmp_path / "a.warc").write_bytes(record(page()))
    with pytest.raises(DomainError, match=r"no row has the field 'author'; fields there: date, host, id, text, title, url\."):
        taken(Store(str(tmp_path / "root")), tmp_path / "a.warc", group="author")


def recipe_of(path: pathlib.Path) -> Recipe:
    return Recipe(domain="d", sources=(Source("s", (str(path),)),))


def test_what_is_no_page_does_not_count_as_unreadable(tmp_path, capsys):
    (tmp_path / "a.warc").write_bytes(record(page()) + record(page(), status="HTTP/1.1 404 No") * 99)
    recipe, store = recipe_of(tmp_path / "a.warc"), Store(str(tmp_path / "root"))
    check_quarantine(recipe, ingest(store, recipe.sources, run=executor.local(1)))
    assert "99 of 100 rows kept aside (s: 99 not a page: status 404)" in capsys.readouterr().err
    (path,) = store.files("cache/quarantine/s")
    assert store.read_table(path)["reason"].unique().to_pylist() == ["not a page: status 404"]


def test_a_source_without_a_page_stops_the_build_and_bad_pages_count(tmp_path):
    missing, broken = record(page(), status="HTTP/1.1 404 No"), record(b"\x1f\x8b", http=b"Content-Encoding: lzma\r\n")
    for name, data, message in [
        ("a", missing * 2, r"source 's' holds no page \(2 not a page: status 404\)"),
        ("b", missing + broken, "source 's' is wholly unreadable"),
        ("c", record(page()) + missing * 500 + broken, r"1 of 2 rows \(50.00%\) are quarantined"),
    ]:
        (tmp_path / f"{name}.warc").write_bytes(data)
        recipe = recipe_of(tmp_path / f"{name}.warc")
        ingested = ingest(Store(str(tmp_path / name)), recipe.sources, run=executor.local(1))
        with pytest.raises(CheckFailed, match=message):
            check_quarantine(recipe, ingested)


# --- titles ---


def test_a_title_of_any_format_is_kept_and_is_no_part_of_the_identity(tmp_path):
    rows = [{"text": "a", "title": "One"}, {"text": "b", "title": ["no", "title"]}, {"text": "c"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.table({"text": ["a", "b", "c"], "title": pa.array([["x"]] * 3)}), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("text,head\na,One\nb,\nc,\n")
    jsonl = taken(Store(str(tmp_path / "1")), tmp_path / "a.jsonl")[0]
    parquet = taken(Store(str(tmp_path / "2")), tmp_path / "b.parquet")[0]
    table = taken(Store(str(tmp_path / "3")), tmp_path / "c.csv", title="head")[0]
    assert [row["title"] for row in jsonl] == [row["title"] for row in table] == ["One", None, None]
    assert [row["title"] for row in parquet] == [None] * 3
    assert [row["row_key"] for row in jsonl] == [row["row_key"] for row in parquet] == [row["row_key"] for row in table]


def test_the_field_of_the_titles_is_no_part_of_a_decision():
    one, other = (Recipe(domain="d", sources=(Source("s", ("x",), fields=fields),)) for fields in (Fields(), Fields(title="head")))
    assert portable(one) == portable(other)


def test_titles_are_there_for_sql(tmp_path):
    lines = [{"text": " ".join(f"word{number} the and of to" for _ in range(30)), "title": f"t{number}"} for number in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "r.toml").write_text(
        'domain = "d"\nselect = { budget_tokens = 2000 }\nholdout = { share = 0.2 }\ntokenizer = { vocab_size = 300 }\n'
        '[sources.s]\npath = "a.jsonl"\n'
    )
    store = Store(str(tmp_path / "root"))
    build(store, read_recipe(store, file=str(tmp_path / "r.toml")), run=executor.local(1))
    found = connect(store.url()).sql("SELECT title, text FROM documents").fetchall()
    assert sorted(found) == sorted((line["title"], line["text"]) for line in lines)


# --- real pages ---


def responses() -> Iterator[Any]:
    for path in sorted(_CORPORA.glob("*.warc.gz")):
        with path.open("rb") as file:
            yield from ArchiveIterator(file, record_types=WarcRecordType.response)


@pytest.mark.real
@pytest.mark.skipif(not _CORPORA.is_dir(), reason="../shared/corpora is not here")
def test_the_main_content_of_real_pages_is_found():
    with gzip.open(_CORPORA / "extraction-gold.jsonl.gz", "rt") as lines:
        gold = {row["url"]: row for row in map(json.loads, lines)}
    has, has_not, scores, n_pages = [], [], [], 0
    for one in responses():
        wanted = gold.get(one.headers["WARC-Target-URI"])
        if wanted is None:
            continue
        n_pages += 1
        text = ""
        with contextlib.suppress(Refused):
            text = " ".join(text_of(one.reader.read(), one.http_charset).split())
        has += [" ".join(passage.split()) in text for passage in wanted.get("must_have") or ()]
        has_not += [" ".join(passage.split()) in text for passage in wanted.get("must_not_have") or ()]
        if wanted.get("article"):
            words, true = (collections.Counter(re.findall(r"\w+", part.lower())) for part in (text, wanted["article"]))
            scores.append(2 * (words & true).total() / (words.total() + true.total()))
    assert (n_pages, len(has), len(has_not), len(scores)) == (873, 2183, 2201, 138)
    assert sum(has) / len(has) > 0.935
    assert sum(has_not) / len(has_not) < 0.24
    assert sum(scores) / len(scores) > 0.925


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Store, Built]]:
    """Build twice, in one process and in two."""
    stores = [Store(str(tmp_path_factory.mktemp("web") / "root")) for _ in range(2)]
    path = str(_HERE / "recipes" / "web.toml")
    return [(store, build(store, read_recipe(store, file=path), run=executor.local(n))) for n, store in enumerate(stores, 1)]


@pytest.mark.real
@pytest.mark.skipif(not _CORPORA.is_dir(), reason="../shared/corpora is not here")
def test_every_real_page_is_in_the_manifest_or_in_quarantine(built):
    store, version = built[0]
    names = {one.headers["WARC-Record-ID"].strip("<>"): one.headers["WARC-Target-URI"].strip("<>") for one in responses()}
    rows = [row for split in manifest.SPLITS for row in manifest.rows(store, version.manifest, split).to_pylist()]
    aside = [row for path in store.files("cache/quarantine/web-html") for row in store.read_table(path).to_pylist()]
    assert len(names) == 437 + 436 + 22
    assert {row["source_id"] for row in rows} <= set(names)
    assert all(row["url"] == names[row["source_id"]] for row in rows)
    # Two resource records of the small crawl are the crawler's own log.
    assert collections.Counter(row["reason"] for row in aside) == {
        "not a page: no main content": len(names) - len(rows), "not a page: metadata": 2
    }  # fmt: skip
    assert len(rows) == len({row["source_id"] for row in rows}) > 0.98 * len(names)
    assert all(row["group"] in (urllib.parse.urlsplit(row["url"]).hostname, row["doc_id"]) for row in rows)
    assert verify(store, version.manifest) == ([], [])


@pytest.mark.real
@pytest.mark.skipif(not _CORPORA.is_dir(), reason="../shared/corpora is not here")
def test_two_builds_of_real_pages_have_the_same_digests(built):
    (_, one), (_, two) = built
    assert one.manifest.info["decision"] == two.manifest.info["decision"]
    assert one.manifest.fingerprint == two.manifest.fingerprint
