"""The contract: what is published comes back, digests see every change that matters, and draws are exact."""

import functools
import hashlib
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import manifest
from curate.manifest import COLUMNS, MACROS, SCHEMA, ManifestError
from curate.store import Store

_N = 40


def _rows(n: int = _N) -> list[dict[str, Any]]:
    rows = []
    for number in range(n):
        split = ["train", "train", "holdout", "dropped"][number % 4]
        rows.append({
            "row_id": f"{number:032x}", "doc_id": hashlib.sha256(str(number).encode()).hexdigest()[:32], "group": f"g{number}",
            "source": "papers",
            "source_id": None, "component": "wikipedia" if number % 8 == 0 else "domain", "stages": [0] if split == "train" else [],
            "shard": "papers/a.parquet", "row": number, "url": None, "licence": "cc0", "lang": None, "date": "2001",
            "n_bytes": 100 + number,
            "n_words": 20, "n_tokens": None if split == "dropped" else 10 + number,
            "masks": [{"start": 1, "end": 3, "kind": "email"}] if number == 5 else [], "quality": None, "perplexity": None,
            "dup_of": None, "dup_kind": None, "dup_similarity": None, "contaminated": None, "split": split,
            "reason": "budget" if split == "dropped" else None, "rank": number,
        })  # fmt: skip
    return rows


def _connection(rows: list[dict[str, Any]]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(MACROS)
    connection.register("given", pa.Table.from_pylist(rows, schema=pa.schema([(name, kind) for name, (kind, _, _) in COLUMNS.items()])))
    connection.execute("CREATE TABLE decided AS SELECT * FROM given")
    return connection


def _info(**more: Any) -> dict[str, Any]:
    pools = {"domain": sum(r["n_tokens"] for r in _rows() if r["split"] == "train" and r["component"] == "domain")}
    pools["wikipedia"] = sum(r["n_tokens"] for r in _rows() if r["split"] == "train" and r["component"] == "wikipedia")
    parts = [
        {
            "name": name,
            "share": share,
            "epoch_tokens": tokens,
            "pool_tokens": pools[name],
            "redraw": redraw,
            "repeats": 1.0,
            "seen_by_base": None,
        }
        for name, share, tokens, redraw in [("domain", 0.75, 150, "dynamic"), ("wikipedia", 0.25, 50, "fixed")]
    ]
    stages = [{"name": "main", "epochs": 2, "epoch_tokens": 200, "components": parts}]
    tokenizer = {"name": "t", "sha256": "0" * 64, "separator": "auto", "path": "models/t.json", "n_vocab": 300}
    info = {"domain": "test", "parent": None, "recipe": {"seed": 0}, "sample": True, "inputs": {}, "tokenizer": tokenizer, "stages": stages}
    return {**info, "evalset": {"digest": "e", "components": {}}, "seed": 0, "funnel": [], "software": {}, **more}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def test_what_is_published_comes_back(store):
    published = manifest.publish(store, _connection(_rows()[::-1]), _info())
    assert manifest.versions(store) == ["v1"]
    loaded = manifest.load(store, "v1")
    assert loaded == published
    for split in manifest.SPLITS:
        found = manifest.rows(store, loaded, split)
        assert found.schema.equals(SCHEMA)
        assert found.to_pylist() == sorted((row for row in _rows() if row["split"] == split), key=lambda row: row["row_id"])
    in_duckdb = duckdb.sql(f"SELECT count(*) FROM '{store.url()}/manifests/v1/*/*.parquet'").fetchall()
    assert in_duckdb == [(_N,)]


def test_the_same_decision_is_published_once(store):
    manifest.publish(store, _connection(_rows()), _info())
    again = manifest.publish(store, _connection(_rows()[::-1]), _info(software={"duckdb": "other"}))
    assert again.version == "v1"
    assert manifest.versions(store) == ["v1"]


def test_another_decision_takes_the_next_free_number(store):
    manifest.publish(store, _connection(_rows()), _info())
    store.create("manifests/v2/claim", b"")  # somebody else is building, or was killed
    assert manifest.publish(store, _connection(_rows()), _info(recipe={"seed": 1})).version == "v3"
    assert manifest.versions(store) == ["v1", "v3"]


@functools.cache
def _digests_of_rows() -> dict[str, str]:
    return manifest.compute_digests(_connection(_rows()), "decided", _info())


@pytest.mark.parametrize("column", list(COLUMNS))
def test_which_columns_the_digests_cover(column):
    change: dict[str, Any] = {
        "stages": [0, 1],
        "masks": [{"start": 0, "end": 1, "kind": "ip"}],
        "contaminated": ["medqa"],
        "split": "dropped",
    }
    numbers = {"row", "n_bytes", "n_words", "n_tokens", "quality", "perplexity", "dup_similarity", "rank"}
    rows = _rows()
    rows[1][column] = change.get(column, 7 if column in numbers else "other")
    before, after = _digests_of_rows(), manifest.compute_digests(_connection(rows), "decided", _info())
    assert (before["decision"] != after["decision"]) == (column not in ("shard", "row"))
    assert (before["fingerprint"] != after["fingerprint"]) == (
        column in ("row_id", "doc_id", "component", "stages", "n_tokens", "masks", "split")
    )


def test_the_tokenizer_the_seed_and_the_stages_are_in_the_fingerprint():
    digests = [
        manifest.compute_digests(_connection(_rows()), "decided", info)["fingerprint"]
        for info in (
            _info(),
            _info(seed=1),
            _info(stages=[]),
            _info(tokenizer={"sha256": "1" * 64, "separator": "auto"}),
            _info(tokenizer={"sha256": "1" * 64, "separator": "auto", "eos_token": "a"}),
        )
    ]
    assert len(set(digests)) == 5


def test_an_unknown_version_lists_the_known(store):
    manifest.publish(store, _connection(_rows()), _info())
    for name in ("v2", "v01", "../v1", ""):
        with pytest.raises(ManifestError, match="known: v1"):
            manifest.load(store, name)


def test_damage_is_told_in_one_line(store):
    manifest.publish(store, _connection(_rows()), _info())
    loaded = manifest.load(store, "v1")
    Path(store.url("manifests/v1/train/part-00000.parquet")).unlink()
    with pytest.raises(ManifestError, match="is missing"):
        manifest.rows(store, loaded, "train")
    with pytest.raises(ManifestError, match="is missing"):
        manifest.attach(store, loaded, "m")
    store.write_bytes("manifests/v1/train/part-00000.parquet", b"PAR1 and no more")
    for read in (lambda: manifest.rows(store, loaded, "train"), lambda: manifest.attach(store, loaded, "m")):
        with pytest.raises(ManifestError, match="is damaged"):
            read()
    store.write_bytes("manifests/v1/manifest.json", b"{")
    with pytest.raises(ManifestError, match="damaged"):
        manifest.load(store, "v1")
    store.write_json("manifests/v1/manifest.json", {"schema_version": 99})
    with pytest.raises(ManifestError, match="install a newer gapless"):
        manifest.load(store, "v1")


def test_a_draw_is_exact_repeatable_and_redrawn_when_dynamic(store):
    published = manifest.publish(store, _connection(_rows()), _info())
    train = manifest.rows(store, published, "train").to_pylist()
    for epoch in range(3):
        drawn = manifest.draw(store, published, stage=0, component="domain", epoch=epoch)
        keys = [
            hashlib.sha256(f"draw|0|0|domain|{epoch}|{train[at]['doc_id']}".encode()).hexdigest()[:16]
            for at in drawn["ordinal"].to_pylist()
        ]
        assert keys == sorted(keys)
        assert sum(drawn["n_tokens"].to_pylist()) == 150
        assert [train[at]["n_tokens"] for at in drawn["ordinal"].to_pylist()[:-1]] == drawn["n_tokens"].to_pylist()[:-1]
    draws = [manifest.draw(store, published, stage=0, component="domain", epoch=epoch)["ordinal"].to_pylist() for epoch in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    fixed = [manifest.draw(store, published, stage=0, component="wikipedia", epoch=epoch) for epoch in (0, 1)]
    assert fixed[0].equals(fixed[1])


def test_an_unknown_component_is_refused(store):
    published = manifest.publish(store, _connection(_rows()), _info())
    with pytest.raises(ManifestError, match="it has: domain, wikipedia"):
        manifest.draw(store, published, stage=0, component="books", epoch=0)


@settings(max_examples=200, deadline=None)
@given(n_tokens=st.lists(st.integers(1, 50), min_size=1, max_size=30), wanted=st.integers(0, 400))
def test_a_small_stock_is_gone_through_whole_and_then_by_prefix(n_tokens, wanted):
    taken = manifest._take(np.arange(len(n_tokens)), np.array(n_tokens, dtype=np.int64), wanted)
    flat = [(at, n) for at, n in zip(taken["ordinal"].to_pylist(), taken["n_tokens"].to_pylist(), strict=True)]
    assert sum(n for _, n in flat) == wanted
    whole, rest = divmod(wanted, sum(n_tokens))
    expected, left = [(at, n) for _ in range(whole) for at, n in enumerate(n_tokens)], rest
    for at, n in enumerate(n_tokens):
        if left:
            expected.append((at, min(n, left)))
            left -= min(n, left)
    assert flat == expected
    assert taken["repeat"].to_pylist() == [index // len(n_tokens) for index in range(len(flat))]


def test_hashes_are_the_same_in_sql_and_in_python():
    connection = duckdb.connect()
    connection.execute(MACROS)
    assert connection.execute("SELECT hash_key('holdout', 'g\u00e9')").fetchall() == [(manifest.hash_key("holdout", "g\u00e9"),)]


def test_share_keys_bound_the_right_share():
    assert manifest.share_key(0.0) == "0" * 16
    assert manifest.share_key(0.5) == "8" + "0" * 15
    n = sum(manifest.hash_key("holdout", str(number)) < manifest.share_key(0.05) for number in range(20_000))
    assert abs(n - 1000) < 5 * (20_000 * 0.05 * 0.95) ** 0.5


def test_the_page_for_people_describes_every_column_as_the_code_does():
    page = (Path(__file__).parents[2] / "manifests" / "README.md").read_text().split("## Columns\n")[1].split("\n## ")[0]
    table = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", page, flags=re.MULTILINE)
    expected = [(name, _words(kind) + (", nullable" if nullable else ""), meaning) for name, (kind, nullable, meaning) in COLUMNS.items()]
    assert [tuple(part.strip() for part in row) for row in table] == expected


def _words(kind: pa.DataType) -> str:
    return str(kind).replace("<values=string, indices=int32, ordered=0>", "(string)").replace("<element: ", "<").replace("<item: ", "<")
