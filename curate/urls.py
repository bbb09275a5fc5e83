"""Rows of one URL, as facts: how many there are, and which place each has among them.

Stands between ingest and decide. All rows of the decided sources are looked at together, also those that a rule drops later, because no
fact may depend on a threshold. So the facts are named by the set of shards, and each new set computes them anew, which costs one pass over
the rows' metadata: about 150 bytes for each row with a URL, and two sorts in DuckDB, which spill.

URLs are compared without scheme, "www.", default port, fragment and the slashes that end a path, with the host in lower case. The query
counts, because on many sites it names the page; so addresses that differ in a tracking parameter are two.
"""

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa

from curate.annotate import Facts, signals_schema
from curate.corpus import NUMBER, ROW_ID
from curate.store import Store, digest_of
from filters.urls import URLS


def url_facts(store: Store, connection: duckdb.DuckDBPyConnection, shards: Sequence[str]) -> Facts:
    """Compute the family `urls` of these shards (paths relative to corpus/), and give its facts.

    Of the rows of a URL the newest comes first (as dates compare as text; null last), then the longest, then by row_id.
    """
    names = sorted(shards)
    facts = Facts(URLS.name, URLS.version, signals_schema(URLS), None, {"kind": "corpus"}, digest_of(names))
    if all(store.exists(facts.path(shard)) for shard in names):
        return facts
    connection.execute(_TABLE)
    sizes = []
    for number, shard in enumerate(names):
        table = store.read_table(f"corpus/{shard}", ["row_key", "url", "date", "n_bytes"])
        connection.register("incoming", table.append_column("row", pa.array(np.arange(table.num_rows, dtype=np.int32))))
        connection.execute(_ADDRESSED, [number])
        connection.unregister("incoming")
        sizes.append(table.num_rows)
    connection.execute(_PLACED.format(row_id=ROW_ID.format(number=NUMBER)))
    for number, (shard, n_rows) in enumerate(zip(names, sizes, strict=True)):
        store.write_table(facts.path(shard), connection.sql(_SIGNALS, params=[n_rows, number]).to_arrow_table().cast(facts.schema))
    for name in ("addressed", "placed"):
        connection.execute(f"DROP TABLE {name}")
    return facts


# Shards by number, in the order of their names, so that copies are numbered as in the table `rows`.
_TABLE = """
CREATE OR REPLACE TABLE addressed (shard INTEGER, "row" INTEGER, row_key VARCHAR, url VARCHAR, date VARCHAR, n_bytes BIGINT)
"""
_PARTS = r"^(?:(?:[a-z][a-z0-9+.-]*:)?//)?(?:www\.)?([^/?#]*?)(?::(?:80|443)?)?((?:/[^?#]*)?)((?:\?[^#]*)?)(?:#.*)?$"
_ADDRESSED = f"""
INSERT INTO addressed
WITH parted AS (SELECT *, regexp_extract(url, '{_PARTS}', ['host', 'path', 'query'], 'is') AS part FROM incoming),
compared AS (SELECT *, lower(part.host) || rtrim(part.path, '/') || part.query AS key FROM parted)
SELECT $1, "row", row_key, key, date, n_bytes FROM compared WHERE key <> ''
"""
_PLACED = """
CREATE OR REPLACE TABLE placed AS
WITH named AS (SELECT *, {row_id} AS row_id FROM addressed)
SELECT shard, "row", (count(*) OVER (PARTITION BY url))::INTEGER AS n_rows,
    (row_number() OVER (PARTITION BY url ORDER BY date DESC NULLS LAST, n_bytes DESC, row_id))::INTEGER AS place
FROM named ORDER BY shard, "row"
"""
_SIGNALS = """
SELECT n_rows, place FROM range($1) AS every("row") LEFT JOIN (FROM placed WHERE shard = $2) AS here ON here."row" = every."row"
ORDER BY every."row"
"""
