import importlib.util
import json
import pathlib
import re
import shutil

import duckdb
import pyarrow.parquet as pq
import pytest
import transformers

from curate.store import Store
from train.config import TrainConfig
from train.figures import flops_per_token, step_figures
from train.journal import read_metrics
from train.parallel import World

_PAGE = pathlib.Path(__file__).parents[2] / "docs" / "training.md"
_SHAPE = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2}
_WEIGHTS_OF_A_LAYER = 4 * 8 * 8 + 3 * 8 * 12 + 2 * 8


@pytest.mark.parametrize("tied", [False, True])
def test_flops_are_six_for_each_weight_that_multiplies_and_twelve_for_each_pair_of_attention(tied):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(tie_word_embeddings=tied, **_SHAPE))
    n_weights = 3 * _WEIGHTS_OF_A_LAYER + 8 + 11 * 8  # the last one is the head; looking up an embedding multiplies nothing
    assert flops_per_token(model, 100) == 6 * n_weights + 12 * 3 * 8 * 100


def test_figures_of_a_step_are_those_of_all_processes():
    config = TrainConfig(peak_tflops=2.0, cost_per_hour=36.0)
    found = step_figures(config, n_tokens=1000, seconds=0.5, waited_s=0.01, flops=1e9, world=World(0, 4, 0))
    assert found == {"tokens_per_s": 2000.0, "wait_ratio": 0.02, "mfu": 2000 * 1e9 / (2e12 * 4), "cost": pytest.approx(0.5 / 3600 * 36 * 4)}
    found = step_figures(TrainConfig(), n_tokens=1000, seconds=0.5, waited_s=0.0, flops=1e9, world=World())
    assert (found["mfu"], found["cost"]) == (None, None)


_LOGGED = ("seq_len=64", "global_batch=8", "micro_batch=4", "n_evals=0", "max_steps=4", "checkpoint_every=2")


@pytest.fixture
def logged(root, train):
    """A root with the run `logged`, of four steps with two checkpoints, with its losses by document."""
    settings = [part for setting in (*_LOGGED, "log_documents=true", "cost_per_hour=3600") for part in ("--set", setting)]
    done = train("run", "--manifest", "v1", "--out", "logged", *settings, "--root", str(root))
    assert done.code == 0, done.err
    return root


def _documents(root):
    return {path.name: path.read_bytes() for path in sorted((root / "runs/logged/documents").iterdir())}


def test_losses_of_documents_are_those_of_the_steps(logged):
    assert list(_documents(logged)) == ["step-0.parquet", "step-2.parquet"]
    rows = [row for name in _documents(logged) for row in pq.read_table(logged / "runs/logged/documents" / name).to_pylist()]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    row_ids = pq.read_table(next((logged / "manifests/v1/train").iterdir()))["row_id"].to_pylist()
    assert all(row["row_id"] == row_ids[row["ordinal"]] for row in rows)
    for line in read_metrics(Store(str(logged)), "logged"):
        here = [row for row in rows if row["step"] == line["step"]]
        assert sum(row["tokens"] for row in here) == 8 * 64
        assert sum(row["tokens"] * row["loss"] for row in here) / (8 * 64) == pytest.approx(line["loss"], rel=1e-6)


def test_a_resumed_run_has_each_piece_once(logged, train):
    before = _documents(logged)
    shutil.rmtree(logged / "runs/logged/checkpoints/step-4")
    (logged / "runs/logged/result.json").unlink()
    (logged / "runs/logged/documents/step-3.parquet").write_bytes(b"of a killed attempt that had another checkpoint_every")
    done = train("run", "--manifest", "v1", "--out", "logged", "--resume", "--root", str(logged))
    assert done.code == 0, done.err
    assert _documents(logged) == before


def test_the_cost_of_a_run_is_that_of_all_its_steps(logged):
    lines = [json.loads(line) for line in (logged / "runs/logged/metrics.jsonl").read_text().splitlines()]
    result = json.loads((logged / "runs/logged/result.json").read_text())
    assert result["cost"] == pytest.approx(sum(line["cost"] for line in lines))
    assert all(line["cost"] == pytest.approx(8 * 64 / line["tokens_per_s"], rel=1e-3) for line in lines)  # one a second


def test_the_query_of_the_page_joins_losses_with_deciles(logged):
    [query] = re.findall(r"```sql\n(SELECT decile.*?)```", _PAGE.read_text(), flags=re.DOTALL)
    # The sample of the tests has no scorer, so the deciles are of another column.
    query = query.replace("runs/RUN", str(logged / "runs/logged")).replace("manifests/v1", str(logged / "manifests/v1"))
    found = duckdb.sql(query.replace("quality", "n_bytes")).fetchall()
    assert len(found) > 1
    assert {row[0] for row in found} <= set(range(1, 11))
    rows = [row for name in _documents(logged) for row in pq.read_table(logged / "runs/logged/documents" / name).to_pylist()]
    assert sum(row[1] for row in found) == len({row["row_id"] for row in rows})
    assert sum(row[2] for row in found) == 4 * 8 * 64
    assert sum(row[2] * row[3] for row in found) == pytest.approx(sum(row["tokens"] * row["loss"] for row in rows), rel=1e-9)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_tensorboard_that_is_not_there_is_one_line(root, train):
    done = train("run", "--manifest", "v1", "--set", "tensorboard=true", "--root", str(root))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: tensorboard is true and the package is not installed; install it")


def _losses(root, train, name, *settings):
    arguments = [part for setting in (*_LOGGED, "max_steps=2", *settings) for part in ("--set", setting)]
    done = train("run", "--manifest", "v1", "--out", name, *arguments, "--root", str(root))
    assert done.code == 0, done.err
    return [line["loss"] for line in read_metrics(Store(str(root)), name)]


def test_activation_checkpointing_changes_nothing(root, train):
    assert _losses(root, train, "again", "activation_checkpointing=1") == _losses(root, train, "once")


def test_documents_that_see_each_other_have_other_losses(root, train):
    # Long documents come first: it takes some steps until two of them share a sequence.
    settings = ("max_steps=8",)
    apart, together = _losses(root, train, "apart", *settings), _losses(root, train, "together", *settings, "attention=causal")
    assert apart != together
    assert apart == pytest.approx(together, rel=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # while torch compiles it warns of itself
@pytest.mark.parametrize("settings", [(), ("activation_checkpointing=2",), ("dtype=bfloat16",)])
def test_compiled_parts_compute_the_same(root, train, settings):
    tolerance = 1e-2 if settings == ("dtype=bfloat16",) else 1e-5
    compiled = _losses(root, train, "compiled", "compile=true", *settings)
    assert compiled == pytest.approx(_losses(root, train, "eager", *settings), rel=tolerance)
