import hashlib
import json
import shutil

import pytest
import torch

from curate import manifest as manifests
from train.config import ConfigError, TrainConfig
from train.model import find_base, find_device, find_dtype, load_model, read_model
from train.optim import make_optimizer


@pytest.fixture
def manifest(store):
    return manifests.load(store, "v1")


@pytest.fixture
def folder(root):
    return root / "runs/done/checkpoints/step-12"


def test_a_run_starts_from_a_folder_with_the_manifests_tokenizer(root, folder, train, settings):
    arguments = ("run", "--manifest", "v1", "--model", str(folder), "--accept", "sample", "--root", str(root), *settings)
    done = train(*arguments, "--set", "max_steps=1", "--set", "lr=1e-5")
    assert done.code == 0, done.err
    first, last = (
        json.loads((root / "runs" / name / "evaluations.jsonl").read_text().splitlines()[at])["bpb"]
        for name, at in (("v1-step-12", 0), ("done", -2))
    )
    assert first == pytest.approx(last, rel=1e-6)


def test_the_manifests_own_tokenizer_is_known_by_its_bytes_and_another_one_is_the_models(store, manifest, folder):
    assert find_base(store, manifest, str(folder)).tokenizer == manifest.tokenizer
    data = (folder / "tokenizer.json").read_bytes() + b" "
    (folder / "tokenizer.json").write_bytes(data)
    base = find_base(store, manifest, str(folder))
    sha256 = hashlib.sha256(data).hexdigest()
    assert (base.tokenizer["name"], base.tokenizer["sha256"], base.tokenizer["separator"]) == ("step-12", sha256, "auto")
    assert base.files["tokenizer.json"] == data
    assert not store.exists(base.tokenizer["path"])


def test_a_model_without_a_tokenizer_is_refused(store, manifest, folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        find_base(store, manifest, str(folder))


def test_a_chat_template_warns_wherever_it_is_written(store, manifest, folder):
    assert find_base(store, manifest, str(folder)).warnings == ()
    table = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**table, "chat_template": "{{ messages }}"}))
    assert "chat template" in find_base(store, manifest, str(folder)).warnings[0]
    (folder / "tokenizer_config.json").write_text(json.dumps(table))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert "chat template" in find_base(store, manifest, str(folder)).warnings[0]


def test_pickled_weights_are_refused(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be read as a causal LM with safetensors"):
        read_model(str(folder))


def test_sequences_longer_than_the_model_takes_are_refused(store, manifest, folder):
    base = find_base(store, manifest, str(folder))
    with pytest.raises(ConfigError, match=r"seq_len 65 is more than .* takes; set it to at most 64"):
        load_model(store, base, TrainConfig(seq_len=65))


def test_a_model_that_embeds_fewer_tokens_than_the_tokenizer_has_is_refused(store, manifest, folder, tmp_path):
    small = shutil.copytree(folder, tmp_path / "small")
    model = read_model(str(folder))
    model.resize_token_embeddings(100)
    model.save_pretrained(small)
    with pytest.raises(ConfigError, match="embeds 100 tokens"):
        load_model(store, find_base(store, manifest, str(small)), TrainConfig(seq_len=64))


def test_the_tiny_model_is_the_same_for_one_seed_only(store, manifest):
    base = find_base(store, manifest, "tiny")
    models = [load_model(store, base, TrainConfig(seq_len=64, seed=seed)) for seed in (0, 0, 1)]
    one, same, other = (torch.cat([param.flatten() for param in model.parameters()]) for model in models)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_only_matrices_decay(store, manifest):
    model = load_model(store, find_base(store, manifest, "tiny"), TrainConfig(seq_len=64))
    decayed, plain = make_optimizer(model, TrainConfig()).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert {param.ndim for param in decayed["params"]} == {2}
    assert {param.ndim for param in plain["params"]} == {1}
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_auto_is_float32_on_a_cpu():
    assert find_dtype("auto", torch.device("cpu")) == torch.float32
    assert find_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert find_device("cpu") == torch.device("cpu")
