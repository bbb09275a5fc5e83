"""What does the data path of training cost: tokens/s, the first batch of a run, its share of a step; beside litdata on the same tokens?

    python bench/stream.py [--full] [--root DIR]

Generated token segments with document lengths like those of the web (log-normal), a manifest of one component, and two plans: batches
of 2,048-token sequences to time, and one of a million steps and more to seek in. By default 10 M tokens and short
sequences; --full takes 500 M tokens, 1 M documents, and makes the peer's environment first (.venv-peers-stream).

tokens/s are of the whole path in one process (plan, gather, running hash, prefetch thread), warm; a first batch is timed in a process of
its own, from opening the run's data on, without importing. Fails where the path gives other tokens than the plan says, or another hash
for another number of processes; never on a time.
"""

from __future__ import annotations

import argparse
import binascii
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from common.contest import ROOT, Peer, in_turns, peers_python

from curate import manifest as manifests
from curate import tokens
from curate.manifest import Manifest
from curate.store import Store
from train.config import TrainConfig, config_from, defaults
from train.model import find_base, load_model
from train.plan import Plan, epoch_tokens, find_plan
from train.plan_file import Planner, epoch_path
from train.prefetch import Batches
from train.stream import IGNORED, Stream, find_draw, open_stream

_MANY_STEPS = 1_000_000
_SEGMENT_TOKENS = 8_000_000
_VOCAB = 512
_N_RUNS = 5
_PEERS_DIR = ROOT / ".venv-peers-stream"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="500 M tokens, and the peer's environment")
    parser.add_argument("--root", help="where to generate (default: a temporary folder)")
    parser.add_argument("--first", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first:
        print(json.dumps(_first(Store(options.root), **options.first)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        root = options.root or temporary
        store = Store(root)
        n_tokens = 500_000_000 if options.full else 10_000_000
        if not store.exists("manifests/v1/manifest.json"):
            _generate(store, n_tokens, n_drawn=(1024 if options.full else 64) * (_MANY_STEPS + 1000))
        problems = _print_path(
            store, options.full, python=peers_python(make=options.full, folder=_PEERS_DIR, requirements="requirements-peers-stream.txt")
        )
        _print_first(root, seq_len=1024 if options.full else 64)
        _print_share(store)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _generate(store: Store, n_tokens: int, *, n_drawn: int) -> None:
    """Write a manifest v1 of some documents, `n_drawn` tokens an epoch, and their token segments."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.8, 1.0, n_tokens // 400), 10, 100_000).astype(np.int64)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), n_tokens))]
    n = len(lengths)
    data = tokens.fit_tokenizer(["some words to fit on, and some more"], _VOCAB)
    path = "models/tokenizer.json"
    store.write_bytes(path, data)
    digest = store.digest(path)
    tokenizer = {"name": "bench", "sha256": digest, "path": path, "n_vocab": _VOCAB, "separator": "auto"}
    ids = np.sort(np.frombuffer(binascii.hexlify(rng.bytes(16 * n)), dtype="S32"))
    doc_id = pa.array(ids).cast(pa.string())
    folder = tokens.segments_dir(tokenizer)
    number = np.cumsum(lengths) // _SEGMENT_TOKENS
    for segment in np.unique(number):
        here = np.flatnonzero(number == segment)
        flat = rng.integers(1, _VOCAB // 2, int(lengths[here].sum())).astype(np.uint16)
        store.write_bytes(f"{folder}/{segment:05d}.bin", flat.tobytes())
        offset = np.cumsum(lengths[here]) - lengths[here]
        spans = pa.array([[]] * len(here), pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())])))
        columns = {
            "doc_id": doc_id.take(here),
            "masks": pa.array([""] * len(here)),
            "offset": offset,
            "n_tokens": lengths[here].astype(np.int32),
        }
        store.write_table(f"{folder}/{segment:05d}.parquet", pa.table({**columns, "no_loss": spans}))
    _write_manifest(store, doc_id, lengths, tokenizer, n_drawn)


def _write_manifest(store: Store, doc_id: pa.Array, lengths: Any, tokenizer: dict[str, Any], n_drawn: int) -> None:
    n = len(lengths)
    same = {name: pa.array(["x"]).take(pa.array(np.zeros(n, np.int64))) for name in ("source", "shard")}
    given = {"row_id": doc_id, "doc_id": doc_id, "group": doc_id, "n_tokens": lengths, "n_bytes": lengths * 4, "n_words": lengths, **same}
    given |= {"component": pa.array(["domain"]).take(pa.array(np.zeros(n, np.int64))), "split": pa.array(["train"] * n)}
    given |= {
        "stages": pa.array([[0]] * n, pa.list_(pa.int8())),
        "masks": pa.array([[]] * n, manifests.MASKS),
        "row": np.zeros(n, np.int32),
    }
    arrays = [
        pa.array(given[field.name]).cast(field.type) if field.name in given else pa.nulls(n, field.type) for field in manifests.SCHEMA
    ]
    table = pa.table(arrays, schema=manifests.SCHEMA)
    parts = []
    for first in range(0, n, 200_000):
        path = f"train/part-{first // 200_000:05d}.parquet"
        store.write_table(f"manifests/v1/{path}", table.slice(first, 200_000))
        parts.append({"path": path, "rows": min(200_000, n - first), "sha256": ""})
    part = {"name": "domain", "share": 1.0, "epoch_tokens": n_drawn, "pool_tokens": int(lengths.sum()), "redraw": "fixed"}
    stage = {"name": "main", "epochs": 1, "epoch_tokens": n_drawn, "components": [part]}
    info = {"schema_version": 1, "version": "v1", "domain": "bench", "sample": False, "seed": 0, "tokenizer": tokenizer, "parts": parts}
    store.write_json("manifests/v1/manifest.json", {**info, "stages": [stage], "fingerprint": f"bench {n} {n_drawn}"})


def _plan(store: Store, manifest: Manifest, config: TrainConfig) -> Plan:
    return find_plan(store, manifest, config, n_tokens=epoch_tokens(manifest, config), draw=find_draw(store, manifest, None))


def _open(store: Store, **settings: Any) -> Stream:
    manifest = manifests.load(store, "v1")
    plan = _plan(store, manifest, TrainConfig(**settings))
    return open_stream(store, manifest, plan, tokenizer=manifest.tokenizer, n_tokens=None)[0]


def _print_path(store: Store, full: bool, python: pathlib.Path) -> list[str]:
    """Time the path at 2,048 tokens a sequence, in turns with the peer, on the same stock of tokens."""
    seq_len, global_batch, n_steps = 2048, 256 if full else 64, 60
    stream = _open(store, seq_len=seq_len, global_batch=global_batch)
    n = n_steps * seq_len * global_batch
    steps = range(min(n_steps, stream.plan.n_steps))
    contestants = {
        "gapless, as a run reads": lambda: _time_s(lambda: _read(stream, steps, "")),
        "gapless, without the hash": lambda: _time_s(lambda: _read(stream, steps, None)),
    }
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        _dump(store, pathlib.Path(folder), n)
        peer = stack.enter_context(Peer(python, "stream.py", "litdata", folder, str(seq_len), str(global_batch)))
        if peer.state == "ready":
            contestants["litdata, no hash, no plan"] = peer.time_s
        else:
            print(f"left out: litdata ({peer.state}); --full makes {_PEERS_DIR.name}")
        _read(stream, steps, "")
        times_s = in_turns(contestants, _N_RUNS)
    print(
        f"{n / 1e6:,.0f} M tokens in {len(steps)} steps of {global_batch} x {seq_len}; one process, warm, median of {_N_RUNS} runs in turn"
    )
    for label, runs_s in times_s.items():
        slowest, median, fastest = (n / seconds / 1e6 for seconds in (max(runs_s), statistics.median(runs_s), min(runs_s)))
        print(f"{label:28} {median:9,.1f} M tokens/s   {slowest:,.1f}..{fastest:,.1f}")
    return _problems(stream, steps)


def _read(stream: Stream, steps: range, stream_hash: str | None) -> None:
    with Batches(stream, steps, micro_batch=1, stream_hash=stream_hash) as batches:
        for _ in batches:
            pass


def _time_s(run: Any) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _problems(stream: Stream, steps: range) -> list[str]:
    """Check what was timed: hashes for one process and for four, and that every token of the plan is there."""
    problems = []
    with Batches(stream, steps[:4], micro_batch=1, stream_hash="") as batches:
        alone = list(batches)
    with Batches(stream, steps[:4], micro_batch=1, world=4, stream_hash="") as batches:
        shared = list(batches)
    if [fetched.stream_hash for fetched in alone] != [fetched.stream_hash for fetched in shared]:
        problems.append("the stream hash depends on the number of processes")
    if any(int((fetched.batch.targets_BT != IGNORED).sum()) != fetched.batch.n_tokens for fetched in alone):
        problems.append("a batch does not hold the tokens of the plan")
    return problems


def _dump(store: Store, folder: pathlib.Path, n: int) -> None:
    """Write the first n tokens of the segments, again from the start where there are fewer, as one flat file of uint16."""
    paths = [store.local(path) for path in store.files("cache/tokens", ".bin")]
    with open(folder / "tokens.bin", "wb") as file:
        left = n
        while left > 0:
            for path in paths:
                part = np.fromfile(path, dtype=np.uint16)[: max(left, 0)]
                part.tofile(file)
                left -= len(part)


def _print_first(root: str, *, seq_len: int) -> None:
    """Plan a million steps, then open them in new processes at both ends."""
    print(f"\na plan of {_MANY_STEPS + 1000:,} sequences of {seq_len} tokens")
    planned = _child(root, seq_len=seq_len, step=None)
    print(
        f"planned in {planned['plan_s']:.1f} s: {planned['n_rows']:,} rows, {planned['n_bytes'] / 1e6:,.1f} MB on disk;"
        f" memory rose by {planned['rise_mb']:,.0f} MB at most ({planned['n_documents']:,} documents drawn)"
    )
    print(f"{'first batch of step':30} {'open s':>8} {'batch s':>8} {'in all':>8}")
    for label, step, n_runs in (("0, documents looked up anew", 0, 1), ("0", 0, 5), (f"{_MANY_STEPS:,}", _MANY_STEPS, 5)):
        runs = [_child(root, seq_len=seq_len, step=step) for _ in range(n_runs)]
        open_s, batch_s = (statistics.median(run[name] for run in runs) for name in ("open_s", "batch_s"))
        print(f"{label:30} {open_s:8.2f} {batch_s:8.2f} {open_s + batch_s:8.2f}")


def _child(root: str, **what: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, "--root", root, "--first", json.dumps(what)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def _first(store: Store, *, seq_len: int, step: int | None) -> dict[str, Any]:
    """In a new process: plan the epoch anew (step None), or open the stream and read one batch."""
    config = {"seq_len": seq_len, "global_batch": 1, "micro_batch": 1}
    if step is None:
        manifest = manifests.load(store, "v1")
        plan = _plan(store, manifest, TrainConfig(**config))
        store.remove(plan.path)
        draw = find_draw(store, manifest, None)
        drawn = draw(plan.epochs[0])
        before_mb = _peak_mb(reset=True)
        begun = time.perf_counter()
        epoch = Planner(store, plan, lambda _: drawn).open(0)
        plan_s = time.perf_counter() - begun
        rise_mb = _peak_mb() - before_mb
        n_bytes = store.local(epoch_path(plan, 0)).stat().st_size
        counts = {"n_documents": sum(len(part.ordinal) for part in drawn), "n_rows": epoch.n_rows}
        return {"plan_s": plan_s, "rise_mb": rise_mb, "n_bytes": n_bytes, **counts}
    begun = time.perf_counter()
    stream = _open(store, **config)
    opened = time.perf_counter()
    with Batches(stream, range(step, step + 10), micro_batch=1, stream_hash="") as batches:
        next(batches)
        done = time.perf_counter()
    return {"open_s": opened - begun, "batch_s": done - opened}


def _peak_mb(*, reset: bool = False) -> float:
    """Give the most memory that this process has had (Linux), since the last reset."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    return int(found[1]) / 1e3 if found else float("nan")


def _print_share(store: Store) -> None:
    """Train the tiny model at its defaults on the CPU for some steps: how long does it wait for data?"""
    torch.set_num_threads(1)  # a model this small gains nothing from a second one, and waits for it where other work has the core
    manifest = manifests.load(store, "v1")
    config = config_from(defaults("tiny"))
    stream = _open(store, seq_len=config.seq_len, global_batch=config.global_batch)
    model = load_model(store, find_base(store, manifest, "tiny"), config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    n_steps = 6
    # What a step costs the data path, by itself; the first pass plans the epoch.
    data_s = [_time_s(lambda: _read(stream, range(100), "")) / 100 for _ in range(2)][-1]
    waited_s, begun = 0.0, 0.0
    with Batches(stream, range(n_steps), micro_batch=config.micro_batch, stream_hash="") as batches:
        for fetched in batches:
            if fetched.step == 2:  # the first two warm up
                begun, waited_s = time.perf_counter(), 0.0
            waited_s += fetched.waited_s
            for micro in fetched.batch.micro(config.micro_batch):
                logits_BTV = model(input_ids=micro.inputs_BT.long(), use_cache=False).logits
                torch.nn.functional.cross_entropy(
                    logits_BTV.flatten(0, 1), micro.targets_BT.long().flatten(), ignore_index=IGNORED
                ).backward()
            optimizer.step()
            optimizer.zero_grad()
    step_s = (time.perf_counter() - begun) / (n_steps - 2)
    share, waiting = data_s / step_s, waited_s / (n_steps - 2) / step_s
    print(f"\ntiny model, {config.global_batch} x {config.seq_len} tokens, one CPU thread: {step_s * 1e3:.1f} ms a step")
    print(f"data path {data_s * 1e3:.3f} ms, {share:.3%} of a step, in a thread of its own; the loop waits for {waiting:.3%} of a step")


if __name__ == "__main__":
    sys.exit(main())
