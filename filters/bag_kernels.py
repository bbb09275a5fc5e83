"""The kernel behind filters.bags: each document's distinct words, spelt out in lower case, compiled by numba.

Two words of a document are the same where their 64-bit hashes are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from filters.kernels import MAX_CODE_POINT, Bytes, Ints, Keys, Places, jit

_SPACE = 0x20
# No character of Unicode 14.0 grows by more than half when it is lower-cased (U+023A: two bytes to three).
GROWTH = 3 / 2


@jit
def spell_word(data: Bytes, start: int, end: int, lowered: npt.NDArray[np.uint32], out: Bytes, at: int) -> int:
    i = start
    while i < end:
        lead = int(np.int64(data[i]))
        if lead < 0x80:
            out[at] = lead + 32 if 65 <= lead <= 90 else lead
            at, i = at + 1, i + 1
            continue
        width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        code = lead & (0x7F >> width)
        for k in range(1, width):
            code = (code << 6) | int(np.int64(data[i + k]) & 0x3F)
        i += width
        char = np.int64(lowered[min(code, MAX_CODE_POINT)])
        while char > 0:
            out[at] = char & 0xFF
            char >>= 8
            at += 1
    return at


@jit
def spell_distinct(
    data: Bytes, doc_starts: Ints, starts: Places, ends: Places, hashes: Keys, lowered: npt.NDArray[np.uint32], piece_words: int
) -> tuple[Bytes, Ints, Ints]:
    n_docs, n_words = len(doc_starts) - 1, len(starts)
    out = np.empty(int(len(data) * GROWTH) + n_words, np.uint8)
    piece_starts = np.zeros(n_docs + 1, np.int64)
    # A document has at most one piece more than it has runs of half a piece.
    offsets = np.zeros(n_docs + 2 * n_words // piece_words + 2, np.int64)
    most = 0
    for doc in range(n_docs):
        most = max(most, doc_starts[doc + 1] - doc_starts[doc])
    n_bits = 4
    while (1 << n_bits) < 2 * most:
        n_bits += 1
    shift, mask = np.uint64(64 - n_bits), (1 << n_bits) - 1
    # A slot belongs to the document that wrote it last, so that nothing is cleared between documents.
    table, owner = np.zeros(1 << n_bits, np.uint64), np.full(1 << n_bits, -1, np.int64)
    chosen = np.empty(most, np.int64)
    at, n_pieces = 0, 0
    for doc in range(n_docs):
        n = 0
        for word in range(doc_starts[doc], doc_starts[doc + 1]):
            slot = np.int64(hashes[word] >> shift)
            while owner[slot] == doc and table[slot] != hashes[word]:
                slot = np.int64((slot + 1) & mask)
            if owner[slot] != doc:
                owner[slot], table[slot] = doc, hashes[word]
                chosen[n] = word
                n += 1
        n_own = max(1, (n + piece_words // 2) // piece_words)
        for piece in range(n_own):
            last = n if piece == n_own - 1 else (piece + 1) * piece_words
            for k in range(piece * piece_words, last):
                if k > piece * piece_words:
                    out[at] = _SPACE
                    at += 1
                at = spell_word(data, starts[chosen[k]], ends[chosen[k]], lowered, out, at)
            n_pieces += 1
            offsets[n_pieces] = at
        piece_starts[doc + 1] = n_pieces
    return out[:at], offsets[: n_pieces + 1], piece_starts
