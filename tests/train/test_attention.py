import pytest
import torch
import transformers

from train.attention import arguments, check_separation, find_kernel, use_kernel
from train.config import ConfigError

_CPU = torch.device("cpu")
_SHAPE = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 32}


def _llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(intermediate_size=24, num_key_value_heads=2, **_SHAPE))


def _neox():
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(intermediate_size=24, **_SHAPE))


def _gpt2():
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=31, n_embd=16, n_layer=2, n_head=4, n_positions=32))


def _mistral():
    shape = transformers.MistralConfig(intermediate_size=24, num_key_value_heads=2, sliding_window=4, **_SHAPE)
    return transformers.MistralForCausalLM(shape)


def _gemma2():
    shape = transformers.Gemma2Config(intermediate_size=24, num_key_value_heads=2, head_dim=4, sliding_window=4, **_SHAPE)
    return transformers.Gemma2ForCausalLM(shape)


@pytest.fixture(params=[_llama, _neox, _gpt2, _mistral, _gemma2], ids=lambda make: make.__name__.strip("_"))
def model(request):
    torch.manual_seed(0)
    return request.param().double().eval()


# Two sequences of twelve tokens in pieces of these lengths.
_PIECES = ((5, 1, 6), (12,))


def _packed():
    torch.manual_seed(1)
    ids = torch.randint(31, (2, 12))
    positions = torch.stack([torch.cat([torch.arange(n) for n in pieces]) for pieces in _PIECES])
    return ids, positions


def _alone(model, ids):
    """The logits of each piece, computed by itself."""
    rows = []
    for row, pieces in zip(ids, _PIECES, strict=True):
        rows.append(torch.cat([model(input_ids=piece[None], use_cache=False).logits[0] for piece in row.split(pieces)]))
    return torch.stack(rows)


def test_the_logits_of_a_packed_document_are_those_of_it_alone(model):
    ids, positions = _packed()
    with torch.no_grad():
        packed = model(input_ids=ids, use_cache=False, **arguments("documents", "sdpa")(positions)).logits
        assert torch.allclose(packed, _alone(model, ids), rtol=0, atol=1e-9)
        together = model(input_ids=ids, use_cache=False, **arguments("causal", "sdpa")(positions)).logits
    assert torch.allclose(together[1], packed[1], rtol=0, atol=1e-9)  # one piece
    assert not torch.allclose(together[0], packed[0], rtol=0, atol=1e-3)


def test_a_model_that_keeps_documents_apart_passes_and_stays_as_it_was(model):
    model.train()
    check_separation(model)
    assert model.training


def test_a_model_that_takes_no_positions_is_refused():
    model = transformers.BloomForCausalLM(transformers.BloomConfig(vocab_size=31, hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(ConfigError, match="takes no position ids, so it cannot keep documents apart; set attention to causal"):
        check_separation(model)


class _Leaks(transformers.LlamaForCausalLM):
    """Takes position ids and forgets them."""

    def forward(self, input_ids, position_ids=None, use_cache=False):
        return super().forward(input_ids=input_ids, use_cache=use_cache)


def test_a_model_that_forgets_the_positions_is_refused():
    model = _Leaks(transformers.LlamaConfig(intermediate_size=24, **_SHAPE))
    with pytest.raises(ConfigError, match="does not keep the documents of a sequence apart"):
        check_separation(model)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # while torch compiles it warns of itself
def test_flex_attention_gives_the_same_logits():
    torch.manual_seed(0)
    model = _llama().eval()
    ids, positions = _packed()
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False, position_ids=positions).logits
        use_kernel(model, "flex")
        found = model(input_ids=ids, use_cache=False, **arguments("documents", "flex")(positions)).logits
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.gpu
def test_varlen_attention_gives_the_same_logits():
    torch.manual_seed(0)
    model = _llama().eval().cuda()
    ids, positions = (part.cuda() for part in _packed())
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        expected = model(input_ids=ids, use_cache=False, position_ids=positions).logits
        use_kernel(model, "varlen")
        found = model(input_ids=ids.view(1, -1), use_cache=False, **arguments("documents", "varlen")(positions)).logits
    assert torch.allclose(found.view_as(expected), expected, rtol=0, atol=2e-2)


def test_varlen_is_told_where_pieces_start_in_few_shapes():
    _, positions = _packed()
    given = arguments("documents", "varlen")(positions)
    assert given["cu_seq_lens_q"].tolist() == [0, 5, 6, 12, 24, 24, 24, 24]  # four pieces, closed, filled up with empty ones to eight
    assert (given["max_length_q"], given["position_ids"].shape) == (12, (1, 24))


def test_auto_is_sdpa_on_a_cpu_and_flex_for_documents_on_a_gpu():
    cuda = torch.device("cuda:0")
    assert [
        find_kernel("auto", attention, device) for attention, device in (("documents", _CPU), ("documents", cuda), ("causal", cuda))
    ] == [
        "sdpa",
        "flex",
        "sdpa",
    ]
    with pytest.raises(ConfigError, match="'varlen' needs a CUDA device and this run is on cpu"):
        find_kernel("varlen", "documents", _CPU)
