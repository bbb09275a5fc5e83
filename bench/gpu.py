"""Tokens/s, MFU and peak memory of training on one GPU, beside transformers.Trainer: one unattended script of at most eight minutes.

    python bench/gpu.py [--budget SECONDS] [--peak TFLOPS] [--out FILE]

Llama shapes of some 125 M, 350 M and 1.1 B parameters, sequences of 2,048 tokens, bfloat16, compiled, fused AdamW; packed batches of random
tokens, the same for all. Ours with attention within documents (FlexAttention; varlen flash attention) and over whole sequences; the
Trainer at its best public settings (the same options, its own logits, sdpa) and at its defaults. MFU counts as train/figures.py does.
Shapes take turns in processes of their own, so what one breaks costs only itself; what does not fit into the budget is left out and named.

Needs torch, transformers, accelerate, numba and a CUDA device. Without one, tiny shapes run on the CPU, to see that the
script works. Fails when a loss is not finite or ours has another loss than the Trainer at the same options; never on a time.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import subprocess
import sys
import time
from typing import Any

import torch
from common.trainers import Options, Ours, Trainer, Work, find_trainer, packed_batches
from rich.console import Console
from rich.table import Table

from train.figures import flops_per_token

# Micro-batch of each shape in sequences: some 65,000 or 33,000 tokens, which fill the device and fit beside the Trainer's logits.
_SHAPES: dict[str, tuple[dict[str, int], int]] = {
    "125M": ({"vocab_size": 50304, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}, 32),
    "350M": ({"vocab_size": 50304, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 16}, 16),
    "1.1B": (
        {
            "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
            "num_key_value_heads": 4,
        },
        16,
    ),
}  # fmt: skip
_TINY = ({"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}, 2)
_SEQ_LEN, _TINY_SEQ_LEN = 2048, 64
_N_WARM, _N_TIMED = 3, 10
# What the vendor states for bfloat16 of an H200 without sparsity.
_PEAK_TFLOPS = 989.0
_TOLERANCE = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=470.0, help="seconds in all (default: 470)")
    parser.add_argument("--peak", type=float, default=_PEAK_TFLOPS, help="TFLOP/s of the device in bfloat16 (default: 989, an H200)")
    parser.add_argument("--out", type=pathlib.Path, help="write all figures there as JSON lines")
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    has_trainer = find_trainer(make=False)
    if args.shape:
        return _measure_all(args.shape, args.deadline, has_trainer=has_trainer)
    if not torch.cuda.is_available():
        print("no CUDA device: tiny shapes on the CPU, which say nothing about speed")
    if not has_trainer:
        print("transformers.Trainer is left out: it needs accelerate (python bench/trainer.py --full fetches it)")
    ends_at, found = time.time() + args.budget, []
    for number, shape in enumerate(_SHAPES):
        # What a shape leaves over goes to those after it.
        deadline = time.time() + (ends_at - time.time()) / (len(_SHAPES) - number)
        found += _run_shape(shape, deadline)
        if args.out:
            args.out.write_text("".join(f"{json.dumps(line)}\n" for line in found))
    _print(found, args.peak)
    problems = _problems(found)
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


def _run_shape(shape: str, deadline: float) -> list[dict[str, Any]]:
    """Measure a shape in a process of its own, which is ended where it is late."""
    command = [sys.executable, __file__, "--shape", shape, "--deadline", str(deadline)]
    try:
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=max(deadline - time.time() + 15, 1)).stdout
    except subprocess.TimeoutExpired as late:
        out = (late.stdout or b"").decode()
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def _measure_all(shape: str, deadline: float, *, has_trainer: bool) -> int:
    """Print a line of JSON for each contestant, the most telling ones first."""
    is_gpu = torch.cuda.is_available()
    if not is_gpu:
        torch.set_num_threads(1)
    sizes, micro_batch = _SHAPES[shape] if is_gpu else _TINY
    seq_len = _SEQ_LEN if is_gpu else _TINY_SEQ_LEN
    work = Work(sizes, seq_len, micro_batch, micro_batch, torch.device("cuda:0" if is_gpu else "cpu"))
    batches = packed_batches(work, _N_WARM + _N_TIMED)
    documents = Options(dtype=torch.bfloat16, compile=is_gpu)
    whole = Options(dtype=torch.bfloat16, compile=is_gpu, documents=False)
    contestants: dict[str, Any] = {
        "ours, documents": lambda: Ours(work, documents),
        "Trainer, best": lambda: Trainer(work, whole),
        "ours, whole sequences": lambda: Ours(work, whole),
        "Trainer, defaults": lambda: Trainer(work, None),
        "ours, documents by varlen": lambda: Ours(work, Options(dtype=torch.bfloat16, compile=is_gpu, kernel="varlen")),
        "Trainer, best, documents": lambda: Trainer(work, documents),
    }
    for label, make in contestants.items():
        if (label.startswith("Trainer") and not has_trainer) or (label.endswith("varlen") and not is_gpu):
            continue
        line = {"shape": shape, "contestant": label}
        if time.time() > deadline:
            line |= {"failed": "left out: no time was left"}
        else:
            line |= _measure(make, work, batches, is_gpu=is_gpu)
        print(json.dumps(line), flush=True)
    return 0


def _measure(make: Any, work: Work, batches: Any, *, is_gpu: bool) -> dict[str, Any]:
    """Measure one contestant; what it cannot do (a kernel, the memory) is said in its place."""
    if is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    try:
        seconds, losses = make().run(batches, _N_WARM)
    except Exception as error:  # any failure is a result here
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]}
    return {
        "tokens_per_s": round(work.n_tokens * _N_TIMED / seconds, 1),
        "flops_per_token": flops_per_token(work.model(), work.seq_len),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if is_gpu else None,
        "before_s": round(time.perf_counter() - begun - seconds, 1),
        "losses": losses,
    }


def _print(found: list[dict[str, Any]], peak_tflops: float) -> None:
    table = Table(
        "shape", "contestant", "tokens/s", "MFU", "peak GB", "of Trainer, best", "of Trainer, defaults", "compiling s", title="one device"
    )
    for line in found:
        if "failed" in line:
            table.add_row(line["shape"], line["contestant"], line["failed"])
            continue
        speed = line["tokens_per_s"]
        mfu = f"{speed * line['flops_per_token'] / (peak_tflops * 1e12):.1%}"
        others = {each["contestant"]: each.get("tokens_per_s") for each in found if each["shape"] == line["shape"]}
        ratios = [f"{speed / others[name]:.2f}x" if others.get(name) else "" for name in ("Trainer, best", "Trainer, defaults")]
        table.add_row(line["shape"], line["contestant"], f"{speed:,.0f}", mfu, str(line["peak_gb"] or ""), *ratios, str(line["before_s"]))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _problems(found: list[dict[str, Any]]) -> list[str]:
    """Say what is wrong with losses; at the same options they are the same but for bfloat16."""
    problems = [
        f"{line['shape']}, {line['contestant']}: losses {line['losses']}"
        for line in found
        if not all(map(math.isfinite, line.get("losses", [])))
    ]
    losses = {(line["shape"], line["contestant"]): line["losses"] for line in found if line.get("losses")}
    for shape in _SHAPES:
        for ours, theirs in (("ours, whole sequences", "Trainer, best"), ("ours, documents", "Trainer, best, documents")):
            pair = [losses.get((shape, label)) for label in (ours, theirs)]
            if pair[0] and pair[1] and max(abs(a - b) for a, b in zip(*pair, strict=True)) > _TOLERANCE * pair[0][0]:
                problems.append(f"{shape}: {ours} and {theirs} have other losses: {pair}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
