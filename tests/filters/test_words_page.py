"""docs/words.md shows the twin that the kernels are tested against, word for word, and its examples hold."""

import doctest
import pathlib

from tests.filters import word_twin


def test_the_page_shows_the_twin():
    page = pathlib.Path(__file__).parents[2] / "docs" / "words.md"
    twin = pathlib.Path(word_twin.__file__)
    assert f"```python\n{twin.read_text(encoding='utf-8')}```\n" in page.read_text(encoding="utf-8")


def test_the_examples_of_the_twin_hold():
    results = doctest.testmod(word_twin)
    assert results.attempted > 0
    assert results.failed == 0
