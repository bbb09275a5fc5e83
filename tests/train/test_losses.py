import pytest
import torch
import transformers
from torch.nn import functional

from train.attention import arguments
from train.losses import TokenLoss, has_plain_head
from train.stream import IGNORED

_SHAPE = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 32,
}  # fmt: skip


def _llama(tied=False):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(tie_word_embeddings=tied, **_SHAPE))


def _phi():
    return transformers.PhiForCausalLM(transformers.PhiConfig(**_SHAPE))


def _gemma2():
    return transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(head_dim=8, num_key_value_heads=2, final_logit_softcapping=2.0, **_SHAPE)
    )


def _gpt2():
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=31, n_embd=16, n_layer=1, n_head=2, n_positions=32))


@pytest.fixture(params=[_llama, lambda: _llama(tied=True), _phi, _gemma2, _gpt2], ids=["llama", "tied", "phi", "gemma2", "gpt2"])
def model(request):
    torch.manual_seed(0)
    return request.param().double().eval()


def _batch():
    torch.manual_seed(1)
    inputs, targets = torch.randint(31, (2, 11)), torch.randint(31, (2, 11))
    targets[0, 3:5] = IGNORED
    targets[1, -1] = IGNORED
    return inputs, targets, torch.arange(11).expand(2, -1)


def _loss(model, chunk):
    return TokenLoss(model, arguments=arguments("causal", "sdpa"), chunk=chunk, dtype=torch.float64)


def _plain(model, inputs, targets):
    logits = model(input_ids=inputs, use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none").view_as(targets)


@pytest.mark.parametrize("chunk", [1, 4, 22, 1000])
def test_chunks_have_the_loss_and_the_gradients_of_the_whole(model, chunk):
    inputs, targets, positions = _batch()
    expected = _plain(model, inputs, targets)
    (expected.sum() * 0.3).backward()
    expected, grads = expected.detach(), {name: param.grad for name, param in model.named_parameters()}
    model.zero_grad()
    total, nll = _loss(model, chunk)(inputs, targets, positions)
    (total * 0.3).backward()
    assert torch.allclose(nll, expected, rtol=0, atol=1e-12)
    assert float(total.detach()) == pytest.approx(float(expected.sum()), abs=1e-11)
    assert (nll[targets == IGNORED] == 0).all()
    for name, param in model.named_parameters():
        assert torch.allclose(param.grad, grads[name], rtol=0, atol=1e-12), name


def test_without_gradients_the_nats_are_the_same(model):
    inputs, targets, positions = _batch()
    with torch.no_grad():
        _, nll = _loss(model, 4)(inputs, targets, positions)
        assert torch.allclose(nll, _plain(model, inputs, targets), rtol=0, atol=1e-12)


def test_a_head_that_does_more_than_multiply_is_known():
    assert [has_plain_head(make()) for make in (_llama, _phi, _gpt2, _gemma2)] == [True, True, True, False]


class _Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the largest float tensor that an operation has made."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.is_floating_point():
            self.largest = max(self.largest, made.numel())
        return made


def test_the_logits_of_all_tokens_are_never_there_at_once():
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**_SHAPE, "vocab_size": 5000}))
    inputs, targets, positions = _batch()
    with _Largest() as seen:
        _plain(model, inputs, targets).sum().backward()
    assert seen.largest == 22 * 5000
    loss = TokenLoss(model, arguments=arguments("causal", "sdpa"), chunk=2, dtype=torch.float32)
    with _Largest() as seen:
        loss(inputs, targets, positions)[0].backward()
    assert seen.largest == 5000 * 16  # the head itself


def test_matrix_products_in_bfloat16_keep_sums_in_float32():
    torch.manual_seed(0)
    model = _llama()
    inputs, targets, positions = _batch()
    loss = TokenLoss(model, arguments=arguments("causal", "sdpa"), chunk=4, dtype=torch.bfloat16)
    total, nll = loss(inputs, targets, positions)
    total.backward()
    assert (total.dtype, nll.dtype) == (torch.float32, torch.float32)
    assert {param.grad.dtype for param in model.parameters()} == {torch.float32}
    assert torch.allclose(nll, _plain(model, inputs, targets).detach(), rtol=0, atol=0.05)


def test_an_evaluation_computes_no_gradients(model):
    loss, asked = _loss(model, 3), []
    kernel = loss.chunk_loss
    loss.chunk_loss = lambda logits, labels: asked.append(len(labels)) or kernel(logits, labels)
    with torch.no_grad():
        _, evaluated = loss(*_batch())
    assert asked == []
    _, learnt = loss(*_batch())
    assert asked
    assert torch.allclose(evaluated, learnt, rtol=0, atol=1e-12)
