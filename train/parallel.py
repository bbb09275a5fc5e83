"""Several processes with one model: who is who under torchrun, and how weights are replicated or sharded.

`ddp` keeps the whole model, gradients and optimizer state in each process; `fsdp` keeps a part of each (FSDP2) and gathers one
layer at a time, which costs communication and makes room. A process alone is neither, and the same code.

The order of tokens does not depend on the number of processes (train/stream.py), so gradients differ by rounding only.
Gradients are summed over processes: torch means them, so a loss is multiplied by their number first.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from train.config import ConfigError
from train.losses import TokenLoss


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """This process among all of a run, as torchrun numbers them; alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Have the first process do something, then the others, who find what it has made."""
        if not self.is_first:
            self.wait()
        try:
            yield
        finally:
            if self.is_first:
                self.wait()

    def add(self, values: torch.Tensor) -> None:
        """Replace a tensor by its sum over processes."""
        if self.size > 1:
            dist.all_reduce(values)

    def gather(self, value: Any) -> list[Any]:
        """Give the first process the values of all, in order of rank; the others nothing."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(value, found)
        return found or []


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Join the processes that torchrun has started, for as long as they are needed; without torchrun there is one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    world = World(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield world
    finally:
        dist.destroy_process_group()


def layers(model: Any) -> list[torch.nn.Module]:
    """List the layers of a model of transformers: what is compiled and sharded one by one."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def checkpoint_layers(model: Any, every: int) -> None:
    """Have every so many layers keep their input only, and compute the rest again in the backward pass.

    Raises ConfigError where the model cannot.
    """
    try:
        model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)
    except ValueError as error:
        raise ConfigError(f"activation_checkpointing is {every} and {' '.join(str(error).split())} Set it to 0") from None


def compile_parts(loss: TokenLoss) -> None:
    """Compile each layer and the loss of a chunk. Layers are alike, so one is compiled for all of them."""
    for layer in layers(loss.model):
        layer.compile(dynamic=False)
    loss.chunk_loss = torch.compile(loss.chunk_loss, dynamic=False)


def spread_out(loss: TokenLoss, *, parallel: str, world: World, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """Replicate or shard a model and its loss over the processes; gives what is to be called in training."""
    if world.size == 1:
        return loss
    if parallel == "ddp":
        return DistributedDataParallel(
            loss, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    mesh = init_device_mesh(device.type, (world.size,))
    # Weights travel in the type that they are multiplied in; sums of gradients stay in that of the weights.
    policy = MixedPrecisionPolicy(param_dtype=dtype if dtype == torch.bfloat16 else None, reduce_dtype=None, cast_forward_inputs=False)
    if dtype == torch.bfloat16:
        policy = dataclasses.replace(policy, reduce_dtype=torch.float32)
    for layer in layers(loss.model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(loss, mesh=mesh, mp_policy=policy)
    return loss


def held_back(forward: torch.nn.Module, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
    """Keep the gradients of a micro-batch here until the last one; sharded ones are summed each time, which takes less memory."""
    if isinstance(forward, DistributedDataParallel) and not is_last:
        return forward.no_sync()
    return contextlib.nullcontext()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Give a tensor whole, where it is sharded: all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_weights(model: torch.nn.Module, world: World) -> dict[str, torch.Tensor]:
    """Gather the weights on the CPU of the first process, one by one; the others get none. All processes must ask for it.

    Weights that are tied stay one tensor, by which transformers knows to write it once.
    """
    gathered: dict[str, torch.Tensor] = {}
    seen: dict[int, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in seen:
            gathered |= {name: gathered[seen[id(value)]]} if world.is_first else {}
            continue
        seen[id(value)] = name
        tensor = whole(value.detach())
        if world.is_first:
            gathered[name] = tensor.cpu()
    return gathered
