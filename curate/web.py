"""Web pages as batches of rows: WARC archives record by record, and folders of HTML files. `pages` reads the page itself.

A row is a `response`, `resource` or `conversion` record with HTTP status 200, if any, and a content type of HTML or plain
text. What is sound but no page (another status, an image, no main content) is kept aside with a reason that begins with
NO_PAGE, which counts as no fault; records of the protocol (warcinfo, request, metadata, revisit) are no rows at all.

Framing is fastwarc's; decompression is ours, so that a file that is cut or broken in the middle gives the records before
the damage and one reject, as in every other format. Held at once: one page, at most MAX_PAGE_BYTES, its tree, and a batch of texts.
"""

import contextlib
import dataclasses
import functools
import io
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecordType

from curate.bodies import LOOKS_HTML, decoded
from curate.jsonl import pick
from curate.pages import MAX_PAGE_BYTES, Page, Refused, decode, read_page
from curate.rows import NO_PAGE, ROLES, Batch, Readable, Wanted, table_of
from curate.streams import BLOCK_BYTES, EXCERPT_BYTES, Cut, Reject, chunks

FIELDS = frozenset({"text", "title", "id", "url", "host", "date"})
_BATCH_PAGES = 512
_PROTOCOL = (WarcRecordType.warcinfo, WarcRecordType.request, WarcRecordType.metadata, WarcRecordType.revisit)
_PAGES = (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.conversion)
_HTML = ("text/html", "application/xhtml+xml")
# Types that a reason names as they are; foreign text must not be able to make reasons without end.
_OTHER_TYPES = re.compile(
    r"application/(atom\+xml|javascript|json|msword|octet-stream|pdf|rss\+xml|x-javascript|xml|zip)|audio/mpeg"
    r"|image/(gif|jpeg|png|svg\+xml|webp|x-icon)|text/(calendar|css|csv|dns|javascript|markdown|xml)|video/(mp4|webm)"
)
_MAGIC = (
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';,]+)", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}")


def read_warc(file: Readable, wanted: Wanted) -> Iterator[Batch]:
    """Read a WARC archive; positions count all of its records. The row's id is the record's own, or else its URL."""
    with contextlib.closing(_Stream(file)) as stream:
        yield from _batches(_records(stream), wanted)


def read_html(file: Readable, wanted: Wanted) -> Iterator[Batch]:
    """Read an HTML file as one document; its id is its name within the source, its position 0."""
    yield from _batches(iter([_html_file(file)]), wanted)


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """A page by FIELDS, or the reason why there is none, with its place and the start of its bytes."""

    position: int
    excerpt: bytes
    page: Mapping[str, str | None] | None = None
    reason: str = ""


class _Stream:
    """The decompressed bytes of a file as fastwarc reads them: why they ended, and the last of them for excerpts."""

    def __init__(self, file: Readable) -> None:
        self._pieces = chunks(file.open, file.compression)
        self._piece = memoryview(b"")
        self._recent = b""
        self._n_bytes = 0
        self.is_at_end = False
        self.cut = ""

    def read(self, size: int = -1) -> bytes:
        while not self._piece and not self.is_at_end:
            try:
                self._piece = memoryview(next(self._pieces))
            except StopIteration:
                self.is_at_end = True
            except Cut as cut:
                self.is_at_end, self.cut = True, str(cut)
        data = bytes(self._piece[: max(size, 0)])
        self._piece = self._piece[len(data) :]
        # A record is found broken within its first 32 kB, which is at most two reads ago.
        self._recent = self._recent[-max(len(data), EXCERPT_BYTES) :] + data
        self._n_bytes += len(data)
        return data

    def excerpt(self, place: int) -> bytes:
        """Give the bytes at a place, if it is not long past."""
        start = max(place - self._n_bytes + len(self._recent), 0)
        return self._recent[start:].lstrip()[:EXCERPT_BYTES]

    def tell(self) -> int:
        return self._n_bytes

    def seek(self, offset: int, whence: int = 0) -> int:
        raise io.UnsupportedOperation("seek")

    def close(self) -> None:
        self._pieces.close()  # type: ignore[attr-defined]  # it is a generator


def _batches(found: Iterator[_Found], wanted: Wanted) -> Iterator[Batch]:
    rows: dict[int, list[str | None]] = {}
    raw: dict[int, bytes] = {}
    rejects: list[Reject] = []
    n_bytes = 0
    for one in found:
        row, reason = pick(one.page, wanted) if one.page is not None else ([], one.reason)
        if reason:
            rejects.append(Reject(one.position, reason, one.excerpt))
        else:
            rows[one.position], raw[one.position] = row, one.excerpt
            n_bytes += sum(len(value) for value in row if value is not None)
        if n_bytes > BLOCK_BYTES or len(rows) + len(rejects) >= _BATCH_PAGES:
            yield _batch(rows, raw, rejects)
            rows, raw, rejects, n_bytes = {}, {}, [], 0
    if rows or rejects:
        yield _batch(rows, raw, rejects)


def _batch(rows: Mapping[int, list[str | None]], raw: Mapping[int, bytes], rejects: list[Reject]) -> Batch:
    columns = dict(zip(ROLES, zip(*rows.values(), strict=True), strict=True)) if rows else {}
    return Batch(table_of(list(rows), columns), rejects, FIELDS if rows else frozenset(), functools.partial(_look_up, raw))


def _look_up(raw: Mapping[int, bytes], positions: list[int]) -> list[bytes]:
    return [raw[position] for position in positions]


def _records(stream: _Stream) -> Iterator[_Found]:
    # Where a record is broken or cut, nothing tells where the next one starts.
    records = ArchiveIterator(stream, parse_http=False, stream_detect=False)
    position = place = 0
    while True:
        try:
            record = next(records, None)
        except OSError:
            yield _broken(stream, position, place)
            return
        if record is None:
            break
        position += 1
        length = (record.headers.get("Content-Length") or "").strip()
        if not _LENGTH.fullmatch(length):
            yield _broken(stream, position - 1, record.stream_pos)
            return
        head = _written(record.headers)
        place = record.stream_pos + len(head) + int(length)
        found, is_whole = _read_record(record, position, head)
        if not is_whole:
            yield _Found(position, found.excerpt, reason=stream.cut or "truncated")
            return
        if record.record_type not in _PROTOCOL:
            yield found
    if stream.cut:
        yield _Found(position + 1, b"", reason=stream.cut)


def _broken(stream: _Stream, n_before: int, place: int) -> _Found:
    excerpt = stream.excerpt(place)
    if not n_before and not stream.cut and not excerpt.startswith(b"WARC/"):
        return _Found(0, excerpt, reason="unreadable: not a WARC file")
    return _Found(n_before + 1, excerpt, reason=stream.cut or ("truncated" if stream.is_at_end else "broken record"))


def _read_record(record: Any, position: int, head: bytes) -> tuple[_Found, bool]:
    """Read one record to its end; also say whether its end was there."""
    body, page, reason = b"", None, ""
    try:
        if record.is_http and record.record_type in _PAGES:
            try:
                record.parse_http(quirks_mode=True)
            except OSError:
                raise Refused("broken HTTP header") from None
        n_bytes = record.content_length
        body = _take(record, min(n_bytes, EXCERPT_BYTES))
        if record.record_type in _PAGES:
            kind, charset = _kind(record, body)
            if n_bytes > MAX_PAGE_BYTES:
                raise Refused("page too long")
            body += _take(record, n_bytes - len(body))
            if len(body) == n_bytes:
                page = _page(record, kind, charset, body)
        else:
            reason = f"{NO_PAGE}: {'continuation' if record.record_type == WarcRecordType.continuation else 'unknown'} record"
    except Refused as refused:
        n_bytes, reason = record.content_length, str(refused)
    is_whole = len(body) + record.consume() >= n_bytes
    http = _written(record.http_headers) if record.is_http_parsed else b""
    return _Found(position, (head + http + body[:EXCERPT_BYTES])[:EXCERPT_BYTES], page, reason), is_whole


def _take(record: Any, n_bytes: int) -> bytes:
    pieces = []
    while n_bytes and (piece := record.reader.read(n_bytes)):
        pieces.append(piece)
        n_bytes -= len(piece)
    return b"".join(pieces)


def _written(headers: Any) -> bytes:
    buffer = io.BytesIO()
    headers.write(buffer)
    return buffer.getvalue()


def _kind(record: Any, start: bytes) -> tuple[str, str | None]:
    """Tell HTML from plain text, and what the server says about its characters. Raises Refused for all other records."""
    headers = record.headers
    if (headers.get("WARC-Target-URI") or "").lstrip("< ").startswith("metadata:"):
        raise Refused(f"{NO_PAGE}: metadata")  # the log of the crawler, as wget writes it
    if record.is_http:
        headers = record.http_headers
        if headers.status_code is None:
            raise Refused("broken HTTP header")
        if headers.status_code != 200:
            raise Refused(f"{NO_PAGE}: status {headers.status_code if 100 <= headers.status_code <= 999 else 'unknown'}")
    stated = headers.get("Content-Type") or ""
    name = re.split(r"[;,]", stated, maxsplit=1)[0].strip().lower()
    if not name and LOOKS_HTML.search(start):
        name = _HTML[0]
    if name not in (*_HTML, "text/plain"):
        raise Refused(f"{NO_PAGE}: {name if _OTHER_TYPES.fullmatch(name) else 'other type' if name else 'no content type'}")
    charset = _CHARSET.search(stated)
    return ("html" if name in _HTML else "plain"), charset[1] if charset else None


def _page(record: Any, kind: str, charset: str | None, body: bytes) -> dict[str, str | None]:
    if record.is_http:
        body = decoded(record.http_headers, body)
    for mark, name in _MAGIC:
        if body.startswith(mark):
            raise Refused(f"{NO_PAGE}: {name}")
    page = read_page(body, charset) if kind == "html" else Page(decode(body, charset))
    if not page.text.strip():
        raise Refused(f"{NO_PAGE}: no main content")
    url = _bare(record.headers.get("WARC-Target-URI"))
    date = (record.headers.get("WARC-Date") or "").strip() or None
    return _fields(page, _bare(record.headers.get("WARC-Record-ID")) or url, url, date)


def _fields(page: Page, source_id: str | None, url: str | None, date: str | None) -> dict[str, str | None]:
    try:
        host = urllib.parse.urlsplit(url or "").hostname
    except ValueError:
        host = None
    return {"text": page.text, "title": page.title, "id": source_id, "url": url, "host": host, "date": date}


def _bare(value: str | None) -> str | None:
    # WARC 1.0 puts record ids, and some writers addresses, too, between angle brackets.
    return (value or "").strip().removeprefix("<").removesuffix(">") or None


def _html_file(file: Readable) -> _Found:
    pieces: list[bytes] = []
    n_bytes = 0
    reason = ""
    try:
        for piece in chunks(file.open, file.compression):
            pieces.append(piece)
            n_bytes += len(piece)
            if n_bytes > MAX_PAGE_BYTES:
                reason = "page too long"
                break
    except Cut as cut:
        reason = str(cut)
    data = b"".join(pieces)
    excerpt = data[:EXCERPT_BYTES]
    if reason:
        return _Found(0, excerpt, reason=reason)
    try:
        page = read_page(data, None)
    except Refused as refused:
        return _Found(0, excerpt, reason=str(refused))
    return _Found(0, excerpt, _fields(page, file.name, page.url, page.date))
