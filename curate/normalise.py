"""Give every text one form, and every text and row an identity: between ingest and the corpus.

Pure functions over Arrow columns, one version, no options: two builds can only differ in their texts, never in how a text
was cleaned. The rules, in this order: line ends (CRLF, CR, NEL, LS, PS, VT, FF) become LF; other control characters (Cc
without TAB and LF) and U+FEFF go; NFC; white space at both ends goes. Line ends and controls come first because removing a
character can bring two together that compose, and trimming comes last because a control can hide white space.

Cost: one regex pass over all text (about 0.7 GB/s on one core) finds the rows that hold anything but characters which no
rule touches; only these are rewritten (NFC alone runs at 70 MB/s). Trimming 10 GB/s, doc_id 0.7 to 1.5 GB/s, row_key 2 us a row.
"""

import hashlib
import itertools
import json.encoder

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

VERSION = 1
KEY_COLUMNS = ("id", "group", "url", "licence", "date", "doc_id")

# Characters that no rule but trimming touches: printable ASCII, TAB, LF, and ranges whose characters are all in NFC, have
# combining class 0 and never compose with the one before (UAX 15 freezes this for assigned characters). The rest is slower,
# not wrong. Left out inside the ranges: singletons such as U+2000, U+2126, U+212A, U+2329, U+2ADC and marks such as U+3099.
UNTOUCHED_RANGES = (
    (0x09, 0x0A),
    (0x20, 0x7E),
    (0xA0, 0x2FF),
    (0x391, 0x3A1),
    (0x3A3, 0x3FF),
    (0x400, 0x482),
    (0x48A, 0x52F),
    (0x2002, 0x2027),
    (0x202F, 0x2064),
    (0x20A0, 0x20BF),
    (0x2100, 0x2125),
    (0x2127, 0x2129),
    (0x212C, 0x218B),
    (0x2190, 0x2328),
    (0x232B, 0x2426),
    (0x2460, 0x2ADB),
    (0x2ADD, 0x2B73),
    (0x3000, 0x3029),
    (0x3041, 0x3096),
    (0x30A1, 0x30FF),
    (0x4E00, 0x9FFC),
    (0xAC00, 0xD7A3),
    (0xFB00, 0xFB06),
    (0xFF01, 0xFFBE),
    (0x1F300, 0x1F6D7),
    (0x1F900, 0x1F978),
)
_TOUCHED = "[^" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in UNTOUCHED_RANGES) + "]"
_LINE_END = r"\r\n|[\r\x0b\x0c\x{85}\x{2028}\x{2029}]"
_CONTROL = r"[\x00-\x08\x0e-\x1f\x7f-\x{84}\x{86}-\x{9f}\x{feff}]"
_quoted = json.encoder.encode_basestring  # as json.dumps with ensure_ascii=False does it, a third of the time


def normalise(texts: pa.Array) -> pa.Array:
    """Bring texts into the one form that the corpus holds, as large_string; null stays null, and doing it twice changes nothing."""
    texts = texts.cast(pa.large_string())
    is_touched = pc.fill_null(pc.match_substring_regex(texts, _TOUCHED), False)
    if pc.any(is_touched, min_count=0).as_py():
        rows = texts.filter(is_touched)
        rows = pc.replace_substring_regex(rows, _LINE_END, "\n")
        rows = pc.replace_substring_regex(rows, _CONTROL, "")
        texts = pc.replace_with_mask(texts, is_touched, pc.utf8_normalize(rows, "NFC"))
    return pc.utf8_trim_whitespace(texts)


def doc_ids(texts: pa.Array) -> pa.Array:
    """Name each text (large_string, no nulls) by the first 16 bytes of SHA-256 of its UTF-8 form, as 32 hex digits.

    A Python loop, because OpenSSL's SHA-256 over slices of the column's own buffer is the fastest one at hand: the loop adds
    half a microsecond a text, less than any kernel of our own would lose.
    """
    assert texts.type == pa.large_string()
    assert texts.null_count == 0
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int64, len(texts) + 1, texts.offset * 8).tolist() if len(texts) else [0]
    view = memoryview(data if data is not None else b"")
    return pa.array([hashlib.sha256(view[start:end]).hexdigest()[:32] for start, end in itertools.pairwise(bounds)], pa.string())


def row_keys(source: str, rows: pa.Table) -> pa.Array:
    """Name each row by what it is, apart from its copy number: 32 hex digits over its source and KEY_COLUMNS.

    `group` is the value that the recipe maps, null where absent, not the default that the corpus stores in its place.

    >>> row = pa.table({name: ["x"] for name in KEY_COLUMNS})
    >>> row_keys("papers", row)[0].as_py() == _hex32('["papers","x","x","x","x","x","x"]')
    True
    """
    head = f"[{_quoted(source)},"
    columns = [["null" if value is None else _quoted(value) for value in rows[name].to_pylist()] for name in KEY_COLUMNS]
    return pa.array([_hex32(f"{head}{','.join(row)}]") for row in zip(*columns, strict=True)], pa.string())


def row_id(row_key: str, copy: int) -> str:
    """Name an occurrence: rows with one row_key are interchangeable and numbered 0, 1, ... (the SQL of decide, in plain Python)."""
    return _hex32(f"{row_key}:{copy}")


def _hex32(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
