"""The model of a run: a tiny Llama from a seed, or any causal LM of transformers by folder or hub id.

Foreign weights are hostile until shown otherwise: safetensors only, `trust_remote_code` off. A model must come with
its tokenizer, because token ids of another one are noise to it; whether that is the manifest's is told by the bytes of
tokenizer.json, before the weights are read (train/recount.py has what follows where it is not). Weights are float32 in
memory whatever the folder holds, or float64 in a run that computes so.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import huggingface_hub
import torch
import transformers

from curate import tokens
from curate.manifest import Manifest
from curate.store import Store
from train.config import TINY, ConfigError, TrainConfig
from train.recount import describe

# What a tokenizer may consist of besides tokenizer.json; copied into each checkpoint as it is.
_TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    """What a run starts from. `files` are the tokenizer files of a checkpoint, by name; `tokenizer` is as manifest.json has one."""

    name: str
    tokenizer: dict[str, Any]
    files: dict[str, bytes]
    warnings: tuple[str, ...]


def find_base(store: Store, manifest: Manifest, name: str) -> Base:
    """Find the model that --model names and its tokenizer; reads no weights and writes nothing.

    `name` is "tiny", which takes the manifest's tokenizer, a folder, or a hub id. Raises ConfigError where it is none of
    these, or has no tokenizer.
    """
    own = manifest.tokenizer
    if name == TINY:
        files = {"tokenizer.json": store.read_bytes(own["path"]), "tokenizer_config.json": _plain_tokenizer_config(store, own)}
        return Base(TINY, own, files, ())
    path = _model_file(name, "tokenizer.json")
    if path is None:
        raise ConfigError(f"model {name!r} has no tokenizer.json, so its token ids mean nothing here; save its fast tokenizer beside it")
    tokenizer_json = path.read_bytes()
    others = {file: found.read_bytes() for file in _TOKENIZER_FILES if (found := _model_file(name, file)) is not None}
    has_template = "chat_template.jinja" in others or b'"chat_template"' in others.get("tokenizer_config.json", b"")
    warning = f"{name} has a chat template, so it was tuned to answer; continued pre-training wants the base that it came from"
    if hashlib.sha256(tokenizer_json).hexdigest() == own["sha256"]:
        tokenizer = own
    else:
        config = others.get("tokenizer_config.json", b"{}")
        tokenizer = describe(tokenizer_json, config, name=pathlib.PurePath(name).name, separator=own["separator"])
    return Base(name, tokenizer, {"tokenizer.json": tokenizer_json, **others}, (warning,) if has_template else ())


def load_model(
    store: Store, base: Base, config: TrainConfig, dtype: torch.dtype = torch.float32, folder: str | None = None
) -> transformers.PreTrainedModel:
    """Make the tiny model from the config's seed, or read the weights of a real one, or of `folder`; held in `dtype`.

    Raises ConfigError where it cannot take the tokens.
    """
    n_entries = tokens.load_tokenizer(store, base.tokenizer).get_vocab_size()
    if base.name == TINY and folder is None:
        before, after = tokens.separators(store, base.tokenizer)
        return _tiny(n_entries, config, bos=(before or after)[-1], eos=(after or before)[-1]).to(dtype)
    model = read_model(folder or base.name, dtype)
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < n_entries:
        raise ConfigError(f"model {base.name!r} embeds {rows} tokens, its tokenizer has {n_entries}; resize the model's embeddings first")
    if config.seq_len > getattr(model.config, "max_position_embeddings", config.seq_len):
        raise ConfigError(
            f"seq_len {config.seq_len} is more than {base.name!r} takes; set it to at most {model.config.max_position_embeddings}"
        )
    return model


def read_model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """Read a causal LM from a folder or the hub, with weights in `dtype`: safetensors only, no code of its own.

    Weights are copied out of the file's memory map: kernels may round by alignment, and a resumed run must round alike.
    """
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False, use_safetensors=True, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {name!r} cannot be read as a causal LM with safetensors: {_first_line(error)}") from None
    for param in model.parameters():
        param.data = param.data.clone()
    return model


def n_parameters(model: torch.nn.Module) -> int:
    """Count parameters; tied ones once."""
    return sum(param.numel() for param in model.parameters())


def find_device(choice: str, local_rank: int = 0, *, is_alone: bool = True) -> torch.device:
    """Resolve `auto`: a CUDA device where there is one, each process of a machine its own. Raises ConfigError for one that is not there."""
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    if not is_alone and choice.startswith("cuda:"):
        raise ConfigError(f"device {choice!r} is one device for several processes; set it to cuda, and each takes its own")
    if choice == "cuda":
        choice = f"cuda:{local_rank}"
    if choice.startswith("cuda") and (not torch.cuda.is_available() or (torch.device(choice).index or 0) >= torch.cuda.device_count()):
        raise ConfigError(
            f"device {choice!r} is not on this machine; it has {torch.cuda.device_count()} CUDA devices. Set device to auto or cpu"
        )
    return torch.device(choice)


def find_dtype(choice: str, device: torch.device) -> torch.dtype:
    """Resolve `auto`: bfloat16 where a CUDA device computes it natively, else float32."""
    if choice == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}[choice]


def held_in(dtype: torch.dtype) -> torch.dtype:
    """Give the type that weights are held in where matrix products are in another one."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _tiny(n_entries: int, config: TrainConfig, *, bos: int, eos: int) -> Any:
    """Some 0.8 M parameters in four layers, besides the embeddings, which are tied."""
    torch.manual_seed(config.seed)
    shape = transformers.LlamaConfig(
        vocab_size=n_entries,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=config.seq_len,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
    )
    return transformers.LlamaForCausalLM(shape)


def _plain_tokenizer_config(store: Store, info: Mapping[str, Any]) -> bytes:
    tokenizer = tokens.load_tokenizer(store, info)
    before, after = tokens.separators(store, info)
    roles: Sequence[tuple[str, list[int]]] = [("bos_token", before), ("eos_token", after)]
    named = {role: tokenizer.id_to_token(ids[-1]) for role, ids in roles if ids}
    return json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}, indent=2).encode()


def _model_file(name: str, file: str) -> pathlib.Path | None:
    """Give a file of a model, fetched from the hub where `name` is no folder; None where the model has no such file."""
    if os.path.isdir(name):
        path = pathlib.Path(name, file)
        return path if path.is_file() else None
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(name, file))
    except huggingface_hub.errors.RemoteEntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        # A copy in the hub's cache may lack a file that the model never had; only the tokenizer has to be there.
        if isinstance(error, huggingface_hub.errors.LocalEntryNotFoundError) and file != "tokenizer.json":
            return None
        raise ConfigError(
            f"model {name!r} is not {TINY!r}, not a folder here, and the hub does not give it: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
