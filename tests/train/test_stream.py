import numpy as np
import pyarrow as pa
import pytest

from curate.tokens import Located, Segments
from train.plan import Drawn, Epoch, Plan, plan_epoch, splitmix64
from train.stream import IGNORED, NO_COMPONENT, Documents, Stream, chain_hash

_SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))
_SEPARATOR = 0
# Two segments; document d holds the tokens 100 d + 1, 100 d + 2, ...
_LENGTHS = (7, 3, 12, 5)
_SEGMENT_OF = (0, 1, 0, 1)


def _documents(no_loss=((), (), (), ())):
    ids = [[100 * d + 1 + i for i in range(n)] for d, n in enumerate(_LENGTHS)]
    arrays = [np.array([token for d in range(4) if _SEGMENT_OF[d] == s for token in ids[d]], dtype=np.uint16) for s in (0, 1)]
    offset = [0, 0, _LENGTHS[0], _LENGTHS[1]]
    spans = pa.array([[{"start": a, "end": b} for a, b in each] for each in no_loss], _SPANS)
    located = Located(np.array(_SEGMENT_OF, np.int32), np.array(offset, np.int64), np.array(_LENGTHS, np.int32), spans)
    return Segments(arrays, pa.table({})), Documents(located, np.array([0, 0, 0, 1], np.int8)), ids


def _stream(*, seq_len=5, global_batch=2, no_loss=((), (), (), ())):
    segments, documents, ids = _documents(no_loss)
    drawn = []
    for code, ordinals in enumerate(([0, 1, 2], [3])):
        ordinal = np.array(ordinals, dtype=np.int64)
        n_tokens = np.array(_LENGTHS, dtype=np.int64)[ordinal]
        drawn.append(Drawn(f"component {code}", ordinal, np.zeros_like(ordinal), n_tokens, splitmix64(ordinal.astype(np.uint64))))
    n_sequences = -(-sum(_LENGTHS) // seq_len)
    n_steps = -(-n_sequences // global_batch)
    plan = Plan("f", seq_len, global_batch, "concat", 0, (Epoch(0, 0, sum(_LENGTHS), n_sequences, n_steps, 0),))
    table = plan_epoch(drawn, plan, 0)
    return Stream(plan, segments, documents, separator=_SEPARATOR, read_epoch=lambda _: table), plan, table, ids


def test_targets_are_the_plan_and_labels_are_the_targets():
    stream, plan, table, ids = _stream()
    for step in range(plan.n_steps):
        batch = stream.batch(step)
        expected = np.full((2, 5), _SEPARATOR)
        at = [0, 0]
        for row in table.to_pylist():
            if row["step"] == step:
                piece = ids[row["ordinal"]][row["start"] : row["start"] + row["length"]]
                expected[row["sequence"], at[row["sequence"]] : at[row["sequence"]] + len(piece)] = piece
                at[row["sequence"]] += len(piece)
        assert batch.targets_BT.tolist() == expected.tolist()
        inside = np.arange(5) < np.array(at)[:, None]
        assert batch.labels_BT.tolist() == np.where(inside, expected, IGNORED).tolist()
        assert batch.n_tokens == inside.sum()


def test_every_token_is_a_label_once():
    stream, plan, _, ids = _stream()
    labels = np.concatenate([stream.batch(step).labels_BT.ravel() for step in range(plan.n_steps)])
    assert sorted(labels[labels != IGNORED]) == sorted(token for document in ids for token in document)


def test_an_input_is_the_token_before_its_label_also_across_a_sequence_start():
    stream, plan, table, _ = _stream()
    starts = {(row["step"], row["sequence"]): row for row in table.to_pylist() if row["slot"] == 0}
    for step in range(plan.n_steps):
        batch = stream.batch(step)
        assert (batch.inputs_BT[:, 1:] == batch.targets_BT[:, :-1]).all()
        for sequence in range(2):
            row = starts.get((step, sequence))
            inside = row is not None and row["start"] > 0
            assert batch.inputs_BT[sequence, 0] == (batch.targets_BT[sequence, 0] - 1 if inside else _SEPARATOR)


def test_components_are_known_by_token():
    stream, plan, _, ids = _stream()
    for step in range(plan.n_steps):
        batch = stream.batch(step)
        expected = np.where(batch.labels_BT == IGNORED, NO_COMPONENT, np.isin(batch.targets_BT, ids[3]))
        assert batch.components_BT.tolist() == expected.tolist()


@pytest.mark.parametrize("span", [(0, 3), (2, 9), (4, 5), (0, 12)])
def test_spans_without_loss_are_inputs_but_not_labels(span):
    stream, plan, _, ids = _stream(no_loss=((), (), (span,), ()))
    batches = [stream.batch(step) for step in range(plan.n_steps)]
    labels = np.concatenate([batch.labels_BT.ravel() for batch in batches])
    targets = np.concatenate([batch.targets_BT.ravel() for batch in batches])
    everything = {token for document in ids for token in document}
    assert set(labels) - {IGNORED} == everything - set(ids[2][span[0] : span[1]])
    assert set(targets) - {_SEPARATOR} == everything


def test_a_batch_does_not_depend_on_what_was_asked_before():
    stream, plan, _, _ = _stream()
    forward = [stream.batch(step) for step in range(plan.n_steps)]
    backward = [_stream()[0].batch(step) for step in reversed(range(plan.n_steps))][::-1]
    for one, other in zip(forward, backward, strict=True):
        assert one.inputs_BT.tolist() == other.inputs_BT.tolist()
        assert one.labels_BT.tolist() == other.labels_BT.tolist()


def test_the_running_hash_depends_on_every_step_and_on_their_order():
    stream, _, _, _ = _stream()
    one, two = stream.batch(0), stream.batch(1)
    assert len({chain_hash("", one), chain_hash("", two), chain_hash(chain_hash("", one), two), chain_hash(chain_hash("", two), one)}) == 4
    assert chain_hash(chain_hash("", one), two) == chain_hash(chain_hash("", stream.batch(0)), stream.batch(1))
