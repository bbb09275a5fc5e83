"""The pages say what the code does: keys and defaults of recipes, commands, files."""

import contextlib
import dataclasses
import importlib
import io
import pathlib
import re
import subprocess

import pytest

from curate import expressions
from curate import recipe as recipes
from curate.presets import PRESETS
from filters import CORPUS_FAMILIES, FAMILIES, family

_ROOT = pathlib.Path(__file__).parents[1]
_PAGES = [_ROOT / "README.md", _ROOT / "manifests" / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]


def _table(section: str) -> dict[str, str]:
    page = (_ROOT / "docs" / "recipe.md").read_text()
    body = page.split(f"## {section}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+?) \|", body, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("section", "cls"),
    [
        ("[select]", recipes.Select), ("[mix]", recipes.Mix), ("[[stages]]", recipes.StageChoice), ("[holdout]", recipes.Holdout),
        ("[dedup]", recipes.Dedup), ("[paragraphs]", recipes.Paragraphs), ("[quality]", recipes.Quality),
        ("[perplexity]", recipes.Perplexity),
        ("[tokenizer]", recipes.TokenizerChoice), ("[quarantine]", recipes.Quarantine),
    ],
)  # fmt: skip
def test_the_recipe_page_has_every_key_with_its_default(section, cls):
    shown = _table(section)
    assert set(shown) == {field.name for field in dataclasses.fields(cls)}
    for field in dataclasses.fields(cls):
        if isinstance(field.default, int | float):
            assert shown[field.name] == f"`{field.default:g}`" or shown[field.name] == f"`{str(field.default).lower()}`"
        elif isinstance(field.default, str):
            assert shown[field.name] == f'`"{field.default}"`'


def test_the_recipe_page_has_every_key_of_a_source_of_a_family_and_of_the_top():
    keys = {cls: {field.name for field in dataclasses.fields(cls)} for cls in (recipes.Source, recipes.OwnFamily)}
    assert set(_table("[sources.NAME]")) == keys[recipes.Source] - {"name", "thresholds"}  # those are tables, [sources.NAME.FAMILY]
    assert set(_table("[families.NAME]")) == keys[recipes.OwnFamily] - {"name", "is_web"}  # the family says this one itself
    assert set(_table("Top level")) == set(recipes.PLAIN_KEYS)


def test_the_recipe_page_has_every_function_and_column_of_expressions_and_every_preset():
    page = (_ROOT / "docs" / "recipe.md").read_text()
    named = set(re.findall(r'`"?(\w+)"?`', page.split("### Expressions\n")[1].split("\n## ")[0]))
    assert {name for name in expressions.FUNCTIONS if name.isidentifier() and not name.endswith("_escape")} | {
        *expressions.COLUMNS
    } <= named
    shown = dict(re.findall(r"^\| ([\w-]+) \| (\w+ [\d.]+, .+?) \| ", page, flags=re.MULTILINE))
    assert {name: text.count(",") + 1 for name, text in shown.items()} == {name: len(one.amounts) for name, one in PRESETS.items()}


def test_the_recipe_page_has_every_rule():
    known = FAMILIES | CORPUS_FAMILIES
    rules = [(name, rule) for name in known for rule in family(name).rules]
    shown = _table("[FAMILY]")
    off = {name: shown.pop(name) for name in list(shown) if name in known}
    assert shown == {f"{name}.{rule.name}": f"`{rule.threshold:g}`" for name, rule in rules if rule.threshold is not None}
    assert [(name, rule) for name, text in off.items() for rule in re.findall(r"`(\w+)`", text)] == [
        (name, rule.name) for name, rule in rules if rule.threshold is None
    ]


def test_the_recipe_page_names_the_families_for_web_pages():
    page = (_ROOT / "docs" / "recipe.md").read_text()
    names = [name for name in FAMILIES if family(name).is_web]
    assert f"made for web pages ({', '.join(f'`{name}`' for name in names)})" in page


@pytest.mark.parametrize("path", _PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_are_there(path):
    names = set(
        re.findall(r"(?<![\w/])((?:docs|manifests|filters|curate|train|tests|bench)/[\w./]+\.(?:md|py|toml|txt))", path.read_text())
    )
    assert not [name for name in names if not (_ROOT / name).exists()]


@pytest.mark.parametrize("command", ["curate", "train"])
def test_every_command_of_the_readme_exists_and_has_help(command):
    readme = (_ROOT / "README.md").read_text()
    verbs = sorted(set(re.findall(rf"^{command} ([a-z-]+)", readme, flags=re.MULTILINE)))
    assert verbs
    for verb in verbs:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
            importlib.import_module(f"{command}.cli").main([verb, "--help"])
        assert not ended.value.code, verb
        assert "--root" in said.getvalue()


def test_no_text_names_a_machine():
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True, cwd=_ROOT
    ).stdout.split()
    home = "|".join(["/" + "work/", "/" + "root/", "/" + "home/", "/" + "opt/"])
    bad = [name for name in files if re.search(f"(?:^|[\\s\"'`(=])(?:{home})", (_ROOT / name).read_text(errors="replace"))]
    assert not bad
