"""Batches ahead of the loop: a thread assembles and hashes them while the step before computes.

    Stream -> thread, a bounded number of batches ahead -> loop

The kernels and the hash release the interpreter, so the loop waits only where the data path is slower than a step; how long
it waits is measured. What goes wrong in the thread is raised where the next batch is asked for. Cost: memory for
n_ahead + 2 batches, of 13 bytes a place.
"""

import dataclasses
import queue
import threading
import time
from types import TracebackType

import torch

from train.stream import Batch, Stream, hash_of, rank_slice


@dataclasses.dataclass(frozen=True, slots=True)
class Fetched:
    """A step's batch in tensors on the CPU, and the running hash after it, "" where none was asked for. `waited_s` is how long the loop
    waited for it."""

    step: int
    batch: Batch[torch.Tensor]
    stream_hash: str
    waited_s: float = 0.0


class Batches:
    """The steps of one process in order, as an iterator and a context manager; leaving it ends the thread.

    `stream_hash` is the running hash before the first step, or None where this process need not know it (it is that of all
    processes, so one is enough, and on more than one it costs assembling the whole global batch). `pin` puts the
    tensors into page-locked memory, which copies to a CUDA device beside the computation want. The stream belongs to the
    thread until `close`.
    """

    def __init__(
        self,
        stream: Stream,
        steps: range,
        *,
        micro_batch: int,
        rank: int = 0,
        world: int = 1,
        stream_hash: str | None = None,
        pin: bool = False,
        n_ahead: int = 2,
    ) -> None:
        self._stream, self._steps, self._pin, self._hash = stream, steps, pin, stream_hash
        self._first, self._n = rank_slice(stream.plan.global_batch, rank=rank, world=world, micro_batch=micro_batch)
        self._plans_ahead = rank == 0
        self.waited_s = 0.0
        self._found: queue.SimpleQueue[Fetched | BaseException | None] = queue.SimpleQueue()
        self._free, self._stopped = threading.Semaphore(n_ahead), threading.Event()
        # A daemon: a loop that fails without closing must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Fetched:
        begun = time.perf_counter()
        found = self._found.get()
        waited_s = time.perf_counter() - begun
        if not isinstance(found, Fetched):
            # The end, or the error, stays the answer to every further question.
            self._found.put(found)
            raise StopIteration if found is None else found
        self._free.release()
        self.waited_s += waited_s
        return dataclasses.replace(found, waited_s=waited_s)

    def close(self) -> None:
        """End the thread; what it has ahead is dropped."""
        self._stopped.set()
        self._free.release()
        self._thread.join()
        self._found.put(None)

    def _work(self) -> None:
        try:
            for step in self._steps:
                self._free.acquire()
                if self._stopped.is_set():
                    break
                self._found.put(self._fetch(step))
            self._found.put(None)
        except BaseException as error:  # the loop raises it
            self._found.put(error)

    def _fetch(self, step: int) -> Fetched:
        self._begin_next_epoch(step)
        shape = (self._n, self._stream.plan.seq_len)
        inputs, targets, positions = (torch.empty(shape, dtype=torch.int32, pin_memory=self._pin) for _ in range(3))
        components = torch.empty(shape, dtype=torch.int8, pin_memory=self._pin)
        arrays = [tensor.numpy() for tensor in (inputs, targets, positions, components)]
        batch = Batch(inputs, targets, positions, components, *self._stream.fill(step, self._first, arrays))
        if self._hash is not None:
            is_whole = self._n == self._stream.plan.global_batch
            self._hash = hash_of(self._hash, *arrays[:2]) if is_whole else self._stream.chain_hash(self._hash, step)
        return Fetched(step, batch, self._hash or "")

    def _begin_next_epoch(self, step: int) -> None:
        plan = self._stream.plan
        following = plan.epoch_of(step) + 1
        if self._plans_ahead and following < len(plan.epochs) and plan.epochs[following].first_step in self._steps:
            self._stream.begin(plan.epochs[following].first_step)
