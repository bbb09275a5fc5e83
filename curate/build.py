"""The order of the stages, readable on one screen: ingest, quality, annotate, facts of the corpus, edges, tokenizer, decide (and count),
the budget of dedup, evalset, publish.

Each stage finds its finished work by content and goes on from there, so running a build again is the way to resume it.
The decision's tables live in memory, or, where that is too small, in a DuckDB file in the scratch folder, which is thrown away.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
from rich.console import Console

from curate import (
    budget,
    corpus,
    edges,
    evalset,
    families,
    manifest,
    models,
    outcome,
    paragraphs,
    ready,
    report,
    scoring,
    stages,
    tokens,
    urls,
)  # fmt: skip
from curate.annotate import Facts, annotate, band_facts
from curate.decide import decide
from curate.executor import Run, Size
from curate.expressions import guard_note
from curate.ingest import Ingested, ingest
from curate.manifest import Manifest, ManifestError
from curate.portable import portable
from curate.recipe import DomainError, Recipe
from curate.recipe_file import sample_dir
from curate.sample import make_sample
from curate.store import Store
from filters import CORPUS_FAMILIES

# What the tables of a decision may take before they spill to disk.
MEMORY = "400MB"
# What a row takes of it, at least: of one million rows 400 MB was enough, spilled, and of five million it was not.
_ROW_BYTES = 380
_SOFTWARE = ("gapless", "duckdb", "fasttext-numpy2", "numba", "numpy", "pyarrow", "tokenizers")


class CheckFailed(RuntimeError):
    """The input was readable, but a stated limit was passed: nothing was published."""


@dataclasses.dataclass(frozen=True, slots=True)
class Built:
    """What a build ended with; `is_new` is False where an older version had decided the same."""

    manifest: Manifest
    is_new: bool


def build(
    store: Store, recipe: Recipe, *, run: Run,
    rehash: bool = False, refit: Collection[str] = (), accept: Collection[str] = (), memory: str = MEMORY,
) -> Built:  # fmt: skip
    """Build the next version of a manifest, or name the one that is equal.

    `memory` bounds the tables of the decision, which spill to disk beyond it, as DuckDB writes sizes.
    `accept` names the checks (of budget.ACCEPTS) that may fail. Raises DomainError for wrong input and CheckFailed where more rows than
    `quarantine.max_share` are unreadable or dedup takes more than its budget; in all cases nothing is published.
    """
    if memory != MEMORY:
        _check_memory(memory)
    store.sweep()
    refuse_lower_holdout(store, recipe)
    if recipe.is_sample:
        ensure_sample(store)
    if guard := guard_note(recipe.select):
        sys.stderr.write(f"{guard}\n")
    of_texts = [name for name in recipe.families_to_compute() if name not in CORPUS_FAMILIES]
    facts = {name: families.facts_of(recipe.families, name) for name in of_texts}
    ingested = ingest(store, recipe.sources, run=run, rehash=rehash)
    check_quarantine(recipe, ingested)
    parent = parent_of(store, recipe)
    frozen = evalset.inherited(store, parent, recipe)
    found = scoring.resolve(store, recipe, ingested, refit=refit, run=run)
    facts |= scoring.facts_of(store, found)
    bands = None if recipe.dedup.threshold is None else band_facts(recipe.dedup)
    shards = _annotate(store, recipe, ingested, [*facts.values(), *([bands] if bands else [])], run)
    with database(store, memory, sum(ingested[source.name].n_rows for source in recipe.decided_sources())) as connection:
        facts |= corpus_facts(store, connection, recipe, shards, run)
        rows_path = ready.load_rows(store, connection, recipe, ingested, ready.facts_read(recipe, facts))
        ready.load_frozen(connection, frozen)
        edges_path, linked = _link(store, connection, recipe, ingested, bands, frozen, run)
        tokenizer = models.resolve_tokenizer(store, connection, recipe, refit="tokenizer" in refit)
        _decide(store, connection, recipe, tokenizer, frozen, run)
        accepted = _accepted(store, connection, recipe, accept)
        drawn = _drawn(connection, recipe)
        exam = evalset.kept(store, evalset.drawn(connection, recipe), recipe.components()) if frozen is None else _inherited(parent)
        info = {
            "domain": recipe.domain,
            "parent": None if parent is None else parent.version,
            "recipe": families.with_code(portable(recipe), facts),
            "sample": recipe.is_sample,
            "inputs": _inputs(recipe, ingested),
            "tokenizer": tokenizer,
            "scorers": found,
            "families": families.described(recipe.families, facts),
            "edges": None if linked is None else dataclasses.asdict(linked),
            "accepted": accepted,
            **drawn,
            "evalset": exam,
            "seed": recipe.seed,
            "funnel": report.funnel(connection, has_where=recipe.select.where is not None),
            "software": {name: _version(name) for name in _SOFTWARE},
        }
        known = outcome.Known(recipe, facts, rows_path, edges_path, tokenizer, exam["digest"])
        kept_path = outcome.keep(store, connection, known, drawn["stages"])
        sys.stderr.write("publish\n")
        before = manifest.versions(store)
        published = manifest.publish(store, connection, info)
        ready.forget_others(store, recipe.domain, rows=rows_path, edges=edges_path, outcome=kept_path)
    return Built(published, is_new=published.version not in before)


def _inherited(parent: Manifest | None) -> dict[str, Any]:
    assert parent is not None, "only a parent's list is inherited"
    exam: dict[str, Any] = parent.info["evalset"]
    return exam


def check_quarantine(recipe: Recipe, ingested: Mapping[str, Ingested]) -> None:
    """Stop where too many rows were unreadable, or a source gave none at all; say which and why.

    What is sound but no page (a status of 404, an image) is said, too, but is no fault: a crawl is full of it.
    """
    for name, source in ingested.items():
        if source.wholly_unreadable:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(source.reasons.items()))
            what = "is wholly unreadable" if source.n_quarantined > source.n_no_page else "holds no page"
            raise CheckFailed(f"source {name!r} {what} ({reasons}); look at cache/quarantine/{name}, correct it or take the source out")
    bad = sum(source.n_quarantined - source.n_no_page for source in ingested.values())
    aside = sum(source.n_quarantined for source in ingested.values())
    total = bad + sum(source.n_rows for source in ingested.values())
    if bad > recipe.quarantine.max_share * total:
        raise CheckFailed(
            f"{bad} of {total} rows ({bad / total:.2%}) are quarantined, more than the {recipe.quarantine.max_share:.2%} allowed; "
            "look at cache/quarantine, correct the input or raise quarantine.max_share"
        )
    if aside:
        reasons = ", ".join(
            f"{name}: {count} {reason}" for name, source in ingested.items() for reason, count in sorted(source.reasons.items())
        )
        sys.stderr.write(f"quarantine: {aside} of {total + aside - bad} rows kept aside ({reasons}); see cache/quarantine\n")


def _check_memory(memory: str) -> None:
    try:
        duckdb.connect(config={"memory_limit": memory}).close()
    except duckdb.Error as error:
        raise DomainError(f"--memory is {memory!r} ({' '.join(str(error).split())}); it takes a size, as in 4GB or 500MB") from None


def _annotate(store: Store, recipe: Recipe, ingested: Mapping[str, Ingested], facts: list[Facts], run: Run) -> list[str]:
    """Compute what texts tell, and give the shards (relative to corpus/) of the rows that are decided."""
    shards = [shard.path.removeprefix("corpus/") for source in recipe.decided_sources() for shard in ingested[source.name].shards]
    if "paragraphs" in recipe.families_to_compute():
        facts = [*facts, paragraphs.paragraph_facts(recipe.paragraphs)]
    annotate(store, shards, facts, run=run)
    return shards


def corpus_facts(store: Store, connection: duckdb.DuckDBPyConnection, recipe: Recipe, shards: Sequence[str], run: Run) -> dict[str, Facts]:
    """Compute what only all documents together tell, where the recipe asks for it."""
    needed, found = recipe.families_to_compute(), {}
    if "paragraphs" in needed:
        found["paragraphs"] = paragraphs.repeated_facts(store, connection, recipe.paragraphs, shards, run=run)
    if "urls" in needed:
        found["urls"] = urls.url_facts(store, connection, shards)
    return found


def _link(
    store: Store, connection: duckdb.DuckDBPyConnection, recipe: Recipe, ingested: Mapping[str, Ingested], bands: Facts | None,
    frozen: pa.Table | None, run: Run,
) -> tuple[str | None, edges.Linked | None]:  # fmt: skip
    """Make the table `edges`, which is empty where the recipe wants exact copies only, and say where it is kept. Documents of the evalset
    that are in no source any more are linked, too, so that no near copy of them is trained on."""
    if bands is None:
        connection.execute(edges.NO_EDGES)
        return None, None
    path = ready.edges_path(connection, recipe, ingested, bands)
    if store.exists(path):
        return path, ready.load_edges(store, connection, path)
    shards = [] if frozen is None else frozen["shard"].unique().to_pylist()
    for shard in shards:
        if not store.exists(f"corpus/{shard}"):
            raise ManifestError(
                f"corpus/{shard}, which holds documents of the evalset, is missing; restore it, or draw a new one with "
                "--set evalset='\"new\"'"
            )
    annotate(store, shards, [bands], run=run)
    found = edges.link(store, connection, bands, run=run)
    ready.keep_edges(store, connection, path, found)
    return path, found


def _decide(
    store: Store, connection: duckdb.DuckDBPyConnection, recipe: Recipe, tokenizer: Mapping[str, Any], frozen: pa.Table | None, run: Run
) -> None:
    corpus.load_counts(store, connection, tokenizer)
    if frozen is not None:
        _count(store, connection, tokenizer, _uncounted(connection, frozen), run)
    sys.stderr.write("decide\n")
    while (wanted := decide(connection, recipe)) is not None:
        _count(store, connection, tokenizer, wanted.rows, run)


def _accepted(store: Store, connection: duckdb.DuckDBPyConnection, recipe: Recipe, accept: Collection[str]) -> list[str]:
    """Stop where dedup takes more than its budget; or name the checks that failed and that a person accepted."""
    found = budget.breaches(connection, recipe)
    if not found:
        return []
    if "dedup" not in accept:
        console = Console(stderr=True) if sys.stderr.isatty() else Console(stderr=True, width=160)
        budget.print_samples(store, connection, recipe, found, console=console)
        raise CheckFailed(budget.advice(found))
    for breach in found:
        sys.stderr.write(f"dedup: accepted: {breach.what}\n")
    return ["dedup"]


def _count(store: Store, connection: duckdb.DuckDBPyConnection, tokenizer: Mapping[str, Any], wanted: pa.Table, run: Run) -> None:
    work = tokens.split_work(store, tokenizer, wanted)
    run(work, tokens.count, label="count", sizes=[Size(one.rows.num_rows, one.n_bytes) for one in work])
    corpus.load_counts(store, connection, tokenizer)


def _uncounted(connection: duckdb.DuckDBPyConnection, frozen: pa.Table) -> pa.Table:
    connection.register("frozen_rows", frozen)
    return connection.sql(
        'SELECT doc_id, shard, "row", n_bytes, masks FROM frozen_rows'
        " WHERE NOT EXISTS (FROM counts WHERE counts.doc_id = frozen_rows.doc_id AND counts.masks_key = masks_key(masks))"
        ' ORDER BY shard, "row"'
    ).to_arrow_table()


def _drawn(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> dict[str, Any]:
    """Describe for manifest.json what training draws, and warn of what is seen too often."""
    described = stages.describe(connection, recipe)
    for warning in stages.warnings(described):
        sys.stderr.write(f"warning: {warning}\n")
    strata = {"strata": stages.strata(connection)} if recipe.select.stratify_by else {}
    return {"stages": described, "repeats": stages.total_repeats(described), **strata}


def refuse_lower_holdout(store: Store, recipe: Recipe) -> None:
    """Raise DomainError where a source would hold out less than some version did."""
    for version in manifest.versions(store):
        inputs = manifest.load(store, version).info["inputs"]
        for source in recipe.decided_sources():
            before = inputs.get(source.name, {}).get("holdout_share") or 0.0
            if recipe.holdout_share(source) < before:
                raise DomainError(
                    f"source {source.name!r} holds out {recipe.holdout_share(source):g}, but {version} held out {before:g}; "
                    f"held-out text must never be trained on: set holdout.share to {before:g} or more, or use another --root"
                )


def ensure_sample(store: Store) -> None:
    """Write the sample corpus of a root where it is not there yet."""
    target = pathlib.Path(sample_dir(store))
    if target.exists():
        return
    with store.scratch() as path:
        make_sample(str(path))
        if store.is_local:
            store.adopt_dir(path, "cache/sample")
        else:
            os.rename(path, target)  # sources are read where they lie, and this one lies here


def parent_of(store: Store, recipe: Recipe) -> Manifest | None:
    """Give the last version of a recipe's domain."""
    for version in reversed(manifest.versions(store)):
        if (found := manifest.load(store, version)).info["domain"] == recipe.domain:
            return found
    return None


def _inputs(recipe: Recipe, ingested: Mapping[str, Ingested]) -> dict[str, Any]:
    decided = recipe.decided_sources()
    return {
        source.name: {
            "role": source.role,
            "component": source.component,
            "holdout_share": recipe.holdout_share(source) if source in decided else None,
            "n_rows": ingested[source.name].n_rows,
            "n_quarantined": ingested[source.name].n_quarantined,
            "quarantine_reasons": dict(ingested[source.name].reasons),
            "files": sorted(ingested[source.name].file_digests),
            "shards": [{"path": shard.path, "rows": shard.rows} for shard in ingested[source.name].shards],
        }
        for source in recipe.sources
    }


@contextlib.contextmanager
def database(store: Store, memory: str, n_rows: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Lend a database for the tables of a decision over so many rows, which spill beyond this much memory.

    Raises CheckFailed where that does not do.
    """
    with store.scratch() as folder:
        folder.mkdir()
        config: dict[str, str | bool | int | float | list[str]] = {"memory_limit": memory, "temp_directory": f"{folder}/spill"}
        connection = duckdb.connect(config=config)
        [(limit,)] = connection.execute("SELECT parse_formatted_bytes(current_setting('memory_limit'))").fetchall()
        if n_rows * _ROW_BYTES > limit:  # a file of DuckDB's own spills better, but compresses tables that live for seconds
            connection.close()
            connection = duckdb.connect(f"{folder}/decision.duckdb", config=config)
        try:
            yield connection
        except duckdb.OutOfMemoryException:
            raise CheckFailed(
                f"the decision does not fit into --memory {memory}, even with what can be spilled to disk; run the same command again "
                "with more, as in --memory 4GB: finished work is kept"
            ) from None
        finally:
            connection.close()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
