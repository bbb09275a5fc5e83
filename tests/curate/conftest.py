"""What the tests of curation share: the small corpus of tests/curate/corpora.py and its first version, which are made once."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable

import pytest

from curate import executor
from curate.build import Built, build
from curate.recipe_file import read_recipe
from curate.store import Store
from tests.curate.corpora import write_corpus


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A root with v1, its recipe, whose folder holds the data, and what the build gave. Tests only read it."""

    root: pathlib.Path
    recipe: str
    built: Built


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    store, recipe = Store(str(folder / "root")), write_corpus(folder)
    return Tiny(folder / "root", recipe, build(store, read_recipe(store, file=recipe), run=executor.local(1)))


@pytest.fixture
def own(tiny: Tiny, tmp_path: pathlib.Path) -> Callable[..., Tiny]:
    """Copy data, recipe and root for a test to write into, without what has one of the names that are left out."""

    def copy(*left_out: str) -> Tiny:
        for part in ("data", "root"):
            shutil.copytree(tiny.root.parent / part, tmp_path / part, ignore=shutil.ignore_patterns(*left_out))
        recipe = shutil.copy(tiny.recipe, tmp_path)
        return dataclasses.replace(tiny, root=tmp_path / "root", recipe=recipe)

    return copy
