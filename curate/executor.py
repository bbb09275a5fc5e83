"""Run one function over many items: in this process, in worker processes, or on a Ray cluster.

The function is idempotent and writes what it makes to the store, so no result travels back, a killed build goes on
where it was, and neither the number of workers nor the executor can be seen in the output. A dead worker stops the build
at once with a message (a `multiprocessing.Pool`, as in datatrove's local executor, would wait for it for ever). Only a
window of items is on its way at a time, so that this process holds as much for 100,000 shards as for ten.

Decision: a stage whose items touch only the sources and the store (digest, ingest, annotate, count) goes wherever `run`
goes. The stages that work on a scratch folder of this machine (the fits of quality, shingle, verify) always take
`run.here`: below a remote root that folder is on no other machine, and where a cluster does see it, its shingles are one
memory map, read in no order. The cost: those stages do not grow with a cluster.
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import multiprocessing
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

T = TypeVar("T")
H = TypeVar("H")
# For each worker one item that it works on and one that waits, so that it never waits for this process.
ITEMS_PER_WORKER = 2
DIED = "a worker process was killed, perhaps for memory; finished work is kept: run the same command again, with fewer --workers"
# Imported once by the server that workers are forked from, so that a pool starts in hundredths of a second.
_PRELOADED = ["curate.build"]


class WorkerDied(RuntimeError):
    """A worker process was killed; everything that was finished is on disk."""


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """How much an item holds; `n_docs` is 0 where nobody knows it yet."""

    n_docs: int
    n_bytes: int


class Run(Protocol):
    """The seam between a stage and the machines it runs on. With `sizes`, one an item, it shows rates."""

    @property
    def here(self) -> "Run":
        """The processes of this machine, for items that need a folder of it."""

    def __call__(self, items: Sequence[T], fn: Callable[[T], object], *, label: str, sizes: Sequence[Size] | None = None) -> None: ...


class Each(Protocol):
    """How items are run: gives the place of each that ended, in any order, and raises what a function raised."""

    def __call__(self, items: Sequence[T], fn: Callable[[T], object], /) -> Iterator[int]: ...


def local(workers: int) -> Run:
    """Make a `run` that uses this many processes on this machine."""
    return Shown(functools.partial(_each, workers))


@contextlib.contextmanager
def start(name: str, workers: int) -> Iterator[Run]:
    """Lend a `run` of one of EXECUTORS; what it starts, it starts when first used and ends with the context.

    Raises DomainError where this executor cannot be had here.
    """
    with EXECUTORS[name](workers) as run:
        yield run


def _ray(workers: int) -> contextlib.AbstractContextManager[Run]:
    from curate.ray_executor import ray_cluster  # on use: it imports this module

    return ray_cluster(workers)


# Name -> what makes a `run` of so many workers.
EXECUTORS: Mapping[str, Callable[[int], contextlib.AbstractContextManager[Run]]] = {
    "local": lambda workers: contextlib.nullcontext(local(workers)),
    "ray": _ray,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """A `run` that says on stderr what is to do, how far it is and how long it took; `nearby` is its `here` where it is another."""

    each: Each
    nearby: Run | None = None

    @property
    def here(self) -> Run:
        return self.nearby or self

    def __call__(self, items: Sequence[T], fn: Callable[[T], object], *, label: str, sizes: Sequence[Size] | None = None) -> None:
        if not items:
            return
        assert sizes is None or len(sizes) == len(items), "every item has a size"
        steps = [1] * len(items) if sizes is None else [size.n_bytes for size in sizes]
        n_all = sum(steps)
        console = Console(stderr=True)
        started = time.monotonic()
        columns = (TextColumn(f"{label:<10}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn(), TimeLeft())
        if not console.is_terminal:
            sys.stderr.write(f"{label}: {len(items)} to do\n")
        n_docs = n_steps = 0
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(label, total=n_all, said=f"0/{len(items)}", whole_s=None)
            for n_done, place in enumerate(self.each(items, fn), 1):
                elapsed_s = time.monotonic() - started
                n_steps += steps[place]
                n_docs += 0 if sizes is None else sizes[place].n_docs
                said = f"{n_done}/{len(items)}" + ("" if sizes is None else f"  {rates(Size(n_docs, n_steps), elapsed_s)}")
                progress.update(task, completed=n_steps, said=said, whole_s=whole_s(n_steps, n_all, elapsed_s=elapsed_s))
        elapsed_s = time.monotonic() - started
        how_fast = "" if sizes is None else f" ({rates(Size(n_docs, n_steps), elapsed_s)})"
        console.print(f"{label}: {len(items)} done in {elapsed_s:.1f} s{how_fast}", highlight=False, soft_wrap=True)


class TimeLeft(ProgressColumn):
    """Counts down to the time that the whole takes at the rate so far; rich's own column would count from the first end of an item."""

    def render(self, task: Task) -> Text:
        if (whole := task.fields["whole_s"]) is None:
            return Text("-:--:--", style="progress.remaining")
        left = str(datetime.timedelta(seconds=max(0, round(whole - (task.elapsed or 0)))))
        return Text(left, style="progress.remaining")


def whole_s(n_done: int, n_all: int, *, elapsed_s: float) -> float | None:
    """Say how long the whole takes at the rate so far; None where nothing is done."""
    return elapsed_s * n_all / n_done if n_done else None


def rates(done: Size, elapsed_s: float) -> str:
    """Say how fast something went, leaving out documents where their number is not known.

    >>> rates(Size(72_860, 167_000_000), 5.0)
    '14,572 docs/s, 33.4 MB/s'
    """
    elapsed_s = max(elapsed_s, 0.001)  # a clock may not have moved
    docs = f"{done.n_docs / elapsed_s:,.0f} docs/s, " if done.n_docs else ""
    return f"{docs}{done.n_bytes / 1e6 / elapsed_s:,.1f} MB/s"


def in_flight(
    items: Sequence[T], submit: Callable[[T], H], *, wait: Callable[[Collection[H]], Collection[H]], limit: Callable[[], int]
) -> Iterator[int]:
    """Keep up to `limit()` items on their way, in order, and give the place of each that ended.

    `wait` gives handles that ended, one at least, or raises what a function raised; then nothing more is submitted.
    """
    pending: dict[H, int] = {}
    n_sent = 0
    while pending or n_sent < len(items):
        for place in range(n_sent, min(len(items), n_sent + max(1, limit()) - len(pending))):
            pending[submit(items[place])] = place
            n_sent = place + 1
        for handle in wait(pending):
            yield pending.pop(handle)


def _each(workers: int, items: Sequence[T], fn: Callable[[T], object]) -> Iterator[int]:
    if workers == 1 or len(items) == 1:
        for place, item in enumerate(items):
            fn(item)
            yield place
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(items)), mp_context=context) as pool:
        try:
            limit = ITEMS_PER_WORKER * workers
            yield from in_flight(items, lambda item: pool.submit(fn, item), wait=_ended, limit=lambda: limit)
        except BrokenProcessPool:
            raise WorkerDied(DIED) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ended(pending: "Collection[concurrent.futures.Future[object]]") -> "Collection[concurrent.futures.Future[object]]":
    done, _ = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in done:
        future.result()
    return done
