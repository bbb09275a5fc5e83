"""Bodies of HTTP responses as crawlers store them: transfer and content encodings undone, in bounded memory.

Crawlers disagree about what they store. Some keep the body as it came, some decode it and keep the header all the same, and
most cut it somewhere. So a header counts only where the body looks like it. fastwarc can decode, too, but loses the rest
of the file after a body that it cannot decode.
"""

import re
import zlib
from typing import Any

import pyarrow as pa

from curate.pages import MAX_PAGE_BYTES, Refused
from curate.streams import EXCERPT_BYTES

LOOKS_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body|title)\b", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_MAX_ENCODINGS = 3


def decoded(headers: Any, body: bytes) -> bytes:
    """Undo the transfer and content encodings. A body that ends early is taken as far as it goes, as a plain one is, and one
    that does not look encoded is left alone: many crawlers store decoded bodies under the header as it came."""
    if "chunked" in (headers.get("Transfer-Encoding") or "").lower() and _CHUNK.match(body):
        body = _unchunked(body)
    names = [name.strip() for name in (headers.get("Content-Encoding") or "").lower().split(",")]
    names = [name for name in names if name not in ("", "identity", "none")]
    if len(names) > _MAX_ENCODINGS:
        raise Refused("unknown content encoding")
    for name in reversed(names):
        body = _expanded(name.removeprefix("x-"), body)
        if len(body) > MAX_PAGE_BYTES:
            raise Refused("page too long")
    return body


def _unchunked(body: bytes) -> bytes:
    pieces, place = [], 0
    while place < len(body):
        chunk = _CHUNK.match(body, place)
        if chunk is None:
            raise Refused("broken content encoding")
        n_bytes = int(chunk[1], 16)
        if not n_bytes:
            break
        pieces.append(body[chunk.end() : chunk.end() + n_bytes])
        place = chunk.end() + n_bytes
        place += 2 if body.startswith(b"\r\n", place) else 1
    return b"".join(pieces)


def _expanded(name: str, body: bytes) -> bytes:
    try:
        if name == "gzip":
            return zlib.decompressobj(31).decompress(body, MAX_PAGE_BYTES + 1)
        if name == "deflate":
            # RFC 9110 means zlib; some servers send the bare stream.
            window = 15 if body[:1] == b"\x78" else -15
            return zlib.decompressobj(window).decompress(body, MAX_PAGE_BYTES + 1)
        if name in ("br", "zstd"):
            stream = pa.CompressedInputStream(pa.BufferReader(body), "brotli" if name == "br" else "zstd")
            return bytes(stream.read(MAX_PAGE_BYTES + 1))
    except (zlib.error, OSError):
        if LOOKS_HTML.search(body, 0, EXCERPT_BYTES):
            return body
        raise Refused("broken content encoding") from None
    raise Refused("unknown content encoding")
