"""`curate try`: what it says is what a build then does; it publishes and counts nothing, and what is missing is named."""

import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import pytest

from curate import executor, manifest, ready
from curate.build import Built, build
from curate.recipe import DomainError
from curate.recipe_file import read_recipe
from curate.store import Store
from curate.whatif import what_if
from tests.curate.commands import curate
from tests.curate.corpora import documents, write_corpus, write_jsonl

# More tokens than there are, so that every row that passes is counted; and every row passes.
_ALL = "select.budget_tokens=1_000_000"
_NO_RULE = ("rules=[]", "dedup.threshold=false")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("try")
    recipe = write_corpus(folder)
    _build(folder / "root", recipe)
    _build(folder / "root", recipe, _ALL)
    _build(folder / "root", recipe, _ALL, *_NO_RULE)
    return folder


@pytest.fixture
def folder(corpus: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the corpus and its root, to be built on."""
    shutil.copytree(corpus, tmp_path / "copy")
    assert not _build(tmp_path / "copy/root", str(tmp_path / "copy/recipe.toml")).is_new  # reads the files under their new paths
    return tmp_path / "copy"


def _build(root: pathlib.Path, recipe: str, *settings: str) -> Built:
    store = Store(str(root))
    return build(store, read_recipe(store, file=recipe, settings=settings), run=executor.local(1))


def _try(folder: pathlib.Path, *settings: str, against: str | None = None, base: Sequence[str] = ()) -> dict[str, Any]:
    store = Store(str(folder / "root"))
    changed = read_recipe(store, file=str(folder / "recipe.toml"), settings=settings)
    if against is not None:
        return what_if(store, changed, manifest.load(store, against))
    return what_if(store, changed, read_recipe(store, file=str(folder / "recipe.toml"), settings=base))


def _kept(store: Store, version: manifest.Manifest) -> dict[str, dict[str, Any]]:
    return {row["row_id"]: row for row in manifest.rows(store, version, "train").to_pylist()}


def _files(folder: pathlib.Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "settings",
    [
        ("gopher_quality.min_words=80", "select.budget_tokens=9000"),
        ("dedup.threshold=0.95", "select.top_share=0.3"),
        ('select.where="n_words % 2 = 0"', 'select.order_by="n_words DESC"'),
        ("dedup.threshold=false", "mix.shares={domain = 0.6, wikipedia = 0.4}", "holdout.share=0.2"),
    ],
)
def test_what_is_tried_is_what_is_built(folder: pathlib.Path, settings: tuple[str, ...]) -> None:
    store = Store(str(folder / "root"))
    before = _kept(store, manifest.load(store, "v1"))
    data = _try(folder, *settings, against="v1")
    built = _build(folder / "root", str(folder / "recipe.toml"), *settings)
    after = _kept(store, built.manifest)
    assert data["before"]["kept"] == {
        "rows": len(before), "n_bytes": sum(row["n_bytes"] for row in before.values()),
        "n_tokens": sum(row["n_tokens"] for row in before.values()), "estimated": False,
    }  # fmt: skip
    assert data["after"]["kept"]["rows"] == len(after)
    assert not data["after"]["kept"]["estimated"]
    assert data["after"]["kept"]["n_tokens"] == sum(row["n_tokens"] for row in after.values())
    for way, come, there in (("in", after, before), ("out", before, after)):
        moved = [row for name, row in come.items() if name not in there]
        said = [one for one in data["moves"] if one["direction"] == way]
        assert {one["source"]: (one["rows"], one["n_tokens"]) for one in said} == {
            source: (len(rows), sum(row["n_tokens"] for row in rows))
            for source in {row["source"] for row in moved}
            if (rows := [row for row in moved if row["source"] == source])
        }
    steps = [(step["step"], step["rows"]) for step in data["after"]["funnel"]]
    assert steps == [(step["step"], step["rows"]) for step in built.manifest.info["funnel"]]
    parts = [part for stage in built.manifest.info["stages"] for part in stage["components"]]
    for said, part in zip(data["after"]["components"], parts, strict=True):
        assert {name: said[name] for name in ("name", "share", "epoch_tokens", "pool_tokens", "repeats")}.items() <= part.items()


def test_the_base_is_the_recipe_without_the_settings(corpus: pathlib.Path) -> None:
    setting = "gopher_quality.min_words=80"
    by_recipe, by_version = _try(corpus, setting), _try(corpus, setting, against="v1")
    assert by_recipe["before"].pop("name") == "the recipe"
    assert by_version["before"].pop("name") == "v1"
    assert by_recipe["after"] == by_version["after"]
    for key in ("moves", "reasons", "samples"):
        assert by_recipe[key] == by_version[key]
    assert by_recipe["before"]["kept"] == by_version["before"]["kept"]


def test_tokens_that_nobody_counted_are_estimated_and_marked(tmp_path: pathlib.Path) -> None:
    recipe = write_corpus(tmp_path)
    _build(tmp_path / "root", recipe)
    setting = "select.budget_tokens=24000"
    data = _try(tmp_path, setting)
    assert (data["before"]["kept"]["estimated"], data["after"]["kept"]["estimated"]) == (False, True)
    assert {one["estimated"] for one in data["moves"] if one["direction"] == "in"} == {True}
    store = Store(str(tmp_path / "root"))
    after = _kept(store, _build(tmp_path / "root", recipe, setting).manifest)
    n_tokens = sum(row["n_tokens"] for row in after.values())
    assert data["after"]["kept"]["n_tokens"] == pytest.approx(n_tokens, rel=0.05)
    assert data["after"]["kept"]["rows"] == pytest.approx(len(after), rel=0.05)


def test_a_setting_may_change_which_rows_there_are(corpus: pathlib.Path) -> None:
    data = _try(corpus, "sources.wiki.holdout_share=0.3")
    assert {side: data[side]["funnel"][0]["rows"] for side in ("before", "after")} == {"before": 362, "after": 362}
    assert {one["direction"]: one["reason"] for one in data["reasons"] if one["reason"] == "holdout"} == {"out": "holdout"}
    gone = [row for row in data["samples"] if row["direction"] == "out"]
    assert all(row["text"] for row in gone)


def test_it_leaves_nothing_but_cache_and_says_the_same_twice(folder: pathlib.Path) -> None:
    before = _files(folder)
    first = _try(folder, "gopher_quality.min_words=80", "select.budget_tokens=9000", base=("seed=3",))
    changed = _files(folder).items() ^ before.items()
    assert {name for name, _ in changed if not name.startswith("root/cache/ready/")} == set()
    assert _try(folder, "gopher_quality.min_words=80", "select.budget_tokens=9000", base=("seed=3",)) == first
    shutil.rmtree(folder / "root/cache/ready" / "tiny")
    with pytest.raises(DomainError, match="near duplicates of these texts were never looked for with 14 bands of 8 rows; run curate build"):
        _try(folder, "gopher_quality.min_words=80")


def test_samples_are_those_nearest_to_the_limit(corpus: pathlib.Path) -> None:
    data = _try(corpus, _ALL, "gopher_quality.min_words=80", base=(_ALL,))
    gone = [row for row in data["samples"] if row["direction"] == "out"]
    assert [row["direction"] for row in data["samples"]] == ["out"] * 3
    assert {row["reason"] for row in gone} == {"gopher_quality.min_words"}
    assert [row["what"] for row in gone] == [f"n_words is {row['value']:.0f}, the rule keeps >= 80" for row in gone]
    store = Store(str(corpus / "root"))
    rows = _kept(store, manifest.load(store, "v2")).values()
    assert [row["value"] for row in gone] == sorted((row["n_words"] for row in rows if row["n_words"] < 80), reverse=True)[:3]
    assert all(40 < len(row["text"]) <= 200 for row in gone)
    back = _try(corpus, _ALL, base=(_ALL, "gopher_quality.min_words=80"))
    assert [row["row_id"] for row in back["samples"]] == [row["row_id"] for row in gone]
    assert {(row["direction"], row["limit"]) for row in back["samples"]} == {("in", 80.0)}


def test_what_a_build_would_stop_at_is_a_remark(corpus: pathlib.Path) -> None:
    (remark,) = _try(corpus, "dedup.max_copies=1", "sources.web.max_dedup_share=0.01")["remarks"][:1]
    assert remark.startswith("a build would stop: source 'web':")
    assert remark.endswith("go on with --accept dedup")


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (('rules=["gopher_quality", "gopher_repetition"]',), None),
        (('domain="other"',), "the quality classifier of domain 'other' was never fitted"),
        (('dedup.profile="strict"',), "never looked for with 26 bands of 11 rows"),
        (('tokenizer.separator="both"',), None),
        (("paragraphs.mask=true",), "the facts of 'paragraph_keys' are missing for"),
        (("gopher_quality.min_wrods=3",), "did you mean 'min_words'"),
        (("select.order_by=nonsense",), "which is no column here"),
        (("holdout.share=0.01",), "held-out text must never be trained on"),
        (("mix.max_repeats=0.1",), "more than the 0.1 of mix.max_repeats"),
        (("gopher_quality.min_words=9000",), "nothing is left of component 'domain'"),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_one_line(corpus: pathlib.Path, settings: tuple[str, ...], what: str | None) -> None:
    if what is None:
        assert _try(corpus, *settings)["after"]["kept"]["rows"]
        return
    before = {name: time for name, time in _files(corpus).items() if not name.startswith("root/cache/ready/")}
    with pytest.raises(DomainError, match=what) as raised:
        _try(corpus, *settings)
    assert "\n" not in str(raised.value)
    assert before == {name: time for name, time in _files(corpus).items() if not name.startswith("root/cache/ready/")}


def test_a_file_that_was_never_read_is_not_read_now(folder: pathlib.Path) -> None:
    write_jsonl(folder / "data/web/more.jsonl", documents("webmore", 5))
    with pytest.raises(DomainError, match="hold files that were never read"):
        _try(folder, "gopher_quality.min_words=80")


def test_facts_that_are_missing_are_not_computed(folder: pathlib.Path) -> None:
    shutil.rmtree(folder / "root/cache/signals/gopher_repetition")
    with pytest.raises(
        DomainError, match="the facts of 'gopher_repetition' are missing for 3 of 3 shards; run curate build with these settings first"
    ):
        _try(folder, 'rules=["gopher_repetition"]')
    assert not (folder / "root/cache/signals/gopher_repetition").exists()


def test_what_is_kept_for_the_next_decision_is_of_the_last_build(folder: pathlib.Path) -> None:
    kept = folder / "root" / ready.folder_of("tiny")
    first = sorted(path.name for path in kept.iterdir())
    assert [name.partition("-")[0] for name in first] == ["edges", "outcome", "rows"]
    write_jsonl(folder / "data/web/more.jsonl", documents("webmore", 5))
    _build(folder / "root", str(folder / "recipe.toml"))
    second = sorted(path.name for path in kept.iterdir())
    assert [name.partition("-")[0] for name in second] == ["edges", "outcome", "rows"]
    assert not set(first) & set(second)


def test_rows_that_cannot_be_opened_are_made_again(folder: pathlib.Path) -> None:
    store = Store(str(folder / "root"))
    (path,) = (folder / "root" / ready.folder_of("tiny")).glob("rows-*")
    path.write_bytes(b"not a database")
    built = _build(folder / "root", str(folder / "recipe.toml"))
    assert (built.is_new, built.manifest.info["decision"]) == (False, manifest.load(store, "v1").info["decision"])


def test_the_command(corpus: pathlib.Path) -> None:
    options = ("--recipe", "recipe.toml", "--set", "gopher_quality.min_words=80", "--root", "root")
    told = curate("try", *options, cwd=corpus)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1] == "next: curate build --recipe recipe.toml --set gopher_quality.min_words=80 --root root"
    assert "kept -> dropped" in told.stdout
    plain = json.loads(curate("try", *options, "--json", cwd=corpus).stdout)
    assert plain["build"] == told.stdout.splitlines()[-1].removeprefix("next: ")
    assert plain["after"]["kept"]["rows"] < plain["before"]["kept"]["rows"]
    for wrong, what in (
        (("--recipe", "recipe.toml"), "what to change, or --against"),
        (("--recipe", "recipe.toml", "--against", "v9"), "manifest 'v9' not found"),
        (("--set", "seed=1"), "--domain NAME or --recipe FILE"),
    ):
        failed = curate("try", *wrong, "--root", "root", cwd=corpus)
        assert failed.returncode == 2, wrong
        assert what in failed.stderr
