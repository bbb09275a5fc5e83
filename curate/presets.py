"""Mixtures that base models were trained on, as published: what `mix.preset` names.

The numbers stand as their source prints them, in its own unit (percent, billions of tokens, or percent of bytes, which is said); only
their ratios count. One kind of text has one name in all of them, so that a recipe's replay components fit more than one preset.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Preset:
    """Amounts by component, as decimals of the source, and the source. `web` are the components that a domain usually stands in for."""

    amounts: Mapping[str, str]
    web: tuple[str, ...]
    source: str


PRESETS: dict[str, Preset] = {
    "llama-1": Preset(
        {
            "common_crawl": "67.0", "c4": "15.0", "github": "4.5", "wikipedia": "4.5", "books": "4.5", "arxiv": "2.5",
            "stackexchange": "2.0",
        },
        ("common_crawl", "c4"),
        "Touvron et al. 2023, LLaMA, arXiv 2302.13971, table 1: sampling proportions in percent",
    ),
    "redpajama": Preset(
        {
            "common_crawl": "878", "c4": "175", "github": "59", "arxiv": "28", "books": "26", "wikipedia": "24", "stackexchange": "20",
        },
        ("common_crawl", "c4"),
        "dataset card of togethercomputer/RedPajama-Data-1T: billions of tokens",
    ),
    "slimpajama": Preset(
        {
            "common_crawl": "52.2", "c4": "26.7", "github": "5.2", "arxiv": "4.6", "books": "4.2", "wikipedia": "3.8",
            "stackexchange": "3.3",
        },
        ("common_crawl", "c4"),
        "dataset card of cerebras/SlimPajama-627B: percent",
    ),
    "pile": Preset(
        {
            "common_crawl": "18.11", "pubmed_central": "14.40", "books": "12.07", "openwebtext2": "10.01", "arxiv": "8.96",
            "github": "7.59", "freelaw": "6.12", "stackexchange": "5.13", "uspto": "3.65", "pubmed_abstracts": "3.07",
            "gutenberg": "2.17", "opensubtitles": "1.55", "wikipedia": "1.53", "dm_mathematics": "1.24", "ubuntu_irc": "0.88",
            "bookcorpus2": "0.75", "europarl": "0.73", "hackernews": "0.62", "youtube_subtitles": "0.60", "philpapers": "0.38",
            "nih_exporter": "0.30", "enron_emails": "0.14",
        },
        ("common_crawl", "openwebtext2"),
        "Gao et al. 2020, The Pile, arXiv 2101.00027, table 1: weights, percent of bytes",
    ),
    "olmo": Preset(
        {
            "common_crawl": "3710", "github": "83.0", "pes2o": "58.6", "arxiv": "20.8", "openwebmath": "12.2", "algebraic_stack": "11.8",
            "wikipedia": "3.7",
        },
        ("common_crawl",),
        "OLMo Team 2025, 2 OLMo 2 Furious, arXiv 2501.00656, table 1 (1124 Mix, web pages by DCLM, code by StarCoder): billions of tokens",
    ),
}  # fmt: skip
NO_PRESET = "none"  # the domain alone; replay components are kept for evaluation only
