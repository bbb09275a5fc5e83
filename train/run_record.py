"""run.json, the record of a run: what it was begun as. Written once, first of all that a run writes; the name is taken from then on."""

import functools
import importlib.metadata
import platform
import re
from typing import Any

import torch

from curate.store import Store
from train.config import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PACKAGES = ("gapless", "torch", "transformers", "safetensors", "tokenizers", "numpy", "pyarrow")


def read_record(store: Store, name: str) -> dict[str, Any]:
    """Read run.json. Raises ConfigError where there is no run of that name."""
    path = f"runs/{name}/run.json"
    if not NAME.fullmatch(name) or not store.exists(path):
        known = ", ".join(run for run in store.children("runs") if store.exists(f"runs/{run}/run.json")) or "none yet"
        raise ConfigError(f"run {name!r} not found under {store.url()}; known: {known}. Start one with: train run --manifest vN")
    try:
        return dict(store.read_json(path))
    except ValueError:
        raise ConfigError(f"{path} is damaged; remove runs/{name} and start again") from None


def is_finished(store: Store, name: str) -> bool:
    """Say whether a run has come to its end; result.json is the last thing that it writes."""
    return store.exists(f"runs/{name}/result.json")


def software() -> dict[str, str]:
    """Name the versions, and the number of threads, that the last bits of a loss depend on."""
    found = {"python": platform.python_version(), "n_threads": str(torch.get_num_threads())}
    return found | {package: _version(package) for package in _PACKAGES}


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
