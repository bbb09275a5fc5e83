import math

import numpy as np
import pytest
import torch

from curate import manifest as manifests
from curate import tokens
from train.attention import arguments
from train.checkpoint import opened
from train.evaluate import evaluate, open_evalset, ratio_and_error, score
from train.losses import TokenLoss
from train.model import read_model
from train.parallel import World

_CPU = torch.device("cpu")


@pytest.fixture
def manifest(store):
    return manifests.load(store, "v1")


@pytest.fixture
def model(store):
    with opened(store, "done", 12) as folder:
        return read_model(str(folder))


def _loss(model):
    return TokenLoss(model, arguments=arguments("documents", "sdpa"), chunk=100, dtype=torch.float32)


def _naive_nats(store, manifest, model, seq_len):
    """Predict each document alone, window by window, without batches or padding."""
    table = manifests.evalset(store, manifest)
    located = tokens.open_segments(store, manifest.tokenizer).locate(table["doc_id"], table["masks"])
    segments = tokens.open_segments(store, manifest.tokenizer).arrays
    before, after = tokens.separators(store, manifest.tokenizer)
    nats = []
    for segment, offset, n_tokens in zip(located.segment, located.offset, located.n_tokens, strict=True):
        text = segments[segment][offset : offset + n_tokens].tolist()[len(before) : n_tokens - len(after)]
        sequence, total = [(before or after)[-1], *text], 0.0
        for start in range(0, len(text), seq_len):
            window = sequence[start : start + seq_len + 1]
            with torch.no_grad():
                logp = model(torch.tensor([window[:-1]])).logits[0].double().log_softmax(-1)
            total -= sum(float(logp[place, token]) for place, token in enumerate(window[1:]))
        nats.append(total)
    return np.array(nats)


@pytest.mark.parametrize("seq_len", [64, 50])
def test_nats_are_those_of_each_document_alone(store, manifest, model, seq_len):
    evalset = open_evalset(store, manifest, tokenizer=manifest.tokenizer, seq_len=seq_len)
    nats = evaluate(_loss(model), evalset, batch_size=3, device=_CPU, world=World())
    assert nats == pytest.approx(_naive_nats(store, manifest, model, seq_len), rel=1e-5)


def test_bits_per_byte_are_nats_over_ln_2_over_bytes(store, manifest):
    evalset = open_evalset(store, manifest, tokenizer=manifest.tokenizer, seq_len=64, first=("wikipedia", "domain"))
    assert evalset.names[:2] == ("wikipedia", "domain")
    nats = np.arange(evalset.documents.num_rows, dtype=np.float64)
    [wikipedia] = [each for each in score(evalset, nats) if each.component == "wikipedia"]
    rows = [(n, row) for n, row in zip(nats, evalset.documents.to_pylist(), strict=True) if row["component"] == "wikipedia"]
    assert wikipedia.n_docs == len(rows) == manifest.info["evalset"]["components"]["wikipedia"]["n_docs"]
    assert wikipedia.n_bytes == sum(row["n_bytes"] for _, row in rows)
    assert wikipedia.bpb == pytest.approx(sum(n for n, _ in rows) / math.log(2) / wikipedia.n_bytes)
    assert wikipedia.se is None  # this evalset is too small for an interval


def test_evaluation_leaves_mode_and_random_state_alone(store, manifest, model):
    evalset = open_evalset(store, manifest, tokenizer=manifest.tokenizer, seq_len=64)
    loss = _loss(model).train()
    before = torch.get_rng_state()
    evaluate(loss, evalset, batch_size=8, device=_CPU, world=World())
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_the_error_is_of_groups_not_of_documents():
    y, x, group = np.array([1.0, 3.0, 2.0, 6.0]), np.array([2.0, 2.0, 4.0, 2.0]), np.array(["a", "a", "b", "c"])
    ratio = 12 / 10
    residuals = [4 - ratio * 4, 2 - ratio * 4, 6 - ratio * 2]
    expected = math.sqrt(3 / 2 * sum(residual**2 for residual in residuals)) / 10
    assert ratio_and_error(y, x, group) == (pytest.approx(ratio), pytest.approx(expected))


def test_one_group_has_no_error():
    assert math.isnan(ratio_and_error(np.array([1.0, 2.0]), np.array([1.0, 1.0]), np.array(["a", "a"]))[1])
