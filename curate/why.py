"""Why one document is in or out: all that a version, its signals and its texts say about it, for `curate why`.

Stands beside report: it reads what a build has published and stored and decides nothing. What a rule says is taken from the thresholds in
the version's recipe and the signals that lie beside the shard, so an answer that is not stored is called unknown, never computed anew.

Cost: two passes over the two columns of ids in the parts of the version and one over that of `doc_id` in every other version, each with
the filter pushed down (the other columns only where a row is found); one pass over component, rank, quality and split for the place of a
row, one over `dup_of`; then one row group of a shard and one of each judging family's signals for every row explained, and one of the
shard of the row in its place. No text is scanned.
"""

import contextlib
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate.expressions import BEST_FIRST, score_of
from curate.judging import breach, family_in, judged
from curate.manifest import Manifest, ManifestError, attach, load, versions
from curate.recipe import DOMAIN_COMPONENT
from curate.store import Store

_ID = re.compile(r"[0-9a-f]{8,32}")
_BEGINNING_CHARS = 400
_MAX_ROWS = 50  # explained of one text: a line that thousands of pages share is a text, too
_N_COPIES = 5
_MAX_PRODUCT = 4_000_000  # comparing words takes time by the product of their numbers
N_CUT_WORDS = 2_000
_DAMAGE = (ManifestError, duckdb.Error, KeyError)
_SHOWN = ("row_id", "source", "source_id", "split", "reason")
_GLOSSES = {
    "select.where": "the recipe's select.where does not take it",
    "holdout.leak": "its text, its group or a near copy is held out; which of them is not stored",
    "duplicate.exact": "another row stands for the same text",
    "duplicate.jaccard": "another row stands for a text that is nearly alike",
    "duplicate.containment": "another row stands for it: of one text nearly all is in the other",
    "budget": "it passed, but ranks below the cut of its component",
}


def explain(store: Store, manifest: Manifest, id: str) -> dict[str, Any]:
    """Gather what `curate why` prints about a row, or about all rows of a text, as plain values.

    `id` is a row_id, a doc_id, or how one begins, at least 8 digits. Raises ManifestError where it names nothing or more than one, and
    where a part of the version cannot be read. What else is missing or damaged is said in `remarks`.
    """
    prefix = id.strip().lower()
    if not _ID.fullmatch(prefix):
        raise ManifestError(f"{id!r} is no id; a row_id or doc_id has 32 hex digits, of which at least the first 8 are needed")
    remarks: list[str] = []
    with contextlib.closing(attach(store, manifest, "m")) as connection:
        try:
            kind, name = _named(store, connection, manifest, prefix)
            rows = _rows(connection, f"{kind} = '{name}' ORDER BY dup_of IS NOT NULL, reason IS NOT NULL, row_id LIMIT {_MAX_ROWS}")
            doc_id = rows[0]["doc_id"]
            given = ", ".join(f"'{row['row_id']}'" for row in rows)
            others = _rows(connection, f"doc_id = '{doc_id}' AND row_id NOT IN ({given}) ORDER BY row_id")
            explained = [_explained(store, connection, manifest, row, remarks) for row in rows]
        except duckdb.Error as error:
            raise ManifestError(f"a part of {manifest.version} is damaged ({_line(error)}); see curate verify {manifest.version}") from None
    if kind == "doc_id" and others:
        remarks.append(f"the first {_MAX_ROWS} rows of this text are explained; name one of the {len(others)} others by its row_id")
    return {
        "version": manifest.version,
        "domain": manifest.info["domain"],
        "sample": manifest.is_sample,
        "id": name,
        "doc_id": doc_id,
        "rows": explained,
        "other_rows": [{key: row[key] for key in _SHOWN} for row in others],
        "versions": in_versions(store, doc_id, remarks),
        "remarks": list(dict.fromkeys(remarks)),
    }


def word_diff(before: str, after: str) -> tuple[list[tuple[str, list[str]]], bool]:
    """Compare two texts word by word, and say whether only their first words were compared because there are too many.

    >>> word_diff("a dose of 5 mg", "a dose of 8 mg daily")[0]
    [('same', ['a', 'dose', 'of']), ('removed', ['5']), ('added', ['8']), ('same', ['mg']), ('added', ['daily'])]
    """
    old, new = before.split(), after.split()
    is_cut = len(old) * len(new) > _MAX_PRODUCT
    if is_cut:
        old, new = old[:N_CUT_WORDS], new[:N_CUT_WORDS]
    pieces = []
    for op, start, end, new_start, new_end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if op == "equal":
            pieces.append(("same", old[start:end]))
        else:
            pieces += [("removed", old[start:end]), ("added", new[new_start:new_end])]
    return [piece for piece in pieces if piece[1]], is_cut


def _named(store: Store, connection: duckdb.DuckDBPyConnection, manifest: Manifest, prefix: str) -> tuple[str, str]:
    """Find the one id that begins so: its column and all of its digits."""
    found = _ids(connection, prefix)
    if len(found) == 1:
        return found[0]
    if found:
        more = " and more" if len(found) > _N_COPIES else ""
        known = ", ".join(f"{kind} {name}" for kind, name in found[:_N_COPIES])
        raise ManifestError(f"{prefix!r} begins more than one id of {manifest.version} ({known}{more}); give more digits")
    if elsewhere := _holding(store, manifest, prefix):
        raise ManifestError(f"{prefix!r} is not in {manifest.version} but in {elsewhere}; add --manifest {elsewhere}")
    raise ManifestError(
        f"{prefix!r} begins no row_id or doc_id of {manifest.version}; it holds the rows of candidate and replay sources, but "
        "no quarantined ones. Look it up with: curate sql \"SELECT row_id, doc_id FROM manifest WHERE source_id = '...'\""
    )


def _holding(store: Store, manifest: Manifest, prefix: str) -> str | None:
    """Name the newest other version that has such an id; what is damaged is passed over, because the question is about another."""
    for name in reversed([name for name in versions(store) if name != manifest.version]):
        with contextlib.suppress(*_DAMAGE), contextlib.closing(attach(store, load(store, name), "m")) as connection:
            if _ids(connection, prefix):
                return name
    return None


def _ids(connection: duckdb.DuckDBPyConnection, prefix: str) -> list[tuple[str, str]]:
    # A range, unlike starts_with, is compared with the smallest and largest value of a row group. 'g' follows on every hex digit.
    within = " UNION ".join(
        f"SELECT '{kind}' AS kind, {kind} AS id FROM m WHERE {kind} >= '{prefix}' AND {kind} < '{prefix}g'" for kind in ("row_id", "doc_id")
    )
    return [(str(kind), str(id)) for kind, id in connection.execute(f"{within} ORDER BY id, kind LIMIT {_N_COPIES + 1}").fetchall()]


def _rows(connection: duckdb.DuckDBPyConnection, condition: str) -> list[dict[str, Any]]:
    return plain(connection.sql(f"SELECT * FROM m WHERE {condition}").to_arrow_table())


def plain(table: pa.Table) -> list[dict[str, Any]]:
    """Give rows as JSON has them; a float32 by its shortest decimal, so that 1 in 10 is 0.1."""
    small = [field.name for field in table.schema if pa.types.is_float32(field.type)]
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        row |= {name: shortest(row[name]) for name in small}
    return rows


def shortest(value: float | None) -> float | None:
    """Give a float32 by its shortest decimal."""
    return None if value is None else float(str(np.float32(value)))


def _explained(
    store: Store, connection: duckdb.DuckDBPyConnection, manifest: Manifest, row: Mapping[str, Any], remarks: list[str]
) -> dict[str, Any]:
    document = _stored(store, f"corpus/{row['shard']}", row["row"], ["title", "text"], remarks) or {"text": None}
    rules = _rules(store, manifest, row, remarks)
    text = document["text"]
    return {
        **{key: value for key, value in row.items() if key not in ("dup_of", "dup_kind", "dup_similarity")},
        "title": document.get("title"),
        "beginning": None if text is None else text[:_BEGINNING_CHARS],
        "verdict": _verdict(row, rules),
        "rules": rules,
        "place": place(connection, manifest, row["component"], {name: row[name] for name in BEST_FIRST}),
        "duplicate_of": _duplicate_of(store, connection, row, text, remarks),
        "copies": _copies(connection, row["row_id"]),
    }


def _stored(store: Store, path: str, row: int, columns: list[str], remarks: list[str]) -> dict[str, Any] | None:
    """Read one row of a file that lies beside a version; where that cannot be, say why."""
    try:
        return plain(store.read_rows(path, [row], columns))[0]
    except FileNotFoundError:
        remarks.append(f"{path} is missing; restore it, or build again")
    except (OSError, pa.ArrowException) as error:
        remarks.append(f"{path} is damaged ({_line(error)})")
    return None


def _verdict(row: Mapping[str, Any], rules: Sequence[Mapping[str, Any]] | None) -> str:
    if row["split"] == "train":
        return "kept: training may draw it"
    if row["split"] == "holdout":
        return "held out: its group is on the side that training never sees"
    gloss = _GLOSSES.get(row["reason"], "a rule of its source")
    for rule in rules or ():
        if rule["is_reason"] and rule["value"] is not None:
            gloss = breach(rule)
    return f"dropped: {row['reason']} ({gloss})"


def _rules(store: Store, manifest: Manifest, row: Mapping[str, Any], remarks: list[str]) -> list[dict[str, Any]] | None:
    """Judge a row by its stored signals; None where the version does not hold the rules."""

    def stored(name: str) -> dict[str, Any] | None:
        known = family_in(manifest, name)
        return known and _stored(store, f"{known[1]}/{row['shard'].rsplit('/', 1)[-1]}", row["row"], known[2], remarks)

    rules = judged(manifest, row["source"], stored, remarks, reason=row["reason"])
    outcomes = [rule["outcome"] for rule in rules or ()]
    said = next((number for number, rule in enumerate(rules or ()) if rule["is_reason"]), None)
    first = outcomes.index("breached") if "breached" in outcomes else None
    if rules is not None and row["split"] != "holdout" and "unknown" not in outcomes and first != said:
        remarks.append(f"{row['row_id']}: the stored signals are of other code than those that {manifest.version} was decided by")
    return rules


def place(connection: duckdb.DuckDBPyConnection, manifest: Manifest, component: str, scores: Mapping[str, float | None]) -> dict[str, Any]:
    """Say where scores stand among the rows of the table `m` of a component that passed rules and dedup, and where the cut is: the last
    rank in training, and the worst score in it where the best of that score are taken first.

    A percentile is the share of the scored rows that are worse: less quality, more perplexity.
    """
    n_ranked, cut = connection.execute(_PLACE, [component]).fetchall()[0]
    select = manifest.info["recipe"].get("select", {})
    is_domain = component == DOMAIN_COMPONENT
    cut_by = score_of(select) if is_domain and select else None
    found = {"n_ranked": n_ranked, "cut": cut, "order_by": select.get("order_by") if is_domain else "random"}
    found["stratify_by"] = select.get("stratify_by") if is_domain else None
    for name, best in BEST_FIRST.items():
        worst, worse = ("min", "<") if best == "DESC" else ("max", ">")
        query = _SCORE_PLACE.format(name=name, worst=worst, worse=worse)
        last, n_scored, n_worse = connection.execute(query, [scores.get(name), component]).fetchall()[0]
        percentile = None if scores.get(name) is None or not n_scored else round(100 * n_worse / n_scored, 2)
        of = "n_scored" if name == "quality" else f"n_with_{name}"
        found |= {of: n_scored, f"cut_{name}": shortest(last) if cut_by == name else None, f"{name}_percentile": percentile}
    return found


def _duplicate_of(
    store: Store, connection: duckdb.DuckDBPyConnection, row: Mapping[str, Any], text: str | None, remarks: list[str]
) -> dict[str, Any] | None:
    """Describe the row in the place of a copy, and in what its text differs: removed is what only the kept row has."""
    if row["dup_of"] is None:
        return None
    kept = _rows(connection, f"row_id = '{row['dup_of']}'")[0]
    found = {key: kept[key] for key in ("row_id", "doc_id", "source", "source_id", "url", "split", "reason")}
    found |= {"kind": row["dup_kind"], "similarity": row["dup_similarity"], "diff": [], "is_diff_cut": False}
    if kept["doc_id"] != row["doc_id"]:
        other = _stored(store, f"corpus/{kept['shard']}", kept["row"], ["text"], remarks)
        diff, is_cut = (None, False) if text is None or other is None else word_diff(other["text"], text)
        found |= {"diff": diff, "is_diff_cut": is_cut}
    return found


def _copies(connection: duckdb.DuckDBPyConnection, row_id: str) -> dict[str, Any]:
    """Count the rows that went because this one is kept, and give the first of them."""
    columns = "row_id, doc_id, source, source_id, dup_kind, dup_similarity"
    found = connection.sql(f"SELECT {columns}, count(*) OVER () AS n FROM m WHERE dup_of = '{row_id}' ORDER BY row_id LIMIT {_N_COPIES}")
    rows = plain(found.to_arrow_table())
    n_rows = rows[0]["n"] if rows else 0
    return {"n_rows": n_rows, "first": [{key: value for key, value in row.items() if key != "n"} for row in rows]}


def in_versions(store: Store, doc_id: str, remarks: list[str]) -> list[dict[str, Any]]:
    """Say for each version that holds a text, oldest first, how many of its rows have which split and reason."""
    found = []
    for name in versions(store):
        try:
            with contextlib.closing(attach(store, load(store, name), "m")) as connection:
                rows = connection.execute(_DECISIONS, [doc_id]).fetchall()
        except _DAMAGE as error:
            remarks.append(f"{name} is left out: {_line(error)}")
            continue
        found += [{"version": name, "split": split, "reason": reason, "n_rows": n_rows} for split, reason, n_rows in rows]
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


_PLACE = "SELECT count(rank), max(rank) FILTER (split = 'train') FROM m WHERE component = ?"
_SCORE_PLACE = """
SELECT {worst}({name}) FILTER (split = 'train'), count({name}) FILTER (rank IS NOT NULL),
    count(*) FILTER (rank IS NOT NULL AND {name} {worse} ?::FLOAT)
FROM m WHERE component = ?
"""
_DECISIONS = "SELECT split, reason, count(*) FROM m WHERE doc_id = ? GROUP BY ALL ORDER BY split DESC, reason"
