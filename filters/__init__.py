"""Facts about one document: families of signals over text, and the rules that judge them.

`FAMILIES` is the one table of families; `CORPUS_FAMILIES` holds those whose signals only other documents or a fitted model can tell, which
curate computes. They map names to where they are defined rather than to the families, so that reading a table compiles and loads nothing; a
typing error in a row is found when the family is first used, and by a test that loads them all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from filters.spec import Family

FAMILIES: Final[dict[str, str]] = {
    "statistics": "filters.statistics:STATISTICS",
    "gopher_quality": "filters.gopher:GOPHER_QUALITY",
    "gopher_repetition": "filters.gopher:GOPHER_REPETITION",
    "c4": "filters.c4:C4",
    "c4_fineweb": "filters.c4:C4_FINEWEB",
    "fineweb": "filters.fineweb:FINEWEB",
}
CORPUS_FAMILIES: Final[dict[str, str]] = {
    "paragraphs": "filters.paragraphs:PARAGRAPHS",
    "urls": "filters.urls:URLS",
    "reference": "filters.reference:REFERENCE",
}


def family(name: str) -> Family:
    """Load the family of this name; raises ValueError, naming the known ones, when there is none."""
    known = FAMILIES | CORPUS_FAMILIES
    if name not in known:
        raise ValueError(f"family {name!r} not found; known: {', '.join(sorted(known))}. Use one of these names.")
    module, attribute = known[name].split(":")
    found: Family = getattr(importlib.import_module(module), attribute)
    return found
