"""A run with another tokenizer than the manifest's: its documents are counted again, and what comes out otherwise is shown.

    manifest.draw -> rows without tokens under it -> corpus -> count (cache/tokens) -> n_tokens by ordinal -> plan, stream, evaluate

The decision: the manifest's choice of documents stands, a cut document is cut at the same proportion, and only counts
change. Cost: the tokens of an epoch and the shares come out otherwise, so a run stops where a share moves by more than
a percentage point.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tokenizers

from curate import manifest as manifests
from curate import tokens
from curate.manifest import Manifest, ManifestError
from curate.store import Store
from train.assemble import Ints
from train.config import ConfigError
from train.plan import rescale

_PLACES = pa.schema(
    [("doc_id", pa.string()), ("shard", pa.string()), ("row", pa.int32()), ("n_bytes", pa.int64()), ("masks", manifests.MASKS)]
)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """What a recount changes for a component: tokens drawn over all epochs, as the manifest has them and as they come out;
    bytes and tokens (under the manifest's tokenizer, and under the run's) of the documents drawn, each whole and once."""

    component: str
    asked_tokens: int
    reached_tokens: int
    n_bytes: int
    n_tokens_before: int
    n_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class Recount:
    """Counts under another tokenizer: `n_tokens` by ordinal, 0 where no epoch draws the row; `epoch_tokens` by epoch of the run."""

    n_tokens: Ints
    epoch_tokens: tuple[int, ...]
    parts: tuple[Part, ...]


def describe(data: bytes, tokenizer_config: bytes, *, name: str, separator: str) -> dict[str, Any]:
    """Describe a tokenizer as manifest.json does. Raises ConfigError where its files cannot be read."""
    try:
        n_vocab = tokenizers.Tokenizer.from_str(data.decode()).get_vocab_size()
        config = json.loads(tokenizer_config)
    except Exception as error:  # tokenizers raises bare exceptions, and all of them mean the same to the user
        why = " ".join(str(error).split())
        raise ConfigError(f"the tokenizer of model {name!r} cannot be read ({why}); save its fast tokenizer again") from None
    named = {key: config[key] for key in ("bos_token", "eos_token") if config.get(key)}
    special = {key: str(value["content"] if isinstance(value, dict) else value) for key, value in named.items()}
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"models/tokenizer-{sha256[:16]}.json"
    return {"name": name, "sha256": sha256, "path": path, "n_vocab": n_vocab, **special, "separator": separator}


def recount(store: Store, manifest: Manifest, tokenizer: Mapping[str, Any], data: bytes, *, epochs: Sequence[tuple[int, int]]) -> Recount:
    """Count what the epochs (stage, epoch) draw, and the evalset, under a tokenizer whose tokenizer.json has the bytes `data`.

    Pins the tokenizer under models/; counts only documents without tokens under it. Raises ManifestError for a shard that is gone.
    """
    if not store.exists(tokenizer["path"]):
        store.write_bytes(tokenizer["path"], data)
    rows = manifests.rows(store, manifest, "train", [*_PLACES.names, "component", "n_tokens"])
    draws = _draws(store, manifest, epochs)
    ordinals = [draw["ordinal"].to_numpy() for epoch in draws for draw in epoch.values()]
    drawn = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *ordinals]))
    found = rows.take(pa.array(drawn))
    places = [table.select(_PLACES.names).cast(_PLACES) for table in (found, manifests.evalset(store, manifest))]
    _count(store, manifest, tokenizer, pa.concat_tables(places))
    before, after = (np.zeros(rows.num_rows, dtype=np.int64) for _ in range(2))
    before[drawn], after[drawn] = found["n_tokens"].to_numpy(), _counts(store, tokenizer, found)
    epoch_tokens: list[int] = []
    totals = {name: [0, 0] for epoch in draws for name in epoch}
    for epoch in draws:
        epoch_tokens.append(0)
        for name, draw in epoch.items():
            ordinal, taken = (draw[column].to_numpy().astype(np.int64) for column in ("ordinal", "n_tokens"))
            reached = int(rescale(taken, before[ordinal], after[ordinal]).sum())
            totals[name][0] += int(taken.sum())
            totals[name][1] += reached
            epoch_tokens[-1] += reached
    component = found["component"].cast(pa.string()).to_numpy()
    columns = (found["n_bytes"].to_numpy(), before[drawn], after[drawn])
    parts = [Part(name, *total, *(int(column[component == name].sum()) for column in columns)) for name, total in totals.items()]
    return Recount(after, tuple(epoch_tokens), tuple(parts))


def shares(parts: Sequence[Part]) -> dict[str, dict[str, float]]:
    """Give each component's share of the tokens of a run, over all epochs: asked for and reached."""
    totals = {key: sum(getattr(part, f"{key}_tokens") for part in parts) for key in ("asked", "reached")}
    return {part.component: {key: getattr(part, f"{key}_tokens") / total for key, total in totals.items()} for part in parts}


def check_shares(parts: Sequence[Part], *, version: str, model: str) -> None:
    """Raise ConfigError where a component's share moves by more than one percentage point; names the one that moves most."""
    asked, reached = sum(part.asked_tokens for part in parts), sum(part.reached_tokens for part in parts)
    # Whole numbers: a share at exactly one point must not depend on how a quotient is rounded.
    moves = {part.component: abs(part.reached_tokens * asked - part.asked_tokens * reached) for part in parts}
    farthest = max(moves, key=lambda name: moves[name], default=None)
    if farthest is None or 100 * moves[farthest] <= asked * reached:
        return
    share = shares(parts)[farthest]
    raise ConfigError(
        f"under the tokenizer of model {model!r} component {farthest!r} comes to {share['reached']:.2%} of the tokens, {version} asks for"
        f" {share['asked']:.2%}, and a share may move by one percentage point; build a manifest with [tokenizer] path = {json.dumps(model)}"
        " and train on that"
    )


def lines(parts: Sequence[Part]) -> list[str]:
    """Say for each component how well both tokenizers fit it, and which share of the run it gets."""
    reached = shares(parts)
    return [
        f"{part.component}: {part.n_bytes / max(part.n_tokens, 1):.2f} bytes per token"
        f" ({part.n_bytes / max(part.n_tokens_before, 1):.2f} under the manifest's),"
        f" share {reached[part.component]['reached']:.2%} ({reached[part.component]['asked']:.2%} asked for)"
        for part in parts
    ]


def _draws(store: Store, manifest: Manifest, epochs: Sequence[tuple[int, int]]) -> list[dict[str, pa.Table]]:
    """Draw each epoch, by component; one that is drawn like an earlier one shares its table."""
    known: dict[tuple[int, str, int], pa.Table] = {}
    draws = []
    for stage, epoch in epochs:
        keys = {part.name: (stage, part.name, epoch if part.redraw == "dynamic" else 0) for part in manifest.stages[stage].components}
        for name, key in keys.items():
            if key not in known:
                known[key] = manifests.draw(store, manifest, stage=stage, component=name, epoch=epoch)
        draws.append({name: known[key] for name, key in keys.items()})
    return draws


def _count(store: Store, manifest: Manifest, tokenizer: Mapping[str, Any], places: pa.Table) -> None:
    """Write the tokens of documents that have none under a tokenizer."""
    keys = pc.binary_join_element_wise(places["doc_id"], tokens.mask_keys(places["masks"]), "|")
    known = tokens.open_segments(store, tokenizer).index["key"].combine_chunks()
    wanted = places.filter(pc.invert(pc.is_in(keys, value_set=known))).sort_by([("shard", "ascending"), ("row", "ascending")])
    for shard in wanted["shard"].unique().to_pylist():
        if not store.exists(f"corpus/{shard}"):
            raise ManifestError(
                f"corpus/{shard}, with texts of {manifest.version} to count under {tokenizer['name']!r}, is missing; restore it,"
                " or train with the manifest's own tokenizer, which needs no texts"
            )
    work = tokens.split_work(store, tokenizer, wanted)
    for number, item in enumerate(work, start=1):
        sys.stderr.write(f"recount: part {number} of {len(work)}, {wanted.num_rows:,} documents under {tokenizer['name']}\n")
        tokens.count(item)


def _counts(store: Store, tokenizer: Mapping[str, Any], rows: pa.Table) -> Ints:
    located = tokens.open_segments(store, tokenizer).locate(rows["doc_id"], rows["masks"])
    return located.n_tokens.astype(np.int64)
