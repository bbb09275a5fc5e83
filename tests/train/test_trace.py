import json
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate import manifest as manifests
from curate.store import Store
from train.config import TrainConfig, to_table
from train.plan import epoch_tokens, find_plan
from train.plan_file import epoch_path
from train.stream import find_draw, open_stream

_N_DONE = 9
_N_STEPS = 78  # of 80


def _config(packing):
    return TrainConfig(seq_len=64, global_batch=8, micro_batch=4, packing=packing)


@pytest.fixture(scope="session")
def traced_root(sample_root, tmp_path_factory):
    """A root with a run of each packing, of which nine steps are done: what a run writes down of its data, without a model."""
    ignored = shutil.ignore_patterns("corpus", "inputs", "signals", "sample", "runs", "plans")
    root = pathlib.Path(shutil.copytree(sample_root, tmp_path_factory.mktemp("traced") / "root", ignore=ignored))
    store = Store(str(root))
    manifest = manifests.load(store, "v1")
    for packing in ("concat", "best_fit"):
        config = _config(packing)
        plan = find_plan(store, manifest, config, n_tokens=epoch_tokens(manifest, config), draw=find_draw(store, manifest, None))
        stream, _ = open_stream(store, manifest, plan, tokenizer=manifest.tokenizer, n_tokens=None)
        lines, digest = [], ""
        for step in range(_N_DONE):
            digest = stream.chain_hash(digest, step)
            lines.append({"step": step, "loss": 1.0, "stream_hash": digest, "attempt": 1})
        record = {"name": packing, "manifest": "v1", "fingerprint": manifest.fingerprint, "model": "tiny", "config": to_table(config)}
        named = {key: manifest.tokenizer[key] for key in ("name", "sha256")}
        store.write_json(f"runs/{packing}/run.json", {**record, "tokenizer": named, "plan": plan.key, "n_steps": _N_STEPS})
        store.append_lines(f"runs/{packing}/metrics.jsonl", [json.dumps(line) for line in lines])
    return root


@pytest.fixture
def root(traced_root, tmp_path):
    return pathlib.Path(shutil.copytree(traced_root, tmp_path / "root"))


@pytest.fixture
def ask(root, train):
    """Ask the command for JSON, and give it with the exit code."""

    def run(*arguments, code=0):
        done = train(*arguments, "--json", "--root", str(root))
        assert (done.code, done.err) == (code, "")
        return json.loads(done.out)

    return run


def _plan(root, name):
    store = Store(str(root))
    manifest, config = manifests.load(store, "v1"), _config(name)
    return find_plan(store, manifest, config, n_tokens=epoch_tokens(manifest, config), draw=find_draw(store, manifest, None))


def _rows(root):
    return manifests.rows(Store(str(root)), manifests.load(Store(str(root)), "v1"), "train").to_pylist()


@pytest.mark.parametrize("name", ["concat", "best_fit"])
def test_a_step_is_what_the_plan_and_the_manifest_say(root, ask, name):
    found = ask("trace", name, "--step", "4")
    rows = _rows(root)
    planned = [row for row in pq.read_table(root / epoch_path(_plan(root, name), 0)).to_pylist() if row["step"] == 4]
    assert [(each["sequence"], each["slot"], each["start"], each["length"], each["row_id"]) for each in found["pieces"]] == [
        (row["sequence"], row["slot"], row["start"], row["length"], rows[row["ordinal"]]["row_id"]) for row in planned
    ]
    by_id = {row["row_id"]: row for row in rows}
    for each in found["pieces"]:
        row = by_id[each["row_id"]]
        assert [each[key] for key in ("doc_id", "component", "source", "document_tokens")] == [
            row[key] for key in ("doc_id", "component", "source", "n_tokens")
        ]
    assert found["n_tokens"] == sum(row["length"] for row in planned) == sum(source["n_tokens"] for source in found["sources"])
    assert found["n_documents"] == len({row["ordinal"] for row in planned})
    assert sum(source["n_pieces"] for source in found["sources"]) == len(planned)
    assert (found["stage"], found["epoch"], found["is_done"]) == ("main", 0, True)
    assert ask("trace", name, "--step", "30")["is_done"] is False


def test_a_row_is_found_in_every_epoch_with_all_that_was_drawn_of_it(root, ask):
    store, rows = Store(str(root)), _rows(root)
    manifest = manifests.load(store, "v1")
    # The longest one lies in several sequences.
    ordinal = max(range(len(rows)), key=lambda n: rows[n]["n_tokens"] if rows[n]["component"] == "domain" else 0)
    found = ask("trace", "concat", "--row", rows[ordinal]["row_id"])
    draw = manifests.draw(store, manifest, stage=0, component="domain", epoch=0).to_pylist()
    drawn = sum(row["n_tokens"] for row in draw if row["ordinal"] == ordinal)
    assert sum(piece["length"] for piece in found["pieces"] if piece["epoch"] == 0) == drawn > 64
    planned = [row for k in (0, 1) for row in pq.read_table(root / epoch_path(_plan(root, "concat"), k)).to_pylist()]
    here = [(row["step"], row["sequence"], row["start"]) for row in planned if row["ordinal"] == ordinal and row["step"] < _N_STEPS]
    assert [(piece["step"], piece["sequence"], piece["start"]) for piece in found["pieces"]] == here
    assert any(piece["epoch"] == 1 for piece in found["pieces"])
    for piece in found["pieces"]:
        [same] = [
            each
            for each in ask("trace", "concat", "--step", str(piece["step"]))["pieces"]
            if (each["sequence"], each["slot"]) == (piece["sequence"], piece["slot"])
        ]
        assert (same["row_id"], same["start"], same["length"]) == (rows[ordinal]["row_id"], piece["start"], piece["length"])
        assert piece["is_done"] == (piece["step"] < _N_DONE)
    assert found["n_tokens"] == sum(piece["length"] for piece in found["pieces"])
    assert found["n_tokens_done"] == sum(piece["length"] for piece in found["pieces"] if piece["is_done"])
    assert found["document_tokens"] == rows[ordinal]["n_tokens"]


def test_steps_that_the_run_does_not_reach_are_not_listed(root, ask):
    ask("trace", "concat", "--step", "77")
    planned = pq.read_table(root / epoch_path(_plan(root, "concat"), 1)).to_pylist()
    late = [row for row in planned if row["step"] == _N_STEPS]
    found = [ask("trace", "concat", "--row", _rows(root)[row["ordinal"]]["row_id"]) for row in late]
    assert late
    assert max((piece["step"] for each in found for piece in each["pieces"]), default=0) < _N_STEPS


def test_tables_say_the_same_in_words(root, train):
    step = train("trace", "concat", "--step", "4", "--root", str(root))
    assert step.code == 0
    assert step.out.startswith("step 4 of run concat, stage main, epoch 0: ")
    assert "512 tokens" in step.out
    row_id = _rows(root)[0]["row_id"]
    row = train("trace", "concat", "--row", row_id, "--root", str(root))
    assert row.out.startswith(f"row {row_id} of v1: ")


def test_a_plan_that_the_cache_has_lost_is_planned_again(root, ask):
    before = ask("trace", "best_fit", "--step", "4")
    shutil.rmtree(root / "cache/plans")
    assert ask("trace", "best_fit", "--step", "4") == before


def _dropped(root, split):
    return manifests.rows(Store(str(root)), manifests.load(Store(str(root)), "v1"), split, ["row_id"])["row_id"][0].as_py()


def test_what_is_not_there_is_one_line_and_exit_2(root, train):
    held = _dropped(root, "holdout")
    gone = _dropped(root, "dropped")
    for arguments, message in [
        (["concat"], "give one of --step N and --row ROW_ID"),
        (["concat", "--step", "1", "--row", held], "give one of --step N and --row ROW_ID"),
        (["concat", "--step", "78"], "step 78 is not in run 'concat'; it has steps 0 to 77"),
        (["concat", "--step", "-1"], "step -1 is not in run 'concat'"),
        (["concat", "--row", "abc"], "row 'abc' is not in v1; row ids are 32 hex digits"),
        (["concat", "--row", held], f"row '{held}' of v1 is held out, so no run trains on it; see: curate why {held}"),
        (["concat", "--row", gone], f"row '{gone}' of v1 is dropped ("),
        (["none", "--step", "1"], "run 'none' not found"),
    ]:
        done = train("trace", *arguments, "--root", str(root))
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert done.err.startswith(f"error: {message}")


def test_a_run_of_another_plan_version_is_refused(root, train):
    path = root / "runs/concat/run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "plan": "0" * 32}))
    done = train("verify", "concat", "--root", str(root))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: run 'concat' has plan {'0' * 32}, and what run.json names comes to plan {record['plan']}")


@pytest.mark.parametrize("name", ["concat", "best_fit"])
def test_what_is_as_it_was_is_verified(root, ask, train, name):
    found = ask("verify", name)
    assert (found["difference"], found["n_steps"], found["n_done"], found["n_missing"], found["n_epochs"]) == (None, 9, 9, 0, 1)
    assert found["n_rows"] == pq.read_metadata(root / epoch_path(_plan(root, name), 0)).num_rows
    shutil.rmtree(root / "cache/plans")
    again = ask("verify", name)
    assert (again["plan_digest"], again["n_missing"], again["difference"]) == (found["plan_digest"], 1, None)
    done = train("verify", name, "--root", str(root))
    assert done.out.endswith(f"run {name}: everything is as it was recorded\n")


def test_a_sample_of_steps_can_be_verified(ask):
    assert ask("verify", "concat", "--sample", "3")["n_steps"] == 3
    assert ask("verify", "concat", "--sample", "100")["n_steps"] == 9


def _change_plan(path, change):
    table = pq.read_table(path)
    columns = {name: table[name].to_numpy().copy() for name in table.column_names}
    change(columns)
    pq.write_table(type(table).from_arrays([columns[field.name] for field in table.schema], schema=table.schema), path)


def _swap(columns):
    at = int(np.flatnonzero(np.diff(columns["ordinal"]))[20])
    columns["ordinal"][[at, at + 1]] = columns["ordinal"][[at + 1, at]]


def test_a_plan_that_was_changed_is_the_first_difference(root, ask, train):
    path = root / epoch_path(_plan(root, "concat"), 0)
    before = pq.read_table(path).to_pylist()
    _change_plan(path, _swap)
    at = next(n for n, (one, other) in enumerate(zip(before, pq.read_table(path).to_pylist(), strict=True)) if one != other)
    found = ask("verify", "concat", code=1)
    assert f"a row of step {before[at]['step']} is planned as sequence {before[at]['sequence']}, " in found["difference"]
    done = train("verify", "concat", "--root", str(root))
    assert (done.code, done.err) == (1, "")
    assert "difference: cache/plans/" in done.out


def test_a_plan_that_is_cut_short_or_damaged_is_a_difference(root, ask):
    path = root / epoch_path(_plan(root, "concat"), 0)
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)
    assert "stored as none; remove cache/plans/" in ask("verify", "concat", code=1)["difference"]
    path.write_bytes(path.read_bytes()[:-50])
    assert "a row of step 0 is planned as sequence 0, slot 0" in ask("verify", "concat", code=1)["difference"]


def test_a_hash_that_does_not_come_out_is_the_first_difference(root, ask):
    path = root / "runs/concat/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    wrong = {**lines[5], "stream_hash": "0" * 64}
    path.write_text("".join(f"{json.dumps(line)}\n" for line in [*lines[:5], wrong, *lines[6:]]))
    found = ask("verify", "concat", code=1)
    assert found["difference"] == f"step 5 has stream hash {'0' * 64} in metrics.jsonl, and its tokens come to {lines[5]['stream_hash']}"
    assert found["n_steps"] == 6


def test_every_attempt_at_a_step_is_verified_and_none_may_be_missing(root, ask):
    path = root / "runs/concat/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    again = [{**lines[4], "stream_hash": "1" * 64}, *lines[4:]]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in [*lines[:4], *again]))
    assert ask("verify", "concat", code=1)["difference"].startswith(f"step 4 has stream hash {'1' * 64}")
    path.write_text("".join(f"{json.dumps(line)}\n" for line in [*lines[:4], *lines[5:]]))
    assert ask("verify", "concat", code=1)["difference"] == "metrics.jsonl has no line for step 4 of 9 that were done"


def test_another_token_in_a_segment_changes_the_hash(root, ask):
    for path in (root / "cache/tokens").rglob("*.bin"):
        data = np.fromfile(path, dtype=np.uint16)
        data[:] = data + 1
        data.tofile(path)
    assert ask("verify", "concat", code=1)["difference"].startswith("step 0 has stream hash ")


def test_a_run_that_was_trained_verifies_and_traces(finished_root, train):
    done = train("verify", "done", "--root", str(finished_root))
    assert (done.code, done.err) == (0, "")
    assert "stream: 12 of 12 steps computed again" in done.out
    step = train("trace", "done", "--step", "11", "--json", "--root", str(finished_root))
    assert json.loads(step.out)["is_done"] is True
