"""Bits per byte on the manifest's frozen evalset, per component: what the model has gained and what it forgets.

Bits per byte do not depend on the tokenizer, so runs with different ones can be compared. Each document is read whole and
alone, in windows of seq_len tokens; each of its text tokens is predicted exactly once, the first one from a separator,
and the separators' own loss is not counted. The cost of windows that do not overlap: a long document's token at the
start of a window is predicted from one token before it. `no_loss` spans are scored as text.

The error is of the ratio of nats to bytes over documents clustered by group (Cochran, Sampling Techniques, section
6.4), because paragraphs of one article are not independent.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from curate import manifest as manifests
from curate import tokens
from curate.manifest import Manifest
from curate.store import Store
from curate.tokens import Segments
from train.losses import TokenLoss
from train.parallel import World
from train.plan import Ints
from train.stream import IGNORED, gather, spread

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Evalset:
    """Held-out documents (component, row_id, group, n_bytes) and their windows, shortest first.

    A window is its text tokens, which are the targets, and the token before each of them.
    """

    names: tuple[str, ...]
    has_interval: tuple[bool, ...]
    documents: pa.Table
    window_document: Ints
    window_length: Ints
    inputs_WT: Ints
    targets_WT: Ints

    def n_documents(self) -> dict[str, int]:
        """Count documents by component."""
        found = self.documents["component"].to_pylist()
        return {name: found.count(name) for name in self.names}


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """Bits per byte of one component; `se` is None where the evalset is too small for an interval."""

    component: str
    bpb: float
    se: float | None
    n_docs: int
    n_bytes: int


def open_evalset(store: Store, manifest: Manifest, *, tokenizer: Mapping[str, Any], seq_len: int, first: Sequence[str] = ()) -> Evalset:
    """Read a manifest's evalset under a tokenizer and cut it into windows. Components in `first` lead, in that order."""
    table = manifests.evalset(store, manifest)
    listed = manifest.info["evalset"]["components"]
    names = tuple(name for name in dict.fromkeys([*first, *listed]) if listed.get(name, {}).get("n_docs"))
    segments = tokens.open_segments(store, tokenizer)
    located = segments.locate(table["doc_id"], table["masks"])
    before, after = tokens.separators(store, tokenizer)
    text = located.offset + len(before), located.n_tokens.astype(np.int64) - len(before) - len(after)
    windows = _cut(segments, located.segment, *text, seq_len=seq_len, separator=(before or after)[-1])
    columns = {"component": table["component"].cast(pa.string()), **{name: table[name] for name in ("row_id", "group", "n_bytes")}}
    return Evalset(names, tuple(bool(listed[name]["has_interval"]) for name in names), pa.table(columns), *windows)


def evaluate(loss: TokenLoss, evalset: Evalset, *, batch_size: int, device: torch.device, world: World) -> Floats:
    """Give the nats of each document's text under a model. Leaves its mode as it was. All processes must call it, and share the work.

    `batch_size` is in whole windows; narrow batches hold as many tokens, so only a few shapes occur. The batches, and so the
    nats, do not depend on the number of processes.
    """
    nats = np.zeros(evalset.documents.num_rows)
    batches = list(_batches(evalset, batch_size))
    was_training = loss.training
    loss.eval()
    with torch.no_grad():
        for first in range(0, len(batches), world.size):
            # Sharded weights are gathered by all, so who has no batch left computes one for nothing.
            mine = min(first + world.rank, len(batches) - 1)
            windows, width = batches[mine]
            rows = batch_size * (evalset.inputs_WT.shape[1] // width)
            inputs, targets = (np.full((rows, width), fill, dtype=np.int64) for fill in (0, IGNORED))
            inputs[: len(windows)] = evalset.inputs_WT[windows, :width]
            inside = np.arange(width) < evalset.window_length[windows, None]
            targets[: len(windows)] = np.where(inside, evalset.targets_WT[windows, :width], IGNORED)
            positions = torch.arange(width, device=device).expand(rows, width)
            _, nll_BT = loss(torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device), positions)
            if mine == first + world.rank:
                np.add.at(nats, evalset.window_document[windows], nll_BT.double().sum(dim=1).cpu().numpy()[: len(windows)])
    loss.train(was_training)
    # A document's windows may lie in batches of several processes.
    total = torch.from_numpy(nats).to(device)
    world.add(total)
    return total.cpu().numpy()


def score(evalset: Evalset, nats: Floats) -> list[Score]:
    """Turn the nats of each document into bits per byte of each component, in the evalset's order."""
    component, group = (np.array(evalset.documents[name].to_pylist(), dtype=object) for name in ("component", "group"))
    n_bytes = evalset.documents["n_bytes"].to_numpy()
    scores = []
    for name, has_interval in zip(evalset.names, evalset.has_interval, strict=True):
        here = component == name
        bpb, se = ratio_and_error(nats[here] / math.log(2.0), n_bytes[here], group[here])
        keeps_se = has_interval and not math.isnan(se)
        scores.append(Score(name, bpb, se if keeps_se else None, int(here.sum()), int(n_bytes[here].sum())))
    return scores


def ratio_and_error(y: Floats, x: Floats | Ints, group: npt.NDArray[Any]) -> tuple[float, float]:
    """Give sum(y) / sum(x) and its standard error over groups; the error is NaN for fewer than two groups.

    >>> ratio_and_error(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]), np.array([0, 0, 1]))
    (0.5, 0.0)
    """
    _, cluster = np.unique(group, return_inverse=True)
    y_sums, x_sums = np.bincount(cluster, y), np.bincount(cluster, x)
    n = len(y_sums)
    ratio = float(y_sums.sum() / x_sums.sum())
    if n < 2:
        return ratio, math.nan
    return ratio, float(np.sqrt(n / (n - 1) * np.square(y_sums - ratio * x_sums).sum()) / x_sums.sum())


def _cut(segments: Segments, segment: Ints, offset: Ints, length: Ints, *, seq_len: int, separator: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Cut texts into windows: (document, length, inputs, targets) of each, sorted by length, then by place."""
    n_windows = -(-length // seq_len)
    document = np.repeat(np.arange(len(length)), n_windows)
    first = spread(np.zeros_like(n_windows), n_windows) * seq_len
    n_tokens = np.minimum(length[document] - first, seq_len)
    order = np.argsort(n_tokens, kind="stable")
    document, first, n_tokens = document[order], first[order], n_tokens[order]
    targets, inputs = (np.full((len(document), seq_len), separator, dtype=np.int64) for _ in range(2))
    source = offset[document] + first
    targets.reshape(-1)[spread(np.arange(len(document)) * seq_len, n_tokens)] = gather(
        segments, np.repeat(segment[document], n_tokens), spread(source, n_tokens)
    )
    inputs[:, 1:] = targets[:, :-1]
    inside = first > 0
    inputs[inside, 0] = gather(segments, segment[document][inside], source[inside] - 1)
    return document, n_tokens, inputs, targets


def _batches(evalset: Evalset, batch_size: int) -> Iterator[tuple[Ints, int]]:
    """Group windows by the narrowest of three widths that holds them; short documents do not pay for long ones."""
    seq_len = evalset.inputs_WT.shape[1]
    below = 0
    for width in sorted({max(seq_len // 4, 1), max(seq_len // 2, 1), seq_len}):
        here = np.flatnonzero((evalset.window_length > below) & (evalset.window_length <= width))
        rows = batch_size * (seq_len // width)
        for start in range(0, len(here), rows):
            yield here[start : start + rows], width
        below = width
