"""One step of training: forward and backward by micro-batches, clip, AdamW. What a model is made into for it, and what comes out.

    model -> Learner (loss, kernels, replicas or shards, optimizer); Learner, batch, step -> weights in place, Step

Knows nothing of manifests, plans and files: batches come from the caller, and so does where the figures go. A step is a pure function of
weights, optimizer state, batch and step number; randomness (dropout) is named by what it is for.

Losses are normalised by the tokens of the global batch, so the size of a micro-batch and the number of processes change memory
and speed, not the gradient.

Shapes: B sequences of a micro-batch, T tokens of a sequence.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from train.assemble import IGNORED
from train.attention import arguments, check_separation, use_kernel
from train.config import TrainConfig
from train.losses import TokenLoss
from train.optim import make_optimizer
from train.parallel import World, checkpoint_layers, compile_parts, held_back, spread_out, whole
from train.schedule import Phases, lr_at

if TYPE_CHECKING:
    from train.stream import Batch

    # Step, first sequence of the micro-batch in the global batch, the micro-batch, nats of each token.
    Note = Callable[[int, int, Batch[torch.Tensor], torch.Tensor], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """Where and how a step is computed; `kernel` is of train/attention.py."""

    device: torch.device
    dtype: torch.dtype
    kernel: str
    world: World


@dataclasses.dataclass(frozen=True, slots=True)
class Learner:
    """A model that learns. `forward` is `loss` as it is called in training: replicated, sharded, or itself; `components` are those of
    batches, by name."""

    loss: TokenLoss
    forward: torch.nn.Module
    optimizer: torch.optim.AdamW
    config: TrainConfig
    phases: Phases
    components: tuple[str, ...]
    setting: Setting


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What a step computed. A component without a target in the batch has no loss."""

    lr: float
    loss: float
    component_losses: dict[str, float]
    grad_norm: float


def make_learner(model: Any, config: TrainConfig, phases: Phases, *, components: tuple[str, ...], setting: Setting) -> Learner:
    """Put a model on its device with its loss, kernels and optimizer. Raises ConfigError where the model cannot do what the config says."""
    kernel, device = setting.kernel, setting.device
    if config.attention == "documents":
        check_separation(model)
    how = arguments(config.attention, kernel)
    loss = TokenLoss(model, arguments=how, chunk=config.loss_chunk, dtype=setting.dtype, end_to_end=kernel == "varlen").to(device)
    use_kernel(model, kernel)
    if config.activation_checkpointing:
        checkpoint_layers(model, config.activation_checkpointing)
    if config.compile:
        compile_parts(loss)
    forward = spread_out(loss, parallel=config.parallel, world=setting.world, device=device, dtype=setting.dtype)
    return Learner(loss, forward, make_optimizer(loss.model, config), config, phases, components, setting)


def train_step(learner: Learner, batch: "Batch[torch.Tensor]", step: int, note: "Note | None" = None) -> Step:
    """Do one step of AdamW on a global batch, of which `batch` is this process's part, micro-batch by micro-batch."""
    config, world, device = learner.config, learner.setting.world, learner.setting.device
    learner.optimizer.zero_grad(set_to_none=True)
    n_targets = max(batch.n_targets_global, 1)
    sums = torch.zeros((2, len(learner.components)), dtype=torch.float64, device=device)
    n_micro = len(batch.inputs_BT) // config.micro_batch
    for index, part in enumerate(batch.micro(config.micro_batch)):
        # Sharded and replicated models compute together, so only a process alone may leave out what has no loss.
        if world.size == 1 and bool((part.targets_BT == IGNORED).all()):
            continue
        first = (world.rank * n_micro + index) * config.micro_batch
        torch.manual_seed(_seed_of(config.seed, step, first))
        given = (part.inputs_BT, part.targets_BT, part.positions_BT, part.components_BT)
        inputs, targets, positions, components = (tensor.to(device, non_blocking=True).long() for tensor in given)
        with held_back(learner.forward, is_last=index == n_micro - 1):
            total, nll_BT = learner.forward(inputs, targets, positions)
            # Processes mean their gradients; the sum is meant.
            (total * (world.size / n_targets)).backward()
        sums += torch.stack([_by_component(values, components, sums) for values in (nll_BT.double(), targets != IGNORED)])
        if note is not None:
            note(step, first, part, nll_BT)
    grad_norm = whole(torch.nn.utils.clip_grad_norm_(learner.loss.parameters(), config.clip_norm))
    lr = lr_at(step, config.schedule, learner.phases)
    for group in learner.optimizer.param_groups:
        group["lr"] = lr
    learner.optimizer.step()
    world.add(sums)
    nats, counts = sums.tolist()
    losses = {name: total / count for name, total, count in zip(learner.components, nats, counts, strict=True) if count}
    return Step(lr, sum(nats) / n_targets, losses, float(grad_norm))


def _by_component(values_BT: torch.Tensor, components_BT: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Add values up by component, in an order that never varies."""
    return torch.stack([(values_BT * (components_BT == code)).sum(dtype=like.dtype) for code in range(like.shape[1])])


def _seed_of(seed: int, step: int, first: int) -> int:
    """Name the randomness of a micro-batch (dropout) by what it is: the same on any number of processes, and after a resume."""
    return int.from_bytes(hashlib.sha256(f"dropout|{seed}|{step}|{first}".encode()).digest()[:7], "big")
