"""What a decision reads, kept from one decision to the next: the rows of a corpus with their facts, and the edges between its texts.

Stands between annotate and decide. Neither depends on a threshold, a ranking or a mixture, so a changed recipe starts where the last
decision did: `try` shows what moves in seconds, and a build decides anew without reading every shard. Both are caches below
`cache/ready/DOMAIN`. The rows are a DuckDB file that holds what it was made of and is named by its bytes, so that a place in it (a slot)
means one row for ever; it serves every decision that reads the same rows and no family that is missing. The edges are Parquet, named by the
texts and the bands.

Cost: some 130 bytes a row on disk and 8 more a row and signal, written once where they would otherwise go to the scratch folder; opening
them takes milliseconds. A build of the domain removes what is older than itself.
"""

from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

from curate import corpus, edges
from curate.annotate import Facts
from curate.decide import families_read, holdout_bound
from curate.edges import Linked
from curate.ingest import Ingested
from curate.manifest import MACROS, batches
from curate.recipe import Recipe
from curate.store import Store, digest_of, file_digest, parquet_writer
from curate.subset import quoted

# Raised whenever what is kept changes its meaning.
_VERSION = 2
_EDGES = pa.schema([
    ("doc_a", pa.string()), ("doc_b", pa.string()), ("similarity", pa.float32()), ("containment_a", pa.float32()),
    ("containment_b", pa.float32()),
])  # fmt: skip


def folder_of(domain: str) -> str:
    """Name the folder of what is kept for the decisions of a domain."""
    return f"cache/ready/{domain}"


def facts_read(recipe: Recipe, facts: Mapping[str, Facts]) -> dict[str, Facts]:
    """Pick the facts that a decision by this recipe reads of each row."""
    names = dict.fromkeys([*families_read(recipe), *(["paragraphs"] if recipe.paragraphs.mask else []), *corpus.SCORES])
    return {name: facts[name] for name in names if name in facts}


def load_rows(
    store: Store,
    connection: duckdb.DuckDBPyConnection,
    recipe: Recipe,
    ingested: Mapping[str, Ingested],
    facts: Mapping[str, Facts],
) -> str:
    """Make the view `rows` (see corpus.load_rows), with `rowid`, and name the file behind it, which is written where there is none."""
    connection.execute(MACROS)
    bounds = {source.name: holdout_bound(recipe.holdout_share(source)) for source in recipe.decided_sources()}
    made_of = {
        "version": _VERSION,
        "duckdb": duckdb.__version__,
        "sources": [
            [place, source.name, corpus.component_of(source), bounds[source.name], [shard.path for shard in ingested[source.name].shards]]
            for place, source in enumerate(recipe.sources)
            if source in recipe.decided_sources()
        ],
        "scores": [facts[name].folder if name in facts else None for name in corpus.SCORES],  # without one the column is null
        "masks": facts["paragraphs"].folder if recipe.paragraphs.mask else None,
    }
    folders = {name: one.folder for name, one in facts.items()}
    for path in store.files(folder_of(recipe.domain), ".duckdb"):
        if _is_attached(store, connection, path, made_of, folders):
            return path
    with store.scratch() as scratch:
        [(database,)] = connection.execute("SELECT current_database()").fetchall()
        connection.execute(f"ATTACH {quoted(str(scratch))} AS fresh; USE fresh")
        corpus.load_rows(store, connection, recipe, ingested, bounds, facts)
        known = "CREATE TABLE made_of AS SELECT $1 AS digest, $2::MAP(VARCHAR, VARCHAR) AS folders"
        connection.execute(known, [digest_of(made_of), folders])
        connection.execute(f"USE {database}; DETACH fresh")
        path = f"{folder_of(recipe.domain)}/rows-{file_digest(scratch)[:32]}.duckdb"
        store.adopt(scratch, path)
    assert _is_attached(store, connection, path, made_of, folders), path
    return path


def load_frozen(connection: duckdb.DuckDBPyConnection, frozen: pa.Table | None) -> None:
    """Make the table `frozen`: the documents of the evalset that is taken over."""
    connection.execute('CREATE OR REPLACE TABLE frozen (doc_id VARCHAR, "group" VARCHAR, shard VARCHAR, "row" INTEGER)')
    if frozen is not None:
        connection.register("incoming", frozen)
        connection.execute('INSERT INTO frozen SELECT doc_id, "group", shard, "row" FROM incoming')
        connection.unregister("incoming")


def edges_path(connection: duckdb.DuckDBPyConnection, recipe: Recipe, ingested: Mapping[str, Ingested], bands: Facts) -> str:
    """Say where the edges over the texts of these sources and of the table `frozen` are kept, or would be."""
    shards = sorted(shard.path.removeprefix("corpus/") for source in recipe.decided_sources() for shard in ingested[source.name].shards)
    # A frozen document is in the corpus as long as its shard is.
    more = connection.execute("SELECT doc_id FROM frozen WHERE NOT list_contains($1, shard) ORDER BY doc_id", [shards]).fetchall()
    texts = digest_of([shards, [row[0] for row in more]])
    how = digest_of([_VERSION, bands.folder, edges.HOT_BAND, edges.IS_EDGE])
    return f"{folder_of(recipe.domain)}/edges-{texts[:32]}-{how[:16]}.parquet"


def load_edges(store: Store, connection: duckdb.DuckDBPyConnection, path: str) -> Linked:
    """Make the table `edges` (see edges.link) of what was kept, and say how it came about."""
    table = store.read_table(path)
    connection.register("incoming", table)
    connection.execute("CREATE OR REPLACE TABLE edges AS FROM incoming")
    connection.unregister("incoming")
    return Linked(**{name.decode(): int(value) for name, value in table.schema.metadata.items()})


def keep_edges(store: Store, connection: duckdb.DuckDBPyConnection, path: str, found: Linked) -> None:
    """Keep the table `edges` for the next decision, at its `edges_path`."""
    counts = {"n_candidates": found.n_candidates, "n_edges": found.n_edges, "n_skipped": found.n_skipped}
    schema = _EDGES.with_metadata({name: str(count) for name, count in counts.items()})
    with store.scratch() as scratch:
        with parquet_writer(scratch, schema) as writer:
            for batch in batches(connection, f"SELECT {', '.join(schema.names)} FROM edges ORDER BY doc_a, doc_b"):
                writer.write_table(pa.Table.from_batches([batch]).cast(schema))
        store.adopt(scratch, path)


def forget_others(store: Store, domain: str, *, rows: str, edges: str | None, outcome: str) -> None:
    """Remove what was kept for the decisions of a domain, but for these files, and edges over the same texts by other bands."""
    of_texts = None if edges is None else edges.rpartition("-")[0]
    for path in store.files(folder_of(domain)):
        is_edges = path.startswith(f"{folder_of(domain)}/edges-")
        is_kept = (of_texts is None or path.startswith(of_texts)) if is_edges else path in (rows, outcome)
        if not is_kept:
            store.remove(path)


def _is_attached(
    store: Store, connection: duckdb.DuckDBPyConnection, path: str, made_of: Mapping[str, Any], folders: Mapping[str, str]
) -> bool:
    """Put a file behind the view `rows` where it is of these sources and has these facts; a file that cannot be opened is none."""
    connection.execute("DROP VIEW IF EXISTS rows; DETACH DATABASE IF EXISTS at_hand")
    try:
        connection.execute(f"ATTACH {quoted(str(store.local(path)))} AS at_hand (READ_ONLY)")
        [(digest, known)] = connection.execute("SELECT digest, folders FROM at_hand.made_of").fetchall()
    except (duckdb.Error, OSError):  # another process may have removed it just now
        return False
    if digest != digest_of(made_of) or any(known.get(name) != folder for name, folder in folders.items()):
        return False
    connection.execute("CREATE VIEW rows AS SELECT rowid, * FROM at_hand.rows")
    return True
