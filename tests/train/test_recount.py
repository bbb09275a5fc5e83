import dataclasses
import io
import json
import pathlib
import shutil

import numpy as np
import pytest
import rich.console
import tokenizers
import transformers

from curate import manifest as manifests
from curate import tokens
from curate.store import Store, digest_of, file_digest
from train.config import ConfigError, TrainConfig
from train.journal import read_metrics
from train.loop import open_run
from train.loop import train as train_to_end
from train.model import find_base
from train.plan import Epoch, Plan, make_plan, rescale
from train.recount import Part, check_shares, describe, lines, recount, shares
from train.run import Request, prepare
from train.stream import IGNORED, open_stream

_SETTINGS = ("seq_len=64", "global_batch=8", "micro_batch=4", "n_evals=0", "checkpoint_every=3", "max_steps=6", "lr=1e-3")
_SET = tuple(part for setting in _SETTINGS for part in ("--set", setting))
_OPTIONS = ("run", "--manifest", "v1", "--accept", "sample")


@pytest.fixture(scope="session")
def model_folder(sample_root, tmp_path_factory):
    """A folder of Hugging Face with a tokenizer of its own: fitted on some of the texts, with fewer entries."""
    store = Store(str(sample_root))
    texts = _texts(store, manifests.rows(store, manifests.load(store, "v1"), "train", ["shard", "row"]).slice(0, 60).to_pylist())
    folder = tmp_path_factory.mktemp("models") / "other"
    shape = transformers.LlamaConfig(
        vocab_size=420, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64
    )
    transformers.set_seed(0)
    transformers.LlamaForCausalLM(shape).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokens.fit_tokenizer(texts, 420))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder


@pytest.fixture(scope="session")
def recounted_root(finished_root, model_folder, tmp_path_factory):
    """The sample's root, corpus and all, with the finished run `other` of the model with a tokenizer of its own."""
    ignored = shutil.ignore_patterns("inputs", "signals", "sample")
    root = pathlib.Path(shutil.copytree(finished_root, tmp_path_factory.mktemp("recounted") / "root", ignore=ignored))
    run = prepare(Store(str(root)), Request("v1", model=str(model_folder), settings=_SETTINGS, out="other", accept=("sample",)))
    train_to_end(run, open_run(run), rich.console.Console(file=io.StringIO()))
    return root


@pytest.fixture
def root(recounted_root, tmp_path):
    """A copy of that root for a test to write into."""
    return pathlib.Path(shutil.copytree(recounted_root, tmp_path / "root"))


@pytest.fixture
def store(root):
    return Store(str(root))


@pytest.fixture
def manifest(store):
    return manifests.load(store, "v1")


@pytest.fixture
def base(store, manifest, model_folder):
    return find_base(store, manifest, str(model_folder))


@pytest.fixture
def prepared(store, model_folder):
    return prepare(store, Request("v1", model=str(model_folder), settings=_SETTINGS, out="new", accept=("sample",)))


def _segments(root):
    return {path: path.stat().st_mtime_ns for path in (root / "cache/tokens").rglob("*") if path.is_file()}


def _texts(store, rows):
    return [store.read_rows(f"corpus/{row['shard']}", [row["row"]], ["text"])["text"][0].as_py() for row in rows]


def test_the_first_run_counts_and_says_shares_before_it_trains(root, train, model_folder):
    shutil.rmtree(root / "runs/other")
    [pinned] = [path for path in (root / "models").glob("*.json") if path.read_bytes() == (model_folder / "tokenizer.json").read_bytes()]
    (folder,) = (root / "cache/tokens").glob(f"{pinned.stem.removeprefix('tokenizer-')}-auto*")
    shutil.rmtree(folder)
    pinned.unlink()
    done = train(*_OPTIONS, "--model", str(model_folder), "--out", "first", *_SET, "--root", str(root))
    assert done.code == 0, done.err
    assert done.err.startswith("recount: part 1 of 1, ")
    assert pinned.exists()
    at = next(number for number, line in enumerate(done.out.splitlines()) if line.startswith("tokenizer  other, "))
    for line, name in zip(done.out.splitlines()[at + 1 : at + 4], ("domain", "wikipedia", "books"), strict=True):
        assert line.startswith(f"           {name}: ")
        assert "bytes per token (" in line
        assert line.endswith("% asked for)")
    record = json.loads((root / "runs/first/run.json").read_text())
    assert record["tokenizer"] == {"name": "other", "sha256": file_digest(model_folder / "tokenizer.json")}
    assert set(record["shares"]) == {"domain", "wikipedia", "books"}
    assert sum(share["reached"] for share in record["shares"].values()) == pytest.approx(1.0)
    assert json.loads((root / "runs/done/run.json").read_text())["plan"] != record["plan"]


def test_a_second_run_counts_nothing_anew(root, train, model_folder):
    before = _segments(root)
    done = train(*_OPTIONS, "--model", str(model_folder), "--out", "again", *_SET, "--root", str(root))
    assert done.code == 0, done.err
    assert "recount" not in done.err
    assert _segments(root) == before


def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(root, store, train):
    before = [line["stream_hash"] for line in read_metrics(store, "other")]
    losses = [line["loss"] for line in read_metrics(store, "other")]
    weights = (root / "runs/other/checkpoints/step-6/model.safetensors").read_bytes()
    shutil.rmtree(root / "runs/other/checkpoints/step-6")
    (root / "runs/other/result.json").unlink()
    shutil.rmtree(root / "cache/plans")
    done = train(*_OPTIONS, "--out", "other", "--resume", "--root", str(root))
    assert done.code == 0, done.err
    assert [line["stream_hash"] for line in read_metrics(store, "other")] == before
    assert [line["loss"] for line in read_metrics(store, "other")] == losses
    assert {line["attempt"] for line in read_metrics(store, "other")} == {1, 2}
    assert (root / "runs/other/checkpoints/step-6/model.safetensors").read_bytes() == weights


def test_the_data_of_a_recounted_run_verifies_and_traces(root, train):
    done = train("verify", "other", "--root", str(root))
    assert (done.code, done.err) == (0, "")
    assert "stream: 6 of 6 steps computed again" in done.out
    found = json.loads(train("trace", "other", "--step", "0", "--json", "--root", str(root)).out)
    assert found["n_tokens"] == 8 * 64
    assert all(piece["start"] + piece["length"] <= piece["document_tokens"] for piece in found["pieces"])


def test_a_run_does_not_go_on_with_another_tokenizer(root, train, model_folder, tmp_path):
    moved = shutil.copytree(model_folder, tmp_path / "other")
    record = root / "runs/other/run.json"
    record.write_text(record.read_text().replace(str(model_folder), str(moved)))
    (moved / "tokenizer.json").write_text(f"{(moved / 'tokenizer.json').read_text()} ")
    done = train(*_OPTIONS, "--out", "other", "--resume", "--root", str(root))
    assert done.code == 2
    assert done.err.startswith("error: run 'other' was begun otherwise: tokenizer was {'name': 'other', 'sha256': ")


def test_a_checkpoint_has_the_models_own_tokenizer(root, model_folder):
    folder = root / "runs/other/checkpoints/step-6"
    assert (folder / "tokenizer.json").read_bytes() == (model_folder / "tokenizer.json").read_bytes()
    assert transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True).eos_token == "<|endoftext|>"


def test_the_stream_decodes_to_the_texts_of_the_documents_drawn(store, manifest, prepared):
    tokenizer = tokenizers.Tokenizer.from_str(prepared.base.files["tokenizer.json"].decode())
    stream = open_run(prepared).stream
    first = prepared.plan.epochs[0]
    batches = [stream.batch(step) for step in range(first.n_steps)]
    labels = np.concatenate([batch.targets_BT.ravel() for batch in batches])
    assert (labels != IGNORED).sum() == first.n_tokens == prepared.recount.epoch_tokens[0]
    targets = np.concatenate([batch.targets_BT.ravel()[batch.targets_BT.ravel() != IGNORED] for batch in batches])
    found = {}
    table = store.read_table(f"{prepared.plan.path}/epoch-0/part-0.parquet").to_pylist()
    at = 0
    for row in table:
        found.setdefault(row["ordinal"], []).append((row["start"], targets[at : at + row["length"]].tolist()))
        at += row["length"]
    drawn = {}
    for part in manifest.stages[0].components:
        drawn.update(
            {row["ordinal"]: row["n_tokens"] for row in manifests.draw(store, manifest, stage=0, component=part.name, epoch=0).to_pylist()}
        )
    rows = manifests.rows(store, manifest, "train").to_pylist()
    assert set(found) == set(drawn)
    n_whole = 0
    for ordinal, text in zip(found, _texts(store, [rows[ordinal] for ordinal in found]), strict=True):
        ids = [token for _, piece in sorted(found[ordinal]) for token in piece]
        if drawn[ordinal] == rows[ordinal]["n_tokens"]:
            n_whole += 1
            assert tokenizer.id_to_token(ids.pop()) == "<|endoftext|>"
            assert tokenizer.decode(ids) == text
        else:
            assert text.encode().startswith(tokenizer.decode(ids).rstrip("\ufffd").encode())
    assert n_whole >= len(drawn) - 3


def _with_parts(manifest, change):
    """A manifest whose components are changed, by a function from a component's table to new values."""
    info = json.loads(json.dumps(manifest.info))
    for part in info["stages"][0]["components"]:
        part.update(change(part))
    return dataclasses.replace(manifest, info=info)


def test_only_rows_that_an_epoch_draws_are_counted_and_can_be_streamed(store, manifest, base, root):
    shutil.rmtree(root / tokens.segments_dir(base.tokenizer))
    half = _with_parts(manifest, lambda part: {"epoch_tokens": part["epoch_tokens"] // 2})
    counted = recount(store, half, base.tokenizer, base.files["tokenizer.json"], epochs=[(0, 0)])
    draws = [manifests.draw(store, half, stage=0, component=part.name, epoch=0) for part in half.stages[0].components]
    assert np.flatnonzero(counted.n_tokens).tolist() == sorted({n for table in draws for n in table["ordinal"].to_pylist()})
    assert (counted.n_tokens == 0).any()
    index = tokens.open_segments(store, base.tokenizer).index
    listed = manifests.evalset(store, manifest)["doc_id"].to_pylist()
    ids = manifests.rows(store, manifest, "train", ["doc_id"])["doc_id"].take(np.flatnonzero(counted.n_tokens)).to_pylist()
    assert sorted(index["doc_id"].to_pylist()) == sorted({*listed, *ids})
    config = TrainConfig(seq_len=64, global_batch=8, epochs=1)
    plan = make_plan(half, config, n_tokens=counted.epoch_tokens, tokenizer=base.tokenizer["sha256"])
    stream, _ = open_stream(store, half, plan, tokenizer=base.tokenizer, n_tokens=counted.n_tokens)
    labels = np.concatenate([stream.batch(step).targets_BT.ravel() for step in range(plan.n_steps)])
    own = tokenizers.Tokenizer.from_str(base.files["tokenizer.json"].decode())
    n_whole = sum(len(table) - 1 for table in draws)
    assert n_whole <= (labels == own.token_to_id("<|endoftext|>")).sum() <= n_whole + len(draws)


def test_counts_and_bytes_are_those_of_the_documents(store, manifest, base):
    counted = recount(store, manifest, base.tokenizer, base.files["tokenizer.json"], epochs=[(0, 0), (0, 1)])
    rows = manifests.rows(store, manifest, "train").to_pylist()
    tokenizer = tokenizers.Tokenizer.from_str(base.files["tokenizer.json"].decode())
    at = np.flatnonzero(counted.n_tokens)[:20]
    for n, text in zip(at, _texts(store, [rows[n] for n in at]), strict=True):
        assert counted.n_tokens[n] == len(tokenizer.encode(text).ids)
    for part, component in zip(counted.parts, manifest.stages[0].components, strict=True):
        here = [n for n in np.flatnonzero(counted.n_tokens) if rows[n]["component"] == part.component == component.name]
        assert part.asked_tokens == 2 * component.epoch_tokens
        assert part.n_bytes == sum(rows[n]["n_bytes"] for n in here)
        assert part.n_tokens_before == sum(rows[n]["n_tokens"] for n in here)
        assert part.n_tokens == sum(counted.n_tokens[n] for n in here)
    assert sum(part.reached_tokens for part in counted.parts) == sum(counted.epoch_tokens)


def test_the_manifests_own_tokenizer_is_not_recounted(store, manifest, root):
    before = _segments(root)
    run = prepare(
        store, Request("v1", model=str(root / "runs/done/checkpoints/step-12"), out="own", settings=("seq_len=64",), accept=("sample",))
    )
    assert run.recount is None
    assert run.base.tokenizer == manifest.tokenizer
    assert _segments(root) == before


def test_a_shard_that_is_gone_is_one_line_and_no_run(root, train, base, model_folder):
    shutil.rmtree(root / tokens.segments_dir(base.tokenizer))
    shutil.rmtree(root / "corpus")
    done = train(*_OPTIONS, "--model", str(model_folder), "--out", "new", "--root", str(root), "--set", "seq_len=64")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("error: corpus/")
    assert "is missing; restore it, or train with the manifest's own tokenizer" in done.err
    assert not (root / "runs/new").exists()


def test_a_share_that_moves_by_more_than_a_point_is_refused_before_anything_is_in_runs(
    root, train, model_folder, tmp_path, store, manifest
):
    wide = shutil.copytree(model_folder, tmp_path / "wide")
    rows = [row for row in manifests.rows(store, manifest, "train").to_pylist() if row["component"] == "domain"]
    (wide / "tokenizer.json").write_bytes(tokens.fit_tokenizer(_texts(store, rows), 2000))
    before = sorted(path.name for path in (root / "runs").iterdir())
    done = train(*_OPTIONS, "--model", str(wide), "--out", "new", "--root", str(root), "--set", "seq_len=64")
    assert (done.code, done.out) == (2, "")
    message = done.err.splitlines()[-1]
    assert message.startswith(f"error: under the tokenizer of model {str(wide)!r} component 'domain' comes to ")
    assert message.endswith(f'build a manifest with [tokenizer] path = "{wide}" and train on that')
    assert sorted(path.name for path in (root / "runs").iterdir()) == before


def test_two_models_with_one_tokenizer_and_other_special_tokens_share_no_segments(store, manifest, base):
    ends = []
    for eos in ("a", "b"):
        other = {**base.tokenizer, "separator": "eos", "eos_token": eos}
        recount(store, manifest, other, base.files["tokenizer.json"], epochs=[(0, 0)])
        ends.append({int(array[-1]) for array in tokens.open_segments(store, other).arrays})
    assert len(ends[0] | ends[1]) == 2


def test_a_tokenizer_that_cannot_be_read_is_refused():
    with pytest.raises(ConfigError, match="the tokenizer of model 'm' cannot be read"):
        describe(b"{}", b"{}", name="m", separator="auto")


def test_special_tokens_are_read_in_both_spellings(model_folder):
    data = (model_folder / "tokenizer.json").read_bytes()
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": "<pad>"}
    found = describe(data, json.dumps(config).encode(), name="m", separator="both")
    assert (found["bos_token"], found["eos_token"], found["separator"], found["n_vocab"]) == ("<s>", "</s>", "both", 420)
    assert found["path"] == f"models/tokenizer-{found['sha256'][:16]}.json"


@pytest.mark.parametrize(
    ("taken", "old", "new", "expected"),
    [(10, 10, 7, 7), (5, 10, 7, 4), (4, 10, 7, 3), (1, 1000, 3, 1), (999, 1000, 3, 3), (2**31 - 2, 2**31 - 1, 2**31 - 1, 2**31 - 2)],
)
def test_a_cut_document_is_cut_at_the_same_proportion_half_up_and_at_least_one(taken, old, new, expected):
    assert rescale(*(np.array([n], dtype=np.int64) for n in (taken, old, new))).tolist() == [expected]


def _part(component, asked, reached):
    return Part(component, asked, reached, n_bytes=300, n_tokens_before=100, n_tokens=75)


def test_shares_are_of_all_tokens_asked_for_and_reached():
    parts = [_part("domain", 50, 60), _part("books", 150, 140)]
    assert shares(parts) == {"domain": {"asked": 0.25, "reached": 0.3}, "books": {"asked": 0.75, "reached": 0.7}}
    assert lines(parts)[0] == "domain: 4.00 bytes per token (3.00 under the manifest's), share 30.00% (25.00% asked for)"


def test_a_share_may_move_by_one_point_and_no_more():
    check_shares([], version="v1", model="m")
    check_shares([_part("domain", 50_000, 51_000), _part("books", 50_000, 49_000)], version="v1", model="m")
    with pytest.raises(ConfigError, match=r"'domain' comes to 51\.00% of the tokens, v1 asks for 50\.00%.*path = \"m\""):
        check_shares([_part("domain", 50_000, 51_001), _part("books", 50_000, 48_999)], version="v1", model="m")


def test_the_component_that_moves_most_is_named():
    parts = [_part("domain", 50, 52), _part("wikipedia", 25, 28), _part("books", 25, 20)]
    with pytest.raises(ConfigError, match=r"component 'books' comes to 20\.00% of the tokens, v1 asks for 25\.00%"):
        check_shares(parts, version="v1", model="m")


def test_the_key_of_a_plan_covers_another_tokenizer_and_knows_nothing_of_the_manifests_own():
    plan = Plan("f", 64, 8, "concat", 0, (Epoch(0, 0, 100, 2, 1, 0),))
    table = {"plan_version": 3, "fingerprint": "f", "seq_len": 64, "global_batch": 8, "packing": "concat", "seed": 0, "epochs": [[0, 0]]}
    assert plan.key == digest_of(table)[:32]
    assert dataclasses.replace(plan, tokenizer="ab").key == digest_of({**table, "tokenizer": "ab"})[:32]


def test_a_run_from_before_tokenizers_were_recorded_goes_on(root, train):
    shutil.rmtree(root / "runs/done/checkpoints/step-12")
    (root / "runs/done/result.json").unlink()
    for file in ("run.json", "checkpoints/step-8/state.json"):
        path = root / "runs/done" / file
        table = json.loads(path.read_text())
        del (table if file == "run.json" else table["identity"])["tokenizer"]
        path.write_text(json.dumps(table))
    done = train("run", "--manifest", "v1", "--out", "done", "--resume", "--root", str(root))
    assert done.code == 0, done.err


def test_epochs_of_a_dynamic_redraw_have_counts_of_their_own(store, manifest, base):
    dynamic = _with_parts(manifest, lambda part: {"redraw": "dynamic", "epoch_tokens": part["epoch_tokens"] // 2})
    counted = recount(store, dynamic, base.tokenizer, base.files["tokenizer.json"], epochs=[(0, 0), (0, 1)])
    first, second = counted.epoch_tokens
    assert first != second
    assert sum(part.reached_tokens for part in counted.parts) == first + second
