"""All I/O below a root: atomic writes, exclusive claims, reads and local copies, on any fsspec file system.

Everything that lands under a root passes through here, so "a crash loses at most the batch in hand" is decided in one
place: bytes are written to a scratch file, flushed to the disk and then renamed (object stores: put whole). A reader
never sees half a file, at the cost of one fsync per file.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_SCRATCH_DIR = "cache/.scratch"
_counter = itertools.count()


class Store:
    """A root folder or fsspec URL; every path given to a method is relative to it and uses "/"."""

    def __init__(self, root: str) -> None:
        # Other processes write here too: a listing that is remembered would hide what they have finished.
        self.fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False)
        self.path: str = path.rstrip("/") or "/"
        self.is_local = "file" in _protocols(self.fs)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Store, (self.url(),))

    def url(self, rel: str = "") -> str:
        """Name a path so that fsspec, DuckDB (see `duckdb_paths`) and people can open it."""
        full = self._full(rel)
        return full if self.is_local else f"{_protocols(self.fs)[0]}://{full.lstrip('/')}"

    def exists(self, rel: str) -> bool:
        return bool(self.fs.exists(self._full(rel)))

    def files(self, rel_dir: str, suffix: str = "") -> list[str]:
        """List the files below a folder at any depth, sorted; an absent folder is empty."""
        full = self._full(rel_dir)
        if not self.fs.exists(full):
            return []
        cut = len(self.path.lstrip("/")) + 1 if self.path != "/" else 1
        found = [name.lstrip("/")[cut:] if self.path != "/" else name.lstrip("/") for name in self.fs.find(full)]
        return sorted(name for name in found if name.endswith(suffix) and "/.scratch/" not in name)

    def children(self, rel_dir: str) -> list[str]:
        """Name what lies directly in a folder, sorted; an absent folder has nothing."""
        full = self._full(rel_dir)
        if not self.fs.exists(full):
            return []
        return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in self.fs.ls(full, detail=False))

    def open(self, rel: str) -> contextlib.AbstractContextManager[Any]:
        """Open a file for reading bytes, seekable."""
        return self.fs.open(self._full(rel), "rb")  # type: ignore[no-any-return]  # fsspec has no types

    def read_bytes(self, rel: str) -> bytes:
        return bytes(self.fs.cat_file(self._full(rel)))

    def digest(self, rel: str) -> str:
        """Name a file by its content: SHA-256 of its bytes as 64 hex digits."""
        with self.open(rel) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read_json(self, rel: str) -> Any:
        return json.loads(self.read_bytes(rel))

    def read_table(self, rel: str, columns: list[str] | None = None) -> pa.Table:
        with self.open(rel) as file:
            return pq.ParquetFile(file, page_checksum_verification=True).read(columns=columns)

    def read_rows(self, rel: str, rows: Sequence[int], columns: list[str]) -> pa.Table:
        """Read some rows of a Parquet file, ascending, decoding only the row groups that hold them."""
        with self.open(rel) as handle:
            file = pq.ParquetFile(handle, page_checksum_verification=True)
            starts = np.cumsum([0, *(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))])
            wanted = np.asarray(rows)
            groups = np.searchsorted(starts, wanted, side="right") - 1
            tables = [
                file.read_row_group(int(group), columns).take(pa.array(wanted[groups == group] - starts[group]))
                for group in np.unique(groups)
            ]
            return pa.concat_tables(tables) if tables else file.schema_arrow.empty_table().select(columns)

    def write_bytes(self, rel: str, data: bytes) -> None:
        """Write a file whole, or not at all."""
        with self.scratch() as path:
            path.write_bytes(data)
            self.adopt(path, rel)

    def write_json(self, rel: str, value: Any) -> None:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
        self.write_bytes(rel, f"{text}\n".encode())

    def write_table(self, rel: str, table: pa.Table) -> None:
        with self.scratch() as path:
            with parquet_writer(path, table.schema) as writer:
                writer.write_table(table)
            self.adopt(path, rel)

    def create(self, rel: str, data: bytes) -> bool:
        """Create a file that nobody has created yet; False where somebody has."""
        full = self._full(rel)
        try:
            if self.is_local:
                with self.scratch() as path:
                    path.write_bytes(data)
                    pathlib.Path(full).parent.mkdir(parents=True, exist_ok=True)
                    os.link(path, full)  # unlike a rename, it fails where the name is taken
                    _sync_dir(pathlib.Path(full).parent)
            else:
                self.fs.pipe_file(full, data, mode="create")
        except FileExistsError:
            return False
        return True

    def append_lines(self, rel: str, lines: list[str]) -> None:
        """Append whole lines. A line that a crash cut short stays alone on its line, and readers leave it out."""
        text = "".join(f"{line}\n" for line in lines).encode()
        full = self._full(rel)
        if not self.is_local:
            old = self.read_bytes(rel) if self.exists(rel) else b""
            self.fs.pipe_file(full, old + text)
            return
        pathlib.Path(full).parent.mkdir(parents=True, exist_ok=True)
        with open(full, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                text = text if file.read(1) == b"\n" else b"\n" + text
            file.write(text)

    def read_lines(self, rel: str) -> list[Any]:
        """Read a JSON-lines file, leaving out lines that a crash cut short; an absent file is empty."""
        if not self.exists(rel):
            return []
        values = []
        for line in self.read_bytes(rel).splitlines():
            with contextlib.suppress(ValueError):
                values.append(json.loads(line))
        return values

    @contextlib.contextmanager
    def scratch(self) -> Iterator[pathlib.Path]:
        """Lend a path for one file or folder, on the root's own disk where that is local; removed unless adopted."""
        path = self.scratch_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            _remove(path)

    def scratch_path(self) -> pathlib.Path:
        """Name a scratch file or folder that nobody else has, for who makes it and removes it on its own."""
        folder = pathlib.Path(self._full(_SCRATCH_DIR)) if self.is_local else pathlib.Path(tempfile.gettempdir())
        return folder / f"{_machine()}-{os.getpid()}-{next(_counter)}"

    def adopt(self, path: pathlib.Path, rel: str) -> None:
        """Move a finished scratch file to its place, flushed first; what stood there is replaced."""
        full = self._full(rel)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        if self.is_local:
            target = pathlib.Path(full)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            _sync_dir(target.parent)
        else:
            self.fs.put_file(str(path), full)

    def adopt_dir(self, path: pathlib.Path, rel: str) -> None:
        """Move a finished scratch folder to a place where nothing stands; on an object store its files, one by one."""
        for file in sorted(path.rglob("*")):
            if file.is_file() and self.is_local:
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
            elif file.is_file():
                self.fs.put_file(str(file), self._full(f"{rel}/{file.relative_to(path).as_posix()}"))
        if self.is_local:
            target = pathlib.Path(self._full(rel))
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, target)
            _sync_dir(target.parent)

    def remove(self, rel: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing happens where there is none."""
        full = self._full(rel)
        if self.fs.exists(full):
            self.fs.rm(full, recursive=True)

    def sweep(self) -> None:
        """Remove what processes of this machine that are gone left in the scratch folder."""
        if not self.is_local:
            return
        for path in pathlib.Path(self._full(_SCRATCH_DIR)).glob(f"{_machine()}-*-*"):
            if not _is_alive(int(path.name.rsplit("-", 2)[1])):
                _remove(path)

    def local(self, rel: str) -> pathlib.Path:
        """Give a path on this machine that can be memory-mapped. A remote file is fetched once, so it must be named by its content."""
        full = self._full(rel)
        if self.is_local:
            return pathlib.Path(full)
        key = hashlib.sha256(self.url(rel).encode()).hexdigest()[:32]
        path = pathlib.Path(tempfile.gettempdir()) / "gapless" / key
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{key}-{os.getpid()}")
            self.fs.get_file(full, str(part))
            os.replace(part, path)
        return path

    def _full(self, rel: str) -> str:
        return f"{self.path.rstrip('/')}/{rel}" if rel else self.path


def parquet_writer(path: pathlib.Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open the one kind of Parquet file that we write: zstd level 3, page checksums, no clock and no host in it."""
    return pq.ParquetWriter(path, schema, compression="zstd", compression_level=3, write_page_checksum=True)


def file_digest(path: pathlib.Path) -> str:
    """Name a file by its content: SHA-256 of its bytes as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """Name a plain value by its content: SHA-256 of its canonical JSON as 64 hex digits.

    >>> digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _sync_dir(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _remove(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _machine() -> str:
    """Name this machine, and where it has them the process numbers' namespace: in two containers one number is two processes."""
    namespace = pathlib.Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}-{namespace.stat().st_ino if namespace.exists() else 0}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
