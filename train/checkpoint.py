"""Checkpoints: a folder that transformers opens, beside what resuming needs besides the weights.

    runs/RUN/checkpoints/step-N/   model.safetensors, config.json, tokenizer.json, README.md, ...   the Hugging Face part
                                   optimizer/*.safetensors   a file a process, by torch.distributed.checkpoint
                                   state.json                written last: without it there is no checkpoint

Any number of processes reads what any other number has written. There is no random state: dropout draws from (seed, step, place in
the batch). No pickle anywhere. The optimizer's state makes a checkpoint three times as large as the model, so few are kept: the last
ones, the best one, and the one before the annealing. Cost: the first process gathers the whole model on its CPU to write it.
"""

import contextlib
import dataclasses
import pathlib
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from curate.store import Store
from train.config import ConfigError
from train.export import Card, write_folder
from train.optim import optimizer_tensors
from train.parallel import World, full_weights

FORMAT = 2
_NAME = re.compile(r"step-(\d+)")


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """How far a run is: steps done, tokens read, running hash of the token stream; and what it is a run of."""

    step: int
    n_tokens: int
    stream_hash: str
    identity: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint is made of besides the state: the bare model, its optimizer, the tokenizer's files, the card."""

    model: Any
    optimizer: torch.optim.AdamW
    files: Mapping[str, bytes]
    card: Card


def checkpoints_dir(run: str) -> str:
    return f"runs/{run}/checkpoints"


def path_of(run: str, step: int) -> str:
    return f"{checkpoints_dir(run)}/step-{step}"


def save(store: Store, run: str, state: State, contents: Contents, world: World) -> str:
    """Write a checkpoint whole; gives its path under the root. All processes must call it."""
    path = path_of(run, state.step)
    weights = full_weights(contents.model, world)
    if world.is_first:
        # What stands there lacks its state.json (a crash), or the run would have gone on from it.
        _remove(store, path)
        with store.scratch() as folder:
            folder.mkdir()
            write_folder(
                folder, contents.model, weights, files=contents.files, card=contents.card, step=state.step, n_tokens=state.n_tokens
            )
            store.adopt_dir(folder, path)
    world.wait()
    with store.scratch() as folder, _quiet():
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        state_dict_saver.save(optimizer_tensors(contents.model, contents.optimizer), storage_writer=writer, no_dist=world.size == 1)
        for file in sorted(folder.iterdir()):
            store.adopt(file, f"{path}/optimizer/{file.name}")
    world.wait()
    if world.is_first:
        store.write_json(f"{path}/state.json", {"format": FORMAT, **dataclasses.asdict(state)})
    return path


def keep(store: Store, run: str, steps: Collection[int]) -> None:
    """Remove all complete checkpoints but those of some steps."""
    for step in complete_steps(store, run):
        if step not in steps:
            _remove(store, path_of(run, step))


def complete_steps(store: Store, run: str) -> list[int]:
    """List the steps that have a complete checkpoint, oldest first."""
    matches = [_NAME.fullmatch(name) for name in store.children(checkpoints_dir(run))]
    steps = sorted(int(match[1]) for match in matches if match)
    return [step for step in steps if store.exists(f"{path_of(run, step)}/state.json")]


def read_state(store: Store, run: str, step: int) -> State:
    """Read how far a checkpoint is. Raises ConfigError where another program's format is in it."""
    path = f"{path_of(run, step)}/state.json"
    table = store.read_json(path)
    if table.pop("format", None) != FORMAT:
        raise ConfigError(
            f"{path} has another format than {FORMAT}; go on with the gapless that wrote it, or start a new run with --out NAME"
        )
    return State(**table)


@contextlib.contextmanager
def opened(store: Store, run: str, step: int) -> Iterator[pathlib.Path]:
    """Lend a checkpoint as a folder on this machine; fetched from an object store for as long as it is used."""
    path = path_of(run, step)
    if store.is_local:
        yield store.local(path)
        return
    with store.scratch() as folder:
        for file in store.files(path):
            local = folder / file.removeprefix(f"{path}/")
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(store.read_bytes(file))
        yield folder


def restore(folder: pathlib.Path, *, model: torch.nn.Module, optimizer: torch.optim.AdamW, world: World) -> None:
    """Put back the optimizer's state, each process its part. All processes must call it."""
    with _quiet():
        reader = HuggingFaceStorageReader(str(folder / "optimizer"))
        state_dict_loader.load(optimizer_tensors(model, optimizer), storage_reader=reader, no_dist=world.size == 1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A process alone is no mistake, which torch warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _remove(store: Store, path: str) -> None:
    """Remove a checkpoint; state.json first, so that half of one is never taken for a whole one."""
    store.remove(f"{path}/state.json")
    store.remove(path)
