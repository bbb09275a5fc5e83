"""Small corpora for the tests: documents of ordinary words from a counter, written in any format and cut."""

import gzip
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_TEXT = """
the of and to be that have with heart blood vessel patient doctor treatment drug dose trial result group study risk kidney liver pressure
acute chronic severe mild therapy nurse clinic hospital symptom fever pain chest lung cell gene protein test daily weekly show increase
reduce change early late small large common rare normal high low week month year day children adults women men
"""
_GENERAL = """
the of and to be that have with river bridge market song film team season match village king queen castle train station market price
street house garden museum road song singer band album record player goal coach city mayor election party vote army battle old new long
short north south east west summer winter morning evening story book letter writer painter school teacher child window table
"""
_WORDS = {True: _TEXT.split(), False: _GENERAL.split()}


def text(key: str, n_words: int = 80) -> str:
    """Make a text of ordinary words, of the domain unless the key says web or wiki; the same key gives the same text."""
    known = _WORDS[not key.startswith(("web", "wiki"))]
    words = []
    for number in range(n_words):
        words.append(known[int(hashlib.sha256(f"{key}|{number}".encode()).hexdigest()[:8], 16) % len(known)])
        if number % 12 == 11:
            words[-1] += "."
    return " ".join(words).capitalize() + "."


def documents(name: str, n: int, **more: Any) -> list[dict[str, Any]]:
    """Make documents; every tenth is too short for the rules, every ninth is a copy of its predecessor under another id, and every
    eleventh differs from its predecessor in its last three words (some 0.9 of their word 5-grams are the same)."""
    made: list[dict[str, Any]] = []
    for number in range(n):
        body = text(f"{name}{number}", 20 if number % 10 == 3 else 60 + number % 50)
        if number % 9 == 8:
            body = made[-1]["text"]
        elif number % 11 == 7:
            body = made[-1]["text"].rsplit(" ", 3)[0] + f" and one more {name}{number}."
        made.append({"id": f"{name}-{number}", "text": body, "pmid": f"{name}-p{number // 2}" if number % 3 else None, **more})
    return made


def write_jsonl(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)


def write_parquet(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


RECIPE = """
domain = "tiny"
scorers = ["quality"]
[quality]
dim = 8
bucket = 1000
rounds = 2
lr = 1.0
epochs = 20
[select]
order_by = "quality DESC"
budget_tokens = 12000
[mix]
epochs = 2
shares = {{ domain = 0.8, wikipedia = 0.2 }}
[holdout]
share = 0.1
[tokenizer]
vocab_size = 400
[sources.papers]
path = "{data}/papers"
fields = {{ group = "pmid" }}
[sources.web]
path = "{data}/web"
[sources.wiki]
path = "{data}/wiki"
role = "replay"
component = "wikipedia"
[sources.reference]
path = "{data}/reference"
role = "reference"
"""


def write_corpus(folder: pathlib.Path, *, n_files: int = 2, reverse: bool = False, formats: Sequence[str] = ("jsonl", "jsonl.gz")) -> str:
    """Write the sources of RECIPE below a folder, each cut into so many files, and give the recipe's path."""
    sources = {
        "papers": documents("paper", 150, licence="cc0"),
        "web": documents("web", 120) + documents("paper", 12),
        "wiki": documents("wiki", 80),
        "reference": documents("reference", 20),
    }
    for source, rows in sources.items():
        rows = rows[::-1] if reverse else rows
        size = -(-len(rows) // n_files)
        for number in range(n_files):
            piece, suffix = rows[number * size : (number + 1) * size], formats[number % len(formats)]
            path = folder / "data" / source / f"part-{number}.{suffix}"
            write_parquet(path, piece) if suffix == "parquet" else write_jsonl(path, piece)
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(data="data"))
    return str(recipe)
