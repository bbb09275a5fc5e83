"""Trainers that take turns at one model: ours, a plain PyTorch loop, transformers.Trainer; and packed batches for all of them."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional

from train.attention import arguments, find_kernel, use_kernel
from train.config import TrainConfig
from train.parallel import World
from train.step import Setting, make_learner, train_step

PEERS_DIR = pathlib.Path(__file__).resolve().parents[2] / ".venv-peers-train"
_ACCELERATE = ("accelerate==1.15.0", "psutil==7.2.2")
_LR = 1e-4


@dataclasses.dataclass(frozen=True)
class Options:
    """How to train. `documents`: packed documents do not see each other; `chunked`: the loss of ours."""

    dtype: torch.dtype = torch.float32
    compile: bool = False
    fused: bool = True
    chunked: bool = True
    documents: bool = True
    kernel: str = "auto"


@dataclasses.dataclass(frozen=True)
class Work:
    """What to train: the shape of a Llama, batches in sequences, and the device."""

    shape: dict[str, int]
    seq_len: int
    global_batch: int
    micro_batch: int
    device: torch.device

    def model(self) -> Any:
        """The same weights for all contestants."""
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**self.shape, max_position_embeddings=self.seq_len, tie_word_embeddings=True)
        return transformers.LlamaForCausalLM(config)

    @property
    def n_tokens(self) -> int:
        return self.seq_len * self.global_batch


@dataclasses.dataclass(frozen=True)
class Packed:
    """A global batch of documents end to end, as train/stream.py has one (what trainers read of it)."""

    inputs_BT: torch.Tensor
    targets_BT: torch.Tensor
    positions_BT: torch.Tensor
    components_BT: torch.Tensor
    n_targets_global: int

    def micro(self, n: int) -> Iterator[Packed]:
        arrays = (self.inputs_BT, self.targets_BT, self.positions_BT, self.components_BT)
        return (Packed(*(array[i : i + n] for array in arrays), self.n_targets_global) for i in range(0, len(self.inputs_BT), n))


def packed_batches(work: Work, n: int) -> list[Packed]:
    """Random tokens in documents whose lengths are log-normal, as those of the web: median a fifth of a sequence."""
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(n):
        total = work.global_batch * work.seq_len
        ids = rng.integers(0, work.shape["vocab_size"], total + 1)
        starts = np.cumsum(np.maximum(rng.lognormal(np.log(work.seq_len / 5), 1.0, total // 8 + 8).astype(np.int64), 4))
        opens = np.zeros(total, dtype=bool)
        opens[starts[starts < total]] = True
        opens[:: work.seq_len] = True
        at = np.arange(total)
        positions = at - np.maximum.accumulate(np.where(opens, at, 0))
        shape = (work.global_batch, work.seq_len)
        rows = [torch.from_numpy(part.astype(np.int32).reshape(shape)) for part in (ids[:-1], ids[1:], positions)]
        batches.append(Packed(*rows, torch.zeros(shape, dtype=torch.int8), total))
    return batches


class Ours:
    """The trainer of this project, without its data path (bench/stream.py has that)."""

    def __init__(self, work: Work, options: Options) -> None:
        attention = "documents" if options.documents else "causal"
        config = TrainConfig(
            seq_len=work.seq_len, global_batch=work.global_batch, micro_batch=work.micro_batch, schedule="linear", lr=_LR, min_lr_ratio=1.0,
            warmup_ratio=None, warmup_steps=0, compile=options.compile, attention=attention,
        )  # fmt: skip
        kernel = find_kernel(options.kernel, attention, work.device)
        setting = Setting(work.device, options.dtype, kernel, World())
        self._learner = make_learner(work.model(), config, config.phases(10**9), components=("all",), setting=setting)
        self._learner.loss.train()
        self._device = work.device

    def run(self, batches: Sequence[Packed], n_warm: int) -> tuple[float, list[float]]:
        """Train on batches; gives the seconds of those after the first `n_warm`, and all losses."""
        losses, begun = [], 0.0
        for step, batch in enumerate(batches):
            begun = now(self._device) if step == n_warm else begun
            losses.append(train_step(self._learner, batch, step).loss)  # type: ignore[arg-type] # all that it reads is there
        return now(self._device) - begun, losses


class Plain:
    """The loop that one writes oneself, with the model's own logits and torch's cross entropy."""

    def __init__(self, work: Work, options: Options) -> None:
        self._work, self._options = work, options
        self._model = work.model().to(work.device).train()
        kernel = find_kernel(options.kernel, "documents" if options.documents else "causal", work.device)
        use_kernel(self._model, kernel)
        self._arguments = arguments("documents" if options.documents else "causal", kernel)
        params = list(self._model.parameters())
        groups = [{"params": [p for p in params if p.ndim >= 2], "weight_decay": 0.1}]
        groups.append({"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0})
        self._optimizer = torch.optim.AdamW(groups, lr=_LR, betas=(0.9, 0.95), fused=options.fused)
        self._forward = torch.compile(self._model, dynamic=False) if options.compile else self._model

    def run(self, batches: Sequence[Packed], n_warm: int) -> tuple[float, list[float]]:
        """As of `Ours`."""
        device, losses, begun = self._work.device, [], 0.0
        for step, batch in enumerate(batches):
            begun = now(device) if step == n_warm else begun
            self._optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=device)
            for part in batch.micro(self._work.micro_batch):
                inputs, targets, positions = (x.to(device).long() for x in (part.inputs_BT, part.targets_BT, part.positions_BT))
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._options.dtype == torch.bfloat16):
                    logits = self._forward(input_ids=inputs, use_cache=False, **self._arguments(positions)).logits
                loss = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum") / batch.n_targets_global
                loss.backward()
                total += loss.detach()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()
            losses.append(float(total))
        return now(device) - begun, losses


class _Clock(transformers.TrainerCallback):
    def __init__(self, n_warm: int, device: torch.device) -> None:
        self._n_warm, self._device = n_warm, device
        self.begun = self.ended = 0.0
        self.losses: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._n_warm:
            self.begun = now(self._device)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == state.max_steps:
            self.ended = now(self._device)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        self.losses += [logs["loss"]] if "loss" in logs else []


class Trainer:
    """transformers.Trainer, with our options or (None) with its defaults: float32, not compiled, documents see each other."""

    def __init__(self, work: Work, options: Options | None) -> None:
        self._work, self._options = work, options
        self._model = work.model()
        if options is not None:
            use_kernel(self._model, find_kernel(options.kernel, "documents" if options.documents else "causal", work.device))

    def run(self, batches: Sequence[Packed], n_warm: int) -> tuple[float, list[float]]:
        """As of `Ours`; at its defaults it says no losses."""
        rows = [row for batch in batches for row in self._rows(batch)]
        clock = _Clock(n_warm, self._work.device)
        with tempfile.TemporaryDirectory() as folder:
            args = transformers.TrainingArguments(
                output_dir=folder, per_device_train_batch_size=self._work.micro_batch, max_steps=len(batches), save_strategy="no",
                gradient_accumulation_steps=self._work.global_batch // self._work.micro_batch, disable_tqdm=True,
                use_cpu=self._work.device.type == "cpu", **self._given(),
            )  # fmt: skip
            trainer = transformers.Trainer(model=self._model, args=args, train_dataset=rows, data_collator=_stacked, callbacks=[clock])
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        return clock.ended - clock.begun, clock.losses

    def _rows(self, batch: Packed) -> list[dict[str, torch.Tensor]]:
        found = []
        for inputs, targets, positions in zip(batch.inputs_BT.long(), batch.targets_BT.long(), batch.positions_BT.long(), strict=True):
            row = {"input_ids": inputs, "labels": inputs if self._options is None else targets}
            if self._options is not None:
                row |= {"shift_labels": targets}
            if self._options is not None and self._options.documents:
                row |= {"position_ids": positions}
            found.append(row)
        return found

    def _given(self) -> dict[str, Any]:
        if self._options is None:
            return {}
        given = {"learning_rate": _LR, "lr_scheduler_type": "constant", "weight_decay": 0.1, "adam_beta2": 0.95, "logging_steps": 1}
        given |= {"optim": "adamw_torch_fused", "train_sampling_strategy": "sequential", "remove_unused_columns": False}
        given |= {"dataloader_num_workers": 0, "dataloader_pin_memory": self._work.device.type == "cuda"}
        return given | {"bf16": self._options.dtype == torch.bfloat16, "torch_compile": self._options.compile}


def find_trainer(*, make: bool) -> bool:
    """Say whether transformers.Trainer can be had: it needs accelerate, which is kept in a folder of its own.

    transformers looks for it once, when it is imported, so where the folder is there the program starts again with it.
    """
    if make and not PEERS_DIR.exists():
        install = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
            str(PEERS_DIR),
        ]
        subprocess.run([*install, *_ACCELERATE], check=True)
    if PEERS_DIR.exists() and str(PEERS_DIR) not in sys.path:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(PEERS_DIR))))
        os.execv(sys.executable, [sys.executable, *sys.argv])
    return bool(transformers.utils.import_utils.is_accelerate_available())


def now(device: torch.device) -> float:
    """Read the clock when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _stacked(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
