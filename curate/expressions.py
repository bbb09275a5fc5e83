"""SQL expressions of a recipe: which rows may be selected, in which order, and within which strata.

Stands between a recipe and `decide`. A text is parsed by DuckDB's own parser and its tree is walked: one expression over columns that a
decision has, of operators and functions that give the same for the same row, today and elsewhere. What passes is written anew from
the tree, so nothing of the text itself enters a statement.

The decision: functions are listed by name. DuckDB says of its functions which are repeatable, but says so of `age`, too, which reads the
clock. Cost: a function that is missing here has to be added before a recipe can call it.
"""

import dataclasses
import difflib
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from curate.families import family_of
from curate.recipe import FAMILY_NAME, DomainError, Recipe, Select
from filters import CORPUS_FAMILIES

# The columns of `rows` that an expression may name. Where a text lies (shard, row) is none: a decision does not depend on it.
COLUMNS = {
    **dict.fromkeys(("row_id", "doc_id", "source_id", "group", "source", "component", "url", "licence", "lang", "date"), "VARCHAR"),
    "n_bytes": "BIGINT",
    "n_words": "INTEGER",
    "quality": "FLOAT",
    "perplexity": "FLOAT",
    "contaminated": "VARCHAR[]",
    "masks": 'STRUCT("start" INTEGER, "end" INTEGER, kind VARCHAR)[]',
}
_ALLOWED = """
+ - * / // % ** ^ || ~~ !~~ ~~* !~~* ~~~ like_escape not_like_escape ilike_escape not_ilike_escape
abs ceil ceiling floor round trunc sign sqrt cbrt exp ln log log2 log10 pow power mod greatest least isnan isinf isfinite
length strlen lower upper lcase ucase left right substr substring trim ltrim rtrim replace contains starts_with prefix suffix ends_with
strpos instr position concat concat_ws split_part string_split regexp_matches regexp_full_match regexp_extract regexp_replace
md5 sha256 year quarter month week day isoyear dayofweek date_part date_trunc date_diff make_date strptime try_strptime strftime epoch
len array_length list_value list_contains array_contains list_has list_has_any list_has_all list_filter list_transform list_extract
array_extract element_at list_max list_min list_sum list_avg struct_extract struct_pack row nullif if
"""
FUNCTIONS = frozenset(_ALLOWED.split())
_TYPES = {"int32": "INTEGER", "float32": "FLOAT", "bool": "BOOLEAN", "string": "VARCHAR"}
_PLAIN = ("CONSTANT", "COMPARISON", "CONJUNCTION", "OPERATOR", "CASE", "CAST", "BETWEEN", "TYPE")
_REFUSED = {
    "SUBQUERY": "a subquery", "WINDOW": "a window function", "STAR": "a star", "PARAMETER": "a parameter", "COLLATE": "a collation",
    "POSITIONAL_REFERENCE": "the place of a column", "DEFAULT": "a default",
}  # fmt: skip
_HINTS = {
    "text": "a decision reads no text; make a family of your own and name its signal (docs/filters.md)",
    "title": "a decision reads no title; make a family of your own and name its signal (docs/filters.md)",
    "n_tokens": "tokens are counted only as far as the cut; name n_bytes or n_words",
    "random": "random stands alone, as in order_by = \"quality DESC, random\"; for a number take sha256(doc_id)",
}  # fmt: skip
_NUMBERS = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
)
_RANDOM = "random"
# Where the best scores stand.
BEST_FIRST = {"quality": "DESC", "perplexity": "ASC"}
# What guards a ranking by perplexity unless a recipe says otherwise: short and templated texts have the lowest (docs/perplexity.md).
LENGTH_STRATA = "floor(log2(n_words))"
HAS_PERPLEXITY = "perplexity IS NOT NULL"

# A column by itself, or a family and its signal.
Name = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Expression:
    """One expression as SQL over the table `rows`, and the columns that it names."""

    sql: str
    names: tuple[Name, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """One key of a ranking: an expression (None for `random`), ASC or DESC, and where null stands, LAST or FIRST."""

    expression: Expression | None
    direction: str
    nulls: str


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """The expressions of [select], checked against the columns that a decision by this recipe has."""

    where: Expression | None
    order: tuple[Term, ...]
    stratum: Expression | None

    @property
    def expressions(self) -> tuple[tuple[str, Expression], ...]:
        """Give each expression with its key in the recipe; of an order each term but `random`."""
        terms = [("select.order_by", term.expression) for term in self.order]
        found = [("select.where", self.where), *terms, ("select.stratify_by", self.stratum)]
        return tuple((key, one) for key, one in found if one is not None)

    @property
    def families(self) -> tuple[str, ...]:
        """Name the families whose signals the expressions read."""
        return tuple(dict.fromkeys(name[0] for _, one in self.expressions for name in one.names if len(name) == 2))


def selection(recipe: Recipe) -> Selection:
    """Read the expressions of a recipe. Raises DomainError, in one line, for what may not stand there and for unknown columns."""
    select = recipe.select
    found = Selection(
        None if select.where is None else _expression(select.where, "select.where"),
        _order(select.order_by),
        None if select.stratify_by is None else _expression(select.stratify_by, "select.stratify_by"),
    )
    for key, one in found.expressions:
        for name in one.names:
            _check_name(recipe, key, name)
    return found


def check(recipe: Recipe) -> Selection:
    """Read the expressions of a recipe, and have DuckDB check their types over an empty table of the same columns."""
    found = selection(recipe)
    tables = {name[0]: None for _, one in found.expressions for name in one.names if len(name) == 2}
    columns = [f'"{name}" {kind}' for name, kind in COLUMNS.items()]
    for name in tables:
        signals = ", ".join(f'"{signal.name}" {_TYPES[signal.type]}' for signal in family_of(recipe.families, name).signals)
        columns.append(f'"{name}" STRUCT({signals})')
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE rows ({', '.join(columns)})")
        kinds = [(key, _type(connection, key, one)) for key, one in found.expressions]
    by_key = dict(reversed(kinds))  # of the terms of an order the first counts
    if by_key.get("select.where", "BOOLEAN") != "BOOLEAN":
        raise DomainError(
            f"select.where is {recipe.select.where!r}, which gives {by_key['select.where']}; it takes what is true or false, as in "
            "\"lang = 'en' AND n_words >= 100\""
        )
    first = by_key["select.order_by"] if found.order[0].expression else "VARCHAR"
    if recipe.select.threshold is not None and first.split("(")[0] not in _NUMBERS:
        raise DomainError(
            f"select.threshold is a number, but what select.order_by = {recipe.select.order_by!r} ranks by first is none; rank by one, "
            'as in "quality DESC", or write a condition into select.where'
        )
    return found


def guarded(select: Select, given: Mapping[str, Any]) -> Select:
    """Fill in what guards a ranking whose first key names perplexity: strata of length, and only rows that have a score.

    `given` holds the keys that a recipe sets; these stay as they are, `false` (none) too. A threshold is one for all rows, without strata.
    """
    if not _begins_with_perplexity(select):
        return select
    strata = select.stratify_by if "stratify_by" in given or select.threshold is not None else LENGTH_STRATA
    return dataclasses.replace(select, stratify_by=strata, where=select.where if "where" in given else HAS_PERPLEXITY)


def guard_note(select: Select) -> str | None:
    """Say in one line what guards a ranking by perplexity, where something does."""
    guards = [("stratify_by", select.stratify_by, LENGTH_STRATA), ("where", select.where, HAS_PERPLEXITY)]
    said = [f'select.{key} = "{guard}"' for key, value, guard in guards if value == guard]
    return f"ranking by perplexity: {' and '.join(said)}; false switches either off" if said and _begins_with_perplexity(select) else None


def score_of(select: Select | Mapping[str, Any]) -> str | None:
    """Name the score of which the best come first, everywhere alike, so that the worst one taken is a cut; None where there is none."""
    order_by, strata = (
        (select.order_by, select.stratify_by) if isinstance(select, Select) else (select["order_by"], select.get("stratify_by"))
    )
    first = _order(order_by)[0]
    found = [name for name, best in BEST_FIRST.items() if first.expression == Expression(name, ((name,),)) and first.direction == best]
    return found[0] if found and strata is None else None


def _begins_with_perplexity(select: Select) -> bool:
    first = _order(select.order_by)[0].expression
    return first is not None and ("perplexity",) in first.names


@functools.lru_cache(maxsize=256)
def _expression(text: str, key: str) -> Expression:
    with duckdb.connect() as connection:
        node = _parsed(connection, f"SELECT {text}\n", text, key)
        if node["modifiers"] or len(node["select_list"]) != 1 or node["select_list"][0]["alias"]:
            raise _not_one(text, key)
        return _written(connection, node["select_list"][0], text, key)


@functools.lru_cache(maxsize=256)
def _order(text: str) -> tuple[Term, ...]:
    key = "select.order_by"
    with duckdb.connect() as connection:
        node = _parsed(connection, f"SELECT NULL ORDER BY {text}\n", text, key)
        if len(node["modifiers"]) != 1:
            raise _not_one(text, key)
        terms = []
        for order in node["modifiers"][0]["orders"]:
            tree = order["expression"]
            is_random = tree["class"] == "COLUMN_REF" and [name.lower() for name in tree["column_names"]] == [_RANDOM]
            direction = "DESC" if order["type"] == "DESCENDING" else "ASC"
            nulls = "FIRST" if order["null_order"] == "NULLS FIRST" else "LAST"
            terms.append(Term(None if is_random else _written(connection, tree, text, key), direction, nulls))
        return tuple(terms)


def _parsed(connection: duckdb.DuckDBPyConnection, query: str, text: str, key: str) -> dict[str, Any]:
    """Parse a query that holds the text, and give its tree where it is a SELECT without anything but the text in it."""
    found = json.loads(connection.execute("SELECT json_serialize_sql($1)", [query]).fetchall()[0][0])
    if found["error"] or len(found["statements"]) != 1:
        why = " ".join(str(found.get("error_message", "more than one statement")).split())
        raise DomainError(f"{key} is {text!r}, which is no SQL expression ({why}); write one as in {_EXAMPLES[key]}")
    node: dict[str, Any] = found["statements"][0]["node"]
    clauses = ("where_clause", "group_expressions", "having", "sample", "qualify")
    if node["type"] != "SELECT_NODE" or node["from_table"]["type"] != "EMPTY" or node["cte_map"]["map"] or any(map(node.get, clauses)):
        raise _not_one(text, key)
    return node


def _not_one(text: str, key: str) -> DomainError:
    return DomainError(f"{key} is {text!r}; it takes an expression and no other part of a query, as in {_EXAMPLES[key]}")


def _written(connection: duckdb.DuckDBPyConnection, tree: dict[str, Any], text: str, key: str) -> Expression:
    names = tuple(dict.fromkeys(_names(tree, text, key, frozenset())))
    if not names:
        raise DomainError(
            f"{key} is {text!r}, of which a part names no column and is the same for every row; name one, as in {_EXAMPLES[key]}"
        )
    empty = json.loads(connection.execute("SELECT json_serialize_sql('SELECT 1')").fetchall()[0][0])
    empty["statements"][0]["node"]["select_list"] = [tree]
    sql = connection.execute("SELECT json_deserialize_sql($1::JSON)", [json.dumps(empty)]).fetchall()[0][0]
    return Expression(sql.removeprefix("SELECT "), names)


def _names(tree: Any, text: str, key: str, inner: frozenset[str]) -> Iterator[Name]:
    """Walk a tree, refuse what may not stand in it, and give the columns that it names; `inner` are the parameters of lambdas around."""
    if isinstance(tree, list):
        for part in tree:
            yield from _names(part, text, key, inner)
        return
    if not isinstance(tree, dict):
        return
    kind = tree.get("class")
    if kind == "COLUMN_REF":
        name = tuple(part.lower() for part in tree["column_names"])
        if name[0] not in inner:
            yield name
        return
    if kind == "LAMBDA":
        if tree["syntax_type"] != "LAMBDA_KEYWORD":
            raise DomainError(f"{key} is {text!r}, in which an arrow stands; write lambda x: ... for a function of one's own")
        given = {name[0] for name in _names(tree["lhs"], text, key, frozenset())}
        yield from _names(tree["expr"], text, key, inner | given)
        return
    if kind == "FUNCTION":
        _check_function(tree, text, key)
    elif kind is not None and kind not in _PLAIN:
        what = _REFUSED.get(kind, kind.lower())
        raise DomainError(f"{key} is {text!r}, in which {what} stands; it takes columns, operators and functions of one row")
    for name, part in tree.items():
        if name != "literal":
            yield from _names(part, text, key, inner)


def _check_function(tree: Mapping[str, Any], text: str, key: str) -> None:
    name = tree["function_name"].lower()
    if name in FUNCTIONS and not tree["schema"] and not tree["catalog"] and not tree["filter"] and not tree["distinct"]:
        return
    near = difflib.get_close_matches(name, FUNCTIONS, n=1)
    why = f"; did you mean {near[0]!r}?" if near and near[0] != name else ""
    if name == _RANDOM:
        why = "; it is not repeatable: write random, without brackets, for the recipe's own"
    raise DomainError(
        f"{key} is {text!r}, which calls {name!r}{why}; allowed are functions of one row that always give the same (docs/recipe.md)"
    )


def _check_name(recipe: Recipe, key: str, name: Name) -> None:
    """Refuse a name that is neither a column nor a signal of a family that this recipe computes."""
    shown = ".".join(name)
    if name[0] in _HINTS and len(name) == 1:
        raise DomainError(f"{key} names {shown!r}: {_HINTS[name[0]]}")
    families = recipe.families_to_compute()
    if len(name) == 1 and name[0] in COLUMNS:
        return
    if name[0] == "reference" and name[0] not in families:
        raise DomainError(
            f"{key} names {shown!r}, which is computed only by the scorer perplexity, with a model fitted here; add it to scorers"
        )
    if name[0] in (*recipe.families, *CORPUS_FAMILIES) and name[0] not in families:
        raise DomainError(f"{key} names {shown!r}, but {name[0]!r} is computed only where rules name it; add it to rules")
    if len(name) == 2 and name[0] in families:
        assert FAMILY_NAME.fullmatch(name[0]), name
        if name[1] in [signal.name.lower() for signal in family_of(recipe.families, name[0]).signals]:
            return
    known = [*COLUMNS, *(f"{one}.{signal.name}" for one in families for signal in family_of(recipe.families, one).signals)]
    near = difflib.get_close_matches(shown, known, n=1, cutoff=0.0)[0]
    raise DomainError(
        f"{key} names {shown!r}, which is no column here; did you mean {near!r}? "
        f"Allowed: {', '.join(COLUMNS)}, and signals as FAMILY.SIGNAL"
    )


def _type(connection: duckdb.DuckDBPyConnection, key: str, one: Expression) -> str:
    try:
        return str(connection.sql(f"SELECT {one.sql} FROM rows").types[0])
    except duckdb.Error as error:
        raise DomainError(f"{key}: {one.sql} cannot be computed ({_line(error)}); correct it, or cast with try_cast(... AS ...)") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split("LINE 1")[0].split())


_EXAMPLES = {
    "select.where": "\"lang = 'en' AND n_words >= 100\"",
    "select.order_by": '"quality DESC, n_words DESC"',
    "select.stratify_by": '"left(date, 4)"',
}
