"""Was it so? A run's plan is planned again and compared, and the running hash of its tokens is computed again.

    run.json -> plan -> rows of cache/plans, row group by row group -> hashes of metrics.jsonl, step by step -> first difference

What is on disk is only believed where it equals what the manifest and the config come to. Cost: planning all epochs of the run, and
assembling the steps that are checked; memory is that of a row group and a batch.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from train.documents import find_documents, map_documents
from train.plan import SCHEMA, plan_epoch
from train.plan_file import GROUP_ROWS, epoch_path, open_epoch, regroup
from train.stream import Stream, find_draw
from train.trace import Traced


@dataclasses.dataclass(frozen=True, slots=True)
class Verified:
    """What was checked, and the first difference, None where there is none.

    `plan_digest` is of all rows of the epochs as planned again; `n_missing` counts epochs that are not on disk, `n_steps` the
    steps whose hash was computed again.
    """

    plan_digest: str
    n_epochs: int
    n_missing: int
    n_rows: int
    n_steps: int
    difference: str | None


def verify(traced: Traced, *, n_sampled: int | None = None) -> Verified:
    """Check a run up to its last step: every epoch that it has begun, then the hashes of all steps, or of some spread evenly."""
    digest, n_missing, n_rows, n_epochs = hashlib.sha256(), 0, 0, 0
    for index, epoch in enumerate(traced.plan.epochs):
        if epoch.first_step >= max(traced.n_done, 1):
            break
        n_epochs += 1
        is_there = traced.store.exists(epoch_path(traced.plan, index))
        n_missing += not is_there
        for wanted, found in _groups(traced, index, is_there):
            if (difference := _row_difference(traced, index, wanted, found)) is not None:
                return Verified(digest.hexdigest(), n_epochs, n_missing, n_rows, 0, difference)
            digest.update(_digest(wanted))
            n_rows += wanted.num_rows
    found = find_documents(traced.store, traced.manifest, traced.tokenizer, traced.n_tokens)
    stream = Stream(traced.plan, map_documents(traced.store, found), traced.planner())
    n_steps, difference = _check_hashes(traced, stream, n_sampled)
    return Verified(digest.hexdigest(), n_epochs, n_missing, n_rows, n_steps, difference)


def _groups(traced: Traced, index: int, is_there: bool) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Pair the rows of an epoch as planned again with those on disk, by row groups; with themselves where the disk has none."""
    drawn = find_draw(traced.store, traced.manifest, traced.n_tokens)(traced.plan.epochs[index])
    planned = regroup(plan_epoch(drawn, traced.plan, index), GROUP_ROWS)
    if not is_there:
        yield from ((group, group) for group in planned)
        return
    found = regroup(_readable(traced, index), GROUP_ROWS)
    yield from itertools.zip_longest(planned, found, fillvalue=SCHEMA.empty_table())


def _readable(traced: Traced, index: int) -> Iterable[pa.Table]:
    """Read an epoch as far as it can be read."""
    try:
        for table in open_epoch(traced.store, traced.plan, index).tables():
            yield table.select(SCHEMA.names).cast(SCHEMA)
    except (OSError, KeyError, pa.ArrowException):
        return


def _digest(table: pa.Table) -> bytes:
    digest = hashlib.sha256()
    for column in table.columns:
        digest.update(np.ascontiguousarray(column.to_numpy()).data)
    return digest.digest()


def _row_difference(traced: Traced, index: int, wanted: pa.Table, found: pa.Table) -> str | None:
    if wanted.num_rows == found.num_rows and _digest(wanted) == _digest(found):
        return None
    path = epoch_path(traced.plan, index)
    rows = itertools.zip_longest(wanted.to_pylist(), found.to_pylist())
    planned, stored = next(pair for pair in rows if pair[0] != pair[1])
    return (
        f"{path}: a row of step {(planned or stored)['step']} is planned as {_row_words(planned)} and stored as {_row_words(stored)};"
        f" remove {path.rsplit('/', 1)[0]}, it is planned again when a run needs it"
    )


def _row_words(row: dict[str, Any] | None) -> str:
    return "none" if row is None else ", ".join(f"{name} {value}" for name, value in row.items() if name != "step")


def _check_hashes(traced: Traced, stream: Stream, n_sampled: int | None) -> tuple[int, str | None]:
    """Compare running hashes; gives how many steps were checked, and the first difference."""
    lines = [line for line in traced.store.read_lines(f"runs/{traced.name}/metrics.jsonl") if line["step"] < traced.n_steps]
    recorded: dict[int, list[str]] = {}
    for line in lines:
        recorded.setdefault(line["step"], []).append(line["stream_hash"])
    before = ""
    sampled = (
        set(range(traced.n_done)) if n_sampled is None else set(np.linspace(0, traced.n_done - 1, n_sampled).round().astype(int).tolist())
    )
    n_checked = 0
    for step in range(traced.n_done):
        if step not in recorded:
            return n_checked, f"metrics.jsonl has no line for step {step} of {traced.n_done} that were done"
        if step in sampled:
            computed = stream.chain_hash(before, step)
            n_checked += 1
            if wrong := [found for found in recorded[step] if found != computed]:
                return n_checked, f"step {step} has stream hash {wrong[0]} in metrics.jsonl, and its tokens come to {computed}"
        before = recorded[step][-1]
    return n_checked, None
