"""Token segments: every counted document's tokens, written once, memory-mapped by training.

A segment is a flat file of uint16 (or uint32, for vocabularies above 65,536) with an index of (doc_id, masks key,
offset, n_tokens, no-loss spans), named by its content; the index is written last, so a segment without one does not
exist. Separators are inside, so counting and training can never disagree. Cost: tokenising runs at some 5 to 10 MB/s a
core, 10 to 30 times slower than everything else here, which is why only the rows that a decision asks for are counted.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from curate.manifest import MACROS, ManifestError
from curate.store import Store, digest_of, file_digest

END_OF_TEXT = "<|endoftext|>"
NO_LOSS = "no_loss"
# Kind of mask -> what stands in the text's place; "" leaves the span out. A new kind is a new row.
PLACEHOLDERS = {
    "boilerplate": "",
    "contamination": "",
    "email": "<email>",
    "phone": "<phone>",
    "ip": "<ip>",
    "name": "<name>",
    "id": "<id>",
}
_TEXT_BYTES_PER_SEGMENT = 32_000_000
_TEXT_BYTES_ENCODED = 2_000_000
_SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))
_INDEX = pa.schema([("doc_id", pa.string()), ("masks", pa.string()), ("offset", pa.int64()), ("n_tokens", pa.int32()), ("no_loss", _SPANS)])

Mask = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Separators:
    """Token ids that stand before and after each document."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Counting:
    """Work for one process: documents (doc_id, shard, row, n_bytes, masks), together some 32 MB of text."""

    store_url: str
    tokenizer: Mapping[str, Any]
    rows: pa.Table

    @property
    def n_bytes(self) -> int:
        """Add up the bytes of the texts."""
        return int(pc.sum(self.rows["n_bytes"]).as_py())


@dataclasses.dataclass(frozen=True, slots=True)
class Located:
    """Where documents' tokens are: `segment` int32, `offset` int64 (in tokens), `n_tokens` int32, `no_loss` list of
    (start, end) in tokens of the document; one entry a document, in the order that was asked for."""

    segment: np.ndarray
    offset: np.ndarray
    n_tokens: np.ndarray
    no_loss: pa.Array


@dataclasses.dataclass(frozen=True, slots=True)
class Segments:
    """The segments of one tokenizer: memory maps, and the index of what is in them, sorted by (doc_id, masks)."""

    arrays: Sequence[np.ndarray]
    index: pa.Table

    def locate(self, doc_ids: pa.ChunkedArray | pa.Array, masks: pa.ChunkedArray | pa.Array) -> Located:
        """Find the tokens of documents under their masks. Raises ManifestError where some have none on disk."""
        keys = pc.binary_join_element_wise(doc_ids, mask_keys(masks), "|")
        keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
        found = pc.index_in(keys, self.index["key"].combine_chunks())
        if found.null_count:
            raise ManifestError(
                f"{found.null_count} of {len(keys)} documents have no tokens under cache/tokens; "
                "run the same curate build again to write them"
            )
        at = self.index.take(found)
        segment, offset, n_tokens = (at[name].to_numpy() for name in ("segment", "offset", "n_tokens"))
        return Located(segment, offset, n_tokens, at["no_loss"].combine_chunks())


def separators(store: Store, tokenizer: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Give the token ids before and after each document under a manifest's tokenizer."""
    found = find_separators(load_tokenizer(store, tokenizer), tokenizer["separator"], tokenizer)
    return list(found.before), list(found.after)


def find_separators(tokenizer: tokenizers.Tokenizer, choice: str, info: Mapping[str, Any]) -> Separators:
    """Resolve `auto`, bos, eos or both. `auto` is what the tokenizer's own post-processor puts around a text, or, where
    it puts nothing, the end-of-text token. Raises ManifestError where the tokenizer has no such token."""
    if choice == "auto":
        probe = tokenizer.encode("a", add_special_tokens=True)
        body = [index for index, special in enumerate(probe.special_tokens_mask) if not special]
        before, after = tuple(probe.ids[: body[0]]), tuple(probe.ids[body[-1] + 1 :])
        return Separators(before, after) if before or after else Separators((), (_special(tokenizer, "eos", info),))
    bos = (_special(tokenizer, "bos", info),) if choice in ("bos", "both") else ()
    eos = (_special(tokenizer, "eos", info),) if choice in ("eos", "both") else ()
    return Separators(bos, eos)


def _special(tokenizer: tokenizers.Tokenizer, role: str, info: Mapping[str, Any]) -> int:
    names = {
        "bos": ["<s>", "<|begin_of_text|>", "<bos>", "[CLS]", END_OF_TEXT],
        "eos": ["</s>", "<|end_of_text|>", "<eos>", "[SEP]", END_OF_TEXT],
    }[role]
    named = info.get(f"{role}_token")
    for name in [named] if named else names:
        if (token := tokenizer.token_to_id(name)) is not None:
            return int(token)
    raise ManifestError(
        f"tokenizer {info['name']!r} has no {role} token (looked for {named or ', '.join(names)}); "
        "choose another tokenizer.separator: auto, bos, eos, both"
    )


def load_tokenizer(store: Store, tokenizer: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Open a manifest's tokenizer, pinned under models/. Raises ManifestError where it is gone or is another one."""
    if not store.exists(tokenizer["path"]):
        raise ManifestError(
            f"{tokenizer['path']}, the tokenizer of this manifest, is missing; restore it: models/ is never rebuilt by itself"
        )
    data = store.read_bytes(tokenizer["path"])
    if hashlib.sha256(data).hexdigest() != tokenizer["sha256"]:
        raise ManifestError(
            f"{tokenizer['path']} is not the tokenizer of this manifest (SHA-256 differs from {tokenizer['sha256'][:16]}); restore it"
        )
    loaded = tokenizers.Tokenizer.from_str(data.decode())
    loaded.encode_special_tokens = True  # a text that spells <|endoftext|> must not end itself
    return loaded


def fit_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """Fit a byte-level BPE and give its tokenizer.json. The same texts in the same order give the same bytes."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, 0)])
    return str(tokenizer.to_str(pretty=True)).encode()


def segments_dir(tokenizer: Mapping[str, Any]) -> str:
    """Say where the segments of a tokenizer lie: by everything that decides its ids and separators."""
    special = [tokenizer.get(key) for key in ("bos_token", "eos_token")]
    suffix = f"-{digest_of(special)[:8]}" if any(special) else ""
    return f"cache/tokens/{tokenizer['sha256'][:16]}-{tokenizer['separator']}{suffix}"


def index_paths(store: Store, tokenizer: Mapping[str, Any]) -> list[str]:
    """List the indexes of the segments of a tokenizer."""
    return store.files(segments_dir(tokenizer), ".parquet")


def open_segments(store: Store, tokenizer: Mapping[str, Any]) -> Segments:
    """Map all segments of a tokenizer. Where two hold a document, the one whose name comes first serves it."""
    arrays, tables = [], []
    dtype = _dtype(load_tokenizer(store, tokenizer).get_vocab_size())
    for number, path in enumerate(index_paths(store, tokenizer)):
        table = store.read_table(path)
        data = store.local(path.removesuffix(".parquet") + ".bin")
        arrays.append(np.memmap(data, dtype=dtype, mode="r"))
        key = pc.binary_join_element_wise(table["doc_id"], table["masks"], "|")
        segment = pa.array(np.full(table.num_rows, number, dtype=np.int32))
        tables.append(table.append_column("segment", segment).append_column("key", key))
    empty = _INDEX.append(pa.field("segment", pa.int32())).append(pa.field("key", pa.string())).empty_table()
    return Segments(arrays, pa.concat_tables([empty, *tables]))


def mask_keys(masks: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Name each row's masks by content, "" for none, as `mask_key` does, all rows at once."""
    with duckdb.connect() as connection:
        connection.execute(MACROS)
        connection.register("masked", pa.table({"masks": masks}))
        keys = connection.sql("SELECT coalesce(masks_key(masks), '') AS key FROM masked").to_arrow_table()["key"]
    return keys.combine_chunks()


def mask_key(masks: Sequence[Mask]) -> str:
    if not masks:
        return ""
    plain = [{"start": mask["start"], "end": mask["end"], "kind": mask["kind"]} for mask in masks]
    return hashlib.sha256(json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()[:16]


def split_work(store: Store, tokenizer: Mapping[str, Any], wanted: pa.Table) -> list[Counting]:
    """Cut a table (doc_id, shard, row, n_bytes, masks; sorted by shard and row) into work of some 32 MB of text each."""
    numbers = np.cumsum(wanted["n_bytes"].to_numpy()) // _TEXT_BYTES_PER_SEGMENT
    cuts = [int(at) for at in np.flatnonzero(np.diff(numbers, prepend=-1))]
    # Taken, not sliced: a slice would carry the whole table to each process.
    return [
        Counting(store.url(), tokenizer, wanted.take(np.arange(first, last)))
        for first, last in itertools.pairwise([*cuts, wanted.num_rows])
    ]


def count(work: Counting) -> None:
    """Tokenise documents and write them as one segment with its index; the result depends on the work alone."""
    store = Store(work.store_url)
    tokenizer = load_tokenizer(store, work.tokenizer)
    around = find_separators(tokenizer, work.tokenizer["separator"], work.tokenizer)
    dtype = _dtype(tokenizer.get_vocab_size())
    flat: list[np.ndarray] = []
    no_loss: list[list[dict[str, int]]] = []
    for shard in work.rows["shard"].unique().to_pylist():
        rows = work.rows.filter(pc.equal(work.rows["shard"], shard))
        texts = store.read_rows(f"corpus/{shard}", rows["row"].to_pylist(), ["text"])["text"]
        # The library's encodings take some 40 bytes a token, so few are alive at a time.
        bounds = [0, *(np.flatnonzero(np.diff(np.cumsum(rows["n_bytes"].to_numpy()) // _TEXT_BYTES_ENCODED)) + 1).tolist(), rows.num_rows]
        for first, last in itertools.pairwise(bounds):
            part = slice(first, last)
            for ids, spans in encode(tokenizer, texts[part].to_pylist(), rows["masks"][part].to_pylist(), around):
                flat.append(np.array(ids, dtype=dtype))
                no_loss.append(spans)
    n_tokens = np.array([len(ids) for ids in flat], dtype=np.int64)
    columns = [work.rows["doc_id"], mask_keys(work.rows["masks"]), np.cumsum(n_tokens) - n_tokens, n_tokens.astype(np.int32)]
    index = pa.table([*columns, pa.array(no_loss, _SPANS)], schema=_INDEX)
    _write_segment(store, segments_dir(work.tokenizer), np.concatenate(flat), index)


def encode(
    tokenizer: tokenizers.Tokenizer, texts: Sequence[str], masks: Sequence[Sequence[Mask]], around: Separators
) -> list[tuple[list[int], list[dict[str, int]]]]:
    """Tokenise texts under their masks, separators included.

    Gives per text its ids and the token spans without loss. A text is cut at the edges of its no-loss spans, and each
    piece is tokenised alone, so that the edge between loss and no loss is exact.
    """
    pieces = [cut_text(text, mask) if mask else [(text, True)] for text, mask in zip(texts, masks, strict=True)]
    flat = tokenizer.encode_batch_fast([piece for document in pieces for piece, _ in document], add_special_tokens=False)
    encoded = iter(flat)
    documents = []
    for document in pieces:
        ids, spans = list(around.before), []
        for _, has_loss in document:
            start = len(ids)
            ids += next(encoded).ids
            if not has_loss and len(ids) > start:
                spans.append({"start": start, "end": len(ids)})
        documents.append((ids + list(around.after), spans))
    return documents


def cut_text(text: str, masks: Sequence[Mask]) -> list[tuple[str, bool]]:
    """Apply masks to a text: pieces of what training reads, each with whether it bears loss.

    Masks are byte spans of the UTF-8 text, sorted or not; where two overlap the earlier one wins the bytes it covers.
    Raises ManifestError for a span outside the text or inside a character, or an unknown kind.

    >>> cut_text("Ask: a@b.c now", [{"start": 0, "end": 5, "kind": "no_loss"}, {"start": 5, "end": 10, "kind": "email"}])
    [('Ask: ', False), ('<email> now', True)]
    """
    data, at = text.encode(), 0
    pieces: list[tuple[bytes, bool]] = []
    for mask in sorted(masks, key=lambda mask: (mask["start"], mask["end"])):
        start, end, kind = max(mask["start"], at), mask["end"], mask["kind"]
        if not 0 <= mask["start"] <= end <= len(data) or (kind != NO_LOSS and kind not in PLACEHOLDERS):
            allowed = ", ".join([NO_LOSS, *PLACEHOLDERS])
            raise ManifestError(
                f"mask {dict(mask)} does not fit a text of {len(data)} bytes; spans lie within the text and kinds are: {allowed}"
            )
        if end <= start:
            continue
        pieces.append((data[at:start], True))
        pieces.append((data[start:end], False) if kind == NO_LOSS else (PLACEHOLDERS[kind].encode(), True))
        at = end
    pieces.append((data[at:], True))
    merged = [
        (b"".join(piece for piece, _ in group), has_loss) for has_loss, group in itertools.groupby(pieces, key=lambda piece: piece[1])
    ]
    try:
        return [(piece.decode(), has_loss) for piece, has_loss in merged if piece]
    except UnicodeDecodeError:
        raise ManifestError(
            f"a mask of {[dict(mask) for mask in masks]} cuts a character; spans start and end between characters"
        ) from None


def _write_segment(store: Store, folder: str, flat: np.ndarray, index: pa.Table) -> None:
    with store.scratch() as path:
        flat.tofile(path)
        name = file_digest(path)[:32]
        store.adopt(path, f"{folder}/{name}.bin")
    store.write_table(f"{folder}/{name}.parquet", index)


def _dtype(vocab_size: int) -> "type[np.uint16] | type[np.uint32]":
    return np.uint16 if vocab_size <= 65_536 else np.uint32
