"""The signals of family `gopher_quality` in plain Python, for one text."""

import numpy as np

from tests.filters.word_twin import char_class, lines, words

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}


def gopher_quality(text: str) -> dict[str, float | None]:
    found_words, found_lines = words(text), lines(text)
    n_words, n_lines = len(found_words), len(found_lines)
    letters = [char_class(char) for char in text if char_class(char) in "LS"]
    is_spaceless = letters.count("S") > len(letters) / 2
    n_judged_words = 0 if is_spaceless else n_words
    n_ellipses = text.count("...") + text.count("\u2026")
    return {
        "n_words": None if is_spaceless else n_words,
        "mean_word_length": _quotient(sum(len(word) for word in found_words), n_judged_words),
        "hash_ratio": _quotient(min(text.count("#"), n_words), n_judged_words),
        "ellipsis_ratio": _quotient(min(n_ellipses, n_words), n_judged_words),
        "bullet_lines_ratio": _quotient(sum(line.lstrip().startswith(("\u2022", "-")) for line in found_lines), n_lines),
        "ellipsis_lines_ratio": _quotient(sum(line.rstrip().endswith(("\u2026", "...")) for line in found_lines), n_lines),
        "alpha_words_ratio": _quotient(sum(any(char_class(char) in "LS" for char in word) for word in found_words), n_judged_words),
        "n_stop_words": None if is_spaceless else len(STOP_WORDS.intersection(found_words)),
    }


def _quotient(numerator: int, denominator: int) -> float | None:
    return float(np.float32(numerator / denominator)) if denominator else None
