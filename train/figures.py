"""What a step cost: operations, speed, share of the peak, waiting, money. The clock's only way into what a run writes."""

from typing import Any

import torch

from train.config import TrainConfig
from train.parallel import World


def flops_per_token(model: Any, seq_len: int) -> float:
    """Count the floating-point operations of a training step for one token: 6 for each weight that multiplies, and 12 x layers x
    width of all heads x seq_len for attention (Chowdhery et al., PaLM, arXiv 2204.02311, appendix B).

    As in published figures attention counts all of a sequence, seen or not, and what activation checkpointing computes again counts once.
    """
    config = model.config.get_text_config()
    head = model.get_output_embeddings().weight
    embeddings = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding) and module.weight is not head]
    n_weights = sum(param.numel() for param in model.parameters()) - sum(weight.numel() for weight in embeddings)
    n_heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    return float(6 * n_weights + 12 * config.num_hidden_layers * n_heads * head_dim * seq_len)


def step_figures(
    config: TrainConfig, *, n_tokens: int, seconds: float, waited_s: float, flops: float, world: World
) -> dict[str, float | None]:
    """Say how fast a step was: tokens a second, share of the peak, share of the time that waited for data, cost at the config's rate."""
    tokens_per_s = n_tokens / seconds
    peak, rate = config.peak_tflops, config.cost_per_hour
    return {
        "tokens_per_s": round(tokens_per_s, 1),
        "wait_ratio": round(waited_s / seconds, 5),
        "mfu": None if peak is None else round(tokens_per_s * flops / (peak * 1e12 * world.size), 4),
        "cost": None if rate is None else seconds / 3600 * rate * world.size,
    }
