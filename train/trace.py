"""Which documents were in a step, and in which steps a document was: both read off the plan.

    runs/RUN/run.json -> manifest, config -> plan -> rows of a step | rows of a document -> table, JSON

Nothing is logged for this while a run trains: the plan is a pure function of what run.json names, and is planned again where
the cache has lost it. Cost: asking for a document reads one column of each epoch's plan.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import manifest as manifests
from curate.manifest import Manifest, ManifestError
from curate.store import Store
from train.assemble import Ints
from train.config import ConfigError, config_from
from train.plan import Plan, epoch_tokens, find_plan, list_epochs
from train.plan_file import Planner
from train.recount import recount
from train.run_record import read_record
from train.stream import find_draw


@dataclasses.dataclass(frozen=True, slots=True)
class Traced:
    """A run whose order is known again. `tokenizer` is as manifest.json has one; `n_tokens` by ordinal where the run has recounted;
    `n_steps` is what the run comes to and `n_done` how many steps of it are in its metrics."""

    store: Store
    name: str
    manifest: Manifest
    plan: Plan
    tokenizer: Mapping[str, Any]
    n_tokens: Ints | None
    n_steps: int
    n_done: int

    def planner(self) -> Planner:
        """Give the run's epochs."""
        return Planner(self.store, self.plan, find_draw(self.store, self.manifest, self.n_tokens))


def open_traced(store: Store, name: str) -> Traced:
    """Read what a run was of, and plan it anew. Raises ConfigError where that is not what the run was of, in one line."""
    record = read_record(store, name)
    manifest = manifests.load(store, record["manifest"])
    if manifest.fingerprint != record["fingerprint"]:
        raise ConfigError(
            f"run {name!r} was of {manifest.version} with fingerprint {record['fingerprint'][:16]}, which now has"
            f" {manifest.fingerprint[:16]}; restore manifests/{manifest.version}"
        )
    config = config_from(record["config"])
    tokenizer, n_tokens, counts, sha256 = manifest.tokenizer, None, epoch_tokens(manifest, config), ""
    if record.get("tokenizer", tokenizer)["sha256"] != tokenizer["sha256"]:
        # These import torch and transformers, which takes seconds that most questions need not wait for.
        from train.lineage import continued_base, origin_of
        from train.model import find_base

        origin = origin_of(record)
        base = continued_base(store, manifest, origin) if origin else find_base(store, manifest, record["model"])
        counted = recount(store, manifest, base.tokenizer, base.files["tokenizer.json"], epochs=list_epochs(manifest, config))
        tokenizer, n_tokens, counts, sha256 = base.tokenizer, counted.n_tokens, list(counted.epoch_tokens), base.tokenizer["sha256"]
    plan = find_plan(store, manifest, config, n_tokens=counts, draw=find_draw(store, manifest, n_tokens), tokenizer=sha256)
    if plan.key != record["plan"]:
        raise ConfigError(
            f"run {name!r} has plan {record['plan']}, and what run.json names comes to plan {plan.key} under this version;"
            " use the gapless that the run was begun with"
        )
    n_done = max((line["step"] + 1 for line in store.read_lines(f"runs/{name}/metrics.jsonl")), default=0)
    return Traced(store, name, manifest, plan, tokenizer, n_tokens, record["n_steps"], n_done)


def trace_step(traced: Traced, step: int) -> dict[str, Any]:
    """Say what stands in a step, as plain values: tokens by source, and its pieces in order. Raises ConfigError for a step
    that the run does not have."""
    if not 0 <= step < traced.n_steps:
        raise ConfigError(f"step {step} is not in run {traced.name!r}; it has steps 0 to {traced.n_steps - 1}")
    index = traced.plan.epoch_of(step)
    rows = traced.planner().open(index).rows(step)
    documents, which = np.unique(rows["ordinal"], return_inverse=True)
    columns = ["row_id", "doc_id", "component", "source", "source_id", "n_tokens"]
    found = _rows_of(traced, documents, columns).take(pa.array(which))
    if traced.n_tokens is not None:
        found = found.set_column(columns.index("n_tokens"), "n_tokens", pa.array(traced.n_tokens[rows["ordinal"]]))
    places = {name: pa.array(rows[name]) for name in ("sequence", "slot", "start", "length", "ordinal")}
    pieces = pa.table({**places, **{name: found[name] for name in columns}})
    sums = pieces.group_by(["component", "source"], use_threads=False).aggregate(
        [("ordinal", "count_distinct"), ("ordinal", "count"), ("length", "sum")]
    )
    named = sums.rename_columns(["component", "source", "n_documents", "n_pieces", "n_tokens"])
    epoch = traced.plan.epochs[index]
    return {
        "run": traced.name,
        "manifest": traced.manifest.version,
        "step": step,
        "is_done": step < traced.n_done,
        "stage": traced.manifest.stages[epoch.stage].name,
        "epoch": epoch.epoch,
        "n_documents": len(documents),
        "n_tokens": int(rows["length"].sum()),
        "sources": named.sort_by([("n_tokens", "descending"), ("component", "ascending"), ("source", "ascending")]).to_pylist(),
        "pieces": pieces.rename_columns([*places, *columns[:-1], "document_tokens"]).drop_columns("ordinal").to_pylist(),
    }


def trace_row(traced: Traced, row_id: str) -> dict[str, Any]:
    """Say where a row of the manifest stands in a run, as plain values: its pieces by step. Raises ConfigError for a row that is
    not trained on."""
    ordinal = _ordinal_of(traced, row_id)
    planner, pieces = traced.planner(), []
    for index, epoch in enumerate(traced.plan.epochs):
        if epoch.first_step >= traced.n_steps:
            break
        for row in planner.open(index).find(ordinal).to_pylist():
            if row["step"] < traced.n_steps:
                where = {name: row[name] for name in ("step", "sequence", "slot", "start", "length")}
                stage = traced.manifest.stages[epoch.stage].name
                pieces.append({"stage": stage, "epoch": epoch.epoch, **where, "is_done": row["step"] < traced.n_done})
    columns = ["doc_id", "component", "source", "source_id", "n_tokens"]
    [document] = _rows_of(traced, np.array([ordinal]), columns).to_pylist()
    n_tokens = document.pop("n_tokens") if traced.n_tokens is None else int(traced.n_tokens[ordinal])
    return {
        "run": traced.name,
        "manifest": traced.manifest.version,
        "row_id": row_id,
        **{key: value for key, value in document.items() if key != "n_tokens"},
        "document_tokens": n_tokens,
        "n_steps": len({piece["step"] for piece in pieces}),
        "n_tokens": sum(piece["length"] for piece in pieces),
        "n_tokens_done": sum(piece["length"] for piece in pieces if piece["is_done"]),
        "pieces": pieces,
    }


def _ordinal_of(traced: Traced, row_id: str) -> int:
    ids = manifests.rows(traced.store, traced.manifest, "train", ["row_id"])["row_id"]
    ordinal = int(pc.index(ids, row_id).as_py())
    if ordinal >= 0:
        return ordinal
    for split in ("holdout", "dropped"):
        rows = manifests.rows(traced.store, traced.manifest, split, ["row_id", "reason"])
        at = int(pc.index(rows["row_id"], row_id).as_py())
        if at >= 0:
            why = f"dropped ({rows['reason'][at].as_py()})" if split == "dropped" else "held out"
            raise ConfigError(f"row {row_id!r} of {traced.manifest.version} is {why}, so no run trains on it; see: curate why {row_id}")
    raise ConfigError(
        f"row {row_id!r} is not in {traced.manifest.version}; row ids are 32 hex digits, as in"
        f' curate sql "SELECT row_id, source FROM manifest LIMIT 5" --manifest {traced.manifest.version}'
    )


def _rows_of(traced: Traced, ordinals: Ints, columns: list[str]) -> pa.Table:
    """Read some rows of split train, ascending by ordinal, from the parts that hold them."""
    tables, first = [], 0
    parts = [part for part in traced.manifest.info["parts"] if part["path"].startswith("train/")]
    for part, path in zip(parts, manifests.part_paths(traced.store, traced.manifest, "train/"), strict=True):
        here = ordinals[(ordinals >= first) & (ordinals < first + part["rows"])] - first
        try:
            tables.append(traced.store.read_rows(path, here.tolist(), columns))
        except (OSError, pa.ArrowException) as error:
            why = " ".join(str(error).split())
            raise ManifestError(f"{path} is damaged ({why}); curate verify {traced.manifest.version} says more") from None
        first += part["rows"]
    plain = [pa.table({name: table[name].cast(pa.int32() if name == "n_tokens" else pa.string()) for name in columns}) for table in tables]
    return pa.concat_tables(plain)
