import io
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rich.console
import safetensors.torch

from curate import manifest as manifests
from curate.store import Store
from train import checkpoint
from train.journal import read_metrics, read_scores
from train.loop import open_run
from train.loop import train as train_to_the_end
from train.run import Request, prepare

_INFINITE = ("schedule=infinite", "warmup_steps=2", "cooldown_steps=3", "anneal_steps=4", "checkpoint_every=100", "keep_checkpoints=1")
# Two steps, the second one of annealing.
_SETTINGS = ("warmup_steps=0", "cooldown_steps=0", "anneal_steps=1", "max_steps=2")
_ON = ("--continue", "first", "--out", "second", *(part for setting in _SETTINGS for part in ("--set", setting)))


@pytest.fixture(scope="module")
def first(finished_root, tmp_path_factory):
    """A root with the run `first`, of twelve steps that anneal from step 8 on."""
    ignored = shutil.ignore_patterns("corpus", "inputs", "signals", "sample")
    root = shutil.copytree(finished_root, tmp_path_factory.mktemp("lineage") / "root", ignore=ignored)
    settings = ("seq_len=64", "global_batch=8", "micro_batch=4", "n_evals=2", "max_steps=12", "keep_best=domain", *_INFINITE)
    run = prepare(Store(str(root)), Request("v1", settings=settings, out="first"))
    train_to_the_end(run, open_run(run), rich.console.Console(file=io.StringIO()))
    return root


@pytest.fixture
def root(first, tmp_path):
    return shutil.copytree(first, tmp_path / "root")


def _weights(root, name, step):
    return safetensors.torch.load_file(root / checkpoint.path_of(name, step) / "model.safetensors")


def test_the_checkpoint_before_the_annealing_and_the_best_one_stay(store):
    scores = {line["step"]: line["bpb"] for line in read_scores(store, "first")["domain"]}
    best = min((step for step in scores if step), key=lambda step: scores[step])
    assert checkpoint.complete_steps(store, "first") == sorted({8, 12, best})


def test_a_run_goes_on_from_before_the_annealing_with_weights_optimizer_and_rate(root, store, train):
    done = train("run", "--manifest", "v1", *_ON, "--root", str(root))
    assert done.code == 0, done.err
    record = json.loads((root / "runs/second/run.json").read_text())
    assert record["continued"] == {"run": "first", "step": 8, "model": "tiny", "fingerprint": record["fingerprint"]}
    assert record["model"] == "runs/first/checkpoints/step-8"
    constant = read_metrics(store, "first")[7]["lr"]
    assert [line["lr"] for line in read_metrics(store, "second")] == [constant, pytest.approx(4e-3 * 0.1)]
    at_8 = {name: lines[2]["bpb"] for name, lines in read_scores(store, "first").items()}
    assert {name: lines[0]["bpb"] for name, lines in read_scores(store, "second").items()} == at_8
    state = safetensors.torch.load_file(next((root / checkpoint.path_of("second", 2) / "optimizer").iterdir()))
    assert {float(value) for key, value in state.items() if key.endswith("/step")} == {8.0 + 2.0}


def test_a_run_that_goes_on_from_another_one_resumes_without_being_told_again(root, train):
    assert train("run", "--manifest", "v1", *_ON, "--root", str(root)).code == 0
    before = _weights(root, "second", 2)
    shutil.rmtree(root / "runs/second/checkpoints")
    (root / "runs/second/result.json").unlink()
    done = train("run", "--manifest", "v1", "--out", "second", "--resume", "--root", str(root))
    assert done.code == 0, done.err
    assert all((tensor == before[name]).all() for name, tensor in _weights(root, "second", 2).items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--continue", "none"], "run 'none' not found"),
        (["--continue", "first/step-3"], "run 'first' has no checkpoint step-3; it has: step-"),
        (["--continue", "first", "--model", "tiny"], "--continue and --model are both given"),
        (["--continue", "done", "--out", "first", "--resume"], "run 'first' was not begun from runs/done/checkpoints/step-12"),
    ],
)
def test_what_cannot_be_gone_on_from_is_refused(root, train, arguments, message):
    done = train("run", "--manifest", "v1", *arguments, "--root", str(root))
    assert done.code == 2
    assert done.err.startswith(f"error: {message}")


def _without(root, ordinal, version="v2", *, held_out=True):
    """Write a version: v1 without one row of split train, which is held out or in no split at all; gives its row_id."""
    shutil.copytree(root / "manifests/v1", root / "manifests" / version)
    info = json.loads((root / f"manifests/{version}/manifest.json").read_text())
    info |= {"version": version, "fingerprint": version[1:] * 64}
    (root / f"manifests/{version}/manifest.json").write_text(json.dumps(info))
    train_part, holdout_part = (root / f"manifests/{version}/{split}/part-00000.parquet" for split in ("train", "holdout"))
    train_rows, holdout = pq.read_table(train_part), pq.read_table(holdout_part)
    if held_out:
        pq.write_table(pa.concat_tables([holdout, train_rows.slice(ordinal, 1).cast(holdout.schema)]), holdout_part)
    pq.write_table(pa.concat_tables([train_rows.slice(0, ordinal), train_rows.slice(ordinal + 1)]), train_part)
    return train_rows["row_id"][ordinal].as_py()


def test_another_manifest_is_refused_on_resume_and_taken_along_when_told(root, store, train):
    v1 = manifests.load(store, "v1")
    draws = [
        manifests.draw(store, v1, stage=0, component=part.name, epoch=epoch)["ordinal"].to_pylist()
        for part in v1.stages[0].components
        for epoch in range(v1.stages[0].epochs)
    ]
    drawn = {ordinal for draw in draws for ordinal in draw}
    unseen = next(n for n in range(manifests.rows(store, v1, "train", ["row_id"]).num_rows) if n not in drawn)
    _without(root, unseen)
    (root / "runs/first/result.json").unlink()
    refused = train("run", "--manifest", "v2", "--out", "first", "--resume", "--root", str(root))
    assert refused.code == 2
    assert "fingerprint was" in refused.err
    assert "--continue RUN --out NAME" in refused.err
    done = train("run", "--manifest", "v2", *_ON, "--root", str(root))
    assert done.code == 0, done.err
    record = json.loads((root / "runs/second/run.json").read_text())
    assert (record["fingerprint"], record["continued"]["fingerprint"]) == ("2" * 64, v1.fingerprint)


def test_a_holdout_that_was_trained_on_is_refused_down_the_line(root, store, train):
    v1 = manifests.load(store, "v1")
    drawn = manifests.draw(store, v1, stage=0, component="domain", epoch=0)["ordinal"][0].as_py()
    row_id = _without(root, drawn)
    expected = f"error: 1 texts that v2 holds out were trained on by run 'first' on v1 (row {row_id} is one)"
    done = train("run", "--manifest", "v2", *_ON, "--root", str(root))
    assert (done.code, done.err.startswith(expected)) == (2, True)
    # Second never had the row, but what it goes on from had.
    _without(root, drawn, "v3", held_out=False)
    assert train("run", "--manifest", "v3", *_ON, "--root", str(root)).code == 0
    further = train("run", "--manifest", "v2", "--continue", "second", "--out", "third", "--root", str(root))
    assert (further.code, further.err.startswith(expected)) == (2, True)
