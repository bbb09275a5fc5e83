"""From files to the corpus: each row once, in a shard or in quarantine, however the files are cut, named or read."""

import gzip
import itertools
import json
import os
import pathlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import shards
from curate.executor import Run, Size
from curate.ingest import Ingested, Unit, ingest, ingest_unit, plan_units, read_record
from curate.inputs import list_files
from curate.normalise import KEY_COLUMNS, doc_ids, row_keys
from curate.recipe import DomainError, Fields, Source
from curate.store import Store, file_digest

T = TypeVar("T")
ROOTS = itertools.count()  # roots in memory outlive an example, so none is used twice


class Runs:
    """A run in this process that remembers how many items each call had."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    @property
    def here(self) -> Run:
        return self

    def __call__(self, items: Sequence[T], fn: Callable[[T], object], *, label: str, sizes: Sequence[Size] | None = None) -> None:
        self.calls.append((label.split()[0], len(items)))
        for item in items:
            fn(item)


def store_of(tmp_path: pathlib.Path) -> Store:
    return Store(str(tmp_path / "root"))


def take(store: Store, *path: object, runs: Runs | None = None, name: str = "s", rehash: bool = False, **fields: str) -> Ingested:
    source = Source(name, tuple(str(part) for part in path), fields=Fields(**fields))
    return ingest(store, [source], run=runs or Runs(), rehash=rehash)[name]


def rows_of(store: Store, ingested: Ingested) -> list[dict[str, Any]]:
    return [row for shard in ingested.shards for row in store.read_table(shard.path).to_pylist()]


def quarantine_of(store: Store, name: str = "s") -> list[dict[str, Any]]:
    return [row for path in store.files(f"cache/quarantine/{name}") for row in store.read_table(path).to_pylist()]


def write_jsonl(path: pathlib.Path, rows: Sequence[Any]) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def documents(n_rows: int, *, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [{"id": i, "text": f"text {rng.getrandbits(64)}", "url": f"u{i}"} for i in range(n_rows)]


def test_a_row_of_the_corpus_has_its_identity_and_its_fields(tmp_path: pathlib.Path) -> None:
    store = store_of(tmp_path)
    row = {"id": 7, "text": "\ufeffe\u0301\r\n", "thread": "t", "url": "", "license": "cc", "date": "2024", "language": "fr"}
    write_jsonl(tmp_path / "a.jsonl", [row, {"text": "b"}])
    first, second = rows_of(store, take(store, tmp_path / "a.jsonl", group="thread"))
    doc_id = doc_ids(pa.array(["\u00e9", "b"], pa.large_string())).to_pylist()
    mapped = pa.table({key: [value] for key, value in zip(KEY_COLUMNS, ["7", "t", None, "cc", "2024", doc_id[0]], strict=True)})
    assert first == {
        "row_key": row_keys("s", mapped)[0].as_py(),
        "doc_id": doc_id[0],
        "source_id": "7",
        "group": "t",
        "url": None,
        "licence": "cc",
        "date": "2024",
        "lang": "fr",
        "title": None,
        "n_bytes": len("\u00e9".encode()),
        "text": "\u00e9",
    }
    assert second["group"] == second["doc_id"] == doc_id[1]
    unmapped = pa.table({key: pa.array([value], pa.string()) for key, value in zip(KEY_COLUMNS, [*[None] * 5, doc_id[1]], strict=True)})
    assert second["row_key"] == row_keys("s", unmapped)[0].as_py()


def test_all_formats_of_one_source_give_the_same_rows(tmp_path: pathlib.Path) -> None:
    rows = documents(50)
    table = pa.Table.from_pylist(rows)
    write_jsonl(tmp_path / "in/a.jsonl", rows)
    pq.write_table(table, tmp_path / "in/b.parquet")
    (tmp_path / "in/c.jsonl.gz").write_bytes(gzip.compress((tmp_path / "in/a.jsonl").read_bytes()))
    (tmp_path / "in/d.jsonl.zst").write_bytes(pa.Codec("zstd").compress((tmp_path / "in/a.jsonl").read_bytes(), asbytes=True))
    (tmp_path / "in/e.csv").write_text("id,text,url\n" + "".join(f"{row['id']},{row['text']},{row['url']}\n" for row in rows))
    (tmp_path / "in/f.tsv").write_text("id\ttext\turl\n" + "".join(f"{row['id']}\t{row['text']}\t{row['url']}\n" for row in rows))
    store = store_of(tmp_path)
    ingested = take(store, tmp_path / "in")
    assert ingested.n_rows == 6 * 50
    assert set(Counter(row["row_key"] for row in rows_of(store, ingested)).values()) == {6}


def test_a_folder_of_texts_is_named_by_relative_path(tmp_path: pathlib.Path) -> None:
    for name in ("b.txt", "sub/a.md", ".hidden/c.txt", "sub/.d.txt", "e.pdf"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(f"text of {name}")
    store = store_of(tmp_path)
    assert [row["source_id"] for row in rows_of(store, take(store, tmp_path / "in"))] == ["b.txt", "sub/a.md"]
    assert [row["source_id"] for row in rows_of(store, take(store, tmp_path / "in/s*/*.md"))] == ["sub/a.md"]
    assert [row["source_id"] for row in rows_of(store, take(store, tmp_path / "in/**/[ab].*"))] == ["b.txt", "sub/a.md"]
    assert [row["source_id"] for row in rows_of(store, take(store, tmp_path / "in/sub/a.md"))] == ["a.md"]
    assert rows_of(store, take(store, tmp_path / "in/sub/a.md", tmp_path / "in")) == rows_of(store, take(store, tmp_path / "in"))


def test_every_row_is_in_a_shard_or_in_quarantine_with_its_place(tmp_path: pathlib.Path) -> None:
    lines = [b'{"text":"a"}', b"broken", b'{"text":""}', b"", b'{"text":" \\u0000 "}', b'{"text":"b"}', b'{"id":1}', b'{"text":3}']
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "in/b.jsonl.gz").write_bytes(gzip.compress(b'{"text":"c"}\n{"text":"d"}\n')[:-8])
    (tmp_path / "in/c.parquet").write_bytes(b"PAR1")
    (tmp_path / "in/d.txt").write_bytes(b"\xff")
    (tmp_path / "in/e.txt").write_bytes(b" \n")
    (tmp_path / "in/f.csv").write_bytes(b"text,id\n,1\ne,2\nf\n")
    (tmp_path / "in/g.txt").symlink_to(tmp_path / "absent")
    store = store_of(tmp_path)
    ingested = take(store, tmp_path / "in")
    assert [row["text"] for row in rows_of(store, ingested)] == ["a", "b", "c", "d", "e"]
    assert [(row["url"].rpartition("/")[2], row["position"], row["reason"], row["excerpt"]) for row in quarantine_of(store)] == [
        ("a.jsonl", 2, "invalid JSON", b"broken"),
        ("a.jsonl", 3, "no text", lines[2]),
        ("a.jsonl", 5, "no text", lines[4]),
        ("a.jsonl", 7, "no text", lines[6]),
        ("a.jsonl", 8, "text is not a string", lines[7]),
        ("b.jsonl.gz", 3, "truncated", b""),
        ("c.parquet", 0, "unreadable: not a Parquet file", quarantine_of(store)[6]["excerpt"]),
        ("d.txt", 0, "invalid UTF-8", b"\xff"),
        ("e.txt", 0, "no text", b" \n"),
        ("f.csv", 1, "no text", b",1"),
        ("f.csv", 3, "wrong number of columns", b"f"),
        ("g.txt", 0, "unreadable: no such file or directory", b""),
    ]
    assert (ingested.n_rows, ingested.n_quarantined, sum(ingested.reasons.values())) == (5, 12, 12)
    assert ingested.reasons["no text"] == 5
    assert not ingested.wholly_unreadable
    assert read_record(store, plan_units(store, [Source("s", (str(tmp_path / "in"),))], run=Runs())["s"][0]).n_unreadable_files == 2


def test_a_parquet_row_without_text_is_kept_aside_with_its_cells(tmp_path: pathlib.Path) -> None:
    pq.write_table(pa.table({"text": ["a", None, "b"], "id": [1, 2, 3]}), tmp_path / "a.parquet")
    store = store_of(tmp_path)
    assert take(store, tmp_path / "a.parquet").n_rows == 2
    (row,) = quarantine_of(store)
    assert (row["position"], row["reason"], json.loads(row["excerpt"])) == (2, "no text", {"text": None, "id": 2})


def test_a_line_of_100_mb_is_kept_aside_and_the_file_read_on(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"text":"a"}\n{"text":"')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text":"b"}\n')
    store = store_of(tmp_path)
    ingested = take(store, tmp_path / "a.jsonl")
    assert [row["text"] for row in rows_of(store, ingested)] == ["a", "b"]
    (row,) = quarantine_of(store)
    assert (row["position"], row["reason"], len(row["excerpt"])) == (2, "line too long", 1_000)


def test_a_source_without_one_good_row_is_wholly_unreadable(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"x\ny\n")
    assert take(store_of(tmp_path), tmp_path / "a.jsonl").wholly_unreadable
    (tmp_path / "b.jsonl").write_bytes(b"")
    empty = take(store_of(tmp_path), tmp_path / "b.jsonl")
    assert (empty.n_rows, empty.n_quarantined, empty.shards, empty.wholly_unreadable) == (0, 0, (), False)


def test_a_second_ingest_reads_nothing(tmp_path: pathlib.Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", documents(10))
    store, runs = store_of(tmp_path), Runs()
    first = take(store, tmp_path / "a.jsonl", runs=runs)
    assert take(store, tmp_path / "a.jsonl", runs=runs) == first
    assert runs.calls == [("digest", 1), ("ingest", 1)]


def test_a_touched_file_is_named_again_but_not_read_again(tmp_path: pathlib.Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", documents(10))
    store, runs = store_of(tmp_path), Runs()
    first = take(store, path, runs=runs)
    os.utime(path, ns=(1, 1))
    assert take(store, path, runs=runs) == first
    assert runs.calls == [("digest", 1), ("ingest", 1), ("digest", 1)]


def test_only_rehash_sees_a_change_behind_an_unchanged_stamp(tmp_path: pathlib.Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "aaa"}])
    store = store_of(tmp_path)
    stamp = path.stat().st_mtime_ns
    assert rows_of(store, take(store, path))[0]["text"] == "aaa"
    write_jsonl(path, [{"text": "bbb"}])
    os.utime(path, ns=(stamp, stamp))
    assert rows_of(store, take(store, path))[0]["text"] == "aaa"
    assert rows_of(store, take(store, path, rehash=True))[0]["text"] == "bbb"
    assert rows_of(store, take(store, path))[0]["text"] == "bbb"


def test_an_append_reads_only_the_last_unit_and_changes_only_the_last_shard(tmp_path: pathlib.Path) -> None:
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"in/{name}.jsonl", [{"text": f"{name} {name}"}, {"pad": "x" * 33_000_000, "text": name}])
    store, runs = store_of(tmp_path), Runs()
    first = take(store, tmp_path / "in", runs=runs)
    with (tmp_path / "in/b.jsonl").open("a") as file:
        file.write('{"text":"appended"}\n')
    second = take(store, tmp_path / "in", runs=runs)
    assert runs.calls == [("digest", 2), ("ingest", 2), ("digest", 1), ("ingest", 1)]
    assert second.shards[:-1] == first.shards[:-1]
    assert second.n_rows == first.n_rows + 1


@pytest.mark.slow
def test_an_append_to_one_long_file_keeps_the_shards_before_it(tmp_path: pathlib.Path) -> None:
    rng = random.Random(1)
    rows = [{"text": rng.choice("abcdef") * rng.randrange(1, 5_000_000)} for _ in range(30)]
    store = store_of(tmp_path)
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    first = take(store, path)
    with path.open("a") as file:
        file.write('{"text":"appended"}\n')
    second = take(store, path)
    assert len(first.shards) > 1
    assert second.shards[:-1] == first.shards[:-1]
    assert all(shard.n_bytes >= shards.SHARD_BYTES for shard in first.shards[:-1])
    sizes = [n for shard in second.shards for n in store.read_table(shard.path, ["n_bytes"])["n_bytes"].to_pylist()]
    assert sizes == [len(row["text"]) for row in rows] + [len("appended")]


def test_equal_files_are_two_shards(tmp_path: pathlib.Path) -> None:
    for name in ("one/a.jsonl", "two/a.jsonl"):
        write_jsonl(tmp_path / name, [{"text": "x", "pad": "y" * 33_000_000}])
    ingested = take(store_of(tmp_path), tmp_path / "one", tmp_path / "two")
    assert ingested.n_rows == 2
    assert len({shard.path for shard in ingested.shards}) == 2


def test_a_shard_is_named_by_its_bytes_and_knows_its_rows(tmp_path: pathlib.Path) -> None:
    store = store_of(tmp_path)
    (shard,) = take(store, write_jsonl(tmp_path / "a.jsonl", documents(10))).shards
    assert shard.path == f"corpus/s/{file_digest(store.local(shard.path))[:32]}.parquet"
    assert (shard.rows, shard.n_bytes) == (10, sum(row["n_bytes"] for row in store.read_table(shard.path).to_pylist()))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=6), st.randoms(use_true_random=False))
def test_the_rows_do_not_depend_on_file_sizes_and_file_order(cuts: list[int], rng: random.Random) -> None:
    # Hypothesis runs many examples in one test, so each has its own root in memory.
    rows: list[Any] = [*documents(50), *documents(5), {"text": None}, {"text": 1}, "x", {"text": "\r\n"}, {"text": "z", "id": None}]
    bounds = [0, *sorted(cuts), len(rows)]
    parts = [rows[start:end] for start, end in itertools.pairwise(bounds)]
    rng.shuffle(parts)
    got = []
    for variant in ([rows], parts):
        root = f"memory://ingest-{next(ROOTS)}"
        store = Store(root)
        for i, part in enumerate(variant):
            store.fs.pipe_file(f"{store.path}-in/{i}.jsonl", "".join(json.dumps(row) + "\n" for row in part).encode())
        ingested = take(store, f"{root}-in")
        keys = Counter((row["row_key"], row["text"]) for row in rows_of(store, ingested))
        got.append((keys, ingested.reasons))
    assert got[0] == got[1]
    assert sum(got[0][0].values()) + sum(got[0][1].values()) == len(rows)


def test_a_unit_that_died_before_its_record_gives_the_same_again(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text":"a"}\nbroken\n')
    store = store_of(tmp_path)
    take(store, tmp_path / "a.jsonl")
    files = {
        path: store.read_bytes(path) for path in [*store.files("corpus"), *store.files("cache/quarantine"), *store.files("cache/inputs")]
    }
    for path in store.files("cache/inputs/units"):
        store.fs.rm(f"{store.path}/{path}")
    take(store, tmp_path / "a.jsonl")
    assert {path: store.read_bytes(path) for path in files} == files
    assert sorted(files) == [*store.files("cache/inputs"), *store.files("cache/quarantine"), *store.files("corpus")]


def test_a_file_that_changes_after_it_was_listed_is_refused(tmp_path: pathlib.Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", documents(3))
    store = store_of(tmp_path)
    (unit,) = plan_units(store, [Source("s", (str(path),))], run=Runs())["s"]
    write_jsonl(path, documents(4))
    with pytest.raises(DomainError, match=r"a\.jsonl changed while it was read; run the build again"):
        ingest_unit(store.url(), unit)
    path.unlink()
    with pytest.raises(DomainError, match=r"a\.jsonl can no longer be read .*; run the build again"):
        ingest_unit(store.url(), unit)
    assert store.files("corpus") == store.files("cache/inputs/units") == []


def test_small_files_share_a_unit_and_a_shard(tmp_path: pathlib.Path) -> None:
    for i in range(300):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"in/{i}.txt").write_text(f"text {i}")
    store, runs = store_of(tmp_path), Runs()
    ingested = take(store, tmp_path / "in", runs=runs)
    assert (ingested.n_rows, len(ingested.shards), len(ingested.file_digests)) == (300, 1, 300)
    assert runs.calls == [("digest", 2), ("ingest", 1)]


def test_sources_are_ingested_in_one_run(tmp_path: pathlib.Path) -> None:
    runs = Runs()
    sources = [Source(name, (str(write_jsonl(tmp_path / f"{name}.jsonl", documents(3, seed=i))),)) for i, name in enumerate("ab")]
    ingested = ingest(store_of(tmp_path), sources, run=runs)
    assert list(ingested) == ["a", "b"]
    assert runs.calls == [("digest", 2), ("ingest", 2)]


# --- wrong input ---


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.jsonl", "does not exist; give a file, a folder or a glob"),
        ("absent/*.jsonl", "no file matches"),
        ("*.none", "no file matches"),
        ("*.pdf", r"a\.pdf' has no known suffix; allowed: \.jsonl, .*\. Narrow the glob, or set sources\.s\.format"),
        ("a.pdf", "has no known suffix"),
        ("empty", "no file below .* has a known suffix; allowed"),
    ],
)
def test_a_wrong_path_is_refused_in_one_line(tmp_path: pathlib.Path, path: str, message: str) -> None:
    (tmp_path / "a.pdf").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    store = store_of(tmp_path)
    with pytest.raises(DomainError, match=message) as caught:
        take(store, tmp_path / path)
    assert "\n" not in str(caught.value)
    assert not store.exists("")


def test_a_parquet_file_without_the_column_is_refused_before_it_is_read(tmp_path: pathlib.Path) -> None:
    pq.write_table(pa.table({"body": ["a"], "id": [1]}), tmp_path / "a.parquet")
    store, runs = store_of(tmp_path), Runs()
    with pytest.raises(DomainError, match=r"a\.parquet has no column 'text'; its columns: body, id\. Set sources\.s\.fields\.text"):
        take(store, tmp_path / "a.parquet", runs=runs)
    assert runs.calls == []
    assert take(store, tmp_path / "a.parquet", text="body").n_rows == 1
    with pytest.raises(DomainError, match="has no column 'text'"):
        take(store, tmp_path / "a.parquet")


@pytest.mark.parametrize("role", ["text", "id", "group", "url", "licence", "date", "lang"])
def test_a_named_field_that_no_row_has_is_refused(tmp_path: pathlib.Path, role: str) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "other": None, "empty": ""}])
    with pytest.raises(
        DomainError, match=rf"no row has the field 'other'; fields there: empty, other, text\. Correct sources\.s\.fields\.{role}"
    ):
        take(store_of(tmp_path), tmp_path / "a.jsonl", **{role: "other"})


def test_a_field_of_a_text_folder_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DomainError, match="no row has the field 'x'; its files have no fields"):
        take(store_of(tmp_path), tmp_path / "a.txt", group="x")


def test_a_source_without_the_default_text_field_is_refused(tmp_path: pathlib.Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"body": "a"}])
    with pytest.raises(DomainError, match=r"no row has the field 'text'; fields there: body\. Set sources\.s\.fields\.text"):
        take(store_of(tmp_path), tmp_path / "a.jsonl")


def test_a_named_format_reads_any_suffix(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'{"text":"a"}\n'))
    source = Source("s", (str(tmp_path / "*.json.gz"),), format="jsonl")
    assert ingest(store_of(tmp_path), [source], run=Runs())["s"].n_rows == 1


def test_linked_folders_are_followed_once_and_never_in_a_circle(tmp_path: pathlib.Path) -> None:
    for name in ("in/a", "in/b", "out"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.txt").write_text(name)
    for link, target in [("in/a/up", "in"), ("in/a/self", "in/a"), ("in/b/other", "in/a"), ("in/out", "out"), ("in/twice", "out")]:
        (tmp_path / link).symlink_to(tmp_path / target)
    (tmp_path / "out/back").symlink_to(tmp_path / "in")
    for path in (tmp_path / "in", tmp_path / "in/**/*.txt"):
        assert [file.name for file in list_files(Source("s", (str(path),)))] == ["a/x.txt", "b/x.txt", "out/x.txt"]


def test_a_pipe_is_kept_aside_and_not_waited_for(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    store = store_of(tmp_path)
    take(store, tmp_path / "a.txt")
    assert [row["reason"] for row in quarantine_of(store)] == ["unreadable: not a regular file"]


def test_units_name_everything_that_can_change_their_rows(tmp_path: pathlib.Path) -> None:
    path = str(write_jsonl(tmp_path / "a.jsonl", documents(3)))

    def key(source: Source) -> str:
        (unit,) = plan_units(store_of(tmp_path), [source], run=Runs())[source.name]
        assert isinstance(unit, Unit)
        return unit.key

    base = Source("s", (path,))
    others = [Source("t", (path,)), Source("s", (path,), fields=Fields(group="id")), Source("s", (path,), format="text")]
    assert len({key(source) for source in [base, *others]}) == 4
    assert key(base) == key(Source("s", (path,), role="background", holdout_share=0.5))
