"""Which files a source is made of, and the content of each by name: the first step of ingest.

Paths and globs (any fsspec URL) become a sorted list of files without doubles; what is wrong with them is said before a
byte is read. `cache/inputs/files/<source>.parquet` maps (url, size, stamp) to the SHA-256 of the bytes, so that an unchanged
file is never read for its name again; the stamp is the modification time in ns, or the etag of an object store.
Cost: one listing per path, one read of the files that are new (0.5 to 1.5 GB/s a core), one footer of each new Parquet file.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import fsspec
import fsspec.utils
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from curate.executor import Run, Size
from curate.recipe import DomainError, Source
from curate.rows import wanted_fields
from curate.store import Store, digest_of
from curate.streams import COMPRESSIONS, Gone, RawFile

FORMATS_BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".md": "text",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".warc": "warc",
}
_BATCH_BYTES = 64_000_000
_BATCH_FILES = 256
_READ_BYTES = 1_000_000
_FOOTERS_AT_ONCE = 16
_ALLOWED = f"{', '.join(FORMATS_BY_SUFFIX)}, all but .parquet also with {' or '.join(COMPRESSIONS)}"
_KNOWN = pa.schema(
    [
        ("url", pa.string()),
        ("n_bytes", pa.int64()),
        ("stamp", pa.string()),
        ("digest", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True, slots=True)
class InputFile:
    """A file of a source. `name` is its path below the source's folder or the fixed part of its glob, `nth` counts equal names.

    `stamp` is empty where the file system gives none; `digest` is empty and `error` a reason where the file cannot be read.
    """

    url: str
    name: str
    format: str
    n_bytes: int
    stamp: str
    nth: int = 0
    digest: str = ""
    error: str = ""


def list_files(source: Source) -> list[InputFile]:
    """List the files of a source, sorted by URL. Raises DomainError for a missing path, an empty glob or an unknown suffix."""
    found: dict[str, InputFile] = {}
    for path in source.path:
        for file in _expand(source, path):
            # A file that two paths name has the longer of its names, whatever the order of the paths.
            if file.url not in found or len(found[file.url].name) < len(file.name):
                found[file.url] = file
    files, seen = [], dict[str, int]()
    for url in sorted(found):
        file = found[url]
        files.append(dataclasses.replace(file, nth=seen.get(file.name, 0)))
        seen[file.name] = seen.get(file.name, 0) + 1
    return files


def digest_files(store: Store, sources: Sequence[Source], *, run: Run, rehash: bool = False) -> dict[str, list[InputFile]]:
    """List the files of each source with their digests; only new ones are read, all of them with `rehash`.

    Raises DomainError as list_files does, and for a new Parquet file that lacks the column of the text.
    """
    listed = {source.name: list_files(source) for source in sources}
    known = {name: _known_digests(store, name) for name in listed}
    work: list[tuple[str, tuple[InputFile, ...]]] = []
    for source in sources:
        digests = known[source.name]
        fresh = [file for file in listed[source.name] if not file.error and (rehash or not file.stamp or _key(file) not in digests)]
        check_parquet(source, fresh)
        work += [(source.name, batch) for batch in _batches(fresh)]
    if work:
        sizes = [Size(0, sum(file.n_bytes for file in batch)) for _, batch in work]
        run(work, functools.partial(_digest_batch, store.url()), label="digest", sizes=sizes)
    errors: dict[tuple[str, int, str], str] = {}
    for name, batch in work:
        for row in store.read_json(_part_path(name, batch)):
            (errors if row["error"] else known[name])[row["url"], row["n_bytes"], row["stamp"]] = row["error"] or row["digest"]
    for name in sorted({name for name, _ in work}):
        rows = [(*key, digest) for key, digest in sorted(known[name].items())]
        store.write_table(
            _known_path(name), pa.Table.from_pylist([dict(zip(_KNOWN.names, row, strict=True)) for row in rows], schema=_KNOWN)
        )
    return {name: [_named(file, known[name], errors) for file in files] for name, files in listed.items()}


def _known_digests(store: Store, source_name: str) -> dict[tuple[str, int, str], str]:
    path = _known_path(source_name)
    table = store.read_table(path).to_pylist() if store.exists(path) else []
    return {(row["url"], row["n_bytes"], row["stamp"]): row["digest"] for row in table}


def _known_path(source_name: str) -> str:
    return f"cache/inputs/files/{source_name}.parquet"


def check_parquet(source: Source, files: Sequence[InputFile]) -> None:
    """Read footers, many at once, and raise DomainError where a Parquet file lacks the column of the text."""
    (wanted,) = wanted_fields(source.fields)["text"]
    parquet = [file for file in files if file.format == "parquet"]
    with concurrent.futures.ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        for file, columns in zip(parquet, pool.map(_columns, parquet), strict=True):
            if columns is not None and wanted not in columns:
                raise DomainError(
                    f"source {source.name!r}: {file.url} has no column {wanted!r}; its columns: {', '.join(columns)}. "
                    f"Set sources.{source.name}.fields.text"
                )


def open_raw(file: InputFile) -> RawFile:
    """Open a file for reading its bytes as they are."""
    fs, path = fsspec.core.url_to_fs(file.url)
    return RawFile(fs.open(path, "rb"))


def has_changed(file: InputFile) -> bool:
    """Say whether a file is another one than when it was listed."""
    fs, path = fsspec.core.url_to_fs(file.url)
    info = fs.info(path)
    return (int(info["size"] or 0), _stamp(fs, path, info)) != (file.n_bytes, file.stamp)


def suffixes(name: str) -> tuple[str, str | None]:
    """Split the end of a file name into the suffix of its format and its compression.

    >>> suffixes("a/b.jsonl.gz")
    ('.jsonl', 'gzip')
    """
    path = pathlib.PurePosixPath(name.lower())
    compression = COMPRESSIONS.get(path.suffix)
    return (path.with_suffix("").suffix if compression else path.suffix), compression


def _expand(source: Source, path: str) -> Iterator[InputFile]:
    fs, full = fsspec.core.url_to_fs(path)
    is_local = isinstance(fs, LocalFileSystem)
    full = os.path.abspath(full) if is_local else full.rstrip("/")
    fixed = full[: re.search(r"[*?\[]|$", full).start()].rpartition("/")[0]  # type: ignore[union-attr]
    if fs.isdir(full):
        found = [name for name in _below(source, fs, full) if not _is_hidden(name[len(full) :])]
        files = [file for file in (_file(source, fs, name, base=full, in_folder=True) for name in found) if file is not None]
        if not files:
            raise DomainError(f"source {source.name!r}: no file below {path!r} has a known suffix; allowed: {_ALLOWED}")
        yield from files
    elif fs.exists(full):
        yield from filter(None, [_file(source, fs, full, base=full.rpartition("/")[0], in_folder=False)])
    elif fixed == full.rpartition("/")[0] and not fsspec.core.has_magic(full):
        raise DomainError(f"source {source.name!r}: {path!r} does not exist; give a file, a folder or a glob")
    else:
        pattern = re.compile(fsspec.utils.glob_translate(full))
        names = [name for name in _below(source, fs, fixed) if pattern.match(name)] if is_local else fs.glob(full)
        names = [name for name in names if is_local or not fs.isdir(name)]
        if not names:
            raise DomainError(f"source {source.name!r}: no file matches {path!r}; correct the glob, or name a folder")
        yield from filter(None, (_file(source, fs, name, base=fixed, in_folder=False) for name in names))


def _file(source: Source, fs: Any, path: str, *, base: str, in_folder: bool) -> InputFile | None:
    told = FORMATS_BY_SUFFIX.get(suffixes(path)[0])
    form = told if source.format == "auto" else source.format
    if in_folder and (told is None or told != form):
        return None
    if form is None:
        raise DomainError(
            f"source {source.name!r}: {path!r} has no known suffix; allowed: {_ALLOWED}. "
            f"Narrow the glob, or set sources.{source.name}.format"
        )
    url = path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))
    name = path.removeprefix(base).lstrip("/")
    try:
        info = fs.info(path)
        stamp = _stamp(fs, path, info)
    except OSError as error:
        return InputFile(url, name, form, 0, "", error=_reason(error))
    # A pipe or a device would be waited for without end.
    is_regular = not isinstance(fs, LocalFileSystem) or stat.S_ISREG(os.stat(path).st_mode)
    return InputFile(url, name, form, int(info["size"] or 0), stamp, error="" if is_regular else "unreadable: not a regular file")


def _below(source: Source, fs: Any, top: str) -> Iterator[str]:
    if not isinstance(fs, LocalFileSystem):
        yield from fs.find(top)
        return
    real_top, seen = os.path.realpath(top), set[str]()

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return
        raise DomainError(
            f"source {source.name!r}: folder {error.filename!r} cannot be listed ({error.strerror}); make it readable or leave it out"
        )

    for folder, below, names in os.walk(top or "/", followlinks=True, onerror=refuse):
        for name in sorted(below):
            # A linked folder is followed once, and not where it leads back into what is walked anyway.
            path = os.path.join(folder, name)
            real = os.path.realpath(path) if os.path.islink(path) else None
            if real is not None and (real in seen or os.path.commonpath([real, real_top]) == real_top):
                below.remove(name)
            seen |= {real} if real is not None else set()
        below.sort()
        yield from (os.path.join(folder, name) for name in sorted(names))


def _is_hidden(path: str) -> bool:
    return "/." in path


def _stamp(fs: Any, path: str, info: dict[str, Any]) -> str:
    if isinstance(fs, LocalFileSystem):
        return str(os.stat(path).st_mtime_ns)
    marks = (info.get(key) for key in ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "created"))
    return next((str(mark) for mark in marks if mark), "")


def _named(file: InputFile, known: Mapping[Any, str], errors: Mapping[Any, str]) -> InputFile:
    error = file.error or errors.get(_key(file), "")
    return dataclasses.replace(file, error=error, digest="" if error else known[_key(file)])


def _key(file: InputFile) -> tuple[str, int, str]:
    return (file.url, file.n_bytes, file.stamp)


def _reason(error: OSError) -> str:
    return f"unreadable: {(error.strerror or type(error).__name__).lower()}"


def _columns(file: InputFile) -> list[str] | None:
    try:
        with contextlib.closing(open_raw(file)) as raw:
            return list(pq.ParquetFile(pa.PythonFile(raw, mode="r")).schema_arrow.names)
    except (OSError, Gone, pa.ArrowException):
        return None  # ingest keeps the whole file aside, with the reason


def _batches(files: Sequence[InputFile]) -> Iterator[tuple[InputFile, ...]]:
    batch: list[InputFile] = []
    for file in files:
        if batch and (len(batch) == _BATCH_FILES or sum(other.n_bytes for other in batch) + file.n_bytes > _BATCH_BYTES):
            yield tuple(batch)
            batch = []
        batch.append(file)
    if batch:
        yield tuple(batch)


def _part_path(source_name: str, batch: Sequence[InputFile]) -> str:
    return f"cache/inputs/files/{source_name}/{digest_of([_key(file) for file in batch])[:32]}.json"


def _digest_batch(store_url: str, work: tuple[str, Sequence[InputFile]]) -> None:
    source_name, batch = work
    rows = []
    for file in batch:
        digest, error = _digest(file)
        rows.append({"url": file.url, "n_bytes": file.n_bytes, "stamp": file.stamp, "digest": digest, "error": error})
    Store(store_url).write_json(_part_path(source_name, batch), rows)


def _digest(file: InputFile) -> tuple[str, str]:
    state = hashlib.sha256()
    try:
        with contextlib.closing(open_raw(file)) as raw:
            while data := raw.read(_READ_BYTES):
                state.update(data)
    except OSError as error:
        return "", _reason(error)
    except Gone as error:
        return "", f"unreadable: {str(error).lower()}"
    return state.hexdigest(), ""
