"""SQL for people: the tables are there, and a query sees the root, reads, and does nothing else."""

import contextlib
import pathlib
import re
import shutil
from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import curate
from curate.manifest import load, rows
from curate.sandbox import QueryError
from curate.sql import connect, select, stream
from curate.store import Store
from tests.curate.commands import curate as curate_command


@pytest.fixture(scope="module")
def root(tiny, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("sql")
    shutil.copytree(tiny.root, folder / "root")
    store = Store(str(folder / "root"))
    store.write_json("runs/r1/run.json", {"manifest": "v1", "config": {"lr": 0.1}})
    store.append_lines("runs/r1/metrics.jsonl", ['{"step": 1, "loss": 2.5, "by": {"domain": 1}}', '{"step": 2, "loss": 2}'])
    (folder / "secret.txt").write_text("outside")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "secret.txt").write_text("outside")
    pq.write_table(pa.table({"x": ["outside"]}), folder / "secret.parquet")
    (folder / "root" / "link.txt").symlink_to(folder / "secret.txt")
    (folder / "root" / "linked").symlink_to(folder / "elsewhere")
    return folder / "root"


@pytest.fixture(scope="module")
def connection(root) -> Iterator[duckdb.DuckDBPyConnection]:  # its name is also that of Python variables, which a query must not see
    with connect(str(root)) as opened:
        yield opened


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


_STATEMENTS = [
    "COPY (SELECT 1) TO '{root}/x.csv'",
    "COPY versions FROM '{root}/x.csv'",
    "ATTACH '{root}/x.db'",
    "DETACH memory",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "CALL enable_logging()",
    "SET enable_external_access = true",
    "SET memory_limit = '100GB'",
    "RESET lock_configuration",
    "EXPORT DATABASE '{root}/x'",
    "IMPORT DATABASE '{root}/x'",
    "VACUUM",
    "CHECKPOINT",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "BEGIN",
    "CREATE TABLE t AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "CREATE SECRET s (TYPE s3)",
    "DROP VIEW manifest",
    "ALTER TABLE versions ADD COLUMN x INTEGER",
    "INSERT INTO versions FROM versions",
    "UPDATE versions SET domain = 'x'",
    "DELETE FROM versions",
    "TRUNCATE versions",
    "COMMENT ON TABLE versions IS 'x'",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN ANALYZE INSERT INTO versions FROM versions",
    "EXPLAIN COPY (SELECT 1) TO '{root}/x.csv'",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{root}/x.csv'",
    "",
    "SELEC 1",
]
_WRITES = [
    "WITH x AS (COPY (SELECT 1) TO '{root}/x.csv') SELECT * FROM x",
    "WITH a AS (SELECT 1), x AS (COPY (SELECT 1) TO '{root}/x.csv') SELECT 1 UNION ALL SELECT 2",
    "WITH x AS (DELETE FROM versions RETURNING *) SELECT * FROM x",
    "WITH x AS (INSERT INTO versions FROM versions RETURNING *) SELECT * FROM x",
    "WITH x AS (UPDATE versions SET domain = 'x' RETURNING *) SELECT * FROM x",
    "SELECT * FROM query('WITH x AS (DELETE FROM versions RETURNING *) SELECT * FROM x')",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('versions')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT * FROM enable_logging()",
    "SELECT * FROM checkpoint()",
    "SELECT * FROM test_all_types()",
]
_OUTSIDE = [
    "SELECT * FROM read_text('{root}/../secret.txt')",
    "SELECT * FROM read_text('{root}/manifests/../../secret.txt')",
    "SELECT * FROM read_text('{root}/link.txt')",
    "SELECT * FROM read_text('{root}/linked/secret.txt')",
    "SELECT * FROM read_text('{root}/link*/secret.txt')",
    "SELECT * FROM read_text('{root}/linked/../secret.txt')",
    "SELECT * FROM read_text(['{root}/linked/../secret.txt'])",
    "SELECT * FROM read_text('{root}/linked/.' || './secret.txt')",
    "SELECT * FROM read_text((SELECT '{root}/linked/../secret.txt'))",
    'SELECT * FROM read_text("{root}/linked/../secret.txt")',
    "FROM '{root}/linked/../secret.parquet'",
    "SELECT * FROM read_blob('/etc/hostname')",
    "SELECT * FROM read_text('file:///etc/hostname')",
    "SELECT * FROM read_text('~/.profile')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM glob('{root}/../*')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM read_parquet('https://example.invalid/x.parquet')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "FROM '/etc/passwd'",
    "SELECT * FROM sqlite_scan('/etc/passwd', 't')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_extensions()",
    "SELECT * FROM duckdb_databases()",
    "SELECT getenv('HOME')",
    "SELECT * FROM connection",
    "SELECT * FROM no_such_table",
]


@pytest.mark.parametrize("query", [*_STATEMENTS, *_WRITES, *_OUTSIDE])
def test_nothing_but_one_select_over_the_root(root, connection, query):
    with pytest.raises(QueryError) as error:
        select(connection, query.format(root=root))
    assert "\n" not in str(error.value)
    assert "outside" not in str(error.value)
    assert not (root / "x.csv").exists()
    assert select(connection, "SELECT domain FROM versions").to_pylist() == [{"domain": "tiny"}]


@pytest.mark.parametrize("query", ["SELECT " + "(" * 5000 + "1" + ")" * 5000, "SELECT " + "1 + " * 5000 + "1", "SELECT $1", "SELECT ?"])
def test_a_query_that_is_too_deep_or_lacks_a_value_is_refused(connection, query):
    with pytest.raises(QueryError):
        select(connection, query)


@pytest.mark.parametrize(
    "query",
    [
        "FROM versions",
        "TABLE versions",
        "DESCRIBE manifest",
        "SHOW TABLES",
        "SUMMARIZE versions",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT * FROM t",
        "SELECT 1 -- ; a comment",
        "(SELECT 1) UNION ALL (SELECT 2) ORDER BY 1",
        "SELECT * FROM range(3) WHERE range IN (SELECT unnest([1, 2]))",
        "SELECT * FROM read_parquet(['{root}/manifests/v1/train/*.parquet'], filename = true)",
        "SELECT * FROM '{root}/manifests/v1/*/*.parquet'",
        "PIVOT manifest ON split IN ('train', 'holdout') USING count(*) GROUP BY source",
    ],
)
def test_what_only_reads_is_allowed(root, connection, query):
    assert select(connection, query.format(root=root)).num_rows > 0


def test_a_query_sees_nothing_of_the_environment_and_spills_into_the_root(root, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://user:word@proxy.invalid")
    seen = [str(row) for row in select(connect(str(root)), "SELECT * FROM pg_settings").to_pylist()]
    assert not [row for row in seen if "proxy.invalid" in row or ".duckdb" in row]
    found = select(connect(str(root)), "SELECT current_setting('temp_directory') AS spill, current_setting('memory_limit') AS memory")
    assert found.to_pylist()[0]["spill"].startswith(f"{root}/cache/.scratch/")
    assert found.to_pylist()[0]["memory"] == "1.8 GiB"


def test_a_long_result_streams_and_spills(root):
    connection = connect(str(root))
    schema, batches = stream(connection, "SELECT range AS n FROM range(20_000_000)")
    sizes = [batch.num_rows for batch in batches]
    assert (sum(sizes), schema.names) == (20_000_000, ["n"])
    assert max(sizes) <= 2048
    schema, batches = stream(connection, "SELECT CASE WHEN range > 90_000 THEN error('late') ELSE 1 END AS n FROM range(100_000)")
    with pytest.raises(QueryError, match="late"):
        list(batches)


def test_breaches_have_the_reason_first(connection):
    wrong = """SELECT count(*) AS n FROM manifest JOIN breaches USING (shard, "row") WHERE split <> 'holdout'
        AND (CASE WHEN reason LIKE 'gopher%' THEN reason END IS DISTINCT FROM breached[1] OR len(breached) <> n_breached)"""
    assert select(connection, wrong).to_pylist() == [{"n": 0}]
    assert select(connection, "SELECT max(n_breached) >= 1 AS some FROM breaches").to_pylist() == [{"some": True}]


def test_all_versions_are_one_table(root, connection):
    found = select(connection, "SELECT version, count(*) AS n FROM manifests GROUP BY ALL").to_pylist()
    assert found == [{"version": "v1", "n": select(connection, "SELECT row_id FROM manifest").num_rows}]


def test_a_table_shows_what_a_terminal_would_act_upon(root):
    done = curate_command("sql", "SELECT 'a' || chr(27) || '[31mb [bold]' || chr(10) || 'c' AS x", "--root", str(root), cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a\\x1b[31mb [bold]" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_value_that_python_has_not_is_one_line(root):
    done = curate_command("sql", "SELECT DATE '290000-01-01' AS x", "--root", str(root), cwd=root)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: a value cannot be shown")
    assert curate_command("sql", "SELECT (DATE '290000-01-01')::VARCHAR AS x", "--root", str(root), cwd=root).returncode == 0


def test_the_package_opens_a_root():
    assert curate.connect is connect
    with pytest.raises(AttributeError):
        _ = curate.conect


def test_files_of_the_root_can_be_read(root):
    found = select(connect(str(root)), f"SELECT count(*) AS n FROM read_parquet('{root}/manifests/v1/train/*.parquet')").to_pylist()
    assert found[0]["n"] > 0


def _page(heading: str) -> list[str]:
    page = (pathlib.Path(__file__).parents[2] / "manifests" / "README.md").read_text()
    block = page.split(heading)[1].split("```sql")[1].split("```")[0]
    return [query.strip() for query in block.split(";") if query.strip()]


_QUESTIONS = _page("### Ten questions")


@pytest.mark.parametrize("query", [*_QUESTIONS, *_page("### More")], ids=lambda query: query.splitlines()[0][:40])
def test_the_queries_of_the_page_run(root, connection, query):
    found = select(connection, query)
    assert found.num_rows > 0
    if query in _QUESTIONS and not re.search("documents|signals USING|breaches|edges", query.split("\n", 1)[1]):
        with contextlib.chdir(root), duckdb.connect() as plain:
            for view in _page("in plain DuckDB, too"):
                plain.execute(view)
            assert plain.sql(query).to_arrow_table().to_pylist() == found.to_pylist()


def test_ten_questions_are_ten():
    assert [query.split()[1] for query in _QUESTIONS] == [f"{number}." for number in range(1, 11)]


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
