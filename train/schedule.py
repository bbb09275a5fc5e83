"""The learning rate of a step: a pure function of the step number, so that resuming needs no state.

Linear warm-up, then half a cosine. The last step of the warm-up has the full rate and the last step of the run has the
smallest one, so no step is spent at zero.
"""

import math


def lr_at(step: int, *, n_steps: int, n_warmup_steps: int, lr: float, min_lr_ratio: float) -> float:
    """Give the learning rate of a step, counted from 0, of a run of `n_steps`.

    Warm-up: lr x (step + 1) / n_warmup_steps. After it: from lr down to lr x min_lr_ratio at step n_steps - 1.

    >>> [lr_at(step, n_steps=5, n_warmup_steps=2, lr=1.0, min_lr_ratio=0.0) for step in (0, 1, 4)]
    [0.5, 1.0, 0.0]
    """
    if step < n_warmup_steps:
        return lr * (step + 1) / n_warmup_steps
    progress = (step + 1 - n_warmup_steps) / (n_steps - n_warmup_steps)
    return lr * (min_lr_ratio + (1.0 - min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress)))
