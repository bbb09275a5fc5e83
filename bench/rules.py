"""How fast are the rules of Gopher, C4 and FineWeb, beside datatrove's filters, and what bounds them?

    python bench/rules.py [--full] [--jsonl PATH ...]

Every contestant gets the same documents and one thread, and they take turns; the table shows medians. "The four" are gopher_quality,
gopher_repetition, c4 and fineweb, each on every document. datatrove's are its filters of the same rules, as they come (words and
sentences of spaCy) and with our words and sentences, by regular expressions that this checks against ours; until dropped: a document
that one filter drops goes to no other, as in a pipeline. Then the time of each of our stages alone, with what it builds on ready, and how
often datatrove decides as we do (ours do not judge the words of scripts without spaces).

By default generated text; --full takes 3,000 documents of ../shared/corpora, or the files named, and makes the environment of the peers
(.venv-peers) first. Fails when a number differs from the plain Python twins', or when an expression finds something else; never on a time.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import random
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
from common.contest import PEERS_DIR, ROOT, Peer, batches, in_turns, peers_python, time_s
from common.texts import generated_texts, mixture, texts_of
from common.words import sentence_end_expression, word_expression, wrong_words

from curate.normalise import normalise
from filters import FAMILIES, family, minhash
from filters.columns import TextBatch, compressed_sizes, repeated_runs

_FOUR = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
_N_RUNS = 5
_N_CHECKED = 40
_PEERS = {"ours": "datatrove, our words", "theirs": "datatrove, as it comes"}


def main() -> int:
    args = _parse_args()
    rng = random.Random(0)
    if args.jsonl:
        texts = [text for path in args.jsonl for text in texts_of(path)]
    else:
        texts = mixture(rng) if args.full else list(generated_texts(rng, 150))
    column = normalise(pa.array(texts, pa.large_string()))
    texts = column.to_pylist()
    checked = rng.sample(texts, min(len(texts), _N_CHECKED))
    problems = [*wrong_words(texts), *_wrong_sentences(checked), *_wrong_numbers(checked)]
    _print_speed(column, peers_python(make=args.full))
    _print_stages(column)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="real documents (../shared/corpora), and all peers")
    parser.add_argument("--jsonl", metavar="PATH", nargs="+", help="time these JSON Lines files instead: plain, .gz or .zst")
    return parser.parse_args()


def _wrong_sentences(texts: list[str]) -> list[str]:
    sys.path.insert(0, str(ROOT))
    from tests.filters.line_twin import ENDINGS
    from tests.filters.word_twin import sentences

    find_ends = re.compile(sentence_end_expression()).finditer
    for line in {line for text in texts for line in text.split("\n")}:
        ends = [found.end() for found in find_ends(line)]
        found = [line[start:end].strip() for start, end in zip([0, *ends], [*ends, len(line)], strict=True)]
        if [sentence for sentence in found if sentence] != sentences(line, ENDINGS):
            return [f"the expression finds other sentences than we do in {line[:80]!r}"]
    return []


def _wrong_numbers(texts: list[str]) -> list[str]:
    sys.path.insert(0, str(ROOT))
    from tests.filters import gopher_twin, line_twin

    batch, problems = TextBatch.from_arrow(pa.array(texts, pa.large_string())), []
    for name in FAMILIES:
        twin = getattr(gopher_twin if name == "gopher_quality" else line_twin, name)
        computed = {signal: values.to_pylist() for signal, values in family(name).compute(batch).items()}
        ours = [dict(zip(computed, row, strict=True)) for row in zip(*computed.values(), strict=True)]
        n_wrong = sum(row != twin(text) for row, text in zip(ours, texts, strict=True))
        problems += [f"{name}: numbers of {n_wrong} of {len(texts)} documents differ from the plain ones"] if n_wrong else []
    return problems


def _print_speed(column: pa.Array, python: pathlib.Path) -> None:
    texts = column.to_pylist()
    find_words, find_word_chars = re.compile(word_expression()).findall, re.compile(r"\w+").findall
    contestants: dict[str, Callable[[], float]] = {
        "the four": partial(_families_s, column, *_FOUR),
        **{name: partial(_families_s, column, name) for name in FAMILIES},
        "all six": partial(_families_s, column, *FAMILIES),
        "all six and MinHash band keys": partial(_families_s, column, *FAMILIES, with_minhash=True),
        "words only": lambda: time_s(lambda: [batch.words for batch in batches(column)], n_times=3),
        r"re.findall(r'\w+')": lambda: time_s(lambda: [find_word_chars(text) for text in texts]),
        "our words as an expression": lambda: time_s(lambda: [find_words(text) for text in texts]),
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        paths = [pathlib.Path(folder, name) for name in ("documents.parquet", "word.txt", "sentence_end.txt")]
        pq.write_table(pa.table({"text": column}), paths[0])
        paths[1].write_text(word_expression(), encoding="utf-8")
        paths[2].write_text(sentence_end_expression(), encoding="utf-8")
        for words, label in _PEERS.items():
            peer = stack.enter_context(Peer(python, "filters.py", words, *paths))
            if peer.state != "ready":
                print(f"left out: {label} ({peer.state}); --full makes {PEERS_DIR.name}")
                continue
            contestants |= {f"{label}: {task}": partial(peer.time_s, task) for task in _tasks(words)}
            decisions_path = pathlib.Path(folder, f"{words}.json")
            peer.time_s(str(decisions_path))
            _print_agreement(label, column, json.loads(decisions_path.read_text(encoding="utf-8")))
        _print_table(column, in_turns(contestants, _N_RUNS))


def _tasks(words: str) -> tuple[str, ...]:
    # One alone says where the time goes; with spaCy it would say "into the words" four times.
    return ("every", "until_dropped", *(_FOUR if words == "ours" else ()))


def _families_s(column: pa.Array, *names: str, with_minhash: bool = False) -> float:
    families = [family(name) for name in names]

    def run() -> None:
        for batch in batches(column):
            for one in families:
                one.compute(batch)
            if with_minhash:
                minhash.band_keys(batch)

    return time_s(run, n_times=3)


def _print_table(column: pa.Array, times_s: dict[str, list[float]]) -> None:
    texts = column.to_pylist()
    n_mb = sum(len(text.encode()) for text in texts) / 1e6
    n_not_ascii = sum(not text.isascii() for text in texts)
    print(f"\n{len(texts):,} documents, {n_mb:.1f} MB, {n_not_ascii:,} not only ASCII; one thread, median of {_N_RUNS} runs in turn")
    print(f"{'':42} {'s':>8} {'docs/s':>8} {'MB/s':>7} {'the four are':>12}   fastest..slowest")
    ours_s = statistics.median(times_s["the four"])
    for label, runs_s in times_s.items():
        median_s = statistics.median(runs_s)
        rates = f"{len(texts) / median_s:8,.0f} {n_mb / median_s:7.2f} {median_s / ours_s:11.2f}x"
        print(f"{label:42} {median_s:8.4f} {rates}   {min(runs_s):.4f}..{max(runs_s):.4f}")


def _print_stages(column: pa.Array) -> None:
    made = list(batches(column))
    stages: dict[str, Callable[[TextBatch], object]] = {
        "words": partial(_anew, "words"),
        "sums over words": partial(_anew, "word_sums"),
        "lines, marks, phrases, characters": partial(_anew, "lines"),
        "sums over lines, lines that repeat": partial(_anew, "line_sums"),
        "runs of 2 to 10 words": repeated_runs,
        "compressed size": compressed_sizes,
        "MinHash band keys": minhash.band_keys,
    }
    # An earlier stage is there for a later one, as a batch keeps what it has found.
    contestants = {name: partial(time_s, partial(_each, stage, made)) for name, stage in stages.items()}
    times_s = in_turns(contestants, _N_RUNS + 1)
    n_bytes = sum(len(batch.data) for batch in made)
    print(f"\n{'stage':42} {'ns/byte':>8}")
    for name, runs_s in times_s.items():
        print(f"{name:42} {1e9 * statistics.median(runs_s[1:]) / n_bytes:8.3f}")


def _each(stage: Callable[[TextBatch], object], made: list[TextBatch]) -> None:
    for batch in made:
        stage(batch)


def _anew(what: str, batch: TextBatch) -> object:
    """Find once more what a batch keeps."""
    if what in vars(batch):
        delattr(batch, what)
    return getattr(batch, what)


def _print_agreement(label: str, column: pa.Array, theirs: dict[str, list[str | None]]) -> None:
    batch = TextBatch.from_arrow(column)
    print(f"\n{label:30} {'decides as we do':>16} {'both drop':>10} {'only we drop':>12} {'only they drop':>14}   why, most often")
    for name, reasons in theirs.items():
        signals = family(name).compute(batch)
        judged = {rule.name: rule.passes(signals[rule.signal]).to_pylist() for rule in family(name).rules}
        ours = [next((rule for rule, passes in judged.items() if not passes[place]), None) for place in range(len(column))]
        pairs = list(zip(ours, reasons, strict=True))
        only_we, only_they = (
            [one for one, other in pairs if other is None and one],
            [other for one, other in pairs if one is None and other],
        )
        n_both = sum(one is not None and other is not None for one, other in pairs)
        share = 1 - (len(only_we) + len(only_they)) / len(pairs)
        why = ", ".join(f"{reason} {n}" for reason, n in collections.Counter(only_we + only_they).most_common(4))
        print(f"{name:30} {share:16.2%} {n_both:10,} {len(only_we):12,} {len(only_they):14,}   {why}")


if __name__ == "__main__":
    sys.exit(main())
