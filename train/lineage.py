"""A run that goes on from another run's checkpoint, on a manifest that may be another one.

    run A -> checkpoint (before its annealing, where it has one) -> run B: weights and optimizer, a plan and a schedule of its own

The record of B names A, so the line back to the base can be followed. What was trained on must not be examined on: no
text of the new manifest's holdout may be among the documents that a run of the line drew. Cost: a document that a run would have
drawn after the checkpoint counts as trained on.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from curate import manifest as manifests
from curate.manifest import Manifest
from curate.store import Store
from train import checkpoint
from train.config import ConfigError, config_from
from train.model import Base, find_base
from train.plan import list_epochs
from train.run_record import read_record
from train.schedule import first_anneal_step


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """The checkpoint that a run goes on from; `model` is what its line began with, `fingerprint` that of its last manifest."""

    run: str
    step: int
    model: str
    fingerprint: str

    @property
    def path(self) -> str:
        return checkpoint.path_of(self.run, self.step)


def find_origin(store: Store, name: str) -> Origin:
    """Find the checkpoint to go on from: of RUN/step-N that one, of RUN the one before its annealing, or else the newest.

    Raises ConfigError where there is none.
    """
    run, _, wanted = name.partition("/")
    record = read_record(store, run)
    steps = checkpoint.complete_steps(store, run)
    config = config_from(record["config"])
    before = first_anneal_step(config.schedule, config.phases(record["n_steps"]))
    found = {f"step-{step}": step for step in steps}
    if not steps or (wanted and wanted not in found):
        raise ConfigError(f"run {run!r} has no checkpoint {wanted or 'yet'}; it has: {', '.join(found) or 'none'}")
    step = found[wanted] if wanted else before if before in steps else steps[-1]
    return Origin(run, step, record.get("continued", {}).get("model", record["model"]), record["fingerprint"])


def origin_of(record: Mapping[str, Any]) -> Origin | None:
    """Read where a run of this record began; None for a model of its own."""
    return Origin(**record["continued"]) if "continued" in record else None


def continued_base(store: Store, manifest: Manifest, origin: Origin) -> Base:
    """Describe the model of a checkpoint, named by its place under the root."""
    with checkpoint.opened(store, origin.run, origin.step) as folder:
        return dataclasses.replace(find_base(store, manifest, str(folder)), name=origin.path)


def check_unseen(store: Store, manifest: Manifest, origin: Origin) -> None:
    """Raise ConfigError where a run of the line has drawn a text that this manifest holds out."""
    held_out = manifests.rows(store, manifest, "holdout", ["row_id", "doc_id"])
    name: str | None = origin.run
    while name is not None:
        record = read_record(store, name)
        seen = pc.is_in(held_out["doc_id"], value_set=_drawn(store, record))
        n_seen = pc.sum(seen).as_py() or 0
        if n_seen:
            row_id = held_out["row_id"].filter(seen)[0].as_py()
            raise ConfigError(
                f"{n_seen} texts that {manifest.version} holds out were trained on by run {name!r} on {record['manifest']}"
                f" (row {row_id} is one), so no evaluation would mean anything; build one with the holdout shares of {record['manifest']}"
            )
        name = record["continued"]["run"] if "continued" in record else None


def _drawn(store: Store, record: Mapping[str, Any]) -> Any:
    """List the doc_ids that the epochs of a run draw."""
    manifest = manifests.load(store, record["manifest"])
    doc_id = manifests.rows(store, manifest, "train", ["doc_id"])["doc_id"].combine_chunks()
    is_drawn = np.zeros(len(doc_id), dtype=bool)
    for stage, epoch in list_epochs(manifest, config_from(record["config"])):
        for part in manifest.stages[stage].components:
            is_drawn[manifests.draw(store, manifest, stage=stage, component=part.name, epoch=epoch)["ordinal"].to_numpy()] = True
    return doc_id.filter(is_drawn)
