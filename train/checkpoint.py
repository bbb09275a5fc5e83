"""Checkpoints: a folder that transformers opens, beside what resuming needs besides the weights.

    runs/RUN/checkpoints/step-N/   model.safetensors, config.json, tokenizer.json, ...   the Hugging Face part
                                   optimizer.safetensors, rng.safetensors                to go on exactly
                                   state.json                                            written last: without it there is no checkpoint

No pickle anywhere. The optimizer's state makes a checkpoint three times as large as the model; the last k are kept.
"""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import safetensors.torch
import torch

from curate.store import Store
from train.config import ConfigError
from train.optim import load_optimizer_tensors, optimizer_tensors

FORMAT = 1
_NAME = re.compile(r"step-(\d+)")


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """How far a run is: steps done, tokens read, running hash of the token stream; and what it is a run of."""

    step: int
    n_tokens: int
    stream_hash: str
    identity: Mapping[str, Any]


def checkpoints_dir(run: str) -> str:
    return f"runs/{run}/checkpoints"


def save(store: Store, run: str, state: State, *, model: Any, optimizer: torch.optim.AdamW, files: Mapping[str, bytes], keep: int) -> str:
    """Write a checkpoint whole, then remove all but the last `keep`; gives its path under the root."""
    path = f"{checkpoints_dir(run)}/step-{state.step}"
    device = next(model.parameters()).device
    rng = {"cpu": torch.get_rng_state(), **({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})}
    with store.scratch() as folder:
        model.save_pretrained(folder)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        safetensors.torch.save_file(_plain(optimizer_tensors(model, optimizer)), folder / "optimizer.safetensors")
        safetensors.torch.save_file(_plain(rng), folder / "rng.safetensors")
        # What stands there lacks its state.json (a crash), or the run would have gone on from it.
        _remove(store, path)
        store.adopt_dir(folder, path)
    store.write_json(f"{path}/state.json", {"format": FORMAT, **dataclasses.asdict(state)})
    for step in complete_steps(store, run)[:-keep]:
        _remove(store, f"{checkpoints_dir(run)}/step-{step}")
    return path


def complete_steps(store: Store, run: str) -> list[int]:
    """List the steps that have a complete checkpoint, oldest first."""
    matches = [_NAME.fullmatch(name) for name in store.children(checkpoints_dir(run))]
    steps = sorted(int(match[1]) for match in matches if match)
    return [step for step in steps if store.exists(f"{checkpoints_dir(run)}/step-{step}/state.json")]


def read_state(store: Store, run: str, step: int) -> State:
    """Read how far a checkpoint is. Raises ConfigError where another program's format is in it."""
    path = f"{checkpoints_dir(run)}/step-{step}/state.json"
    table = store.read_json(path)
    if table.pop("format", None) != FORMAT:
        raise ConfigError(
            f"{path} has another format than {FORMAT}; go on with the gapless that wrote it, or start a new run with --out NAME"
        )
    return State(**table)


@contextlib.contextmanager
def opened(store: Store, run: str, step: int) -> Iterator[pathlib.Path]:
    """Lend a checkpoint as a folder on this machine; fetched from an object store for as long as it is used."""
    path = f"{checkpoints_dir(run)}/step-{step}"
    if store.is_local:
        yield store.local(path)
        return
    with store.scratch() as folder:
        folder.mkdir()
        for file in store.files(path):
            (folder / file.rsplit("/", 1)[-1]).write_bytes(store.read_bytes(file))
        yield folder


def restore(folder: pathlib.Path, *, model: torch.nn.Module, optimizer: torch.optim.AdamW) -> None:
    """Put back the optimizer's state and the random states; last, since reading weights may draw random numbers."""
    load_optimizer_tensors(model, optimizer, safetensors.torch.load_file(folder / "optimizer.safetensors"))
    rng = safetensors.torch.load_file(folder / "rng.safetensors")
    torch.set_rng_state(rng["cpu"])
    if "cuda" in rng and (device := next(model.parameters()).device).type == "cuda":
        torch.cuda.set_rng_state(rng["cuda"], device)


def _plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _remove(store: Store, path: str) -> None:
    """Remove a checkpoint; state.json first, so that half of one is never taken for a whole one."""
    store.remove(f"{path}/state.json")
    store.remove(path)
