"""Compiled kernels are found again by what they were compiled from, and never after a change in a file that they call into."""

import ast
import importlib.util
import pathlib
import shutil
import subprocess
import sys

import pytest

import filters
from filters import kernels

_FILTERS = pathlib.Path(filters.__file__).parent
# Where the kernels of a copy lie, and what one of them gives.
_SUM = (
    "import numpy as np, filters.kernels as k, filters.word_kernels as w;"
    "print(k.CACHE_DIR, w.sum_words(np.array([0, 1]), *[np.ones(1, t) for t in ('i4', '?', '?')])[0])"
)


def sum_elsewhere(root: pathlib.Path) -> tuple[str, str]:
    """Sum words by the kernels of a copy, in another process: their folder, and what they give."""
    done = subprocess.run([sys.executable, "-c", _SUM], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    folder, _, total = done.stdout.strip().partition(" ")
    return folder, total


def folder_of(root: pathlib.Path) -> str:
    """Name the folder that the kernels of a copy are kept in, below the cache folder of this user."""
    spec = importlib.util.spec_from_file_location("kernels_of_a_copy", root / "filters" / "kernels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.CACHE_DIR)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(_FILTERS, tmp_path / "filters", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_changed_callee_in_another_file_names_another_folder(copied):
    before = folder_of(copied)
    path = copied / "filters" / "kernels.py"
    path.write_text(path.read_text().replace("return 0, 1", "return 1, 1", 1))
    after = folder_of(copied)
    assert before != after
    assert folder_of(copied) == after


def test_a_changed_family_compiles_nothing_anew(copied):
    before = folder_of(copied)
    (copied / "filters" / "gopher.py").write_text("changed = True\n")
    assert folder_of(copied) == before


def test_compiled_kernels_lie_in_that_folder(copied):
    folder, total = sum_elsewhere(copied)
    assert total == "[1]"
    assert pathlib.Path(folder).is_relative_to(copied / "cache" / "gapless")
    assert [path for path in pathlib.Path(folder).rglob("*.nbi") if "sum_words" in path.name]


@pytest.mark.slow
def test_without_a_place_to_write_kernels_are_compiled_in_the_process(copied):
    (copied / "cache").write_text("a file where a folder should be")
    assert sum_elsewhere(copied) == ("None", "[1]")


def test_the_program_leaves_numba_as_it_was():
    import numba

    assert numba.config.CACHE_DIR != kernels.CACHE_DIR


def test_few_kernels_are_entered_from_python():
    """Each of them is compiled, and loaded in every worker, on its own."""
    entered = set()
    for path in _FILTERS.glob("*.py"):
        if path.name.endswith("kernels.py"):
            continue
        tree = ast.parse(path.read_text())
        modules = {name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in _kernel_names(node)}
        used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
        entered |= {f"{node.value.id}.{node.attr}" for node in used if node.value.id in modules and node.attr.islower()}
        entered |= {name for name in modules if name.islower() and not name.endswith("kernels")}
    assert 10 < len(entered) <= 17, sorted(entered)


def _kernel_names(node: ast.ImportFrom) -> list[str]:
    is_kernel = node.module is not None and node.module.endswith("kernels")
    return [alias.name for alias in node.names if is_kernel or alias.name.endswith("_kernels")]
