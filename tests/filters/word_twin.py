"""Words, lines and sentences in plain Python: slow, short, and what the kernels in filters/columns.py must agree with."""

import functools
import unicodedata

# First and last code point. Only the letters among them count, which a character's category says.
SPACELESS_SCRIPTS = (
    (0x3005, 0x3006),  # Han: iteration and closing marks
    (0x303B, 0x303C),  # Han: vertical iteration mark, masu mark
    (0x3400, 0x4DBF),  # Han: extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han: compatibility
    (0x16FE3, 0x16FE3),  # Han: old Chinese iteration mark
    (0x20000, 0x3FFFF),  # Han: extension B and later, compatibility supplement
    (0x3031, 0x3035),  # Hiragana and Katakana: vertical repeat marks
    (0x3041, 0x309F),  # Hiragana
    (0x30A1, 0x30FF),  # Katakana
    (0x31F0, 0x31FF),  # Katakana: phonetic extensions
    (0xFF66, 0xFF9F),  # Katakana: halfwidth
    (0x1AFF0, 0x1B16F),  # Hiragana and Katakana: supplement and extensions
    (0x0E00, 0x0E7F),  # Thai
    (0x0E80, 0x0EFF),  # Lao
    (0x1780, 0x17FF),  # Khmer
    (0x1000, 0x109F),  # Myanmar
    (0xA9E0, 0xA9FF),  # Myanmar: extended B
    (0xAA60, 0xAA7F),  # Myanmar: extended A
)

ENDINGS = ".?!"  # and those of other scripts, which filters/unicode_endings.txt lists
CLOSING = "\"')]}\u00bb\u2019\u201d\u203a\u300d\u300f\uff02\uff07\uff09"


@functools.cache
def char_class(char: str) -> str:
    """Class of a character: L letter, N number, M mark, S spaceless letter, or - for everything else, which separates.

    >>> [char_class(char) for char in "a7_-"] + [char_class("\\u0301"), char_class("\\u6587")]
    ['L', 'N', '-', '-', 'M', 'S']
    """
    major = unicodedata.category(char)[0]
    if major == "L" and any(first <= ord(char) <= last for first, last in SPACELESS_SCRIPTS):
        return "S"
    return major if major in "LNM" else "-"


def words(text: str) -> list[str]:
    """Words of a text, in order.

    >>> words("It's 3.5 km_h")
    ['It', 's', '3', '5', 'km', 'h']
    >>> words("GPT4\\u6a21\\u578b2024")
    ['GPT4', '\u6a21', '\u578b', '2024']
    """
    found: list[str] = []
    inside = "-"  # what the last character was part of: - nothing, L a run, S a spaceless word
    for char in text:
        kind = char_class(char)
        if kind == "-":
            inside = "-"
        elif kind == "S" or inside == "-" or (inside == "S" and kind != "M"):
            found.append(char)
            inside = "S" if kind == "S" else "L"
        else:
            found[-1] += char
    return found


def lines(text: str) -> list[str]:
    """Lines of a text, in order, split at newlines only. A newline at the very end opens no further line.

    >>> lines("one\\n\\nthree\\n"), lines("")
    (['one', '', 'three'], [])
    """
    parts = text.split("\n")
    return parts if parts[-1] else parts[:-1]


def sentences(line: str, endings: str = ENDINGS) -> list[str]:
    """Sentences of a line, in order.

    >>> sentences('He said "No." It fell by 3.5 mg... Why? (See below.) then')
    ['He said "No."', 'It fell by 3.5 mg...', 'Why?', '(See below.)', 'then']
    """
    found, start = [], 0
    is_ended = False
    for place, char in enumerate(line):
        if char.isspace():
            if is_ended:
                found.append(line[start:place])
                start = place
            is_ended = False
        else:
            is_ended = char in endings or (is_ended and char in CLOSING)
    return [sentence.strip() for sentence in [*found, line[start:]] if sentence.strip()]
