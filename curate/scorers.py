"""Fit, pin and apply the quality classifier: reference against the pool, such that no document is scored by a model that saw it.

Stands between ingest and annotate. Documents fall into two folds by their doc_id; a document is scored by the model of the other
fold, always. Several rounds, because the pool is unlabelled: what one round's models find domain-like leaves the next round's
negatives. Like a tokenizer, the fitted models are kept under models/ by digest and pinned for the domain until `--refit quality`.

Cost: the drawn texts are read once; their bags (some 0.4 of the text) and pieces (at most 4 x 20 words each) are written once, sorted
by doc_id. A round fits on the pieces, and scores the bags at the speed of filters.quality; the two folds run side by side.
"""

import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.annotate import Facts
from curate.executor import Run
from curate.ingest import Ingested
from curate.manifest import MACROS
from curate.models import file_info, keep_file, pin_scorer, pinned_scorer
from curate.recipe import DomainError, Recipe
from curate.store import Store
from filters import bags, quality
from filters.columns import TextBatch

# A document gives up to four pieces of 20 of its words to the fit: a long one weighs hardly more than a short one, and a reader of short
# pieces judges short documents as well as long ones.
PIECE_WORDS, _N_PIECES = 20, 4
# Besides the upper half of the pool, which leaves the negatives, its top twentieth joins the positives, where a model finds it
# likelier domain than not: that is how the model gets to know the domain in the pool's own manner (docs/quality.md).
_JOINING_SHARE, _LIKELIER = 0.05, 0.5
_WHAT = "quality classifier"
_FIT_KEYS = ("dim", "epochs", "lr", "word_ngrams", "bucket")
FOLDS = (0, 1)
_BATCH_ROWS = 4096
_SIDES = ("reference", "background", "pool")
_BAGS = pa.schema([("doc_id", pa.string()), ("side", pa.string()), ("bag", pa.large_string())])
_PIECES = pa.schema([("doc_id", pa.string()), ("side", pa.string()), ("pick", pa.string()), ("piece", pa.large_string())])
_NO_SCORES = pa.schema([("doc_id", pa.string()), ("side", pa.string()), ("score", pa.float32())]).empty_table()
_SCORES = pa.schema([("quality", pa.float32())])
_MEASURED = "reference against the unlabelled pool, each document scored by the model of the other fold"


@dataclasses.dataclass(frozen=True, slots=True)
class _Bounds:
    """Scores of the round before: above `leaves` a pool document is no negative, from `joins` on it is a positive."""

    leaves: float = np.inf
    joins: float = np.inf


def resolve_quality(store: Store, recipe: Recipe, ingested: Mapping[str, Ingested], *, refit: bool, run: Run) -> dict[str, Any]:
    """Give the classifier of a build as manifest.json records it: the recipe's own model, the domain's pinned ones, or new fits.

    Raises DomainError for a file that is no fastText model, an unknown label, other settings than those of the pinned models, or
    a side without documents.
    """
    if recipe.quality.model is not None:
        return _named(store, recipe.quality.model, recipe.quality.label)
    if not refit and (pinned := pinned_scorer(store, recipe, _WHAT, _settings(recipe))):
        return pinned
    info = _fit(store, recipe, ingested, run)
    if not pin_scorer(store, recipe, info, replace=refit):
        pinned = pinned_scorer(store, recipe, _WHAT, _settings(recipe))
        assert pinned is not None, "another build pinned it"
        return pinned
    return info


def known_quality(store: Store, recipe: Recipe) -> dict[str, Any] | None:
    """Give the classifier that resolve_quality would give, without fitting or keeping one; None where models/ does not hold it."""
    if recipe.quality.model is None:
        return pinned_scorer(store, recipe, _WHAT, _settings(recipe))
    path = pathlib.Path(recipe.quality.model)
    if not path.is_file():
        raise DomainError(f"quality.model {recipe.quality.model!r} is no file; give the path of a fastText model")
    model = file_info(path, "quality", ".bin")
    return _own(model, recipe.quality.label) if store.exists(model["path"]) else None


def quality_facts(store: Store, info: Mapping[str, Any]) -> Facts:
    """Give the facts of a classifier: the column `quality`, 0 to 1."""
    paths = [model["path"] for model in info["models"]]
    digest = "".join(model["sha256"] for model in info["models"])
    compute = functools.partial(_quality, store.url(), tuple(paths), info["label"], info["reads"])
    return Facts(
        "quality", quality.VERSION, _SCORES, compute, {"label": info["label"], "reads": info["reads"], "bags": bags.VERSION}, digest
    )


def fold_of(doc_ids: pa.Array) -> np.ndarray:
    """Say which fold each doc_id falls into (0 or 1): its first hex digit below 8, or not."""
    firsts = pc.utf8_slice_codeunits(doc_ids, 0, 1)
    return np.where(pc.less(firsts, "8").to_numpy(zero_copy_only=False), 0, 1)


def _named(store: Store, path: str, label: str) -> dict[str, Any]:
    try:
        quality.load(path, label)
    except (OSError, ValueError) as error:
        raise DomainError(f"quality.model {path!r}: {error}") from None
    return _own(keep_file(store, pathlib.Path(path), "quality", ".bin"), label)


def _own(model: Mapping[str, str], label: str) -> dict[str, Any]:
    """Describe a recipe's own classifier, as it lies under models/."""
    return {
        "name": "quality", "label": label, "reads": "text", "models": [model], "settings": None, "fitted_on": None, "held_out_auc": None,
    }  # fmt: skip


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {name: getattr(recipe.quality, name) for name in (*_FIT_KEYS, "rounds", "max_docs")}


def _fit(store: Store, recipe: Recipe, ingested: Mapping[str, Ingested], run: Run) -> dict[str, Any]:
    settings = quality.FitSettings(**{name: getattr(recipe.quality, name) for name in _FIT_KEYS})
    with store.scratch() as folder:
        folder.mkdir()
        n_drawn = _draw(store, folder, recipe, ingested)
        counts = ", ".join(f"{n_drawn.get(side, 0):,} {side}" for side in _SIDES)
        sys.stderr.write(f"quality: fitting on {counts} documents, two folds, {recipe.quality.rounds} rounds\n")
        bounds = _Bounds()
        for number in range(1, recipe.quality.rounds + 1):
            try:
                run.here(FOLDS, functools.partial(_fit_and_score, folder, settings, bounds), label=f"round {number}")
            except ValueError as error:
                raise DomainError(
                    f"the quality classifier cannot be fitted ({error}); check what the reference and the pool hold"
                ) from None
            for fold in FOLDS:  # only now, because a fit reads the scores of the round before
                os.replace(folder / f"next-{fold}.parquet", _scores_path(folder, fold))
            scores = pa.concat_tables([pq.read_table(_scores_path(folder, fold)) for fold in FOLDS])
            by_side = {side: scores.filter(pc.equal(scores["side"], side))["score"].to_numpy() for side in _SIDES}
            bounds = _bounds(by_side["pool"])
        models = [keep_file(store, folder / f"model-{fold}.bin", "quality", ".bin") for fold in FOLDS]
    held_out = {"auc": round(quality.auc(by_side["reference"], by_side["pool"]), 4), "of": _MEASURED} if len(by_side["pool"]) else None
    return {
        "name": "quality", "label": quality.DOMAIN_LABEL, "reads": "bags", "models": models, "settings": _settings(recipe),
        "fitted_on": {side: n_drawn.get(side, 0) for side in _SIDES}, "held_out_auc": held_out,
    }  # fmt: skip


def _draw(store: Store, folder: pathlib.Path, recipe: Recipe, ingested: Mapping[str, Ingested]) -> dict[str, int]:
    """Write each fold's documents and their pieces, sorted by doc_id, to folder/bags-N.parquet and pieces-N.parquet; count by side."""
    connection = duckdb.connect(f"{folder}/draw.duckdb", config={"memory_limit": "2GB", "temp_directory": f"{folder}/spill"})
    connection.execute(MACROS)
    connection.execute('CREATE TABLE documents (doc_id VARCHAR, side UTINYINT, shard VARCHAR, "row" INTEGER)')
    sides = {"reference": 0, "background": 1, "candidate": 2}
    for source in recipe.sources:
        for shard in ingested[source.name].shards if source.role in sides else ():
            connection.register("incoming", store.read_table(shard.path, ["doc_id"]))
            connection.execute(
                "INSERT INTO documents SELECT doc_id, ?, ?, row_number() OVER () - 1 FROM incoming", [sides[source.role], shard.path]
            )
    drawn = connection.sql(_DRAWN.format(max_docs=recipe.quality.max_docs)).to_arrow_table()
    connection.execute("CREATE TABLE bags (doc_id VARCHAR, side UTINYINT, bag VARCHAR)")
    connection.execute("CREATE TABLE pieces (doc_id VARCHAR, side UTINYINT, pick VARCHAR, piece VARCHAR)")
    for shard in drawn["shard"].unique().to_pylist():
        wanted = drawn.filter(pc.equal(drawn["shard"], shard))
        for start in range(0, wanted.num_rows, _BATCH_ROWS):
            part = wanted.slice(start, _BATCH_ROWS)
            texts = TextBatch.from_arrow(store.read_rows(shard, part["row"].to_pylist(), ["text"])["text"])
            connection.register("incoming", pa.table({"doc_id": part["doc_id"], "side": part["side"], "bag": bags.bags(texts)}))
            connection.execute("INSERT INTO bags FROM incoming")
            connection.register("incoming", _pieces(part, texts))
            connection.execute(_CHOSEN.format(n_pieces=_N_PIECES))
    for fold, test in zip(FOLDS, ("<", ">="), strict=True):
        for table, rest, schema in (("bags", "bag", _BAGS), ("pieces", "pick, piece", _PIECES)):
            query = f"SELECT doc_id, {list(_SIDES)}[side + 1] AS side, {rest} FROM {table} WHERE doc_id {test} '8' ORDER BY doc_id, {rest}"
            with pq.ParquetWriter(folder / f"{table}-{fold}.parquet", schema) as writer:
                for batch in connection.sql(query).to_arrow_reader(_BATCH_ROWS):
                    writer.write_table(pa.Table.from_batches([batch]).cast(schema))
    counts = connection.execute("SELECT side, count(*) FROM bags GROUP BY side").fetchall()
    connection.close()
    return {_SIDES[side]: n for side, n in counts}


def _pieces(documents: pa.Table, texts: TextBatch) -> pa.Table:
    pieces, starts = bags.pieces(texts, PIECE_WORDS)
    n_pieces = np.diff(starts)
    parents = pa.array(np.repeat(np.arange(len(n_pieces)), n_pieces))
    number = np.arange(len(pieces)) - np.repeat(starts[:-1], n_pieces)
    return pa.table({
        "doc_id": documents["doc_id"].take(parents), "side": documents["side"].take(parents), "number": number, "piece": pieces,
    })  # fmt: skip


def _bounds(pool: np.ndarray) -> _Bounds:
    """Say which scores of the pool make a document leave the negatives, and which make it one of the positives."""
    pool = pool[np.isfinite(pool)]
    if not len(pool):
        return _Bounds()
    return _Bounds(leaves=float(np.median(pool)), joins=max(_LIKELIER, float(np.quantile(pool, 1 - _JOINING_SHARE))))


def _fit_and_score(folder: pathlib.Path, settings: quality.FitSettings, bounds: _Bounds, fold: int) -> None:
    """Fit one fold's model of a round, and score the other fold's documents by it.

    Of the larger class the pieces with the smallest hashes are taken, as many as the other class has.
    """
    examples = pq.read_table(folder / f"pieces-{fold}.parquet", columns=["doc_id", "side", "pick"])
    side = examples["side"].to_numpy(zero_copy_only=False)
    is_domain = side == "reference"
    is_other = ~is_domain
    if np.isfinite(bounds.leaves):
        last = pq.read_table(_scores_path(folder, fold))
        score = last["score"].to_numpy()[pc.index_in(examples["doc_id"], last["doc_id"].combine_chunks()).to_numpy()]
        is_other &= (side == "background") | ~(score > bounds.leaves)
        is_domain |= (side == "pool") & (score >= bounds.joins)
    order = np.argsort(examples["pick"].to_numpy(zero_copy_only=False), kind="stable")
    n_each = min(int(is_domain.sum()), int(is_other.sum()))
    taken = np.zeros(len(order), bool)
    for kind in (is_domain, is_other):
        taken[order[kind[order]][:n_each]] = True
    first, lines, model = 0, folder / f"examples-{fold}.txt", str(folder / f"model-{fold}.bin")
    with open(lines, "wb") as file:
        for batch in pq.ParquetFile(folder / f"pieces-{fold}.parquet").iter_batches(_BATCH_ROWS, columns=["piece"]):
            part = slice(first, first + batch.num_rows)
            chosen = pa.array(taken[part])
            quality.write_examples(file, batch.column(0).filter(chosen), pa.array(is_domain[part]).filter(chosen))
            first += batch.num_rows
    quality.fit(str(lines), model, settings)
    scorer = quality.load(model)
    others = pq.ParquetFile(folder / f"bags-{1 - fold}.parquet").iter_batches(_BATCH_ROWS)
    parts = [pa.table({"doc_id": batch["doc_id"], "side": batch["side"], "score": scorer.score(batch["bag"])}) for batch in others]
    pq.write_table(pa.concat_tables(parts) if parts else _NO_SCORES, folder / f"next-{1 - fold}.parquet")


def _scores_path(folder: pathlib.Path, fold: int) -> pathlib.Path:
    return folder / f"scores-{fold}.parquet"


def _quality(
    store_url: str, paths: Sequence[str], label: str, reads: str, documents: pa.RecordBatch, texts: TextBatch
) -> Sequence[pa.Array]:
    """Score documents by the one model, or by the model of the fold that they are not in."""
    scorers = [_scorer(store_url, path, label) for path in paths]
    read = bags.bags(texts) if reads == "bags" else documents["text"]
    if len(scorers) == 1:
        return [scorers[0].score(read)]
    fold = fold_of(documents["doc_id"])
    scores = pa.nulls(documents.num_rows, pa.float32())
    for number, scorer in enumerate(scorers):
        is_other = pa.array(fold != number)
        scores = pc.replace_with_mask(scores, is_other, scorer.score(read.filter(is_other)))
    return [scores]


@functools.cache
def _scorer(store_url: str, path: str, label: str) -> quality.Scorer:
    """Load a model once per process."""
    return quality.load(str(Store(store_url).local(path)), label)


# A text that is in several sides counts as the most trusted one; each side is drawn by hash, up to its bound.
_DRAWN = """
WITH texts AS (SELECT doc_id, min(side) AS side, min({{'shard': shard, 'row': "row"}}) AS place FROM documents GROUP BY doc_id),
ordered AS (SELECT *, row_number() OVER (PARTITION BY side ORDER BY hash_key('quality|' || side, doc_id), doc_id) AS number FROM texts)
SELECT doc_id, side, place.shard AS shard, place."row" AS "row" FROM ordered WHERE number <= {max_docs} ORDER BY shard, "row"
"""

_CHOSEN = """
INSERT INTO pieces SELECT doc_id, side, hash_key('piece', doc_id || '|' || number) AS pick, piece FROM incoming
QUALIFY row_number() OVER (PARTITION BY doc_id ORDER BY pick) <= {n_pieces}
"""
