"""The rules of docs/words.md as regular expressions of Python's `re`: how a peer that splits text by one gets our words and sentences."""

from __future__ import annotations

import re
import sys

import numpy as np
import pyarrow as pa

from filters.chars import classes, kinds
from filters.columns import TextBatch
from filters.kernels import CLOSING, ENDING, LETTER, MARK, NUMBER, SPACELESS_LETTER, Bytes

_LAST_NARROW = 0xFFFF


def word_expression() -> str:
    """Write the word rule: what it finds are the words.

    `re` looks a set within 16 bits up in a table, but walks through the ranges of one that goes beyond; so the wide set is only asked
    about wide characters.
    """
    run, wide_run = _class_set((LETTER, NUMBER, MARK), _LAST_NARROW), _class_set((LETTER, NUMBER, MARK), sys.maxunicode)
    spaceless, mark = _class_set((SPACELESS_LETTER,), sys.maxunicode), _class_set((MARK,), sys.maxunicode)
    wide = rf"[^\x00-\uffff](?<={wide_run}){wide_run}*"
    return rf"{run}+(?:{wide})?|[^\x00-\x7f](?:(?<={spaceless}){mark}*|(?<={wide_run}){wide_run}*)"


def sentence_end_expression() -> str:
    """Write the sentence rule: what it finds within a line ends a sentence, and what is left behind the last end is one, too."""
    is_ending = kinds() & ENDING != 0
    ending, wide_ending, closing = _char_set(is_ending[: _LAST_NARROW + 1]), _char_set(is_ending), _char_set(kinds() & CLOSING != 0)
    return rf"(?:{ending}|[^\x00-\uffff](?<={wide_ending})){closing}*(?=\s|\Z)"


def wrong_words(texts: list[str]) -> list[str]:
    """Say if the expression finds other words than we do."""
    find_words = re.compile(word_expression()).findall
    batch = TextBatch.from_arrow(pa.array(texts, pa.large_string()))
    data, words = bytes(batch.data), batch.words
    ours = [data[start:end].decode() for start, end in zip(words.starts, words.ends, strict=True)]
    theirs = [word for text in texts for word in find_words(text)]
    return [] if ours == theirs else ["the expression finds other words than we do"]


def _class_set(wanted: tuple[int, ...], last: int) -> str:
    return _char_set(np.isin(classes()[: last + 1], wanted))


def _char_set(is_inside: Bytes) -> str:
    edges = np.flatnonzero(np.diff(is_inside.astype(np.int8), prepend=0, append=0)).tolist()
    return "[" + "".join(f"\\U{first:08x}-\\U{end - 1:08x}" for first, end in zip(edges[::2], edges[1::2], strict=True)) + "]"
