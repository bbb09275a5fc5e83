"""The families that ask about lines, runs of words and characters, in plain Python, for one text: the oracle of their kernels."""

import importlib.resources
import re
from collections import Counter

import numpy as np

from tests.filters.minhash_twin import lower
from tests.filters.word_twin import char_class, lines, sentences, words

STOP_WORDS = {
    *("a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "for", "from", "had", "has", "have", "his", "if", "in", "is"),
    *("it", "not", "of", "on", "or", "that", "the", "their", "they", "this", "to", "was", "were", "which", "will", "with"),
}
C4_LINE_RULES = ("long_word", "unended", "few_words", "javascript", "policy")
_CITATION = re.compile(r"\[[0-9]*\]|\[edit\]|\[citation needed\]")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_URL = re.compile(r"https?://|(?<![A-Za-z0-9/])www\.", re.IGNORECASE | re.ASCII)


def _endings() -> str:
    table = importlib.resources.files("filters").joinpath("unicode_endings.txt").read_text(encoding="ascii")
    rows = [row.split() for row in table.splitlines() if not row.startswith("#")]
    return "".join(chr(code) for first, last in rows for code in range(int(first, 16), int(last, 16) + 1))


ENDINGS = _endings()


def n_sentences(line: str) -> int:
    return len(sentences(_CITATION.sub("", line.strip()), ENDINGS))


def is_wordless(text: str) -> bool:
    letters = [char_class(char) for char in text if char_class(char) in "LS"]
    return letters.count("S") > len(letters) / 2


def repeated(elements: list[str]) -> tuple[int, int]:
    """Elements that were there before, and their characters."""
    again = [element for place, element in enumerate(elements) if element in elements[:place]]
    return len(again), sum(map(len, again))


def top_run(found: list[str], n: int) -> int | None:
    runs = Counter(" ".join(found[i : i + n]) for i in range(len(found) - n + 1))
    return None if not runs else len(runs.most_common(1)[0][0]) * runs.most_common(1)[0][1]


def repeated_runs(found: list[str], n: int) -> int | None:
    if len(found) < n:
        return None
    seen: set[tuple[str, ...]] = set()
    place = chars = 0
    while place + n <= len(found):
        run = tuple(found[place : place + n])
        is_repeated = run in seen
        seen.add(run)
        chars += sum(map(len, run)) if is_repeated else 0
        place += n if is_repeated else 1
    return chars


def gopher_repetition(text: str) -> dict[str, float | None]:
    filled = [line for line in lines(text) if line]
    paragraphs = re.split(r"\n{2,}", text.strip("\n")) if filled else []
    found: dict[str, float | None] = {}
    for name, elements in (("line", filled), ("paragraph", paragraphs)):
        n, chars = repeated(elements)
        found[f"duplicate_{name}s_ratio"] = ratio(n, len(elements))
        found[f"duplicate_{name}_chars_ratio"] = ratio(chars, len(text))
    for n in range(2, 11):
        name, chars_of = ("top", top_run) if n <= 4 else ("duplicate", repeated_runs)
        found[f"{name}_{n}gram_ratio"] = None if is_wordless(text) else ratio(chars_of(words(text), n), len(text))
    return found


def c4_cuts(line: str) -> list[bool]:
    """Whether each of C4's line rules would cut a line, and what it holds of the phrases that take a page."""
    found, cleaned = line.split(), _CITATION.sub("", line.strip())
    small = "".join(char.lower() if char.isascii() else char for char in cleaned)
    return [
        any(len(word) > 1000 for word in found),
        not cleaned.endswith((".", "?", "!", '"', "'")) or cleaned.endswith("..."),
        len(found) < 3,
        "javascript" in small,
        any(phrase in small for phrase in _POLICY),
        "lorem ipsum" in small,
        "{" in cleaned,
    ]


def c4(text: str, *, any_end: bool = False) -> dict[str, float | None]:
    written = [line for line in lines(text) if line.strip()]
    lorem = curly = left_sentences = left_bytes = 0
    n_cut, bytes_cut = [0] * 5, [0] * 5
    for line in written:
        cuts = c4_cuts(line)
        for rule, is_cut in enumerate(cuts[:5]):
            n_cut[rule] += is_cut
            bytes_cut[rule] += is_cut * len(line.encode())
        long_word, unended, few_words, javascript, policy, has_lorem, has_curly = cuts
        if long_word or (unended and not any_end) or few_words:
            continue
        lorem += has_lorem
        curly += has_curly and not javascript
        if not (javascript or policy):
            left_sentences += n_sentences(line)
            left_bytes += len(line.encode())
    found = {
        "n_lorem_ipsum": lorem,
        "n_curly_brackets": curly,
        "n_sentences": left_sentences,
        "left_bytes_ratio": ratio(left_bytes, len(text.encode())),
    }
    if any_end:
        return found
    found |= {f"{name}_lines_ratio": ratio(n, len(written)) for name, n in zip(C4_LINE_RULES, n_cut, strict=True)}
    return found | {f"{name}_bytes": n for name, n in zip(C4_LINE_RULES, bytes_cut, strict=True)}


def c4_fineweb(text: str) -> dict[str, float | None]:
    return c4(text, any_end=True)


def fineweb(text: str) -> dict[str, float | None]:
    written = [line for line in lines(text) if line.strip()]
    return {
        "ended_lines_ratio": ratio(sum(line.endswith(tuple(ENDINGS)) for line in written), len(written)),
        "short_lines_ratio": ratio(sum(len(line) <= 30 for line in written), len(written)),
        "duplicate_line_chars_ratio": ratio(repeated(written)[1], len(text.replace("\n", ""))),
        "newline_ratio": None if is_wordless(text) else ratio(text.count("\n"), len(words(text))),
    }


def statistics(text: str) -> dict[str, float | None]:
    found, has_words = words(text), not is_wordless(text)
    n_all, n_letters = sum(n_sentences(line) for line in lines(text)), sum(char_class(char) in "LS" for char in text)
    return {
        "n_chars": len(text),
        "n_words": len(found),
        "n_lines": len(lines(text)),
        "n_sentences": n_all,
        "mean_word_length": quotient(sum(map(len, found)), len(found)) if has_words else None,
        "words_per_sentence": quotient(len(found), n_all) if has_words else None,
        "stop_words_ratio": ratio(sum(word in STOP_WORDS for word in found), len(found)) if has_words else None,
        "letters_ratio": ratio(n_letters, len(text)),
        "digits_ratio": ratio(sum(char_class(char) == "N" for char in text), len(text)),
        "upper_case_ratio": ratio(sum(lower(char) != char for char in text), n_letters),
        "white_space_ratio": ratio(sum(char.isspace() for char in text), len(text)),
        "n_urls": len(_URL.findall(text)),
        "compression_ratio": ratio(lz4_size(text.encode()), len(text.encode())),
    }


def lz4_size(data: bytes) -> int:
    """Bytes of the LZ4 block that a greedy search with one place per hash of four bytes finds."""
    if not data:
        return 0
    extra = lambda length: 0 if length < 15 else (length - 15) // 255 + 1  # noqa: E731
    places: dict[int, int] = {}
    size = literals_start = i = missed = 0
    while i + 12 <= len(data):
        four = data[i : i + 4]
        slot = (int.from_bytes(four, "little") * 2_654_435_761 % 2**32) >> 20
        before = places.get(slot)
        places[slot] = i
        if before is None or i - before > 65_535 or data[before : before + 4] != four:
            i += 1 + (missed >> 6)
            missed += 1
            continue
        end = i + 4
        while end < len(data) - 5 and data[end] == data[before + end - i]:
            end += 1
        size += 3 + i - literals_start + extra(i - literals_start) + extra(end - i - 4)
        i = literals_start = end
        missed = 0
    return size + 1 + len(data) - literals_start + extra(len(data) - literals_start)


def ratio(numerator: int | None, denominator: int) -> float | None:
    return None if numerator is None else quotient(min(numerator, denominator), denominator)


def quotient(numerator: int, denominator: int) -> float | None:
    return float(np.float32(numerator / denominator)) if denominator else None
