import json
import os
import shutil
import signal
import time

import pytest
import torch
import transformers

from train.journal import read_metrics
from train.loop import steps_to_evaluate


def _lines(root, name, file):
    return [json.loads(line) for line in (root / "runs" / name / file).read_text().splitlines()]


def _computed(store, name):
    """What must not differ between two runs: everything of a step but the clock and the attempt."""
    clock = ("tokens_per_s", "wait_ratio", "mfu", "cost", "attempt")
    return [{key: value for key, value in line.items() if key not in clock} for line in read_metrics(store, name)]


def _weights(root, name, step):
    return (root / "runs" / name / "checkpoints" / f"step-{step}" / "model.safetensors").read_bytes()


def _interrupt(root, name, *, at):
    """Make a copy of the finished run that ends as if it had been killed after the checkpoint at a step."""
    shutil.copytree(root / "runs" / "done", root / "runs" / name)
    record = root / "runs" / name / "run.json"
    record.write_text(record.read_text().replace('"done"', f'"{name}"'))
    (root / "runs" / name / "result.json").unlink()
    for folder in (root / "runs" / name / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > at:
            shutil.rmtree(folder)


def test_a_run_learns_and_says_what_it_did(root, store):
    steps = _lines(root, "done", "metrics.jsonl")
    assert [line["step"] for line in steps] == list(range(12))
    assert [line["tokens"] for line in steps] == [8 * 64 * (n + 1) for n in range(12)]
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert set(steps[0]["component_losses"]) <= {"domain", "wikipedia", "books"}
    scores = {line["step"]: line["bpb"] for line in _lines(root, "done", "evaluations.jsonl") if line["component"] == "domain"}
    assert list(scores) == [0, 6, 12]
    assert scores[12] < scores[6] < scores[0]
    result = json.loads((root / "runs/done/result.json").read_text())
    assert result["n_steps"] == 12
    assert result["checkpoint"] == "runs/done/checkpoints/step-12"
    assert sorted(path.name for path in (root / "runs/done/checkpoints").iterdir()) == ["step-12", "step-8"]
    record = json.loads((root / "runs/done/run.json").read_text())
    assert json.loads((root / "cache/plans" / record["plan"] / "plan.json").read_text())["n_tokens"] == 2 * 20_000


def test_the_command_says_first_that_it_is_the_sample_and_last_what_comes_next(root, train, settings):
    done = train("run", "--manifest", "v1", "--out", "other", *settings, "--set", "max_steps=1", "--root", str(root))
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("SAMPLE CORPUS: v1")
    assert lines[-1] == f"next: train report other --root {root}"
    assert "bits per byte domain" in done.err


def test_losses_of_components_add_up_to_the_loss_by_their_tokens(root):
    line = _lines(root, "done", "metrics.jsonl")[0]
    assert min(line["component_losses"].values()) <= line["loss"] <= max(line["component_losses"].values())


def test_a_checkpoint_opens_with_transformers_and_gives_the_same_tokens(root):
    folder = root / "runs/done/checkpoints/step-12"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = tokenizer("The patient was given aspirin.").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "The patient was given aspirin."
    assert model(torch.tensor([ids])).logits.shape == (1, len(ids), model.config.vocab_size)
    assert (ids[-1], tokenizer.eos_token) == (tokenizer.eos_token_id, "<|endoftext|>")


@pytest.mark.parametrize("at", [0, 8])
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(root, store, train, at):
    _interrupt(root, "again", at=at)
    if at == 0:
        shutil.rmtree(root / "runs/again/checkpoints")
    done = train("run", "--manifest", "v1", "--out", "again", "--resume", "--root", str(root))
    assert done.code == 0, done.err
    assert _computed(store, "again") == _computed(store, "done")
    assert _weights(root, "again", 12) == _weights(root, "done", 12)
    assert len(_lines(root, "again", "metrics.jsonl")) == 12 + 12 - at
    assert {line["attempt"] for line in read_metrics(store, "again")} == ({1, 2} if at else {2})


def test_half_a_checkpoint_is_never_used(root, store, train):
    _interrupt(root, "again", at=8)
    shutil.copytree(root / "runs/again/checkpoints/step-8", root / "runs/again/checkpoints/step-12")
    (root / "runs/again/checkpoints/step-12/state.json").unlink()
    (root / "runs/again/checkpoints/step-12/model.safetensors").write_bytes(b"half")
    assert train("run", "--manifest", "v1", "--out", "again", "--resume", "--root", str(root)).code == 0
    assert _weights(root, "again", 12) == _weights(root, "done", 12)


@pytest.mark.slow
def test_a_killed_run_resumes_as_if_nothing_had_been(root, store, train, train_process, settings):
    process = train_process("run", "--manifest", "v1", "--out", "killed", *settings, "--root", str(root))
    deadline = time.monotonic() + 120
    while not (root / "runs/killed/checkpoints/step-4/state.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (root / "runs/killed/result.json").exists()
    assert train("run", "--manifest", "v1", "--out", "killed", "--resume", "--root", str(root)).code == 0
    assert _computed(store, "killed") == _computed(store, "done")
    assert _weights(root, "killed", 12) == _weights(root, "done", 12)


def test_resume_begins_a_run_that_is_not_there(root, store, train, settings):
    assert train("run", "--manifest", "v1", "--out", "begun", "--resume", *settings, "--root", str(root)).code == 0
    assert _computed(store, "begun") == _computed(store, "done")


def test_a_finished_run_says_so(root, train):
    done = train("run", "--manifest", "v1", "--out", "done", "--resume", "--root", str(root))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("run done is finished")


def test_the_size_of_a_micro_batch_changes_nothing_but_rounding(root, store, train, settings):
    arguments = ("run", "--manifest", "v1", *settings, "--root", str(root), "--set", "max_steps=3", "--set", "n_evals=0")
    assert train(*arguments, "--out", "eight", "--set", "micro_batch=8").code == 0
    assert train(*arguments, "--out", "two", "--set", "micro_batch=2").code == 0
    for one, other in zip(read_metrics(store, "eight"), read_metrics(store, "two"), strict=True):
        assert one["stream_hash"] == other["stream_hash"]
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_runs_with_one_key_share_the_plan_and_a_lost_plan_comes_back_equal(root, train, settings):
    [plan] = (root / "cache/plans").glob("*/epoch-0/part-0.parquet")
    before, when = plan.read_bytes(), plan.stat().st_mtime_ns
    arguments = ("run", "--manifest", "v1", *settings, "--root", str(root), "--set", "max_steps=1", "--set", "n_evals=0")
    assert train(*arguments, "--out", "same").code == 0
    assert plan.stat().st_mtime_ns == when
    shutil.rmtree(root / "cache/plans")
    assert train(*arguments, "--out", "third").code == 0
    assert plan.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--manifest", "v9"], "manifest 'v9' not found"),
        (["--manifest", "v1", "--out", "done"], "run 'done' exists; add --resume to go on with it, or --out NAME"),
        (["--manifest", "v1", "--out", "../x"], "run name '../x' is not allowed"),
        (["--manifest", "v1", "--set", "lrr=1"], "config key 'lrr' is unknown; did you mean 'lr'?"),
        (["--manifest", "v1", "--set", "micro_batch=3"], "micro_batch 3 does not divide global_batch 16"),
        (["--manifest", "v1", "--config", "none.toml"], "config file 'none.toml' not found"),
        (["--manifest", "v1", "--model", "gpt2"], "v1 is built from the sample corpus"),
        (["--manifest", "v1", "--model", "./none", "--accept", "sample"], "model './none' is not 'tiny', not a folder here"),
        (["--manifest", "v1", "--accept", "all"], "--accept 'all' is unknown; allowed: sample"),
        (["--manifest", "v1", "--set", "device=cuda:99"], "device 'cuda:99' is not on this machine"),
        (
            ["--manifest", "v1", "--out", "done", "--resume", "--set", "lr=0.5"],
            "run 'done' was begun otherwise: lr was 0.004 and is now 0.5",
        ),
        (["--manifest", "v1", "--bogus", "1"], "No such option: --bogus"),
        ([], "Missing option '--manifest'"),
    ],
)
def test_what_a_person_gets_wrong_is_one_line_and_exit_2(root, train, arguments, message):
    before = sorted(path.name for path in (root / "runs").iterdir())
    done = train("run", *arguments, "--root", str(root))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {message}")
    assert done.err.count("\n") == 1
    assert sorted(path.name for path in (root / "runs").iterdir()) == before


def test_a_checkpoint_of_another_manifest_is_refused(root, train):
    _interrupt(root, "again", at=8)
    state = root / "runs/again/checkpoints/step-8/state.json"
    state.write_text(state.read_text().replace('"fingerprint": "', '"fingerprint": "0000'))
    done = train("run", "--manifest", "v1", "--out", "again", "--resume", "--root", str(root))
    assert done.code == 2
    assert done.err.startswith("error: checkpoint step-8 of run 'again' was begun otherwise: fingerprint was '0000")


def test_what_does_not_change_the_result_may_change_on_resume(root, train):
    _interrupt(root, "again", at=8)
    done = train("run", "--manifest", "v1", "--out", "again", "--resume", "--set", "keep_checkpoints=1", "--root", str(root))
    assert done.code == 0, done.err
    assert [path.name for path in (root / "runs/again/checkpoints").iterdir()] == ["step-12"]


def test_a_loss_that_is_not_finite_stops_the_run(root, train, settings):
    done = train("run", "--manifest", "v1", "--out", "wild", *settings, "--set", "lr=1e30", "--set", "warmup_steps=0", "--root", str(root))
    assert done.code == 2
    assert "start another run (--out NAME) with a lower lr" in done.err.splitlines()[-1]


def test_evaluations_are_spread_evenly_and_never_twice_at_one_step():
    assert sorted(steps_to_evaluate(10, 3)) == [0, 2, 5, 8, 10]
    assert sorted(steps_to_evaluate(2, 7)) == [0, 1, 2]


def test_what_auto_came_to_stays_on_resume(root, train):
    _interrupt(root, "again", at=8)
    record = root / "runs/again/run.json"
    record.write_text(record.read_text().replace('"dtype": "float32"', '"dtype": "bfloat16"'))
    done = train("run", "--manifest", "v1", "--out", "again", "--resume", "--root", str(root))
    assert done.code == 0, done.err
    assert "bfloat16 on cpu" in done.out
