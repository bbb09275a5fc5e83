"""The quality classifier: fastText, fitted on bags of words of trusted text against the rest, or a public model on text as it is.

Facts only: what is fitted on what, and in how many rounds, is decided in curate.scorers. Settings are those of DCLM (Li et al. 2024,
arXiv 2406.11794, and its published training script) but for the number of buckets. fastText is bound inside its C++ on one core, so
scoring hands it whole columns, and what Python does beside it is a few percent (bench/quality.py).

One thread makes a fit repeatable only with care: fastText 0.9 then initialises the first tenth of its input matrix and leaves
the rest as malloc gives it, old bytes included. A fit therefore asks malloc for zeros (glibc; elsewhere fits may differ in the last
digits, and what counts is the model that was kept).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import itertools
import mmap
import struct
import threading
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# Raised with any change of a score that the model file does not show.
VERSION = 1
DOMAIN_LABEL, OTHER_LABEL = "__label__domain", "__label__other"
_MAGIC, _FORMAT = 793712314, 12
_CENTROIDS = 256
_LABEL_TYPE = 1
_SUPERVISED = 3
# Losses hs, ns, softmax, ova; of two labels the probabilities add up to 1 under the first and the third only.
_LOSSES = (1, 2, 3, 4)
_COMPLEMENTARY_LOSSES = ("hs", "softmax")
_FLOAT_BYTES = 4
_M_PERTURB = -6
_one_fit = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class FitSettings:
    """Settings of a fit: `dim` numbers a feature, `epochs` passes, words and runs of up to `word_ngrams` words as features,
    the runs hashed into `bucket` places."""

    dim: int = 100
    epochs: int = 5
    lr: float = 0.1
    word_ngrams: int = 2
    bucket: int = 262_144


@dataclasses.dataclass(frozen=True, slots=True)
class Scorer:
    """A loaded model and the label whose probability is the score."""

    model: Any
    label: str
    # One label's probability gives the other's.
    is_binary: bool

    def score(self, texts: pa.Array) -> pa.Array:
        """Give the probability of the label for each text, as float32 rounded to 1e-4; null where fastText knows nothing of a text.

        A newline counts as a space, as in DCLM; a null is an empty text.
        """
        lines = pc.replace_substring(texts.cast(pa.large_string()).fill_null(""), "\n", " ").to_pylist()
        labels, probabilities = self.model.predict(lines, k=1 if self.is_binary else -1) if lines else ([], [])
        if self.is_binary:
            counts = np.fromiter(map(len, labels), np.int64, len(lines))
            firsts = np.fromiter(itertools.chain.from_iterable(probabilities), np.float64, int(counts.sum()))
            is_other = np.fromiter((label != self.label for label in itertools.chain.from_iterable(labels)), np.bool_, len(firsts))
            found = np.zeros(len(lines))
            found[counts == 1] = np.where(is_other, 1.0 - firsts, firsts)
        else:
            pairs = [dict(zip(*pair, strict=True)) for pair in zip(labels, probabilities, strict=True)]
            counts = np.fromiter(map(len, pairs), np.int64, len(lines))
            found = np.array([pair.get(self.label, 0.0) for pair in pairs], np.float64)
        # fastText adds 1e-5 to a probability before it takes its logarithm, so that it can be slightly above 1.
        return pa.array(np.round(np.clip(found, 0.0, 1.0), 4).astype(np.float32), mask=(counts == 0) | np.isnan(found))


def write_examples(file: IO[bytes], bags: pa.Array, is_domain: pa.Array) -> None:
    """Append a line per bag of words (filters.bags) to a file that `fit` reads. Bags hold no underscore, so none can spell a label."""
    heads = pc.if_else(is_domain, f"{DOMAIN_LABEL} ", f"{OTHER_LABEL} ").cast(pa.large_string())
    lines = pc.binary_join_element_wise(
        heads, bags.cast(pa.large_string()), pa.scalar("\n", pa.large_string()), pa.scalar("", pa.large_string())
    )
    _, offsets, data = lines.buffers()
    if len(lines):
        bounds = np.frombuffer(offsets, np.int64, len(lines) + 1, lines.offset * 8)
        file.write(memoryview(data)[bounds[0] : bounds[-1]])


def fit(examples_path: str, out_path: str, settings: FitSettings) -> None:
    """Fit a model on a file of examples with one thread: the same examples give the same bytes.

    Raises ValueError, in one line, where fastText cannot, for instance because the file is empty, or where all examples are of one
    class.
    """
    import fasttext  # slow to import, and only fits and scores need it

    try:
        with _zeroed_memory():
            model = fasttext.train_supervised(
                examples_path, dim=settings.dim, epoch=settings.epochs, lr=settings.lr, wordNgrams=settings.word_ngrams,
                bucket=settings.bucket, minCount=1, thread=1, seed=0, verbose=0,
            )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"fastText says: {' '.join(str(error).split())}") from None
    if len(model.labels) < 2:
        raise ValueError(f"all examples are {', '.join(model.labels) or 'without a label'}; a fit needs some of two classes")
    model.save_model(out_path)


@contextlib.contextmanager
def _zeroed_memory() -> Iterator[None]:
    # glibc fills new memory with the complement of the last byte given to M_PERTURB (mallopt(3)), for the whole process.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    with _one_fit:
        if mallopt is not None:
            mallopt(_M_PERTURB, 255)
        try:
            yield
        finally:
            if mallopt is not None:
                mallopt(_M_PERTURB, 0)


def load(path: str, label: str = DOMAIN_LABEL) -> Scorer:
    """Open a model. Raises ValueError for what is no complete fastText model, and, naming those there, for an unknown label."""
    labels = check_model(path)
    if label not in labels or len(labels) < 2:
        raise ValueError(f"the model has no label {label!r} to tell from others; its labels: {', '.join(labels)}. Set quality.label")
    import fasttext

    model = fasttext.load_model(path)
    return Scorer(model, label, len(labels) == 2 and model.f.getArgs().loss.name in _COMPLEMENTARY_LOSSES)


def check_model(path: str) -> list[str]:
    """Walk a model file to its end and give its labels.

    The C++ library believes what it reads: a file that is cut off would leave it with old memory for weights, or end the process, and
    so would a row that its settings promise and its matrix lacks. Raises ValueError where a size does not fit the file, or another.
    """
    with open(path, "rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _walk(data)
        except (struct.error, ValueError) as error:
            why = error if isinstance(error, ValueError) and not isinstance(error, struct.error) else "it ends too early"
            raise ValueError(f"not a whole fastText model ({why}); name a .bin or .ftz file of fastText 0.2 or newer") from None


def auc(positives: npt.NDArray[np.floating[Any]], negatives: npt.NDArray[np.floating[Any]]) -> float:
    """Probability that a positive scores above a negative, ties counting half; null scores are left out, and nothing gives NaN.

    >>> auc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
    0.875
    """
    above, below = positives[~np.isnan(positives)], np.sort(negatives[~np.isnan(negatives)])
    if not len(above) or not len(below):
        return float("nan")
    n_below = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
    return float(n_below.sum() / (2 * len(above) * len(below)))


def _walk(data: mmap.mmap) -> list[str]:
    magic, version = struct.unpack_from("<ii", data, 0)
    if magic != _MAGIC or version not in (11, _FORMAT):
        raise ValueError("it does not start like one")
    dim, _, _, _, _, word_ngrams, loss, kind, bucket, _, max_chars, _ = struct.unpack_from("<12i", data, 8)
    if kind != _SUPERVISED or loss not in _LOSSES:
        raise ValueError("it is no classifier")
    at = 8 + 12 * 4 + 8  # settings: twelve integers and a double
    n_entries, n_words, n_labels, _, n_pruned = struct.unpack_from("<iiiqq", data, at)
    if n_labels < 1 or _size(n_words) + n_labels != n_entries:
        raise ValueError("its dictionary does not add up")
    labels, at = _walk_entries(data, at + 28, n_entries, n_words)
    # Hashed features lie behind the words: each bucket, or, where a quantised model was pruned, those that were kept.
    is_hashed = word_ngrams > 1 or (version == _FORMAT and max_chars > 0)
    if is_hashed and bucket < 1:
        raise ValueError("it hashes into no bucket")
    n_hashed = (bucket if is_hashed else 0) if n_pruned < 0 else _n_kept(data, at, n_pruned)
    at += 8 * max(0, n_pruned)
    (is_quantised,) = struct.unpack_from("<?", data, at)
    if n_pruned >= 0 and not is_quantised:
        raise ValueError("it is pruned and not quantised")
    n_rows, n_columns, at = _skip_matrix(data, at + 1, is_quantised)
    (is_output_quantised,) = struct.unpack_from("<?", data, at)
    n_outputs, n_output_columns, at = _skip_matrix(data, at + 1, is_quantised and is_output_quantised)
    if at != len(data):
        raise ValueError(f"it has {len(data)} bytes, {at} by its own account")
    if dim < 1 or (n_columns, n_output_columns, n_outputs) != (dim, dim, n_labels) or n_rows < n_words + n_hashed:
        raise ValueError("its matrices do not fit its dictionary and settings")
    return labels


def _walk_entries(data: mmap.mmap, at: int, n_entries: int, n_words: int) -> tuple[list[str], int]:
    """Give the labels, which stand behind the words, and the end of the dictionary."""
    labels = []
    for number in range(n_entries):
        end = data.find(b"\0", at)
        if end < 0:
            raise ValueError("it ends within its dictionary")
        is_label = struct.unpack_from("<b", data, end + 9)[0] == _LABEL_TYPE
        if is_label != (number >= n_words):
            raise ValueError("its dictionary mixes words and labels")
        if is_label:
            labels.append(data[at:end].decode(errors="replace"))
        at = end + 10
    return labels, at


def _n_kept(data: mmap.mmap, at: int, n_pruned: int) -> int:
    """Count the rows that a pruned model's places of hashed features ask for."""
    if n_pruned > (len(data) - at) // 8:
        raise ValueError("it ends too early")
    places = [place for _, place in struct.iter_unpack("<ii", data[at : at + 8 * n_pruned])]
    return 1 + max(map(_size, places), default=-1)


def _skip_matrix(data: mmap.mmap, at: int, is_quantised: bool) -> tuple[int, int, int]:
    """Give the rows and columns of a matrix, and its end."""
    if not is_quantised:
        n_rows, n_columns = struct.unpack_from("<qq", data, at)
        return n_rows, n_columns, at + 16 + _size(n_rows) * _size(n_columns) * _FLOAT_BYTES
    has_norms, n_rows, n_columns, n_codes = struct.unpack_from("<?qqi", data, at)
    n_parts, at = _skip_quantiser(data, at + 21 + _size(n_codes), n_columns)
    if n_codes != _size(n_rows) * n_parts:
        raise ValueError("its codes do not fit its rows")
    if has_norms:
        _, at = _skip_quantiser(data, at + n_rows, 1)
    return n_rows, n_columns, at


def _skip_quantiser(data: mmap.mmap, at: int, n_columns: int) -> tuple[int, int]:
    """Give the number of parts that a row is cut into, and the end of the quantiser."""
    dim, n_parts, part, last_part = struct.unpack_from("<iiii", data, at)
    if dim != n_columns or not 0 < last_part <= part or n_parts < 1 or (n_parts - 1) * part + last_part != dim:
        raise ValueError("its quantiser does not fit its matrix")
    return n_parts, at + 16 + dim * _CENTROIDS * _FLOAT_BYTES


def _size(number: int) -> int:
    if number < 0:
        raise ValueError("it states a negative size")
    return number
