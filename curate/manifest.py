"""The contract between curation and training: what a version holds, how it is written, read, drawn from and digested.

A version is a folder of Parquet parts, one row for every row of the candidate and replay sources, and manifest.json,
written last: without it the version does not exist. Nothing is ever changed in place. `train` imports this module, so
nothing here knows how a decision is made.
"""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate.store import Store, digest_of, file_digest, parquet_writer

SCHEMA_VERSION = 1
SPLITS = ("train", "holdout", "dropped")
_PART_ROWS = 200_000
_VERSION = re.compile(r"v[1-9][0-9]*")

MASKS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())]))
_CATEGORY = pa.dictionary(pa.int32(), pa.string())

# Column -> (type, nullable, meaning). manifests/README.md shows this table to people; a test compares the two.
COLUMNS: dict[str, tuple[pa.DataType, bool, str]] = {
    "row_id": (pa.string(), False, "names this occurrence of a text in a source; 32 hex digits"),
    "doc_id": (pa.string(), False, "names the normalised text; 32 hex digits; unique among the rows of split train"),
    "group": (pa.string(), False, "article, thread, patient or site that is never split between training and holdout; default doc_id"),
    "source": (_CATEGORY, False, "as the recipe names it"),
    "source_id": (pa.string(), True, "as the source names the row"),
    "component": (_CATEGORY, False, "part of the mixture that the row belongs to; `domain` for candidates"),
    "stages": (pa.list_(pa.int8()), False, "stages that may draw the row; empty unless split is train"),
    "shard": (_CATEGORY, False, "file that holds the text, relative to corpus/"),
    "row": (pa.int32(), False, "place of the text in the shard, from 0"),
    "url": (pa.string(), True, "as the source states it"),
    "licence": (pa.string(), True, "as the source states it"),
    "lang": (pa.string(), True, "as the source states it"),
    "date": (pa.string(), True, "as the source states it"),
    "n_bytes": (pa.int64(), False, "UTF-8 bytes of the normalised text"),
    "n_words": (pa.int32(), False, "words by the rule of docs/words.md"),
    "n_tokens": (pa.int32(), True, "tokens after masks, separators included, under the manifest's tokenizer; null on every dropped row"),
    "masks": (MASKS, False, "byte spans of the text that training leaves out, replaces or takes without loss"),
    "quality": (pa.float32(), True, "score of the quality classifier that manifest.json names; null where there is none"),
    "perplexity": (pa.float32(), True, "perplexity under the reference model that manifest.json names; null where there is none"),
    "dup_of": (pa.string(), True, "row_id of the kept row in its place"),
    "dup_kind": (pa.string(), True, "how the two are alike: exact, jaccard or containment"),
    "dup_similarity": (pa.float32(), True, "the verified value, 0 to 1"),
    "contaminated": (pa.list_(pa.string()), True, "benchmarks that it overlaps with; null where that was not checked"),
    "split": (pa.string(), False, "train, holdout or dropped"),
    "reason": (pa.string(), True, "the first thing that dropped it; null when it was kept"),
    "rank": (pa.int64(), True, "its place in its component's order of selection, from 1; null where it was not ranked"),
}
SCHEMA = pa.schema([pa.field(name, kind, nullable=nullable) for name, (kind, nullable, _) in COLUMNS.items()])

# How a row enters a digest: plain JSON of these values, floats as decimals of four digits so that no printing rule matters.
_DECIMAL = ("quality", "perplexity", "dup_similarity")
_KEPT = ("row_id", "doc_id", "component", "stages", "n_tokens", "masks")
# What a stage may be ordered by: numbers and dates that every version has.
ORDER_COLUMNS = ("quality", "perplexity", "rank", "n_bytes", "n_words", "n_tokens", "date")
SHUFFLE = "shuffle"
_ORDER = re.compile(rf"({'|'.join(ORDER_COLUMNS)})(?: (ASC|DESC))?")


class ManifestError(ValueError):
    """A version, or what it needs, is not there or not as it was written: the person who named it acts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Component:
    """One part of a stage's mixture. `epoch_tokens` is what an epoch draws, `pool_tokens` what it may draw from."""

    name: str
    share: float
    epoch_tokens: int
    pool_tokens: int
    redraw: str


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of training with one mixture; the documents of each component are shuffled, or come in an order (see `stage_order`)."""

    name: str
    epochs: int
    epoch_tokens: int
    components: tuple[Component, ...]
    order: str = SHUFFLE


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """A published version: its number and its manifest.json."""

    version: str
    info: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return str(self.info["fingerprint"])

    @property
    def is_sample(self) -> bool:
        return bool(self.info["sample"])

    @property
    def seed(self) -> int:
        return int(self.info["seed"])

    @property
    def tokenizer(self) -> dict[str, Any]:
        return dict(self.info["tokenizer"])

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(_stage(stage) for stage in self.info["stages"])


def stage_order(order: str) -> tuple[str, str] | None:
    """Read the order of a stage: a column of a version with ASC or DESC, or None for a shuffle. Raises ManifestError for anything else."""
    if order == SHUFFLE:
        return None
    if (match := _ORDER.fullmatch(order)) is None:
        raise ManifestError(f"a stage is ordered by {order!r}; allowed: {SHUFFLE}, or one of {', '.join(ORDER_COLUMNS)} with ASC or DESC")
    return match[1], match[2] or "ASC"


def versions(store: Store) -> list[str]:
    """Name the published versions, oldest first."""
    names = [name for name in store.children("manifests") if _VERSION.fullmatch(name)]
    return sorted((name for name in names if store.exists(f"manifests/{name}/manifest.json")), key=lambda name: int(name[1:]))


def load(store: Store, version: str) -> Manifest:
    """Open a version. Raises ManifestError where there is none of that name, or where a newer program wrote it."""
    if not _VERSION.fullmatch(version) or not store.exists(f"manifests/{version}/manifest.json"):
        known = ", ".join(versions(store)) or "none yet"
        raise ManifestError(
            f"manifest {version!r} not found under {store.url()}; known: {known}. Build one with: curate build --domain medical"
        )
    try:
        info = store.read_json(f"manifests/{version}/manifest.json")
        schema_version = info["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"manifests/{version}/manifest.json is damaged ({error}); restore it or build again") from None
    if schema_version > SCHEMA_VERSION:
        raise ManifestError(
            f"manifest {version} has schema {schema_version}, this program reads up to {SCHEMA_VERSION}; install a newer gapless"
        )
    return Manifest(version, info)


def part_paths(store: Store, manifest: Manifest, split: str = "") -> list[str]:
    """List the parts of a version, or of one split of it. Raises ManifestError where one is missing."""
    paths = [f"manifests/{manifest.version}/{part['path']}" for part in manifest.info["parts"] if part["path"].startswith(split)]
    for path in paths:
        if not store.exists(path):
            raise ManifestError(f"{path} is missing; restore it, or build again; curate verify {manifest.version} checks all of it")
    return paths


def rows(store: Store, manifest: Manifest, split: str, columns: list[str] | None = None) -> pa.Table:
    """Read the rows of a split, sorted by row_id. The index of a row of split train here is its ordinal."""
    try:
        return pa.concat_tables([store.read_table(path, columns) for path in part_paths(store, manifest, f"{split}/")])
    except (OSError, pa.ArrowException) as error:
        why = " ".join(str(error).split())
        raise ManifestError(
            f"a part of {manifest.version}/{split} is damaged ({why}); curate verify {manifest.version} says which"
        ) from None


def attach(store: Store, manifest: Manifest, name: str) -> duckdb.DuckDBPyConnection:
    """Open a connection with the macros and a view of all rows of a version. Raises ManifestError where they cannot be read."""
    urls = ", ".join("'" + store.url(path).replace("'", "''") + "'" for path in part_paths(store, manifest))
    connection = duckdb.connect()
    if not store.is_local:
        connection.register_filesystem(store.fs)
    connection.execute(MACROS)
    columns = ", ".join(f'"{column}"' for column in COLUMNS)
    try:
        connection.execute(f"CREATE VIEW {name} AS SELECT {columns} FROM read_parquet([{urls}])")
    except duckdb.Error as error:
        why = " ".join(str(error).split())
        raise ManifestError(f"a part of {manifest.version} is damaged ({why}); curate verify {manifest.version} says which") from None
    return connection


def draw(store: Store, manifest: Manifest, *, stage: int, component: str, epoch: int) -> pa.Table:
    """Say which documents an epoch takes of a component, in order, and how many tokens of each.

    Columns: ordinal int64 (see `rows`), repeat int32 (0 for the first pass through the stock), n_tokens int32 (the last
    document is cut); they add up to the component's `epoch_tokens`. Documents come by `draw_key`; a stock smaller than
    the epoch is gone through whole as often as fits, then by prefix. `epoch` counts from 0.
    """
    part = next((part for part in manifest.stages[stage].components if part.name == component), None)
    if part is None:
        raise ManifestError(
            f"stage {stage} of {manifest.version} has no component {component!r}; "
            f"it has: {', '.join(part.name for part in manifest.stages[stage].components)}"
        )
    table = rows(store, manifest, "train", ["doc_id", "component", "stages", "n_tokens"])
    connection = duckdb.connect()
    connection.register("train_rows", table.append_column("ordinal", pa.array(np.arange(table.num_rows, dtype=np.int64))))
    connection.execute(MACROS)
    draws = epoch if part.redraw == "dynamic" else 0
    order = connection.sql(
        "SELECT ordinal, n_tokens FROM train_rows WHERE component = $component AND list_contains(stages, $stage)"
        " ORDER BY draw_key($seed, $stage, $component, $epoch, doc_id), ordinal",
        params={"component": component, "stage": stage, "seed": manifest.seed, "epoch": draws},
    ).to_arrow_table()
    return _take(order["ordinal"].to_numpy(), order["n_tokens"].to_numpy().astype(np.int64), part.epoch_tokens)


def _take(ordinals: np.ndarray, n_tokens: np.ndarray, wanted: int) -> pa.Table:
    stock = int(n_tokens.sum())
    if wanted and not stock:
        raise ManifestError(f"an epoch wants {wanted} tokens of a component that has none; build the manifest again with a smaller share")
    passes, rest = divmod(wanted, stock) if stock else (0, 0)
    ends = np.cumsum(n_tokens)
    n_prefix = int(np.searchsorted(ends, rest)) + 1 if rest else 0
    prefix = n_tokens[:n_prefix].copy()
    if n_prefix:
        prefix[-1] -= int(ends[n_prefix - 1]) - rest
    repeat = np.repeat(np.arange(passes + 1, dtype=np.int32), [*([len(n_tokens)] * passes), n_prefix])
    return pa.table(
        {
            "ordinal": pa.array(np.concatenate([*([ordinals] * passes), ordinals[:n_prefix]]).astype(np.int64)),
            "repeat": pa.array(repeat),
            "n_tokens": pa.array(np.concatenate([*([n_tokens] * passes), prefix]).astype(np.int32)),
        }
    )


def evalset(store: Store, manifest: Manifest) -> pa.Table:
    """Read the frozen list of held-out documents: component, row_id, doc_id, group, n_bytes, masks, shard, row."""
    path = f"evalsets/{manifest.info['evalset']['digest']}.parquet"
    if not store.exists(path):
        raise ManifestError(f"{path}, the evalset of {manifest.version}, is missing; restore it, or build with --set evalset='\"new\"'")
    return store.read_table(path)


# Every draw is a hash of (what for, ..., id), as 16 hex digits: the same text compares alike in SQL and in Python.
MACROS = """
CREATE OR REPLACE MACRO hash_key(purpose, id) AS left(sha256(purpose || '|' || id), 16);
CREATE OR REPLACE MACRO draw_key(seed, stage, component, epoch, doc_id) AS
    hash_key('draw|' || seed || '|' || stage || '|' || component || '|' || epoch, doc_id);
CREATE OR REPLACE MACRO masks_key(masks) AS CASE WHEN len(masks) > 0 THEN left(sha256(to_json(masks)::VARCHAR), 16) ELSE '' END;
"""


def hash_key(purpose: str, id: str) -> str:
    """Draw by counter: the first 16 hex digits of SHA-256 of "purpose|id". The SQL macro of this name gives the same."""
    return hashlib.sha256(f"{purpose}|{id}".encode()).hexdigest()[:16]


def share_key(share: float) -> str:
    """Turn a share in [0, 1) into the bound below which a `hash_key` falls with that probability."""
    return f"{int(share * 2**64):016x}"


def publish(store: Store, connection: duckdb.DuckDBPyConnection, info: Mapping[str, Any]) -> Manifest:
    """Publish table `decided` (the columns of SCHEMA) as the next version; or name the version that decided the same.

    `info` is manifest.json without version, parts and digests. Claims a number by exclusive create, writes the parts,
    then manifest.json.
    """
    digests = compute_digests(connection, "decided", info)
    for version in versions(store):
        if (old := load(store, version)).info["decision"] == digests["decision"]:
            return old
    number = max([int(name[1:]) for name in store.children("manifests") if _VERSION.fullmatch(name)], default=0) + 1
    while not store.create(f"manifests/v{number}/claim", b""):
        number += 1
    parts = [part for split in SPLITS for part in _write_split(store, connection, f"manifests/v{number}", split)]
    whole = {"schema_version": SCHEMA_VERSION, "version": f"v{number}", **info, "parts": parts, **digests}
    store.write_json(f"manifests/v{number}/manifest.json", whole)
    return Manifest(f"v{number}", whole)


def compute_digests(connection: duckdb.DuckDBPyConnection, relation: str, info: Mapping[str, Any]) -> dict[str, str]:
    """Digest a decision: `fingerprint` for what training reads, `decision` for every row and the recipe.

    `relation` is SQL that yields the columns of SCHEMA, in any order of rows. Memory does not grow with its length.
    """
    tokenizer = {key: info["tokenizer"][key] for key in ("sha256", "separator", "bos_token", "eos_token") if key in info["tokenizer"]}
    # Where shares come from changes nothing that training reads, and a shuffle is written as it was before there was another order.
    hidden = [("order", SHUFFLE)]
    stages = [
        {key: value for key, value in stage.items() if key not in ("name", "mixture") and (key, value) not in hidden}
        for stage in info["stages"]
    ]
    orders = [found[0] for stage in stages if (found := stage_order(stage.get("order", SHUFFLE)))]
    trained = {"schema_version": SCHEMA_VERSION, "tokenizer": tokenizer, "seed": info["seed"], "stages": stages}
    decided = {"schema_version": SCHEMA_VERSION, "tokenizer": tokenizer, "recipe": info["recipe"]}
    every = [name for name in COLUMNS if name not in ("shard", "row")]
    return {
        "fingerprint": _rows_digest(
            connection, f"(FROM {relation} WHERE split = 'train')", list(dict.fromkeys([*_KEPT, *orders])), trained
        ),
        "decision": _rows_digest(connection, relation, every, decided),
    }


def _rows_digest(connection: duckdb.DuckDBPyConnection, relation: str, columns: list[str], header: Mapping[str, Any]) -> str:
    values = [f'"{name}"::DECIMAL(18, 4)::VARCHAR' if name in _DECIMAL else f'"{name}"' for name in columns]
    packed = ", ".join(f'"{name}" := {value}' for name, value in zip(columns, values, strict=True))
    digest = hashlib.sha256(digest_of(header).encode())
    for batch in batches(connection, f"SELECT sha256(to_json(struct_pack({packed}))::VARCHAR) AS d FROM {relation} ORDER BY row_id"):
        column = batch.column(0)
        offsets = np.frombuffer(column.buffers()[1], dtype=np.int32)[column.offset : column.offset + len(column) + 1]
        digest.update(memoryview(column.buffers()[2])[offsets[0] : offsets[-1]])
    return digest.hexdigest()


def batches(connection: duckdb.DuckDBPyConnection, query: str, size: int = 100_000) -> Iterator[pa.RecordBatch]:
    """Stream a query's result. It has a cursor of its own, so that the connection stays free for other queries."""
    yield from connection.cursor().sql(query).to_arrow_reader(size)


def _write_split(store: Store, connection: duckdb.DuckDBPyConnection, folder: str, split: str) -> list[dict[str, Any]]:
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    stream = batches(connection, f"SELECT {names} FROM decided WHERE split = '{split}' ORDER BY row_id")
    parts = []
    for number in itertools.count():
        chunk = list(itertools.islice(stream, _PART_ROWS // 100_000))
        if not chunk and number:
            break
        table = pa.Table.from_batches(chunk).cast(SCHEMA) if chunk else SCHEMA.empty_table()
        path = f"{split}/part-{number:05d}.parquet"
        with store.scratch() as file:
            with parquet_writer(file, SCHEMA) as writer:
                writer.write_table(table)
            parts.append({"path": path, "rows": table.num_rows, "sha256": file_digest(file)})
            store.adopt(file, f"{folder}/{path}")
        if len(chunk) < _PART_ROWS // 100_000:
            break
    return parts


def _stage(entry: Mapping[str, Any]) -> Stage:
    known = [field.name for field in dataclasses.fields(Component)]
    parts = tuple(Component(**{name: part[name] for name in known}) for part in entry["components"])
    return Stage(entry["name"], entry["epochs"], entry["epoch_tokens"], parts, entry.get("order", SHUFFLE))
