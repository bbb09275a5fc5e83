"""An audit says exactly what the rules do: against plain Python over the same signals, and against what was planted."""

import collections
import decimal
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import executor
from curate.audit import audit, audited_sources, keeping_threshold
from curate.build import CheckFailed, build
from curate.recipe import DomainError, Recipe
from curate.recipe_file import read_recipe
from curate.store import Store
from filters import FAMILIES, family
from filters.spec import Rule
from tests.curate.commands import curate
from tests.curate.corpora import documents, text, write_jsonl

_N_SHORT, _N_HASHES, _N_BOTH, _N_CHINESE, _N_GOOD = 9, 6, 3, 4, 178
_COPY = "Too short [bold]by far[/bold] :heart: and with \u202e in it. " + text("copy", 8)
_RECIPE = """
domain = "audited"
[sources.pool]
path = "data/pool"
[sources.book]
path = "data/book"
role = "reference"
[sources.leaflets]
path = "data/leaflets"
role = "reference"
[gopher_quality]
max_hash_ratio = 0.2
"""


def _text(key: str, n_words: int) -> str:
    """A text with two stop words at least."""
    return f"{text(key, n_words - 4)} Rest and have water."


def _hashed(key: str, n_words: int, every: int) -> str:
    return " ".join(f"#{word}" if number % every == 0 else word for number, word in enumerate(_text(key, n_words).split()))


def _planted() -> list[dict[str, Any]]:
    """200 documents: 12 are too short, 9 have a '#' before every third or fourth word, which 3 of them share; 4 have no words."""
    bodies = [_text(f"short{n}", 20 + n) for n in range(_N_SHORT - 1)] + [_COPY]
    bodies += [_hashed(f"hashed{n}", 60 + n, 3) for n in range(_N_HASHES)]
    bodies += [_hashed(f"both{n}", 30 + n, 4) for n in range(_N_BOTH)]
    bodies += ["\u5fc3\u810f\u75c5\u4eba\u6cbb\u7597" * (20 + n) for n in range(_N_CHINESE)]
    bodies += [_text(f"good{n}", 60 + n) for n in range(_N_GOOD)]
    return [{"id": str(number), "text": body} for number, body in enumerate(bodies)]


def _write(folder: pathlib.Path, *, n_files: int = 1, more: str = "") -> str:
    """Write a pool and two references: `book` with every planted document but the good half, `leaflets` with that and one copy."""
    rows = _planted()
    books, leaflets = rows[:110], [*rows[110:], {"id": "again", "text": _COPY}]
    for source, found in [("book", books), ("leaflets", leaflets), ("pool", documents("pool", 12))]:
        for number in range(n_files):
            write_jsonl(folder / f"data/{source}/{number}.jsonl", found[::-1][number::n_files] if n_files > 1 else found)
    (folder / "recipe.toml").write_text(_RECIPE + more)
    return str(folder / "recipe.toml")


def _read(root: pathlib.Path, file: str, *settings: str) -> Recipe:
    return read_recipe(Store(str(root)), file=file, settings=settings)


def _audit(root: pathlib.Path, file: str, *settings: str, of: tuple[str, ...] = (), workers: int = 1, keep: float = 0.99) -> dict[str, Any]:
    recipe = _read(root, file, *settings)
    return audit(Store(str(root)), recipe, audited_sources(recipe, of), run=executor.local(workers), keep=keep)


def _rule(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in data["rules"] if f"{entry['family']}.{entry['rule']}" == name)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[pathlib.Path, str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("audit")
    file = _write(folder)
    return folder / "root", file, _audit(folder / "root", file)


def test_what_was_planted_is_found(base):
    data = base[2]
    n = _N_SHORT + _N_HASHES + _N_BOTH + _N_CHINESE + _N_GOOD + 1
    assert data["n_documents"] == n
    assert data["sources"] == [
        {"source": "book", "role": "reference", "n_documents": 110},
        {"source": "leaflets", "role": "reference", "n_documents": n - 110},
    ]
    short = _rule(data, "gopher_quality.min_words")
    assert (short["threshold"], short["n_killed"], short["n_judged"]) == (50, _N_SHORT + 1 + _N_BOTH, n - _N_CHINESE)
    assert short["share"] == short["n_killed"] / n
    assert short["share_of_judged"] == short["n_killed"] / (n - _N_CHINESE)
    hashes = _rule(data, "gopher_quality.max_hash_ratio")
    assert (hashes["threshold"], hashes["n_killed"], hashes["n_judged"]) == (0.2, _N_HASHES + _N_BOTH, n - _N_CHINESE)
    assert {entry["family"]: entry["n_killed"] for entry in data["families"]}["gopher_quality"] == _N_SHORT + 1 + _N_HASHES + _N_BOTH
    assert [entry["n_killed"] for entry in data["rules"]] == sorted((entry["n_killed"] for entry in data["rules"]), reverse=True)


def _signals(root: pathlib.Path, data: dict[str, Any]) -> Iterator[dict[str, dict[str, Any]]]:
    """Give the cached signals of each document of the reference: family -> signal -> value."""
    store = Store(str(root))
    for source in data["sources"]:
        for path in store.files(f"corpus/{source['source']}"):
            shard = path.rsplit("/", 1)[-1]
            tables = {}
            for name in {entry["family"] for entry in data["rules"]}:
                (found,) = [facts for facts in store.files(f"cache/signals/{name}") if facts.endswith(shard)]
                tables[name] = store.read_table(found).to_pylist()
            for row in range(store.read_table(path, ["doc_id"]).num_rows):
                yield {name: table[row] for name, table in tables.items()}


def _is_kept(value: float | None, keep: str, threshold: float | None, *, is_float: bool) -> bool:
    if value is None or threshold is None:
        return True
    limit = float(np.float32(threshold)) if is_float else threshold
    return value >= limit if keep == ">=" else value <= limit


def _three_digits() -> list[decimal.Decimal]:
    """Every number of three significant digits from 0.001 to 1,000,000, and 0."""
    return [decimal.Decimal(0), *sorted({decimal.Decimal(digits).scaleb(place) for place in range(-5, 4) for digits in range(100, 1000)})]


@pytest.mark.parametrize("keep", [0.99, 0.95])
def test_every_number_is_that_of_plain_python(base, keep):
    data = _audit(base[0], base[1], keep=keep)
    rows = list(_signals(base[0], data))
    assert len(rows) == data["n_documents"]
    killers = [
        {
            f"{entry['family']}.{entry['rule']}"
            for entry in data["rules"]
            if not _is_kept(
                row[entry["family"]][entry["signal"]],
                entry["keep"],
                entry["threshold"],
                is_float=isinstance(row[entry["family"]][entry["signal"]], float),
            )
        }
        for row in rows
    ]
    for entry in data["rules"]:
        name = f"{entry['family']}.{entry['rule']}"
        values = [row[entry["family"]][entry["signal"]] for row in rows]
        assert entry["n_judged"] == sum(value is not None for value in values), name
        assert entry["n_killed"] == sum(name in found for found in killers), name
        assert entry["n_alone"] == sum(found == {name} for found in killers), name
        if entry["n_killed"] <= (1 - keep) * len(rows):
            assert entry["keeping_threshold"] is None, name
            continue
        is_float = any(isinstance(value, float) for value in values)
        limits = [float(limit) for limit in _three_digits() if is_float or limit == int(limit)]
        from_tight = [limit for limit in limits[::-1] if limit < entry["threshold"]] if entry["keep"] == ">=" else limits
        tightest = next(
            limit
            for limit in from_tight
            if sum(_is_kept(value, entry["keep"], limit, is_float=is_float) for value in values) >= keep * len(rows)
        )
        assert entry["keeping_threshold"] == tightest, name
    for summed in data["families"]:
        assert summed["n_killed"] == sum(any(name.split(".")[0] == summed["family"] for name in found) for found in killers)
    assert data["all"] == {"n_killed": sum(bool(found) for found in killers), "share": sum(bool(found) for found in killers) / len(rows)}


@st.composite
def _columns(draw: st.DrawFn) -> tuple[pa.Array, int]:
    kind = draw(st.sampled_from(["ratios", "floats", "counts"]))
    if kind == "counts":
        values = pa.array(draw(st.lists(st.integers(-5, 3_000_000), min_size=1, max_size=60)), pa.int32())
    elif kind == "ratios":
        numbers = st.tuples(st.integers(0, 60), st.integers(1, 60)).map(lambda pair: pair[0] / pair[1])
        values = pa.array(np.array(draw(st.lists(numbers, min_size=1, max_size=60)), np.float32))
    else:
        floats = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)
        values = pa.array(np.array(draw(st.lists(floats, min_size=1, max_size=60)), np.float32))
    return values, draw(st.integers(0, len(values) - 1))


def _tighter(threshold: float, keep: str, *, is_integer: bool) -> float:
    """The next number of three significant digits that kills more (from 0 on the least normal float32)."""
    exact, sign = decimal.Decimal(str(threshold)), 1 if keep == ">=" else -1
    if exact == 0:
        return sign * (1 if is_integer else 1.18e-38)
    place = exact.adjusted() - 2
    is_shrinking = (sign > 0) == (exact < 0)
    if is_shrinking and abs(exact) == decimal.Decimal(1).scaleb(exact.adjusted()):
        place -= 1
    return float(exact + sign * decimal.Decimal(1).scaleb(max(place, 0) if is_integer else place))


@given(_columns(), st.sampled_from([">=", "<="]))
def test_a_threshold_keeps_enough_and_one_step_tighter_does_not(column, keep):
    values, n_allowed = column
    is_integer = pa.types.is_integer(values.type)
    found = keeping_threshold(keep, values.to_numpy(zero_copy_only=False).copy(), n_allowed=n_allowed)
    assert isinstance(found, int) == is_integer
    assert len(f"{decimal.Decimal(str(found)):e}".split("e")[0].replace(".", "").replace("-", "").rstrip("0")) <= 3

    def n_killed(threshold: float) -> int:
        return len(values) - sum(Rule("rule", "signal", keep, threshold, "a test").passes(values).to_pylist())

    assert n_killed(found) <= n_allowed
    assert n_killed(_tighter(found, keep, is_integer=is_integer)) > n_allowed


@pytest.mark.parametrize(
    ("keep", "values", "n_allowed", "expected"),
    [
        (">=", np.array([37, 50, 60], np.int32), 0, 37),
        (">=", np.array([37, 50, 60], np.int32), 1, 50),
        ("<=", np.array([123_456, 5], np.int32), 0, 124_000),
        (">=", np.array([-1234, 5], np.int32), 0, -1240),
        ("<=", np.array([0.1, 0.05], np.float32), 0, 0.1),
        ("<=", np.array([0.99951], np.float32), 0, 1.0),
        (">=", np.array([0.0, 0.7], np.float32), 0, 0.0),
        ("<=", np.array([np.inf, 0.7], np.float32), 0, False),
        (">=", np.array([np.nan, 0.7, 0.8], np.float32), 1, 0.7),
        (">=", np.array([np.nan, 0.7, 0.8], np.float32), 0, False),
    ],
)
def test_a_threshold_is_rounded_towards_looser(keep, values, n_allowed, expected):
    found = keeping_threshold(keep, values, n_allowed=n_allowed)
    assert (found, type(found)) == (expected, type(expected))


def test_examples_are_the_texts_of_least_hash_each_once(tmp_path):
    bodies = [f"Short  and\n\nwith a {'very ' * 30}{n}\tlong word" for n in range(20)]
    for source in ("book", "leaflets"):
        write_jsonl(tmp_path / f"data/{source}/a.jsonl", [{"id": f"{n}", "text": body} for n, body in enumerate(bodies * 2)])
    (tmp_path / "recipe.toml").write_text(_RECIPE.replace('path = "data/pool"', 'path = "data/book"'))
    entry = _rule(_audit(tmp_path / "root", str(tmp_path / "recipe.toml")), "gopher_quality.min_words")
    ids = {hashlib.sha256(body.encode()).hexdigest()[:32]: body for body in bodies}
    drawn = sorted(ids, key=lambda doc_id: hashlib.sha256(f"audit|0|{doc_id}".encode()).hexdigest())[:3]
    assert entry["n_killed"] == 4 * len(bodies)
    assert entry["examples"] == [
        {"doc_id": doc_id, "source": "book", "value": 37, "text": ids[doc_id].replace("  ", " ").replace("\n\n", " ")[:160].rstrip()}
        for doc_id in drawn
    ]


def test_an_example_shows_the_value_that_is_judged(base):
    for entry in base[2]["rules"]:
        assert len(entry["examples"]) == min(3, entry["n_killed"])
        for example in entry["examples"]:
            assert not _is_kept(example["value"], entry["keep"], entry["threshold"], is_float=isinstance(example["value"], float))


@pytest.mark.slow
def test_workers_and_files_are_not_seen(base, tmp_path):
    assert _audit(tmp_path / "root", _write(tmp_path, n_files=4), workers=2) == base[2]


def test_a_second_audit_computes_nothing_and_nothing_is_published(base):
    root, file, data = base

    def state() -> dict[pathlib.Path, int]:
        return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}

    before = state()
    assert _audit(root, file) == data
    assert state() == before
    assert {path.name for path in root.iterdir()} == {"cache", "corpus"}
    assert not (root / "corpus" / "pool").exists()


def test_build_and_audit_share_their_signals(tmp_path):
    file, root, settings = _write(tmp_path), tmp_path / "root", ("tokenizer.vocab_size=300", "dedup.threshold=false", "holdout.share=0.0")
    data = _audit(root, file, of=("pool",))
    assert data["sources"] == [{"source": "pool", "role": "candidate", "n_documents": 12}]
    made = {path: path.stat().st_mtime_ns for path in (root / "cache" / "signals").rglob("*.parquet")}
    assert len(made) == len(data["families"])
    build(Store(str(root)), _read(root, file, *settings), run=executor.local(1))
    assert {path: path.stat().st_mtime_ns for path in made} == made
    signals = sorted((root / "cache" / "signals").rglob("*.parquet"))
    assert _audit(root, file, of=("pool",)) == data
    assert sorted((root / "cache" / "signals").rglob("*.parquet")) == signals


def test_the_toml_keeps_enough_when_it_is_laid_over_the_recipe(base, tmp_path):
    data = base[2]
    tables = tomllib.loads(data["toml"])
    killing = {(entry["family"], entry["rule"]) for entry in data["rules"] if entry["share"] > 0.01}
    assert {(family, rule) for family, table in tables.items() for rule in table} == killing
    assert {("gopher_quality", "min_words"), ("gopher_quality", "max_hash_ratio")} <= killing
    assert "  # kills 4.5 % of the reference at 0.2\n" in data["toml"]
    _write(tmp_path)
    above = f"rules = {json.dumps(list(tables))}\n{_RECIPE.split('[gopher_quality]')[0]}"
    (tmp_path / "recipe.toml").write_text(above + data["toml"])
    again = _audit(tmp_path / "root", str(tmp_path / "recipe.toml"))
    for name, rule in killing:
        entry = _rule(again, f"{name}.{rule}")
        assert entry["threshold"] == tables[name][rule]
        assert entry["share"] <= 0.01
    assert again["toml"] == ""


def test_rules_are_on_off_or_not_used(base):
    root, file, data = base
    on = _rule(data, "gopher_quality.min_words")
    assert (on["is_on"], on["is_off"]) == (True, False)
    off = _rule(_audit(root, file, "gopher_quality.min_words=false"), "gopher_quality.min_words")
    assert (off["is_on"], off["is_off"], off["threshold"], off["n_killed"], off["keeping_threshold"]) == (False, True, None, 0, None)
    unused = _rule(_audit(root, file, "rules=[]"), "gopher_quality.min_words")
    assert (unused["is_on"], unused["is_off"], unused["n_killed"]) == (False, False, on["n_killed"])


@pytest.mark.parametrize(
    ("settings", "is_on"),
    [
        (("rules=['fineweb']",), False),  # made for web pages, and the pool holds none
        (("rules=['fineweb']", "sources.pool.web=true"), True),
        (("rules=[]", "sources.pool.rules=['fineweb']"), True),
        (("sources.pool.rules=['fineweb']", "sources.pool.fineweb.max_short_lines_ratio=false"), False),
    ],
)
def test_a_rule_is_on_where_some_source_is_judged_by_it(base, settings, is_on):
    assert _rule(_audit(base[0], base[1], *settings), "fineweb.max_short_lines_ratio")["is_on"] == is_on


def test_a_family_of_the_recipes_own_is_audited(tmp_path):
    (tmp_path / "own.py").write_text("def n_hashes(text):\n    return text.count('#')\n")
    more = '[families.hashes]\nfunction = "own.py:n_hashes"\n[hashes]\nmax_value = 0\n'
    file = _write(tmp_path, more=more)
    (tmp_path / "recipe.toml").write_text(f"rules = ['hashes']\n{(tmp_path / 'recipe.toml').read_text()}")
    data = _audit(tmp_path / "root", file)
    entry = _rule(data, "hashes.max_value")
    third = sorted(row["text"].count("#") for row in _planted())[-3]  # 2 of 201 documents may go
    assert (entry["n_killed"], entry["is_on"], entry["keeping_threshold"]) == (_N_HASHES + _N_BOTH, True, third)
    assert _rule(data, "hashes.min_value")["is_off"]


def test_a_rule_without_a_value_is_kept(tmp_path):
    rows = [{"id": str(n), "text": "\u5fc3\u810f\u75c5\u4eba\u6cbb\u7597" * (20 + n)} for n in range(20)]
    write_jsonl(tmp_path / "data/a.jsonl", rows)
    (tmp_path / "recipe.toml").write_text('[sources.a]\npath = "data"\n')
    data = _audit(tmp_path / "root", str(tmp_path / "recipe.toml"), of=("a",))
    entry = _rule(data, "gopher_quality.min_words")
    assert (entry["n_judged"], entry["n_killed"], entry["share_of_judged"], entry["examples"]) == (0, 0, None, [])


def test_what_a_person_sees(base):
    root, file, data = base
    done = curate("audit", "--recipe", file, "--root", str(root), "--workers", "1", cwd=root)
    assert done.returncode == 0, done.stderr
    assert "gopher_quality.min_words" in done.stdout
    n_killing = sum(entry["n_killed"] > 0 for entry in data["rules"])
    n_off = sum(entry["is_off"] for entry in data["rules"])
    assert f"{len(data['rules']) - n_killing - n_off} of {len(data['rules'])} rules kill nothing" in done.stdout
    assert data["toml"] in done.stdout
    assert done.stdout.splitlines()[-1] == f"next: curate build --recipe {file} --root {root}"
    assert "every rule over book, leaflets" in done.stderr


def test_a_text_does_not_act_on_the_terminal(tmp_path):
    write_jsonl(tmp_path / "data/a.jsonl", [{"id": "1", "text": _COPY}])
    (tmp_path / "recipe.toml").write_text('[sources.a]\npath = "data"\n')
    done = curate("audit", "--recipe", "recipe.toml", "--of", "a", "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Too short [bold]by far[/bold] :heart: and with \\u202e in it." in done.stdout
    assert "\u202e" not in done.stdout
    assert "# kills 100.0 % of a at 50" in done.stdout


def test_json_is_the_same_as_plain_values(base):
    root, file, data = base
    done = curate("audit", "--recipe", file, "--root", str(root), "--workers", "2", "--json", cwd=root)
    assert json.loads(done.stdout) == data


def test_the_sample_can_be_audited(tmp_path):
    done = curate("audit", "--domain", "medical", "--root", "root", "--workers", "1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["sample"]
    assert collections.Counter(entry["family"] for entry in data["rules"]).keys() <= FAMILIES.keys()
    assert not (tmp_path / "root/models").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no source has the role 'reference'"),
        (["--of", "pol"], "did you mean 'pool'? Sources: pool"),
        (["--of", "pool", "--keep", "nan"], "--keep is nan"),
        (["--source", "pool=nowhere.jsonl", "--of", "pool"], "nowhere.jsonl"),
        (["--source", "pool=none.jsonl", "--of", "pool"], "no document is in pool"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(tmp_path, arguments, message):
    write_jsonl(tmp_path / "pool.jsonl", documents("pool", 12))
    (tmp_path / "none.jsonl").touch()
    (tmp_path / "recipe.toml").write_text('[sources.pool]\npath = "pool.jsonl"\n')
    done = curate("audit", "--recipe", "recipe.toml", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert done.stdout == ""


def test_an_unreadable_reference_is_not_audited(tmp_path):
    file = _write(tmp_path)
    (tmp_path / "data/book/0.jsonl").write_text("nonsense\n")
    with pytest.raises(CheckFailed, match="source 'book' is wholly unreadable"):
        _audit(tmp_path / "root", file)
    with pytest.raises(DomainError, match="--of 'boo' is no source of the recipe; did you mean 'book'"):
        _audit(tmp_path / "root", file, of=("boo",))


@pytest.mark.slow
def test_the_sample_can_be_audited_under_a_remote_root(tmp_path):
    """Sources are read from this machine, so that is where the sample goes."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "curate", "audit", "--domain", "medical", "--root", "memory://audit", "--json", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_documents"] == 300


def test_the_limits_of_the_literature_can_be_audited_in_place_of_the_recipes(tmp_path):
    store, recipe = Store(str(tmp_path / "root")), _read(tmp_path / "root", _write(tmp_path))
    assert recipe.thresholds["gopher_quality"]["max_hash_ratio"] == 0.2
    data = audit(store, recipe, audited_sources(recipe, ()), run=executor.local(1), defaults=True)
    found = {(entry["family"], entry["rule"]): entry["threshold"] for entry in data["rules"]}
    assert found == {(name, rule.name): rule.threshold for name in FAMILIES for rule in family(name).rules}
