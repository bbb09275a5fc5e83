"""What a change of the recipe would keep and drop, without publishing, counting or reading a text but those of a few samples: `curate try`.

Stands beside build and takes the same decision (decide.estimate) over what lies on disk: the rows and edges that `ready` keeps, the counts,
the pinned models. What does not lie there is not made up: it is named, and a build has to make it first. Tokens that nobody has counted
are estimated from their source's bytes per token, and marked.

The decision: the base is not decided again where its outcome is kept (outcome.py), which the build of it did. Cost at a million rows: one
decision (3 s of CPU), 1 s more to compare and to read samples, 1 s for the program to start; up to 1.2 GB of memory. A base that no build
has decided costs a second decision, once.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import duckdb
import pyarrow.parquet as pq

from curate import budget, corpus, edges, evalset, executor, families, models, outcome, paragraphs, ready, scoring, stages
from curate.annotate import Facts, band_facts
from curate.build import check_quarantine, corpus_facts, database, parent_of, refuse_lower_holdout
from curate.decide import estimate
from curate.executor import Run, Size
from curate.expressions import score_of
from curate.ingest import Ingested, ingest
from curate.manifest import Manifest, part_paths
from curate.outcome import OF_ROWS, Known
from curate.recipe import DomainError, Recipe
from curate.recipe_file import sample_dir
from curate.sandbox import file_list
from curate.store import Store
from curate.subset import quoted
from curate.whatif_samples import Sides, samples
from filters import CORPUS_FAMILIES

T = TypeVar("T")
# What the tables may take before they spill: a person waits.
_MEMORY = "2GB"
_FIRST = "run curate build with these settings first"
_COLUMNS = (
    "slot", "row_id", "source", "component", "shard", "row", "n_bytes", "quality", "perplexity", "split", "reason", "rank",
    "dup_similarity", "n_tokens", "n_estimated",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """What lies on disk for a decision by a recipe."""

    recipe: Recipe
    ingested: Mapping[str, Ingested]
    shards: tuple[str, ...]
    facts: Mapping[str, Facts]
    tokenizer: Mapping[str, Any]
    parent: Manifest | None

    @property
    def n_rows(self) -> int:
        return sum(self.ingested[source.name].n_rows for source in self.recipe.decided_sources())


@dataclasses.dataclass(frozen=True, slots=True)
class _Side:
    """One of the two outcomes: how to name it, what it adds up to, its stages of training, and SQL for its rows with _COLUMNS."""

    name: str
    groups: Sequence[Mapping[str, Any]]
    stages: Sequence[Mapping[str, Any]]
    rows: str
    has_where: bool
    score: str | None  # that is cut by


class _Nothing:
    """A `run` that computes nothing: whatever a stage would have to do first is missing."""

    @property
    def here(self) -> Run:
        return self

    def __call__(self, items: Sequence[T], fn: Callable[[T], object], *, label: str, sizes: Sequence[Size] | None = None) -> None:
        raise DomainError(f"the sources hold files that were never read (to {label}); {_FIRST}")


def what_if(store: Store, changed: Recipe, base: Recipe | Manifest) -> dict[str, Any]:
    """Compare the outcome of a changed recipe with that of a recipe or a version, as plain values.

    Raises DomainError, as a build does, for what is wrong, and where something that the decisions need is not on disk; CheckFailed where
    too much of a source is unreadable.
    """
    found = _find(store, changed)
    check_quarantine(changed, found.ingested)  # of the two recipes only this one is asked for
    with database(store, _MEMORY, found.n_rows) as connection:
        if isinstance(base, Recipe):
            below = _find(store, base)
            is_one = below.shards == found.shards
            with database(store, _MEMORY, below.n_rows) as other:  # its rows may be others
                below_known, path = _base(store, other, below, found if is_one else below)
            known = _open(store, connection, found, below if is_one else found)
            before = _of_recipe(store, connection, below_known, path, known.rows_path)
            key = "slot" if below_known.rows_path == known.rows_path else "row_id"
        else:
            known = _open(store, connection, found, found)
            before, key = _of_version(store, connection, base), "row_id"
        after, remarks = _decide(store, connection, known)
        _move(connection, key, before, after)
        sides = Sides(base, before.groups, changed, after.groups)
        return {
            "before": _totals(before),
            "after": _totals(after),
            "moves": _rows(connection, _MOVES),
            "reasons": _rows(connection, _REASONS),
            "samples": samples(store, connection, sides),
            "remarks": remarks,
            "sample": changed.is_sample,
        }


def _find(store: Store, recipe: Recipe) -> _Found:
    """Look for everything that a decision reads. Raises DomainError for what a build has to make first."""
    refuse_lower_holdout(store, recipe)
    if recipe.is_sample and not pathlib.Path(sample_dir(store)).exists():
        raise DomainError(f"the sample corpus was never written below {store.url()}; {_FIRST}")
    ingested = ingest(store, recipe.sources, run=_Nothing())
    of_texts = [name for name in recipe.families_to_compute() if name not in CORPUS_FAMILIES]
    facts = {name: families.facts_of(recipe.families, name) for name in of_texts}
    facts |= scoring.facts_of(store, scoring.known(store, recipe))
    tokenizer = models.known_tokenizer(store, recipe)
    if tokenizer is None:
        named = recipe.tokenizer.path or f"of domain {recipe.domain}"
        raise DomainError(f"the tokenizer {named} has never counted anything here; {_FIRST}")
    shards = tuple(shard.path.removeprefix("corpus/") for source in recipe.decided_sources() for shard in ingested[source.name].shards)
    needed = [*ready.facts_read(recipe, facts).values()]
    if "paragraphs" in recipe.families_to_compute():
        needed.append(paragraphs.paragraph_facts(recipe.paragraphs))
    for one in needed:
        if n_missing := sum(not store.exists(one.path(shard)) for shard in shards):
            raise DomainError(f"the facts of {one.name!r} are missing for {n_missing} of {len(shards)} shards; {_FIRST}")
    return _Found(recipe, ingested, shards, facts, tokenizer, parent_of(store, recipe))


def _open(store: Store, connection: duckdb.DuckDBPyConnection, found: _Found, with_facts_of: _Found) -> Known:
    """Make the tables `rows` and `frozen`; the rows have the facts that another recipe reads, too, so that one file serves both.

    What only all documents together tell is computed here where it is missing: that reads no text.
    """
    recipe, read, facts = found.recipe, dict[str, Facts](), dict[str, Facts]()
    for one in (with_facts_of, found):
        facts = {**one.facts, **corpus_facts(store, connection, one.recipe, found.shards, executor.local(1))}
        read |= ready.facts_read(one.recipe, facts)
    for score in corpus.SCORES:
        if score not in facts:
            read.pop(score, None)
    rows_path = ready.load_rows(store, connection, recipe, found.ingested, read)
    frozen = evalset.inherited(store, found.parent, recipe)
    ready.load_frozen(connection, frozen)
    edges_path = None
    if recipe.dedup.threshold is not None:
        edges_path = ready.edges_path(connection, recipe, found.ingested, band_facts(recipe.dedup))
        if not store.exists(edges_path):
            raise DomainError(f"near duplicates of these texts were never looked for with {_bands(recipe)}; {_FIRST}")
    taken_over = found.parent.info["evalset"]["digest"] if found.parent is not None and frozen is not None else None
    return Known(recipe, facts, rows_path, edges_path, found.tokenizer, taken_over)


def _bands(recipe: Recipe) -> str:
    bands, rows = recipe.dedup.shape
    return f"{bands} bands of {rows} rows"


def _base(store: Store, connection: duckdb.DuckDBPyConnection, found: _Found, with_facts_of: _Found) -> tuple[Known, str]:
    """Give what the recipe as it stands reads, and the file of its outcome, which is decided where no build has done so."""
    known = _open(store, connection, found, with_facts_of)
    path = outcome.path_of(store, known)
    if not store.exists(path):
        try:
            _estimate(store, connection, known)
            outcome.keep(store, connection, known, stages.describe(connection, known.recipe))
        except DomainError as error:
            raise DomainError(f"without the settings: {error}; compare with a version instead: --against vN") from None
    return known, path


def _estimate(store: Store, connection: duckdb.DuckDBPyConnection, known: Known) -> None:
    if known.edges_path is None:
        connection.execute(edges.NO_EDGES)
    else:
        ready.load_edges(store, connection, known.edges_path)
    corpus.load_counts(store, connection, known.tokenizer)
    estimate(connection, known.recipe)
    connection.execute(_DECIDED)


def _decide(store: Store, connection: duckdb.DuckDBPyConnection, known: Known) -> tuple[_Side, list[str]]:
    _estimate(store, connection, known)
    recipe = known.recipe
    described = stages.describe(connection, recipe)
    relation = OF_ROWS.format(outcome="outcome")
    side = _Side(
        "with the settings", outcome.groups(connection, "outcome"), described, relation, recipe.select.where is not None,
        score_of(recipe.select),
    )  # fmt: skip
    stops = [f"a build would stop: {breach.what}; go on with --accept dedup" for breach in budget.breaches(connection, recipe)]
    return side, [*stops, *stages.warnings(described)]


def _of_recipe(store: Store, connection: duckdb.DuckDBPyConnection, known: Known, path: str, rows_path: str) -> _Side:
    """Open a kept outcome as the view `before`; its rows are those of `rows` or lie in another file than these."""
    local = str(store.local(path))
    told = {name.decode(): json.loads(value) for name, value in pq.read_schema(local).metadata.items()}
    connection.execute(f"CREATE VIEW before AS FROM read_parquet({quoted(local)})")
    relation = OF_ROWS.format(outcome="before")
    if known.rows_path != rows_path:
        connection.execute(f"ATTACH {quoted(str(store.local(known.rows_path)))} AS other (READ_ONLY)")
        connection.execute("CREATE VIEW other_rows AS SELECT rowid, * FROM other.rows")
        relation = relation.replace("JOIN rows ON", "JOIN other_rows AS rows ON")
    select = known.recipe.select
    return _Side("the recipe", told["groups"], told["stages"], relation, select.where is not None, score_of(select))


def _of_version(store: Store, connection: duckdb.DuckDBPyConnection, version: Manifest) -> _Side:
    if not store.is_local:
        connection.register_filesystem(store.fs)
    files = file_list([store.url(path) for path in part_paths(store, version)])
    columns = ", ".join(f'"{name}"' for name in _COLUMNS if name not in ("slot", "n_estimated"))
    connection.execute(
        f"CREATE VIEW before AS SELECT NULL::BIGINT AS slot, {columns}, n_tokens::BIGINT AS n_estimated FROM read_parquet({files})"
    )
    select = version.info["recipe"]["select"]
    return _Side(
        version.version, outcome.groups(connection, "before"), version.info["stages"], "before", "where" in select, score_of(select)
    )


def _move(connection: duckdb.DuckDBPyConnection, key: str, before: _Side, after: _Side) -> None:
    """Make the table `moved` and the view `moved_rows`, by a key that both sides have: the slot where both are over the same rows."""
    if key == "slot":
        connection.execute(_KEYS.format(key=key, before="before", after="outcome"))
        connection.execute(_MOVED_SLOTS)
    else:
        connection.execute(_KEYS.format(key=key, before=before.rows, after=after.rows))
        connection.execute(_MOVED_ROWS.format(key=key, before=before.rows, after=after.rows))


def _totals(side: _Side) -> dict[str, Any]:
    kept = [group for group in side.groups if outcome.is_kept(group)]
    domain = [group for group in kept if outcome.is_domain(group)]
    ranked = [group for group in side.groups if outcome.is_ranked(group) and outcome.is_domain(group)]
    lowest = [group["lowest_quality"] for group in domain if group["lowest_quality"] is not None]
    highest = [group["highest_perplexity"] for group in domain if group["highest_perplexity"] is not None]
    return {
        "name": side.name,
        "kept": outcome.total(kept),
        "funnel": outcome.funnel(side.groups, has_where=side.has_where),
        "sources": {
            name: outcome.total(group for group in kept if group["source"] == name)
            for name in sorted({group["source"] for group in side.groups})
        },
        "mean_quality": {"domain": outcome.mean_quality(domain), "all": outcome.mean_quality(kept)},
        "mean_perplexity": {"domain": outcome.mean_perplexity(domain), "all": outcome.mean_perplexity(kept)},
        "cut": {
            "last_rank": max((group["last_rank"] for group in domain), default=0),
            "ranked": sum(group["rows"] for group in ranked),
            "quality": round(min(lowest), 4) if side.score == "quality" and lowest else None,
            "perplexity": round(max(highest), 4) if side.score == "perplexity" and highest else None,
        },
        "components": [
            {"stage": stage["name"], "epochs": stage["epochs"],
             **{name: part[name] for name in ("name", "share", "epoch_tokens", "pool_tokens", "repeats")}}
            for stage in side.stages
            for part in stage["components"]
        ],
    }  # fmt: skip


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = connection.sql(query).to_arrow_table().to_pylist()
    return found


# What `stages` and `budget` read of a decision, with the estimate where there is no count.
_DECIDED = """
CREATE OR REPLACE VIEW decided AS
SELECT row_id, outcome.source, outcome.component, n_estimated AS n_tokens, stages, split, reason, is_eligible, dup_of
FROM outcome JOIN rows ON rows.rowid = slot
"""

# The rows that one of the two keeps, as a table, so that the joins below know how few they are.
_KEYS = """
CREATE TABLE keys AS
WITH was AS (SELECT {key} FROM {before} WHERE split = 'train'),
now AS (SELECT {key} FROM {after} WHERE split = 'train')
SELECT {key}, 'out' AS direction FROM was ANTI JOIN now USING ({key})
UNION ALL SELECT {key}, 'in' FROM now ANTI JOIN was USING ({key})
"""

# They with what either says of them. `moved_rows` adds where they lie: of rows in one file only the few that are shown are looked up.
_SAYS = """
    direction,
    CASE direction WHEN 'out' THEN coalesce(a.reason, a.split, 'not read') ELSE coalesce(b.reason, b.split, 'not read') END AS reason,
    CASE direction WHEN 'out' THEN a.rank ELSE b.rank END AS rank,
    CASE direction WHEN 'out' THEN a.dup_similarity ELSE b.dup_similarity END AS dup_similarity,
    CASE direction WHEN 'out' THEN b.n_estimated ELSE a.n_estimated END AS n_tokens,
    CASE direction WHEN 'out' THEN b.n_tokens ELSE a.n_tokens END IS NULL AS is_estimated
"""
_MOVED_SLOTS = f"""
CREATE TABLE moved AS
SELECT slot, a.source::VARCHAR AS source, a.component::VARCHAR AS component, {_SAYS}
FROM keys JOIN before AS b USING (slot) JOIN outcome AS a USING (slot);
CREATE VIEW moved_rows AS
SELECT moved.*, row_id, shard::VARCHAR AS shard, "row", quality, perplexity FROM moved JOIN rows ON rows.rowid = slot
"""
# `slot` is that of `rows`, null where it has them no more.
_MOVED_ROWS = f"""
CREATE TABLE moved AS
SELECT coalesce(b.source, a.source)::VARCHAR AS source, coalesce(b.component, a.component)::VARCHAR AS component, a.slot AS slot,
    coalesce(b.row_id, a.row_id) AS row_id, coalesce(a.shard, b.shard)::VARCHAR AS shard,
    CASE WHEN a.shard IS NULL THEN b."row" ELSE a."row" END AS "row", coalesce(a.quality, b.quality) AS quality,
    coalesce(a.perplexity, b.perplexity) AS perplexity, {_SAYS}
FROM keys LEFT JOIN {{before}} AS b USING ({{key}}) LEFT JOIN {{after}} AS a USING ({{key}});
CREATE VIEW moved_rows AS FROM moved
"""

_SUMS = "count(*) AS rows, sum(n_tokens)::BIGINT AS n_tokens, bool_or(is_estimated) AS estimated"
_MOVES = f"SELECT direction, source, {_SUMS} FROM moved GROUP BY ALL ORDER BY source, direction DESC"
_REASONS = f"SELECT direction, reason, {_SUMS} FROM moved GROUP BY ALL ORDER BY direction DESC, rows DESC, reason"
