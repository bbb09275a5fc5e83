"""Write the sample corpus: a small dirty world in which every planted fault is known.

`curate make-sample` and the shipped medical domain use it where no source is named. Beside the sources it writes fates.jsonl, which
is no source: a line for each thing that was planted (source, id, fate, of), so that tests and later work can check what became of it.
Decision: nothing is drawn from a generator's state and no clock is read, so a seed gives the same bytes in every run (with the same
pyarrow and zlib). Ids, file names and places of fates do not depend on the seed, so another seed in the same folder leaves nothing stale.

Fates and what `of` holds: topic (its name); exact_copy, near_copy, interchangeable, shared_group (SOURCE/ID of the other row); junk (its
kind); wrong_language (its code); pii_email, pii_phone, pii_ip (the planted string); benchmark (the question's id); broken (its kind; the
id is in the raw line, whose number is `line`).
"""

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import gcd
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.sample_text import (
    JUNK,
    LANGUAGES,
    compose,
    disease_words,
    draw,
    fill,
    junk,
    nearly,
    sentences,
    source_text,
    subject_words,
    topic_of,
)

SAMPLE_SOURCES: dict[str, dict[str, object]] = {
    "papers": {"path": "papers.jsonl.gz", "role": "candidate", "fields": {"group": "pmid"}},
    "notes": {"path": "notes.jsonl.zst", "role": "candidate"},
    "forum": {"path": "forum.parquet", "role": "candidate", "fields": {"group": "thread"}},
    "web": {"path": "web/**/*", "role": "candidate", "web": True},
    "encyclopedia": {"path": "encyclopedia.jsonl.gz", "role": "replay", "component": "wikipedia"},
    # A book of templates repeats itself more than any real one.
    "books": {"path": "books.parquet", "role": "replay", "component": "books", "rules": ["gopher_quality"]},
    "reference": {"path": "reference.jsonl.gz", "role": "reference"},
    "general": {"path": "general.jsonl.gz", "role": "background"},
    "benchmark": {"path": "benchmark.jsonl", "role": "benchmark", "fields": {"text": "question"}},
}

_N_ROWS = {
    "papers": 1600,
    "notes": 520,
    "forum": 1240,
    "web": 220,
    "encyclopedia": 620,
    "books": 60,
    "reference": 300,
    "general": 300,
    "benchmark": 100,
}

# New rows, SOURCE:ORIGIN:N, where ORIGIN is the source of the original or of nothing.
_ADDED = {
    "exact_copy": "papers:papers:20 papers:reference:5 notes:notes:6 forum:forum:12 web:papers:10 web:encyclopedia:4",
    "near_copy": "papers:papers:30 forum:forum:15 web:papers:8",
    "interchangeable": "papers:papers:5 notes:notes:3 forum:forum:4",
    "junk": "papers::12 notes::6 forum::36 web::18",
    "wrong_language": "papers::6 notes::3 forum::21 web::12",
    "broken": "papers::10 notes::4",
}
# Rows that get something, SOURCE:N; a row gets at most one of these.
_CHANGED = {
    "benchmark": "papers:20 forum:12",
    "pii_email": "papers:20 forum:12 web:6",
    "pii_phone": "notes:12 forum:8",
    "pii_ip": "forum:10 web:4",
    "shared_group": "papers:30",
}
_BROKEN = ("invalid_json", "invalid_utf8", "null_text", "empty_text", "missing_text")

# Addresses of public resolvers, for only public addresses are private data; reserved names and numbers otherwise.
_PUBLIC_IPS = ("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9")
_INSERTIONS = {
    "benchmark": "{}",
    "pii_email": "Questions about this text go to {} and are answered within a week.",
    "pii_phone": "The family can be reached under {} in the evening.",
    "pii_ip": "The request came from {} and was logged by the server.",
}


@dataclass(frozen=True, slots=True)
class _Row:
    source: str
    index: int
    id: str
    text: str
    group: str


@dataclass(frozen=True, slots=True)
class _Fate:
    source: str
    id: str
    fate: str
    of: str
    line: int | None = None


def make_sample(out_dir: str, *, seed: int = 0) -> dict[str, int]:
    """Write the sample's sources and fates.jsonl into a local folder; return rows by path (as in SAMPLE_SOURCES), broken ones included."""
    questions = _benchmark(seed)
    corpus = {
        source: [_ordinary(source, index, seed) for index in range(_n_ordinary(source))] for source in _N_ROWS if source != "benchmark"
    }
    fates = list(_topics(corpus["forum"] + corpus["web"])) + list(_threads(corpus["forum"]))
    fates += _plant(corpus, questions, seed)
    fates.sort(key=lambda fate: (fate.source, fate.id, fate.fate, fate.of, fate.line or 0))
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    for source, rows in corpus.items():
        assert len(rows) == _N_ROWS[source]
        broken = {fate.id: fate.of for fate in fates if (fate.source, fate.fate) == (source, "broken")}
        _write(out, source, sorted(rows, key=lambda row: _place(row.source, row.index)), broken)
    _write_bytes(out / "benchmark.jsonl", b"".join(map(_line, questions)))
    _write_bytes(out / "fates.jsonl", b"".join(_line(asdict(fate)) for fate in fates))
    return {str(SAMPLE_SOURCES[source]["path"]): n_rows for source, n_rows in _N_ROWS.items()}


def _n_ordinary(source: str) -> int:
    n_added = sum(int(n) for spec in _ADDED.values() for target, _, n in _orders(spec) if target == source)
    return _N_ROWS[source] - n_added


def _orders(spec: str) -> list[list[str]]:
    return [order.split(":") for order in spec.split()]


def _place(source: str, index: int) -> int:
    """Scatter the rows over the file, so that neither place nor id tells what was planted."""
    stride = next(stride for stride in range(389, 500) if gcd(stride, _N_ROWS[source]) == 1)
    return index * stride % _N_ROWS[source]


def _row(source: str, index: int, text: str, topic: str = "misc") -> _Row:
    place = _place(source, index)
    if source == "web":
        return _Row(source, index, f"{topic}/page-{place:04d}.{'md' if place % 9 == 0 else 'txt'}", text, "")
    group = {"papers": "" if place % 8 == 0 else f"{30_000_000 + place}", "forum": f"thread-{1000 + place}"}.get(source, "")
    return _Row(source, index, f"{source}-{place:05d}", text, group)


def _ordinary(source: str, index: int, seed: int) -> _Row:
    row = _row(source, index, source_text(source, index, f"{seed}/{source}/{index}"), topic_of(source, index))
    if row.id.endswith(".md"):
        return replace(row, text=f"# All about {topic_of(source, index)}\n\n{row.text}")
    return replace(row, group=f"thread-{index // 4:03d}") if source == "forum" else row


def _topics(rows: list[_Row]) -> Iterator[_Fate]:
    return (_Fate(row.source, row.id, "topic", topic_of(row.source, row.index)) for row in rows)


def _threads(rows: list[_Row]) -> Iterator[_Fate]:
    """Yield every post but the first of its thread."""
    return (_Fate(row.source, row.id, "shared_group", _name(rows[row.index - row.index % 4])) for row in rows if row.index % 4)


def _name(row: _Row) -> str:
    return f"{row.source}/{row.id}"


def _plant(corpus: dict[str, list[_Row]], questions: list[dict[str, Any]], seed: int) -> list[_Fate]:
    """Change and add rows of the corpus; return what was done. No row is used twice."""
    fates = []
    pools = {source: iter(tuple(rows)) for source, rows in corpus.items()}
    unasked = iter(questions)
    for fate, spec in _CHANGED.items():
        for source, n in _orders(spec):
            for number in range(int(n)):
                key = f"{seed}/{source}/{fate}/{number}"
                row, of = _grouped(pools[source]) if fate == "shared_group" else _inserted(fate, next(pools[source]), unasked, key)
                corpus[source][row.index] = row
                fates.append(_Fate(source, row.id, fate, of))
    for fate, spec in _ADDED.items():
        for source, origin, n in _orders(spec):
            for number in range(int(n)):
                original = next(pools[origin]) if origin else None
                row, of = _added(fate, _row(source, len(corpus[source]), ""), original, number, seed)
                corpus[source].append(row)
                fates.append(_Fate(source, row.id, fate, of, 1 + _place(source, row.index) if fate == "broken" else None))
    return fates


def _grouped(pool: Iterator[_Row]) -> tuple[_Row, str]:
    """Give a row the group of another one that has a group."""
    first = next(row for row in pool if row.group)
    return replace(next(pool), group=first.group), _name(first)


def _inserted(fate: str, row: _Row, unasked: Iterator[dict[str, Any]], key: str) -> tuple[_Row, str]:
    question = next(unasked) if fate == "benchmark" else None
    planted = question["question"] if question else _private(fate, key)
    head, _, tail = row.text.partition("\n\n")
    text = f"{head}\n\n{_INSERTIONS[fate].format(planted)}\n\n{tail}".rstrip()
    return replace(row, text=text), question["id"] if question else planted


def _added(fate: str, row: _Row, original: _Row | None, number: int, seed: int) -> tuple[_Row, str]:
    key = f"{seed}/{row.source}/{fate}/{number}"
    if original is not None:
        near_or_same = nearly(original.text, key) if fate == "near_copy" else original.text
        return replace(original, index=row.index) if fate == "interchangeable" else replace(row, text=near_or_same), _name(original)
    kinds = {"junk": JUNK, "wrong_language": LANGUAGES, "broken": _BROKEN}[fate]
    kind = kinds[number % len(kinds)]
    if fate == "broken":
        return replace(row, text=source_text(row.source, row.index, key)), kind
    return replace(row, text=junk(kind, key) if fate == "junk" else compose(kind, subject_words(key), key)), kind


def _private(fate: str, key: str) -> str:
    if fate == "pii_ip":
        return _PUBLIC_IPS[draw(len(_PUBLIC_IPS), key)]
    if fate == "pii_phone":
        return f"+1 212 555 01{draw(90, key) + 10}"
    return fill("{first}.{name}@clinic.example.net", subject_words(key), key).lower()


def _benchmark(seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for index in range(_N_ROWS["benchmark"]):
        slot = ("drug", "disease", "complication", "test")[index % 4]
        words = disease_words(index // 4)
        frame = words["question"][index % 4]
        answer = draw(4, seed, "answer", index)
        choices = [disease_words(index // 4 + (number - answer) % 4)[slot][0] for number in range(4)]
        seen = {row["question"] for row in rows}
        tries = (" ".join(sentences("this", 1, {**words, "this": (frame,)}, f"{seed}/benchmark/{index}/{n}")) for n in range(1000))
        question = next(question for question in tries if question not in seen)
        context = " ".join(sentences("guideline", 3, words, f"{seed}/context/{index}"))
        rows.append({"id": f"sample-{index}", "question": question, "choices": choices, "answer": answer, "context": context})
    return rows


def _record(row: _Row) -> dict[str, Any]:
    """Give a row the fields of its source; they depend on the id, so that interchangeable rows agree in all."""
    record: dict[str, Any] = {"id": row.id, "text": row.text}
    key = f"{row.source}/{row.id}"
    if row.source in ("papers", "forum", "encyclopedia"):
        record["url"] = f"https://{row.source}.example.org/{row.id}"
    if row.source in ("papers", "forum"):
        record["date"] = f"20{10 + draw(15, key, 'y')}-{1 + draw(12, key, 'm'):02d}-{1 + draw(28, key, 'd'):02d}"
    if row.source == "papers":
        record |= {"licence": ("CC-BY-4.0", "CC0-1.0", "CC-BY-NC-4.0")[draw(3, key)], "pmid": row.group or None}
    return record | {"thread": row.group} if row.source == "forum" else record


def _write(out: Path, source: str, rows: list[_Row], broken: dict[str, str]) -> None:
    path = out / str(SAMPLE_SOURCES[source]["path"])
    if source == "web":
        for row in rows:
            _write_bytes(out / "web" / row.id, row.text.encode())
    elif path.suffix == ".parquet":
        table = pa.Table.from_pylist([_record(row) for row in rows])
        pq.write_table(table, path, compression="zstd", row_group_size=500, version="2.6")
    else:
        _write_bytes(path, b"".join(_line(_record(row), broken.get(row.id)) for row in rows))


def _line(record: dict[str, Any], broken: str | None = None) -> bytes:
    text = {"null_text": None, "empty_text": ""}.get(broken or "", record.get("text"))
    record = {name: text if name == "text" else value for name, value in record.items() if (broken, name) != ("missing_text", "text")}
    line = json.dumps(record, ensure_ascii=False)
    head, tail = line[: len(line) // 2], line[len(line) // 2 :]
    if broken == "invalid_json":
        return head.encode() + b"\n"
    return head.encode() + (b"\xff\xfe" if broken == "invalid_utf8" else b"") + tail.encode() + b"\n"


def _write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        buffer = io.BytesIO()
        with gzip.GzipFile("", "wb", fileobj=buffer, mtime=0) as stream:
            stream.write(data)
        data = buffer.getvalue()
    if path.suffix == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        data = sink.getvalue().to_pybytes()
    path.write_bytes(data)
