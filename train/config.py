"""What a person sets about a run: TOML and --set, read into one frozen dataclass and checked before anything is read.

The table is flat, so a key has one spelling. Defaults come in two columns, one for real models and one for `--model
tiny`, because a learning rate that suits a billion parameters teaches a million nothing. Cost: a default depends on
--model; docs/training.md shows both columns.
"""

import dataclasses
import difflib
import math
import pathlib
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from train.schedule import ANNEALED, COOLED, SCHEDULES, Phases

TINY = "tiny"
DTYPES = ("auto", "float32", "bfloat16", "float64")
PACKINGS = ("concat", "best_fit")
ATTENTIONS = ("documents", "causal")
KERNELS = ("auto", "sdpa", "flex", "varlen")
PARALLELS = ("ddp", "fsdp")
PHASES = ("warmup", "cooldown", "anneal")
UNITS = ("ratio", "steps", "tokens")
_SUFFIXES = {"k": 10**3, "M": 10**6, "B": 10**9}


class ConfigError(ValueError):
    """The config, or another thing that a person gave to `train`, is wrong: that person acts."""


@dataclasses.dataclass(frozen=True, slots=True)
class TrainConfig:
    """The settings of a run; docs/training.md has each with its unit and default.

    Defaults follow the paper (arXiv 2406.14833, section 5.2 and appendix A) for a model of some 3 B parameters: peak
    3e-5, a tenth of the steps as warm-up, cosine to a tenth of the peak.
    """

    seq_len: int = 2048
    global_batch: int = 256
    micro_batch: int = 8
    schedule: str = "cosine"
    lr: float = 3e-5
    base_lr: float | None = None
    warmup_ratio: float | None = 0.1
    warmup_steps: int | None = None
    warmup_tokens: int | None = None
    cooldown_ratio: float | None = 0.2
    cooldown_steps: int | None = None
    cooldown_tokens: int | None = None
    anneal_ratio: float | None = 0.2
    anneal_steps: int | None = None
    anneal_tokens: int | None = None
    constant_lr_ratio: float = 0.5
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    epochs: int | None = None
    max_steps: int | None = None
    seed: int = 0
    dtype: str = "auto"
    compile: bool = False
    attention: str = "documents"
    attention_kernel: str = "auto"
    loss_chunk: int = 1024
    activation_checkpointing: int = 0
    parallel: str = "ddp"
    packing: str = "concat"
    n_evals: int = 8
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    keep_best: str | None = None
    log_documents: bool = False
    tensorboard: bool = False
    peak_tflops: float | None = None
    cost_per_hour: float | None = None
    device: str = "auto"

    def phases(self, n_steps: int) -> Phases:
        """Give the phases of the schedule over a run. Raises ConfigError where they are longer than the run."""
        warmup, cooldown, anneal = (self._length(phase, n_steps) for phase in PHASES)
        parts = [("warm-up", warmup)]
        parts += [("cooldown", cooldown)] if self.schedule in COOLED else []
        parts += [("annealing", anneal)] if self.schedule in ANNEALED else []
        if len(parts) > 1 and sum(n for _, n in parts) > n_steps:
            shown = [f"{name} {n}" for name, n in parts]
            raise ConfigError(
                f"{', '.join(shown[:-1])} and {shown[-1]} are more than the {n_steps} steps of the run; shorten one of them"
                f" ({', '.join(f'{phase}_steps' for phase in PHASES)})"
            )
        return Phases(
            n_steps=n_steps,
            n_warmup_steps=warmup,
            n_cooldown_steps=cooldown,
            n_anneal_steps=anneal,
            lr=self.lr,
            min_lr=self.lr * self.min_lr_ratio,
            constant_lr=self.lr * self.constant_lr_ratio,
            base_lr=self.base_lr or 0.0,
        )

    def _length(self, phase: str, n_steps: int) -> int:
        """Give a phase in steps. A warm-up that was asked for is never none, and ratios of up to 1 in sum always fit."""
        ratio, steps, tokens = (getattr(self, f"{phase}_{unit}") for unit in UNITS)
        if steps is not None:
            return int(steps)
        if tokens is not None:
            return -(-int(tokens) // (self.seq_len * self.global_batch))
        rounded = math.ceil if phase == "warmup" else math.floor
        return rounded((ratio or 0.0) * n_steps)


# What a model of a million parameters on a CPU wants instead: batches of 4,096 tokens, and the peak rate of our pilot (docs/training.md).
TINY_DEFAULTS: Mapping[str, Any] = {"seq_len": 256, "global_batch": 16, "lr": 4e-3, "n_evals": 3, "checkpoint_every": 100}

# What may differ on --resume: it changes what is kept and how fast it goes, and what is computed by no more than rounding.
FREE_ON_RESUME = (
    "micro_batch",
    "compile",
    "attention_kernel",
    "loss_chunk",
    "activation_checkpointing",
    "parallel",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "log_documents",
    "tensorboard",
    "peak_tflops",
    "cost_per_hour",
    "device",
)


def read_config(*, base: Mapping[str, Any], file: str | None = None, settings: Iterable[str] = ()) -> TrainConfig:
    """Read, lay over and check: the base, then the TOML file, then KEY=VALUE settings.

    `base` is the table of defaults for the model, or that of the run to go on with. Values are TOML; whole numbers also
    as 500k, 8M, 1B. Raises ConfigError in one line.
    """
    given = dict(_read_file(file)) if file is not None else {}
    for text in settings:
        key, found, value = text.partition("=")
        if not found:
            raise ConfigError(f"--set {text!r} is not KEY=VALUE; write for example --set lr=1e-4")
        given[key.strip()] = _toml_value(value.strip())
    out: dict[str, None] = {}
    for phase in PHASES:
        # Three keys for one thing: the one that is given puts the others out.
        ways = [f"{phase}_{unit}" for unit in UNITS]
        chosen = [way for way in ways if way in given]
        if len(chosen) > 1:
            raise ConfigError(f"{' and '.join(chosen)} are both given; give one of them")
        out |= dict.fromkeys(ways) if chosen else {}
    return config_from({**base, **out, **given})


def defaults(model: str) -> dict[str, Any]:
    """Give the defaults for a model, as a table."""
    return {**to_table(TrainConfig()), **(TINY_DEFAULTS if model == TINY else {})}


def config_from(table: Mapping[str, Any]) -> TrainConfig:
    """Build a config from a flat table of plain values, such as the one that a run has stored, and check it."""
    hints = typing.get_type_hints(TrainConfig)
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, list(hints), n=1, cutoff=0.0)[0]
            raise ConfigError(f"config key {key!r} is unknown; did you mean {near!r}? Known: {', '.join(hints)}")
    config = TrainConfig(**{key: _typed(value, hints[key], key) for key, value in table.items()})
    _check(config)
    return config


def to_table(config: TrainConfig) -> dict[str, Any]:
    """Give the plain values of a config, as JSON has them; `config_from` reads them back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()}


def _read_file(file: str) -> Mapping[str, Any]:
    path = pathlib.Path(file)
    if not path.is_file():
        raise ConfigError(f"config file {file!r} not found; give the path of a TOML file, or leave --config out for the defaults")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {file!r} is not valid TOML: {error}; correct that line") from None


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _typed(value: Any, hint: Any, key: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if int in options and isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)([kMB])", value)):
        value = round(float(match[1]) * _SUFFIXES[match[2]])
    if value is None and types.NoneType in options:
        return None
    for option in options:
        if option is float and type(value) in (int, float):
            return float(value)
        if option in (int, str, bool) and type(value) is option:
            return value
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple) and [type(item) for item in value] == [float, float]:
            return tuple(value)
    names = " or ".join(
        "two floats, as in [0.9, 0.95]" if typing.get_origin(option) else option.__name__
        for option in options
        if option is not types.NoneType
    )
    raise ConfigError(f"{key} is {value!r}; it takes a value of type {names}")


def _check(config: TrainConfig) -> None:
    for key, least in _LEAST.items():
        value = getattr(config, key)
        if value is not None and value < least:
            raise ConfigError(f"{key} is {value}; it takes a whole number of at least {least}")
    for key, allowed in _ALLOWED.items():
        if getattr(config, key) not in allowed:
            raise ConfigError(f"{key} is {getattr(config, key)!r}; allowed: {', '.join(allowed)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise ConfigError(f"device is {config.device!r}; allowed: auto, cpu, cuda, cuda:N")
    for key in (*(f"{phase}_ratio" for phase in PHASES), "min_lr_ratio", "constant_lr_ratio"):
        value = getattr(config, key)
        if value is not None and not 0.0 <= value <= 1.0:
            raise ConfigError(f"{key} is {value:g}; it takes a ratio from 0 to 1")
    if not all(0.0 <= beta < 1.0 for beta in config.betas):
        raise ConfigError(f"betas is {list(config.betas)}; each is at least 0 and below 1")
    for key in ("lr", "clip_norm", "peak_tflops"):
        value = getattr(config, key)
        if value is not None and not 0.0 < value < math.inf:
            raise ConfigError(f"{key} is {value:g}; it takes a number above 0")
    for key in ("weight_decay", "cost_per_hour"):
        value = getattr(config, key)
        if value is not None and not 0.0 <= value < math.inf:
            raise ConfigError(f"{key} is {value:g}; it takes a number of at least 0")
    if config.global_batch % config.micro_batch:
        valid = ", ".join(str(n) for n in range(1, config.global_batch + 1) if config.global_batch % n == 0)
        raise ConfigError(f"micro_batch {config.micro_batch} does not divide global_batch {config.global_batch}; valid values: {valid}")
    _check_schedule(config)


def _check_schedule(config: TrainConfig) -> None:
    """Refuse what the schedule lacks, and what it would not read."""
    schedule = config.schedule
    if schedule == "rewarm" and config.base_lr is None:
        raise ConfigError(
            "schedule 'rewarm' needs base_lr, the rate at which the base's own training ended, which has no default;"
            " give it with --set base_lr=RATE"
        )
    if config.base_lr is not None and not 0.0 <= config.base_lr <= config.lr:
        raise ConfigError(f"base_lr is {config.base_lr:g}; it takes a number from 0 to lr, {config.lr:g}")
    for key, schedules in _READERS.items():
        if getattr(config, key) is not None and schedule not in schedules:
            raise ConfigError(f"{key} is given, and schedule {schedule!r} does not read it; leave it out, or take {' or '.join(schedules)}")
    if schedule == "infinite" and config.constant_lr_ratio < config.min_lr_ratio:
        raise ConfigError(
            f"constant_lr_ratio {config.constant_lr_ratio:g} is below min_lr_ratio {config.min_lr_ratio:g}, to which the rate falls"
            " from it; raise it"
        )


_LEAST = {
    "seq_len": 2,
    "global_batch": 1,
    "micro_batch": 1,
    "epochs": 1,
    "max_steps": 1,
    "seed": 0,
    "loss_chunk": 1,
    "activation_checkpointing": 0,
    "n_evals": 0,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
    **{f"{phase}_{unit}": 0 for phase in PHASES for unit in ("steps", "tokens")},
}
# Which schedules read a key; ratios have defaults and are not among them.
_READERS: Mapping[str, tuple[str, ...]] = {
    "base_lr": ("rewarm",),
    "cooldown_steps": COOLED,
    "cooldown_tokens": COOLED,
    "anneal_steps": ANNEALED,
    "anneal_tokens": ANNEALED,
}
_ALLOWED: Mapping[str, Iterable[str]] = {
    "dtype": DTYPES,
    "packing": PACKINGS,
    "schedule": tuple(SCHEDULES),
    "attention": ATTENTIONS,
    "attention_kernel": KERNELS,
    "parallel": PARALLELS,
}
