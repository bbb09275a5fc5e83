import hashlib
import io
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.store import Store
from tests.train.examples import examples
from train.config import ConfigError
from train.documents import Documents
from train.packing import count_packed
from train.plan import SCHEMA, Drawn, Epoch, Plan, arrange_all, plan_epoch
from train.plan_file import PlannedEpoch, Planner, epoch_path, open_epoch, regroup, write_epoch
from train.prefetch import Batches
from train.shuffle import splitmix64
from train.stream import IGNORED, NO_COMPONENT, Stream, hash_of, rank_slice

_SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))
_SEPARATOR = 0
# Two segments; document d holds the tokens 100 d + 1, 100 d + 2, ...
_LENGTHS = (7, 3, 12, 5)
_SEGMENT_OF = (0, 1, 0, 1)


class _Epochs:
    """Epochs in memory, in row groups of a few rows, and what was asked to be planned ahead."""

    def __init__(self, tables, group_rows):
        self.begun = []
        self._files = []
        for table in tables:
            self._files.append(io.BytesIO())
            pq.write_table(table, self._files[-1], row_group_size=group_rows)

    def begin(self, index):
        self.begun.append(index)

    def open(self, index):
        return PlannedEpoch(pq.ParquetFile(self._files[index]))

    def close(self):
        pass


def _documents(lengths=_LENGTHS, no_loss=None):
    ids = [[100 * d + 1 + i for i in range(n)] for d, n in enumerate(lengths)]
    segment_of = [_SEGMENT_OF[d % 4] for d in range(len(lengths))]
    arrays = [
        np.array([token for d, s in enumerate(segment_of) if s == segment for token in ids[d]], dtype=np.uint16) for segment in (0, 1)
    ]
    offset = [sum(lengths[other] for other in range(d) if segment_of[other] == segment_of[d]) for d in range(len(lengths))]
    spans = pa.array([[{"start": a, "end": b} for a, b in each] for each in no_loss or [()] * len(lengths)], _SPANS)
    component = np.array([d % 4 == 3 for d in range(len(lengths))], np.int8)
    return Documents(tuple(arrays), np.array(segment_of, np.int32), np.array(offset, np.int64), component, spans, _SEPARATOR), ids


def _plan_and_tables(lengths, *, seq_len, global_batch, packing="concat", n_epochs=1):
    drawn = []
    for code in (0, 1):
        ordinal = np.array([d for d in range(len(lengths)) if (d % 4 == 3) == code], dtype=np.int64)
        n_tokens = np.array(lengths, dtype=np.int64)[ordinal]
        drawn.append(Drawn(f"component {code}", ordinal, np.zeros_like(ordinal), n_tokens, splitmix64(ordinal.astype(np.uint64))))
    plan = Plan("f", seq_len, global_batch, packing, 0, ())
    epochs = []
    for k in range(n_epochs):
        arranged = arrange_all(drawn, plan, Epoch(0, k, 0, 0, 0, 0))
        n_sequences = count_packed(arranged, seq_len) if packing == "best_fit" else -(-sum(lengths) // seq_len)
        first_step = sum(epoch.n_steps for epoch in epochs)
        epochs.append(Epoch(0, k, sum(lengths), n_sequences, -(-n_sequences // global_batch), first_step))
    plan = Plan("f", seq_len, global_batch, packing, 0, tuple(epochs))
    tables = [pa.concat_tables([SCHEMA.empty_table(), *plan_epoch(drawn, plan, index)]) for index in range(n_epochs)]
    return plan, tables, drawn


def _stream(lengths=_LENGTHS, *, seq_len=5, global_batch=2, packing="concat", no_loss=None, n_epochs=1, group_rows=4):
    documents, ids = _documents(lengths, no_loss)
    plan, tables, _ = _plan_and_tables(lengths, seq_len=seq_len, global_batch=global_batch, packing=packing, n_epochs=n_epochs)
    return Stream(plan, documents, _Epochs(tables, group_rows)), plan, pa.concat_tables(tables), ids


_CASES = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(1, 30), min_size=1, max_size=25).map(tuple),
        "seq_len": st.integers(2, 20),
        "packing": st.sampled_from(["concat", "best_fit"]),
        "group_rows": st.integers(1, 9),
    }
)


@given(_CASES, st.integers(1, 5))
@settings(max_examples=examples(150))
def test_a_batch_is_what_the_plan_says(case, global_batch):
    stream, plan, table, ids = _stream(**case, global_batch=global_batch)
    rows = table.to_pylist()
    for step in range(plan.n_steps):
        shape = (global_batch, plan.seq_len)
        inputs, targets, components = (np.full(shape, fill) for fill in (_SEPARATOR, IGNORED, NO_COMPONENT))
        positions = np.zeros(shape, dtype=np.int64)
        at, pieces = [0] * global_batch, []
        for row in rows:
            if row["step"] == step:
                b, first, n = row["sequence"], row["start"], row["length"]
                document = [_SEPARATOR, *ids[row["ordinal"]]]
                here = slice(at[b], at[b] + n)
                inputs[b, here], targets[b, here] = document[first : first + n], document[first + 1 : first + n + 1]
                positions[b, here], components[b, here] = range(n), row["ordinal"] % 4 == 3
                pieces.append((b, at[b], n, first, row["ordinal"]))
                at[b] += n
        for b in range(global_batch):
            positions[b, at[b] :] = range(plan.seq_len - at[b])
        batch = stream.batch(step)
        assert batch.inputs_BT.tolist() == inputs.tolist()
        assert batch.targets_BT.tolist() == targets.tolist()
        assert batch.positions_BT.tolist() == positions.tolist()
        assert batch.components_BT.tolist() == components.tolist()
        assert batch.n_tokens == batch.n_targets_global == sum(at)
        found = batch.pieces
        assert list(zip(*(part.tolist() for part in _parts(found)), strict=True)) == pieces


def _parts(pieces):
    return pieces.sequence, pieces.place, pieces.length, pieces.start, pieces.ordinal


@given(_CASES)
@settings(max_examples=examples(100))
def test_every_token_is_a_target_once(case):
    stream, plan, _, ids = _stream(**case)
    targets = np.concatenate([stream.batch(step).targets_BT.ravel() for step in range(plan.n_steps)])
    assert sorted(targets[targets != IGNORED]) == sorted(token for document in ids for token in document)


@pytest.mark.parametrize("span", [(0, 3), (2, 9), (4, 5), (0, 12)])
def test_spans_without_loss_are_inputs_but_not_targets(span):
    stream, plan, _, ids = _stream(no_loss=((), (), (span,), ()))
    plain = _stream()[0]
    batches = [stream.batch(step) for step in range(plan.n_steps)]
    everything = {token for document in ids for token in document}
    with_loss = everything - set(ids[2][span[0] : span[1]])
    targets = np.concatenate([batch.targets_BT.ravel() for batch in batches])
    assert set(targets) - {IGNORED} == with_loss
    assert [batch.n_targets_global for batch in batches] == [(batch.targets_BT != IGNORED).sum() for batch in batches]
    for step, batch in enumerate(batches):
        assert batch.inputs_BT.tolist() == plain.batch(step).inputs_BT.tolist()
        assert batch.n_tokens == plain.batch(step).n_tokens


def _equal(one, other):
    names = ("inputs_BT", "targets_BT", "positions_BT", "components_BT")
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
    assert all(np.array_equal(a, b) for a, b in zip(_parts(one.pieces), _parts(other.pieces), strict=True))
    assert (one.n_tokens, one.n_targets_global) == (other.n_tokens, other.n_targets_global)


def test_a_batch_does_not_depend_on_what_was_asked_before():
    stream, plan, _, _ = _stream(n_epochs=3)
    forward = [stream.batch(step) for step in range(plan.n_steps)]
    backward = [_stream(n_epochs=3)[0].batch(step) for step in reversed(range(plan.n_steps))][::-1]
    for step, (one, other) in enumerate(zip(forward, backward, strict=True)):
        _equal(one, other)
        _equal(one, stream.batch(step))


def test_micro_batches_are_the_batch_in_parts():
    batch = _stream(global_batch=4)[0].batch(0)
    parts = list(batch.micro(2))
    assert len(parts) == 2
    for name in ("inputs_BT", "targets_BT", "positions_BT", "components_BT"):
        assert np.concatenate([getattr(part, name) for part in parts]).tolist() == getattr(batch, name).tolist()
    again = [
        (2 * n + row, *rest) for n, part in enumerate(parts) for row, *rest in zip(*(x.tolist() for x in _parts(part.pieces)), strict=True)
    ]
    assert again == list(zip(*(x.tolist() for x in _parts(batch.pieces)), strict=True))
    assert {(part.n_tokens, part.n_targets_global) for part in parts} == {(batch.n_tokens, batch.n_targets_global)}


def test_sums_by_document_follow_from_where_pieces_begin():
    batch = _stream(packing="best_fit", seq_len=9)[0].batch(0)
    values = np.where(batch.targets_BT == IGNORED, 0, batch.targets_BT)
    pieces = batch.pieces
    sums = np.add.reduceat(values.ravel(), pieces.sequence * 9 + pieces.place)
    wanted = [sum(100 * ordinal + 1 + i for i in range(start, start + n)) for _, _, n, start, ordinal in zip(*_parts(pieces), strict=True)]
    assert sums.tolist() == wanted


def test_the_running_hash_is_that_of_all_inputs_and_targets_so_far():
    stream, plan, _, _ = _stream()
    digest = ""
    for step in range(plan.n_steps):
        batch = stream.batch(step)
        data = b"".join(
            int(token).to_bytes(4, "little", signed=True) for array in (batch.inputs_BT, batch.targets_BT) for token in array.ravel()
        )
        wanted = hashlib.sha256(bytes.fromhex(digest) + data).hexdigest()
        assert stream.chain_hash(digest, step) == hash_of(digest, batch.inputs_BT, batch.targets_BT) == wanted
        digest = wanted


def _fetch(make, steps, *, world, stream_hash, micro_batch=1):
    """Run the processes of a world one after the other: for each step the batch of all, and the hash that the first process has."""
    by_rank = []
    for rank in range(world):
        with Batches(
            make(), steps, micro_batch=micro_batch, rank=rank, world=world, stream_hash=stream_hash if rank == 0 else None
        ) as batches:
            by_rank.append(list(batches))
    assert all([fetched.step for fetched in rank] == list(steps) for rank in by_rank)
    assert all(fetched.stream_hash == "" for rank in by_rank[1:] for fetched in rank)
    orders = [[np.concatenate([fetched.batch.inputs_BT.numpy() for fetched in step]).tolist() for step in zip(*by_rank, strict=True)]]
    counts = [{(each.batch.n_tokens, each.batch.n_targets_global) for each in step} for step in zip(*by_rank, strict=True)]
    return orders[0], [fetched.stream_hash for fetched in by_rank[0]], counts


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_one_two_three_four_and_eight_processes_have_one_order(packing):
    lengths = tuple(1 + (7 * d) % 23 for d in range(90))
    make = lambda: _stream(lengths, seq_len=6, global_batch=24, packing=packing, n_epochs=2)[0]  # noqa: E731
    steps = range(make().plan.n_steps)
    found = [_fetch(make, steps, world=world, stream_hash="") for world in (1, 2, 3, 4, 8)]
    assert len(steps) > 10
    assert all(each == found[0] for each in found)


@given(st.data())
@settings(max_examples=examples(60))
def test_going_on_at_any_step_on_any_number_of_processes_equals_no_interruption(data):
    case = data.draw(_CASES)
    make = lambda: _stream(**case, global_batch=24, n_epochs=2)[0]  # noqa: E731
    n_steps = make().plan.n_steps
    order, hashes, counts = _fetch(make, range(n_steps), world=1, stream_hash="")
    at = data.draw(st.integers(0, n_steps))
    world = data.draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]))
    again = _fetch(make, range(at, n_steps), world=world, stream_hash=hashes[at - 1] if at else "")
    assert again == (order[at:], hashes[at:], counts[at:])


@pytest.mark.parametrize(
    ("world", "micro_batch", "advice"),
    [
        (5, 1, "start 1, 2, 3, 4, 6, 8, 12 or 24 of them, or change global_batch"),
        (2, 5, "set micro_batch to 1, 2, 3, 4, 6 or 12"),
        (24, 2, "set micro_batch to 1"),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused_with_what_can_be(world, micro_batch, advice):
    with pytest.raises(
        ConfigError, match=f"global_batch 24 cannot be shared out to {world} processes in micro-batches of {micro_batch}; "
    ) as caught:
        rank_slice(24, rank=0, world=world, micro_batch=micro_batch)
    assert str(caught.value).endswith(advice)


def test_slices_of_processes_are_disjoint_and_cover_the_batch():
    slices = [rank_slice(24, rank=rank, world=8, micro_batch=3) for rank in range(8)]
    assert [first + k for first, n in slices for k in range(n)] == list(range(24))


def test_what_goes_wrong_in_the_thread_is_raised_in_the_loop_after_what_was_ready():
    stream, plan, table, _ = _stream(n_epochs=2)
    first = plan.epochs[0].n_steps

    class Half(_Epochs):
        def open(self, index):
            if index:
                raise OSError("the disk is gone")
            return super().open(index)

    stream = Stream(plan, _documents()[0], Half([table], 4))
    with Batches(stream, range(plan.n_steps), micro_batch=1) as batches:
        assert [next(batches).step for _ in range(first)] == list(range(first))
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                next(batches)


def test_closing_in_the_middle_ends_the_thread_and_the_iteration():
    stream, plan, _, _ = _stream(n_epochs=50)
    batches = Batches(stream, range(plan.n_steps), micro_batch=1, n_ahead=1)
    assert next(batches).step == 0
    batches.close()
    assert not batches._thread.is_alive()
    assert len(list(batches)) <= 2
    with pytest.raises(StopIteration):
        next(batches)


def test_no_more_batches_are_ahead_than_allowed():
    stream, plan, _, _ = _stream(n_epochs=20)
    assembled = [threading.Event() for _ in range(plan.n_steps)]
    fill = stream.fill

    def noting(step, *arguments):
        assembled[step].set()
        return fill(step, *arguments)

    stream.fill = noting
    with Batches(stream, range(plan.n_steps), micro_batch=1, n_ahead=3) as batches:
        assert next(batches).step == 0
        # The loop has one, three are ahead.
        assert assembled[3].wait(60)
        assert not assembled[4].wait(0.2)
        assert next(batches).step == 1
        assert assembled[4].wait(60)


def test_waiting_is_measured():
    stream, plan, _, _ = _stream()
    fill, is_asked = stream.fill, threading.Event()

    def late(*arguments):
        assert is_asked.wait(60)
        return fill(*arguments)

    stream.fill = late
    with Batches(stream, range(plan.n_steps), micro_batch=1) as batches:
        threading.Timer(0.1, is_asked.set).start()
        first = next(batches)
        assert first.waited_s > 0.05
        assert batches.waited_s == first.waited_s
        others = sum(fetched.waited_s for fetched in batches)
        assert batches.waited_s == pytest.approx(first.waited_s + others)


def test_the_next_epoch_is_planned_while_one_is_read_but_none_that_the_run_does_not_reach():
    stream, plan, _, _ = _stream(n_epochs=4)
    epochs = stream._epochs
    with Batches(stream, range(plan.epochs[2].first_step + 1), micro_batch=1) as batches:
        list(batches)
    assert sorted(set(epochs.begun)) == [1, 2]
    with Batches(stream, range(plan.n_steps), micro_batch=1, rank=1, world=2) as batches:
        list(batches)
    assert sorted(set(epochs.begun)) == [1, 2]


def test_a_planned_epoch_is_found_by_step_in_row_groups_of_any_size():
    _, tables, _ = _plan_and_tables((5, 9, 2, 30, 1, 1, 1, 1, 1, 1), seq_len=4, global_batch=3, n_epochs=1)
    wanted = tables[0].to_pylist()
    for group_rows in (1, 2, 5, 1000):
        epoch = _Epochs(tables, group_rows).open(0)
        for step in (*range(-1, 8), 2, 0, 7):
            found = epoch.rows(step)
            rows = [dict(zip(found, values, strict=True)) for values in zip(*(column.tolist() for column in found.values()), strict=True)]
            assert rows == [row for row in wanted if row["step"] == step]


def test_tables_are_cut_into_even_groups():
    _, tables, _ = _plan_and_tables(tuple(range(1, 40)), seq_len=7, global_batch=3)
    parts = [tables[0].slice(0, 3), tables[0].slice(3, 50), tables[0].slice(53)]
    groups = list(regroup(parts, 10))
    assert [group.num_rows for group in groups[:-1]] == [10] * (len(groups) - 1)
    assert pa.concat_tables(groups).equals(tables[0])


def test_an_epoch_is_planned_in_the_background_like_in_the_foreground(tmp_path):
    plan, tables, drawn = _plan_and_tables(tuple(range(1, 60)), seq_len=7, global_batch=3, n_epochs=2)
    store = Store(str(tmp_path))
    planner = Planner(store, plan, lambda epoch: drawn)
    planner.begin(1)
    planner.begin(1)
    found = [pa.concat_tables(planner.open(index).tables()) for index in (0, 1)]
    assert [table.equals(wanted) for table, wanted in zip(found, tables, strict=True)] == [True, True]
    # Another run with this key draws nothing.
    assert pa.concat_tables(Planner(store, plan, lambda epoch: pytest.fail("drawn again")).open(1).tables()).equals(tables[1])


def test_an_epoch_whose_planning_fails_is_not_there_and_its_reader_is_told(tmp_path):
    plan, tables, _ = _plan_and_tables(tuple(range(1, 60)), seq_len=7, global_batch=3, n_epochs=2)
    store = Store(str(tmp_path))

    def fail(epoch):
        raise OSError("no draw")

    planner = Planner(store, plan, fail)
    planner.begin(0)
    with pytest.raises(OSError, match="no draw"):
        planner.open(0)

    def half():
        yield tables[0].slice(0, 5)
        raise OSError("killed")

    with pytest.raises(OSError, match="killed"):
        write_epoch(store, plan, 0, half())
    assert not store.exists(epoch_path(plan, 0))
    assert store.files("") == []
    write_epoch(store, plan, 0, tables[:1])
    assert pa.concat_tables(open_epoch(store, plan, 0).tables()).equals(tables[0])
