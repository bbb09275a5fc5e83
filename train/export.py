"""A model as a folder that transformers opens: safetensors, config, the tokenizer's files and a card that says what it is.

The card names the manifest by its fingerprint, which covers every token that was drawn, so whoever has the folder can
ask what the model was trained on.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import torch


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """What a model card says. `settings` is the config of the run."""

    run: str
    base: str
    manifest: str
    fingerprint: str
    is_sample: bool
    settings: Mapping[str, Any]


def write_folder(
    folder: pathlib.Path,
    model: Any,
    weights: Mapping[str, torch.Tensor],
    *,
    files: Mapping[str, bytes],
    card: Card,
    step: int,
    n_tokens: int,
) -> None:
    """Write a model's weights (whole, by name), its config, its tokenizer's files and its card."""
    model.save_pretrained(folder, state_dict=dict(weights))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "README.md").write_text(model_card(card, step=step, n_tokens=n_tokens), encoding="utf-8")


def model_card(card: Card, *, step: int, n_tokens: int) -> str:
    """Make the card, with the front matter that the hub reads."""
    sample = "\nThe manifest is the SAMPLE CORPUS, made from templates: nothing learnt from it means anything.\n" if card.is_sample else ""
    settings = "\n".join(f"| {key} | `{json.dumps(value)}` |" for key, value in card.settings.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- continual-pretraining
- gapless
---

# {card.run}, step {step:,}
{sample}
{card.base} after {n_tokens:,} tokens of continued pre-training on manifest {card.manifest}.

| | |
|---|---|
| base | {card.base} |
| manifest | {card.manifest} |
| fingerprint | `{card.fingerprint}` |
| step | {step:,} |
| tokens | {n_tokens:,} |

The fingerprint names every document, its masks, its tokens and its place in the order: `curate show {card.manifest}` shows it,
`curate verify {card.manifest}` proves it.

## Config

| key | value |
|---|---|
{settings}
"""
