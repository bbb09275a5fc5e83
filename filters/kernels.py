"""What all kernels share: how they are compiled and cached, the types of their arrays, and reading characters and bytes.

A kernel is a loop over UTF-8 bytes, or over places of words and lines, compiled by numba; it reads bytes in place and never makes a
Python string. Bytes that are not UTF-8 give unspecified results, but are never read past the end of their document.

Compiled kernels lie in the user's cache folder, below a digest of all kernel files, of numba and of the CPU. numba alone would not do:
it looks at the file of the function that is called, and a change in a function of another file would go unseen.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

import llvmlite.binding
import numba
import numpy as np
import numpy.typing as npt

# Classes of characters, as in unicode_classes.txt; a spaceless letter belongs to a script that is written without spaces.
SEPARATOR, LETTER, NUMBER, MARK, SPACELESS_LETTER = range(5)
MAX_CODE_POINT = 0x10FFFF
# Bits of what else a character is (filters.chars.kinds).
WHITE, ENDING, CLOSING, UPPER, DIGIT, TELLING = 1, 2, 4, 8, 16, 32

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int32]
Packed = npt.NDArray[np.uint32]
Keys = npt.NDArray[np.uint64]
_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])

# Any odd number makes runs that differ in one word differ; this one is 2^64 divided by the golden ratio.
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
HIGH_BITS = np.uint64(0x8080808080808080)


def _cache_dir() -> str | None:
    """Name the folder of compiled kernels; None where it cannot be written, and then they are compiled in each process."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.binding.get_host_cpu_name()}".encode())
    for path in sorted(pathlib.Path(__file__).parent.glob("*kernels.py")):
        digest.update(path.read_bytes())
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(home, "gapless", f"kernels-{digest.hexdigest()[:16]}")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


CACHE_DIR: Final = _cache_dir()


def jit(kernel: _Kernel) -> _Kernel:
    """Compile on first call, without the GIL, and keep the result on disk. numba's own decorator has no types."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = CACHE_DIR or ""  # numba looks at it once, here
    try:
        compiled: _Kernel = numba.njit(nogil=True, cache=CACHE_DIR is not None)(kernel)
    finally:
        numba.config.CACHE_DIR = before
    return compiled


@jit
def decode(data: Bytes, i: int, end: int) -> tuple[int, int]:
    """The code point at i and its width in bytes. A sequence that is cut off, or that no character starts with, is a NUL of width 1."""
    lead = int(np.int64(data[i]))
    if lead < 0x80:
        return lead, 1
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if lead < 0xC0 or lead > 0xF7 or i + width > end:
        return 0, 1
    code = lead & (0x7F >> width)
    for k in range(1, width):
        # What is swallowed as the rest of a character must be that: a newline counted by one kernel and missed by another is a wild read.
        if data[i + k] & 0xC0 != 0x80:
            return 0, 1
        code = (code << 6) | int(np.int64(data[i + k]) & 0x3F)
    return min(code, MAX_CODE_POINT), width


@jit
def read_block(data: Bytes, start: int, end: int) -> np.uint64:
    """Up to eight bytes as a little-endian integer, zeros behind the end. The first branch compiles to one load."""
    if start + 8 <= len(data):
        i = np.uint64(start)
        block = np.uint64(data[i])
        block |= np.uint64(data[i + np.uint64(1)]) << np.uint64(8)
        block |= np.uint64(data[i + np.uint64(2)]) << np.uint64(16)
        block |= np.uint64(data[i + np.uint64(3)]) << np.uint64(24)
        block |= np.uint64(data[i + np.uint64(4)]) << np.uint64(32)
        block |= np.uint64(data[i + np.uint64(5)]) << np.uint64(40)
        block |= np.uint64(data[i + np.uint64(6)]) << np.uint64(48)
        block |= np.uint64(data[i + np.uint64(7)]) << np.uint64(56)
        return block if end - start >= 8 else block & ((np.uint64(1) << np.uint64(8 * (end - start))) - np.uint64(1))
    block = np.uint64(0)
    for k in range(min(end - start, 8)):
        block |= np.uint64(data[start + k]) << np.uint64(8 * k)
    return block


@jit
def fmix64(x: np.uint64) -> np.uint64:
    """The finaliser of MurmurHash3: a bijection in which every bit of x changes half of the bits."""
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


@jit
def hash_bytes(data: Bytes, start: int, end: int) -> np.uint64:
    """Hash a run of bytes to 64 bits; runs of one length of up to eight bytes never collide."""
    # The length first: NULs at an end look like what is not there.
    hashed = np.uint64(end - start) * MULTIPLIER
    for i in range(start, end, 8):
        hashed = fmix64(hashed ^ read_block(data, i, end))
    return hashed


@jit
def n_bits_of(n: int) -> int:
    """Bits of a hash table with at least twice as many slots as n."""
    n_bits = 1
    while (1 << n_bits) < 2 * n:
        n_bits += 1
    return n_bits


@jit
def longest(doc_starts: Ints) -> int:
    """The most words or lines that one document has, at least 1."""
    most = 1
    for doc in range(len(doc_starts) - 1):
        most = max(most, int(doc_starts[doc + 1] - doc_starts[doc]))
    return most


@jit
def count_ones(bits: np.uint64) -> int:
    """The usual sums of ever more neighbours (Hacker's Delight 5-1), which LLVM recognises and replaces by one instruction."""
    bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int(np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56)))
