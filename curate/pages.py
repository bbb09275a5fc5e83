"""One web page: from its bytes to the text that a person would read on it. Pure functions between `web` and ingest.

Decode (what the bytes themselves prove, then what the server and the page say, then a guess), refuse what would cost too much
to parse, take the main content. A page with no main content is no row: navigation alone teaches a model nothing.

The options of the extraction were chosen on the 873 pages of two extraction benchmarks: recall of passages that must be
there 0.94, passages that must not be there 0.23, F1 by words against whole articles 0.93; with comments 0.94, 0.26 and
0.93, with the library's defaults 0.96, 0.30 and 0.90, with all content 0.99, 0.71 and 0.68. Leaving <header> out as well
gives 0.93, 0.22 and 0.94, but takes the headline.

Cost: 40 MB/s of HTML on one core, 350 pages a second of 120 kB; a quarter of it is the search for what makes a parser slow.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import HTMLParserException, HTMLTree, traverse_dom

from curate.rows import NO_PAGE

# Common Crawl cuts pages at 1 MiB, since 2025 at 5 MiB.
MAX_PAGE_BYTES = 8_000_000
MAX_BROKEN_SHARE = 0.01
_FEW_BROKEN = 4  # in a short page these are a slip, not another kind of file
_EXTRACTION: Mapping[str, Any] = {
    "main_content": True,
    "preserve_formatting": True,
    "list_bullets": True,
    "alt_texts": False,
    "links": False,
    "form_fields": False,
    "noscript": False,
    "comments": False,
    "post_meta": False,
    "skip_elements": ["footer"],
}
_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
# Python's codecs by these names are narrower than what browsers read under them.
_WIDER = {"gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs"}
_CONTROLS = bytes(code for code in [*range(32), 127] if code not in b"\t\n\f\r")
# A tag goes to its closing bracket; one inside a quoted value is none, and a quote opens a value only after "=".
_REST = r"(?:[^>=]++|=\s*+(?:\"[^\"]*+\"|'[^']*+')?+)*+"
_TAG = re.compile(rf"</?[a-zA-Z]{_REST}")
_STYLE = "b|big|code|em|font|i|s|small|strike|strong|tt|u"
_STYLE_TAG = re.compile(rf"<(?:{_STYLE})[\s/>]", re.IGNORECASE)
_TOKEN = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(?P<raw>script|style)\b[^>]*+>.*?(?:</(?P=raw)|\Z)"
    rf"|<(?P<end>/?)(?P<name>[a-zA-Z][^\s/>]*+)(?P<rest>{_REST})",
    re.IGNORECASE | re.DOTALL,
)
_QUOTED = re.compile(r"\"[^\"]*+\"|'[^']*+'")
# Each of these bounds a cost that grows with the product of two numbers, at about a second and 0.4 GB.
_MAX_TAGS = 400_000
_MAX_LONG_TAG = 16_000
_MAX_ATTRIBUTES = 2_000
_MAX_STYLE_COPIES = 500_000
_MAX_DEPTH_SUM = 10_000_000
_MANY_TAGS = 10_000


class Refused(Exception):
    """A page gives no row; the argument is the reason."""


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """What a page says: its main text, its title, and the address and date that it gives itself."""

    text: str
    title: str | None = None
    url: str | None = None
    date: str | None = None


def read_page(data: bytes, charset: str | None) -> Page:
    """Read an HTML or XHTML page; `charset` is what its server says. Raises Refused."""
    html = decode(data, charset)
    has_many_tags = _check_markup(html)
    try:
        tree = HTMLTree.parse(html)
    except HTMLParserException:
        raise Refused("unreadable: not parsable as HTML") from None
    if has_many_tags:
        _check_depth(tree)
    text = extract_plain_text(tree, **_EXTRACTION)
    if not text.strip():
        raise Refused(f"{NO_PAGE}: no main content")
    title = " ".join((tree.title or "").split())
    url = _stated(tree, ('link[rel~="canonical" i][href]', "href"), ('meta[property="og:url"][content]', "content"))
    date = _stated(tree, ('meta[property="article:published_time"][content]', "content"))
    is_address = url is not None and url.startswith(("http://", "https://"))
    return Page(text, title or None, url if is_address else None, date)


def decode(data: bytes, charset: str | None) -> str:
    """Decode a page: by its byte order mark, as UTF-8 where it is nothing else, by `charset`, by its own <meta>, by a guess.

    The bytes come before the server, because a default of the server is often wrong and UTF-8 hardly ever happens by
    chance. Raises Refused where more than MAX_BROKEN_SHARE of the characters are controls or could not be decoded.
    """
    text = _decoded(data, charset)
    raw = text.encode()
    n_broken = text.count("\ufffd") + len(raw) - len(raw.translate(None, _CONTROLS))
    if n_broken > max(MAX_BROKEN_SHARE * len(text), _FEW_BROKEN):
        raise Refused("invalid encoding")
    return text


def _decoded(data: bytes, charset: str | None) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if not data.isascii():
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    best, least = "", len(data) + 1
    for encoding in _candidates(data, charset):
        text = data.decode(encoding, "replace")
        n_broken = text.count("\ufffd")
        n_foreign = len(text) - len(text.encode("ascii", "ignore"))
        # A few bad bytes in a page of that encoding are damage; where much of what is not ASCII is bad, it is another one.
        if n_broken * 10 <= n_foreign:
            return text
        if n_broken < least:
            best, least = text, n_broken
    return best


def _candidates(data: bytes, charset: str | None) -> Iterator[str]:
    told = map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
    # UTF-16 holds NUL bytes wherever it holds markup; a page that can say in ASCII that it is UTF-16 is not (HTML, section 13.2.3.2).
    if told and (b"\0" in data or not told.startswith("utf-16")):
        yield _WIDER.get(told, told)
    for from_html_meta in (True, False):
        found = detect_encoding(data, from_html_meta=from_html_meta)
        if found and not found.startswith("utf-16"):
            yield _WIDER.get(found, found)
    yield "utf-8"


def _check_markup(html: str) -> bool:
    """Refuse what parsers take quadratic time or memory for, as far as it shows before parsing; say whether there are many tags.

    Attributes are compared with each other within a tag, and unclosed <b>, <font> and so on are copied into every block
    after them. Both are counted roughly over the whole page first, and tag by tag only where that does not settle it.
    """
    tags = _TAG.findall(html)
    n_tags, n_longest = len(tags), max(map(len, tags), default=0)
    if n_tags > _MAX_TAGS:
        raise Refused("too many elements")
    # A product of styles and other tags is largest where each is half of all.
    many_styles = n_tags**2 // 4 > _MAX_STYLE_COPIES and n_tags * len(_STYLE_TAG.findall(html)) > _MAX_STYLE_COPIES
    if many_styles or n_longest > _MAX_LONG_TAG:
        _check_tags(html)
    return n_tags > _MANY_TAGS


def _check_tags(html: str) -> None:
    is_open = dict.fromkeys(_STYLE.split("|"), 0)
    n_open = n_copies = 0
    for token in _TOKEN.finditer(html):
        if token["name"] is None:
            continue
        rest = token["rest"]
        if len(rest) > _MAX_LONG_TAG and len(_QUOTED.sub(" ", rest).replace("=", " ").replace("/", " ").split()) > _MAX_ATTRIBUTES:
            raise Refused("too many attributes")
        name = token["name"].lower()
        if token["end"]:
            if is_open.get(name):
                is_open[name] -= 1
                n_open -= 1
            continue
        if name in is_open:
            is_open[name] += 1
            n_open += 1
        n_copies += n_open
        if n_copies > _MAX_STYLE_COPIES:
            raise Refused("nested too deeply")


def _check_depth(tree: Any) -> None:
    """Refuse a tree in which the depths of all nodes add up to too much: the extraction looks from each node to the root."""
    total = 0

    def enter(context: Any) -> None:
        nonlocal total
        total += context.depth
        if total > _MAX_DEPTH_SUM:
            raise Refused("nested too deeply")

    traverse_dom(tree.document, enter)


def _stated(tree: Any, *places: tuple[str, str]) -> str | None:
    for selector, attribute in places:
        found = tree.head.query_selector(selector) if tree.head is not None else None
        value = (found.getattr(attribute) or "").strip() if found is not None else ""
        if value:
            return str(value)
    return None
