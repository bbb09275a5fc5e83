"""What a run writes down on request: a table of losses by document, TensorBoard's files; and its progress bar.

    runs/RUN/documents/step-N.parquet   a row a piece of a document, for the steps from N up to the next file's
    runs/RUN/tensorboard/               the numbers of metrics.jsonl and evaluations.jsonl again, for its viewer

None of it goes back into what is computed. Cost: the table of losses brings the nats of every token to the CPU, once a micro-batch,
so it is written only where a run asks for it.

Shapes: B sequences of a micro-batch, T tokens of a sequence.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import rich.console
import rich.progress
import torch

from curate import manifest as manifests
from curate.manifest import Manifest
from curate.store import Store
from train.config import ConfigError
from train.evaluate import Score
from train.parallel import World
from train.stream import IGNORED, Batch

_FILE = re.compile(r"step-(\d+)\.parquet")
_PIECES = pa.schema(
    [
        ("step", pa.int32()),
        ("sequence", pa.int32()),
        ("ordinal", pa.int64()),
        ("start", pa.int32()),
        ("tokens", pa.int32()),
        ("loss", pa.float64()),
    ]
)


class DocumentLog:
    """The losses of pieces of documents since the last file; the first process writes for all. Files from `first_step` on are removed."""

    def __init__(self, store: Store, run: str, manifest: Manifest, world: World, *, first_step: int) -> None:
        self._store, self._folder, self._world, self._first_step = store, f"runs/{run}/documents", world, first_step
        self._found: list[pa.Table] = []
        self._row_id = manifests.rows(store, manifest, "train", ["row_id"])["row_id"] if world.is_first else None
        if world.is_first:
            for name in store.children(self._folder):
                if (match := _FILE.fullmatch(name)) and int(match[1]) >= first_step:
                    store.remove(f"{self._folder}/{name}")

    def add(self, step: int, first: int, batch: Batch[torch.Tensor], nll_BT: torch.Tensor) -> None:
        """Note the pieces of a micro-batch whose sequence 0 is `first` of the global batch; those without loss have no row."""
        pieces = batch.pieces
        if not len(pieces.ordinal):
            return
        places = pieces.sequence * nll_BT.shape[1] + pieces.place
        nats, tokens = (
            np.add.reduceat(values.cpu().numpy().ravel().astype(np.float64), places) for values in (nll_BT, batch.targets_BT != IGNORED)
        )
        some = tokens > 0
        columns = [np.full(some.sum(), step), (pieces.sequence + first)[some], pieces.ordinal[some], pieces.start[some], tokens[some]]
        arrays = [*(column.astype(np.int64) for column in columns), nats[some] / tokens[some]]
        self._found.append(
            pa.table([pa.array(array).cast(field.type) for array, field in zip(arrays, _PIECES, strict=True)], schema=_PIECES)
        )

    def flush(self, next_step: int) -> None:
        """Write what was noted, in the order of the plan; the next file begins with `next_step`. All processes must call it."""
        gathered = self._world.gather(pa.concat_tables([_PIECES.empty_table(), *self._found]))
        if self._row_id is not None:
            table = pa.concat_tables(gathered)
            # Rows of one process are in order, and a later process has later sequences.
            order = np.lexsort((table["sequence"].to_numpy(), table["step"].to_numpy()))
            table = table.take(pa.array(order))
            table = table.add_column(3, "row_id", self._row_id.take(table["ordinal"]))
            self._store.write_table(f"{self._folder}/step-{self._first_step}.parquet", table)
        self._found, self._first_step = [], next_step


class Board:
    """TensorBoard's files of a run, by the package that torch uses for it."""

    def __init__(self, store: Store, run: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(store.local(f"runs/{run}/tensorboard")))

    def write_step(self, n_done: int, values: Mapping[str, Any]) -> None:
        """Write the numbers of a step; losses of components by name."""
        flat = {**values, **{f"component_losses/{name}": loss for name, loss in values["component_losses"].items()}}
        for name, value in flat.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, n_done)

    def write_scores(self, n_done: int, scores: Sequence[Score]) -> None:
        for score in scores:
            self._writer.add_scalar(f"bits_per_byte/{score.component}", score.bpb, n_done)

    def close(self) -> None:
        self._writer.close()


def check_board(store: Store) -> None:
    """Raise ConfigError where TensorBoard's files cannot be written."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("tensorboard is true and the package is not installed; install it (pip install tensorboard), or set it to false")
    if not store.is_local:
        raise ConfigError(f"tensorboard is true and {store.url()} is no folder of this machine; set it to false")


def progress(console: rich.console.Console) -> rich.progress.Progress:
    """Make the bar of a run: steps, loss, tokens a second, time left."""
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} tokens/s"),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )
