"""The training loop: a step is a pure function of the weights, the optimizer's state and the step number.

    plan -> stream -> forward, backward, clip, AdamW -> metrics -> (evaluate) -> (checkpoint)

What is written: the journal (a line a step, a line a component and evaluation), checkpoints, and result.json at the end.
An evaluation is written before the checkpoint of its step, so a resumed run never lacks one.

The clock goes to metrics and to the screen, never into what is computed. Losses are normalised by the tokens of the
global batch, so the size of a micro-batch changes memory and not the gradient.
"""

import dataclasses
import math
import time
from typing import Any

import pyarrow as pa
import rich.console
import rich.progress
import torch

from train import checkpoint
from train.checkpoint import State
from train.config import ConfigError
from train.evaluate import Evalset, evaluate, open_evalset, score
from train.journal import Journal
from train.model import load_model, n_parameters, read_model, token_nll
from train.optim import make_optimizer
from train.plan import write_summary
from train.run import Run, claim
from train.schedule import lr_at
from train.stream import IGNORED, Batch, Stream, chain_hash, open_stream


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A run with its data and weights in memory."""

    stream: Stream
    components: tuple[str, ...]
    evalset: Evalset
    model: torch.nn.Module
    optimizer: torch.optim.AdamW
    state: State


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What a step computed. A component without a target in the batch has no loss."""

    lr: float
    loss: float
    component_losses: dict[str, float]
    grad_norm: float


def open_run(run: Run) -> Opened:
    """Read data and weights, from the run's newest checkpoint where it has one; a new run takes its name here."""
    run.store.sweep()
    tokenizer = run.base.tokenizer
    n_tokens = run.recount.n_tokens if run.recount else None
    stream, components = open_stream(run.store, run.manifest, run.plan, tokenizer=tokenizer, n_tokens=n_tokens)
    evalset = open_evalset(run.store, run.manifest, tokenizer=tokenizer, seq_len=run.config.seq_len, first=components)
    if run.state is None:
        model = load_model(run.store, run.base, run.config).to(run.device)
        optimizer = make_optimizer(model, run.config)
        torch.manual_seed(run.config.seed)
        state = State(0, 0, "", run.identity)
    else:
        state = run.state
        with checkpoint.opened(run.store, run.name, state.step) as folder:
            model = read_model(str(folder)).to(run.device)
            optimizer = make_optimizer(model, run.config)
            checkpoint.restore(folder, model=model, optimizer=optimizer)
    if not run.store.exists(f"{run.folder}/run.json"):
        claim(run, n_parameters=n_parameters(model))
    write_summary(run.store, run.plan)
    return Opened(stream, components, evalset, model, optimizer, dataclasses.replace(state, identity=run.identity))


def train(run: Run, opened: Opened, console: rich.console.Console) -> str:
    """Train to the end; gives the path of the last checkpoint. Progress goes to `console`."""
    config, state = run.config, opened.state
    forward: Any = torch.compile(opened.model, dynamic=False) if config.compile else opened.model
    journal = Journal(run.store, run.name)
    eval_steps = steps_to_evaluate(run.n_steps, config.n_evals)
    path = f"{checkpoint.checkpoints_dir(run.name)}/step-{state.step}"
    with _progress(console) as bar:
        task = bar.add_task("train", total=run.n_steps, completed=state.step, loss=math.nan, speed=0.0)
        if state.step == 0:
            _evaluate(run, opened, forward, state, journal, console)
        opened.model.train()
        for step in range(state.step, run.n_steps):
            begun = time.perf_counter()
            batch = opened.stream.batch(step)
            done = train_step(forward, opened, run, batch, step)
            tokens_per_s = batch.n_tokens / (time.perf_counter() - begun)
            stream_hash = chain_hash(state.stream_hash, batch)
            state = dataclasses.replace(state, step=step + 1, n_tokens=state.n_tokens + batch.n_tokens, stream_hash=stream_hash)
            journal.write_step(state, **dataclasses.asdict(done), tokens_per_s=round(tokens_per_s, 1))
            _refuse_infinite(done, step, journal)
            bar.update(task, completed=state.step, loss=done.loss, speed=tokens_per_s)
            if state.step in eval_steps:
                _evaluate(run, opened, forward, state, journal, console)
            if state.step % config.checkpoint_every == 0 or state.step == run.n_steps:
                journal.flush()
                path = checkpoint.save(
                    run.store,
                    run.name,
                    state,
                    model=opened.model,
                    optimizer=opened.optimizer,
                    files=run.base.files,
                    keep=config.keep_checkpoints,
                )
    result = {
        "n_steps": state.step,
        "n_tokens": state.n_tokens,
        "stream_hash": state.stream_hash,
        "checkpoint": path,
        "n_attempts": journal.attempt,
    }
    run.store.write_json(f"{run.folder}/result.json", result)
    return path


def train_step(forward: Any, opened: Opened, run: Run, batch: Batch, step: int) -> Step:
    """Do one step of AdamW on a global batch, micro-batch by micro-batch."""
    n_warmup_steps = run.config.n_warmup_steps(run.n_steps)
    lr = lr_at(step, n_steps=run.n_steps, n_warmup_steps=n_warmup_steps, lr=run.config.lr, min_lr_ratio=run.config.min_lr_ratio)
    opened.optimizer.zero_grad(set_to_none=True)
    n_targets = max(int((batch.labels_BT != IGNORED).sum()), 1)
    nats = torch.zeros(len(opened.components), dtype=torch.float64, device=run.device)
    for first in range(0, run.config.global_batch, run.config.micro_batch):
        here = slice(first, first + run.config.micro_batch)
        if (batch.labels_BT[here] == IGNORED).all():
            continue
        inputs, labels, components = (
            torch.from_numpy(part[here]).to(run.device) for part in (batch.inputs_BT, batch.labels_BT, batch.components_BT)
        )
        nll_BT = token_nll(forward, inputs, labels, run.dtype)
        (nll_BT.sum() / n_targets).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        by_token = nll_BT.detach().double()
        nats += torch.stack([(by_token * (components == code)).sum() for code in range(len(opened.components))])
    grad_norm = torch.nn.utils.clip_grad_norm_(opened.model.parameters(), run.config.clip_norm)
    for group in opened.optimizer.param_groups:
        group["lr"] = lr
    opened.optimizer.step()
    sums = nats.tolist()
    counts = [int(((batch.components_BT == code) & (batch.labels_BT != IGNORED)).sum()) for code in range(len(sums))]
    losses = {name: total / count for name, total, count in zip(opened.components, sums, counts, strict=True) if count}
    return Step(lr, sum(sums) / n_targets, losses, float(grad_norm))


def steps_to_evaluate(n_steps: int, n_evals: int) -> set[int]:
    """Spread evaluations evenly, in steps done: the start, the end and `n_evals` between them.

    >>> sorted(steps_to_evaluate(100, 3))
    [0, 25, 50, 75, 100]
    """
    return {round(n_steps * index / (n_evals + 1)) for index in range(n_evals + 2)}


def _evaluate(run: Run, opened: Opened, forward: Any, state: State, journal: Journal, console: rich.console.Console) -> None:
    nats = evaluate(forward, opened.evalset, batch_size=run.config.micro_batch, device=run.device, dtype=run.dtype)
    scores = score(opened.evalset, nats)
    journal.write_scores(state, scores, opened.evalset.documents.append_column("nats", pa.array(nats)))
    shown = ", ".join(f"{each.component} {each.bpb:.4f}" + (f" +- {each.se:.4f}" if each.se is not None else "") for each in scores)
    console.print(
        f"step {state.step:,} of {run.n_steps:,}: bits per byte {shown or '(the evalset is empty)'}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _refuse_infinite(done: Step, step: int, journal: Journal) -> None:
    if math.isfinite(done.loss) and math.isfinite(done.grad_norm):
        return
    journal.flush()
    raise ConfigError(
        f"the loss is {done.loss:g} and the gradient norm {done.grad_norm:g} at step {step} with lr {done.lr:g};"
        " start another run (--out NAME) with a lower lr or a longer warm-up"
    )


def _progress(console: rich.console.Console) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} tokens/s"),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )
