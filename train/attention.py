"""Attention within documents: who sees whom in a packed sequence, and which kernel computes it.

    positions of a batch -> arguments of the model's forward (position ids; for `varlen` where pieces start) -> masks or kernels

A token sees the tokens before it of its own piece and nothing else, so the logits of a packed document equal those of it
alone. transformers derives the masks of every kind of layer (full, sliding, chunked) from position ids that start again;
what an architecture makes of them is not taken on trust: `check_separation` tries it on the model at hand, once.

Kernels: `sdpa` (a block-diagonal mask; the CPU's), `flex` (FlexAttention with a block mask, which skips blocks that nobody
sees) and `varlen` (torch's flash attention over pieces laid end to end; bfloat16 on CUDA only). Cost of `sdpa` with a mask: it
computes what it then hides.

Shapes: B sequences of a micro-batch, T tokens of a sequence, H heads, N = B x T tokens end to end, D dimensions of a head.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch.nn.attention.varlen import varlen_attn

from train.config import ConfigError

_VARLEN = "gapless_varlen"
_IMPLEMENTATIONS = {"flex": "flex_attention", "varlen": _VARLEN}
# Logits of float32 weights agree to some 1e-6; a token that sees another document moves them by far more than this.
_TOLERANCE = 1e-3

Arguments = Callable[[torch.Tensor], dict[str, Any]]


def find_kernel(choice: str, attention: str, device: torch.device) -> str:
    """Resolve `auto`: FlexAttention for documents on a CUDA device, else SDPA. Raises ConfigError for what the device lacks."""
    if choice == "auto":
        return "flex" if device.type == "cuda" and attention == "documents" else "sdpa"
    if choice == "varlen" and device.type != "cuda":
        raise ConfigError(f"attention_kernel 'varlen' needs a CUDA device and this run is on {device}; set it to auto or sdpa")
    return choice


def use_kernel(model: Any, kernel: str) -> None:
    """Have a model of transformers compute its attention with a kernel. Raises ConfigError where it cannot."""
    if kernel == "sdpa":
        return  # what transformers takes itself wherever an architecture has it
    if kernel == "varlen":
        transformers.AttentionInterface.register(_VARLEN, _varlen)
    try:
        model.set_attn_implementation(_IMPLEMENTATIONS[kernel])
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"attention_kernel {kernel!r} is not for {type(model).__name__}: {' '.join(str(error).split())}; set it to another one"
        ) from None


def arguments(attention: str, kernel: str) -> Arguments:
    """Give the function from positions_BT to the arguments by which a forward pass knows the pieces."""
    if kernel == "varlen":
        return _varlen_arguments
    return _position_arguments if attention == "documents" else _no_arguments


def check_separation(model: Any) -> None:
    """Try a packed sequence on a model: raises ConfigError unless its second piece has the logits that it has alone."""
    name = type(model).__name__
    way_out = "set attention to causal, and documents that share a sequence see each other"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise ConfigError(f"{name} takes no position ids, so it cannot keep documents apart; {way_out}")
    n_entries = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, 13, device=model.device).remainder(n_entries)[None]
    positions = torch.cat([torch.arange(5), torch.arange(7)]).to(model.device)[None]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 5:]
        alone = model(input_ids=ids[:, 5:], position_ids=positions[:, 5:], use_cache=False).logits
    model.train(was_training)
    if not torch.allclose(packed, alone, rtol=_TOLERANCE, atol=_TOLERANCE * float(alone.abs().max())):
        raise ConfigError(f"{name} does not keep the documents of a sequence apart; {way_out}")


def _no_arguments(positions_BT: torch.Tensor) -> dict[str, Any]:
    return {}


def _position_arguments(positions_BT: torch.Tensor) -> dict[str, Any]:
    return {"position_ids": positions_BT}


def _varlen_arguments(positions_BT: torch.Tensor) -> dict[str, Any]:
    """Say where pieces start in the tokens end to end; empty ones are added up to a power of two, so that few shapes are compiled."""
    starts = torch.nonzero(positions_BT.flatten() == 0).flatten().to(torch.int32)
    n = positions_BT.numel()
    bounds = torch.full((1 << len(starts).bit_length(),), n, dtype=torch.int32, device=positions_BT.device)
    bounds[: len(starts)] = starts
    longest = positions_BT.shape[1]
    lengths = {f"cu_seq_lens_{side}": bounds for side in "qk"} | {f"max_length_{side}": longest for side in "qk"}
    return {"position_ids": positions_BT.view(1, n), **lengths}


def _varlen(
    module: torch.nn.Module,
    query_1HND: torch.Tensor,
    key_1HND: torch.Tensor,
    value_1HND: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention as transformers wants a function of it to: result (1, N, H, D), no weights."""
    query, key, value = (part[0].transpose(0, 1).to(torch.bfloat16) for part in (query_1HND, key_1HND, value_1HND))
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    lengths = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    is_grouped = query.shape[1] != key.shape[1]
    found: Any = varlen_attn(query, key, value, *lengths, scale=scaling, window_size=window, enable_gqa=is_grouped)
    return found[None], None
