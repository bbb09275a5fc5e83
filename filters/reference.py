"""Family `reference`: how much of a document stands in the reference word for word. The text alone does not tell it: a model does.

Near copies of what a model was fitted on have the lowest perplexity of all, and teach nothing new. The signal is that of
`filters.perplexity.overlaps`, by the models that curate fits or that a recipe names; without such a model there is none.
"""

from __future__ import annotations

from filters.spec import Family, Rule, Signal

REFERENCE = Family(
    name="reference",
    version=1,
    signals=(Signal("overlap", "float32", "share of its runs of 13 words that are in the reference; null below 13 words"),),
    rules=(Rule("max_overlap", "overlap", "<=", None, "no default: 0.2 is where `curate show` flags a row"),),
    compute=None,
)
