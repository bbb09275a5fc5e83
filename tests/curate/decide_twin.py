"""The decision in plain Python, written from the contract (design.md, "The decision's order"): the oracle of the tests."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any


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
    edges: Sequence[tuple[str, str, float]] = (),
    threshold: float = 0.8,
) -> dict[str, tuple[str, str | None, int | None, str | None]]:
    """Give row_id -> (split, reason, rank, dup_of). Rows are ranked at random, that is by hash of doc_id; edges join doc_ids.

    `min_words` is by source, None where no rule judges it.
    """
    alike = {(a, b): value for one, other, value in edges if value >= threshold for a, b in ((one, other), (other, one))}
    held = [row for row in rows if int(hash16(f"holdout|{row['group']}"), 16) < int(shares[row["source"]] * 2**64)]
    held_ids = {row["row_id"] for row in held}
    out: dict[str, tuple[str, str | None, int | None, str | None]] = {row["row_id"]: ("holdout", None, None, None) for row in held}
    passed = []
    for row in rows:
        if row["row_id"] in held_ids:
            continue
        if (least := min_words[row["source"]]) is not None and row["n_words"] < least:
            out[row["row_id"]] = ("dropped", "gopher_quality.min_words", None, None)
        elif any(
            row["doc_id"] == other["doc_id"] or row["group"] == other["group"] or (row["doc_id"], other["doc_id"]) in alike
            for other in held
        ):
            out[row["row_id"]] = ("dropped", "holdout.leak", None, None)
        else:
            passed.append(row)
    passed.sort(key=_keeper_key)
    kept: list[Mapping[str, Any]] = []
    stands: dict[str, tuple[str, str]] = {}  # doc_id -> reason and row that further rows of this text go by
    for row in passed:
        if row["doc_id"] not in stands:
            near = [other for other in kept if (row["doc_id"], other["doc_id"]) in alike]
            if not near:
                stands[row["doc_id"]] = ("duplicate.exact", row["row_id"])
                kept.append(row)
                continue
            best = max(alike[row["doc_id"], other["doc_id"]] for other in near)
            stands[row["doc_id"]] = (
                "duplicate.jaccard",
                next(other["row_id"] for other in near if alike[row["doc_id"], other["doc_id"]] == best),
            )
        reason, keeper = stands[row["doc_id"]]
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


def _is_same(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(row["doc_id"] == other["doc_id"] or row["group"] == other["group"])


def _keeper_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    quality = row.get("quality")
    return (
        quality is None, -(quality or 0.0), row["source_place"], -row["n_bytes"], row["date"] is None, row["date"] or "", row["doc_id"],
        row["row_id"],
    )  # fmt: skip
