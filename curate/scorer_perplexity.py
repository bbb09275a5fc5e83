"""Fit, pin and apply the n-gram model of the reference, such that no document is scored by a model that saw it.

Stands between ingest and annotate, beside the classifier (`scorers`), and gives two facts of each row: its perplexity, and how much of
it is in the reference. A row whose text is a document of the reference gets both from a model of the other half of the reference
(cross-fitting); the two halves are fitted only where there is such a row. Which documents were fitted on is kept beside the models, so
what a row gets follows from kept files alone. A half has read half as much, so its perplexities are somewhat higher.

Cost: the reference is sorted by doc_id once, through DuckDB, which spills; fits run side by side, and a build looks up the doc_id of
every row among those of the reference.
"""

import functools
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.annotate import Facts, pieces, signals_schema
from curate.executor import Run
from curate.ingest import Ingested
from curate.models import file_info, keep_file, pin_scorer, pinned_scorer
from curate.recipe import NGRAM_SUFFIX, READS, DomainError, Perplexity, Recipe
from curate.scorers import FOLDS, fold_of
from curate.store import Store
from filters import perplexity
from filters.columns import TextBatch
from filters.perplexity import NgramModel
from filters.reference import REFERENCE

_WHAT = "perplexity model"
_WHOLE, _DOCUMENTS, _HALVES = "whole", "documents", tuple(f"fold {fold}" for fold in FOLDS)
_BATCH_ROWS = 4096
_SCORES = pa.schema([("perplexity", pa.float32())])
# The largest score that is told from larger ones: a closed vocabulary can give more than a manifest's digests hold.
_MOST = 1e9

_Values = Callable[[NgramModel, TextBatch], pa.Array]


def resolve_perplexity(store: Store, recipe: Recipe, ingested: Mapping[str, Ingested], *, refit: bool, run: Run) -> dict[str, Any]:
    """Give the model of a build as manifest.json records it: the recipe's own, the domain's pinned one, or a new fit.

    Raises DomainError for a file that is no model, another order than that of the pinned one, a reference without words, and where rows are
    documents of a pinned model's reference, which has no halves to score them and can no longer be read.
    """
    if recipe.perplexity.model is not None:
        return _asked(recipe, _named(store, recipe.perplexity))
    pinned = None if refit else pinned_scorer(store, recipe, _WHAT, _settings(recipe))
    doc_ids = _reference_ids(store, recipe, ingested) if pinned is None else _fitted_on(store, pinned)
    n_cross_fitted = sum(
        pc.sum(pc.is_in(store.read_table(shard.path, ["doc_id"])["doc_id"], value_set=doc_ids)).as_py() or 0
        for source in recipe.decided_sources()
        for shard in ingested[source.name].shards
    )
    info = pinned
    if info is None or (n_cross_fitted and not {*_HALVES} & {*_paths(info)}):
        info = _fit(store, recipe, ingested, pinned, doc_ids, halves=n_cross_fitted > 0, run=run)
        if not pin_scorer(store, recipe, info, replace=refit or pinned is not None):
            return resolve_perplexity(store, recipe, ingested, refit=False, run=run)  # another build was first
    return _asked(recipe, {**info, "n_cross_fitted": n_cross_fitted})


def known_perplexity(store: Store, recipe: Recipe) -> dict[str, Any] | None:
    """Give the model that resolve_perplexity would give, without fitting or keeping one; None where models/ does not hold it."""
    chosen = recipe.perplexity
    if chosen.model is None:
        info = pinned_scorer(store, recipe, _WHAT, _settings(recipe))
        return info and _asked(recipe, info)
    path = _file(chosen.model)
    model = file_info(path, "perplexity", path.suffix)
    return _asked(recipe, _own(chosen, model)) if store.exists(model["path"]) else None


def perplexity_facts(store: Store, info: Mapping[str, Any]) -> dict[str, Facts]:
    """Give the facts of a model: the column `perplexity`, null for short texts, and, of a model of ours, the family `reference`."""
    digest = "".join(model["sha256"] for model in info["models"])
    parameters = {key: info[key] for key in ("kind", "reads", "min_words")}
    if info["kind"] == "kenlm":
        compute = functools.partial(_by_kenlm, store.url(), _paths(info)[_WHOLE], info["reads"], info["min_words"])
        return {"perplexity": Facts("perplexity", perplexity.VERSION, _SCORES, compute, parameters, digest, is_per_document=True)}
    scored = functools.partial(_by_fold, store.url(), _paths(info), functools.partial(perplexity.perplexities, min_words=info["min_words"]))
    overlaps = functools.partial(_by_fold, store.url(), _paths(info), perplexity.overlaps)
    return {
        "perplexity": Facts("perplexity", perplexity.VERSION, _SCORES, scored, parameters, digest),
        "reference": Facts("reference", perplexity.VERSION, signals_schema(REFERENCE), overlaps, {"kind": "model"}, digest),
    }


def _asked(recipe: Recipe, info: Mapping[str, Any]) -> dict[str, Any]:
    """Add what is no matter of the model: from how many words on it scores."""
    return {**info, "min_words": recipe.perplexity.min_words}


def _paths(info: Mapping[str, Any]) -> dict[str, str]:
    return {model["part"]: model["path"] for model in info["models"]}


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {"order": recipe.perplexity.order}


def _named(store: Store, chosen: Perplexity) -> dict[str, Any]:
    path = _file(str(chosen.model))
    try:
        (perplexity.load_kenlm if chosen.is_kenlm else perplexity.load)(str(path))
    except (OSError, ValueError) as error:
        raise DomainError(f"perplexity.model {chosen.model!r}: {' '.join(str(error).split())}") from None
    return _own(chosen, keep_file(store, path, "perplexity", path.suffix))


def _file(name: str) -> pathlib.Path:
    path = pathlib.Path(name)
    if not path.is_file():
        raise DomainError(f"perplexity.model {name!r} is no file; give the path of an n-gram model")
    return path


def _own(chosen: Perplexity, model: Mapping[str, str]) -> dict[str, Any]:
    """Describe a recipe's own model, as it lies under models/."""
    return {
        "name": "perplexity", "kind": "kenlm" if chosen.is_kenlm else "ngram", "reads": chosen.reads, "models": [{"part": _WHOLE, **model}],
        "settings": None, "fitted_on": None, "n_cross_fitted": 0,
    }  # fmt: skip


def _reference_ids(store: Store, recipe: Recipe, ingested: Mapping[str, Ingested]) -> pa.Array:
    """Give the distinct doc_ids of the reference, in ascending order."""
    found = [store.read_table(path, ["doc_id"])["doc_id"].combine_chunks() for path in _reference_shards(recipe, ingested)]
    return pc.unique(pa.concat_arrays(found)).sort() if found else pa.array([], pa.string())


def _reference_shards(recipe: Recipe, ingested: Mapping[str, Ingested]) -> list[str]:
    return [shard.path for source in recipe.sources if source.role == "reference" for shard in ingested[source.name].shards]


def _fitted_on(store: Store, info: Mapping[str, Any]) -> pa.Array:
    return _documents(store.url(), _paths(info)[_DOCUMENTS])


def _fit(
    store: Store, recipe: Recipe, ingested: Mapping[str, Ingested], pinned: Mapping[str, Any] | None, doc_ids: pa.Array, *,
    halves: bool, run: Run,
) -> dict[str, Any]:  # fmt: skip
    """Fit the whole reference and, where they are wanted, its halves; a pinned model keeps its whole and only gets halves."""
    parts = [*([] if pinned else [_WHOLE]), *(_HALVES if halves else [])]
    sys.stderr.write(f"perplexity: fitting {', '.join(parts)} of {len(doc_ids):,} reference documents, order {recipe.perplexity.order}\n")
    with store.scratch() as folder:
        folder.mkdir()
        n_found = _sort_reference(store, folder, _reference_shards(recipe, ingested), doc_ids)
        if n_found < len(doc_ids):
            raise DomainError(
                f"rows are documents of the reference that the perplexity model of domain {recipe.domain!r} was fitted on, so halves of it "
                f"have to score them, but {len(doc_ids) - n_found} of its {len(doc_ids)} documents are in no source any more; fit it anew "
                "with --refit perplexity"
            )
        try:
            run.here(parts, functools.partial(_fit_part, folder, recipe.perplexity.order), label="fit perplexity")
        except ValueError as error:
            raise DomainError(f"the perplexity model cannot be fitted ({error}); check what the reference holds") from None
        models = [{"part": part, **keep_file(store, _part_path(folder, part), "perplexity", NGRAM_SUFFIX)} for part in parts]
        if pinned is not None:
            return {**pinned, "models": [*pinned["models"], *models]}
        (folder / "documents.txt").write_text("\n".join(doc_ids.to_pylist()))
        models.append({"part": _DOCUMENTS, **keep_file(store, folder / "documents.txt", "reference", ".txt")})
        whole = perplexity.load(str(_part_path(folder, _WHOLE)))
        return {
            "name": "perplexity", "kind": "ngram", "reads": READS[0], "models": models, "settings": _settings(recipe),
            "fitted_on": {"reference": len(doc_ids)}, "n_ngrams": list(whole.n_ngrams),
        }  # fmt: skip


def _sort_reference(store: Store, folder: pathlib.Path, shards: Sequence[str], doc_ids: pa.Array) -> int:
    """Write those of the documents that are there, each once, in the order of doc_id, to folder/reference.parquet; and count them."""
    connection = duckdb.connect(f"{folder}/reference.duckdb", config={"memory_limit": "1GB", "temp_directory": f"{folder}/spill"})
    connection.execute("CREATE TABLE documents (doc_id VARCHAR, text VARCHAR)")
    for shard in shards:
        table = store.read_table(shard, ["doc_id", "text"])
        connection.register("incoming", table.filter(pc.is_in(table["doc_id"], value_set=doc_ids)))
        connection.execute("INSERT INTO documents FROM incoming")
        connection.unregister("incoming")
    schema = pa.schema([("doc_id", pa.string()), ("text", pa.large_string())])
    query = "SELECT doc_id, any_value(text) AS text FROM documents GROUP BY doc_id ORDER BY doc_id"
    with pq.ParquetWriter(folder / "reference.parquet", schema) as writer:
        for batch in connection.sql(query).to_arrow_reader(_BATCH_ROWS):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))
    connection.close()
    return int(pq.read_metadata(folder / "reference.parquet").num_rows)


def _fit_part(folder: pathlib.Path, order: int, part: str) -> None:
    perplexity.save(perplexity.fit(_texts(folder, part), order=order), str(_part_path(folder, part)))


def _texts(folder: pathlib.Path, part: str) -> Iterator[TextBatch]:
    for batch in pq.ParquetFile(folder / "reference.parquet").iter_batches(_BATCH_ROWS):
        chosen = batch if part == _WHOLE else batch.filter(pa.array(fold_of(batch["doc_id"]) == _HALVES.index(part)))
        for piece in pieces(chosen):
            yield TextBatch.from_arrow(piece["text"])


def _part_path(folder: pathlib.Path, part: str) -> pathlib.Path:
    return folder / f"{part.replace(' ', '-')}{NGRAM_SUFFIX}"


def _by_fold(store_url: str, paths: Mapping[str, str], values: _Values, documents: pa.RecordBatch, texts: TextBatch) -> Sequence[pa.Array]:
    """Ask the model about documents; the other fold's half about those of the reference."""
    found = _bounded(values(_model(store_url, paths[_WHOLE]), texts))
    if _HALVES[0] not in paths:
        return [found]
    is_fitted = pc.is_in(documents["doc_id"], value_set=_documents(store_url, paths[_DOCUMENTS])).to_numpy(zero_copy_only=False)
    fold = fold_of(documents["doc_id"])
    for number, half in enumerate(_HALVES):
        is_other = is_fitted & (fold != number)
        if is_other.any():
            rows = pa.array(is_other)
            own = TextBatch.from_arrow(documents["text"].filter(rows))
            found = pc.replace_with_mask(found, rows, _bounded(values(_model(store_url, paths[half]), own)))
    return [found]


def _by_kenlm(store_url: str, path: str, reads: str, min_words: int, documents: pa.RecordBatch, texts: TextBatch) -> Sequence[pa.Array]:
    return [_bounded(perplexity.kenlm_perplexities(_kenlm(store_url, path), texts, reads=reads, min_words=min_words))]


def _bounded(found: pa.Array) -> pa.Array:
    return pc.if_else(pc.greater(found, _MOST), pa.scalar(_MOST, pa.float32()), found)


@functools.cache
def _model(store_url: str, path: str) -> NgramModel:
    """Open a model once per process."""
    return perplexity.load(str(Store(store_url).local(path)))


@functools.cache
def _kenlm(store_url: str, path: str) -> perplexity.KenlmModel:
    return perplexity.load_kenlm(str(Store(store_url).local(path)))


@functools.cache
def _documents(store_url: str, path: str) -> pa.Array:
    return pa.array(Store(store_url).read_bytes(path).decode().split("\n"), pa.string())
