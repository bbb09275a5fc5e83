"""A version as a Hugging Face dataset card: README.md with its YAML header, to lie beside what `curate export --format hf` writes.

Stands behind `page`, beside `page_html`; a pure function of the gathered values. Decision: every value in the header is a quoted string of
printable characters, and every foreign word in the text is escaped for Markdown and HTML, at the cost of a source less pretty to read.
"""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curate.judging import number
from curate.page_html import MAX_PASSES, mixture_words
from curate.page_origin import bibtex, rebuild
from curate.printable import printable
from curate.report import SAMPLE_NOTE

# Where the parts of a split lie in an exported folder.
DATA_FILES = {"train": "data/train-*.parquet", "holdout": "data/holdout-*.parquet"}
_FATES = {"train": "kept", "holdout": "held_out"}
# Of the identifiers at https://huggingface.co/docs/hub/repositories-licenses those that texts come under.
_LICENCES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gfdl", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense", "wtfpl"),
    *("cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nd-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    *("cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "odc-by", "odbl", "pddl", "etalab-2.0"),
}
_CC_URL = re.compile(r"https?://creativecommons\.org/(?:licenses/([a-z-]+)/([0-9.]+)|(publicdomain)/zero/([0-9.]+)).*")
_SIZES = ((10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M"), (10**8, "100M"), (10**9, "1B"))


def card(data: Mapping[str, Any], splits: Sequence[str] = tuple(DATA_FILES)) -> str:
    """Write the card of what `page.gather` gave, for a folder that holds these splits. The same values give the same bytes."""
    kept = data["funnel"][-1]
    what = (
        f"A corpus for the continual pre-training of language models in the domain {_text(data['domain'])}: {kept['rows']:,} documents and "
        f"{kept['n_tokens']:,} tokens under the tokenizer {_text(data['tokenizer']['name'])}, chosen and mixed with Gapless "
        f"{_text(data['software'].get('gapless', ''))}. Fingerprint {data['fingerprint']}."
    )
    stock = "Split train is what training draws from; split holdout is for evaluation and must never be trained on."
    licences = "Each document keeps the licence that its source states; column licence has it, and where it is empty none was stated."
    parts = [
        _header(data, splits),
        f"# {_text(data['domain'])} {data['version']}",
        *([f"> **{_text(SAMPLE_NOTE)}**"] if data["sample"] else []),
        f"{what} {stock}",
        "## Sources", _sources(data), "## Funnel", _funnel(data), "## Rules that dropped something", _rules(data),
        "## Mixture", *_mixture(data), "## Licences", licences, _licences(data),
        "## How it was made", _fenced(rebuild(data), "sh"), "## Citation", _fenced(bibtex(data), "bibtex"),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def hub_licence(stated: str | None) -> str:
    """Translate a licence as a source states it to the Hub's identifier; what it has none for is other.

    >>> hub_licence("CC BY-SA 4.0"), hub_licence("https://creativecommons.org/publicdomain/zero/1.0/"), hub_licence(None)
    ('cc-by-sa-4.0', 'cc0-1.0', 'unknown')
    """
    if stated is None or not stated.strip():
        return "unknown"
    name = stated.strip().lower()
    if found := _CC_URL.fullmatch(name):
        name = f"cc0-{found[4]}" if found[3] else f"cc-{found[1]}-{found[2]}"
    name = re.sub(r"[\s_]+", "-", name)
    name = {"cc0": "cc0-1.0", "cc-zero": "cc0-1.0", "cc-by": "cc", "apache2": "apache-2.0"}.get(name, name)
    return name if name in _LICENCES else "other"


def _header(data: Mapping[str, Any], splits: Sequence[str]) -> str:
    languages = {str(row["name"]).lower().replace("_", "-").split("-")[0] for row in data["languages"] if row["name"]}
    fields: dict[str, list[str]] = {
        "license": sorted({hub_licence(row["name"]) for row in data["licences"]}),
        "language": sorted(name for name in languages if re.fullmatch("[a-z]{2,3}", name)),
        "size_categories": [_size(sum(part["rows"].get(_FATES[split], 0) for part in data["sources"] for split in splits))],
        "task_categories": ["text-generation"],
        "tags": ["continual-pretraining", "gapless", data["domain"], *(["sample"] if data["sample"] else [])],
    }
    name = f"{data['domain']} {data['version']}"
    lines = ["---", f"pretty_name: {_yaml(name)}"]
    for key, values in fields.items():
        lines += [f"{key}:", *(f"- {_yaml(value)}" for value in values)] if values else []
    lines += ["configs:", "- config_name: default", "  data_files:"]
    for split in splits:
        lines += [f"  - split: {split}", f"    path: {_yaml(DATA_FILES[split])}"]
    return "\n".join([*lines, "---"])


def _size(n: int) -> str:
    """Name the Hub's category of a number of documents.

    >>> _size(999), _size(1000), _size(5_000_000)
    ('n<1K', '1K<n<10K', '1M<n<10M')
    """
    for (_, lower), (top, upper) in zip([(0, ""), *_SIZES], _SIZES, strict=False):
        if n < top:
            return f"{lower}<n<{upper}" if lower else f"n<{upper}"
    return "n>1B"


def _sources(data: Mapping[str, Any]) -> str:
    read = {row["name"]: row for row in data["sources"]}
    rows = []
    for name, entry in data["inputs"].items():
        fates = read.get(name, {"rows": {}, "n_tokens": {}})
        kept = (fates["rows"].get("kept", 0), fates["n_tokens"].get("kept", 0), fates["rows"].get("held_out", 0))
        rows.append([name, entry["role"], entry["component"] or "", entry["n_rows"], *kept])
    return _table(["source", "role", "component", "documents read", "in train", "tokens in train", "in holdout"], rows)


def _funnel(data: Mapping[str, Any]) -> str:
    rows = [[step["step"], step["rows"], f"{'about ' if step['estimated'] else ''}{step['n_tokens']:,}"] for step in data["funnel"]]
    return _table(["step", "documents left", "tokens left"], rows)


def _rules(data: Mapping[str, Any]) -> str:
    if not data["rules"]:
        return "None."
    rows = []
    for rule in data["rules"]:
        limits = ", ".join(f"{rule['signal']} {rule['keep']} {number(limit['limit'])}" for limit in rule["limits"])
        rows.append([rule["reason"], limits, rule["n_dropped"], rule["origin"]])
    return _table(["rule", "keeps", "documents dropped", "default by"], rows)


def _mixture(data: Mapping[str, Any]) -> list[str]:
    parts = []
    for stage in data["stages"]:
        rows = [
            [part["name"], f"{part['share']:.2%}", part["epoch_tokens"], part["pool_tokens"], f"{part['repeats']:.2f}", part["redraw"]]
            for part in stage["components"]
        ]
        words = [
            f"Stage {stage['name']}: {stage['epochs']:,} epochs of {stage['epoch_tokens']:,} tokens.",
            *mixture_words(stage.get("mixture") or {}),
        ]
        parts.append(_text(" ".join(words)))
        parts.append(_table(["component", "share", "tokens an epoch", "pool", "times read", "redraw"], rows))
    if any(part["repeats"] > MAX_PASSES for stage in data["stages"] for part in stage["components"]):
        parts.append(
            f"Some text is read more than {MAX_PASSES:g} times, from where on it is worth much less than new text (arXiv 2305.16264)."
        )
    return parts


def _licences(data: Mapping[str, Any]) -> str:
    rows = [["not stated" if row["name"] is None else row["name"], row["rows"], row["n_tokens"]] for row in data["licences"]]
    return _table(["licence", "documents", "tokens"], rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    for row in rows:
        lines.append(f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else _text(cell) for cell in row)} |")
    return "\n".join(lines)


def _text(text: str) -> str:
    """Escape a foreign text for a line of Markdown."""
    escaped = html.escape(printable(" ".join(text.split())), quote=False)
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", escaped)


def _fenced(text: str, language: str) -> str:
    shown = "\n".join(printable(line) for line in text.split("\n"))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{fence}{language}\n{shown}\n{fence}"


def _yaml(text: str) -> str:
    """Write a string for YAML: quoted as in JSON, of printable characters only."""
    return json.dumps(printable(text), ensure_ascii=False)
