"""The plan on disk: an epoch is written in blocks, is there whole or not at all, and is read from any step on.

    plan_epoch -> cache/plans/KEY/epoch-K/part-0.parquet -> PlannedEpoch.rows(step) -> stream, trace, verify

Row groups of 131,072 rows (of 28 bytes) bound what is in memory, in writing and in reading; their statistics say where a step
is, so step 1,000,000 costs a footer and a row group. The next epoch is planned in a thread while the one before it trains.
Cost: a process that is killed while it plans leaves a scratch file, which the next run sweeps away.
"""

import bisect
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.store import Store, parquet_writer
from train.assemble import Ints
from train.plan import SCHEMA, Draw, Plan, plan_epoch

GROUP_ROWS = 131_072

Columns = dict[str, Ints]


class PlannedEpoch:
    """The rows of one epoch, by step. Keeps the row groups of the step that was last asked for; for one thread at a time."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        at = file.schema_arrow.get_field_index("step")
        found = [file.metadata.row_group(group).column(at).statistics for group in range(file.num_row_groups)]
        self._first, self._last = [each.min for each in found], [each.max for each in found]
        self._groups: dict[int, Columns] = {}

    @property
    def n_rows(self) -> int:
        """Count the rows of the epoch."""
        return int(self._file.metadata.num_rows)

    def rows(self, step: int) -> Columns:
        """Give the rows of a step, as int64, by column of the plan's schema; none where the epoch does not have the step."""
        wanted = range(bisect.bisect_left(self._last, step), bisect.bisect_right(self._first, step))
        self._groups = {group: self._groups.get(group) or self._read(group) for group in wanted}
        parts = [
            {name: column[slice(*np.searchsorted(group["step"], [step, step + 1]))] for name, column in group.items()}
            for group in self._groups.values()
        ]
        return {name: np.concatenate([np.empty(0, np.int64), *(part[name] for part in parts)]) for name in SCHEMA.names}

    def tables(self) -> Iterator[pa.Table]:
        """Read all rows, a row group at a time."""
        for group in range(self._file.num_row_groups):
            yield self._file.read_row_group(group)

    def find(self, ordinal: int) -> pa.Table:
        """Give the rows of a document, in order; decodes the rest of a row group only where it has some."""
        found = [SCHEMA.empty_table()]
        for group in range(self._file.num_row_groups):
            is_wanted = pc.equal(self._file.read_row_group(group, ["ordinal"])["ordinal"], ordinal)
            if pc.any(is_wanted).as_py():
                found.append(self._file.read_row_group(group).filter(is_wanted))
        return pa.concat_tables(found)

    def _read(self, group: int) -> Columns:
        table = self._file.read_row_group(group)
        return {name: table[name].to_numpy().astype(np.int64) for name in SCHEMA.names}


class Planner:
    """The epochs of a plan, from disk, or planned first where the disk has none; `begin` does that in the background."""

    def __init__(self, store: Store, plan: Plan, draw: Draw) -> None:
        self._store, self._plan, self._draw = store, plan, draw
        self._begun: dict[int, Future[None]] = {}
        self._stopped = threading.Event()

    def begin(self, index: int) -> None:
        """Start to plan an epoch in a thread, where it is neither there nor begun."""
        if index in self._begun or self._store.exists(epoch_path(self._plan, index)):
            return
        self._begun[index] = Future()
        # A daemon: what it leaves unfinished at the end of the process does not exist.
        threading.Thread(target=self._work, args=(index,), name=f"plan-epoch-{index}", daemon=True).start()

    def open(self, index: int) -> PlannedEpoch:
        """Open an epoch, waiting for it where it is begun. Raises what planning it raised."""
        if index in self._begun:
            self._begun[index].result()
        elif not self._store.exists(epoch_path(self._plan, index)):
            self._write(index)
        return open_epoch(self._store, self._plan, index)

    def close(self) -> None:
        """Stop planning in the background; what is not finished does not exist."""
        self._stopped.set()
        for future in self._begun.values():
            future.exception()

    def _work(self, index: int) -> None:
        try:
            self._write(index)
        except BaseException as error:  # whoever opens the epoch gets it
            self._begun[index].set_exception(error)
        else:
            self._begun[index].set_result(None)

    def _write(self, index: int) -> None:
        drawn = self._draw(self._plan.epochs[index])
        write_epoch(self._store, self._plan, index, _until(self._stopped, plan_epoch(drawn, self._plan, index)))


def epoch_path(plan: Plan, index: int) -> str:
    return f"{plan.path}/epoch-{index}/part-0.parquet"


def write_epoch(store: Store, plan: Plan, index: int, tables: Iterable[pa.Table]) -> None:
    """Write an epoch's tables as one file of even row groups, whole or not at all."""
    with store.scratch() as path:
        with parquet_writer(path, SCHEMA) as writer:
            for table in regroup(tables, GROUP_ROWS):
                writer.write_table(table, row_group_size=GROUP_ROWS)
        store.adopt(path, epoch_path(plan, index))


def open_epoch(store: Store, plan: Plan, index: int) -> PlannedEpoch:
    """Open an epoch that is on disk."""
    return PlannedEpoch(pq.ParquetFile(store.local(epoch_path(plan, index)), memory_map=True, page_checksum_verification=True))


def regroup(tables: Iterable[pa.Table], n_rows: int) -> Iterator[pa.Table]:
    """Cut tables that follow on each other anew: each has n_rows, but the last one, which may have fewer."""
    waiting = SCHEMA.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        n_whole = waiting.num_rows // n_rows * n_rows
        yield from (waiting.slice(first, n_rows) for first in range(0, n_whole, n_rows))
        waiting = waiting.slice(n_whole)
    if waiting.num_rows:
        yield waiting


def _until(stopped: threading.Event, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    for table in tables:
        if stopped.is_set():
            raise RuntimeError("planning was stopped")
        yield table
