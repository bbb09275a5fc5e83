"""Models of n-grams as files: one of our own, mapped by all processes of a machine, and ARPA for other programs."""

from __future__ import annotations

import json
import mmap
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import perplexity_kernels as kernels
from filters.kernels import Ints, Keys
from filters.ngrams import SPECIAL, NgramModel

_MAGIC = b"gapless n-grams 1\n"
_ALIGNED = 64


def save(model: NgramModel, path: str) -> None:
    """Write a model into one file: a line of JSON, then the arrays; the same model gives the same bytes."""
    _, offsets, spelled = model.spelled.buffers()
    bounds = np.frombuffer(offsets, np.int64, len(model.spelled) + 1, model.spelled.offset * 8)
    arrays = [*model.tables, model.grams, bounds - bounds[0], np.frombuffer(spelled, np.uint8)[bounds[0] : bounds[-1]]]
    head = {
        "order": model.order, "n_ngrams": model.n_ngrams, "n_docs": model.n_docs, "n_words": model.n_words,
        "sizes": [array.nbytes for array in arrays],
    }  # fmt: skip
    with open(path, "wb") as file:
        file.write(_MAGIC + json.dumps(head, sort_keys=True).encode() + b"\n")
        for array in arrays:
            file.write(b"\0" * (-file.tell() % _ALIGNED))
            file.write(np.ascontiguousarray(array).data)


def load(path: str) -> NgramModel:
    """Open a model; its tables stay in the file and are shared by all processes of a machine.

    Raises ValueError, in one line, for what is no complete model.
    """
    with open(path, "rb") as file:
        if file.readline(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{path} is no model of n-grams; give one that a build has written, a .arpa, or a .bin of KenLM")
        try:
            head: dict[str, Any] = json.loads(file.readline())
            at, sizes = file.tell(), head["sizes"]
            order, n_ngrams, n_docs, n_words = head["order"], tuple(head["n_ngrams"]), head["n_docs"], head["n_words"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is a damaged model of n-grams ({error})") from None
        parts = []
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for size in sizes:
            at += -at % _ALIGNED
            parts.append(mapped[at : at + size])
            at += size
    if at != len(mapped) or len(parts) != order + 3 or len(n_ngrams) != order:
        raise ValueError(f"{path} is a damaged model of n-grams: it has {len(mapped):,} bytes, and its head says {at:,}")
    *tables, grams = (np.frombuffer(part, np.uint64) for part in parts[: order + 1])
    bounds, spelled = parts[order + 1 :]
    words = pa.LargeStringArray.from_buffers(len(bounds) // 8 - 1, pa.py_buffer(bounds), pa.py_buffer(spelled))
    return NgramModel(order, n_ngrams, tuple(tables), grams, words, n_docs, n_words)


def write_arpa(model: NgramModel, path: str) -> None:
    """Write a model in the ARPA format, which KenLM, SRILM and others read: log10 of probabilities and of backoff weights."""
    names = _names(model.tables[0][: 8 * model.n_buckets(1)])
    specials = kernels.IN_BUCKET * model.n_buckets(1) + np.arange(len(SPECIAL))
    names = np.append(specials, names)
    texts = words = pa.concat_arrays([pa.array(SPECIAL, pa.large_string()), model.spelled])
    rank_of_word = rank_of = _ranks(names, model.tables[0])
    with open(path, "wb") as file:
        file.write(b"\\data\\\n" + b"".join(b"ngram %d=%d\n" % each for each in enumerate(model.n_ngrams, 1)))
        for order in range(1, model.order + 1):
            table = model.tables[order - 1]
            if order > 1:
                names = _names(table)
                keys = _keys(table)[names]
                heads = texts.take(pa.array(rank_of[(keys >> np.uint64(32)).astype(np.int64)]))
                lasts = words.take(pa.array(rank_of_word[keys.astype(np.uint32).astype(np.int64)]))
                texts = pc.binary_join_element_wise(heads, lasts, pa.scalar(" ", pa.large_string()))
                rank_of = _ranks(names, table)
            values = table.view(np.float32).reshape(-1, 16)
            columns = [pa.array(values[:, 8:12].reshape(-1)[names]).cast(pa.large_string()), texts]
            if order < model.order:
                columns.append(pa.array(values[:, 12:].reshape(-1)[names]).cast(pa.large_string()))
            lines = pc.binary_join_element_wise(*columns, pa.scalar("\t", pa.large_string()))
            file.write(b"\n\\%d-grams:\n" % order)
            file.write("\n".join(lines.to_pylist()).encode() + b"\n")
        file.write(b"\n\\end\\\n")


def _keys(table: Keys) -> Keys:
    """Give the keys of a table by their names."""
    keys = table.reshape(-1, 8)[:, : kernels.IN_BUCKET].copy()
    keys[:, -1] &= ~kernels.GOES_ON
    return keys.reshape(-1)


def _names(table: Keys) -> Ints:
    return np.flatnonzero(_keys(table) != kernels.EMPTY)


def _ranks(names: Ints, table: Keys) -> Ints:
    ranks = np.zeros(len(table) // 2, np.int64)
    ranks[names] = np.arange(len(names))
    return ranks
