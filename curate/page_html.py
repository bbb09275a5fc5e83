"""The page of a version: one HTML file without a script or any outside resource, in light and dark, on a screen of any width.

Stands behind `page`, which gathers the plain values; the frame and the style sheet are page.html. Decision: nothing is interactive but
folding, so the page may forbid itself everything (its policy allows one style sheet, by its hash) and foreign text has nothing to act upon.
Cost: the strings of the page, a few hundred kilobytes.
"""

import base64
import hashlib
import importlib.resources
import string
from collections.abc import Mapping
from typing import Any

from curate.page import FATES
from curate.page_charts import Bar, legend, passes, stacked, waterfall
from curate.page_explained import copies_section, rules_section, scores_section, section
from curate.page_origin import inputs_section, rebuild_section, recipe_section, software_section
from curate.page_tags import Html, details, el, table, together
from curate.report import SAMPLE_NOTE

# What takes rows away at a step of the funnel, in the colours of the other charts.
_STEP_FATES = {"not held out": "held_out", "passed the rules": "rules", "no leak to the holdout": "copies", "no duplicate": "copies"}
MAX_PASSES = 4.0  # of repeats beyond this, text is worth much less than new text (Muennighoff et al. 2023, arXiv 2305.16264)


def page(data: Mapping[str, Any]) -> str:
    """Write the page of what `page.gather` gave. The same values give the same bytes."""
    sections = [
        ("funnel", "Funnel", _funnel(data)),
        ("sources", "Sources and components", _sources(data)),
        ("reasons", "Why rows went", _reasons(data)),
        ("scores", "Scores and the cut", scores_section(data)),
        ("limits", "Around each limit", rules_section(data)),
        ("copies", "Duplicates", copies_section(data)),
        ("mixture", "Mixture", _mixture(data)),
        ("evaluation", "Evaluation set", _evalset(data)),
        ("inputs", "Inputs and licences", inputs_section(data)),
        ("recipe", "Recipe", recipe_section(data)),
        ("rebuild", "Rebuild and cite", rebuild_section(data)),
        ("software", "Software", software_section(data)),
    ]
    contents = el("nav", el("ol", *(el("li", el("a", title, href=f"#{name}")) for name, title, _ in sections)), aria_label="Contents")
    main = el("main", _head(data), *(section(name, title, *body) for name, title, body in sections))
    frame = importlib.resources.files("curate").joinpath("page.html").read_text(encoding="utf-8")
    style = frame.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    title = together([f"{data['domain']} {data['version']}"]).markup
    return string.Template(frame).substitute(style_hash=f"sha256-{digest}", title=title, body=together([contents, main]).markup)


def short(n: int) -> str:
    """Write a count as people say it; small ones whole.

    >>> short(1_094_185), short(649_000), short(4_246)
    ('1.09M', '649k', '4,246')
    """
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= max(size, 10**5) * 0.9995:
            return f"{n / size:.3g}{unit}"
    return f"{n:,}"


def _head(data: Mapping[str, Any]) -> Html:
    first, last = data["funnel"][0], data["funnel"][-1]
    n_held = sum(source["rows"].get("held_out", 0) for source in data["sources"])
    n_trained = sum(stage["epochs"] * stage["epoch_tokens"] for stage in data["stages"])
    tiles = [
        (short(first["rows"]), "documents read"),
        (short(last["rows"]), f"kept for training, {last['rows'] / max(1, first['rows']):.1%}"),
        (short(last["n_tokens"]), "tokens to draw from"),
        (short(n_trained), "tokens that a run reads"),
        (short(n_held), "documents held out"),
    ]
    tokenizer = data["tokenizer"]
    facts: list[tuple[str, Html | str]] = [
        ("parent", data["parent"] or "none: the first of its domain"),
        ("fingerprint", el("code", data["fingerprint"])),
        ("decision", el("code", data["decision"])),
        ("evaluation set", el("code", data["evalset"]["digest"])),
        ("tokenizer", f"{tokenizer['name']}, {tokenizer['n_vocab']:,} entries, separator {tokenizer['separator']}"),
    ]
    return together([
        el("h1", data["domain"], " ", el("small", data["version"])),
        *([el("p", SAMPLE_NOTE, class_="note sample-note")] if data["sample"] else []),
        *(el("p", f"Accepted by a person though its limits were passed: {check}", class_="note") for check in data["accepted"]),
        el("ul", *(el("li", el("b", value), el("span", what)) for value, what in tiles), class_="tiles"),
        el("dl", *(together([el("dt", name), el("dd", value)]) for name, value in facts)),
        *(el("p", remark, class_="note small") for remark in data["remarks"]),
    ])  # fmt: skip


def _funnel(data: Mapping[str, Any]) -> list[Html]:
    steps = data["funnel"]
    rows, tokens = [], []
    for before, step in zip([steps[0], *steps], steps, strict=False):
        fate, mark = _STEP_FATES.get(step["step"], "not_selected"), "~" if step["estimated"] else ""
        rows.append((step["step"], fate, step["rows"], _left(step["rows"], before["rows"])))
        tokens.append((step["step"], fate, step["n_tokens"], mark + _left(step["n_tokens"], before["n_tokens"])))
    numbers = [
        [step["step"], step["rows"], step["n_bytes"], f"{'~' if step['estimated'] else ''}{step['n_tokens']:,}",
         f"{step['rows'] / max(1, steps[0]['rows']):.1%}"]
        for step in steps
    ]  # fmt: skip
    return [
        el("p", "What is left after each step of the decision, and what went at it."),
        legend({name: meaning if name != "kept" else "left" for name, meaning in FATES.items()}),
        el(
            "div",
            el("figure", el("h3", "Documents"), waterfall("Documents left after each step", rows)),
            el("figure", el("h3", "Tokens"), waterfall("Tokens left after each step", tokens)),
            class_="charts",
        ),
        el(
            "p",
            "~ estimated from the bytes per token of what was counted: tokens of rows that nobody will read are not counted.",
            class_="small",
        ),
        details("The numbers", table(["step", "documents", "bytes", "tokens", "documents left"], numbers)),
    ]


def _left(value: int, before: int) -> str:
    return short(value) + (f" (-{short(before - value)})" if before > value else "")


def _sources(data: Mapping[str, Any]) -> list[Html]:
    body = [el("p", "Tokens of each source and of each component of the mixture, by what became of them."), legend(FATES)]
    for what, rows in (("source", data["sources"]), ("component", data["components"])):
        bars = []
        for row in rows:
            mark = "~" if row["is_estimated"] else ""
            kept, total = row["n_tokens"].get("kept", 0), sum(row["n_tokens"].values())
            parts = tuple((fate, meaning, row["n_tokens"].get(fate, 0)) for fate, meaning in FATES.items())
            bars.append(Bar(row["name"], f"{short(kept)} of {mark}{short(total)} kept", parts))
        headings = [what, *FATES.values(), "documents", "bytes", "tokens kept"]
        numbers = [
            [
                row["name"],
                *(row["rows"].get(fate, 0) for fate in FATES),
                sum(row["rows"].values()),
                row["n_bytes"],
                row["n_tokens"].get("kept", 0),
            ]
            for row in rows
        ]
        body.append(el("figure", el("h3", f"By {what}"), stacked(f"Tokens by {what} and by what became of them", bars)))
        body.append(details(f"Documents by {what}", table(headings, numbers)))
    return body


def _reasons(data: Mapping[str, Any]) -> list[Html]:
    reasons = data["reasons"]
    if not reasons:
        return [el("p", "Nothing was dropped.")]
    bars, passed = [], 0
    for row in reasons:
        if row["reason"] == "budget":  # beside its bar all others would be too short to see
            passed += row["rows"]
            continue
        # The count stands first: names of rules are long, and a phone is narrow.
        bars.append(Bar(f"{row['rows']:,}  {row['reason']}", "", ((row["fate"], row["reason"], row["rows"]),)))
    numbers = [
        [
            el("code", row["reason"]),
            row["rows"],
            f"~{row['n_tokens']:,}",
            ", ".join(f"{name} {n:,}" for name, n in row["by_source"].items()),
        ]
        for row in reasons
    ]
    return [
        el("p", "The first thing that dropped a row is its reason; every row that is not trained on has one, or is held out."),
        el("p", f"{passed:,} rows passed all of these, but rank below the cut of their component (", el("code", "budget"), ")."),
        legend({name: FATES[name] for name in FATES if any(name == part[0] for bar in bars for part in bar.parts)}),
        el("figure", stacked("Rows by reason", bars)),
        details("Reasons by source", table(["reason", "rows", "tokens", "by source"], numbers)),
    ]


def _mixture(data: Mapping[str, Any]) -> list[Html]:
    body: list[Html] = []
    for stage in data["stages"]:
        body += _stage(stage)
    if len(data["stages"]) > 1 and data["repeats"]:
        rows = [[name, _times(value)] for name, value in data["repeats"].items()]
        body += [el("h3", "Over all stages"), table(["component", "times that its most drawn token is read"], rows)]
    if data["strata"]:
        rows = [[row["stratum"], row["n_rows"], row["n_taken"], row["n_tokens"]] for row in data["strata"]]
        body += [el("h3", "Strata of the selection"), table(["stratum", "documents there", "taken", "tokens taken"], rows)]
    words = (
        f"Up to {MAX_PASSES:g} passes, repeated text is worth almost as much as new text (Muennighoff et al. 2023, arXiv 2305.16264). "
        "Redraw dynamic: each epoch draws its documents anew; fixed: every epoch reads the same."
    )
    return [*body, el("p", words, class_="small")]


def _stage(stage: Mapping[str, Any]) -> list[Html]:
    """Show a stage's mixture: shares asked for and reached, and how often each pool is read."""
    mixture = stage.get("mixture") or {}
    requested = mixture.get("requested") or {part["name"]: part["share"] for part in stage["components"]}
    bars, numbers, much = [], [], []
    for part in stage["components"]:
        reached = part["epoch_tokens"] / stage["epoch_tokens"] if stage["epoch_tokens"] else 0.0
        bars.append((part["name"], f"{part['repeats']:.2f} times {short(part['pool_tokens'])} tokens", float(part["repeats"])))
        much += [part["name"]] if part["repeats"] > MAX_PASSES else []
        asked = f"{requested[part['name']]:.2%}" if part["name"] in requested else ""
        seen = {True: "yes", False: "no"}.get(part.get("seen_by_base"), "not stated")
        numbers.append([
            part["name"], asked, f"{part['share']:.2%}", f"{reached:.2%}", part["epoch_tokens"], part["pool_tokens"],
            _times(part["repeats"]), part["redraw"], seen,
        ])  # fmt: skip
    headings = ["component", "asked for", "share", "reached", "tokens an epoch", "pool", "times read", "redraw", "seen by the base"]
    epochs = (
        f"{stage['epochs']:,} epochs of {stage['epoch_tokens']:,} tokens" if stage["epochs"] != 1 else f"{stage['epoch_tokens']:,} tokens"
    )
    order = stage.get("order", "shuffle")
    return [
        el("h3", f"Stage {stage['name']}: {epochs}, {'shuffled' if order == 'shuffle' else f'in the order {order}'}"),
        *(el("p", line) for line in mixture_words(mixture)),
        table(headings, numbers),
        el("figure", passes(f"How often stage {stage['name']} reads each pool", bars, limit=MAX_PASSES)),
        *([el("p", f"Read more than {MAX_PASSES:g} times: {', '.join(much)}.", class_="note")] if much else []),
    ]


def _times(value: float) -> Html | str:
    return el("span", f"{value:.2f}", class_="warned-text") if value > MAX_PASSES else f"{value:.2f}"


def mixture_words(mixture: Mapping[str, Any]) -> list[str]:
    """Say where the shares come from, and what became of components without a source."""
    words = []
    if mixture.get("preset") or mixture.get("like"):
        named = f"preset {mixture['preset']}" if mixture.get("preset") else f"the mixture of {mixture['like']}"
        words.append(f"Shares of {named}" + (f" ({mixture['source']})." if mixture.get("source") else "."))
    for key, what in (
        ("replaced", "The domain stands in the place of"),
        ("absent", "Without a source, so spread over the other replay components:"),
    ):
        if mixture.get(key):
            words.append(f"{what} {', '.join(f'{name} {share:.2%}' for name, share in mixture[key].items())}.")
    return words


def _evalset(data: Mapping[str, Any]) -> list[Html]:
    parts = data["evalset"]["components"]
    numbers = [
        [name, part["n_docs"], part["n_bytes"], "yes" if part["has_interval"] else "no: fewer than 200 documents and 1 MB"]
        for name, part in sorted(parts.items())
    ]
    return [
        el(
            "p",
            "A frozen list of held-out documents. Versions and runs that are compared have to name the same list: ",
            el("code", data["evalset"]["digest"]),
        ),
        table(["component", "documents", "bytes", "error bars"], numbers),
    ]
