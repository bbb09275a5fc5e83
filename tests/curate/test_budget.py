"""Dedup never empties a source in silence: limits, counts, what is shown, and what a person may accept."""

import collections
import dataclasses
import hashlib
import pathlib
import re
import subprocess
import sys
from typing import Any

import duckdb
import pytest
from rich.console import Console

from curate import budget, executor, manifest, report
from curate.build import Built, CheckFailed, build
from curate.portable import portable
from curate.recipe import DomainError, Recipe, Source
from curate.recipe_file import read_recipe
from curate.store import Store
from tests.curate.corpora import text, write_jsonl

_RECIPE = """
domain = "small"
[tokenizer]
vocab_size = 600
[holdout]
share = 0.0
[sources.first]
path = "data/first"
[sources.second]
path = "data/second"
"""


def _write(folder: pathlib.Path, **sources: list[str]) -> str:
    for name, texts in sources.items():
        write_jsonl(folder / "data" / name / "a.jsonl", [{"id": f"{name}-{n}", "text": body} for n, body in enumerate(texts)])
    (folder / "recipe.toml").write_text(_RECIPE)
    return str(folder / "recipe.toml")


def _build(folder: pathlib.Path, recipe: str, *settings: str, root: str = "root", **more: Any) -> Built:
    store = Store(str(folder / root))
    return build(store, read_recipe(store, file=recipe, settings=settings), run=executor.local(1), **more)


def _texts(name: str, n: int) -> list[str]:
    return [text(f"{name}{number}") for number in range(n)]


def _published(folder: pathlib.Path, root: str = "root") -> list[str]:
    return manifest.versions(Store(str(folder / root)))


def _digests(built: Built) -> tuple[str, str]:
    return built.manifest.fingerprint, str(built.manifest.info["decision"])


@pytest.fixture
def copied(tmp_path) -> str:
    """A second source of 40 rows, 24 of them copies of rows of the first."""
    return _write(tmp_path, first=_texts("first", 60), second=[*_texts("first", 24), *_texts("second", 16)])


def test_a_source_of_copies_stops_the_build_until_a_person_accepts_it(tmp_path, copied, capfd):
    message = r"^source 'second': 24 of 40 rows that came to dedup \(60\.00%\) went as copies, more than the 30\.00% of dedup\.max_share; "
    with pytest.raises(CheckFailed, match=message + ".*--accept dedup, or set sources.second.max_dedup_share or dedup.max_share$"):
        _build(tmp_path, copied)
    shown = capfd.readouterr().err
    assert shown.count("duplicate.exact, similarity 1;") == 5
    assert shown.count("kept;") == 5
    assert len(re.findall(r"second-\d+", shown)) == len(re.findall(r"first-\d+", shown)) == 5
    assert _published(tmp_path) == []
    assert not (tmp_path / "root" / "evalsets").exists()

    accepted = _build(tmp_path, copied, accept=("dedup",))
    assert "dedup: accepted: source 'second': 24 of 40" in capfd.readouterr().err
    assert accepted.manifest.info["accepted"] == ["dedup"]
    raised = _build(tmp_path, copied, "sources.second.max_dedup_share=0.6", root="other")
    assert raised.manifest.info["accepted"] == []
    assert _digests(raised) == _digests(accepted)
    assert not _build(tmp_path, copied, "dedup.max_share=0.7", "dedup.max_copies=7").is_new


def test_accepting_what_passes_changes_nothing(tmp_path):
    recipe = _write(tmp_path, first=_texts("first", 40), second=_texts("second", 40))
    built = _build(tmp_path, recipe, accept=("dedup",))
    assert built.manifest.info["accepted"] == []
    assert not _build(tmp_path, recipe).is_new


def test_show_says_what_was_accepted(tmp_path, copied, capsys):
    built = _build(tmp_path, copied, accept=("dedup",))
    store = Store(str(tmp_path / "root"))
    report.print_summary(Console(width=160), report.summary(store, built.manifest))
    assert len(re.findall(r"^accepted by a person .*: dedup$", capsys.readouterr().out, flags=re.MULTILINE)) == 1
    old = dataclasses.replace(built.manifest, info={key: value for key, value in built.manifest.info.items() if key != "accepted"})
    report.print_summary(Console(width=160), report.summary(store, old))
    assert "accepted" not in capsys.readouterr().out


def test_the_limit_of_a_source_stands_in_place_of_the_recipes(tmp_path, copied):
    with pytest.raises(
        CheckFailed, match=r"more than the 59\.00% of sources\.second\.max_dedup_share; .* or set sources\.second\.max_dedup"
    ):
        _build(tmp_path, copied, "dedup.max_share=1", "sources.second.max_dedup_share=0.59")
    assert _build(tmp_path, copied, "dedup.max_share=0", "sources.second.max_dedup_share=0.6").is_new


@pytest.mark.slow
def test_the_command_exits_1_with_one_error_line_and_accept_goes_on(tmp_path, copied):
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "curate", "build", "--recipe", copied, "--workers", "1", *more]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    stopped = run()
    assert (stopped.returncode, stopped.stdout) == (1, "")
    assert [line[:23] for line in stopped.stderr.splitlines() if line.startswith("error: ")] == ["error: source 'second':"]
    assert stopped.stderr.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "manifests").exists()
    assert "accepted by a person" in run("--accept", "dedup").stdout
    wrong = run("--accept", "everything")
    assert wrong.returncode == 2
    assert "'everything' is not" in wrong.stderr


def test_a_template_that_many_rows_share_stops_the_build(tmp_path, capfd):
    # 100 words and a last one that differs: 95 of 97 word 5-grams are shared.
    template = " ".join(text("template", 100).split()[:100])
    recipe = _write(tmp_path, first=[*(f"{template} {n}." for n in range(31)), *_texts("first", 200)], second=_texts("second", 40))
    assert _build(tmp_path, recipe, "dedup.max_copies=30", root="other").manifest.info["accepted"] == []
    capfd.readouterr()
    with pytest.raises(
        CheckFailed, match=r"30 rows hang on one kept row, [0-9a-f]{32} of source 'first', more than the 29 of dedup\.max_copies;"
    ):
        _build(tmp_path, recipe, "dedup.max_copies=29")
    assert capfd.readouterr().err.count("gone: duplicate.jaccard, similarity 0.9") == 5
    assert _published(tmp_path) == []


def _notes(n: int, *, places: range) -> list[str]:
    """Make notes of one template of 100 words, of which those at `places` are numbers of the note's own."""
    template = text("note", 100).split()[:100]
    made = []
    for note in range(n):
        words = list(template)
        for place in places:
            words[place] = str(int(hashlib.sha256(f"{note}|{place}".encode()).hexdigest()[:8], 16) % 100_000)
        made.append(" ".join(words))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("places", [range(5, 100, 10), range(40, 50)], ids=["spread", "together"])
def test_notes_that_share_nine_tenths_of_their_words_all_survive(tmp_path, places):
    recipe = _write(tmp_path, first=_notes(5000, places=places), second=_texts("second", 40))
    built = _build(tmp_path, recipe, "select.budget_tokens=10M")
    rows = manifest.rows(Store(str(tmp_path / "root")), built.manifest, "train", ["source"])
    assert rows["source"].to_pylist().count("first") == 5000


@pytest.mark.parametrize("n_notes", [1200, pytest.param(5000, marks=pytest.mark.slow)])
def test_notes_that_differ_in_four_numbers_collapse_and_trip_the_budget(tmp_path, capfd, n_notes):
    # 8 of 96 word 5-grams hold one of four neighbouring numbers: 88 are shared by two notes, of 104 of both.
    recipe = _write(tmp_path, first=_notes(n_notes, places=range(40, 44)), second=_texts("second", 40))
    message = rf"source 'first': [\d,]+ of {n_notes:,} rows .*; [\d,]+ rows hang on one kept row, .* dedup\.max_copies$"
    with pytest.raises(CheckFailed, match=message):
        _build(tmp_path, recipe)
    assert capfd.readouterr().err.count("gone: duplicate.jaccard, similarity 0.846") == 10
    assert _published(tmp_path) == []


def test_counts_are_those_of_plain_python(own, tmp_path):
    recipe = own("manifests").recipe
    settings = ("dedup.max_share=0", "dedup.max_copies=1")
    with pytest.raises(CheckFailed) as failed:
        _build(tmp_path, recipe, *settings)
    built = _build(tmp_path, recipe, *settings, accept=("dedup",))
    store = Store(str(tmp_path / "root"))
    rows = [row for split in manifest.SPLITS for row in manifest.rows(store, built.manifest, split).to_pylist()]
    came, gone, copies = collections.Counter(), collections.Counter(), collections.Counter()
    for row in rows:
        is_gone = (row["reason"] or "").startswith("duplicate.") or row["reason"] == "holdout.leak"
        came[row["source"]] += row["split"] != "holdout" and (row["reason"] in (None, "budget") or is_gone)
        gone[row["source"]] += is_gone
        copies[row["dup_of"]] += row["dup_of"] is not None
    assert all(gone[source] for source in ("papers", "web", "wiki"))
    assert {row["reason"] for row in rows} >= {"holdout.leak", "gopher_quality.min_words", "duplicate.exact", "duplicate.jaccard"}
    for source in gone:
        assert f"source '{source}': {gone[source]} of {came[source]} rows that came to dedup" in str(failed.value)
    assert max(copies.values()) > 1
    assert f"; {max(copies.values())} rows hang on one kept row, " in str(failed.value)


def _decided(*groups: tuple[int, str, str, str | None, str | None, bool]) -> duckdb.DuckDBPyConnection:
    """Make a table `decided` of groups of rows: how many, source, split, reason, dup_of, is_eligible."""
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE decided (row_id VARCHAR, source VARCHAR, split VARCHAR, reason VARCHAR, dup_of VARCHAR, is_eligible BOOLEAN)"
    )
    for place, (n, source, *values) in enumerate(groups):
        rows = "SELECT $1 || '-' || range, $2, $3, $4, $5, $6 FROM range($7)"
        connection.execute(f"INSERT INTO decided {rows}", [str(place), source, *values, n])
    return connection


def _recipe(max_share: float) -> Recipe:
    plain = Recipe(domain="d", sources=(Source("a", ("a",)), Source("b", ("b",)), Source("c", ("c",), role="reference")))
    return dataclasses.replace(plain, dedup=dataclasses.replace(plain.dedup, max_share=max_share, max_copies=29))


@pytest.mark.parametrize(("n_gone", "is_breach"), [(28, False), (29, False), (30, True)])
def test_a_share_up_to_its_limit_passes_and_only_rows_that_came_to_dedup_count(n_gone, is_breach):
    connection = _decided(
        (100 - n_gone, "a", "train", None, None, True),
        (n_gone - 9, "a", "dropped", "duplicate.jaccard", "0-0", True),
        (5, "a", "dropped", "duplicate.exact", "0-1", True),
        (4, "a", "dropped", "holdout.leak", None, True),
        (500, "a", "holdout", None, None, True),
        (500, "a", "dropped", "gopher_quality.min_words", None, False),
    )
    assert budget.shares(connection) == {"a": (100, n_gone)}
    found = budget.breaches(connection, _recipe(0.29))  # 0.29 * 100 is below 29
    assert [breach.keys for breach in found] == [("sources.a.max_dedup_share", "dedup.max_share")] * is_breach


@pytest.mark.parametrize(("n_rows", "is_breach"), [(19, False), (20, True)])
def test_a_source_of_less_than_20_rows_is_not_judged_by_its_share(n_rows, is_breach):
    connection = _decided((n_rows, "a", "dropped", "holdout.leak", None, True), (30, "b", "train", None, None, True))
    assert len(budget.breaches(connection, _recipe(0.3))) == is_breach


@pytest.mark.parametrize(("n_copies", "is_breach"), [(29, False), (30, True)])
def test_copies_up_to_their_limit_pass(n_copies, is_breach):
    connection = _decided((300, "a", "train", None, None, True), (n_copies, "b", "dropped", "duplicate.exact", "0-7", True))
    assert budget.most_copies(connection) == ("0-7", "a", n_copies)
    assert [breach.keys for breach in budget.breaches(connection, _recipe(1.0))] == [("dedup.max_copies",)] * is_breach


def test_without_rows_nothing_is_passed():
    connection = _decided()
    assert budget.most_copies(connection) is None
    assert budget.breaches(connection, _recipe(0.0)) == []


def test_leaks_to_the_holdout_are_shown_alone(tmp_path, capfd):
    same = [{"id": f"g{n}", "text": text(f"x{n}"), "group": f"g{n}"} for n in range(60)]
    write_jsonl(tmp_path / "data/first/a.jsonl", same)
    write_jsonl(tmp_path / "data/second/a.jsonl", [{**row, "id": f"leak{n}", "group": f"h{n}"} for n, row in enumerate(same)])
    recipe = _RECIPE.replace('"data/first"', '"data/first"\nholdout_share = 0.9\nfields = { group = "group" }')
    (tmp_path / "recipe.toml").write_text(recipe)
    with pytest.raises(CheckFailed, match="source 'second'"):
        _build(tmp_path, str(tmp_path / "recipe.toml"))
    shown = capfd.readouterr().err
    assert "gone: holdout.leak; " in shown
    assert shown.count("gone: ") == 5
    assert shown.count("kept; ") == shown.count("gone: duplicate.")


def test_markup_and_control_characters_of_texts_do_not_act(tmp_path, capfd):
    more = "[bold red]not bold[/] [/wrong] \x1b]0;title\x07 \x1b[2J \u202egnp.exe {brace} end."
    rows = [{"id": f"[red]\x1b[2J{n}[/nothing]", "text": f"{text('long', 100)} {n % 3} {more}"} for n in range(60)]
    recipe = _write(tmp_path, first=_texts("first", 40), second=[])
    write_jsonl(tmp_path / "data/second/a.jsonl", rows)
    with pytest.raises(CheckFailed, match="source 'second'"):
        _build(tmp_path, recipe)
    shown = capfd.readouterr().err
    assert not set(shown) & {"\x1b", "\x07", "\u202e"}
    flat = re.sub(r"[\s│┃]+", "", shown)
    assert "[red]" in flat
    assert "[/nothing]" in flat
    assert "[boldred]notbold[/]" in flat
    assert "\\u202e" in flat


def test_samples_start_a_little_before_the_first_difference(tmp_path, capfd):
    words = text("words", 1500)
    recipe = _write(tmp_path, first=[words + f" End number{n}. " + text("tail", 400) for n in range(30)], second=_texts("second", 40))
    with pytest.raises(CheckFailed, match="source 'first': 29 of 30"):
        _build(tmp_path, recipe)
    flat = re.sub(r"[\s│┃]+", "", capfd.readouterr().err)
    assert flat.count("Endnumber") == 10
    assert re.sub(r"\s", "", words[:60]) not in flat


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("dedup.max_share=1.5", r"^dedup\.max_share is 1\.5; it takes a share from 0 to 1$"),
        ("dedup.max_share=-0.1", r"^dedup\.max_share is -0\.1; it takes a share from 0 to 1$"),
        ("dedup.max_share=nan", r"^dedup\.max_share is nan; it takes a share from 0 to 1$"),
        ("dedup.max_share=much", r"^dedup\.max_share is 'much'; it takes a value of type float$"),
        ("sources.second.max_dedup_share=2", r"^sources\.second\.max_dedup_share is 2; it takes a share from 0 to 1$"),
        ("sources.second.max_dedup_shares=0.2", "did you mean 'max_dedup_share'"),
        ("dedup.max_copies=0", r"^dedup\.max_copies is 0; it takes a whole number of at least 1$"),
        ("dedup.max_copies=2.5", r"^dedup\.max_copies is 2\.5; it takes a value of type int$"),
    ],
)
def test_wrong_limits_are_one_line(tmp_path, setting, message):
    recipe = _write(tmp_path, first=["a"], second=["b"])
    with pytest.raises(DomainError, match=message):
        read_recipe(Store(str(tmp_path)), file=recipe, settings=[setting])


def test_limits_are_no_part_of_the_decision(tmp_path):
    recipe = _write(tmp_path, first=["a"], second=["b"])
    settings = ["dedup.max_share=0.9", "dedup.max_copies=5", "sources.first.max_dedup_share=0.2"]
    store = Store(str(tmp_path))
    assert portable(read_recipe(store, file=recipe, settings=settings)) == portable(read_recipe(store, file=recipe))
