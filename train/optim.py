"""AdamW in two groups: matrices and embeddings decay, norms and biases do not.

torch's own AdamW, in one kernel for all parameters; state is read and written by parameter name, because a position in a
list means nothing to a reader of the file and changes with the groups. Sharded parameters have sharded state.
"""

import torch

from train.config import TrainConfig

_MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Build AdamW. The rate is set at every step, from `schedule`."""
    params = [param for param in model.parameters() if param.requires_grad]
    groups = [
        {"params": [param for param in params if param.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [param for param in params if param.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, betas=config.betas, fused=True)


def optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """Name the optimizer's state as PARAMETER/KEY, the tensors themselves: what is written into them is in the state.

    A parameter without state, as before the first step, gets that of zero steps.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        state = optimizer.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
            state |= {key: torch.zeros_like(param, memory_format=torch.preserve_format) for key in _MOMENTS}
        tensors |= {f"{name}/{key}": value for key, value in state.items()}
    return tensors
