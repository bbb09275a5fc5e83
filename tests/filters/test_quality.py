"""The classifier's file format is walked to its end, fits repeat to the byte, and scores are fastText's own, whatever the text."""

import io
import pathlib
import struct

import fasttext
import numpy as np
import pyarrow as pa
import pytest

from filters import quality

_SETTINGS = quality.FitSettings(dim=8, epochs=10, lr=1.0, bucket=500)


def _examples(path: pathlib.Path) -> pathlib.Path:
    generator = np.random.default_rng(0)
    domain = [" ".join(generator.choice(["heart", "lung", "dose", "the", "a"], 12)) for _ in range(200)]
    other = [" ".join(generator.choice(["river", "song", "the", "a"], 12)) for _ in range(200)]
    with open(path, "wb") as file:
        quality.write_examples(file, pa.array([*domain, *other]), pa.array([True] * 200 + [False] * 200))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    quality.fit(str(_examples(folder / "examples.txt")), str(folder / "model.bin"), _SETTINGS)
    return str(folder / "model.bin")


def test_examples_are_one_line_a_bag_in_order():
    file = io.BytesIO()
    quality.write_examples(file, pa.array(["a b", "c", ""]).slice(1), pa.array([True, False]))
    quality.write_examples(file, pa.array([], pa.large_string()), pa.array([], pa.bool_()))
    assert file.getvalue() == b"__label__domain c\n__label__other \n"


def test_a_fit_repeats_whatever_lies_in_memory(tmp_path):
    examples, made = str(_examples(tmp_path / "examples.txt")), set()
    generator = np.random.default_rng(1)
    for _ in range(4):
        waste = [generator.random(int(size)) for size in generator.integers(10, 200_000, 50)]
        del waste
        quality.fit(examples, str(tmp_path / "model.bin"), quality.FitSettings(dim=16, bucket=5_000))
        made.add((tmp_path / "model.bin").read_bytes())
    assert len(made) == 1


def test_nothing_to_fit_on_is_one_line(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"fastText says: .*"):
        quality.fit(str(tmp_path / "empty.txt"), str(tmp_path / "model.bin"), _SETTINGS)


def test_one_class_alone_is_one_line(tmp_path):
    (tmp_path / "one.txt").write_text("__label__domain heart lung\n" * 50)
    with pytest.raises(ValueError, match="all examples are __label__domain; a fit needs some of two classes"):
        quality.fit(str(tmp_path / "one.txt"), str(tmp_path / "model.bin"), _SETTINGS)
    assert not (tmp_path / "model.bin").exists()


def test_scores_are_those_of_the_library(model):
    texts = ["heart lung dose", "river song", "the a", "heart river", "unknown words only", ""]
    plain = fasttext.load_model(model)
    found = quality.load(model).score(pa.array(texts))
    assert found.type == pa.float32()
    for text, score in zip(texts, found.to_pylist(), strict=True):
        labels, probabilities = plain.predict(text, k=-1)
        assert score == np.float32(
            round(min(1.0, dict(zip(labels, probabilities, strict=True))[quality.DOMAIN_LABEL]), 4)
        ) or score == pytest.approx(1 - probabilities[labels.index(quality.OTHER_LABEL)], abs=1e-4)
    assert found[0].as_py() > 0.9 > 0.1 > found[1].as_py()


_ODD = [
    "heart\nlung", "heart\r\nlung", "heart\0lung", "heart\x0blung", "heart\u2028lung", "\n", "\0", "x" * 3_000_000, "heart " * 500_000,
]  # fmt: skip


@pytest.mark.parametrize("text", _ODD, ids=range(len(_ODD)))
def test_any_text_has_a_score(model, text):
    (score,) = quality.load(model).score(pa.array([text])).to_pylist()
    assert 0.0 <= score <= 1.0


def test_newlines_count_as_spaces_and_nulls_as_empty(model):
    scorer = quality.load(model)
    assert scorer.score(pa.array(["heart\nlung", None])).equals(scorer.score(pa.array(["heart lung", ""])))
    assert scorer.score(pa.array([], pa.string())).to_pylist() == []
    whole = scorer.score(pa.array(["river", "heart", "song"]))
    assert scorer.score(pa.array(["x", "river", "heart", "song"]).slice(1)).equals(whole)


def test_a_model_of_many_labels_gives_the_probability_of_one(tmp_path):
    (tmp_path / "lines.txt").write_text("".join(f"__label__{name} {name} word\n" for name in ("a", "b", "c")) * 50)
    quality.fit(str(tmp_path / "lines.txt"), str(tmp_path / "three.bin"), _SETTINGS)
    scores = [
        quality.load(str(tmp_path / "three.bin"), f"__label__{name}").score(pa.array(["b word"]))[0].as_py() for name in ("a", "b", "c")
    ]
    assert sum(scores) == pytest.approx(1.0, abs=1e-3)
    assert scores[1] == max(scores)
    with pytest.raises(ValueError, match=r"no label '__label__hq' .*: __label__a, __label__b, __label__c"):
        quality.load(str(tmp_path / "three.bin"), "__label__hq")


@pytest.mark.parametrize("loss", ["softmax", "hs", "ova"])
def test_two_labels_are_scored_as_the_library_does_whatever_the_loss(loss, tmp_path):
    with quality._zeroed_memory():  # fastText would start from what malloc gives it, NaN included
        model = fasttext.train_supervised(str(_examples(tmp_path / "lines.txt")), dim=8, lr=0.2, thread=1, verbose=0, loss=loss)
    model.save_model(str(tmp_path / "model.bin"))
    texts = ["heart", "river", "heart river", "the a"]
    expected = [dict(zip(*model.predict(text, k=-1), strict=True))[quality.DOMAIN_LABEL] for text in texts]
    assert quality.load(str(tmp_path / "model.bin")).score(pa.array(texts)).to_pylist() == pytest.approx(expected, abs=1e-4)


def test_a_quantised_model_is_known(model, tmp_path):
    (tmp_path / "more.txt").write_text("".join(f"__label__{'domain' if n % 2 else 'other'} w{n} w{n + 1}\n" for n in range(600)))
    quality.fit(str(tmp_path / "more.txt"), str(tmp_path / "large.bin"), _SETTINGS)
    for name, has_norms in (("plain.ftz", False), ("large.ftz", True)):
        made = fasttext.load_model(str(tmp_path / "large.bin"))
        made.quantize(qnorm=has_norms)
        made.save_model(str(tmp_path / name))
        assert set(quality.check_model(str(tmp_path / name))) == {quality.DOMAIN_LABEL, quality.OTHER_LABEL}
        assert 0.0 <= quality.load(str(tmp_path / name)).score(pa.array(["w1 heart"]))[0].as_py() <= 1.0
    data = (tmp_path / "large.ftz").read_bytes()
    for size in (0, 3, 20, 80, 300, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.ftz").write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"not a whole fastText model|empty"):
            quality.load(str(tmp_path / "cut.ftz"))


def test_every_truncation_is_found(model, tmp_path):
    data = pathlib.Path(model).read_bytes()
    for size in [*range(1, 200, 7), *range(200, len(data), 997), len(data) - 1]:
        (tmp_path / "cut.bin").write_bytes(data[:size])
        with pytest.raises(ValueError, match="not a whole fastText model"):
            quality.check_model(str(tmp_path / "cut.bin"))
    for wrong in (b"", data + b"\0", b"GIF89a" + data, data[:64] + b"\xff\xff\xff\xff" + data[68:]):
        (tmp_path / "wrong.bin").write_bytes(wrong)
        with pytest.raises(ValueError, match=r"not a whole fastText model|empty"):
            quality.check_model(str(tmp_path / "wrong.bin"))


# Places of 4-byte numbers: settings from byte 8 on (dim, ..., loss, kind, bucket), then entries, words, labels from byte 64 on.
_LIES = {
    "dim": (8, 10**9), "loss": (32, 9), "kind": (36, 1), "no bucket": (40, 0), "buckets": (40, 10**9),
    "no entries": (64, 0), "words": (68, 10**6), "labels": (72, 0), "dictionary": (68, 6),
}  # fmt: skip


@pytest.mark.parametrize("lie", _LIES)
def test_a_model_that_contradicts_itself_never_reaches_the_library(model, tmp_path, lie):
    data = bytearray(pathlib.Path(model).read_bytes())
    struct.pack_into("<i", data, *_LIES[lie])
    (tmp_path / "wrong.bin").write_bytes(data)
    with pytest.raises(ValueError, match="not a whole fastText model"):
        quality.load(str(tmp_path / "wrong.bin"))


def test_a_pruned_model_is_known_and_must_hold_the_rows_that_it_asks_for(tmp_path):
    (tmp_path / "lines.txt").write_text("".join(f"__label__{'domain' if n % 2 else 'other'} w{n} w{n + 1}\n" for n in range(600)))
    quality.fit(str(tmp_path / "lines.txt"), str(tmp_path / "whole.bin"), _SETTINGS)
    made = fasttext.load_model(str(tmp_path / "whole.bin"))
    made.quantize(input=str(tmp_path / "lines.txt"), cutoff=400)
    made.save_model(str(tmp_path / "pruned.ftz"))
    quality.load(str(tmp_path / "pruned.ftz")).score(pa.array(["w1 w2"]))
    data = bytearray((tmp_path / "pruned.ftz").read_bytes())
    n_entries, n_pruned = struct.unpack_from("<i", data, 64)[0], struct.unpack_from("<q", data, 84)[0]
    assert n_pruned > 0
    at = 92
    for _ in range(n_entries):
        at = data.index(0, at) + 10
    struct.pack_into("<i", data, at + 4, 10**6)
    (tmp_path / "wrong.ftz").write_bytes(data)
    with pytest.raises(ValueError, match="not a whole fastText model"):
        quality.load(str(tmp_path / "wrong.ftz"))


def test_auc_counts_ties_half_and_leaves_nulls_out():
    assert quality.auc(np.array([0.9, 0.5]), np.array([0.5, 0.1])) == (2 + 1.5) / 4
    assert quality.auc(np.array([1.0, np.nan]), np.array([0.0, np.nan])) == 1.0
    assert np.isnan(quality.auc(np.array([]), np.array([0.5])))
    generator = np.random.default_rng(2)
    above, below = generator.integers(0, 5, 40) / 5, generator.integers(0, 5, 30) / 5
    pairs = [(a > b) + 0.5 * (a == b) for a in above for b in below]
    assert quality.auc(above, below) == pytest.approx(sum(pairs) / len(pairs))
