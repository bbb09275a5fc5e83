"""The kernels that look for what C4 and the counts of a text ask about: phrases, addresses, ellipses and citation marks."""

from __future__ import annotations

import numpy as np

from filters.kernels import Bytes, jit

# Flags of phrases (the first of them are in filters.line_kernels).
LOREM, JAVASCRIPT, CURLY, POLICY = 128, 256, 512, 1024
_DOT, _COLON, _SLASH, _OPEN, _CLOSE = 46, 58, 47, 91, 93


def _phrase(text: bytes) -> Bytes:
    return np.frombuffer(text, np.uint8)


_HTTP, _HTTPS, _WWW = _phrase(b"http"), _phrase(b"https"), _phrase(b"www")
_JAVASCRIPT, _LOREM = _phrase(b"javascript"), _phrase(b"lorem ipsum")
_TERMS, _PRIVACY, _POLICY = _phrase(b"terms of use"), _phrase(b"privacy policy"), _phrase(b"cookie policy")
_USES, _USE_OF, _USE = _phrase(b"uses cookies"), _phrase(b"use of cookies"), _phrase(b"use cookies")
_EDIT, _CITATION = _phrase(b"[edit]"), _phrase(b"[citation needed]")


@jit
def has(data: Bytes, at: int, start: int, end: int, phrase: Bytes) -> bool:
    """Tell whether a phrase of lower-case ASCII stands at a place within [start, end), in either case."""
    if at < start or at + len(phrase) > end:
        return False
    for k in range(len(phrase)):
        byte = data[at + k]
        if (byte | 0x20 if 65 <= byte <= 90 else byte) != phrase[k]:
            return False
    return True


@jit
def is_ellipsis(data: Bytes, i: int, end: int) -> bool:
    if i + 3 > end:
        return False
    if data[i] == _DOT:
        return bool(data[i + 1] == _DOT and data[i + 2] == _DOT)
    return bool(data[i] == 0xE2 and data[i + 1] == 0x80 and data[i + 2] == 0xA6)


@jit
def is_url(data: Bytes, i: int, start: int, end: int) -> bool:
    """Tell whether the colon or dot at i is that of http:// or https://, or of a www. that no letter, digit or slash precedes."""
    if data[i] == _COLON:
        is_followed = i + 2 < end and data[i + 1] == _SLASH and data[i + 2] == _SLASH
        return is_followed and (has(data, i - 4, start, end, _HTTP) or has(data, i - 5, start, end, _HTTPS))
    if not has(data, i - 3, start, end, _WWW):
        return False
    if i - 4 < start:
        return True
    before = data[i - 4]
    return not (before == _SLASH or 48 <= before <= 57 or 65 <= before <= 90 or 97 <= before <= 122)


@jit
def phrase_at(data: Bytes, i: int, start: int, end: int) -> int:
    """Give the flag of the phrase of C4 whose telling letter stands at i, or 0. Each is looked for at one of its rarer pairs of letters."""
    if i <= start:
        return 0
    before, letter = data[i - 1] | 0x20, data[i] | 0x20
    if before == 106 and letter == 97:  # ja
        return JAVASCRIPT if has(data, i - 1, start, end, _JAVASCRIPT) else 0
    if before == 112 and letter == 115:  # ps
        return LOREM if has(data, i - 8, start, end, _LOREM) else 0
    if before == 109 and letter == 115:  # ms
        return POLICY if has(data, i - 4, start, end, _TERMS) else 0
    if before == 105 and letter == 118:  # iv
        return POLICY if has(data, i - 3, start, end, _PRIVACY) else 0
    if before != 111 or letter != 107:  # ok
        return 0
    is_cookie = (
        has(data, i - 3, start, end, _POLICY)
        or has(data, i - 8, start, end, _USES)
        or has(data, i - 10, start, end, _USE_OF)
        or has(data, i - 7, start, end, _USE)
    )
    return POLICY if is_cookie else 0


@jit
def citation_end(data: Bytes, i: int, end: int) -> int:
    """Give the end of the citation mark at i ([12], [edit], [citation needed]), or i where there is none."""
    k = i + 1
    while k < end and 48 <= data[k] <= 57:
        k += 1
    if k < end and data[k] == _CLOSE:
        return k + 1
    for mark in (_EDIT, _CITATION):
        if i + len(mark) <= end:
            is_same = True
            for k in range(len(mark)):
                is_same = is_same and data[i + k] == mark[k]
            if is_same:
                return i + len(mark)
    return i
