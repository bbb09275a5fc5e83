"""What a run writes down as it goes, and how it is read back.

    runs/RUN/attempts.jsonl                 a line each time it is begun or gone on with: where, on how many processes, with which settings
    runs/RUN/metrics.jsonl                  a line a step
    runs/RUN/evaluations.jsonl              a line a component and evaluation
    runs/RUN/evaluations/step-N.parquet     a row a document, so that two evaluations can be compared in pairs

The lines are only appended to. After a resume the steps since the checkpoint stand twice, the later ones with a higher
`attempt`; they are equal but for the clock (on one machine with as many threads), and readers take the last one.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from curate.store import Store
from train.checkpoint import State
from train.evaluate import Score

# Lines wait this long for company: on an object store an append writes the file anew.
_FLUSH_S = 1.0


class Journal:
    """The open journal of a run. Lines are on disk after `flush`, and some second after they were written."""

    def __init__(self, store: Store, run: str) -> None:
        self._store, self._run = store, run
        self.attempt = 1 + max(
            (line["attempt"] for file in ("attempts", "metrics", "evaluations") for line in store.read_lines(_path(run, file))), default=0
        )
        self._waiting: list[str] = []
        self._since = time.monotonic()

    def write_attempt(self, state: State, **values: Any) -> None:
        """Write where an attempt begins, in steps done, and with what."""
        line = {"attempt": self.attempt, "step": state.step, **values}
        self._store.append_lines(_path(self._run, "attempts"), [json.dumps(line, ensure_ascii=False)])

    def write_step(self, state: State, **values: Any) -> None:
        """Write a step, counted from 0 as in the plan; `state` is the one after it."""
        line = {"step": state.step - 1, "tokens": state.n_tokens, **values, "stream_hash": state.stream_hash, "attempt": self.attempt}
        self._waiting.append(json.dumps(line, ensure_ascii=False))
        if time.monotonic() - self._since >= _FLUSH_S:
            self.flush()

    def write_scores(self, state: State, scores: Sequence[Score], documents: pa.Table) -> None:
        """Write an evaluation, counted in steps done: 0 is the base. `documents` holds the nats of each."""
        self._store.write_table(_documents_path(self._run, state.step), documents)
        lines = [{"step": state.step, "tokens": state.n_tokens, **dataclasses.asdict(score), "attempt": self.attempt} for score in scores]
        self._store.append_lines(_path(self._run, "evaluations"), [json.dumps(line, ensure_ascii=False) for line in lines])

    def flush(self) -> None:
        if self._waiting:
            self._store.append_lines(_path(self._run, "metrics"), self._waiting)
        self._waiting, self._since = [], time.monotonic()


def read_metrics(store: Store, run: str) -> list[dict[str, Any]]:
    """Read a run's steps in order, each once."""
    last = {line["step"]: line for line in store.read_lines(_path(run, "metrics"))}
    return [last[step] for step in sorted(last)]


def total_cost(store: Store, run: str) -> float | None:
    """Add up what all steps have cost, those that were lost and done again too; None where a run has no rate."""
    found = [line["cost"] for line in store.read_lines(_path(run, "metrics")) if line.get("cost") is not None]
    return sum(found) if found else None


def read_scores(store: Store, run: str) -> dict[str, list[dict[str, Any]]]:
    """Read a run's evaluations by component, in order of steps, each once."""
    last = {(line["component"], line["step"]): line for line in store.read_lines(_path(run, "evaluations"))}
    components = dict.fromkeys(component for component, _ in last)
    return {name: [last[key] for key in sorted(last) if key[0] == name] for name in components}


def read_documents(store: Store, run: str, step: int) -> pa.Table:
    """Read an evaluation by document: component, row_id, group, n_bytes, nats."""
    return store.read_table(_documents_path(run, step))


def _documents_path(run: str, step: int) -> str:
    return f"runs/{run}/evaluations/step-{step}.parquet"


def _path(run: str, file: str) -> str:
    return f"runs/{run}/{file}.jsonl"
