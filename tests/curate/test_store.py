"""Files appear whole or not at all, claims have one winner, and what a dead process left behind goes."""

import concurrent.futures
import os
import subprocess
import sys

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from curate.store import Store, digest_of, file_digest


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    if request.param == "local":
        return Store(str(tmp_path))
    return Store(f"memory://{tmp_path.name}-{os.getpid()}")


def test_bytes_json_and_tables_come_back(store):
    store.write_bytes("a/b.bin", b"xyz")
    store.write_json("a/c.json", {"b": [1, None], "a": "\u00e9"})
    store.write_table("a/d.parquet", pa.table({"n": [1, 2]}))
    assert store.read_bytes("a/b.bin") == b"xyz"
    assert store.read_json("a/c.json") == {"a": "\u00e9", "b": [1, None]}
    assert store.read_table("a/d.parquet", ["n"]).to_pydict() == {"n": [1, 2]}
    assert store.files("a") == ["a/b.bin", "a/c.json", "a/d.parquet"]
    assert store.files("a", ".json") == ["a/c.json"]
    assert store.children("") == ["a"] or "a" in store.children("")
    assert store.files("nowhere") == store.children("nowhere") == []


def test_a_name_is_created_once(store):
    assert store.create("manifests/v1/claim", b"1")
    assert not store.create("manifests/v1/claim", b"2")
    assert store.read_bytes("manifests/v1/claim") == b"1"


def test_of_many_claims_one_wins(tmp_path):
    store = Store(str(tmp_path))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        wins = list(pool.map(lambda _: store.create("claim", b""), range(64)))
    assert wins.count(True) == 1


def test_lines_are_appended_and_a_cut_line_is_left_out(store):
    store.append_lines("runs/r/metrics.jsonl", ['{"step": 1}', '{"step": 2}'])
    assert store.read_lines("runs/r/metrics.jsonl") == [{"step": 1}, {"step": 2}]
    if store.is_local:
        with open(store.url("runs/r/metrics.jsonl"), "ab") as file:
            file.write(b'{"step": 3, "lo')
        store.append_lines("runs/r/metrics.jsonl", ['{"step": 3}'])
        assert store.read_lines("runs/r/metrics.jsonl") == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert store.read_lines("runs/r/absent.jsonl") == []


def test_an_error_in_the_middle_leaves_nothing(store):
    def fail() -> None:
        with store.scratch() as path:
            path.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.files("") == []


def test_rows_are_read_from_their_row_groups_only(tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": list(range(10)), "m": list(range(10))}), tmp_path / "t.parquet", row_group_size=3)
    store = Store(str(tmp_path))
    assert store.read_rows("t.parquet", [0, 2, 3, 9], ["n"]).to_pydict() == {"n": [0, 2, 3, 9]}
    assert store.read_rows("t.parquet", [], ["n"]).to_pydict() == {"n": []}


def test_a_folder_moves_whole(store):
    with store.scratch() as path:
        (path / "sub").mkdir(parents=True)
        (path / "sub" / "x").write_bytes(b"1")
        store.adopt_dir(path, "runs/r/checkpoints/step-1")
    assert store.read_bytes("runs/r/checkpoints/step-1/sub/x") == b"1"
    store.remove("runs/r/checkpoints/step-1/sub/x")
    store.remove("runs/r")
    store.remove("runs/r")
    assert store.files("runs") == []


def test_sweep_takes_what_dead_processes_left_and_nothing_else(tmp_path):
    store = Store(str(tmp_path))
    code = "import sys, os; from curate.store import Store\nwith Store(sys.argv[1]).scratch() as p:\n p.write_bytes(b'x'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    with store.scratch() as mine:
        mine.write_bytes(b"y")
        assert len(list(mine.parent.iterdir())) == 2
        store.sweep()
        assert list(mine.parent.iterdir()) == [mine]


def test_digests_name_content(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert file_digest(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_of({"a": [1, "\u00e9"]}) != digest_of({"a": [1, "e"]})


def test_a_remote_file_has_a_local_copy_to_map(tmp_path):
    store = Store(f"memory://local-{tmp_path.name}-{os.getpid()}")
    store.write_bytes("cache/tokens/x.bin", b"abc")
    assert store.local("cache/tokens/x.bin").read_bytes() == b"abc"


class _Listed(MemoryFileSystem):
    """A store that remembers its listings, as those of object stores do."""

    protocol = "listed"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("listed://", "memory://"))

    def ls(self, path, detail=True, **kwargs):
        path = self._strip_protocol(path)
        if path not in self.dircache:
            self.dircache[path] = found = super().ls(path, detail=True)
        else:
            found = self.dircache[path]
        return found if detail else [entry["name"] for entry in found]


def test_what_another_process_wrote_is_seen(tmp_path):
    fsspec.register_implementation("listed", _Listed, clobber=True)
    store = Store(f"listed://{tmp_path.name}")
    store.write_bytes("cache/tokens/a.bin", b"1")
    assert (store.files("cache/tokens"), store.children("cache/tokens")) == (["cache/tokens/a.bin"], ["a.bin"])
    MemoryFileSystem().pipe_file(f"/{tmp_path.name}/cache/tokens/b.bin", b"2")
    assert store.files("cache/tokens") == ["cache/tokens/a.bin", "cache/tokens/b.bin"]
    assert store.children("cache/tokens") == ["a.bin", "b.bin"]
