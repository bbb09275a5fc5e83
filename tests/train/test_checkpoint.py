import json

import pytest
import torch
import transformers

from curate.store import Store
from train import checkpoint
from train.checkpoint import Contents, State
from train.config import ConfigError, TrainConfig
from train.export import Card
from train.model import read_model
from train.optim import make_optimizer, optimizer_tensors
from train.parallel import World

_FILES = {"tokenizer.json": b"{}"}
_CARD = Card("a", "some/base", "v7", "f" * 64, False, {"lr": 1e-4})
_ALONE = World()


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    """A root on this disk, and one as on an object store, where files are put one by one."""
    return Store(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}")


@pytest.fixture
def trained():
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, tie_word_embeddings=True
    )
    model = transformers.LlamaForCausalLM(shape)
    optimizer = make_optimizer(model, TrainConfig())
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    optimizer.step()
    return model, optimizer


def _save(store, trained, step):
    return checkpoint.save(store, "a", State(step, 10 * step, "ab", {"x": 1}), Contents(*trained, _FILES, _CARD), _ALONE)


def test_weights_and_optimizer_come_back(place, trained):
    model, optimizer = trained
    _save(place, trained, 3)
    assert checkpoint.read_state(place, "a", 3) == State(3, 30, "ab", {"x": 1})
    with checkpoint.opened(place, "a", 3) as folder:
        again = read_model(str(folder))
        fresh = make_optimizer(again, TrainConfig())
        checkpoint.restore(folder, model=again, optimizer=fresh, world=_ALONE)
        assert (folder / "tokenizer.json").read_bytes() == b"{}"
    for (name, one), (other_name, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other_name
        assert torch.equal(one, other)
    before, after = optimizer_tensors(model, optimizer), optimizer_tensors(again, fresh)
    assert before.keys() == after.keys()
    assert len(before) == 3 * len(list(model.parameters()))
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [group["weight_decay"] for group in fresh.param_groups] == [0.1, 0.0]


def test_the_card_names_the_manifest_by_its_fingerprint(place, trained):
    card = place.read_bytes(f"{_save(place, trained, 3)}/README.md").decode()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for line in ("# a, step 3", "| base | some/base |", f"| fingerprint | `{'f' * 64}` |", "| tokens | 30 |", "| lr | `0.0001` |"):
        assert line in card.splitlines()


def test_nothing_in_a_checkpoint_is_pickled(place, trained):
    path = _save(place, trained, 1)
    suffixes = {name.rsplit(".", 1)[-1] for name in place.files(path)}
    assert suffixes == {"json", "safetensors", "md"}


def test_only_what_is_to_be_kept_stays(place, trained):
    for step in (1, 2, 10):
        _save(place, trained, step)
    checkpoint.keep(place, "a", {2, 10})
    assert checkpoint.complete_steps(place, "a") == [2, 10]
    assert place.children("runs/a/checkpoints") == ["step-10", "step-2"]


def test_half_a_checkpoint_is_not_listed_and_is_written_over(place, trained):
    place.write_bytes("runs/a/checkpoints/step-5/model.safetensors", b"half")
    place.write_bytes("runs/a/checkpoints/step-5/stray.json", b"{}")
    assert checkpoint.complete_steps(place, "a") == []
    path = _save(place, trained, 5)
    assert checkpoint.complete_steps(place, "a") == [5]
    assert f"{path}/stray.json" not in place.files(path)


def test_another_format_is_refused(place, trained):
    path = _save(place, trained, 5)
    place.write_bytes(f"{path}/state.json", json.dumps({"format": 99}).encode())
    with pytest.raises(ConfigError, match="another format"):
        checkpoint.read_state(place, "a", 5)
