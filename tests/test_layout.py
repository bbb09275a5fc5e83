"""The house rules that a machine can hold: who imports whom, what stays out of where, and sizes."""

import ast
import functools
import importlib.metadata
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGES = ("filters", "curate", "train")
_SHARED = {"curate.manifest", "curate.store", "curate.tokens"}
_FILES = [path for package in _PACKAGES for path in sorted((_ROOT / package).rglob("*.py"))]


@functools.cache
def _tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text())


def _imports(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _modules(names: set[str], package: str) -> set[str]:
    known = {f"{path.parent.name}.{path.stem}" for path in _FILES}
    return {name for name in names if name.split(".")[0] == package and name in known}


@pytest.mark.parametrize("path", _FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_packages_import_only_what_they_may(path):
    package, names = path.parent.name, _imports(path)
    tops = {name.split(".")[0] for name in names}
    if package == "filters":
        assert not tops & {"curate", "train", "torch", "transformers"}
    if package == "curate":
        assert not tops & {"train", "torch", "transformers"}
    if package == "train":
        assert not tops & {"filters", "datatrove", "datasketch", "fasttext"}
        assert _modules(names, "curate") <= _SHARED


def test_what_training_shares_brings_no_decision_with_it():
    code = (
        "import sys, curate.manifest, curate.store, curate.tokens\n"
        "print(*sorted(m for m in sys.modules if m.startswith(('curate.', 'filters'))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT).stdout.split()
    assert set(found) == _SHARED


def _without_the_extra(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import importlib, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'matplotlib', 'safetensors'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "main = importlib.import_module(sys.argv[1] + '.cli').main\n"
        "sys.argv = sys.argv[1:]\n"
        "main()"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=_ROOT)


def test_curate_runs_without_torch():
    done = _without_the_extra("curate", "--help")
    assert done.returncode == 0, done.stderr
    assert "build" in done.stdout


def test_train_without_torch_says_what_to_install():
    done = _without_the_extra("train", "run", "--manifest", "v1")
    assert done.returncode == 2
    assert "pip install '.[train]' torch==2.13.0" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("path", _FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_modules_and_functions_stay_readable(path):
    tree = _tree(path)
    assert ast.get_docstring(tree), "a module opens with what it does and where it stands"
    assert len(path.read_text().splitlines()) <= 350
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 62, node.name


def test_every_dependency_is_pinned():
    lines = (_ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    for text in importlib.metadata.requires("gapless") or []:
        name = text.split(";")[0].split("[")[0].split(">")[0].split("=")[0].strip().lower()
        if 'extra == "s3"' not in text:
            assert name in pinned, text
