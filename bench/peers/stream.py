"""One peer in a process of its own: tokens in, batches of sequences out, once for every line on stdin.

    python bench/peers/stream.py NAME FOLDER SEQ_LEN GLOBAL_BATCH

Runs in the environment of bench/requirements-peers-stream.txt and imports nothing of ours. FOLDER/tokens.bin is a flat file of
uint16, which is first written in the peer's own format, untimed. Prints "ready", or what is not installed; then the seconds of each
pass over all tokens, shuffled, on the path that the peer documents for text: in this process, and the first pass warms up.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Sized

import numpy as np

Epoch = Callable[[], Iterable[Sized]]


def main() -> None:
    name, folder, seq_len, global_batch = sys.argv[1:]
    tokens = np.fromfile(f"{folder}/tokens.bin", dtype=np.uint16)
    try:
        # What they say while they write is no answer.
        with contextlib.redirect_stdout(sys.stderr):
            epoch = PEERS[name](tokens, f"{folder}/{name}", int(seq_len), int(global_batch))
            n_sequences = _pass(epoch)
    except ImportError as error:
        print(error)
        return
    if n_sequences < 0.98 * (len(tokens) // int(seq_len)):
        print(f"it gave {n_sequences} sequences of {len(tokens) // int(seq_len)}")
        return
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        _pass(epoch)
        print(time.perf_counter() - start, flush=True)


def _pass(epoch: Epoch) -> int:
    return sum(len(batch) for batch in epoch())


def _litdata(tokens: np.ndarray, folder: str, seq_len: int, global_batch: int) -> Epoch:
    """TokensLoader, as litdata's page on pre-training on text has it."""
    import torch
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(folder, chunk_size=seq_len * 4096, item_loader=TokensLoader())
    # In documents, as it takes them; blocks of seq_len are cut across them.
    for index, first in enumerate(range(0, len(tokens), 4 * seq_len)):
        writer[index] = torch.from_numpy(tokens[first : first + 4 * seq_len])
    writer.done()
    writer.merge()
    dataset = StreamingDataset(folder, item_loader=TokensLoader(block_size=seq_len), shuffle=True)
    return lambda: StreamingDataLoader(dataset, batch_size=global_batch, num_workers=0)


PEERS: dict[str, Callable[[np.ndarray, str, int, int], Epoch]] = {"litdata": _litdata}


if __name__ == "__main__":
    main()
