"""The sections of a version's page that show documents: scores and the cut, rules with their limits, duplicates.

Stands under `page_html`; pure functions of what `page` gathered. Cost: the strings of the page.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from curate.judging import number
from curate.page_bins import Bins
from curate.page_charts import bin_rows, histogram, legend
from curate.page_tags import Html, details, el, lines, table, together

_N_OPEN = 1  # rules that are unfolded as the page opens
_CONTEXT_WORDS = 6
_N_DIFF_WORDS = 160
_RULE_SERIES = (("dropped", "rules", "dropped by this rule"), ("other", "kept", "not dropped by it"))
_SCORE_SERIES = (("kept", "kept", "selected"), ("other", "not_selected", "not selected"))
_EQUALS = {">=": "at least", "<=": "at most"}


def section(name: str, title: str, *body: Html) -> Html:
    return el("section", el("h2", title), *body, id=name)


def scores_section(data: Mapping[str, Any]) -> list[Html]:
    """Show how the domain's ranked rows score, and the rows on both sides of the cut."""
    body = []
    for score in data["scores"]:
        body += _score(score)
    if data["perplexity"]:
        body += _decile(data["perplexity"])
    if not body:
        body.append(el("p", "No scorer: rows were not ranked by a model's opinion."))
    cut = data["cut"]
    if cut["kept"] or cut["dropped"]:
        body.append(el("h3", "At the cut"))
        words = (
            "the last that were selected and the first that were not"
            if cut["dropped"]
            else "the last that were selected; nothing was left over"
        )
        body.append(el("p", "The domain's rows in the order ", el("code", cut["order_by"]), f": {words}."))
        body.append(_both_sides(cut, "rank"))
    return body


def _score(score: Mapping[str, Any]) -> list[Html]:
    body = [el("h3", f"Score {score['name']}")]
    if score["bins"] is None:
        return [*body, el("p", "No row of the domain was scored.")]
    bins = Bins(**score["bins"])
    marks = [] if score["cut"] is None else [(score["cut"], f"cut {score['cut']:.4f}")]
    body.append(el("p", "Rows of the domain that passed rules and dedup, by score; heights are square roots of counts.", class_="small"))
    body.append(legend({name: meaning for _, name, meaning in _SCORE_SERIES}))
    body.append(el("figure", histogram(f"Rows of the domain by {score['name']}", bins, score["counts"], _SCORE_SERIES, marks)))
    body.append(
        details("The numbers", table([score["name"], "selected", "not selected"], bin_rows(bins, score["counts"], ["kept", "other"])))
    )
    if auc := score["held_out_auc"]:
        body.append(el("p", f"Held-out AUC {auc['auc']:.4f} ({auc['of']}).", class_="small"))
    return body


def _decile(found: Mapping[str, Any]) -> list[Html]:
    """Show what the tenth with the lowest perplexity is like beside all rows that have one."""
    rows = [
        [line["what"], *("not stored" if line[side] is None else f"{line[side]:,.4g}" for side in ("pool", "top"))]
        for line in found["lines"]
    ]
    flagged = found["flagged"]
    share = (
        "How much of the rows is in the reference is not stored."
        if flagged is None
        else (
            f"{flagged['rows']:,} of {flagged['of']:,} rows in training have more than {flagged['above']:.0%} of their runs of 13 words in "
            "the reference."
        )
    )
    return [
        el("h3", "The top decile by perplexity against the pool"),
        el(
            "p",
            f"{found['top']:,} of {found['pool']:,} scored rows of the domain that passed rules and dedup, the lowest perplexity first.",
        ),
        table(["", "pool", "top decile"], rows),
        *(el("p", f"Warning: {warning}.", class_="note") for warning in found["warnings"]),
        el("p", f"{share} {found['n_cross_fitted']:,} rows are documents of the reference, scored by the half of it that they are not in."),
    ]


def rules_section(data: Mapping[str, Any]) -> list[Html]:
    """Show for each rule that dropped something its signal, its limit and the documents nearest to it."""
    if not data["rules"]:
        return [el("p", "No rule dropped a row.")]
    words = (
        "Each rule that dropped something: the rows that it judged, with its limit; and nearest to it, documents that passed this and all "
        "other rules and dedup, and documents that it dropped."
    )
    meanings = legend({name: meaning for _, name, meaning in _RULE_SERIES})
    return [el("p", words), meanings, *(_rule(rule, place < _N_OPEN) for place, rule in enumerate(data["rules"]))]


def _rule(rule: Mapping[str, Any], is_open: bool) -> Html:
    limits = rule["limits"]
    keeps = [f"{_EQUALS[rule['keep']]} {number(limit['limit'])}" for limit in limits]
    several = len(limits) > 1
    said = "; ".join(f"{keep} ({', '.join(limit['sources'])})" if several else keep for keep, limit in zip(keeps, limits, strict=True))
    summary = together([el("code", rule["reason"]), f" dropped {rule['n_dropped']:,}: keeps {rule['signal']} of {said}"])
    body: list[Html] = [
        el(
            "p",
            f"Limit of: {', '.join(sorted({name for limit in limits for name in limit['sources']}))}. Default by {rule['origin']}.",
            class_="small",
        )
    ]
    if rule["bins"] is None:
        body.append(el("p", "Its signal is not stored any more."))
    else:
        bins = Bins(**rule["bins"])
        marks = [(limit["limit"], keep) for keep, limit in zip(keeps, limits, strict=True)]
        body.append(
            el(
                "figure",
                histogram(f"Rows by {rule['signal']}, with the limit of {rule['reason']}", bins, rule["counts"], _RULE_SERIES, marks),
            )
        )
        headings = [rule["signal"], "dropped by this rule", "not dropped by it"]
        body.append(details("The numbers", table(headings, bin_rows(bins, rule["counts"], ["dropped", "other"]))))
        body.append(_both_sides(rule, rule["signal"]))
    return el("details", el("summary", summary), *body, class_="rule", **({"open": ""} if is_open else {}))


def copies_section(data: Mapping[str, Any]) -> list[Html]:
    """Show how many rows went as copies, of which rows most, and pairs near the thresholds."""
    copies = data["copies"]
    body = [_edges_words(copies)]
    if copies["kinds"]:
        kinds = [[row["kind"], row["rows"], row["kept"], row["n_bytes"]] for row in copies["kinds"]]
        body.append(table(["alike by", "rows that went", "rows kept for them", "bytes that went"], kinds))
    else:
        body.append(el("p", "No row went as a copy."))
    for group in copies["pairs"]:
        body += _near(group)
    if copies["kinds"] and not copies["clusters"]:
        body.append(el("p", "No kept row stands for more than one other."))
    if copies["clusters"]:
        clusters = [
            [row["n_copies"], ", ".join(row["kinds"]), row["source"], el("code", row["row_id"]), _beginning(row["text"])]
            for row in copies["clusters"]
        ]
        body.append(el("h3", "Kept rows that most others hang on"))
        body.append(table(["copies", "alike by", "source", "kept row", "begins"], clusters))
    return body


def _edges_words(copies: Mapping[str, Any]) -> Html:
    edges, limits = copies["edges"], copies["limits"]
    if edges is None:
        return el("p", "Exact copies only: near duplicates were not looked for.")
    contained = "" if limits["containment"] is None else f", or {limits['containment']:g} of the word 3-grams of one in the other"
    skipped = f" {edges['n_skipped']:,} pairs in hot bands were not compared." if edges["n_skipped"] else ""
    return el(
        "p",
        f"A row goes where a kept row has its text: the same, Jaccard of word 5-grams of {limits['jaccard']:g} or more{contained}. "
        f"{edges['n_candidates']:,} pairs were compared word by word, {edges['n_edges']:,} are alike.{skipped}",
    )


def _near(group: Mapping[str, Any]) -> list[Html]:
    if not group["dropped"] and not group["kept"]:
        return []
    bins = Bins(**group["bins"])
    body = [el("h3", f"Alike by {group['kind']}")]
    if group["counts"]:
        series = [("dropped", "copies", "went")]
        chart = histogram(
            f"Rows that went, by {group['kind']}", bins, group["counts"], series, [(group["limit"], f"from {group['limit']:g}")]
        )
        body += [
            el("figure", chart),
            details("The numbers", table([group["kind"], "rows that went"], bin_rows(bins, group["counts"], ["dropped"]))),
        ]
    sides = [
        ("is-gone", f"Went: just above {group['limit']:g}", group["dropped"]),
        ("is-kept", f"Both kept: just below {group['limit']:g}", group["kept"]),
    ]
    shown = [el("div", el("h4", words), *(_pair(pair, side) for pair in pairs)) for side, words, pairs in sides if pairs]
    words = "Struck through is only in the kept row (the second one), marked is only in the first."
    return [*body, el("div", *shown, class_="pair"), el("p", words, class_="small")]


def _pair(pair: Mapping[str, Any], side: str) -> Html:
    one, other = (together([f"{row['source']} ", el("code", row["row_id"])]) for row in (pair["one"], pair["other"]))
    caption = el("figcaption", f"{pair['similarity']:.4f}: ", one, " and ", other)
    diff = [] if pair["diff"] is None else [el("blockquote", _diff(pair["diff"]), dir="auto")]
    return el("figure", caption, *diff, class_=f"text {side}")


def _diff(pieces: Sequence[tuple[str, Sequence[str]]]) -> Html:
    """Write what two texts differ in, with a few words of what is the same beside each change."""
    shown: list[Html] = []
    n_words = 0
    for place, (op, words) in enumerate(pieces):
        first = 0 if place == 0 else _CONTEXT_WORDS
        last = 0 if place == len(pieces) - 1 else _CONTEXT_WORDS
        if op == "same" and len(words) > first + last:
            words = [*words[:first], "...", *words[len(words) - last :]]
        room = words[: _N_DIFF_WORDS - n_words]
        n_words += len(room)
        text = lines(" ".join(room)) if op == "same" else el({"removed": "del", "added": "ins"}[op], " ".join(room))
        shown.append(together([" " if place else "", text]))
        if n_words >= _N_DIFF_WORDS:
            return together([*shown, " ..."])
    return together(shown) if any(op != "same" for op, _ in pieces) else Html("the same words")


def _both_sides(found: Mapping[str, Any], value: str) -> Html:
    kept = [_document(row, value, "is-kept", "kept" if row["split"] == "train" else "passed, below the cut") for row in found["kept"]]
    gone = [_document(row, value, "is-gone", "dropped") for row in found["dropped"]]
    return el("div", *(el("div", *side) for side in (kept, gone) if side), class_="pair")


def _document(row: Mapping[str, Any], value: str, side: str, fate: str) -> Html:
    score = "".join(f", {name} {row[name]:.4f}" for name in ("quality", "perplexity") if row.get(name) is not None)
    caption = el("figcaption", f"{fate}: {value} {number(row['value'])}{score}, {row['source']} ", el("code", row["row_id"]))
    text = (
        el("p", "its text is not stored any more", class_="small")
        if row["text"] is None
        else el("blockquote", lines(row["text"]), dir="auto")
    )
    return el("figure", caption, text, class_=f"text {side}")


def _beginning(text: str | None) -> str:
    if text is None:
        return "its text is not stored any more"
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= 160 else f"{one_line[:160]} ..."
