"""Families that a recipe brings along: loaded, computed, judged and named like the shipped ones, and every failure is one line."""

import ast
import collections
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate import executor, families, manifest
from curate.annotate import Facts, annotate
from curate.build import Built, build
from curate.recipe import DomainError, OwnFamily
from curate.recipe_file import read_recipe
from curate.sql import connect, select
from curate.store import Store
from curate.verify import verify
from filters.columns import TextBatch
from tests.curate.commands import curate
from tests.curate.corpora import documents, text, write_jsonl

_ROOT = pathlib.Path(__file__).parents[2]
_BAREST = """
[tokenizer]
vocab_size = 400
[holdout]
share = 0.0
[dedup]
threshold = false
[sources.papers]
path = "data/papers"
[sources.web]
path = "data/web"
"""
_DOSAGE = """
def dosage(text):
    words = text.lower().replace(".", "").split()
    return sum(word in ("drug", "dose") for word in words) / len(words)
"""
_BLOCK = """
from datatrove.pipeline.filters.base_filter import BaseFilter

class Brackets(BaseFilter):
    name = "brackets"

    def filter(self, doc):
        doc.text, has = "", "{" in doc.text
        return (False, "bracket") if has else True
"""
_FAMILIES = """
rules = ["dosage", "leaders", "brackets"]
[families.dosage]
function = "rules.py:dosage"
[families.leaders]
function = "leaders.py:LEADERS"
[families.brackets]
datatrove = "block.py:Brackets"
[dosage]
min_value = 0.02
"""
_TWO = """
rules = ["dosage", "leaders"]
[families.dosage]
function = "rules.py:dosage"
[families.leaders]
function = "leaders.py:LEADERS"
"""


def _block_of_page(file: str) -> list[str]:
    """Give the blocks of docs/filters.md that begin with this file's name, without that line."""
    blocks = (_ROOT / "docs" / "filters.md").read_text().split("## A family of your own")[1].split("```")[1::2]
    return [body for block in blocks if (body := block.partition(f"\n# {file}\n")[2])]


def _write(folder: pathlib.Path, head: str, **files: str) -> str:
    """Write a small corpus of two sources, files of code, and a recipe that begins with `head`."""
    papers = documents("paper", 60)
    odd = [{"id": "run", "text": text("paper1000") + " " + "-" * 50}, {"id": "bracket", "text": text("paper1001") + " {x}"}]
    for number in range(2):
        write_jsonl(folder / f"data/papers/{number}.jsonl", papers[number::2])
        write_jsonl(folder / f"data/web/{number}.jsonl", [*documents("web", 40)[number::2], odd[number]])
    for name, source in files.items():
        (folder / f"{name}.py").write_text(source)
    (folder / "recipe.toml").write_text(head + _BAREST)
    return str(folder / "recipe.toml")


def _build(folder: pathlib.Path, recipe: str, *, workers: int = 1, root: str = "root", **more: Any) -> Built:
    store = Store(str(folder / root))
    return build(store, read_recipe(store, file=recipe, **more), run=executor.local(workers))


def _rows(folder: pathlib.Path, built: Built) -> list[dict[str, Any]]:
    store = Store(str(folder / "root"))
    return [row for split in manifest.SPLITS for row in manifest.rows(store, built.manifest, split).to_pylist()]


def _signals(folder: pathlib.Path) -> dict[str, tuple[int, bytes]]:
    found = sorted((folder / "root/cache/signals").rglob("*.parquet"))
    return {str(path.relative_to(folder / "root/cache/signals")): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def _own(folder: pathlib.Path, source: str, name: str = "f", **more: Any) -> OwnFamily:
    (folder / "own.py").write_text(source)
    return OwnFamily("own", **{"function": f"{folder}/own.py:{name}", **more})


def _columns(own: OwnFamily, *texts: str) -> dict[str, list[Any]]:
    computed = families.load(own).compute(TextBatch.from_arrow(pa.array(texts, pa.string())))
    return {name: values.to_pylist() for name, values in computed.items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[pathlib.Path, str, Built]:
    pytest.importorskip("datatrove")
    folder = tmp_path_factory.mktemp("families")
    recipe = _write(folder, _FAMILIES, rules=_DOSAGE, leaders=_block_of_page("leaders.py")[0], block=_BLOCK)
    return folder, recipe, _build(folder, recipe, workers=2)


def test_each_kind_drops_by_its_own_reason(base):
    folder, _, built = base
    reasons = {row["source_id"]: row["reason"] for row in _rows(folder, built)}
    assert reasons["run"] == "leaders.max_longest"
    assert reasons["bracket"] == "brackets.min_is_kept"
    for row in documents("web", 40):
        assert reasons[row["id"]] == "dosage.min_value"
    for row in documents("paper", 60):
        words = row["text"].lower().replace(".", "").split()
        share = sum(word in ("drug", "dose") for word in words) / len(words)
        assert (reasons[row["id"]] == "dosage.min_value") == (np.float32(share) < np.float32(0.02))
    assert collections.Counter(reasons.values())[None] > 10


def test_own_signals_are_columns_in_sql(base):
    folder, _, _ = base
    connection = connect(str(folder / "root"))
    found = select(
        connection,
        "SELECT source_id, dosage.value AS value, leaders.n_longest AS n_longest, brackets.is_kept AS is_kept, brackets.why AS why"
        " FROM manifest JOIN signals USING (shard, \"row\") WHERE source_id IN ('run', 'bracket') ORDER BY source_id",
    ).to_pylist()
    assert [(row["source_id"], row["n_longest"], row["is_kept"], row["why"]) for row in found] == [
        ("bracket", 2, False, "bracket"),
        ("run", 50, True, None),
    ]
    n_rows = select(connection, "SELECT count(*) AS n FROM signals WHERE dosage.value IS NOT NULL").to_pylist()[0]["n"]
    assert n_rows == 60 + 40 + 2


def test_the_number_of_workers_is_not_in_the_digests(base):
    folder, recipe, built = base
    again = _build(folder, recipe, workers=1, root="other")
    assert again.manifest.info["decision"] == built.manifest.info["decision"]
    assert again.manifest.fingerprint == built.manifest.fingerprint


def test_another_place_of_the_code_is_the_same_version(base, tmp_path):
    _, _, built = base
    recipe = _write(tmp_path, _FAMILIES, rules=_DOSAGE, leaders=_block_of_page("leaders.py")[0], block=_BLOCK)
    assert _build(tmp_path, recipe).manifest.info["decision"] == built.manifest.info["decision"]


def test_a_version_with_own_families_verifies(base):
    folder, _, built = base
    assert verify(Store(str(folder / "root")), built.manifest) == ([], [])


def test_the_manifest_names_the_code(base):
    folder, _, built = base
    recipe, info = built.manifest.info["recipe"]["families"], built.manifest.info["families"]
    assert {name: entry["kind"] for name, entry in info.items()} == {"dosage": "function", "leaders": "family", "brackets": "datatrove"}
    for name, entry in info.items():
        assert recipe[name]["code"] == entry["code"]
        assert list((folder / "root" / entry["folder"]).glob("*.parquet"))
    assert str(folder) not in json.dumps(built.manifest.info)


def test_nothing_is_published_or_computed_where_nothing_changed(base):
    folder, recipe, _ = base
    before = _signals(folder)
    assert not _build(folder, recipe).is_new
    assert _signals(folder) == before


def test_a_changed_file_recomputes_its_family_and_no_other(tmp_path):
    recipe = _write(tmp_path, _TWO, rules=_DOSAGE, leaders=_block_of_page("leaders.py")[0])
    first = _build(tmp_path, recipe)
    before = _signals(tmp_path)
    (tmp_path / "rules.py").write_text(_DOSAGE.replace("dose", "heal"))  # as many bytes
    second = _build(tmp_path, recipe)
    assert (second.is_new, second.manifest.version) == (True, "v2")
    after = _signals(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"dosage"}
    assert first.manifest.info["recipe"]["families"]["dosage"]["code"] != second.manifest.info["recipe"]["families"]["dosage"]["code"]
    query = "SELECT sum(dosage.value) AS total FROM signals"
    totals = [select(connect(str(tmp_path / "root"), version), query).to_pylist()[0]["total"] for version in ("v1", "v2")]
    assert totals[0] > totals[1] > 0


def test_a_family_that_is_added_computes_only_itself(tmp_path):
    recipe = _write(tmp_path, 'rules = ["gopher_quality"]\n', rules=_DOSAGE)
    _build(tmp_path, recipe)
    before = _signals(tmp_path)
    _write(tmp_path, 'rules = ["gopher_quality", "dosage"]\n[families.dosage]\nfunction = "rules.py:dosage"\n')
    _build(tmp_path, recipe)
    after = _signals(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"dosage"}


def test_a_changed_threshold_of_an_own_family_recomputes_nothing(tmp_path):
    recipe = _write(tmp_path, 'rules = ["dosage"]\n[families.dosage]\nfunction = "rules.py:dosage"\n', rules=_DOSAGE)
    _build(tmp_path, recipe)
    before = _signals(tmp_path)
    assert _build(tmp_path, recipe, settings=("dosage.min_value=0.02",)).manifest.version == "v2"
    assert _signals(tmp_path) == before


def test_a_version_of_before_own_families_is_still_read(base):
    folder, _, built = base
    shutil.copytree(folder / "root", folder / "old")
    store = Store(str(folder / "old"))
    info = {key: value for key, value in built.manifest.info.items() if key != "families"}
    store.write_json(f"manifests/{built.manifest.version}/manifest.json", info)
    assert select(connect(store.url()), "SELECT count(*) AS n FROM signals").to_pylist() == [{"n": 102}]


def test_the_speed_of_a_function_is_said_and_of_columns_not(tmp_path, capfd):
    _build(tmp_path, _write(tmp_path, _TWO, rules=_DOSAGE, leaders=_block_of_page("leaders.py")[0]))
    lines = [line for line in capfd.readouterr().err.splitlines() if "document by document" in line]
    assert len(lines) == len(list((tmp_path / "root/corpus").rglob("*.parquet")))
    assert sum(int(line.split()[1]) for line in lines) == 102
    assert all(line.startswith("dosage: ") and line.endswith(" docs/s (Python, document by document)") for line in lines)


def test_annotate_says_how_much_there_is_to_do(base):
    folder, _, _ = base
    store, seen = Store(str(folder / "root")), []
    shards = [path.removeprefix("corpus/") for path in store.files("corpus", ".parquet")]
    newer = dataclasses.replace(families.facts_of({}, "statistics"), version=99)
    annotate(store, shards, [newer], run=lambda items, fn, *, label, sizes: seen.append((items, sizes)))
    ((items, sizes),) = seen
    assert items == shards
    for shard, size in zip(shards, sizes, strict=True):
        texts = store.read_table(f"corpus/{shard}", ["text"])["text"].to_pylist()
        assert size.n_docs == len(texts)
        assert size.n_bytes == pytest.approx(sum(len(body) for body in texts), rel=0.2)  # Parquet keeps equal texts once


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_in_a_function_is_one_line_that_names_the_document(tmp_path, workers):
    source = 'def dosage(text):\n    return 1 / text.count("o")\n'
    recipe = _write(tmp_path, 'rules = ["dosage"]\n[families.dosage]\nfunction = "rules.py:dosage"\n', rules=source)
    write_jsonl(tmp_path / "data/web/bad.jsonl", [{"id": "bad", "text": "The river " * 30}])
    begins = ("The river " * 30)[:80]
    with pytest.raises(DomainError) as error:
        _build(tmp_path, recipe, workers=workers)
    assert str(error.value) == (
        "families.dosage: ZeroDivisionError: division by zero (rules.py, line 2) on the document that begins "
        f"{begins!r}; correct the code, and build again"
    )
    assert manifest.versions(Store(str(tmp_path / "root"))) == []


def test_a_broken_recipe_ends_with_one_line_and_exit_2(tmp_path):
    recipe = _write(tmp_path, 'rules = ["dosage"]\n[families.dosage]\nfunction = "rules.py:dosag"\n', rules=_DOSAGE)
    done = curate("build", "--recipe", recipe, "--workers", "1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("error: families.dosage: ")
    assert "has no 'dosag'; did you mean 'dosage'?" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


_BATCHED = """
from datatrove.pipeline.filters.base_filter import BaseFilter

class Batched(BaseFilter):
    name = "batched"

    def __init__(self, batch_size):
        super().__init__(batch_size=batch_size)

    def filter(self, doc):
        raise NotImplementedError

    def filter_batch(self, batch):
        assert len(batch) <= self.batch_size
        return [(len(doc.text) > 1, f"of {len(batch)}") for doc in batch]

class Short(Batched):
    def filter_batch(self, batch):
        return []

class Deaf(Batched):
    def filter_batch(self, batch):
        return [doc.metadata["url"] for doc in batch]

class Other:
    pass
"""


@pytest.mark.parametrize(
    ("size", "why"),
    [(1, [None, "of 1", None, "of 1", "of 1"]), (2, [None, "of 2", None, "of 2", "of 1"]), (9, [None, "of 5"] * 2 + ["of 5"])],
)
def test_a_filter_that_takes_batches_gets_them(tmp_path, size, why):
    pytest.importorskip("datatrove")
    (tmp_path / "blocks.py").write_text(_BATCHED)
    own = OwnFamily("own", datatrove=f"{tmp_path}/blocks.py:Batched", arguments={"batch_size": size})
    assert _columns(own, "ab", "", "\u6587\u5b57", "a", "") == {"is_kept": [True, False, True, False, False], "why": why}


def test_a_filter_of_datatrove_judges_as_in_datatrove():
    pytest.importorskip("datatrove")
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter

    arguments = {"filter_no_terminal_punct": False, "min_num_sentences": -1}
    texts = [text("paper1"), "", "{}, {}, and one more", "\u6587\u5b57\u6587\u5b57", "Three words lorem ipsum.", "a\n" * 50]
    judged = [C4QualityFilter(**arguments).filter(Document(text=body, id="")) for body in texts]
    own = OwnFamily("trove", datatrove="C4QualityFilter", arguments=arguments)
    assert _columns(own, *texts) == {
        "is_kept": [one is True for one in judged],
        "why": [None if one is True else one[1] for one in judged],
    }
    assert _columns(own, *texts)["why"] == [None, None, "curly_bracket", None, "lorem_ipsum", None]


def test_what_a_function_may_answer(tmp_path):
    source = """
import numpy as np

ANSWERS = {"t": True, "f": False, "i": 3, "x": 0.1, "n": None, "": np.int64(2), "\u6587": np.float32(0.5), "b": np.bool_(True)}
f = ANSWERS.__getitem__
"""
    own = _own(tmp_path, source)
    assert _columns(own, "t", "f", "i", "x", "n", "", "\u6587", "b")["value"] == [1, 0, 3, float(np.float32(0.1)), None, 2, 0.5, 1]
    assert _columns(own) == {"value": []}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("f = str.upper", "'A B' is no value (a number, a boolean, or None"),
        ("f = lambda text: float('nan')", "nan is no value"),
        ("f = lambda text: 10 ** 400", "OverflowError: int too large to convert to float"),
        ("f = lambda: 1", "TypeError: <lambda>() takes 0 positional arguments but 1 was given"),
        ("def f(text):\n    raise ValueError('two\\nlines')", "ValueError: two lines (own.py, line 2)"),
    ],
)
def test_what_a_function_may_not_answer(tmp_path, source, message):
    with pytest.raises(DomainError) as error:
        _columns(_own(tmp_path, source), "a b")
    assert str(error.value).startswith(f"families.own: {message}")
    assert str(error.value).endswith("on the document that begins 'a b'; correct the code, and build again")


_FAMILY = """
import pyarrow as pa
from filters.spec import Family, Rule, Signal

def compute(batch):
    return {columns}

FAMILY = Family("whatever", 7, (Signal("n", "int32", "m"),{signals}), (Rule("max_n", "{rule}", "<=", 1, "s"),), compute)
"""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"signals": 'Signal("n", "int32", "m"),'}, "the Family is not consistent"),
        ({"signals": 'Signal("N-2", "int32", "m"),'}, "the Family is not consistent"),
        ({"signals": 'Signal("m", "int64", "m"),'}, "the Family is not consistent"),
        ({"signals": 'Signal("m", "string", "m"),', "rule": "m"}, "the Family is not consistent"),
        ({"rule": "m"}, "the Family is not consistent"),
        ({"columns": "{}"}, "compute does not give one column per signal, in order, type and length"),
        ({"columns": "{'n': pa.array([1] * len(batch))}"}, "compute does not give one column per signal"),
        ({"columns": "{'n': pa.array([1], pa.int32())}"}, "compute does not give one column per signal"),
        ({"columns": "{'n': batch.wrods}"}, "AttributeError: 'TextBatch' object has no attribute 'wrods'"),
    ],
)
def test_a_family_that_is_not_consistent_is_refused(tmp_path, more, message):
    filled = {"columns": "{'n': pa.array([1] * len(batch), pa.int32())}", "signals": "", "rule": "n"}
    assert _columns(_own(tmp_path, _FAMILY.format(**filled), "FAMILY"), "a", "b") == {"n": [1, 1]}
    with pytest.raises(DomainError, match=r"^families\.own: ") as error:
        _columns(_own(tmp_path, _FAMILY.format(**{**filled, **more}), "FAMILY"), "a", "b")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"function": "{folder}/no.py:f"}, "no.py' not found; a path starts at the recipe's folder"),
        ({"function": "{folder}/own.py:g"}, "own.py has no 'g'; did you mean"),
        ({"function": "{folder}/own.py"}, "it takes FILE.py:NAME or MODULE:NAME"),
        ({"function": "{folder}/own.py:CONSTANT"}, "CONSTANT of {folder}/own.py is int; it takes a function of one text"),
        ({"function": "no_such_module:f"}, "module 'no_such_module' not found"),
        ({"function": "no_such.module:f"}, "module 'no_such.module' not found"),
        ({"function": "math:sqrt"}, "module 'math' not found as Python source"),
        ({"function": "{folder}/syntax.py:f"}, "syntax.py cannot be run: SyntaxError: "),
        ({"function": "{folder}/imports.py:f"}, "ModuleNotFoundError: No module named 'no_such_module' (imports.py, line 2)"),
        ({"function": "nowhere://a/b.py:f"}, "'nowhere://a/b.py' not found"),
        ({"datatrove": "C4QualtyFilter"}, "datatrove.pipeline.filters has no 'C4QualtyFilter'; did you mean 'C4QualityFilter'?"),
        ({"datatrove": "C4QualityFilter", "arguments": {"no": 1}}, "C4QualityFilter refuses the arguments {{'no': 1}}: TypeError: "),
        ({"datatrove": "c4_filters"}, "c4_filters is no filter of datatrove's"),
        ({"datatrove": "{folder}/blocks.py:Other"}, "is no filter of datatrove's"),
        ({"datatrove": "{folder}/blocks.py:Batched"}, "missing 1 required positional argument: 'batch_size'"),
        ({"datatrove": "{folder}/blocks.py:Short", "arguments": {"batch_size": 1}}, "filter_batch gave 0 results for 1 documents"),
        ({"datatrove": "{folder}/blocks.py:Deaf", "arguments": {"batch_size": 1}}, "KeyError: 'url' (blocks.py, line 23) on the document"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(tmp_path, own, message):
    if "datatrove" in own:
        pytest.importorskip("datatrove")
    (tmp_path / "own.py").write_text("CONSTANT = 1\ndef f(text): return 1\n")
    (tmp_path / "syntax.py").write_text("def f(text) return 1\n")
    (tmp_path / "imports.py").write_text("\nimport no_such_module\n")
    (tmp_path / "blocks.py").write_text(_BATCHED)
    filled = {key: value.format(folder=tmp_path) if isinstance(value, str) else value for key, value in own.items()}
    with pytest.raises(DomainError, match=r"^families\.own: ") as error:
        _columns(OwnFamily("own", **filled), "a")
    assert message.format(folder=tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_without_datatrove_the_error_says_what_to_install(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['datatrove'] = None\n"
        "from curate import families, recipe\n"
        "try:\n    families.load(recipe.OwnFamily('own', datatrove='C4QualityFilter'))\n"
        "except recipe.DomainError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_ROOT, check=True)
    assert done.stdout.startswith("families.own: ModuleNotFoundError: ")
    assert done.stdout.endswith('install it: pip install "gapless[datatrove]"\n')


def test_a_module_is_found_by_its_name_and_may_import_its_neighbours():
    assert _columns(OwnFamily("own", function="keyword:iskeyword"), "for", "fore")["value"] == [1, 0]
    with pytest.raises(DomainError, match=r"\{'a': 1\} is no value"):
        _columns(OwnFamily("own", function="tomllib._parser:loads"), "a = 1")


def test_a_changed_file_is_run_as_it_is_now(tmp_path):
    assert _columns(_own(tmp_path, "def f(text): return 1"), "a")["value"] == [1]
    assert _columns(_own(tmp_path, "def f(text): return 2"), "a")["value"] == [2]
    assert _columns(_own(tmp_path, "def f(text): return 1"), "a")["value"] == [1]


def test_a_build_ends_with_the_code_that_it_began_with(tmp_path):
    facts = families.facts_of({"own": _own(tmp_path, "def f(text): return 1")}, "own")
    _own(tmp_path, "def f(text): return 2")
    assert _computed_elsewhere(tmp_path, facts) == [[1.0]]


def test_a_worker_needs_no_file(tmp_path):
    facts = families.facts_of({"own": _own(tmp_path, _block_of_page("leaders.py")[0], "LEADERS")}, "own")
    (tmp_path / "own.py").unlink()
    assert _computed_elsewhere(tmp_path, facts) == [[1]]


def _computed_elsewhere(folder: pathlib.Path, facts: Facts) -> list[list[Any]]:
    """Compute the facts of the text "a" in a worker process."""
    executor.local(2)([folder / "0", folder / "1"], functools.partial(_compute_one, facts), label="compute")
    found = [ast.literal_eval((folder / name).read_text()) for name in ("0", "1")]
    assert found[0] == found[1]
    return found[0]


def _compute_one(facts: Facts, path: pathlib.Path) -> None:
    columns = facts.compute(pa.record_batch({"text": ["a"]}), TextBatch.from_arrow(pa.array(["a"])))
    path.write_text(repr([column.to_pylist() for column in columns]))


def test_a_worker_with_another_datatrove_stops_the_build(tmp_path):
    pytest.importorskip("datatrove")
    facts = families.facts_of({"own": OwnFamily("own", datatrove="C4ParagraphFilter")}, "own")
    other = functools.partial(facts.compute.func, *facts.compute.args[:2], "0" * 64)
    with pytest.raises(DomainError, match=r"families\.own: a worker has another version of datatrove"):
        other(pa.record_batch({"text": ["a"]}), TextBatch.from_arrow(pa.array(["a"])))


def test_the_digest_is_of_what_computes_and_of_nothing_else(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    source = "def f(text): return 1\ng = f\n"
    first = families.code_digest(_own(tmp_path / "a", source))
    assert families.code_digest(_own(tmp_path / "b", source)) == first
    assert families.code_digest(_own(tmp_path / "b", source, "g")) != first
    assert families.code_digest(_own(tmp_path / "b", source + "# 2\n")) != first


def test_the_digest_of_a_filter_has_its_arguments_and_its_source(tmp_path):
    pytest.importorskip("datatrove")
    (tmp_path / "blocks.py").write_text(_BATCHED)
    made = [
        OwnFamily("a", datatrove="C4QualityFilter"),
        OwnFamily("a", datatrove="C4QualityFilter", arguments={"min_num_sentences": -1}),
        OwnFamily("a", datatrove="C4ParagraphFilter"),
        OwnFamily("a", datatrove=f"{tmp_path}/blocks.py:Batched", arguments={"batch_size": 1}),
        OwnFamily("a", datatrove=f"{tmp_path}/blocks.py:Batched", arguments={"batch_size": 2}),
    ]
    digests = [families.code_digest(own) for own in made]
    assert len(set(digests)) == len(made)
    assert digests == [families.code_digest(OwnFamily("b", datatrove=own.datatrove, arguments=own.arguments)) for own in made]
    (tmp_path / "blocks.py").write_text(_BATCHED + "\n")
    assert families.code_digest(made[3]) != digests[3]


def test_a_shipped_family_is_found_by_its_name():
    assert families.family_of({}, "gopher_quality").name == "gopher_quality"
    assert families.facts_of({}, "gopher_quality").path("a/b.parquet").startswith("cache/signals/gopher_quality/")


@pytest.mark.slow
def test_the_page_ships_a_family_in_under_40_lines(tmp_path):
    module, row, test = _block_of_page("leaders.py")[0], _block_of_page("__init__.py")[0], _block_of_page("test_leaders.py")[0]
    assert sum(len(part.strip("\n").splitlines()) for part in (module, row, test)) + 1 < 40  # and one row for the golden digest
    shutil.copytree(_ROOT / "filters", tmp_path / "filters", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "filters" / "leaders.py").write_text(module)
    table = (tmp_path / "filters" / "__init__.py").read_text()
    opening = "\nFAMILIES: Final[dict[str, str]] = {\n"
    assert table.count(opening) == 1
    (tmp_path / "filters" / "__init__.py").write_text(table.replace(opening, opening + row))
    (tmp_path / "test_leaders.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_leaders.py"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_recipes_of_the_page_build(tmp_path, number):
    recipes = _block_of_page("recipe.toml")
    assert len(recipes) == 3
    if "datatrove" in recipes[number]:
        pytest.importorskip("datatrove")
    recipe = _write(tmp_path, recipes[number], leaders=_block_of_page("leaders.py")[0], rules=_block_of_page("rules.py")[0])
    doses = [{"id": f"dose{n}", "text": text(f"paper{n}") + " It was 5 mg, then 2.5 ml."} for n in range(2000, 2020)]
    write_jsonl(tmp_path / "data/papers/doses.jsonl", doses)
    built = _build(tmp_path, recipe)
    reasons = collections.Counter(row["reason"] for row in _rows(tmp_path, built))
    expected = {0: ("leaders.max_longest", 1), 1: ("dosage.min_value", 102), 2: ("trove.min_is_kept", 1)}[number]
    assert reasons[expected[0]] == expected[1]
    if number == 2:
        query = _query_of_page()
        assert select(connect(str(tmp_path / "root")), query).to_pylist() == [{"why": "curly_bracket", "n_rows": 1}]


def _query_of_page() -> str:
    return (_ROOT / "docs" / "filters.md").read_text().split("```sql\n")[1].split("```")[0]
