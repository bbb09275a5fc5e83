import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import safetensors.torch

from curate.store import Store
from train.journal import read_metrics

_ROOT = pathlib.Path(__file__).parents[2]
# At the peak of tiny models, 4e-3, training on so few entries is unstable and multiplies rounding by a hundred in single steps.
_SETTINGS = (
    "lr=1e-3",
    "seq_len=32",
    "global_batch=8",
    "n_evals=1",
    "max_steps=50",
    "dtype=float64",
    "checkpoint_every=10",
    "log_documents=true",
)


def _command(n_processes, *arguments):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)] if n_processes > 1 else []
    return [sys.executable, *start, "-m", "train", "run", "--manifest", "v1", *arguments]


def _started(root, n_processes, *arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)}
    command = [*_command(n_processes, *arguments), "--root", str(root)]
    return subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _train(root, n_processes, *arguments):
    with _started(root, n_processes, *arguments) as process:
        out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def _set(*settings):
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(scope="module")
def alone(sample_root, tmp_path_factory):
    """A root with the run `alone`, of one process, in float64."""
    ignored = shutil.ignore_patterns("corpus", "inputs", "signals", "sample", "runs")
    root = pathlib.Path(shutil.copytree(sample_root, tmp_path_factory.mktemp("parallel") / "root", ignore=ignored))
    code, _, err = _train(root, 1, "--out", "alone", *_set(*_SETTINGS, "micro_batch=8"))
    assert code == 0, err
    return root


def _weights(root, name):
    return safetensors.torch.load_file(root / f"runs/{name}/checkpoints/step-50/model.safetensors")


def _documents(root, name):
    return pq.read_table(root / f"runs/{name}/documents").to_pydict()


def _assert_equal(root, one, other):
    """Every loss, norm and evaluation within 1e-9, the same tokens, losses by document in one order, and the same weights at the end."""
    store = Store(str(root))
    lines = [read_metrics(store, name) for name in (one, other)]
    assert len(lines[0]) == len(lines[1]) == 50
    for first, second in zip(*lines, strict=True):
        assert first["stream_hash"] == second["stream_hash"]
        for key in ("loss", "grad_norm"):
            # Rounding has not been multiplied yet in the first steps, so whatever else were wrong would show there.
            assert first[key] == pytest.approx(second[key], abs=1e-13 if first["step"] < 5 else 1e-9), (first["step"], key)
        assert first["component_losses"] == pytest.approx(second["component_losses"], abs=1e-9)
    files = [(root / f"runs/{name}/evaluations.jsonl").read_text().splitlines() for name in (one, other)]
    scores = [{(line["component"], line["step"]): line["bpb"] for line in map(json.loads, file)} for file in files]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9)
    rows = [_documents(root, name) for name in (one, other)]
    assert rows[0].pop("loss") == pytest.approx(rows[1].pop("loss"), abs=1e-9)
    assert rows[0] == rows[1]
    weights = [_weights(root, name) for name in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() < 1e-9, name


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_equal_one(alone, parallel):
    code, out, err = _train(alone, 2, "--out", parallel, *_set(*_SETTINGS, "micro_batch=2", f"parallel={parallel}"))
    assert code == 0, err
    assert f"float64 on 2 processes of cpu, {parallel}" in out
    assert out.count("next: train report") == 1
    _assert_equal(alone, "alone", parallel)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_whose_process_is_killed_goes_on_with_any_number(alone, parallel):
    settings = _set(*_SETTINGS, "micro_batch=2", f"parallel={parallel}")
    name = f"killed-{parallel}"
    with _started(alone, 2, "--out", name, *settings) as process:
        deadline = time.monotonic() + 200
        while not (alone / f"runs/{name}/checkpoints/step-10/state.json").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(_process_of_rank(process.pid, 1), signal.SIGKILL)
        process.communicate()
    assert process.returncode != 0
    assert not (alone / f"runs/{name}/result.json").exists()
    shutil.copytree(alone / f"runs/{name}", alone / f"runs/{name}-four")
    record = alone / f"runs/{name}-four/run.json"
    record.write_text(record.read_text().replace(f'"{name}"', f'"{name}-four"'))
    for again, n_processes in ((name, 1), (f"{name}-four", 4)):
        code, _, err = _train(alone, n_processes, "--out", again, "--resume")
        assert code == 0, err
        _assert_equal(alone, "alone", again)
    attempts = [json.loads(line) for line in (alone / f"runs/{name}-four/attempts.jsonl").read_text().splitlines()]
    assert [line["n_processes"] for line in attempts] == [2, 4]
    assert attempts[0]["step"] == 0
    assert attempts[1]["step"] >= 10


def _process_of_rank(launcher, rank):
    """Find the child of torchrun that has a rank."""
    for child in map(int, pathlib.Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()):
        if f"RANK={rank}".encode() in pathlib.Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return child
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_out_names_what_can(alone):
    code, out, err = _train(alone, 2, "--out", "uneven", *_set("seq_len=32", "global_batch=8", "micro_batch=8"))
    assert (code, out) == (1, "")  # torchrun's own code; that of the processes is in what it says
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line == "error: global_batch 8 cannot be shared out to 2 processes in micro-batches of 8; set micro_batch to 1, 2 or 4"
    assert "exitcode  : 2" in err
    assert not (alone / "runs/uneven").exists()
