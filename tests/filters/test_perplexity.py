"""The n-gram model equals its plain Python twin, its files say the same, and overlaps are those of sets of runs."""

import pathlib
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import perplexity
from filters.columns import TextBatch
from tests.filters.ngram_twin import TwinModel

_WORDS = [f"w{number}" for number in range(40)]


def _documents(seed: int, n: int, least: int = 1, most: int = 60) -> list[str]:
    """Texts whose words are few and mostly the first ones."""
    generator = np.random.default_rng(seed)
    return [" ".join(_WORDS[min(39, word)] for word in generator.zipf(1.4, size)) for size in generator.integers(least, most, n)]


def _batch(texts: list[str]) -> TextBatch:
    return TextBatch.from_arrow(pa.array(texts, pa.string()))


@pytest.fixture(scope="module")
def fitted() -> list[str]:
    return _documents(1, 300)


@pytest.fixture(scope="module")
def model(fitted: list[str]) -> perplexity.NgramModel:
    return perplexity.fit([_batch(fitted[:100]), _batch([]), _batch(fitted[100:])], order=5)


_TEXTS = st.lists(st.lists(st.sampled_from([*_WORDS[:6], "other"]), max_size=12).map(" ".join), min_size=1, max_size=12)


@settings(max_examples=40)
@given(fitted=_TEXTS.filter(lambda texts: any(texts)), asked=_TEXTS, order=st.sampled_from([3, 4, 5]))
def test_a_document_is_as_likely_as_the_twin_says(fitted: list[str], asked: list[str], order: int) -> None:
    model = perplexity.fit([_batch(fitted)], order=order)
    sums, n = perplexity.log10_probabilities(model, _batch(asked))
    twin = TwinModel([text.split() for text in fitted], order)
    assert sums == pytest.approx([twin.log10_probability(text.split()) for text in asked], rel=1e-5)
    assert n.tolist() == [len(text.split()) + 1 for text in asked]


def test_many_documents_are_as_likely_as_the_twin_says(model: perplexity.NgramModel, fitted: list[str]) -> None:
    asked = [*fitted[:20], *_documents(2, 20), "none of these words", ""]
    twin = TwinModel([text.split() for text in fitted], 5)
    sums, _ = perplexity.log10_probabilities(model, _batch(asked))
    assert sums == pytest.approx([twin.log10_probability(text.split()) for text in asked], rel=1e-5)
    assert model.n_ngrams == tuple(len(counts) + 2 * (n == 0) for n, counts in enumerate(twin.counts))  # <unk>, <s>


def test_probabilities_after_a_context_add_up_to_one(model: perplexity.NgramModel, fitted: list[str]) -> None:
    twin = TwinModel([text.split() for text in fitted], 5)
    for context in [(), ("w1",), ("w1", "w1"), ("<s>", "w2"), ("w39", "w38", "w37", "w36")]:
        assert sum(twin.probability(context, word) for word in twin.vocabulary) == pytest.approx(1)


def test_neighbours_and_batches_do_not_matter(model: perplexity.NgramModel) -> None:
    texts = _documents(3, 30)
    together, _ = perplexity.log10_probabilities(model, _batch(texts))
    alone = [perplexity.log10_probabilities(model, _batch([text]))[0][0] for text in texts]
    assert together.tolist() == alone


def test_a_perplexity_is_per_word_and_null_for_short_documents(model: perplexity.NgramModel) -> None:
    batch = _batch(["w1 w2 w1", "w1 w2"])
    sums, _ = perplexity.log10_probabilities(model, batch)
    assert perplexity.perplexities(model, batch, min_words=3).to_pylist() == [pytest.approx(10 ** (-sums[0] / 4), abs=1e-4), None]
    with pytest.raises(ValueError, match="1 or more"):
        perplexity.perplexities(model, batch, min_words=0)


def test_overlaps_are_those_of_sets_of_runs(model: perplexity.NgramModel, fitted: list[str]) -> None:
    def runs(text: str) -> list[tuple[str, ...]]:
        words = text.split()
        return [tuple(words[at : at + 13]) for at in range(len(words) - 12)]

    known = {run for text in fitted for run in runs(text)}
    asked = [fitted[0] + " " + _documents(4, 1)[0], *_documents(5, 40), "w1 w2", " ".join(["new"] * 13)]
    expected = [sum(run in known for run in runs(text)) / len(runs(text)) if runs(text) else None for text in asked]
    assert perplexity.overlaps(model, _batch(asked)).to_pylist() == [one if one is None else pytest.approx(one) for one in expected]
    assert 0 < sum(one or 0 for one in expected) < len(asked)


def test_words_are_those_of_the_page_in_lower_case() -> None:
    texts = ["Fever, FEVER!\nÄrzte (5 mg)", "", "ⅯⅯ x_y"]
    assert perplexity.spell(_batch(texts)).to_pylist() == ["fever fever ärzte 5 mg", "", "ⅿⅿ x y"]


def test_a_file_holds_the_model_and_repeats(model: perplexity.NgramModel, fitted: list[str], tmp_path: pathlib.Path) -> None:
    again = perplexity.fit([_batch(fitted)], order=5)  # in one batch
    for name, one in (("a", model), ("b", again)):
        perplexity.save(one, str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    opened, asked = perplexity.load(str(tmp_path / "a")), _batch(_documents(6, 20))
    assert (opened.order, opened.n_ngrams, opened.n_docs, opened.n_words) == (model.order, model.n_ngrams, 300, model.n_words)
    assert opened.spelled == model.spelled
    assert perplexity.log10_probabilities(opened, asked)[0].tolist() == perplexity.log10_probabilities(model, asked)[0].tolist()
    assert perplexity.overlaps(opened, asked) == perplexity.overlaps(model, asked)


@pytest.mark.parametrize("change", [lambda data: data[:-8], lambda data: data[:30], lambda data: b"x" + data, lambda data: b""])
def test_a_damaged_file_is_one_line(model: perplexity.NgramModel, tmp_path: pathlib.Path, change) -> None:
    path = tmp_path / "model"
    perplexity.save(model, str(path))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match="model") as error:
        perplexity.load(str(path))
    assert "\n" not in str(error.value)


def test_arpa_says_what_the_twin_says(model: perplexity.NgramModel, fitted: list[str], tmp_path: pathlib.Path) -> None:
    perplexity.write_arpa(model, str(tmp_path / "a.arpa"))
    twin = TwinModel([text.split() for text in fitted], 5)
    head, *sections = re.split(r"\n\\\d-grams:\n", (tmp_path / "a.arpa").read_text().split("\n\\end\\")[0])
    assert [int(line.split("=")[1]) for line in head.split("\n")[1:] if line] == list(model.n_ngrams)
    found = [{line.split("\t")[1]: line.split("\t") for line in section.strip("\n").split("\n")} for section in sections]
    for n, counts in enumerate(twin.counts):
        assert set(found[n]) - {"<unk>", "<s>"} == {" ".join(gram) for gram in counts}
        for gram in counts:
            fields = found[n][" ".join(gram)]
            assert float(fields[0]) == pytest.approx(np.log10(twin.probability(gram[:-1], gram[-1])), abs=1e-5)
            if n < 4:
                total, left = twin.follow[n + 1].get(gram, (1, 1.0))
                assert float(fields[2]) == pytest.approx(np.log10(left / total), abs=1e-5)


def test_what_cannot_be_fitted_is_one_line() -> None:
    with pytest.raises(ValueError, match="3, 4, 5"):
        perplexity.fit([_batch(["a b"])], order=2)
    for nothing in ([], [_batch([])], [_batch(["", "..."])]):
        with pytest.raises(ValueError, match="no"):
            perplexity.fit(nothing)
