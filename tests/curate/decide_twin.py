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
    min_words: int,
    seed: int,
) -> dict[str, tuple[str, str | None, int | None, str | None]]:
    """Give row_id -> (split, reason, rank, dup_of). Rows are ranked at random, that is by hash of doc_id."""
    held = [row for row in rows if int(hash16(f"holdout|{row['group']}"), 16) < int(shares[row["source"]] * 2**64)]
    held_ids = {row["row_id"] for row in held}
    out: dict[str, tuple[str, str | None, int | None, str | None]] = {row["row_id"]: ("holdout", None, None, None) for row in held}
    passed = []
    for row in rows:
        if row["row_id"] in held_ids:
            continue
        if row["n_words"] < min_words:
            out[row["row_id"]] = ("dropped", "gopher_quality.min_words", None, None)
        elif any(row["doc_id"] == other["doc_id"] or row["group"] == other["group"] for other in held):
            out[row["row_id"]] = ("dropped", "holdout.leak", None, None)
        else:
            passed.append(row)
    kept = []
    for doc_id in sorted({row["doc_id"] for row in passed}):
        copies = [row for row in passed if row["doc_id"] == doc_id]
        copies.sort(
            key=lambda row: (row["source_place"], -row["n_bytes"], row["date"] is None, row["date"] or "", row["doc_id"], row["row_id"])
        )
        kept.append(copies[0])
        for copy in copies[1:]:
            out[copy["row_id"]] = ("dropped", "duplicate.exact", None, copies[0]["row_id"])
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
