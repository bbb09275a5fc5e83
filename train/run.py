"""What one run is: its name, its record in runs/RUN/run.json, and whether it may start or go on.

Everything that can be wrong with what a person asked for is found here, before the weights are read and before anything
is written under runs/. A run is the run of one identity (manifest fingerprint, model, tokenizer, config); a checkpoint of another one is
refused, since going on from it would be neither run. Where the model has another tokenizer than the manifest, its
documents are counted under it here, because the shares that come out decide whether the run may start.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from curate import manifest as manifests
from curate.manifest import Manifest
from curate.store import Store
from train import checkpoint
from train.attention import find_kernel
from train.checkpoint import State
from train.config import FREE_ON_RESUME, TINY, ConfigError, TrainConfig, defaults, read_config, to_table
from train.lineage import Origin, check_unseen, continued_base, find_origin, origin_of
from train.model import Base, find_base, find_device, find_dtype
from train.parallel import World
from train.plan import Plan, epoch_tokens, find_plan, list_epochs
from train.records import check_board
from train.recount import Recount, check_shares, recount, shares
from train.run_record import NAME, read_record, software
from train.stream import find_draw, rank_slice


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What a person asks for. On `resume`, what is left out is taken from the run's record, where there is one; `continued` names the run
    whose checkpoint to go on from."""

    manifest: str
    model: str | None = None
    config_file: str | None = None
    settings: Sequence[str] = ()
    out: str | None = None
    resume: bool = False
    accept: Sequence[str] = ()
    continued: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """A run that may start or go on. `state` is where it goes on from, None for the beginning; `origin` is where another run has brought
    its model, None for a model of its own; `recount` is None under the manifest's own tokenizer."""

    store: Store
    name: str
    manifest: Manifest
    base: Base
    config: TrainConfig
    plan: Plan
    recount: Recount | None
    device: torch.device
    dtype: torch.dtype
    kernel: str
    world: World
    origin: Origin | None
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


def prepare(store: Store, request: Request, world: World | None = None) -> Run:
    """Check a request and say what it comes to. Writes nothing under runs/. Raises ConfigError or ManifestError in one line."""
    world = world or World()
    manifest = manifests.load(store, request.manifest)
    name = _name(request)
    record = _record(store, name, resume=request.resume)
    origin = _origin(store, manifest, request, record)
    model = request.model or record.get("model", TINY)
    _refuse_sample(manifest, origin.model if origin else model, request.accept)
    config = _config(store, request, record, origin, model)
    device = find_device(config.device, world.local_rank, is_alone=world.size == 1)
    kernel = find_kernel(config.attention_kernel, config.attention, device)
    rank_slice(config.global_batch, rank=world.rank, world=world.size, micro_batch=config.micro_batch)
    base = find_base(store, manifest, model) if origin is None else continued_base(store, manifest, origin)
    identity = identity_of(manifest, base, config)
    state = None
    if record:
        # A record from before models could have a tokenizer of their own names none.
        own = {"tokenizer": _named(manifest.tokenizer)}
        _refuse_difference({**own, **record}, identity, f"run {name!r}")
        state = _newest(store, name, own, identity)
    counted = _recount(store, manifest, base, config) if base.tokenizer["sha256"] != manifest.tokenizer["sha256"] else None
    plan = _plan(store, manifest, base, config, counted)
    if record and record["plan"] != plan.key:
        raise ConfigError(
            f"run {name!r} has the plan {record['plan'][:16]} and this version of gapless makes {plan.key[:16]} of its config,"
            " another order of the tokens; go on with the gapless that began it, or start another run with --out NAME"
        )
    changed = [f"{key} {old} then, {software()[key]} now" for key, old in record.get("software", {}).items() if software().get(key) != old]
    warnings = [
        *base.warnings,
        *([f"the software has changed ({'; '.join(changed)}), so losses may differ in their last bits"] if changed else []),
    ]
    # What `auto` came to stays for the whole run, on whatever device it goes on.
    dtype = find_dtype(record.get("dtype", config.dtype), device)
    run = Run(store, name, manifest, base, config, plan, counted, device, dtype, kernel, world, origin, state, tuple(warnings))
    config.phases(run.n_steps)
    return run


def claim(run: Run, *, n_parameters: int) -> None:
    """Write run.json for a new run; the one thing that makes its name taken."""
    record = {
        "name": run.name,
        "manifest": run.manifest.version,
        "sample": run.manifest.is_sample,
        **run.identity,
        **({"shares": shares(run.recount.parts)} if run.recount else {}),
        **({"continued": dataclasses.asdict(run.origin)} if run.origin else {}),
        "plan": run.plan.key,
        "n_steps": run.n_steps,
        "dtype": str(run.dtype).removeprefix("torch."),
        "n_parameters": n_parameters,
        "evalset": run.manifest.info["evalset"]["digest"],
        "software": software(),
    }
    if not run.store.create(f"{run.folder}/run.json", f"{json.dumps(record, indent=2, ensure_ascii=False)}\n".encode()):
        raise ConfigError(_taken(run.name))


def sample_warning(version: str) -> str:
    return f"SAMPLE CORPUS: {version} is made from templates, to try the commands on; nothing learnt from it means anything"


def identity_of(manifest: Manifest, base: Base, config: TrainConfig) -> dict[str, Any]:
    tokenizer = _named(base.tokenizer)
    return {"fingerprint": manifest.fingerprint, "model": base.name, "tokenizer": tokenizer, "config": to_table(config)}


def _named(tokenizer: Mapping[str, Any]) -> dict[str, str]:
    return {key: tokenizer[key] for key in ("name", "sha256")}


def _origin(store: Store, manifest: Manifest, request: Request, record: Mapping[str, Any]) -> Origin | None:
    """Find the checkpoint of another run to begin with, that of the record where there is one; refuses one that makes evaluation void."""
    if request.continued is None:
        return origin_of(record)
    if request.model is not None:
        raise ConfigError("--continue and --model are both given; a run begins with one model, so leave one of them out")
    origin = find_origin(store, request.continued)
    if record and origin_of(record) != origin:
        raise ConfigError(
            f"run {request.out!r} was not begun from {origin.path}; leave --continue out, or start another run with --out NAME"
        )
    check_unseen(store, manifest, origin)
    return origin


def _refuse_sample(manifest: Manifest, model: str, accept: Sequence[str]) -> None:
    if manifest.is_sample and model != TINY and "sample" not in accept:
        raise ConfigError(
            f"{manifest.version} is built from the sample corpus, which teaches a real model nothing; train --model tiny on it,"
            " build a manifest from your own text, or add --accept sample"
        )


def _config(store: Store, request: Request, record: Mapping[str, Any], origin: Origin | None, model: str) -> TrainConfig:
    """Read the config over that of the run itself, or of the run that it goes on from, or the defaults."""
    base = record.get("config") or (read_record(store, origin.run)["config"] if origin else defaults(model))
    config = read_config(base=base, file=request.config_file, settings=request.settings)
    if config.tensorboard:
        check_board(store)
    return config


def _plan(store: Store, manifest: Manifest, base: Base, config: TrainConfig, counted: Recount | None) -> Plan:
    draw = find_draw(store, manifest, counted.n_tokens if counted else None)
    n_tokens = counted.epoch_tokens if counted else epoch_tokens(manifest, config)
    plan = find_plan(store, manifest, config, n_tokens=n_tokens, draw=draw, tokenizer=base.tokenizer["sha256"] if counted else "")
    if plan.n_steps == 0:
        raise ConfigError(
            f"{manifest.version} draws no tokens in any epoch, so there is nothing to train on; build it with a larger budget"
        )
    return plan


def _recount(store: Store, manifest: Manifest, base: Base, config: TrainConfig) -> Recount:
    epochs = list_epochs(manifest, config)
    counted = recount(store, manifest, base.tokenizer, base.files["tokenizer.json"], epochs=epochs)
    check_shares(counted.parts, version=manifest.version, model=base.name)
    return counted


def _name(request: Request) -> str:
    begun_with = request.continued.partition("/")[0] if request.continued else pathlib.PurePath(request.model or TINY).name
    name = request.out or f"{request.manifest}-{begun_with}"
    if not NAME.fullmatch(name):
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
            f"{what} was begun otherwise: {'; '.join(differs)}. Resume it as it was begun, start another run with --out NAME, or have one"
            " take its weights along with --continue RUN --out NAME"
        )
