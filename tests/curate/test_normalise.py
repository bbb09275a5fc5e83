"""One form for every text, checked against a plain Python twin built on unicodedata."""

import hashlib
import json
import re
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from curate.normalise import KEY_COLUMNS, UNTOUCHED_RANGES, doc_ids, normalise, row_id, row_keys

# unicodedata and Arrow may know different versions of Unicode; for characters that both know, normalisation is frozen.
ASSIGNED = st.text(st.characters(exclude_categories=("Cs", "Cn")))
# What the rules are about, far more often than chance would bring it.
TRICKY = st.text(
    st.sampled_from("ab \t\n\r\v\f\0\x1f\x7f\x85\xa0\u2028\u2029\ufeff\u2000\u3000e\u0301\u0323\u1100\u1161\u11a8\uac00\u0958\u212b")
)


def twin(text: str) -> str:
    text = re.sub("\r\n|[\r\v\f\x85\u2028\u2029]", "\n", text)
    text = "".join(char for char in text if char in "\t\n" or (unicodedata.category(char) != "Cc" and char != "\ufeff"))
    return unicodedata.normalize("NFC", text).strip()


def once(texts: list[str | None]) -> list[str | None]:
    return normalise(pa.array(texts, pa.large_string())).to_pylist()


def test_line_ends_become_lf() -> None:
    assert once(["a\r\nb\rc\vd\fe\x85f\u2028g\u2029h"]) == ["a\nb\nc\nd\ne\nf\ng\nh"]


def test_controls_and_byte_order_marks_go() -> None:
    assert once(["\ufeffa\0b\x1b[0mc\x7f\x9fd\te"]) == ["ab[0mcd\te"]


def test_removing_a_character_lets_its_neighbours_compose() -> None:
    assert once(["e\0\u0301"]) == ["\xe9"]


def test_white_space_behind_a_control_is_trimmed() -> None:
    assert once([" \0 a \ufeff\n"]) == ["a"]


def test_null_stays_null_and_empty_stays_empty() -> None:
    assert once([None, "", " ", "a"]) == [None, "", "", "a"]
    assert once([]) == []


def test_a_slice_is_read_at_its_place() -> None:
    texts = pa.array(["x\r", "e\u0301", None, " \xe9 ", "y\r"], pa.large_string())
    assert normalise(texts.slice(1, 3)).to_pylist() == ["\xe9", None, "\xe9"]
    assert doc_ids(normalise(texts).slice(3, 1)).to_pylist() == [hashlib.sha256("\xe9".encode()).hexdigest()[:32]]


@pytest.mark.slow
def test_every_assigned_character_agrees_with_the_twin() -> None:
    chars = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cs", "Cn")]
    for before, after in (("", ""), ("e", "\u0301"), ("\u1100", "\u11a8")):
        texts: list[str | None] = [before + char + after for char in chars]
        got = once(texts)
        assert got == [twin(text or "") for text in texts]
        assert once(got) == got


def test_untouched_characters_are_in_nfc_and_never_compose_with_the_one_before() -> None:
    parts = (unicodedata.decomposition(chr(code)) for code in range(0x110000))
    seconds = {chr(int(part, 16)) for text in parts if text and not text.startswith("<") for part in text.split()[1:]}
    for first, last in UNTOUCHED_RANGES:
        for char in map(chr, range(first, last + 1)):
            assert unicodedata.is_normalized("NFC", char), hex(ord(char))
            assert unicodedata.combining(char) == 0
            assert unicodedata.category(char) != "Cn"
            assert char not in seconds


@given(st.lists(ASSIGNED | TRICKY))
def test_batches_agree_with_the_twin(texts: list[str]) -> None:
    assert once([*texts]) == [twin(text) for text in texts]


@given(st.text() | TRICKY)
@example("\u0344\u0345")
def test_doing_it_twice_changes_nothing(text: str) -> None:
    got = once([text])
    assert once(got) == got


@given(st.lists(st.text()))
def test_doc_id_is_the_start_of_the_hash_of_the_text(texts: list[str]) -> None:
    expected = [hashlib.sha256(text.encode()).digest()[:16].hex() for text in texts]
    assert doc_ids(pa.array(texts, pa.large_string())).to_pylist() == expected


@given(st.text(), st.lists(st.tuples(*(st.none() | st.text() for _ in KEY_COLUMNS))))
def test_row_key_is_the_start_of_the_hash_of_canonical_json(source: str, rows: list[tuple[str | None, ...]]) -> None:
    table = pa.table([pa.array([row[i] for row in rows], pa.string()) for i in range(len(KEY_COLUMNS))], names=list(KEY_COLUMNS))
    texts = [json.dumps([source, *row], ensure_ascii=False, separators=(",", ":")) for row in rows]
    assert row_keys(source, table).to_pylist() == [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]


def test_copies_of_a_row_have_different_ids() -> None:
    assert row_id("ab", 0) == hashlib.sha256(b"ab:0").hexdigest()[:32]
    assert row_id("ab", 0) != row_id("ab", 1)
