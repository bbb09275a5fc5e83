"""Counting and segments: masks leave out, replace or mute exactly their bytes, and every count includes its separators."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import tokens
from curate.manifest import MASKS, ManifestError
from curate.store import Store

_TEXTS = [
    "The heart pumps blood. Write to a@b.org today.",
    "Ask: what is a heart? Answer: a pump.",
    "naive na\u00efve \u5fc3\u81d3 \U0001f600",
    "",
] * 20


@pytest.fixture(scope="module")
def fitted() -> bytes:
    return tokens.fit_tokenizer(_TEXTS, 300)


@pytest.fixture
def store(tmp_path, fitted):
    store = Store(str(tmp_path))
    store.write_bytes("models/tokenizer-test.json", fitted)
    return store


def _info(fitted: bytes, separator: str = "auto") -> dict[str, str]:
    return {"name": "test", "sha256": hashlib.sha256(fitted).hexdigest(), "path": "models/tokenizer-test.json", "separator": separator}


def _write_shard(store: Store, name: str, texts: list[str]) -> None:
    store.write_table(f"corpus/{name}", pa.table({"text": pa.array(texts, pa.large_string())}))


def _wanted(texts: list[str], masks: list[list[dict[str, object]]] | None = None) -> pa.Table:
    n = len(texts)
    return pa.table(
        {
            "doc_id": [f"d{index}" for index in range(n)],
            "shard": ["s/a.parquet"] * n,
            "row": pa.array(range(n), pa.int32()),
            "n_bytes": [len(text.encode()) for text in texts],
            "masks": pa.array(masks or [[]] * n, MASKS),
        }
    )


def test_the_same_texts_give_the_same_tokenizer(fitted):
    assert tokens.fit_tokenizer(_TEXTS, 300) == fitted


def test_auto_takes_what_the_post_processor_puts_around(fitted):
    tokenizer = tokenizers.Tokenizer.from_str(fitted.decode())
    assert tokens.find_separators(tokenizer, "auto", {"name": "t"}) == tokens.Separators((), (0,))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    assert tokens.find_separators(tokenizer, "auto", {"name": "t"}) == tokens.Separators((0,), ())
    tokenizer.post_processor = tokenizers.processors.Sequence([])
    assert tokens.find_separators(tokenizer, "auto", {"name": "t"}) == tokens.Separators((), (0,))


@pytest.mark.parametrize(("choice", "n_more"), [("bos", 1), ("eos", 1), ("both", 2), ("auto", 1)])
def test_separators_are_counted_and_inside(store, fitted, choice, n_more):
    info = _info(fitted, choice)
    _write_shard(store, "s/a.parquet", _TEXTS[:4])
    for work in tokens.split_work(store, info, _wanted(_TEXTS[:4])):
        tokens.count(work)
    segments = tokens.open_segments(store, info)
    found = segments.locate(pa.array([f"d{index}" for index in range(4)]), pa.array([[]] * 4, MASKS))
    plain = tokenizers.Tokenizer.from_str(fitted.decode())
    for index, text in enumerate(_TEXTS[:4]):
        body = plain.encode(text, add_special_tokens=False).ids
        before, after = tokens.separators(store, info)
        start = found.offset[index]
        assert segments.arrays[found.segment[index]][start : start + found.n_tokens[index]].tolist() == [*before, *body, *after]
        assert found.n_tokens[index] == len(body) + n_more


def test_a_text_that_spells_the_separator_does_not_end_itself(store, fitted):
    tokenizer = tokens.load_tokenizer(store, _info(fitted))
    ((ids, _),) = tokens.encode(tokenizer, ["a <|endoftext|> b"], [[]], tokens.Separators((), (0,)))
    assert ids.count(0) == 1


def test_masks_leave_out_replace_and_mute():
    text = "Q: why? Mail a@b.org. Junk. A: so."
    masks = [
        {"start": 0, "end": 8, "kind": "no_loss"},
        {"start": 13, "end": 20, "kind": "email"},
        {"start": 22, "end": 28, "kind": "boilerplate"},
    ]
    assert tokens.cut_text(text, masks) == [("Q: why? ", False), ("Mail <email>. A: so.", True)]


def test_masks_are_in_the_counts_and_the_spans(store, fitted):
    info = _info(fitted)
    text = _TEXTS[1]
    mask = [{"start": 0, "end": 22, "kind": "no_loss"}, {"start": 22, "end": 30, "kind": "boilerplate"}]
    _write_shard(store, "s/a.parquet", [text])
    for masks in ([], mask):
        for work in tokens.split_work(store, info, _wanted([text], [masks]).set_column(0, "doc_id", pa.array(["d0"]))):
            tokens.count(work)
    segments = tokens.open_segments(store, info)
    found = segments.locate(pa.array(["d0", "d0"]), pa.array([[], mask], MASKS))
    plain = tokenizers.Tokenizer.from_str(fitted.decode())
    question, answer = (plain.encode(part, add_special_tokens=False).ids for part in (text[:22], text[30:]))
    start = found.offset[1]
    assert segments.arrays[found.segment[1]][start : start + found.n_tokens[1]].tolist() == [*question, *answer, 0]
    assert found.no_loss.to_pylist() == [[], [{"start": 0, "end": len(question)}]]
    assert found.n_tokens[0] == len(plain.encode(text, add_special_tokens=False).ids) + 1


@pytest.mark.parametrize(
    "mask",
    [
        {"start": 0, "end": 99, "kind": "email"},
        {"start": 3, "end": 1, "kind": "email"},
        {"start": 0, "end": 1, "kind": "no_such"},
        {"start": 0, "end": 3, "kind": "email"},  # inside the two bytes of the i with diaeresis
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(ManifestError, match="mask"):
        tokens.cut_text("na\u00efve", [mask])


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="ab\u00e9\u5fc3 ", max_size=30), cuts=st.lists(st.integers(0, 30), min_size=2, max_size=6), data=st.data())
def test_without_placeholders_masks_only_take_away(text, cuts, data):
    edges = sorted({len(text[: min(cut, len(text))].encode()) for cut in cuts})
    masks = [
        {"start": a, "end": b, "kind": data.draw(st.sampled_from(["no_loss", "boilerplate"]))}
        for a, b in zip(edges[::2], edges[1::2], strict=False)
    ]
    covered = {at for mask in masks if mask["kind"] == "boilerplate" for at in range(mask["start"], mask["end"])}
    left = bytes(byte for at, byte in enumerate(text.encode()) if at not in covered)
    assert "".join(piece for piece, _ in tokens.cut_text(text, masks)) == left.decode()


def test_mask_keys_of_all_rows_are_those_of_each():
    masks = [
        [],
        [{"start": 1, "end": 2, "kind": "email"}],
        [{"start": 0, "end": 9, "kind": "no_loss"}, {"start": 9, "end": 12, "kind": "ip"}],
    ]
    in_sql = tokens.mask_keys(pa.array([*masks, None], MASKS)).to_pylist()
    assert in_sql == [*(tokens.mask_key(mask) for mask in masks), ""]
    assert in_sql[0] == ""


def test_locate_names_what_is_missing(store, fitted):
    with pytest.raises(ManifestError, match=r"1 of 1 documents have no tokens.*curate build"):
        tokens.open_segments(store, _info(fitted)).locate(pa.array(["d9"]), pa.array([[]], MASKS))


def test_another_tokenizer_under_the_same_name_is_refused(store, fitted):
    store.write_bytes("models/tokenizer-test.json", fitted.replace(b"<|endoftext|>", b"<|endoftest|>"))
    with pytest.raises(ManifestError, match="is not the tokenizer of this manifest"):
        tokens.load_tokenizer(store, _info(fitted))


def test_work_is_cut_by_text_and_covers_every_row_once(store, fitted):
    n = 50
    wanted = pa.table(
        {
            "doc_id": [f"d{index}" for index in range(n)],
            "shard": [f"s/{index // 20}.parquet" for index in range(n)],
            "row": pa.array([index % 20 for index in range(n)], pa.int32()),
            "n_bytes": [5_000_000] * n,
            "masks": pa.array([[]] * n, MASKS),
        }
    )
    work = tokens.split_work(store, _info(fitted), wanted)
    assert pa.concat_tables([item.rows for item in work]).equals(wanted)
    assert max(item.rows.num_rows for item in work) <= 32 // 5 + 1


def test_a_large_vocabulary_takes_four_bytes():
    assert tokens._dtype(65_536) is np.uint16
    assert tokens._dtype(65_537) is np.uint32
