"""What a query of a person may say: exactly one SELECT that reads tables, files by their written names, and nothing else.

Stands before `sql`, on DuckDB's own parse tree. The locked connection keeps a query below the root; this keeps it from writing there,
because a WITH may hold COPY, INSERT, UPDATE or DELETE, and from what a name that is put together while the query runs would open. Table
functions are those of two lists, so that one that a later DuckDB brings is refused until somebody has looked at it. Cost: a query is
parsed twice.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb

_NODES = ("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE")
_READERS = (
    "glob", "parquet_file_metadata", "parquet_kv_metadata", "parquet_metadata", "parquet_scan", "parquet_schema", "read_blob", "read_csv",
    "read_csv_auto", "read_json", "read_json_auto", "read_json_objects", "read_ndjson", "read_ndjson_auto", "read_ndjson_objects",
    "read_parquet", "read_text",
)  # fmt: skip
_MAKERS = (
    "duckdb_columns", "duckdb_functions", "duckdb_tables", "duckdb_views", "generate_series", "json_each", "json_tree", "pragma_table_info",
    "range", "unnest",
)  # fmt: skip
# What an argument of a reader is made of: names, lists of them, and options such as filename = true.
_WRITTEN = ("CONSTANT", "CAST")
_LISTS = ("list_value", "map", "struct_pack")
_UP = re.compile(r"(?:^|[/\\])\.\.(?:[/\\]|$)")


class QueryError(ValueError):
    """The SQL is not one SELECT, or DuckDB cannot run it: the person who wrote it acts."""


def check(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Raise QueryError, in one line, for anything but one SELECT as above; duckdb.Error where it is no SQL."""
    statements = duckdb.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise QueryError(f"the query is {kinds}; exactly one SELECT is allowed")
    try:
        tree = json.loads(connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [query]).fetchall()[0][0])
    except RecursionError:
        raise QueryError("the query is nested too deeply; write it with fewer levels") from None
    if tree["error"]:
        raise QueryError(f"the query cannot be checked ({tree['error_message']}); write it as one plain SELECT")
    for node in _nodes(tree):
        kind = str(node.get("type"))
        if kind.endswith("_NODE") and kind not in _NODES:
            raise QueryError(f"the query holds {kind.removesuffix('_QUERY_NODE')}; it may hold SELECT only, which cannot write")
        if kind == "TABLE_FUNCTION":
            _check_function(node["function"])
        if kind == "BASE_TABLE":
            _check_name(str(node["table_name"]))


def _check_function(function: Mapping[str, Any]) -> None:
    name = str(function["function_name"]).lower()
    if name not in (*_READERS, *_MAKERS):
        raise QueryError(f"the table function {name} is not allowed; allowed: {', '.join(sorted((*_READERS, *_MAKERS)))}")
    if name not in _READERS:
        return
    for node in _nodes([_value(argument["expression"]) for argument in function["arguments"]]):
        is_list = node.get("class") == "FUNCTION" and node["function_name"] in _LISTS
        if "class" in node and node["class"] not in _WRITTEN and not is_list:
            raise QueryError(f"an argument of {name} is computed; write the names of files out, as in {name}('manifests/v1/*/*.parquet')")
        if isinstance(text := node.get("text"), str):
            _check_name(text)


def _value(argument: Mapping[str, Any]) -> Any:
    """Give what an option such as filename = true is set to, or the argument itself."""
    is_option = argument["type"] == "COMPARE_EQUAL" and argument["left"]["class"] == "COLUMN_REF"
    return argument["right"] if is_option else argument


def _check_name(name: str) -> None:
    # Where a folder is a link, the system goes up from the place that it leads to.
    if _UP.search(name):
        raise QueryError(f"the file name {name!r} goes up with '..'; write it from the root down")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Go through all tables of a parse tree, however deep."""
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield node
            left += node.values()
        elif isinstance(node, list):
            left += node


def quoted_name(column: str) -> str:
    """Write the name of a column, whatever it holds, for SQL of ours."""
    return '"' + column.replace('"', '""') + '"'


def quoted(text: str) -> str:
    """Write a text for SQL of ours."""
    return "'" + text.replace("'", "''") + "'"


def file_list(urls: Sequence[str]) -> str:
    """Write names of files for SQL of ours."""
    return f"[{', '.join(quoted(url) for url in urls)}]"
