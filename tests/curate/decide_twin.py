"""The decision in plain Python, written from the contract (design.md, "The decision's order"): the oracle of the tests."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

# Two doc_ids, their similarity, the share of the first one that is in the second, and the other way round.
Edge = tuple[str, str, float, float, float]


def hash16(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def decide_twin(
    rows: Sequence[Mapping[str, Any]],
    n_tokens: Mapping[str, int],
    budgets: Mapping[str, int],
    *,
    shares: Mapping[str, float],
    min_words: Mapping[str, int | None],
    seed: int,
    edges: Sequence[Edge] = (),
    threshold: float = 0.8,
    containment: float | None = 0.9,
    exact_only: Collection[str] = (),
) -> dict[str, tuple[str, str | None, int | None, str | None]]:
    """Give row_id -> (split, reason, rank, dup_of). Rows are ranked at random, that is by hash of doc_id; edges join doc_ids.

    `min_words` is by source, None where no rule judges it; rows of the sources `exact_only` go for exact copies only.
    """
    alike = {(a, b): value for one, other, value, *_ in edges if value >= threshold for a, b in ((one, other), (other, one))}
    in_other = {pair: value for one, other, _, *both in edges for pair, value in zip(((one, other), (other, one)), both, strict=True)}
    contained = {pair: value for pair, value in in_other.items() if containment is not None and value >= containment}
    linked = {*alike, *contained}
    held = [row for row in rows if int(hash16(f"holdout|{row['group']}"), 16) < int(shares[row["source"]] * 2**64)]
    held_ids = {row["row_id"] for row in held}
    out: dict[str, tuple[str, str | None, int | None, str | None]] = {row["row_id"]: ("holdout", None, None, None) for row in held}
    passed = []
    for row in rows:
        if row["row_id"] in held_ids:
            continue
        if (least := min_words[row["source"]]) is not None and row["n_words"] < least:
            out[row["row_id"]] = ("dropped", "gopher_quality.min_words", None, None)
        elif any(_is_same(row, other) or _is_linked(row["doc_id"], other["doc_id"], linked) for other in held):
            out[row["row_id"]] = ("dropped", "holdout.leak", None, None)
        else:
            passed.append(row)
    passed.sort(key=_keeper_key)
    firsts = {row["doc_id"]: row for row in reversed(passed)}  # the first row of each text stands for it
    compared = [row for row in firsts.values() if row["source"] not in exact_only]
    gone = _near_copies(sorted(compared, key=_keeper_key), alike)
    gone |= _contained_rows([row for row in compared if row["doc_id"] not in gone], contained, {keeper for _, keeper in gone.values()})
    kept = [row for row in firsts.values() if row["doc_id"] not in gone]
    for row in passed:
        reason, keeper = gone.get(row["doc_id"], ("duplicate.exact", firsts[row["doc_id"]]["row_id"]))
        if row["doc_id"] in gone or keeper != row["row_id"]:
            out[row["row_id"]] = ("dropped", reason, None, keeper)
    for component, budget in budgets.items():
        purpose = f"order|{seed}" if component == "domain" else f"pool|{seed}|{component}"
        ranked = sorted(
            (row for row in kept if row["component"] == component), key=lambda row: (hash16(f"{purpose}|{row['doc_id']}"), row["row_id"])
        )
        used = 0
        for rank, row in enumerate(ranked, 1):
            before, used = used, used + n_tokens[row["doc_id"]]
            is_within = used <= budget if component == "domain" else before < budget
            out[row["row_id"]] = ("train", None, rank, None) if is_within else ("dropped", "budget", rank, None)
    return out


def _near_copies(rows: Sequence[Mapping[str, Any]], alike: Mapping[tuple[str, str], float]) -> dict[str, tuple[str, str]]:
    """In keeper order, a row goes for the most similar one of those kept before it; the earlier one of two."""
    kept: list[Mapping[str, Any]] = []
    gone = {}
    for row in rows:
        near = [other for other in kept if (row["doc_id"], other["doc_id"]) in alike]
        if near:
            best = max(near, key=lambda other: alike[row["doc_id"], other["doc_id"]])
            gone[row["doc_id"]] = ("duplicate.jaccard", best["row_id"])
        else:
            kept.append(row)
    return gone


def _contained_rows(
    rows: Sequence[Mapping[str, Any]], contained: Mapping[tuple[str, str], float], standing: set[str]
) -> dict[str, tuple[str, str]]:
    """The longest first, then in keeper order, a row goes for the kept one that holds most of it, unless it stands for near copies."""
    kept: list[Mapping[str, Any]] = []
    gone = {}
    for row in sorted(rows, key=lambda row: (-row["n_bytes"], _keeper_key(row))):
        holders = [other for other in kept if (row["doc_id"], other["doc_id"]) in contained]
        if holders and row["row_id"] not in standing:
            best = min(holders, key=lambda other: (-contained[row["doc_id"], other["doc_id"]], _keeper_key(other)))
            gone[row["doc_id"]] = ("duplicate.containment", best["row_id"])
        else:
            kept.append(row)
    return gone


def _is_linked(doc_id: str, other: str, pairs: set[tuple[str, str]]) -> bool:
    return (doc_id, other) in pairs or (other, doc_id) in pairs


def _is_same(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(row["doc_id"] == other["doc_id"] or row["group"] == other["group"])


def _keeper_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    quality = row.get("quality")
    return (
        quality is None, -(quality or 0.0), row["source_place"], -row["n_bytes"], row["date"] is None, row["date"] or "", row["doc_id"],
        row["row_id"],
    )  # fmt: skip
