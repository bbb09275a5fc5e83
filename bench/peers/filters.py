"""datatrove's four filters in a process of their own: documents in, decisions out, once for every line on stdin.

    python bench/peers/filters.py WORDS DOCUMENTS.parquet WORD_EXPRESSION.txt SENTENCE_END_EXPRESSION.txt

WORDS is "theirs" (spaCy's, as datatrove ships it) or "ours": the rule of docs/words.md, by two compiled regular expressions. Runs in the
environment of bench/requirements-peers.txt and imports nothing of ours. Prints "ready", or what is not installed. A line on stdin names
what to run; the answer is the seconds that it took:

- the name of a filter: this one alone, on every document;
- "every": all four on every document, one document after the other, so that datatrove's cache of a text's words is of use;
- "until_dropped": the same, but a document that a filter drops goes to no other; what a pipeline does, in the order of FineWeb's;
- a path: all of them, and C4's as FineWeb uses it, on every document; the file there then holds the decisions (null where kept).

Only the filters' own `filter` is called, without the reading, writing and statistics of a pipeline. C4's rewrites its document, so that
each filter gets one of its own; making it takes a microsecond.
"""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any

import pyarrow.parquet as pq

_N_WARM_UP = 20


def main() -> None:
    words, documents_path, *expression_paths = sys.argv[1:]
    texts = pq.read_table(documents_path)["text"].to_pylist()
    try:
        blocks = _blocks(_tokenizer(*expression_paths) if words == "ours" else "en")
        _run(blocks, texts[:_N_WARM_UP], is_until_dropped=False)
    except ImportError as error:
        print(" ".join(str(error).split()))
        return
    print("ready", flush=True)
    fineweb_c4 = blocks.pop("c4_fineweb")
    for line in sys.stdin:
        task = line.strip()
        start = time.perf_counter()
        if task in ("every", "until_dropped"):
            _run(blocks, texts, is_until_dropped=task == "until_dropped")
        elif task in blocks:
            _run({task: blocks[task]}, texts, is_until_dropped=False)
        else:
            _write_decisions({**blocks, "c4_fineweb": fineweb_c4}, texts, task)
        print(time.perf_counter() - start, flush=True)


def _blocks(language: Any) -> dict[str, Any]:
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    return {
        "gopher_repetition": GopherRepetitionFilter(language=language),
        "gopher_quality": GopherQualityFilter(language=language),
        "c4": C4QualityFilter(language=language),
        "fineweb": FineWebQualityFilter(language=language),
        "c4_fineweb": C4QualityFilter(language=language, filter_no_terminal_punct=False),
    }


def _tokenizer(*expression_paths: str) -> Any:
    """A tokenizer of ours, which datatrove takes in place of a language."""
    from datatrove.utils.word_tokenizers import WordTokenizer

    word, sentence_end = (re.compile(_read(path)) for path in expression_paths)

    class OurWords(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return word.findall(text)

        def sent_tokenize(self, text: str) -> list[str]:
            return [text[start:end].strip() for start, end in self.span_tokenize(text)]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            ends = [found.end() for found in sentence_end.finditer(text)]
            if text[ends[-1] if ends else 0 :].strip():
                ends.append(len(text))
            return list(zip([0, *ends], ends, strict=False))

    return OurWords()


def _run(blocks: dict[str, Any], texts: list[str], *, is_until_dropped: bool) -> None:
    from datatrove.data import Document

    for text in texts:
        for block in blocks.values():
            if block.filter(Document(text=text, id="")) is not True and is_until_dropped:
                break


def _write_decisions(blocks: dict[str, Any], texts: list[str], path: str) -> None:
    from datatrove.data import Document

    found: dict[str, list[str | None]] = {name: [] for name in blocks}
    for text in texts:
        for name, block in blocks.items():
            result = block.filter(Document(text=text, id=""))
            found[name].append(None if result is True else result[1])
    with open(path, "w", encoding="utf-8") as file:
        json.dump(found, file)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    main()
