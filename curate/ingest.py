"""From source files to the corpus: the first stage, and the only one that reads what we did not write.

files -> units (packs of up to 64 MB of file bytes, read in parallel) -> rows -> normalise -> shards of 64 MB of text in
`corpus/<source>/`, named by their content; what is no row goes to `cache/quarantine/<source>/` with file, position and reason.
A unit is named by its content, too (files, fields, versions); its record, written last, says that it is done, so a second
ingest reads no text, and after a kill only units without a record are read again, with the same result.

Decision: a row is never looked at twice, so everything that needs its text as it came (identity, field mapping, the
default group) is settled here. Bytes touched per stage and byte of text T: SHA-256 over the files (0.3 T where they are
compressed), decompress and parse T, normalise 2 T, SHA-256 for doc_id T, Parquet with zstd-3 T in and 0.35 T out, SHA-256
of the shard 0.35 T. Measured on one core: 60 MB/s of text for papers (jsonl.zst, 23 kB each), 45 for newsgroups (1.7 kB each)
and for Parquet with 0.5 kB a row; a third of it goes into writing Parquet, a fifth into parsing. About 300 MB a worker.
"""

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from curate.executor import Run, Size
from curate.inputs import InputFile, check_parquet, digest_files, has_changed, open_raw, suffixes
from curate.normalise import VERSION as NORMALISE_VERSION
from curate.normalise import doc_ids, normalise, row_keys
from curate.readers import READERS
from curate.recipe import DomainError, Source
from curate.rows import NO_PAGE, ROLES, Batch, Readable, rejected, wanted_fields
from curate.shards import SHARD_SCHEMA, QuarantineWriter, Shard, ShardWriter
from curate.store import Store, digest_of
from curate.streams import Gone, Reject

VERSION = 2
UNIT_BYTES = 64_000_000
_GATHER_BYTES = 4_000_000
_GATHER_ROWS = 16_384


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """Files of one source that are read in one go; the key names their content and how it is read."""

    source: Source
    key: str
    files: tuple[InputFile, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class UnitRecord:
    """What reading a unit gave. `fields` counts, by role, the rows in which a field held a value; `names` are field names seen."""

    shards: tuple[Shard, ...]
    n_rows: int
    n_quarantined: int
    reasons: Mapping[str, int]
    fields: Mapping[str, int]
    names: tuple[str, ...]
    n_unreadable_files: int


@dataclasses.dataclass(frozen=True, slots=True)
class Ingested:
    """A source as it lies in the corpus: shards in file order, rows in them, rows kept aside by reason, digests of its files.

    `n_no_page` of the rows kept aside are sound, but no documents.
    """

    shards: tuple[Shard, ...]
    n_rows: int
    n_quarantined: int
    n_no_page: int
    reasons: Mapping[str, int]
    wholly_unreadable: bool
    file_digests: tuple[str, ...]


def ingest(store: Store, sources: Sequence[Source], *, run: Run, rehash: bool = False) -> dict[str, Ingested]:
    """Bring the corpus up to date with the sources, and say where each of them lies.

    Raises DomainError for paths that cannot be (before a byte is read), and afterwards for a field that the recipe names
    and no row has.
    """
    plans = plan_units(store, sources, rehash=rehash, run=run)
    missing = [unit for units in plans.values() for unit in units if not _is_done(store, unit)]
    for unit in missing:
        check_parquet(unit.source, unit.files)
    if missing:
        missing.sort(key=lambda unit: -sum(file.n_bytes for file in unit.files))  # the longest first, so that no worker ends alone
        sizes = [Size(0, sum(file.n_bytes for file in unit.files)) for unit in missing]  # nobody knows yet how many documents
        run(missing, functools.partial(ingest_unit, store.url()), label="ingest", sizes=sizes)
    ingested = {}
    for source in sources:
        records = [read_record(store, unit) for unit in plans[source.name]]
        _check_fields(source, records)
        files = [file for unit in plans[source.name] for file in unit.files]
        n_rows, n_quarantined = sum(record.n_rows for record in records), sum(record.n_quarantined for record in records)
        reasons = _total(record.reasons for record in records)
        ingested[source.name] = Ingested(
            shards=tuple(shard for record in records for shard in record.shards),
            n_rows=n_rows,
            n_quarantined=n_quarantined,
            n_no_page=sum(count for reason, count in reasons.items() if reason.startswith(NO_PAGE)),
            reasons=reasons,
            wholly_unreadable=n_rows == 0 and n_quarantined > 0,
            file_digests=tuple(file.digest for file in files if file.digest),
        )
    return ingested


def plan_units(store: Store, sources: Sequence[Source], *, rehash: bool = False, run: Run) -> dict[str, list[Unit]]:
    """List each source's files, name new ones by their content (through `run`) and pack them, in order of their URLs."""
    files = digest_files(store, sources, run=run, rehash=rehash)
    return {source.name: [_unit(source, pack) for pack in _packs(files[source.name])] for source in sources}


def _packs(files: Sequence[InputFile]) -> Iterator[list[InputFile]]:
    pack: list[InputFile] = []
    n_bytes = 0
    for file in files:
        if pack and n_bytes + file.n_bytes > UNIT_BYTES:
            yield pack
            pack, n_bytes = [], 0
        pack.append(file)
        n_bytes += file.n_bytes
    if pack:
        yield pack


def ingest_unit(store_url: str, unit: Unit) -> None:
    """Read a unit into shards and quarantine, then write its record; a finished unit is left alone.

    Raises DomainError where a file is no longer the one that was listed.
    """
    store = Store(store_url)
    if _is_done(store, unit):
        return
    first = unit.files[0]
    # Two equal stretches of a source are two shards: the first file and the place in the unit tell them apart.
    shards = ShardWriter(store, unit.source.name, {"file": first.name, "nth": str(first.nth)})
    quarantine = QuarantineWriter(store, unit.source.name, unit.key)
    fields, names = Counter[str](), set[str]()
    with contextlib.closing(shards), contextlib.closing(quarantine):
        for gathered in _gathered(_batches(unit)):
            for file, batch in gathered:
                names |= batch.names
                if file.format != "text":
                    fields.update({role: batch.rows.num_rows - batch.rows[role].null_count for role in ROLES})
            rows, rejects = _documents(unit.source.name, gathered)
            shards.add(rows)
            quarantine.add(rejects)
        record = UnitRecord(
            shards=shards.finish(),
            n_rows=shards.n_rows,
            n_quarantined=quarantine.finish(),
            reasons=dict(sorted(quarantine.reasons.items())),
            fields=dict(fields),
            names=tuple(sorted(names)),
            n_unreadable_files=quarantine.n_files,
        )
    store.write_json(_record_path(unit), dataclasses.asdict(record))


def read_record(store: Store, unit: Unit) -> UnitRecord:
    """Read what ingest_unit wrote."""
    table = store.read_json(_record_path(unit))
    shards = tuple(Shard(**shard) for shard in table.pop("shards"))
    return UnitRecord(**{**table, "shards": shards, "names": tuple(table["names"])})


def _unit(source: Source, files: Sequence[InputFile]) -> Unit:
    # The names of the files are in the key because quarantine tells people where to look; shards are still named by content.
    content = [[file.format, file.name, file.nth, suffixes(file.name), file.digest or file.error] for file in files]
    key = digest_of([VERSION, NORMALISE_VERSION, source.name, dataclasses.asdict(source.fields), content])
    return Unit(source, key[:32], tuple(files))


def _is_done(store: Store, unit: Unit) -> bool:
    """Say whether a unit has its record and all shards that the record names; a lost shard is made again, under its name."""
    return store.exists(_record_path(unit)) and all(store.exists(shard.path) for shard in read_record(store, unit).shards)


def _record_path(unit: Unit) -> str:
    return f"cache/inputs/units/{unit.key}.json"


def _total(counts: Iterator[Mapping[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _check_fields(source: Source, records: Sequence[UnitRecord]) -> None:
    names = sorted({name for record in records for name in record.names})
    has = _total(record.fields for record in records)
    n_rows = sum(record.n_rows for record in records)
    there = f"fields there: {', '.join(names)}" if names else "its files have no fields"
    for role in ROLES:
        named = getattr(source.fields, role)
        if named is not None and not has.get(role) and (n_rows or names):
            raise DomainError(
                f"source {source.name!r}: no row has the field {named!r}; {there}. Correct sources.{source.name}.fields.{role}"
            )
    if names and not n_rows and not has.get("text"):
        raise DomainError(f"source {source.name!r}: no row has the field 'text'; {there}. Set sources.{source.name}.fields.text")


def _batches(unit: Unit) -> Iterator[tuple[InputFile, Batch]]:
    wanted = wanted_fields(unit.source.fields)
    for file in unit.files:
        if file.error:
            yield file, rejected(Reject(0, file.error, b""))
            continue
        suffix, compression = suffixes(file.name)
        readable = Readable(functools.partial(open_raw, file), compression, file.name, suffix)
        try:
            for batch in READERS[file.format](readable, wanted):
                yield file, batch
            if not has_changed(file):
                continue
        except (Gone, OSError) as error:
            raise DomainError(f"source {unit.source.name!r}: {file.url} can no longer be read ({error}); run the build again") from error
        raise DomainError(f"source {unit.source.name!r}: {file.url} changed while it was read; run the build again")


def _gathered(batches: Iterator[tuple[InputFile, Batch]]) -> Iterator[list[tuple[InputFile, Batch]]]:
    # Small files share the cost of a call into Arrow.
    held: list[tuple[InputFile, Batch]] = []
    n_bytes = n_rows = 0
    for file, batch in batches:
        held.append((file, batch))
        n_bytes += batch.rows.nbytes
        n_rows += batch.rows.num_rows + len(batch.rejects)
        if n_bytes >= _GATHER_BYTES or n_rows >= _GATHER_ROWS:
            yield held
            held, n_bytes, n_rows = [], 0, 0
    if held:
        yield held


def _documents(source_name: str, gathered: Sequence[tuple[InputFile, Batch]]) -> tuple[pa.Table, list[tuple[str, Reject]]]:
    table = pa.concat_tables(batch.rows for _, batch in gathered).combine_chunks()
    text = normalise(table["text"].combine_chunks())
    has_text = pc.fill_null(pc.greater(pc.binary_length(text), 0), False)
    table, text = table.append_column("has_text", has_text), text.filter(has_text)
    rejects, start = [], 0
    for file, batch in gathered:
        part = table.slice(start, batch.rows.num_rows)
        start += batch.rows.num_rows
        positions = part.filter(pc.invert(part["has_text"]))["position"].to_pylist()
        raw = batch.excerpts(positions) if positions else []
        empty = [Reject(position, "no text", excerpt) for position, excerpt in zip(positions, raw, strict=True)]
        rejects += [(file.url, reject) for reject in sorted([*batch.rejects, *empty], key=lambda reject: reject.position)]
    rows = table.filter(table["has_text"]).combine_chunks().append_column("doc_id", doc_ids(text))
    columns = {name: rows[name] for name in ("doc_id", "url", "licence", "date", "lang", "title")}
    columns |= {"row_key": row_keys(source_name, rows), "source_id": rows["id"], "text": text}
    columns |= {"group": pc.coalesce(rows["group"], rows["doc_id"]), "n_bytes": pc.binary_length(text)}
    return pa.table([columns[field.name] for field in SHARD_SCHEMA], schema=SHARD_SCHEMA), rejects
