"""SQL for people: the tables are there, and a query sees the root, reads, and does nothing else."""

import pathlib
import shutil

import pytest

import curate
from curate.manifest import load, rows
from curate.sql import QueryError, connect, select
from curate.store import Store


@pytest.fixture(scope="module")
def root(tiny, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("sql")
    shutil.copytree(tiny.root, folder / "root")
    store = Store(str(folder / "root"))
    store.write_json("runs/r1/run.json", {"manifest": "v1", "config": {"lr": 0.1}})
    store.append_lines("runs/r1/metrics.jsonl", ['{"step": 1, "loss": 2.5, "by": {"domain": 1}}', '{"step": 2, "loss": 2}'])
    (folder / "secret.txt").write_text("outside")
    return folder / "root"


def test_the_tables_hold_what_they_say(root):
    connection = connect(str(root))
    n_rows = sum(rows(Store(str(root)), load(Store(str(root)), "v1"), split).num_rows for split in ("train", "holdout", "dropped"))
    assert select(connection, "SELECT count(*) AS n FROM manifest").to_pylist() == [{"n": n_rows}]
    assert select(connection, "SELECT count(*) AS n FROM documents").to_pylist()[0]["n"] == n_rows + 20
    joined = 'SELECT count(*) AS n FROM manifest JOIN documents USING (shard, "row") JOIN signals USING (shard, "row")'
    assert select(connection, joined).to_pylist() == [{"n": n_rows}]
    wrong = 'SELECT count(*) AS n FROM manifest m JOIN documents d USING (shard, "row") WHERE m.doc_id <> d.doc_id OR m.source <> d.source'
    assert select(connection, wrong).to_pylist() == [{"n": 0}]
    words = 'SELECT count(*) AS n FROM manifest JOIN signals USING (shard, "row") WHERE n_words <> statistics.n_words'
    assert select(connection, words).to_pylist() == [{"n": 0}]
    assert select(connection, "SELECT version, sample FROM versions").to_pylist() == [{"version": "v1", "sample": False}]
    found = select(
        connection, "SELECT doc_a, doc_b, similarity, greatest(containment_a, containment_b) AS containment FROM edges"
    ).to_pylist()
    assert found
    assert all(row["similarity"] >= 0.5 or row["containment"] >= 0.8 for row in found)
    assert select(connection, "SELECT run, config_lr FROM runs").to_pylist() == [{"run": "r1", "config_lr": 0.1}]
    assert select(connection, "SELECT loss FROM metrics ORDER BY step").to_pylist() == [{"loss": 2.5}, {"loss": 2.0}]
    assert select(connection, "SELECT count(*) AS n FROM evaluations").to_pylist() == [{"n": 0}]


def test_the_draw_in_sql_is_the_draw(root):
    from curate.manifest import draw

    store = Store(str(root))
    manifest = load(store, "v1")
    train = rows(store, manifest, "train")["row_id"]
    drawn = [train[at].as_py() for at in draw(store, manifest, stage=0, component="domain", epoch=1)["ordinal"].to_pylist()]
    query = (
        "SELECT row_id FROM manifest WHERE component = 'domain' AND split = 'train'"
        f" ORDER BY draw_key({manifest.seed}, 0, 'domain', 1, doc_id), row_id LIMIT {len(drawn)}"
    )
    assert [row["row_id"] for row in select(connect(str(root)), query).to_pylist()] == drawn


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO '{root}/x.csv'",
        "ATTACH '{root}/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_text('{root}/../secret.txt')",
        "SELECT * FROM glob('{root}/../*')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "FROM '/etc/passwd'",
        "PRAGMA database_list",
        "SELECT 1; SELECT 2",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW manifest",
        "DELETE FROM versions",
        "EXPLAIN ANALYZE SELECT 1",
        "SELECT * FROM no_such_table",
        "SELEC 1",
        "",
        "SELECT * FROM connection",
    ],
)
def test_nothing_but_one_select_over_the_root(root, query):
    connection = connect(str(root))  # also the name of a Python variable, which a query must not see
    with pytest.raises(QueryError) as error:
        select(connection, query.format(root=root))
    assert "\n" not in str(error.value)
    assert not (root / "x.csv").exists()


def test_the_package_opens_a_root():
    assert curate.connect is connect
    with pytest.raises(AttributeError):
        _ = curate.conect


def test_files_of_the_root_can_be_read(root):
    found = select(connect(str(root)), f"SELECT count(*) AS n FROM read_parquet('{root}/manifests/v1/train/*.parquet')").to_pylist()
    assert found[0]["n"] > 0


def test_the_queries_of_the_page_run(root):
    page = (pathlib.Path(__file__).parents[2] / "manifests" / "README.md").read_text()
    block = page.split("## Ten minutes with SQL")[1].split("```sql")[1].split("```")[0]
    queries = [query for query in block.split(";") if query.strip()]
    assert len(queries) >= 5
    for query in queries:
        assert select(connect(str(root)), query).num_columns > 0


def test_an_object_store_is_locked_too(tiny, tmp_path):
    store = Store(f"memory://{tmp_path.name}-sql")
    for path in filter(pathlib.Path.is_file, tiny.root.rglob("*")):
        store.write_bytes(path.relative_to(tiny.root).as_posix(), path.read_bytes())
    connection = connect(store.url())
    assert select(connection, "SELECT count(*) AS n FROM documents").to_pylist()[0]["n"] > 100
    with pytest.raises(QueryError):
        select(connection, "SELECT * FROM read_text('/etc/passwd')")
    with pytest.raises(QueryError):
        select(connection, "SELECT * FROM glob('memory://*')")
