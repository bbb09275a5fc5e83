"""Family `urls`: how many rows have the URL of this one, and which of them is the newest. No document alone tells it, nor its text.

How URLs are compared, and which row comes first, is written in curate/urls.py, which computes the signals.
"""

from __future__ import annotations

from filters.spec import Family, Rule, Signal

URLS = Family(
    name="urls",
    version=1,
    signals=(
        Signal("n_rows", "int32", "rows with this URL, in all sources that the manifest holds; null for a row without one"),
        Signal("place", "int32", "its place among them: 1 is the newest, then the longest; null as above"),
    ),
    rules=(Rule("max_place", "place", "<=", None, "no default: 1 keeps the newest row of each URL"),),
    compute=None,
)
