"""The sections of a version's page that say what it was made from and how to make it again: inputs, recipe, rebuilding, citing, software.

Stands under `page_html` and `page_card`; pure functions of what `page` gathered. Cost: the strings of the page.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from curate.page_tags import Html, details, el, lines, table
from curate.printable import printable

_N_FILES = 100  # digests listed of a source; all are in manifest.json
PAPER = "Efficient Continual Pre-training by Mitigating the Stability Gap"


def inputs_section(data: Mapping[str, Any]) -> list[Html]:
    """Show what was read, with digests, and the licences and languages of what training may draw."""
    rows = []
    for name, entry in data["inputs"].items():
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(entry["quarantine_reasons"].items()))
        held = "" if entry["holdout_share"] is None else f"{entry['holdout_share']:.1%}"
        rows.append(
            [name, entry["role"], entry["component"] or "", entry["n_rows"], entry["n_quarantined"], reasons, held, len(entry["files"])]
        )
    headings = ["source", "role", "component", "documents", "kept aside", "why", "held out", "files"]
    files = [[name, el("code", digest)] for name, entry in data["inputs"].items() for digest in entry["files"][:_N_FILES]]
    more = sum(max(0, len(entry["files"]) - _N_FILES) for entry in data["inputs"].values())
    note = f" ({more:,} more are in manifest.json)" if more else ""
    return [
        table(headings, rows),
        details(f"SHA-256 of the input files{note}", table(["source", "sha256"], files)),
        el("h3", "Licences and languages of what training may draw, as the sources state them"),
        table(["licence", "documents", "tokens"], _stated(data["licences"])),
        table(["language", "documents", "tokens"], _stated(data["languages"])),
    ]


def _stated(rows: Sequence[Mapping[str, Any]]) -> list[list[str | int]]:
    return [["not stated" if row["name"] is None else row["name"], row["rows"], row["n_tokens"]] for row in rows]


def recipe_section(data: Mapping[str, Any]) -> list[Html]:
    text = json.dumps(data["recipe"], indent=2, sort_keys=True, ensure_ascii=False)
    return [
        el("p", "As it was resolved: every key with its value, without paths. Its digest is part of the decision."),
        details("The recipe as JSON", el("pre", lines(text), tabindex="0")),
    ]


def rebuild_section(data: Mapping[str, Any]) -> list[Html]:
    """Say how to make the version again and how to cite it."""
    return [
        el(
            "p", "The same inputs, models and recipe give the same digests, on any number of workers, with the versions of libraries below."
        ),
        el("pre", lines(rebuild(data)), tabindex="0"),
        el("h3", "Cite"),
        el("pre", lines(bibtex(data)), tabindex="0"),
    ]


def rebuild(data: Mapping[str, Any]) -> str:
    """Give the commands that make the version again and check it."""
    gapless = data["software"].get("gapless", "")
    what, note = (
        "--recipe recipe.toml",
        "recipe.toml: your recipe with the values below and the paths of your files, which are named by their digests",
    )
    if data["sample"]:
        what, note = f"--domain {data['domain']}", "with the same --set, where the recipe differs from the shipped domain"
    return "\n".join([
        f"pip install gapless=={gapless} --constraint constraints.txt",
        f"# {note}",
        f"curate build {what} --root ROOT",
        f"curate list --root ROOT     # its fingerprint begins with {data['fingerprint'][:16]}",
        "curate verify VERSION --root ROOT",
    ])  # fmt: skip


def bibtex(data: Mapping[str, Any]) -> str:
    """Give the version and the method as BibTeX. No year: a version has no clock; the fingerprint names it for ever."""
    name, version, fingerprint = _tex(data["domain"]), data["version"], data["fingerprint"]
    key = re.sub(r"[^A-Za-z0-9]+", "-", f"gapless-{data['domain']}-{version}-{fingerprint[:8]}")
    return "\n".join([
        f"@misc{{{key},",
        f"  title = {{{{{name} {version}}}: a corpus for continual pre-training, made with Gapless}},",
        f"  note = {{fingerprint {fingerprint}}}",
        "}",
        "@article{guo2024stabilitygap,",
        f"  title = {{{PAPER}}},",
        "  author = {Guo, Yiduo and Fu, Jie and Zhang, Huishuai and Zhao, Dongyan and Shen, Yikang},",
        "  journal = {arXiv preprint arXiv:2406.14833},",
        "  year = {2024}",
        "}",
    ])  # fmt: skip


def software_section(data: Mapping[str, Any]) -> list[Html]:
    return [table(["library", "version"], [[name, str(version)] for name, version in data["software"].items()])]


def _tex(text: str) -> str:
    """Escape what TeX would act upon."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(char, f"\\{char}" if char in "{}$&#_%" else char) for char in printable(text))
