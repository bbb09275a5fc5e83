"""What one run is: its name, its record in runs/RUN/run.json, and whether it may start or go on.

Everything that can be wrong with what a person asked for is found here, before the weights are read and before anything
is written under runs/. A run is the run of one identity (manifest fingerprint, model, tokenizer, config); a checkpoint of another one is
refused, since going on from it would be neither run. Where the model has another tokenizer than the manifest, its
documents are counted under it here, because the shares that come out decide whether the run may start.
"""

import dataclasses
import functools
import importlib.metadata
import json
import pathlib
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from curate import manifest as manifests
from curate.manifest import Manifest
from curate.store import Store
from train import checkpoint
from train.checkpoint import State
from train.config import FREE_ON_RESUME, TINY, ConfigError, TrainConfig, defaults, read_config, to_table
from train.model import Base, find_base, find_device, find_dtype
from train.plan import Plan, epoch_tokens, list_epochs, make_plan
from train.recount import Recount, check_shares, recount, shares

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PACKAGES = ("gapless", "torch", "transformers", "safetensors", "tokenizers", "numpy", "pyarrow")


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What a person asks for. On `resume`, what is left out is taken from the run's record, where there is one."""

    manifest: str
    model: str | None = None
    config_file: str | None = None
    settings: Sequence[str] = ()
    out: str | None = None
    resume: bool = False
    accept: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """A run that may start or go on. `state` is where it goes on from, None for the beginning; `recount` is None under the
    manifest's own tokenizer."""

    store: Store
    name: str
    manifest: Manifest
    base: Base
    config: TrainConfig
    plan: Plan
    recount: Recount | None
    device: torch.device
    dtype: torch.dtype
    state: State | None
    warnings: tuple[str, ...]

    @property
    def n_steps(self) -> int:
        return self.plan.n_steps if self.config.max_steps is None else min(self.plan.n_steps, self.config.max_steps)

    @property
    def identity(self) -> dict[str, Any]:
        return identity_of(self.manifest, self.base, self.config)

    @property
    def folder(self) -> str:
        return f"runs/{self.name}"


def prepare(store: Store, request: Request) -> Run:
    """Check a request and say what it comes to. Writes nothing under runs/. Raises ConfigError or ManifestError in one line."""
    manifest = manifests.load(store, request.manifest)
    name = _name(request)
    record = _record(store, name, resume=request.resume)
    model = request.model or record.get("model", TINY)
    if manifest.is_sample and model != TINY and "sample" not in request.accept:
        raise ConfigError(
            f"{manifest.version} is built from the sample corpus, which teaches a real model nothing; train --model tiny on it,"
            " build a manifest from your own text, or add --accept sample"
        )
    config = read_config(base=record.get("config", defaults(model)), file=request.config_file, settings=request.settings)
    device = find_device(config.device)
    base = find_base(store, manifest, model)
    identity = identity_of(manifest, base, config)
    state = None
    if record:
        # A record from before models could have a tokenizer of their own names none.
        own = {"tokenizer": _named(manifest.tokenizer)}
        _refuse_difference({**own, **record}, identity, f"run {name!r}")
        state = _newest(store, name, own, identity)
    counted = _recount(store, manifest, base, config) if base.tokenizer["sha256"] != manifest.tokenizer["sha256"] else None
    if counted is None:
        plan = make_plan(manifest, config, n_tokens=epoch_tokens(manifest, config))
    else:
        plan = make_plan(manifest, config, n_tokens=counted.epoch_tokens, tokenizer=base.tokenizer["sha256"])
    if plan.n_steps == 0:
        raise ConfigError(
            f"{manifest.version} draws no tokens in any epoch, so there is nothing to train on; build it with a larger budget"
        )
    changed = [f"{key} {old} then, {software()[key]} now" for key, old in record.get("software", {}).items() if software().get(key) != old]
    warnings = [
        *base.warnings,
        *([f"the software has changed ({'; '.join(changed)}), so losses may differ in their last bits"] if changed else []),
    ]
    return Run(store, name, manifest, base, config, plan, counted, device, find_dtype(config.dtype, device), state, tuple(warnings))


def claim(run: Run, *, n_parameters: int) -> None:
    """Write run.json for a new run; the one thing that makes its name taken."""
    record = {
        "name": run.name,
        "manifest": run.manifest.version,
        "sample": run.manifest.is_sample,
        **run.identity,
        **({"shares": shares(run.recount.parts)} if run.recount else {}),
        "plan": run.plan.key,
        "n_steps": run.n_steps,
        "n_parameters": n_parameters,
        "evalset": run.manifest.info["evalset"]["digest"],
        "software": software(),
    }
    if not run.store.create(f"{run.folder}/run.json", f"{json.dumps(record, indent=2, ensure_ascii=False)}\n".encode()):
        raise ConfigError(_taken(run.name))


def sample_warning(version: str) -> str:
    return f"SAMPLE CORPUS: {version} is made from templates, to try the commands on; nothing learnt from it means anything"


def is_finished(store: Store, name: str) -> bool:
    """Say whether a run has come to its end; result.json is the last thing that it writes."""
    return store.exists(f"runs/{name}/result.json")


def identity_of(manifest: Manifest, base: Base, config: TrainConfig) -> dict[str, Any]:
    tokenizer = _named(base.tokenizer)
    return {"fingerprint": manifest.fingerprint, "model": base.name, "tokenizer": tokenizer, "config": to_table(config)}


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


def read_record(store: Store, name: str) -> dict[str, Any]:
    """Read run.json. Raises ConfigError where there is no run of that name."""
    path = f"runs/{name}/run.json"
    if not _NAME.fullmatch(name) or not store.exists(path):
        known = ", ".join(run for run in store.children("runs") if store.exists(f"runs/{run}/run.json")) or "none yet"
        raise ConfigError(f"run {name!r} not found under {store.url()}; known: {known}. Start one with: train run --manifest vN")
    try:
        return dict(store.read_json(path))
    except ValueError:
        raise ConfigError(f"{path} is damaged; remove runs/{name} and start again") from None


def _named(tokenizer: Mapping[str, Any]) -> dict[str, str]:
    return {key: tokenizer[key] for key in ("name", "sha256")}


def _recount(store: Store, manifest: Manifest, base: Base, config: TrainConfig) -> Recount:
    epochs = list_epochs(manifest, config)
    counted = recount(store, manifest, base.tokenizer, base.files["tokenizer.json"], epochs=epochs)
    check_shares(counted.parts, version=manifest.version, model=base.name)
    return counted


def _name(request: Request) -> str:
    name = request.out or f"{request.manifest}-{pathlib.PurePath(request.model or TINY).name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"run name {name!r} is not allowed; give one of letters, digits, '.', '_' and '-' with --out NAME")
    return name


def _record(store: Store, name: str, *, resume: bool) -> dict[str, Any]:
    if not store.exists(f"runs/{name}/run.json"):
        return {}
    if not resume:
        raise ConfigError(_taken(name))
    return read_record(store, name)


def _taken(name: str) -> str:
    return f"run {name!r} exists; add --resume to go on with it, or --out NAME to start another one"


def _newest(store: Store, name: str, own: Mapping[str, Any], identity: Mapping[str, Any]) -> State | None:
    steps = checkpoint.complete_steps(store, name)
    if not steps:
        return None
    state = checkpoint.read_state(store, name, steps[-1])
    _refuse_difference({**own, **state.identity}, identity, f"checkpoint step-{state.step} of run {name!r}")
    return state


def _refuse_difference(old: Mapping[str, Any], new: Mapping[str, Any], what: str) -> None:
    pairs = [(key, old[key], new[key]) for key in ("fingerprint", "model", "tokenizer")]
    pairs += [(key, old["config"].get(key), value) for key, value in new["config"].items() if key not in FREE_ON_RESUME]
    differs = [f"{key} was {before!r} and is now {after!r}" for key, before, after in pairs if before != after]
    if differs:
        raise ConfigError(
            f"{what} was begun otherwise: {'; '.join(differs)}. Resume it as it was begun, or start another run with --out NAME"
        )
