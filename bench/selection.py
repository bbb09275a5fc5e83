"""What does selecting by quality take, beside a random order, the longest first, a list of keywords, and perplexity?

    python bench/selection.py [--full]

Labels come from the folders of ../shared/corpora: a row is medical where its folder is a medical one or its newsgroup is sci.med. They
are used here alone; nothing that is fitted sees them. For each order under the same token budget: the share of medical rows in each
length quartile of what was selected, precision at half of the recall, and AUC of medical against the rest, within quintiles of
length, and of sci.med against the other newsgroups.

Then the subsets that builds take by the classifier and by perplexity, with what guards the latter and without (docs/perplexity.md): whose
rows they are, and how odd beside all that were ranked: words, compression, n-grams that repeat, runs of words from the reference.

--full builds tests/recipes/real.toml, and the same with its pool thinned to 5 % medical rows; by default the sample corpus, where medical
is a planted topic. Fails where quality ranks no better than chance, or where perplexity takes no more medical rows than the pool has.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curate import executor
from curate.build import Built, build
from curate.expressions import LENGTH_STRATA
from curate.recipe_file import read_recipe
from curate.sql import connect
from curate.store import Store
from filters.quality import auc

_HERE = pathlib.Path(__file__).resolve().parent
_CORPORA = _HERE.parents[1] / "shared" / "corpora"
_RECIPE = _HERE.parent / "tests" / "recipes" / "real.toml"
_KEYWORDS = (
    "patients?|disease|treatment|clinical|symptoms|diagnosis|therapy|drug|medical|doctor|hospital|infection|cancer|blood|"
    "surgery|syndrome|disorder|medicine|health"
)
_THIN_SHARE = 0.05
_SCORERS = 'scorers=["quality", "perplexity"]'
_GUARDED = "perplexity"
# What builds take side by side: by name the settings beside the recipe's.
_SUBSETS = {
    "quality": ("select.order_by=quality DESC",),
    "quality, 200 words": ("select.order_by=quality DESC", "select.where=n_words >= 200"),
    "quality, buckets": ("select.order_by=quality DESC", "select.where=n_words >= 200", f"select.stratify_by={LENGTH_STRATA}"),
    _GUARDED: ("select.order_by=perplexity",),
    "no buckets": ("select.order_by=perplexity", "select.stratify_by=false"),
    "no buckets, all": ("select.order_by=perplexity", "select.stratify_by=false", "perplexity.min_words=1"),
}
# Signals of text that repeats itself; and from which share on a row counts as copied from the reference.
_REPEATS = ("top_2gram", "duplicate_5gram", "duplicate_10gram")
_COPIED = 0.2
Rows = dict[str, npt.NDArray[Any]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the real recipe and its thinned pool (needs ../shared/corpora)")
    parser.add_argument("--root", help="where to build (default: a temporary folder)")
    options = parser.parse_args()
    if options.full and not _CORPORA.is_dir():
        print("../shared/corpora is not here; without --full the sample corpus is used", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(options.root or temporary)
        if not options.full:
            worst = _report("sample", *_built(folder / "sample", domain="medical"))
            return max(worst, _side_by_side("sample", folder / "sample", domain="medical"))
        worst = _report("real", *_built(folder / "real", file=str(_RECIPE)))
        worst = max(worst, _side_by_side("real", folder / "real", file=str(_RECIPE)))
        thinned = [f"{source}={path}" for source, path in _thin(folder / "pool").items()]
        return max(worst, _report("thinned to 5 %", *_built(folder / "thin", file=str(_RECIPE), sources=thinned)))


def _built(root: pathlib.Path, **what: Any) -> tuple[Store, Built]:
    store = Store(str(root))
    return store, build(store, read_recipe(store, **what), run=executor.local(2))


def _report(title: str, store: Store, built: Built) -> int:
    rows = _rows(store, built)
    budget = int(built.manifest.info["recipe"]["select"]["budget_tokens"])
    tokens_per_byte = rows["n_tokens"][rows["n_tokens"] > 0].sum() / rows["n_bytes"][rows["n_tokens"] > 0].sum()
    is_medical = rows["is_medical"]
    print(f"\n{title}: {len(is_medical):,} ranked rows, {is_medical.sum():,} medical ({is_medical.mean():.1%}), budget {budget:,} tokens")
    head = ("rows", "medical", "Q1 short", "Q2", "Q3", "Q4 long", "P at R 1/2", "AUC", "AUC by length quintile", "sci.med")
    print(
        f"{'order':10} {head[0]:>7} "
        + " ".join(f"{name:>8}" for name in head[1:6])
        + f" {head[6]:>10} {head[7]:>6} {head[8]:>34} {head[9]:>7}"
    )
    aucs = {}
    for order in ("quality", "random", "longest", "keywords"):
        key = rows[order]
        ranked = np.lexsort((rows["random"], -key))
        taken = ranked[np.cumsum(rows["n_bytes"][ranked] * tokens_per_byte) <= budget]
        edges = np.quantile(rows["n_bytes"][taken], [0.25, 0.5, 0.75])
        part = np.searchsorted(edges, rows["n_bytes"][taken])
        shares = [is_medical[taken].mean(), *(is_medical[taken][part == quarter].mean() for quarter in range(4))]
        hits = np.cumsum(is_medical[ranked])
        half = int(np.searchsorted(hits, np.ceil(hits[-1] / 2))) + 1
        aucs[order] = auc(key[is_medical], key[~is_medical])
        fifths = np.searchsorted(np.quantile(rows["n_bytes"], [0.2, 0.4, 0.6, 0.8]), rows["n_bytes"])
        by_length = [auc(key[(fifths == n) & is_medical], key[(fifths == n) & ~is_medical]) for n in range(5)]
        group = rows["newsgroup"]
        has_groups = (group == "sci.med").any()
        in_news = auc(key[group == "sci.med"], key[(group != "") & (group != "sci.med")]) if has_groups else float("nan")
        print(
            f"{order:10} {len(taken):7,} "
            + " ".join(f"{share:8.2%}" for share in shares)
            + f" {hits[half - 1] / half:10.2%} {aucs[order]:6.3f} {' '.join(f'{value:6.3f}' for value in by_length):>34} {in_news:7.3f}"
        )
        if order == "quality":
            found = collections.Counter(rows["folder"][ranked[:half]][is_medical[ranked[:half]]])
            everywhere = collections.Counter(rows["folder"][is_medical])
    print("recall by folder where quality has half of all: " + ", ".join(f"{name} {found[name] / n:.0%}" for name, n in everywhere.items()))
    return 0 if aucs["quality"] > max(0.55, aucs["random"]) else 1


def _side_by_side(title: str, root: pathlib.Path, **what: Any) -> int:
    """Build each subset, and print whose rows it has and how odd they are beside all that were ranked."""
    found = {name: _ranked(*_built(root, settings=(_SCORERS, *settings), **what)) for name, settings in _SUBSETS.items()}
    pool = next(iter(found.values()))
    shown = {"pool": pool} | {name: {key: values[rows["is_taken"]] for key, values in rows.items()} for name, rows in found.items()}
    _print_purity(title, shown)
    _print_oddities(shown)
    return 0 if shown[_GUARDED]["is_medical"].mean() > pool["is_medical"].mean() else 1


def _print_purity(title: str, shown: dict[str, Rows]) -> None:
    print(f"\n{title}: what builds take, their medical rows in all and by length quartile, tokens that quality takes, too, rows by folder")
    head = ("rows", "tokens", "medical", "Q1 short", "Q2", "Q3", "Q4 long", "as quality")
    print(f"{'':20} {head[0]:>7} {head[1]:>11} " + " ".join(f"{name:>8}" for name in head[2:7]) + f" {head[7]:>10}")
    first, folders = shown["quality"]["row_id"], sorted(set(shown["pool"]["folder"].tolist()))
    for name, rows in shown.items():
        part = np.searchsorted(np.quantile(rows["n_bytes"], [0.25, 0.5, 0.75]), rows["n_bytes"])
        shares = [rows["is_medical"].mean(), *(rows["is_medical"][part == quarter].mean() for quarter in range(4))]
        n_tokens, n_common = rows["n_tokens"].sum(), rows["n_tokens"][np.isin(rows["row_id"], first)].sum()
        # Of the pool only what was taken has been counted.
        tokens = f"{'':11} {'':10}" if name == "pool" else f"{n_tokens:11,} {n_common / n_tokens:10.1%}"
        print(
            f"{name:20} {len(rows['folder']):7,} {tokens[:11]} {' '.join(f'{share:8.2%}' for share in shares)} {tokens[12:]}  "
            + ", ".join(f"{folder} {(rows['folder'] == folder).mean():.1%}" for folder in folders)
        )


def _print_oddities(shown: dict[str, Rows]) -> None:
    head = ("words", "compression", *_REPEATS, f"reference > {_COPIED:.0%}")
    print(f"\n{'medians, then means':20} " + " ".join(f"{name:>16}" for name in head))
    for name, rows in shown.items():
        middles = f"{np.median(rows['n_words']):16,.0f} {np.nanmedian(rows['compression']):16.3f}"
        repeats = " ".join(f"{np.nanmean(rows[repeat]):16.4f}" for repeat in _REPEATS)
        print(f"{name:20} {middles} {repeats} {(rows['overlap'] > _COPIED).mean():16.2%}")


def _ranked(store: Store, built: Built) -> Rows:
    """The domain's rows that were ranked, whether they are taken, with labels and what may be odd about them."""
    repeats = ", ".join(f"gopher_repetition.{name}_ratio AS {name}" for name in _REPEATS)
    table = connect(store.url(), built.manifest.version).sql(
        "SELECT row_id, source::VARCHAR AS source, source_id, split = 'train' AS is_taken, n_bytes, n_words,"
        f" coalesce(n_tokens, 0) AS n_tokens, statistics.compression_ratio AS compression, {repeats}, reference.overlap AS overlap"
        " FROM manifest JOIN signals USING (shard, \"row\") WHERE component = 'domain' AND rank IS NOT NULL ORDER BY row_id"
    ).to_arrow_table()  # fmt: skip
    folder, _, is_medical = _labels(built, table)
    plain = ("n_bytes", "n_words", "n_tokens", "is_taken", "compression", *_REPEATS, "overlap")
    row_id = np.array(table["row_id"].to_pylist())
    return {"folder": folder, "is_medical": is_medical, "row_id": row_id, **{name: table[name].to_numpy() for name in plain}}


def _rows(store: Store, built: Built) -> Rows:
    """The domain's rows that were ranked (they passed rules and dedup), with labels and the keys of the other orders."""
    connection = duckdb.connect()
    where = store.url(f"manifests/{built.manifest.version}")
    table = connection.sql(
        'SELECT row_id, source::VARCHAR AS source, source_id, shard::VARCHAR AS shard, "row", n_bytes, n_words, quality, n_tokens'
        f" FROM '{where}/*/*.parquet' WHERE component = 'domain' AND rank IS NOT NULL ORDER BY shard, \"row\""
    ).to_arrow_table()
    texts = pa.concat_arrays([
        store.read_rows(f"corpus/{shard}", part["row"].to_pylist(), ["text"])["text"].combine_chunks().cast(pa.large_string())
        for shard in table["shard"].unique().to_pylist()
        for part in [table.filter(pc.equal(table["shard"], shard))]
    ])  # fmt: skip
    folder, newsgroup, is_medical = _labels(built, table)
    pattern = rf"(?i)\b(?:{_KEYWORDS})\b"
    n_words = np.maximum(table["n_words"].to_numpy(), 1)
    return {
        "folder": folder,
        "newsgroup": newsgroup,
        "is_medical": is_medical,
        "n_bytes": table["n_bytes"].to_numpy(),
        "n_tokens": table["n_tokens"].fill_null(0).to_numpy(),
        "quality": table["quality"].to_numpy(),
        "random": np.array([int(row[:13], 16) / 16**13 for row in table["row_id"].to_pylist()]),
        "longest": table["n_bytes"].to_numpy().astype(np.float64),
        "keywords": pc.count_substring_regex(texts, pattern).to_numpy(zero_copy_only=False) / n_words,
    }


def _labels(built: Built, table: pa.Table) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Tell each row's folder, its newsgroup, and whether it is medical."""
    groups = _newsgroups() if "general-forum" in built.manifest.info["inputs"] else {}
    folders, ids = table["source"].to_pylist(), table["source_id"].to_pylist()
    newsgroup = np.array([groups.get(key, "") if folder == "general-forum" else "" for folder, key in zip(folders, ids, strict=True)])
    medical = [folder.startswith("medical") or folder in ("papers", "notes") for folder in folders]
    return np.where(newsgroup == "sci.med", "sci.med", np.array(folders)), newsgroup, np.array(medical) | (newsgroup == "sci.med")


def _newsgroups() -> dict[str, str]:
    return {str(row["id"]): row["group"] for row, _ in _lines(_CORPORA / "general-forum")}


def _lines(folder: pathlib.Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    for path in sorted(folder.iterdir()):
        with io.BufferedReader(pa.input_stream(str(path))) as lines:
            yield from ((json.loads(line), line) for line in lines)


def _thin(folder: pathlib.Path) -> dict[str, str]:
    """Write the pool with so few medical rows, drawn by hash, that they are 5 % of it."""
    sources = ("medical-papers", "medical-abstracts", "medical-clinical", "general-forum", "general-news", "general-web")
    kept: dict[str, list[bytes]] = {source: [] for source in sources}
    medical: list[tuple[str, str, bytes]] = []
    for source in sources:
        for row, line in _lines(_CORPORA / source):
            if source.startswith("medical") or row.get("group") == "sci.med":
                medical.append((hashlib.sha256(line).hexdigest(), source, line))
            else:
                kept[source].append(line)
    n_medical = round(sum(map(len, kept.values())) * _THIN_SHARE / (1 - _THIN_SHARE))
    for _, source, line in sorted(medical)[:n_medical]:
        kept[source].append(line)
    for source, lines in kept.items():
        (folder / source).mkdir(parents=True, exist_ok=True)
        (folder / source / "part.jsonl").write_bytes(b"".join(lines))
    return {source: str(folder / source) for source in sources}


if __name__ == "__main__":
    sys.exit(main())
