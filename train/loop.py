"""The training loop: steps in the order of the plan, and what is written about them.

    plan -> stream -> prefetch -> step (train/step.py) -> metrics -> (evaluate) -> (checkpoint)

What is written: the journal (a line a step, a line a component and evaluation), checkpoints, and result.json at the end.
An evaluation is written before the checkpoint of its step, so a resumed run never lacks one. The first process writes; the
others take part.

The clock goes to metrics and to the screen, never into what is computed.
"""

import dataclasses
import math
import time
from typing import Any

import pyarrow as pa
import rich.console

from train import checkpoint
from train.checkpoint import Contents, State
from train.config import ConfigError
from train.evaluate import Evalset, evaluate, open_evalset, score
from train.export import Card
from train.figures import flops_per_token, step_figures
from train.journal import Journal, read_scores, total_cost
from train.model import held_in, load_model, n_parameters
from train.plan import write_summary
from train.prefetch import Batches
from train.records import Board, DocumentLog, progress
from train.run import Run, claim
from train.run_record import software
from train.schedule import first_anneal_step
from train.step import Learner, Setting, Step, make_learner, train_step
from train.stream import Stream, open_stream


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A run with its data and weights in memory."""

    stream: Stream
    evalset: Evalset
    learner: Learner
    state: State

    @property
    def model(self) -> Any:
        return self.learner.loss.model


def open_run(run: Run) -> Opened:
    """Read data and weights, from the run's newest checkpoint where it has one; a new run takes its name here."""
    tokenizer, config, world = run.base.tokenizer, run.config, run.world
    n_tokens = run.recount.n_tokens if run.recount else None
    stream, components = open_stream(run.store, run.manifest, run.plan, tokenizer=tokenizer, n_tokens=n_tokens)
    evalset = open_evalset(run.store, run.manifest, tokenizer=tokenizer, seq_len=config.seq_len, first=components)
    if config.keep_best is not None and config.keep_best not in evalset.names:
        known = ", ".join(evalset.names) or "none"
        raise ConfigError(f"keep_best is {config.keep_best!r}, which is not evaluated; components that are: {known}")
    if world.is_first:
        run.store.sweep()
    learner = _learner(run, components)
    if world.is_first:
        if not run.store.exists(f"{run.folder}/run.json"):
            claim(run, n_parameters=n_parameters(learner.loss.model))
        write_summary(run.store, run.plan)
        if run.state is None or run.state.step < run.n_steps:
            # The epoch is planned once, here, and not by each process.
            stream.columns(run.state.step if run.state else 0)
    world.wait()
    state = run.state or State(0, 0, "", run.identity)
    return Opened(stream, evalset, learner, dataclasses.replace(state, identity=run.identity))


def train(run: Run, opened: Opened, console: rich.console.Console) -> str:
    """Train to the end; gives the path of the last checkpoint. Progress goes to `console`."""
    config, world, state = run.config, run.world, opened.state
    journal = Journal(run.store, run.name)
    if world.is_first:
        journal.write_attempt(state, n_processes=world.size, device=str(run.device), config=run.identity["config"], software=software())
    board = Board(run.store, run.name) if config.tensorboard and world.is_first else None
    log = DocumentLog(run.store, run.name, run.manifest, world, first_step=state.step) if config.log_documents else None
    eval_steps = steps_to_evaluate(run.n_steps, config.n_evals)
    flops = flops_per_token(opened.model, config.seq_len)
    path = checkpoint.path_of(run.name, state.step)
    if state.step == 0:
        _evaluate(run, opened, state, journal, board, console)
    opened.learner.loss.train()
    with _batches(run, opened) as batches, progress(console) as bar:
        task = bar.add_task("train", total=run.n_steps, completed=state.step, loss=math.nan, speed=0.0)
        begun = time.perf_counter()
        for fetched in batches:
            done = train_step(opened.learner, fetched.batch, fetched.step, log.add if log else None)
            seconds = time.perf_counter() - begun
            batch = fetched.batch
            state = dataclasses.replace(
                state, step=fetched.step + 1, n_tokens=state.n_tokens + batch.n_tokens, stream_hash=fetched.stream_hash
            )
            figures = step_figures(config, n_tokens=batch.n_tokens, seconds=seconds, waited_s=fetched.waited_s, flops=flops, world=world)
            if world.is_first:
                values = {**dataclasses.asdict(done), **figures}
                journal.write_step(state, **values)
                board.write_step(state.step, values) if board else None
            _refuse_infinite(done, fetched.step, journal)
            bar.update(task, completed=state.step, loss=done.loss, speed=figures["tokens_per_s"])
            if state.step in eval_steps:
                _evaluate(run, opened, state, journal, board, console)
            if _is_due(run, opened, state.step, eval_steps):
                journal.flush()
                path = _save(run, opened, state, log)
            begun = time.perf_counter()
    opened.stream.close()
    board.close() if board else None
    if world.is_first:
        _write_result(run, state, path, journal.attempt)
    world.wait()
    return path


def steps_to_evaluate(n_steps: int, n_evals: int) -> set[int]:
    """Spread evaluations evenly, in steps done: the start, the end and `n_evals` between them.

    >>> sorted(steps_to_evaluate(100, 3))
    [0, 25, 50, 75, 100]
    """
    return {round(n_steps * index / (n_evals + 1)) for index in range(n_evals + 2)}


def _learner(run: Run, components: tuple[str, ...]) -> Learner:
    """Make what learns, from the weights of a checkpoint of this run or of another one, or from the base."""
    setting = Setting(run.device, run.dtype, run.kernel, run.world)
    phases = run.config.phases(run.n_steps)
    if run.state is None and run.origin is None:
        model = load_model(run.store, run.base, run.config, held_in(run.dtype))
        return make_learner(model, run.config, phases, components=components, setting=setting)
    name, step = (run.name, run.state.step) if run.state else (run.origin.run, run.origin.step)  # type: ignore[union-attr] # one is there
    with checkpoint.opened(run.store, name, step) as folder:
        model = load_model(run.store, run.base, run.config, held_in(run.dtype), folder=str(folder))
        learner = make_learner(model, run.config, phases, components=components, setting=setting)
        checkpoint.restore(folder, model=learner.loss.model, optimizer=learner.optimizer, world=run.world)
    return learner


def _batches(run: Run, opened: Opened) -> Batches:
    world, config, state = run.world, run.config, opened.state
    return Batches(
        opened.stream,
        range(state.step, run.n_steps),
        micro_batch=config.micro_batch,
        rank=world.rank,
        world=world.size,
        stream_hash=state.stream_hash if world.is_first else None,
        pin=run.device.type == "cuda",
    )


def _evaluate(run: Run, opened: Opened, state: State, journal: Journal, board: Board | None, console: rich.console.Console) -> None:
    nats = evaluate(opened.learner.loss, opened.evalset, batch_size=run.config.micro_batch, device=run.device, world=run.world)
    scores = score(opened.evalset, nats)
    if run.world.is_first:
        journal.write_scores(state, scores, opened.evalset.documents.append_column("nats", pa.array(nats)))
        board.write_scores(state.step, scores) if board else None
    shown = ", ".join(f"{each.component} {each.bpb:.4f}" + (f" +- {each.se:.4f}" if each.se is not None else "") for each in scores)
    console.print(
        f"step {state.step:,} of {run.n_steps:,}: bits per byte {shown or '(the evalset is empty)'}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _is_due(run: Run, opened: Opened, n_done: int, eval_steps: set[int]) -> bool:
    """Say whether a checkpoint is due: every so often, at the end, before the annealing, and wherever the best one could be."""
    ends = (run.n_steps, first_anneal_step(run.config.schedule, opened.learner.phases))
    is_candidate = run.config.keep_best is not None and n_done in eval_steps
    return n_done % run.config.checkpoint_every == 0 or n_done in ends or is_candidate


def _save(run: Run, opened: Opened, state: State, log: DocumentLog | None) -> str:
    """Write a checkpoint and what must be on disk before it; then let go of those that nobody needs."""
    if log is not None:
        log.flush(state.step)
    manifest = run.manifest
    card = Card(run.name, run.base.name, manifest.version, manifest.fingerprint, manifest.is_sample, run.identity["config"])
    contents = Contents(opened.model, opened.learner.optimizer, run.base.files, card)
    path = checkpoint.save(run.store, run.name, state, contents, run.world)
    if run.world.is_first:
        steps = checkpoint.complete_steps(run.store, run.name)
        checkpoint.keep(run.store, run.name, _to_keep(run, opened, steps))
    return path


def _to_keep(run: Run, opened: Opened, steps: list[int]) -> set[int]:
    """Choose the last checkpoints, the one before the annealing, and the one with the fewest bits per byte, the earliest of equals."""
    kept = {*steps[-run.config.keep_checkpoints :]}
    if (before := first_anneal_step(run.config.schedule, opened.learner.phases)) is not None:
        kept.add(before)
    if run.config.keep_best is not None:
        lines = [line for line in read_scores(run.store, run.name).get(run.config.keep_best, []) if line["step"] in steps]
        kept |= {min(lines, key=lambda line: (line["bpb"], line["step"]))["step"]} if lines else set()
    return kept


def _write_result(run: Run, state: State, path: str, n_attempts: int) -> None:
    result = {
        "n_steps": state.step,
        "n_tokens": state.n_tokens,
        "stream_hash": state.stream_hash,
        "checkpoint": path,
        "n_attempts": n_attempts,
        "cost": total_cost(run.store, run.name),
    }
    run.store.write_json(f"{run.folder}/result.json", result)


def _refuse_infinite(done: Step, step: int, journal: Journal) -> None:
    if math.isfinite(done.loss) and math.isfinite(done.grad_norm):
        return
    journal.flush()
    raise ConfigError(
        f"the loss is {done.loss:g} and the gradient norm {done.grad_norm:g} at step {step} with lr {done.lr:g};"
        " start another run (--out NAME) with a lower lr or a longer warm-up"
    )
