"""What a version would say of a text that is in no source, for `curate why --file`.

Stands beside `why`, and uses the same rules, models and bands as the build did. It says what follows from the text alone: rules, score,
tokens, copies; not what takes the whole corpus or what only a source states (rank, group, date). Cost: the text's own signals, which
compiles kernels once; one pass over the band keys of the version (8 bytes a band and document), and a row group for each text compared.
"""

import contextlib
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from curate.annotate import band_facts, columns_of, family_facts
from curate.corpus import SCORES
from curate.judging import breach, judged
from curate.manifest import Manifest, ManifestError, attach, hash_key, share_key
from curate.normalise import doc_ids, normalise
from curate.recipe import DOMAIN_COMPONENT, Dedup
from curate.scoring import facts_of
from curate.store import Store
from curate.tokens import encode, find_separators, load_tokenizer
from curate.why import in_versions, place, plain, shortest
from filters import FAMILIES, minhash
from filters.columns import TextBatch

BEGINNING_CHARS = 400
_MAX_COMPARED = 256  # texts that share a band key; a template may share one with thousands
_N_NEAREST = 5
_FOUND = ("doc_id", "row_id", "source", "source_id", "url", "split", "reason")


def explain_text(store: Store, manifest: Manifest, text: str, *, source: str | None = None) -> dict[str, Any]:
    """Gather what `curate why --file` prints, as plain values: the rules of one source, or of all sources, those judged alike together.

    Raises ManifestError for a text that is empty in its normal form, an unknown source, and a version that cannot be read. What cannot be
    said is in `remarks`.
    """
    texts = normalise(pa.array([text], pa.large_string()))
    if not texts[0].as_py():
        raise ManifestError("the text is empty, or holds white space and control characters only; give a text")
    documents = pa.record_batch({"doc_id": doc_ids(texts), "text": texts})
    doc_id, body = documents["doc_id"][0].as_py(), texts[0].as_py()
    batch = TextBatch.from_arrow(texts)
    signals: dict[str, dict[str, Any]] = {}
    scores: dict[str, float | None] = {}

    def signals_of(name: str) -> Mapping[str, Any] | None:
        if name in FAMILIES and name not in manifest.info.get("families", {}):
            facts = family_facts(name)
            signals.setdefault(name, plain(pa.table(columns_of(facts, documents, batch), schema=facts.schema))[0])
        if name == "reference" and "overlap" in scores:
            return {"overlap": scores["overlap"]}
        return signals.get(name)

    remarks: list[str] = []
    statistics = signals_of("statistics") or {}
    with contextlib.closing(attach(store, manifest, "m")) as connection:
        try:
            scores |= _scores(store, manifest, documents, batch, remarks)
            is_scored = any(scores.get(name) is not None for name in SCORES)
            placed = place(connection, manifest, DOMAIN_COMPONENT, scores) if is_scored else None
            found = {
                "judged": _by_source(manifest, source, signals_of, remarks),
                **{name: scores.get(name) for name in SCORES},
                "overlap": scores.get("overlap"),
                "place": placed,
                "rows": _rows(connection, doc_id),
                "near": _near(store, connection, manifest, documents, batch, remarks),
            }
        except duckdb.Error as error:
            why = " ".join(str(error).split())
            raise ManifestError(f"a part of {manifest.version} is damaged ({why}); see curate verify {manifest.version}") from None
    return {
        "version": manifest.version,
        "domain": manifest.info["domain"],
        "sample": manifest.is_sample,
        "doc_id": doc_id,
        "beginning": body[:BEGINNING_CHARS],
        "n_bytes": len(body.encode()),
        "n_words": statistics["n_words"],
        "n_tokens": _n_tokens(store, manifest, body, remarks),
        **found,
        "versions": in_versions(store, doc_id, remarks),
        "remarks": list(dict.fromkeys([*remarks, *_unsaid(manifest, placed, doc_id)])),
    }


def read_text(path: str) -> str:
    """Read a text, of stdin where the path is "-". Raises ManifestError where it is not there or not UTF-8."""
    try:
        return (sys.stdin.buffer.read() if path == "-" else pathlib.Path(path).read_bytes()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"--file {path!r} cannot be read as UTF-8 text ({error}); give a text file, or - for stdin") from None


def _by_source(
    manifest: Manifest, source: str | None, signals_of: Callable[[str], Mapping[str, Any] | None], remarks: list[str]
) -> list[dict[str, Any]]:
    """Judge by the rules of one source, or of each kind of source."""
    entries = {one["name"]: one for one in manifest.info["recipe"]["sources"] if one["role"] in ("candidate", "replay")}
    if source is not None and source not in entries:
        raise ManifestError(f"{manifest.version} has no candidate or replay source {source!r}; it has: {', '.join(entries)}")
    alike: dict[str, list[str]] = {}
    for name in [source] if source else entries:
        # Not sorted: the order of the rules decides which of them is the reason.
        alike.setdefault(json.dumps([entries[name].get("rules"), entries[name].get("judged_by")]), []).append(name)
    return [
        {"sources": names, "verdict": _verdict(rules), "rules": rules}
        for names in alike.values()
        for rules in [judged(manifest, names[0], signals_of, remarks)]
    ]


def _verdict(rules: Sequence[Mapping[str, Any]] | None) -> str:
    breached = [rule for rule in rules or () if rule["outcome"] == "breached"]
    if breached:
        return f"would be dropped: {breached[0]['family']}.{breached[0]['rule']} ({breach(breached[0])})"
    if rules is None or any(rule["outcome"] == "unknown" for rule in rules):
        return "not known: not all rules can be tried"
    return "passes the rules" if rules else "no rule judges it"


def _scores(store: Store, manifest: Manifest, documents: pa.RecordBatch, batch: TextBatch, remarks: list[str]) -> dict[str, float | None]:
    """Score the text as a row of the corpus is, and say how much of it is in the reference: of two models, by the one of the fold that its
    doc_id is not in. A value is null where the text is too short; what is not known is left out."""
    found: dict[str, float | None] = {}
    for scorer in manifest.info["scorers"]:
        if missing := [model["path"] for model in scorer["models"] if not store.exists(model["path"])]:
            remarks.append(f"its {scorer['name']} is unknown: {missing[0]} is missing; restore it")
            continue
        try:
            for facts in facts_of(store, [scorer]).values():
                found |= {
                    name: shortest(values[0].as_py())
                    for name, values in zip(facts.schema.names, columns_of(facts, documents, batch), strict=True)
                }
        except ValueError as error:
            remarks.append(f"its {scorer['name']} is unknown: {error}")
    if "perplexity" in found and found["perplexity"] is None:
        remarks.append("it is too short for a perplexity: perplexity.min_words of the recipe says from how many words on there is one")
    if not manifest.info["scorers"]:
        remarks.append(f"{manifest.version} has no scores")
    return found


def _n_tokens(store: Store, manifest: Manifest, text: str, remarks: list[str]) -> int | None:
    try:
        tokenizer = load_tokenizer(store, manifest.tokenizer)
    except ManifestError as error:
        remarks.append(f"its tokens are unknown: {error}")
        return None
    around = find_separators(tokenizer, manifest.tokenizer["separator"], manifest.tokenizer)
    return len(encode(tokenizer, [text], [[]], around)[0][0])


def _rows(connection: duckdb.DuckDBPyConnection, doc_id: str) -> list[dict[str, Any]]:
    query = f"SELECT {', '.join(_FOUND)} FROM m WHERE doc_id = $doc_id ORDER BY split <> 'train', row_id LIMIT {_N_NEAREST}"
    return plain(connection.sql(query, params={"doc_id": doc_id}).to_arrow_table())


def _near(
    store: Store, connection: duckdb.DuckDBPyConnection, manifest: Manifest, documents: pa.RecordBatch, batch: TextBatch, remarks: list[str]
) -> dict[str, Any] | None:
    """Find the texts of the version that are most like this one among those that share a band key, as the build finds them."""
    dedup = Dedup(**{key: value for key, value in manifest.info["recipe"]["dedup"].items() if key in _DEDUP})
    if dedup.threshold is None:
        remarks.append(f"near copies are unknown: {manifest.version} was built for exact copies only")
        return None
    bands = band_facts(dedup)
    (keys,) = columns_of(bands, documents, batch)[0].to_pylist()
    if keys is None:
        remarks.append(f"the text is too short for near copies: it has fewer than {minhash.MIN_SHINGLES} different runs of five words")
        return None
    hits, n_missing = _sharing(store, manifest, bands.folder, np.array(keys, np.uint64))
    if n_missing:
        remarks.append(f"near copies may be missing: {n_missing} shards have no band keys under {bands.folder}; build again to write them")
    connection.register("hits", hits)
    candidates = connection.sql(_CANDIDATES, params={"doc_id": documents["doc_id"][0].as_py()}).to_arrow_table()
    n_candidates = candidates.num_rows
    compared = _compared(store, candidates.slice(0, _MAX_COMPARED), documents["text"], dedup, remarks)
    compared.sort(key=lambda row: (-max(row["similarity"], row["containment"], row["containment_of_it"]), row["doc_id"]))
    return {"n_candidates": n_candidates, "n_compared": len(compared), "first": compared[:_N_NEAREST]}


def _sharing(store: Store, manifest: Manifest, folder: str, keys: np.ndarray) -> tuple[pa.Table, int]:
    """Find the places of documents that share a band key, and how many; and count the shards that have none."""
    found, n_missing = [], 0
    shards = [
        shard["path"] for entry in manifest.info["inputs"].values() if entry["holdout_share"] is not None for shard in entry["shards"]
    ]
    for shard in shards:
        path = f"{folder}/{shard.rsplit('/', 1)[-1]}"
        if not store.exists(path):
            n_missing += 1
            continue
        column = store.read_table(path, ["keys"])["keys"].combine_chunks()
        # A document without a signature is null, and its place holds nothing that can be compared.
        n_shared = (column.values.to_numpy(zero_copy_only=False).reshape(-1, len(keys)) == keys).sum(axis=1)
        n_shared[column.is_null().to_numpy(zero_copy_only=False)] = 0
        rows = np.flatnonzero(n_shared)
        name = pa.repeat(pa.scalar(shard.removeprefix("corpus/")), len(rows))
        found.append(pa.table({"shard": name, "row": rows.astype(np.int32), "n_shared": n_shared[rows]}))
    return pa.concat_tables([_NO_HITS, *(table.cast(_NO_HITS.schema) for table in found)]), n_missing


def _compared(store: Store, candidates: pa.Table, text: pa.Array, dedup: Dedup, remarks: list[str]) -> list[dict[str, Any]]:
    """Measure how like the text each candidate is: shared word 5-grams, and the share of either's word 3-grams that are in the other."""
    rows = []
    for shard in sorted(candidates["shard"].unique().to_pylist()):
        here = sorted((row for row in candidates.to_pylist() if row["shard"] == shard), key=lambda row: row["row"])
        try:
            others = store.read_rows(f"corpus/{shard}", [row["row"] for row in here], ["text"])["text"]
        except (OSError, pa.ArrowException) as error:
            remarks.append(f"corpus/{shard} cannot be read ({' '.join(str(error).split())}), so its texts are not compared")
            continue
        batch = TextBatch.from_arrow(pa.concat_arrays([text, *others.cast(pa.large_string()).chunks]))
        similarity = minhash.jaccard(*_with_first(batch, minhash.SHINGLE_WORDS))
        contained, containing = minhash.containment(*_with_first(batch, minhash.CONTAINED_WORDS))
        for number, row in enumerate(here):
            numbers = [float(np.float32(one[number])) for one in (similarity, contained, containing)]
            near = {"similarity": numbers[0], "containment": numbers[1], "containment_of_it": numbers[2]}
            rows.append({**{key: row[key] for key in _FOUND}, **near, "goes_as": _goes_as(numbers, dedup)})
    return rows


def _with_first(batch: TextBatch, n_words: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    starts, hashes = minhash.shingles(batch, n_words=n_words)
    others = np.arange(1, len(starts) - 1)
    first = np.zeros_like(others)
    return starts[first], starts[first + 1], starts[others], starts[others + 1], hashes


def _goes_as(numbers: Sequence[float], dedup: Dedup) -> str | None:
    """Name the reason by which one of two texts would go."""
    if np.float32(numbers[0]) >= np.float32(dedup.threshold):
        return "duplicate.jaccard"
    if dedup.contained_from is not None and np.float32(max(numbers[1:])) >= np.float32(dedup.contained_from):
        return "duplicate.containment"
    return None


def _unsaid(manifest: Manifest, place: Mapping[str, Any] | None, doc_id: str) -> list[str]:
    select = manifest.info["recipe"].get("select", {})
    unsaid = ["its rank is not known: rows are ranked among those of the corpus, and with what a source states of them"]
    if place is not None and place["cut_quality"] is None and place["cut_perplexity"] is None:
        unsaid.append(f"whether it would be above the cut is not known: {manifest.version} ranks by {select.get('order_by')}")
    if select.get("where"):
        unsaid.append(f"select.where was not tried: {select['where']}")
    bounds = {name: entry["holdout_share"] for name, entry in manifest.info["inputs"].items() if entry["holdout_share"] is not None}
    held = [name for name, share in bounds.items() if hash_key("holdout", doc_id) < share_key(share)]
    if held:
        unsaid.append(f"where it is a group of its own it would be held out, and not judged, in: {', '.join(held)}")
    return unsaid


_DEDUP = ("threshold", "containment", "bands", "rows", "seed")
_NO_HITS = pa.schema([("shard", pa.string()), ("row", pa.int32()), ("n_shared", pa.int64())]).empty_table()

# One row a text, the one in training first; the text itself is no copy of its own.
_CANDIDATES = """
SELECT doc_id, row_id, source, source_id, url, split, reason, shard, "row", n_shared FROM m JOIN hits USING (shard, "row")
WHERE doc_id <> $doc_id
QUALIFY row_number() OVER (PARTITION BY doc_id ORDER BY split <> 'train', row_id) = 1 ORDER BY n_shared DESC, doc_id
"""
