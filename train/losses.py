"""The loss of every token without the logits of all of them: cross entropy in chunks of tokens.

    inputs -> decoder -> hidden states -> (a chunk of logits -> loss and gradient of the chunk) x n -> nats of each token

Logits are the largest tensor of a step: tokens x vocabulary x 4 bytes, in several copies. Here a chunk's logits are
made, turned into its loss and at once into the gradients of hidden states and head, and let go. Cost: the head's
gradient is held from the forward to the backward pass; nothing is computed twice.

The model and its loss are one module, so what is compiled, replicated or sharded has the loss inside.

Shapes: B sequences of a micro-batch, T tokens of a sequence, N = B x T, C tokens of a chunk, D width, V entries of the vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from train.assemble import IGNORED
from train.attention import Arguments

_ChunkLoss = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
# As of check_separation: agreement of float32 sums in another order.
_TOLERANCE = 1e-4


class TokenLoss(torch.nn.Module):
    """A causal LM of transformers together with its loss. Parameters are those of `model`, which stays whole inside."""

    def __init__(self, model: Any, *, arguments: Arguments, chunk: int, dtype: torch.dtype, end_to_end: bool = False) -> None:
        """`arguments` is of train/attention.py, `chunk` in tokens, matrix products in `dtype`; `end_to_end` lays sequences into one row."""
        super().__init__()
        self.model = model
        self.chunk_loss: _ChunkLoss = chunk_loss
        self._arguments, self._chunk, self._dtype, self._end_to_end = arguments, chunk, dtype, end_to_end
        self._has_plain_head = has_plain_head(model)

    def forward(self, inputs_BT: torch.Tensor, targets_BT: torch.Tensor, positions_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the sum of nats, to be differentiated, and the nats of each token, which are not; 0 where the target is IGNORED.

        The target of a place is what follows the input there. Sums and softmax are in float32, or float64 where the weights are.
        """
        labels = targets_BT.flatten()
        with torch.autocast(inputs_BT.device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            inputs = inputs_BT.view(1, -1) if self._end_to_end else inputs_BT
            given = {"input_ids": inputs, "use_cache": False, **self._arguments(positions_BT)}
            if self._has_plain_head:
                hidden = self.model.base_model(**given).last_hidden_state.flatten(0, 1)
                head = self.model.get_output_embeddings()
                weight, bias = head.weight, getattr(head, "bias", None)
            else:
                hidden, weight, bias = self.model(**given).logits.flatten(0, 1), None, None
        given_loss = (hidden, weight, bias, labels, self._chunk, self._dtype, self.chunk_loss, torch.is_grad_enabled())
        total, nll = _ChunkedLoss.apply(*given_loss)  # type: ignore[no-untyped-call] # torch leaves it untyped
        return total, nll.view_as(targets_BT)


def has_plain_head(model: Any) -> bool:
    """Say whether a model's logits are its last hidden states times its output embeddings and no more (some scale or cap them)."""
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or model.base_model is model:
        return False
    ids = torch.arange(1, 9, device=model.device).remainder(head.weight.shape[0])[None]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
        ours = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    model.train(was_training)
    return torch.allclose(ours, logits, rtol=_TOLERANCE, atol=_TOLERANCE)


class _ChunkedLoss(torch.autograd.Function):
    """Sum of nats over chunks of tokens, with gradients that the forward pass has made. Without a weight, hidden states are logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor | None,
        bias_V: torch.Tensor | None,
        labels_N: torch.Tensor,
        chunk: int,
        dtype: torch.dtype,
        kernel: _ChunkLoss,
        is_learning: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        exact = torch.promote_types(hidden_ND.dtype, torch.float32)
        dtype = dtype if exact == torch.float32 else exact
        weight, bias = (None if part is None else part.to(dtype) for part in (weight_VD, bias_V))
        # What would need a gradient says nothing of whether one is asked for: here torch has switched that off.
        wants = [each and is_learning for each in ctx.needs_input_grad]
        grad_hidden = torch.empty_like(hidden_ND) if wants[0] else None
        grad_weight = torch.zeros_like(weight_VD, dtype=exact) if weight_VD is not None and wants[1] else None
        grad_bias = torch.zeros_like(bias_V, dtype=exact) if bias_V is not None and wants[2] else None
        nll = torch.empty(len(labels_N), dtype=exact, device=hidden_ND.device)
        for start in range(0, len(labels_N), chunk):
            here = slice(start, start + chunk)
            hidden = hidden_ND[here].to(dtype)
            logits = hidden if weight is None else functional.linear(hidden, weight, bias)
            if not any(wants):
                nll[here] = functional.cross_entropy(logits.to(exact), labels_N[here], ignore_index=IGNORED, reduction="none")
                continue
            nll[here], grad_logits = kernel(logits, labels_N[here])
            if grad_hidden is not None:
                grad_hidden[here] = grad_logits if weight is None else grad_logits @ weight
            if grad_weight is not None:
                _add_product(grad_weight, grad_logits.T, hidden)
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(nll)
        return nll.sum(), nll

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads = (None if grad is None else grad * grad_total.to(grad.dtype) for grad in ctx.saved_tensors)
        return (*grads, None, None, None, None, None)


def _add_product(total: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> None:
    """Add a matrix product in place, in one kernel where the types are one."""
    if total.dtype == one.dtype:
        total.addmm_(one, other)
    else:
        total += one @ other


def chunk_loss(logits_CV: torch.Tensor, labels_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the nats of each token and their gradient by the logits."""
    logp = torch.log_softmax(logits_CV, dim=-1, dtype=torch.promote_types(logits_CV.dtype, torch.float32))
    has_loss = labels_C != IGNORED
    at = labels_C.clamp(min=0)[:, None]
    nll = torch.where(has_loss, -logp.gather(1, at)[:, 0], 0.0)
    # In place: a chunk of logits is large, and this is memory traffic.
    grad = logp.exp_()
    grad.scatter_add_(1, at, torch.full_like(grad[:, :1], -1.0))
    return nll, grad.mul_(has_loss[:, None]).to(logits_CV.dtype)
