"""Text of documents on a terminal: what a terminal would act upon is spelt out.

Stands between any text of a corpus and a person. Decision: nothing is left away, so what is read is what is there, at the cost of some
`\\u200f` in the lines of scripts that need such marks.
"""


def printable(text: str) -> str:
    """Spell out what a terminal would act upon: escape sequences, and marks that change the direction of writing.

    >>> printable("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
