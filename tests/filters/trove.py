"""datatrove's filters with our words and sentences in them, and the numbers that they judge by: what our families are compared with.

A filter stops at the first rule that fails, so its numbers come from the functions that it calls, put together as it does; those about
lines come from C4QualityFilter itself, given one line at a time. datatrove takes a tokenizer object wherever it takes a language
(utils.word_tokenizers.load_word_tokenizer), so nothing of it is replaced.
"""

import re
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.gopher_repetition_filter import find_all_duplicate, find_duplicates, find_top_duplicate, get_n_grams
from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION, split_into_sentences, split_into_words
from datatrove.utils.word_tokenizers import WordTokenizer

from bench.common.words import word_expression
from tests.filters.line_twin import ENDINGS
from tests.filters.word_twin import sentences

Numbers = dict[str, float | None]


class _OurWords(WordTokenizer):
    def __init__(self) -> None:
        super().__init__()
        self._find_words = re.compile(word_expression()).findall

    def word_tokenize(self, text: str) -> list[str]:
        return self._find_words(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return sentences(text, ENDINGS)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        ends = []
        for sentence in self.sent_tokenize(text):
            ends.append(text.index(sentence, ends[-1] if ends else 0) + len(sentence))
        return list(zip([0, *ends], ends, strict=False))


OURS = _OurWords()
FILTERS: dict[str, BaseFilter] = {
    "gopher_quality": GopherQualityFilter(language=OURS),
    "gopher_repetition": GopherRepetitionFilter(language=OURS),
    "c4": C4QualityFilter(language=OURS),
    "c4_fineweb": C4QualityFilter(language=OURS, filter_no_terminal_punct=False),
    "fineweb": FineWebQualityFilter(language=OURS),
}


def decide(name: str, text: str) -> str | None:
    """Why a filter drops a text; None where it keeps it."""
    return _reason(FILTERS[name], text)


def numbers(name: str, text: str) -> Numbers:
    """Every signal of a family by datatrove's own means: quotients as float32, at most 1 where ours are."""
    return _NUMBERS[name](text)


def _gopher_quality(text: str) -> Numbers:
    words, lines = split_into_words(text, OURS), text.splitlines()
    n_words = len(words)
    lengths = [len(word) for word in words if any(char not in PUNCTUATION_SET for char in word)]
    bullets = sum(line.lstrip().startswith("\u2022") or line.lstrip().startswith("-") for line in lines)
    ellipses = sum(line.rstrip().endswith("...") or line.rstrip().endswith("\u2026") for line in lines)
    return {
        "n_words": len(lengths),
        "mean_word_length": float(np.float32(np.mean(lengths))) if lengths else None,
        "hash_ratio": _ratio(text.count("#"), n_words),
        "ellipsis_ratio": _ratio(text.count("...") + text.count("\u2026"), n_words),
        "bullet_lines_ratio": _ratio(bullets, len(lines)),
        "ellipsis_lines_ratio": _ratio(ellipses, len(lines)),
        "alpha_words_ratio": _ratio(sum(any(char.isalpha() for char in word) for word in words), n_words),
        "n_stop_words": len(FILTERS["gopher_quality"].stop_words.intersection(set(words))),
    }


def _gopher_repetition(text: str) -> Numbers:
    block = FILTERS["gopher_repetition"]
    words = split_into_words(text, OURS)
    found: Numbers = {}
    for kind, elements in (("line", block._line_splitter.split(text)), ("paragraph", block.paragraph_exp.split(text.strip()))):
        n_repeated, n_chars = find_duplicates(elements)
        found |= {
            f"duplicate_{kind}s_ratio": _ratio(n_repeated, len(elements)),
            f"duplicate_{kind}_chars_ratio": _ratio(n_chars, len(text)),
        }
    for n in range(2, 11):
        # It gives 0, or passes the rule over, where there are fewer words.
        is_long_enough, kind = len(words) >= n, "top" if n <= 4 else "duplicate"
        n_chars = 0 if not is_long_enough else find_top_duplicate(get_n_grams(words, n)) if n <= 4 else find_all_duplicate(words, n)
        found[f"{kind}_{n}gram_ratio"] = _ratio(n_chars, len(text)) if is_long_enough else None
    return found


def repeated_runs_ratio(text: str, n: int) -> float | None:
    """The share of repeated runs where words are not run together: one and two signs behind each word, and their cost taken off again."""
    words = split_into_words(text, OURS)
    once, twice = (find_all_duplicate([word + sign for word in words], n) for sign in ("|", "||"))
    return _ratio(2 * once - twice, len(text))


def _fineweb(text: str) -> Numbers:
    lines = [line for line in text.split("\n") if line.strip() != ""]
    return {
        "ended_lines_ratio": _ratio(sum(line.endswith(tuple(TERMINAL_PUNCTUATION)) for line in lines), len(lines)),
        "short_lines_ratio": _ratio(sum(len(line) <= 30 for line in lines), len(lines)),
        "duplicate_line_chars_ratio": _ratio(find_duplicates(lines)[1], len(text.replace("\n", ""))),
        "newline_ratio": _ratio(text.count("\n"), len(split_into_words(text, OURS))),
    }


_NO_RULE: dict[str, Any] = {
    "language": OURS,
    "filter_no_terminal_punct": False,
    "min_words_per_line": -1,
    "max_word_length": -1,
    "filter_lorem_ipsum": False,
    "filter_javascript": False,
    "filter_curly_bracket": False,
    "filter_policy": False,
    # A line that is left has at least one.
    "min_num_sentences": 1,
}
_ONE_RULE = {
    "long_word": C4QualityFilter(**_NO_RULE | {"max_word_length": 1000}),
    "unended": C4QualityFilter(**_NO_RULE | {"filter_no_terminal_punct": True}),
    "few_words": C4QualityFilter(**_NO_RULE | {"min_words_per_line": 3}),
    "javascript": C4QualityFilter(**_NO_RULE | {"filter_javascript": True}),
    "policy": C4QualityFilter(**_NO_RULE | {"filter_policy": True}),
}


def _left(text: str, *, any_end: bool) -> Numbers:
    ends = {"language": OURS, "filter_no_terminal_punct": not any_end, "min_num_sentences": 1}
    both, curly = C4QualityFilter(**ends), C4QualityFilter(**ends, filter_lorem_ipsum=False)
    neither = C4QualityFilter(**ends, filter_lorem_ipsum=False, filter_curly_bracket=False)
    found = {"n_lorem_ipsum": 0, "n_curly_brackets": 0, "n_sentences": 0}
    n_left = 0
    for line in _written(text):
        found["n_lorem_ipsum"] += _reason(both, line) == "lorem_ipsum"
        found["n_curly_brackets"] += _reason(curly, line) == "curly_bracket"
        document = Document(text=line, id="")
        if neither.filter(document) is True:
            found["n_sentences"] += len(split_into_sentences(document.text, OURS))
            n_left += len(line.encode())
    return {**found, "left_bytes_ratio": _ratio(n_left, len(text.encode()))}


def _c4(text: str) -> Numbers:
    lines = _written(text)
    cut = {rule: [line for line in lines if _reason(block, line) is not None] for rule, block in _ONE_RULE.items()}
    found = {f"{rule}_lines_ratio": _ratio(len(own), len(lines)) for rule, own in cut.items()}
    return _left(text, any_end=False) | found | {f"{rule}_bytes": sum(len(line.encode()) for line in own) for rule, own in cut.items()}


def _c4_fineweb(text: str) -> Numbers:
    return _left(text, any_end=True)


_NUMBERS = {
    "gopher_quality": _gopher_quality,
    "gopher_repetition": _gopher_repetition,
    "c4": _c4,
    "c4_fineweb": _c4_fineweb,
    "fineweb": _fineweb,
}


def _written(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _reason(block: BaseFilter, text: str) -> str | None:
    # C4QualityFilter rewrites its document, so each call has one of its own.
    result = block.filter(Document(text=text, id=""))
    return None if result is True else result[1]


def _ratio(numerator: int, denominator: int) -> float | None:
    return float(np.float32(min(numerator / denominator, 1))) if denominator else None
