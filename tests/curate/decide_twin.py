"""The decision in plain Python, written from the contract (design.md, "The decision's order"): the oracle of the tests."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any

Row = Mapping[str, Any]

# Two doc_ids, their similarity, the share of the first one that is in the second, and the other way round.
Edge = tuple[str, str, float, float, float]


@dataclasses.dataclass(frozen=True)
class Choice:
    """[select] and [mix] in Python: one of `budget` (tokens), `top_share` (of bytes) and `reaches` is given. Keys of an order by text are
    made of the row and never of its place in the list."""

    budget: int | None = None
    top_share: Fraction | None = None
    reaches: Callable[[Row], bool] | None = None
    where: Callable[[Row], bool] = lambda row: True
    key: Callable[[Row], tuple[Any, ...]] = lambda row: (hash16(f"order|0|{row['doc_id']}"),)
    stratum: Callable[[Row], Any] = lambda row: ""
    is_equal: bool = False
    domain_share: Fraction = Fraction(4, 5)
    epochs: int = 1


def hash16(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def decide_twin(
    rows: Sequence[Mapping[str, Any]],
    n_tokens: Mapping[str, int],
    choice: Choice,
    *,
    shares: Mapping[str, float],
    min_words: Mapping[str, int | None],
    seed: int,
    edges: Sequence[Edge] = (),
    threshold: float = 0.8,
    containment: float | None = 0.9,
    exact_only: Collection[str] = (),
) -> dict[str, tuple[str, str | None, int | None, str | None]]:
    """Give row_id -> (split, reason, rank, dup_of). There is one replay component, wikipedia; edges join doc_ids.

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
        elif row["component"] == "domain" and not choice.where(row):
            out[row["row_id"]] = ("dropped", "select.where", None, None)
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
    domain = sorted((row for row in kept if row["component"] == "domain"), key=lambda row: (*choice.key(row), row["row_id"]))
    taken = _taken(domain, n_tokens, choice)
    pool = sum(n_tokens[row["doc_id"]] for row in domain if row["row_id"] in taken)
    total = pool if choice.budget is None or len(taken) == len(domain) else choice.budget
    replay = sorted(
        (row for row in kept if row["component"] != "domain"),
        key=lambda row: (hash16(f"pool|{seed}|wikipedia|{row['doc_id']}"), row["row_id"]),
    )
    left = choice.epochs * _largest_remainder(total, {"domain": choice.domain_share, "wikipedia": 1 - choice.domain_share})["wikipedia"]
    for row in replay:
        if left > 0:
            taken.add(row["row_id"])
        left -= n_tokens[row["doc_id"]]
    for ranked in (domain, replay):
        for rank, row in enumerate(ranked, 1):
            is_in = row["row_id"] in taken
            out[row["row_id"]] = ("train", None, rank, None) if is_in else ("dropped", "budget", rank, None)
    return out


def _taken(ranked: Sequence[Row], n_tokens: Mapping[str, int], choice: Choice) -> set[str]:
    """Of each stratum the longest prefix that fits into its part; then of the rest, as ranked, what fits into the whole."""
    if choice.reaches:
        return {row["row_id"] for row in ranked if choice.reaches(row)}
    amounts = {row["row_id"]: n_tokens[row["doc_id"]] if choice.top_share is None else row["n_bytes"] for row in ranked}
    total = choice.budget if choice.top_share is None else int(choice.top_share * sum(amounts.values()))
    assert total is not None
    strata: dict[str, list[Row]] = {}
    for row in ranked:
        strata.setdefault(json.dumps(choice.stratum(row)), []).append(row)
    if choice.is_equal:
        parts = _turns(total, {name: sum(amounts[row["row_id"]] for row in rows) for name, rows in strata.items()})
    else:
        parts = _largest_remainder(total, {name: Fraction(sum(row["n_bytes"] for row in rows)) for name, rows in strata.items()})
    taken: set[str] = set()
    for name, rows in strata.items():
        taken |= _prefix(rows, amounts, parts[name])
    rest = [row for row in ranked if row["row_id"] not in taken]
    if len(strata) > 1:
        taken |= _prefix(rest, amounts, total - sum(amounts[row_id] for row_id in taken))
    return taken


def _prefix(rows: Sequence[Row], amounts: Mapping[str, int], budget: int) -> set[str]:
    taken: set[str] = set()
    for row in rows:
        budget -= amounts[row["row_id"]]
        if budget < 0:
            break
        taken.add(row["row_id"])
    return taken


def _largest_remainder(total: int, weights: Mapping[str, Fraction]) -> dict[str, int]:
    exact = {name: total * weight / sum(weights.values()) for name, weight in weights.items()}
    parts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: (parts[name] - exact[name], name))[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def _turns(total: int, stocks: Mapping[str, int]) -> dict[str, int]:
    """One after the other takes one, by name, as long as it has any and any is left."""
    parts = dict.fromkeys(stocks, 0)
    while total and any(parts[name] < stocks[name] for name in stocks):
        for name in sorted(stocks):
            if total and parts[name] < stocks[name]:
                parts[name] += 1
                total -= 1
    return parts


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
