"""What of a recipe decides: the plain values that enter the digests and manifest.json.

Stands between a resolved recipe and publishing. Places, formats, worker settings and limits that stop a build are left out, and so is
whatever is off in the way it was before there was such a key, so that an old decision stays the same decision.
"""

import dataclasses
from typing import Any

from curate.recipe import MAIN_STAGE, Recipe, Scheduled


def portable(recipe: Recipe) -> dict[str, Any]:
    """Give the recipe as plain values without paths, globs, formats, the field of the titles and the limits that stop a build, which
    decide nothing about a row: what enters the digests and manifest.json.

    Rules and thresholds stand with each source, resolved; `rules` keeps their order, which JSON with sorted keys would lose. Of the
    recipe's own families those are in that judge a row, by their names in the code.
    """
    table = dataclasses.asdict(recipe)
    del table["stages"]
    for source, entry in zip(recipe.sources, table["sources"], strict=True):
        judged = recipe.judged_by(source) if source in recipe.decided_sources() else {}
        entry |= {"web": source.is_web, "rules": list(judged), "judged_by": judged}
        del entry["path"], entry["format"], entry["fields"]["title"], entry["thresholds"], entry["max_dedup_share"]
        if source.near_duplicates:
            del entry["near_duplicates"]  # as it was written before it could be off
    del table["rules"], table["thresholds"], table["tokenizer"]["path"], table["quality"]["model"], table["quarantine"]
    table["dedup"] |= dict(zip(("bands", "rows"), recipe.dedup.shape, strict=True))
    del table["dedup"]["profile"], table["dedup"]["max_share"], table["dedup"]["max_copies"]
    # Off is written as it was before there was any: a decision that did not look at containment stays the same decision.
    if recipe.dedup.contained_from is None:
        del table["dedup"]["containment"]
    table |= _portable_choice(recipe)
    # So are paragraphs that nobody looked at, and a perplexity that nobody asked for.
    if "paragraphs" not in recipe.families_to_compute():
        del table["paragraphs"]
    if "perplexity" in recipe.scorers:
        del table["perplexity"]["model"]
    else:
        del table["perplexity"]
    own = [recipe.families[name] for name in recipe.families_to_compute() if name in recipe.families]
    table["families"] = {
        one.name: {"function": _attribute(one.function), "datatrove": _attribute(one.datatrove), "arguments": dict(one.arguments)}
        for one in own
    }
    return table


def _portable_choice(recipe: Recipe) -> dict[str, Any]:
    """Give [select] and the mixture as they decide: shares, not their preset. What is not asked for stays out, as before there was any."""
    select = dataclasses.asdict(recipe.select)
    for key in ("where", "top_share", "threshold", "stratify_by"):
        if select[key] is None:
            del select[key]
    if recipe.select.stratify_by is None:
        del select["stratify"]
    stages = [dataclasses.replace(stage, mixture=None) for stage in recipe.schedule()]
    if stages == [Scheduled(MAIN_STAGE, recipe.mix.shares, recipe.mix.epochs, recipe.mix.redraw)]:
        return {"select": select, "mix": {key: getattr(recipe.mix, key) for key in ("shares", "epochs", "redraw")}}
    tables = [{key: value for key, value in dataclasses.asdict(stage).items() if key != "mixture"} for stage in stages]
    return {"select": select, "mix": {}, "stages": tables}


def _attribute(target: str | None) -> str | None:
    return None if target is None else target.rpartition(":")[2]
