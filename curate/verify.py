"""Prove a version: recompute every digest from the bytes on disk, and check what must always hold.

Reads the whole corpus behind the version once (SHA-256 runs at over 1 GB/s) and streams the manifest's rows through
DuckDB. What lies in cache/ may be gone, which is said and is no fault.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate import evalset, manifest, tokens
from curate.manifest import SPLITS, Manifest
from curate.normalise import doc_ids
from curate.store import Store


def verify(store: Store, version: Manifest) -> tuple[list[str], list[str]]:
    """Check a version. Gives the faults found (none: it is as it was published) and remarks that are no faults."""
    in_parts = list(_check_parts(store, version))
    in_tokenizer = list(_check_model(store, version.tokenizer))
    in_scorers = [fault for scorer in version.info["scorers"] for model in scorer["models"] for fault in _check_model(store, model)]
    in_shards = [fault for path in _shards(version) for fault in _check_shard(store, path)]
    faults = [*in_parts, *in_tokenizer, *in_scorers, *in_shards, *_check_evalset(store, version)]
    remarks: list[str] = []
    if not in_parts:  # what follows reads the rows
        faults += [*_check_rows(store, version), *_check_leaks(store, version)]
    if not in_parts and not in_shards:
        faults += _check_places(store, version)
    if not in_parts and not in_tokenizer:
        in_segments, remarks = _check_segments(store, version)
        faults += in_segments
    return faults, remarks


def _check_parts(store: Store, version: Manifest) -> Iterator[str]:
    for part in version.info["parts"]:
        path = f"manifests/{version.version}/{part['path']}"
        if not store.exists(path):
            yield f"{path} is missing"
        elif store.digest(path) != part["sha256"]:
            yield f"{path} is not the file that was published: its SHA-256 differs"
    here = {path for split in SPLITS for path in store.files(f"manifests/{version.version}/{split}")}
    for path in sorted(here - {f"manifests/{version.version}/{part['path']}" for part in version.info["parts"]}):
        yield f"{path} does not belong to this version"


def _check_rows(store: Store, version: Manifest) -> Iterator[str]:
    connection = manifest.attach(store, version, "published")
    for name, value in manifest.compute_digests(connection, "published", version.info).items():
        if value != version.info[name]:
            yield f"{name} of {version.version} is {value[:16]} by its rows and manifest.json, but {version.info[name][:16]} is recorded"
    for fault, query in _INVARIANTS.items():
        if count := connection.execute(query).fetchall()[0][0]:
            yield f"{count} rows: {fault}"
    connection.close()


def _check_evalset(store: Store, version: Manifest) -> Iterator[str]:
    exam = version.info["evalset"]
    path = evalset.path_of(exam)
    if not store.exists(path):
        yield f"{path} is missing"
    elif store.digest(path) != exam["sha256"]:
        yield f"{path} is damaged: its SHA-256 differs"
    elif evalset.digest_of_list(store.read_table(path)) != exam["digest"]:
        yield f"{path} is not the list that its name says"


def _check_leaks(store: Store, version: Manifest) -> Iterator[str]:
    table, fault = _try(lambda: manifest.evalset(store, version))
    if fault:
        return  # said by _check_evalset
    connection = manifest.attach(store, version, "published")
    connection.register("exam", table)
    if count := connection.execute(_EXAM_LEAKS).fetchall()[0][0]:
        yield f"{count} rows of split train share a text or a group with the evalset"


def _check_model(store: Store, model: Mapping[str, Any]) -> Iterator[str]:
    if not store.exists(model["path"]):
        yield f"{model['path']} is missing"
    elif store.digest(model["path"]) != model["sha256"]:
        yield f"{model['path']} is damaged: its SHA-256 differs"


def _check_shard(store: Store, path: str) -> Iterator[str]:
    if not store.exists(path):
        yield f"{path} is missing"
        return
    name = path.rsplit("/", 1)[-1].removesuffix(".parquet")
    if not store.digest(path).startswith(name):
        yield f"{path} is damaged: its SHA-256 is not its name"
        return
    with store.open(path) as handle:
        for batch in pq.ParquetFile(handle).iter_batches(4096, columns=["doc_id", "text"]):
            if not doc_ids(batch.column("text")).equals(batch.column("doc_id")):
                yield f"{path} has a text that is not the one its doc_id names"
                return


def _check_places(store: Store, version: Manifest) -> Iterator[str]:
    connection = manifest.attach(store, version, "published")
    connection.execute('CREATE TABLE corpus_rows (shard VARCHAR, "row" INTEGER, row_key VARCHAR, doc_id VARCHAR)')
    for path in _shards(version, decided=True):
        connection.register("here", store.read_table(path, ["row_key", "doc_id"]))
        connection.execute(_SHARD_ROWS, [path.removeprefix("corpus/")])
        connection.unregister("here")
    if count := connection.execute(_MISPLACED).fetchall()[0][0]:
        yield f"{count} rows are not where the manifest says, or are in the corpus and not in the manifest"


def _check_segments(store: Store, version: Manifest) -> tuple[list[str], list[str]]:
    faults = []
    folder = tokens.segments_dir(version.tokenizer)
    paths = store.files(folder, ".bin")
    for path in paths:
        if not store.digest(path).startswith(path.rsplit("/", 1)[-1].removesuffix(".bin")):
            faults.append(f"{path} is damaged: its SHA-256 is not its name; delete it and its index, and build again")
    if faults:
        return faults, []
    segments = tokens.open_segments(store, version.tokenizer)
    wanted = manifest.rows(store, version, "train", ["doc_id", "masks", "n_tokens"])
    located, absent = _try(lambda: segments.locate(wanted["doc_id"], wanted["masks"]))
    if absent:
        return faults, [absent]
    if not pa.array(located.n_tokens).equals(wanted["n_tokens"].combine_chunks()):
        faults.append(f"{folder} counts tokens otherwise than the manifest")
    return faults, []


def _shards(version: Manifest, *, decided: bool = False) -> list[str]:
    entries = [entry for entry in version.info["inputs"].values() if not decided or entry["holdout_share"] is not None]
    return [shard["path"] for entry in entries for shard in entry["shards"]]


def _try(call: Callable[[], Any]) -> tuple[Any, str]:
    try:
        return call(), ""
    except (OSError, ValueError, pa.ArrowException) as error:
        return None, str(error)


_INVARIANTS = {
    "one doc_id twice in split train": "SELECT count(*) - count(DISTINCT doc_id) FROM published WHERE split = 'train'",
    "one row_id twice": "SELECT count(*) - count(DISTINCT row_id) FROM published",
    "a group on both sides of the holdout": (
        "SELECT count(*) FROM published WHERE split = 'train' AND \"group\" IN (SELECT \"group\" FROM published WHERE split = 'holdout')"
    ),
    "a text on both sides of the holdout": (
        "SELECT count(*) FROM published WHERE split = 'train' AND doc_id IN (SELECT doc_id FROM published WHERE split = 'holdout')"
    ),
    "a dropped row with a token count or without a reason, or a kept one with a reason or without a count": (
        "SELECT count(*) FROM published WHERE (split = 'dropped') <> (n_tokens IS NULL) OR (split = 'dropped') <> (reason IS NOT NULL)"
    ),
    "dropped as a copy of a row that is not kept": (
        "SELECT count(*) FROM published WHERE dup_of IS NOT NULL AND dup_of NOT IN"
        " (SELECT row_id FROM published WHERE split = 'train' OR reason = 'budget')"
    ),
    "dropped as an exact copy of another text, as a near copy below 0.5, or as contained below 0.8 or in a shorter text": (
        "SELECT count(*) FROM published AS copy JOIN published AS kept ON copy.dup_of = kept.row_id"
        " WHERE CASE copy.dup_kind WHEN 'exact' THEN copy.doc_id <> kept.doc_id"
        " WHEN 'containment' THEN copy.dup_similarity < 0.8::FLOAT OR copy.n_bytes > kept.n_bytes ELSE copy.dup_similarity < 0.5 END"
    ),
}
_EXAM_LEAKS = """
SELECT count(*) FROM published WHERE split = 'train'
AND (doc_id IN (SELECT doc_id FROM exam) OR "group" IN (SELECT "group" FROM exam))
"""
_SHARD_ROWS = """INSERT INTO corpus_rows SELECT $1, row_number() OVER () - 1, row_key, doc_id FROM here"""
_MISPLACED = """
WITH named AS (
    SELECT *, left(sha256(row_key || ':' || (row_number() OVER (PARTITION BY row_key ORDER BY shard, "row") - 1)), 32) AS row_id
    FROM corpus_rows
),
decided AS (SELECT row_id, doc_id, shard::VARCHAR AS shard, "row" FROM published)
SELECT count(*) FROM (SELECT row_id, doc_id, shard, "row" FROM named) AS a FULL JOIN decided AS b USING (row_id, doc_id, shard, "row")
WHERE a.row_id IS NULL OR b.row_id IS NULL
"""
