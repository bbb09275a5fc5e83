"""KenLM asks our ARPA files and gets our scores, and a model of someone else's is asked through its package, where that is installed."""

import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from filters import perplexity
from filters.columns import TextBatch

_ROOT = pathlib.Path(__file__).parents[2]
_FITTED = (
    "The heart pumps blood. The heart has four chambers, and blood flows through them.",
    "Blood flows from the heart to the lungs and from the lungs to the heart.",
    "Das Herz schl\u00e4gt; \u4f60\u597d, \u4f60\u597d! \u0421\u0435\u0440\u0434\u0446\u0435 \u0431\u044c\u0451\u0442\u0441\u044f.",
    "the the the the the heart the heart of the heart of the matter",
    "",
    "Lungs.",
)
_ASKED = (
    "The heart pumps blood through the lungs.",
    "THE LUNGS and the lungs, and from the lungs to the heart of the matter",
    "nothing of this was ever seen",
    "\u4f60\u597d, Herz",
    "of",
    "",
    "... !",
)
# A model of order 2 that somebody else made: of text as it is.
_THEIRS = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-2.0\t<unk>\t0
0\t<s>\t-0.5
-1.0\t</s>
-0.75\tHeart,\t-0.25
-1.25\tbeats.\t0

\\2-grams:
-0.125\t<s> Heart,
-0.375\tHeart, beats.

\\end\\
"""


def _batch(*texts: str) -> TextBatch:
    return TextBatch.from_arrow(pa.array(texts, pa.large_string()))


@pytest.fixture
def kenlm():
    return pytest.importorskip("kenlm", reason="needs the extra kenlm, which is compiled where it is installed")


@pytest.fixture
def theirs(kenlm, tmp_path) -> perplexity.KenlmModel:
    path = tmp_path / "theirs.arpa"
    path.write_text(_THEIRS)
    return perplexity.load_kenlm(str(path))


@pytest.mark.parametrize("order", [3, 4, 5])
def test_kenlm_says_of_our_arpa_what_we_say(kenlm, tmp_path, order):
    model, path = perplexity.fit([_batch(*_FITTED)], order=order), str(tmp_path / "ours.arpa")
    perplexity.write_arpa(model, path)
    opened, batch = kenlm.Model(path), _batch(*_ASKED, *_FITTED)
    ours, n_words = perplexity.log10_probabilities(model, batch)
    lines = perplexity.spell(batch).to_pylist()
    expected = [opened.score(line, bos=True, eos=True) for line in lines]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert n_words.tolist() == [len(line.split()) + 1 for line in lines]


def test_our_arpa_has_as_many_ngrams_as_the_model(kenlm, tmp_path):
    model, path = perplexity.fit([_batch(*_FITTED)], order=3), str(tmp_path / "ours.arpa")
    perplexity.write_arpa(model, path)
    opened = kenlm.Model(path)
    assert opened.order == model.order == 3
    # Every word is known to it, the highest order is used, and what was never seen is <unk>.
    found = list(opened.full_scores("blood flows from unseen", bos=True, eos=True))
    assert [is_unknown for _, _, is_unknown in found] == [False, False, False, True, False]
    assert [n_used for _, n_used, _ in found] == [2, 3, 3, 1, 1]


def test_a_model_opened_by_kenlm_scores_words_as_ours_does(kenlm, tmp_path):
    model, path = perplexity.fit([_batch(*_FITTED)], order=4), str(tmp_path / "ours.arpa")
    perplexity.write_arpa(model, path)
    batch = _batch(*_ASKED)
    expected = perplexity.perplexities(model, batch, min_words=2)
    found = perplexity.kenlm_perplexities(perplexity.load_kenlm(path), batch, reads="words", min_words=2)
    assert found.type == pa.float32()
    assert found.is_null().to_pylist() == expected.is_null().to_pylist() == [False, False, False, False, True, True, True]
    np.testing.assert_allclose(found.drop_null().to_numpy(), expected.drop_null().to_numpy(), rtol=1e-4)


def test_a_model_that_reads_text_gets_it_as_it_is_with_single_spaces(theirs):
    batch = _batch("Heart,  beats.\n", "heart beats", "", "beats.")
    found = perplexity.kenlm_perplexities(theirs, batch, reads="text", min_words=1)
    known = 0.125 + 0.375 + 1.0
    unknown = 0.5 + 2.0 + 2.0 + 1.0
    one_word = 0.5 + 1.25 + 1.0
    expected = [10 ** (known / 3), 10 ** (unknown / 3), None, 10 ** (one_word / 2)]
    assert found.to_pylist() == [None if value is None else pytest.approx(value, abs=1e-4) for value in expected]


def test_what_a_model_reads_is_one_of_two():
    with pytest.raises(ValueError, match="reads is 'letters'; it takes 'words' or 'text'"):
        perplexity.kenlm_perplexities(perplexity.KenlmModel(None), _batch("a"), reads="letters", min_words=1)


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\\data\\\nngram 1=2\n\n\\1-grams:\n-1.0\tx\n"])
def test_no_model_is_one_line(kenlm, tmp_path, content):
    path = tmp_path / "model.arpa"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.arpa is no model that KenLM reads") as raised:
        perplexity.load_kenlm(str(path))
    assert len(str(raised.value).splitlines()) == 1


def test_without_kenlm_it_is_said_what_to_install():
    code = "import sys; sys.modules['kenlm'] = None; from filters import perplexity; perplexity.load_kenlm('theirs.bin')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_ROOT)
    assert done.stderr.splitlines()[-1] == (
        'ValueError: theirs.bin is read by the kenlm package, which is not installed; pip install "gapless[kenlm]"'
    )
