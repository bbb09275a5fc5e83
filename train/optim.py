"""AdamW in two groups: matrices and embeddings decay, norms and biases do not.

torch's own AdamW; state is read and written by parameter name, because a position in a list means nothing to a reader
of the file and changes with the groups.
"""

from typing import Any

import torch

from train.config import TrainConfig


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Build AdamW. The rate is set at every step, from `schedule`."""
    params = [param for param in model.parameters() if param.requires_grad]
    groups = [
        {"params": [param for param in params if param.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [param for param in params if param.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, betas=config.betas)


def optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """Name the optimizer's state as PARAMETER/KEY."""
    names: dict[torch.Tensor, str] = {param: name for name, param in model.named_parameters()}
    return {f"{names[param]}/{key}": value for param, state in optimizer.state.items() for key, value in state.items()}


def load_optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.AdamW, tensors: dict[str, torch.Tensor]) -> None:
    """Put state written by `optimizer_tensors` back, on the device of each parameter."""
    names = {param: name for name, param in model.named_parameters()}
    order = [param for group in optimizer.param_groups for param in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        name, _, field = key.rpartition("/")
        state.setdefault([names[param] for param in order].index(name), {})[field] = value
    whole: dict[str, Any] = {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    optimizer.load_state_dict(whole)
