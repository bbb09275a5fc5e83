"""The learning rate of a step: a pure function of the step number, so that resuming needs no state.

A schedule is a function here and a row of SCHEDULES. All begin with a linear warm-up. The last step of a phase has the rate that
the phase leads to, so the last step of the warm-up has the full rate, the last step of a run the smallest, and no step
is spent at zero.

The decision: rates follow from the length of the run, which the plan knows before the first step. Cost: a run that shall
become longer needs one of the schedules with a constant part (wsd, infinite) and the checkpoint at its end.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Phases:
    """What a schedule is made of: lengths in steps, rates in units of the optimizer. A schedule reads what it needs."""

    n_steps: int
    n_warmup_steps: int
    n_cooldown_steps: int
    n_anneal_steps: int
    lr: float
    min_lr: float
    constant_lr: float
    base_lr: float = 0.0


def cosine(step: int, phases: Phases) -> float:
    """Warm up to `lr`, then half a cosine down to `min_lr`."""
    if step < phases.n_warmup_steps:
        return _warmup(step, phases)
    return _half_cosine(_rest(step, phases), phases.lr, phases.min_lr)


def linear(step: int, phases: Phases) -> float:
    """Warm up to `lr`, then a straight line down to `min_lr`."""
    if step < phases.n_warmup_steps:
        return _warmup(step, phases)
    return _line(_rest(step, phases), phases.lr, phases.min_lr)


def wsd(step: int, phases: Phases) -> float:
    """Warm up to `lr`, stay there, then anneal to `min_lr`."""
    if step < phases.n_warmup_steps:
        return _warmup(step, phases)
    return _constant_then_annealed(step, phases, phases.lr)


def infinite(step: int, phases: Phases) -> float:
    """Warm up to `lr`, cool down to `constant_lr` on half a cosine, stay there, then anneal to `min_lr`.

    What comes next goes on from the checkpoint before the annealing, without warm-up and cooldown, so that no rate rises
    again (arXiv 2403.08763, section 7.4; arXiv 2503.02844).
    """
    if step < phases.n_warmup_steps:
        return _warmup(step, phases)
    n_cooled = step + 1 - phases.n_warmup_steps
    if n_cooled <= phases.n_cooldown_steps:
        return _half_cosine(n_cooled / phases.n_cooldown_steps, phases.lr, phases.constant_lr)
    return _constant_then_annealed(step, phases, phases.constant_lr)


def rewarm(step: int, phases: Phases) -> float:
    """Warm up from `base_lr`, the rate at which the base's own training ended, to `lr`, then half a cosine down to `min_lr`.

    How high to go is a choice: a higher peak learns more and forgets more, also on the same data (arXiv 2403.08763, section 7.1).
    """
    if step < phases.n_warmup_steps:
        return _warmup(step, phases, start=phases.base_lr)
    return _half_cosine(_rest(step, phases), phases.lr, phases.min_lr)


SCHEDULES: Mapping[str, Callable[[int, Phases], float]] = {
    "cosine": cosine,
    "linear": linear,
    "wsd": wsd,
    "infinite": infinite,
    "rewarm": rewarm,
}
# Those that stay at one rate until they anneal; `infinite` cools down before.
ANNEALED = ("wsd", "infinite")
COOLED = ("infinite",)


def lr_at(step: int, schedule: str, phases: Phases) -> float:
    """Give the learning rate of a step, counted from 0.

    >>> run = Phases(n_steps=5, n_warmup_steps=2, n_cooldown_steps=0, n_anneal_steps=0, lr=1.0, min_lr=0.0, constant_lr=0.0)
    >>> [lr_at(step, "linear", run) for step in (0, 1, 2, 4)]
    [0.5, 1.0, 0.6666666666666667, 0.0]
    """
    return SCHEDULES[schedule](step, phases)


def first_anneal_step(schedule: str, phases: Phases) -> int | None:
    """Give the step at which the annealing begins, which is also the steps done before it; None where nothing is annealed."""
    return phases.n_steps - phases.n_anneal_steps if schedule in ANNEALED and phases.n_anneal_steps else None


def _warmup(step: int, phases: Phases, start: float = 0.0) -> float:
    return _line((step + 1) / phases.n_warmup_steps, start, phases.lr)


def _rest(step: int, phases: Phases) -> float:
    """Say how much of what follows the warm-up is done with a step, above 0 and up to 1."""
    return (step + 1 - phases.n_warmup_steps) / (phases.n_steps - phases.n_warmup_steps)


def _constant_then_annealed(step: int, phases: Phases, before: float) -> float:
    """Stay at `before`, then fall to `min_lr` by one minus the square root, which did better than a line (arXiv 2405.18392)."""
    n_annealed = step + 1 - (phases.n_steps - phases.n_anneal_steps)
    if n_annealed <= 0:
        return before
    return _line(math.sqrt(n_annealed / phases.n_anneal_steps), before, phases.min_lr)


def _line(progress: float, start: float, end: float) -> float:
    return start * (1.0 - progress) + end * progress


def _half_cosine(progress: float, start: float, end: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))
