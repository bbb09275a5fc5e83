import copy

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from train.config import TrainConfig
from train.parallel import World
from train.step import Setting, make_learner, train_step
from train.stream import IGNORED, NO_COMPONENT, Batch, Pieces

_SHAPE = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 8,
}  # fmt: skip
_SETTING = Setting(torch.device("cpu"), torch.float64, "sdpa", World())
_NONE = Pieces(*(np.zeros(0, dtype=np.int64) for _ in range(5)))


def _llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SHAPE)).double()


def _batch():
    """Four sequences of two pieces each, with unequal numbers of targets; the last one is empty."""
    torch.manual_seed(1)
    inputs, targets = torch.randint(31, (4, 8)), torch.randint(31, (4, 8))
    targets[0, 1:] = IGNORED
    targets[3] = IGNORED
    positions = torch.cat([torch.arange(3), torch.arange(5)]).expand(4, -1)
    components = torch.tensor([[0], [1], [0], [NO_COMPONENT]]).expand(4, 8)
    arrays = [part.to(dtype) for part, dtype in ((inputs, torch.int32), (targets, torch.int32), (positions, torch.int32))]
    return Batch(*arrays, components.to(torch.int8), _NONE, 24, int((targets != IGNORED).sum()))


def _learner(model, **changes):
    config = TrainConfig(seq_len=8, global_batch=4, lr=1e-2, clip_norm=0.5, warmup_ratio=None, warmup_steps=2, **changes)
    learner = make_learner(model, config, config.phases(10), components=("a", "b", "c"), setting=_SETTING)
    learner.loss.train()
    return learner


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_a_step_is_adamw_on_the_mean_over_all_targets_of_the_batch(micro_batch):
    batch, model = _batch(), _llama()
    reference = copy.deepcopy(model)
    done = train_step(_learner(model, micro_batch=micro_batch), batch, 0)

    logits = reference(input_ids=batch.inputs_BT.long(), position_ids=batch.positions_BT.long(), use_cache=False).logits
    nll = functional.cross_entropy(logits.flatten(0, 1), batch.targets_BT.long().flatten(), ignore_index=IGNORED, reduction="none")
    (nll.sum() / 17).backward()
    norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
    groups = [{"params": [p for p in reference.parameters() if (p.ndim >= 2) == decays], "weight_decay": 0.1 * decays} for decays in (1, 0)]
    torch.optim.AdamW(groups, lr=1e-2 / 2, betas=(0.9, 0.95)).step()

    by_row = nll.detach().view(4, 8).sum(1)
    assert (done.lr, done.grad_norm) == (pytest.approx(1e-2 / 2), pytest.approx(float(norm), abs=1e-12))
    assert done.loss == pytest.approx(float(by_row.sum()) / 17, abs=1e-12)
    assert done.component_losses == pytest.approx({"a": float(by_row[0] + by_row[2]) / 9, "b": float(by_row[1]) / 8}, abs=1e-12)
    for (name, found), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-12), name


def test_dropout_is_named_by_the_step_and_not_drawn_from_a_state():
    config = transformers.GPT2Config(vocab_size=31, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).double()

    def loss(step, seed=0):
        return train_step(_learner(copy.deepcopy(model), micro_batch=2, seed=seed), _batch(), step).loss

    first = loss(3)
    torch.rand(7)
    assert loss(3) == first
    assert len({loss(3), loss(4), loss(3, seed=1)}) == 3


def test_what_a_micro_batch_gave_is_said_with_its_place():
    noted = []
    learner = _learner(_llama(), micro_batch=2)
    train_step(learner, _batch(), 5, lambda step, first, part, nll: noted.append((step, first, nll.shape, len(part.inputs_BT))))
    assert noted == [(5, 0, (2, 8), 2), (5, 2, (2, 8), 2)]
