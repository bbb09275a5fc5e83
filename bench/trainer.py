"""How fast is a step of training beside transformers.Trainer and a plain PyTorch loop, and which change buys what?

    python bench/trainer.py [--full] [--compile] [--bfloat16] [--runs N]

One Llama with the same weights, the same packed batches, optimizer and clipping for all; they take turns, and a ratio is that of two
neighbours in one turn. "Equal options" has our dtype, compiling, fused AdamW and attention within documents (position ids); "defaults"
has only its batch size set. Without transformers' accelerate (--full fetches it into .venv-peers-train) its Trainer is left out. The second
table adds one change after the other to a loop with none.

By default a tiny model in float32, not compiled; --full takes a larger one, in bfloat16 and compiled. Only steps are timed: what the
data path costs is in bench/stream.py. Fails when the contestants with equal options have other losses; never on a time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from typing import Any

import torch
from common.trainers import Options, Ours, Packed, Plain, Trainer, Work, find_trainer, packed_batches
from rich.console import Console
from rich.table import Table

_CPU = torch.device("cpu")
# The first steps of a turn compile, and have no gradients to add to yet.
_N_WARM = 2
_SMALL = {"vocab_size": 2048, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4, "num_attention_heads": 2}
_LARGE = {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4}
# Float32 sums in another order, and AdamW, which makes much of gradients near zero.
_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 5e-2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="a larger model, in bfloat16 and compiled, and transformers.Trainer")
    parser.add_argument("--compile", action="store_true", help="compile (default: with --full)")
    parser.add_argument("--bfloat16", action="store_true", help="matrix products in bfloat16 (default: with --full)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: 1; with --full all cores)")
    parser.add_argument("--runs", type=int, default=5, help="turns (default: 5)")
    args = parser.parse_args()
    work = Work(_LARGE, 512, 8, 4, _CPU) if args.full else Work(_SMALL, 128, 8, 4, _CPU)
    dtype = torch.bfloat16 if args.full or args.bfloat16 else torch.float32
    options = Options(dtype=dtype, compile=args.full or args.compile)
    if args.threads or not args.full:
        torch.set_num_threads(args.threads or 1)
    n_timed = 5
    has_trainer = find_trainer(make=args.full)
    if not has_trainer:
        print("transformers.Trainer is left out: it needs accelerate (--full fetches it)")
    contestants: dict[str, Any] = {"ours": Ours(work, options), "plain PyTorch loop": Plain(work, options)}
    if has_trainer:
        contestants |= {"Trainer, equal options": Trainer(work, options), "Trainer, defaults": Trainer(work, None)}
    seconds, losses = _take_turns(contestants, packed_batches(work, n_timed + _N_WARM), args.runs)
    name = f"{str(dtype).removeprefix('torch.')}, {'compiled' if options.compile else 'not compiled'}, {torch.get_num_threads()} threads"
    _print_ratios(f"a step, {name}", work.n_tokens * n_timed, seconds)
    _print_ladder(work, options, packed_batches(work, n_timed + _N_WARM), args.runs)
    problems = _wrong_losses(losses, _TOLERANCE[dtype])
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


def _take_turns(
    contestants: Mapping[str, Any], batches: list[Packed], n_runs: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Give the seconds of each turn and the losses of the first one. The first steps of a turn warm up."""
    seconds: dict[str, list[float]] = {label: [] for label in contestants}
    losses: dict[str, list[float]] = {}
    for _ in range(n_runs):
        for label, contestant in contestants.items():
            found, said = contestant.run(batches, _N_WARM)
            seconds[label].append(found)
            losses.setdefault(label, said)
    return seconds, losses


def _print_ratios(title: str, n_tokens: int, seconds: Mapping[str, list[float]]) -> None:
    table = Table("", "tokens/s", "ours is faster by", "from", "to", title=title, title_justify="left")
    for label, times in seconds.items():
        ratios = sorted(theirs / ours for theirs, ours in zip(times, seconds["ours"], strict=True))
        cells = ["", "", ""] if label == "ours" else [f"{statistics.median(ratios):.3f}x", f"{ratios[0]:.3f}", f"{ratios[-1]:.3f}"]
        table.add_row(label, f"{n_tokens / statistics.median(times):,.0f}", *cells)
    _console().print(table)


def _print_ladder(work: Work, best: Options, batches: list[Packed], n_runs: int) -> None:
    """Add one change after the other, up to the options of `best`."""
    rungs: dict[str, Any] = {"a plain loop, float32, documents see each other": Plain(work, Options(fused=False, documents=False))}
    rungs["and attention within documents"] = Plain(work, Options(fused=False))
    rungs["and fused AdamW"] = Plain(work, Options())
    rungs["and our step: loss in chunks"] = Ours(work, Options())
    if best.dtype == torch.bfloat16:
        rungs["and bfloat16"] = Ours(work, Options(dtype=best.dtype))
    if best.compile:
        rungs["and compiled layers and loss"] = Ours(work, best)
    seconds, _ = _take_turns(rungs, batches, n_runs)
    table = Table("", "tokens/s", "buys", title="one change after the other", title_justify="left")
    before: list[float] | None = None
    for label, times in seconds.items():
        ratio = "" if before is None else f"{statistics.median(old / new for old, new in zip(before, times, strict=True)):.3f}x"
        table.add_row(label, f"{work.n_tokens * (len(batches) - _N_WARM) / statistics.median(times):,.0f}", ratio)
        before = times
    _console().print(table)


def _wrong_losses(losses: Mapping[str, list[float]], tolerance: float) -> list[str]:
    """Compare with ours the first turn of all that say their losses."""
    problems = []
    for label, said in losses.items():
        farthest = max((abs(one - other) for one, other in zip(losses["ours"], said, strict=False)), default=0.0)
        if farthest > tolerance:
            problems.append(f"{label} has other losses than ours, by up to {farthest:.2g} nats: {said} and {losses['ours']}")
    return problems


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=160)


if __name__ == "__main__":
    sys.exit(main())
