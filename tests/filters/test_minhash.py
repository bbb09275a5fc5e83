"""Shingles, signatures and band keys equal the twin's and datasketch's on any text; thresholds follow from bands and rows."""

import doctest
import hashlib
import importlib.resources
import itertools
import pathlib
import unicodedata

import datasketch
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from filters import chars, minhash, shingle_kernels
from filters.columns import TextBatch
from tests.filters import minhash_twin as twin
from tests.filters.test_unicode_classes import UNICODE_VERSION
from tests.filters.texts import GOLDEN_TEXTS, batch_of, columns, plain, texts

# When a digest no longer fits: raise minhash.VERSION and replace the row.
GOLDEN = {1: "abe7fd0993d261a0c1b59079fc2f803002136f132b2f310afc5eafc951e36486"}

HEADER = """\
# Simple lower case for docs/minhash.md: first and last code point in hex, step, distance. Every step-th code point from the first to the
# last has its lower case that far away; all others are their own. Unicode 14.0, made by tests/filters/test_minhash.py with Python 3.11.
# A change changes shingles: raise filters.minhash.VERSION.
"""

SENTENCE = "the quick brown fox jumps over the lazy dog"


def runs(starts, hashes) -> list[list[int]]:
    return [hashes[first:last].tolist() for first, last in itertools.pairwise(starts)]


def found_shingles(*documents: str) -> list[list[int]]:
    return runs(*minhash.shingles(batch_of(*documents)))


def make_lower_table() -> str:
    ranges: list[list[int]] = []
    for code in range(0x110000):
        distance = ord(chr(code).lower()[0]) - code
        if distance == 0:
            continue
        step = code - ranges[-1][1] if ranges else 0
        if ranges and distance == ranges[-1][3] and step <= 2 and step == (ranges[-1][2] or step):
            ranges[-1][1:3] = code, step
        else:
            ranges.append([code, code, 0, distance])
    rows = [f"{first:04X} {last:04X} {step or 1} {distance}\n" for first, last, step, distance in ranges]
    return HEADER + "".join(rows)


@pytest.mark.slow
@pytest.mark.skipif(
    unicodedata.unidata_version != UNICODE_VERSION,
    reason=f"this Python has Unicode {unicodedata.unidata_version}, the table {UNICODE_VERSION}",
)
def test_the_shipped_lower_case_is_that_of_unicode_14():
    shipped = importlib.resources.files("filters").joinpath("unicode_lower.txt").read_text(encoding="ascii")
    assert shipped == make_lower_table()
    is_char = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    packed = chars.lowered().tolist()
    assert [packed[code] for code in is_char] == [int.from_bytes(twin.lower(chr(code)).encode(), "little") for code in is_char]


def sentences(*, min_words: int = 0) -> st.SearchStrategy[str]:
    """Texts of words, so that most have shingles; arbitrary text rarely has five words."""
    word = st.sampled_from(
        ["a", "The", "quick", "brown", "\u00c9t\u00e9", "\u0130", "\u2167", "\u212a", "\u6587", "5", "x" * 9, "Stra\u00dfe" * 3]
    )
    return st.lists(word, min_size=min_words, max_size=30).map(" ".join)


@given(columns())
@example(pa.array(GOLDEN_TEXTS))
def test_shingles_are_those_of_the_twin(column):
    assert runs(*minhash.shingles(TextBatch.from_arrow(column))) == [twin.shingles(text) for text in plain(column)]


@given(st.lists(sentences(), max_size=5), st.integers(1, 6))
@example(list(GOLDEN_TEXTS), 3)
def test_shingles_of_any_length_are_those_of_the_twin(documents, n_words):
    found = runs(*minhash.shingles(batch_of(*documents), n_words=n_words))
    assert found == [twin.shingles(text, n_words) for text in documents]


@given(st.lists(st.one_of(sentences(), texts()), max_size=5), st.integers(0, 2**32 - 1))
@example(list(GOLDEN_TEXTS), 1)
def test_signatures_and_band_keys_are_those_of_the_twin(documents, seed):
    batch = batch_of(*documents)
    signatures, has_signature = minhash.signatures(batch, n_perms=6, seed=seed)
    signed = [row.tolist() if has else None for row, has in zip(signatures, has_signature, strict=True)]
    assert signed == [twin.signature(text, 6, seed) for text in documents]
    keys = minhash.band_keys(batch, bands=3, rows=2, seed=seed)
    assert keys.type == pa.list_(pa.uint64(), 3)
    assert keys.to_pylist() == [twin.band_keys(text, 3, 2, seed) for text in documents]


@given(st.text(st.characters(categories=["L", "M", "N"]), min_size=1, max_size=20))
def test_aword_hashes_to_what_the_twin_says_wherever_it_stands(text):
    words = twin.words(text)
    for padding in ("", "-", "-" * 20):
        batch = batch_of(padding + text + padding)
        assert minhash.word_hashes(batch).tolist() == [twin.word_hash(word) for word in words]


@pytest.mark.parametrize("n_perms", [1, 7, 112, 286])
def test_signatures_are_those_of_datasketch(n_perms):
    documents = [*GOLDEN_TEXTS, SENTENCE]
    signatures, has_signature = minhash.signatures(batch_of(*documents), n_perms=n_perms, seed=7)
    for text, row, has in zip(documents, signatures, has_signature, strict=True):
        expected = datasketch.MinHash(n_perms, seed=7, scheme="affine64", hashfunc=lambda shingle: shingle)
        if has:
            expected.update_batch(twin.shingles(text))
        assert row.tolist() == expected.hashvalues.tolist()
    assert has_signature.tolist() == [len(twin.shingles(text)) >= 5 for text in documents]


def test_signatures_load_into_datasketch_and_its_index():
    documents = [
        SENTENCE * 3,
        f"{SENTENCE} {SENTENCE} {SENTENCE}",
        "\u6587\u5b57" + SENTENCE,
        "one two three four five six seven eight nine",
    ]
    signatures, _ = minhash.signatures(batch_of(*documents), seed=1)
    loaded = [datasketch.MinHash(hashvalues=row, scheme="affine64", seed=1) for row in signatures]
    index = datasketch.MinHashLSH(params=(14, 8), num_perm=112)
    for key, sketch in enumerate(loaded[:-1]):
        index.insert(key, sketch)
    assert loaded[0].jaccard(loaded[0]) == 1.0
    assert loaded[1].jaccard(loaded[3]) == 0.0
    assert 1 in index.query(loaded[1])
    assert index.query(loaded[3]) == []


@pytest.mark.parametrize(
    ("text", "n_shingles"),
    [("", 0), ("one two three four", 0), ("one two three four five six seven eight", 4), ("a " * 100, 1), (f"{SENTENCE}", 5)],
)
def test_fewer_than_five_distinct_shingles_are_no_signature(text, n_shingles):
    batch = batch_of(text)
    signatures, has_signature = minhash.signatures(batch)
    assert len(minhash.shingles(batch)[1]) == n_shingles
    assert has_signature.tolist() == [n_shingles >= minhash.MIN_SHINGLES]
    assert minhash.band_keys(batch).is_null().to_pylist() == [n_shingles < minhash.MIN_SHINGLES]
    assert np.all(signatures == 2**64 - 1) == (n_shingles < minhash.MIN_SHINGLES)


def test_case_punctuation_and_white_space_do_not_matter():
    left, right = found_shingles(
        "Cr\u00e8me br\u00fbl\u00e9e, \u0393\u03b5\u03b9\u03ac and \u0416\u0443\u043a: it's FINE.",
        "CR\u00c8ME\nBR\u00dbL\u00c9E  \u0393\u0395\u0399\u0386 (and) \u0436\u0443\u043a it-s... fine",
    )
    assert left == right
    assert len(left) == 4


def test_numbers_matter():
    left, right = found_shingles("give 5 mg per day and night", "give 50 mg per day and night")
    assert len(set(left) & set(right)) == len(left) - 2 == 1


def test_text_without_spaces_has_shingles_of_five_characters():
    left, right = found_shingles("\u65b0\u51a0\u75c5\u6bd2\u75ab\u82d7", "\u65b0 \u51a0\u3002\u75c5 \u6bd2 \u75ab")
    assert len(left) == 2
    assert right == [twin.shingles("\u65b0\u51a0\u75c5\u6bd2\u75ab")[0]]
    assert set(right) < set(left)


@given(st.permutations(range(len(GOLDEN_TEXTS))), st.integers(0, len(GOLDEN_TEXTS)))
def test_neighbours_and_batches_do_not_matter(order, cut):
    expected = minhash.band_keys(batch_of(*GOLDEN_TEXTS)).to_pylist()
    for chosen in (order[:cut], order[cut:]):
        batch = batch_of(*[GOLDEN_TEXTS[i] for i in chosen])
        assert minhash.band_keys(batch).to_pylist() == [expected[i] for i in chosen]
        assert runs(*minhash.shingles(batch)) == [twin.shingles(GOLDEN_TEXTS[i]) for i in chosen]


@pytest.mark.parametrize("column", [pa.array([], pa.string()), pa.chunked_array([], pa.large_string()), pa.array([SENTENCE])[1:]])
def test_no_documents(column):
    batch = TextBatch.from_arrow(column)
    doc_starts, hashes = minhash.shingles(batch)
    signatures, has_signature = minhash.signatures(batch)
    assert (doc_starts.tolist(), hashes.tolist(), signatures.shape, has_signature.tolist()) == ([0], [], (0, 112), [])
    assert len(minhash.band_keys(batch)) == 0


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9) | st.integers(2**64 - 9, 2**64 - 1), max_size=200))
def test_sorting_leaves_each_value_once(values):
    values = values * 2
    # Also uncompiled: NumPy checks the bounds, which compiled code does not.
    for sort_distinct in (shingle_kernels._sort_distinct, shingle_kernels._sort_distinct.py_func):
        room = np.array(values, np.uint64)
        n = sort_distinct(room, len(values), np.zeros_like(room), np.zeros(2 * len(values) + 3, np.int64))
        assert room[:n].tolist() == sorted(set(values))


@given(st.lists(st.sets(st.integers(0, 20), max_size=15), min_size=1, max_size=6))
def test_jaccard_and_containment_are_those_of_sets(sets):
    hashes = np.array([value for found in sets for value in sorted(found)], np.uint64)
    ends = np.cumsum([len(found) for found in sets])
    starts = ends - [len(found) for found in sets]
    left, right = (side.reshape(-1) for side in np.indices((len(sets), len(sets))))
    scores = minhash.jaccard(starts[left], ends[left], starts[right], ends[right], hashes)
    assert scores.tolist() == [twin.jaccard(sets[i], sets[j]) for i, j in zip(left, right, strict=True)]
    of_left, of_right = minhash.containment(starts[left], ends[left], starts[right], ends[right], hashes)
    assert of_left.tolist() == [twin.containment(sets[i], sets[j]) for i, j in zip(left, right, strict=True)]
    assert of_right.tolist() == [twin.containment(sets[j], sets[i]) for i, j in zip(left, right, strict=True)]


@given(st.lists(sentences(), min_size=2, max_size=2))
def test_containment_of_texts_is_that_of_the_twin(documents):
    starts, hashes = minhash.shingles(batch_of(*documents), n_words=minhash.CONTAINED_WORDS)
    of_left, of_right = minhash.containment(starts[:1], starts[1:2], starts[1:2], starts[2:], hashes)
    left, right = (set(twin.shingles(text, 3)) for text in documents)
    assert (of_left[0], of_right[0]) == (twin.containment(left, right), twin.containment(right, left))


def test_jaccard_reads_hashes_mapped_from_a_file(tmp_path):
    np.array([1, 2, 3, 2, 3, 4], np.uint64).tofile(tmp_path / "hashes")
    hashes = np.memmap(tmp_path / "hashes", np.uint64, mode="r")
    start, middle, end = (np.array([place], np.int64) for place in (0, 3, 6))
    assert minhash.jaccard(start, middle, middle, end, hashes).tolist() == [2 / 4]
    assert minhash.jaccard(start, start, middle, middle, hashes).tolist() == [0.0]


def test_output_changes_only_with_the_version():
    batch = batch_of(*GOLDEN_TEXTS)
    digest = hashlib.sha256()
    for array in (*minhash.shingles(batch), *minhash.signatures(batch), minhash.band_keys(batch).flatten().to_numpy()):
        digest.update(np.ascontiguousarray(array).tobytes())
    assert GOLDEN.get(minhash.VERSION) == digest.hexdigest()


def test_recall_is_the_probability_of_a_shared_band():
    assert minhash.recall(0.8, bands=14, rows=8) == pytest.approx(1 - (1 - 0.8**8) ** 14)
    assert [minhash.recall(s, bands=3, rows=2) for s in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("bands", "rows", "expected"), [(14, 8, 0.8), (26, 11, 0.8), (20, 13, 0.85), (1, 1, 0.9), (512, 1, 0.05), (1, 300, 1)]
)
def test_the_least_threshold_is_where_nine_of_ten_are_found(bands, rows, expected):
    assert minhash.least_threshold(bands, rows) == expected
    assert 1 - (1 - expected**rows) ** bands >= 0.9 > 1 - (1 - (expected - 0.05) ** rows) ** bands


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.77, 0.8, 0.85, 0.95, 1])
def test_fitting_bands_are_the_steepest_that_reach_the_threshold(threshold):
    bands, rows = minhash.fitting_bands(threshold)
    assert bands * rows <= 288
    assert minhash.least_threshold(bands, rows) <= threshold
    assert bands == 1 or minhash.least_threshold(bands - 1, rows) > threshold
    assert rows == 288 or minhash.least_threshold(288 // (rows + 1), rows + 1) > threshold


@pytest.mark.parametrize("threshold", [0.04, 1.01, float("nan")])
def test_a_threshold_that_no_bands_reach_is_refused(threshold):
    with pytest.raises(ValueError, match=r"fits no bands; allowed: 0\.05 to 1"):
        minhash.fitting_bands(threshold)


def test_the_page_shows_the_twin():
    page = pathlib.Path(__file__).parents[2] / "docs" / "minhash.md"
    assert f"```python\n{pathlib.Path(twin.__file__).read_text(encoding='utf-8')}```\n" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [twin, minhash], ids=["twin", "minhash"])
def test_the_examples_hold(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
