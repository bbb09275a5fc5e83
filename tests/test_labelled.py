"""Near-duplicate search on the labelled sets: what is no copy is not found, and what is alike is, as bench/labelled.py counts it."""

import itertools

import numpy as np
import pytest

from bench import labelled

pytestmark = [pytest.mark.real, pytest.mark.skipif(not labelled.SETS_DIR.is_dir(), reason="../shared/corpora is not here")]


@pytest.fixture(scope="module")
def sets() -> list[tuple[labelled.Labelled, labelled.ShingleSets]]:
    return [(one, labelled.ShingleSets.of(one.texts)) for one in labelled.read_sets()]


@pytest.fixture(scope="module")
def true_pairs(sets) -> list[dict[labelled.Pair, np.float32]]:
    return [labelled.similar_pairs(shingles, labelled.THRESHOLD) for _, shingles in sets]


def test_every_set_is_read_as_it_is_labelled(sets):
    assert [one.name for one, _ in sets] == [path.name.removesuffix(".jsonl.gz") for path in sorted(labelled.SETS_DIR.glob("*.gz"))]
    by_name = {one.name: one for one, _ in sets}
    assert sum(by_name["wiki-revision-pairs"].pairs.values()) == 2437
    assert len(by_name["wiki-revision-pairs"].hard) == 11_800
    assert sum(by_name["citations-respiratory"].removed) == 799
    assert len(set(by_name["newsgroups-crossposts"].clusters)) <= 2290


def test_hard_unlike_pairs_are_not_found(sets):
    shares = {one.name: labelled.hard_share(one, shingles) for one, shingles in sets if one.hard}
    assert shares
    assert max(shares.values()) <= labelled.MOST_HARD_SHARE


def test_pairs_of_similarity_085_are_found(sets, true_pairs):
    n_owed, missed = 0, []
    for (one, shingles), pairs in zip(sets, true_pairs, strict=True):
        n_owed += sum(value >= np.float32(labelled.OWED_SIMILARITY) for value in pairs.values())
        lost = [pair for pair in labelled.missed_pairs(one, shingles, pairs) if pair[2] >= np.float32(labelled.OWED_SIMILARITY)]
        sizes = np.diff(shingles.starts)
        missed += [(value, min(sizes[a], sizes[b])) for a, b, value in lost]
    assert n_owed > 700
    assert len(missed) <= (1 - labelled.OWED_SHARE) * n_owed
    # Texts of the same word 5-grams share every key; what is lost of them has fewer than five, and so no signature.
    assert all(n_shingles < 5 for value, n_shingles in missed if value == 1)


def test_what_is_found_is_as_similar_as_the_threshold_says(sets, true_pairs):
    for (one, shingles), pairs in zip(sets, true_pairs, strict=True):
        found = labelled.found_pairs(one.texts, shingles, labelled.THRESHOLD, labelled.BANDS, labelled.ROWS)
        assert found.items() <= pairs.items()


def test_crossposts_are_found_and_nearly_nothing_else(sets):
    one, shingles = next((one, shingles) for one, shingles in sets if one.clusters)
    found = labelled.found_pairs(one.texts, shingles, labelled.THRESHOLD, labelled.BANDS, labelled.ROWS)
    made = labelled.score(one, labelled.rows_found(one, found))
    assert made.recall >= 0.99
    assert made.precision >= 0.95


def test_rows_that_experts_kept_stay(sets):
    for one, shingles in sets:
        if one.removed:
            found = labelled.found_pairs(one.texts, shingles, labelled.THRESHOLD, labelled.BANDS, labelled.ROWS)
            assert labelled.score(one, labelled.rows_found(one, found)).precision >= 0.95


def test_pairs_by_prefix_are_all_pairs(sets):
    for one, shingles in sets:
        n = min(len(one.texts), 500)
        a, b = (np.array(side) for side in zip(*itertools.combinations(range(n), 2), strict=True))
        values = shingles.jaccard(a, b)
        alike = values >= np.float32(0.6)
        expected = set(zip(a[alike].tolist(), b[alike].tolist(), strict=True))
        found = {pair for pair in labelled.similar_pairs(shingles, 0.6) if max(pair) < n}
        assert found == expected
