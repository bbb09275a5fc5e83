"""Run one function over many items, in this process or in worker processes.

The function is idempotent and writes what it makes to the store, so no result travels back, a killed build goes on
where it was, and the number of workers cannot be seen in the output. A dead worker stops the build at once with a
message (a `multiprocessing.Pool`, as in datatrove's local executor, would wait for it for ever).
"""

import concurrent.futures
import functools
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
EXECUTORS = ("local",)
# Imported once by the server that workers are forked from, so that a pool starts in hundredths of a second.
_PRELOADED = ["curate.build"]
_DIED = "a worker process was killed, perhaps for memory; finished work is kept: run the same command again, with fewer --workers"


class WorkerDied(RuntimeError):
    """A worker process was killed; everything that was finished is on disk."""


class Run(Protocol):
    """The seam between a stage and the machine it runs on."""

    def __call__(self, items: Sequence[T], fn: Callable[[T], object], *, label: str) -> None: ...


def local(workers: int) -> Run:
    """Make a `run` that uses this many processes on this machine."""
    return functools.partial(_run, workers=workers)


def _run(items: Sequence[T], fn: Callable[[T], object], *, label: str, workers: int) -> None:
    if not items:
        return
    console = Console(stderr=True)
    started = time.monotonic()
    columns = (TextColumn(f"{label:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    if not console.is_terminal:
        sys.stderr.write(f"{label}: {len(items)} to do\n")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=len(items))
        for _ in _each(items, fn, workers):
            progress.advance(task)
    console.print(f"{label}: {len(items)} done in {time.monotonic() - started:.1f} s", highlight=False)


def _each(items: Sequence[T], fn: Callable[[T], object], workers: int) -> Iterator[None]:
    if workers == 1 or len(items) == 1:
        for item in items:
            fn(item)
            yield
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(items)), mp_context=context) as pool:
        futures = [pool.submit(fn, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                yield
        except BrokenProcessPool:
            raise WorkerDied(_DIED) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
