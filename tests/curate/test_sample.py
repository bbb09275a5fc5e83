"""The sample corpus is the same bytes everywhere, and every fate is where fates.jsonl says, read here without our own readers."""

import functools
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.sample import SAMPLE_SOURCES, make_sample
from curate.sample_text import JUNK, LANGUAGES, TOPICS, disease_words, draw, fill, grammar

GOPHER_STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
PII = {"pii_email": r"[\w.]+@[\w.]+\w", "pii_phone": r"\+1 212 555 01\d\d", "pii_ip": r"\d+\.\d+\.\d+\.\d+"}


@pytest.fixture(scope="module")
def sample(made_sample: tuple[Path, dict[str, int]]) -> Path:
    return made_sample[0]


@pytest.fixture(scope="module")
def rows(sample: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows that can be read, by source."""
    return {source: _read(sample, str(table["path"])) for source, table in SAMPLE_SOURCES.items()}


@pytest.fixture(scope="module")
def fates(sample: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (sample / "fates.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def texts(rows: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Text by SOURCE/ID."""
    return {f"{source}/{row['id']}": row["text"] for source, table in rows.items() if source != "benchmark" for row in table}


def _lines(folder: Path, path: str) -> list[bytes]:
    data = (folder / path).read_bytes()
    if path.endswith(".gz"):
        data = gzip.decompress(data)
    if path.endswith(".zst"):
        data = pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()
    return data.split(b"\n")[:-1]


def _read(folder: Path, path: str) -> list[dict[str, Any]]:
    if path == "web/**/*":
        files = sorted(file for file in (folder / "web").rglob("*") if file.is_file())
        return [{"id": file.relative_to(folder / "web").as_posix(), "text": file.read_bytes().decode()} for file in files]
    if path.endswith(".parquet"):
        return list(pq.read_table(folder / path).to_pylist())
    readable = []
    for line in _lines(folder, path):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.get("text") or "question" in row:
            readable.append(row)
    return readable


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _of(fates: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    found = [fate for fate in fates if fate["fate"] in names]
    assert found
    return found


@functools.cache
def _has(kind: Callable[[str], bool], word: str) -> bool:
    return any(map(kind, word))


def _gopher_reason(text: str) -> str | None:
    """Return the first Gopher rule that rejects a text, by white space words (arXiv 2112.11446, section A1)."""
    words = text.split()
    real = [word for word in words if _has(str.isalnum, word)]
    lines = [line for line in text.split("\n") if line]
    checks = {
        "min_words": len(real) < 50,
        "mean_length": not 3 <= sum(map(len, real)) / len(real) <= 10,
        "symbols": text.count("#") / len(real) > 0.1,
        "bullets": sum(line.startswith("-") for line in lines) / len(lines) > 0.9,
        "ellipses": sum(line.endswith("...") for line in lines) / len(lines) > 0.3,
        "alpha": sum(_has(str.isalpha, word) for word in words) / len(words) < 0.8,
        "stop_words": len(GOPHER_STOP_WORDS & set(words)) < 2,
    }
    return next((name for name, is_bad in checks.items() if is_bad), None)


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[n : n + 5]) for n in range(len(words) - 4)}


def _jaccard(a: str, b: str) -> float:
    return len(_shingles(a) & _shingles(b)) / len(_shingles(a) | _shingles(b))


def test_another_process_gives_the_same_bytes_over_a_first_run(sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path / "sample")
    program = "import sys; from curate.sample import make_sample; make_sample(sys.argv[1])"
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # not the one of this process
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "sample")], check=True, env=env)
    assert _digests(tmp_path / "sample") == _digests(sample)


@pytest.mark.slow
def test_another_seed_changes_every_file_and_no_name(sample: Path, tmp_path: Path) -> None:
    make_sample(str(tmp_path), seed=1)
    ours, theirs = _digests(sample), _digests(tmp_path)
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if ours[name] == theirs[name]]


def test_counts_are_the_rows_of_the_files(made_sample: tuple[Path, dict[str, int]]) -> None:
    sample, counts = made_sample
    assert list(counts) == [table["path"] for table in SAMPLE_SOURCES.values()]
    for path, n_rows in counts.items():
        assert n_rows == (len(_read(sample, path)) if path.endswith(("*", ".parquet")) else len(_lines(sample, path)))
    assert 4_500 <= sum(counts.values()) <= 5_500


def test_sample_stays_small(sample: Path) -> None:
    assert 1_000_000 < sum(file.stat().st_size for file in sample.rglob("*") if file.is_file()) < 5_000_000


def test_no_clock_or_name_is_in_the_compressed_files(sample: Path) -> None:
    for path in sample.glob("*.gz"):
        # Flags and mtime of the gzip header (RFC 1952, section 2.3): no file name, no time.
        assert path.read_bytes()[3:8] == b"\0\0\0\0\0"


def test_every_source_has_its_columns(rows: dict[str, list[dict[str, Any]]]) -> None:
    assert {tuple(row) for row in rows["papers"]} == {("id", "text", "url", "date", "licence", "pmid")}
    assert {tuple(row) for row in rows["notes"]} == {("id", "text")}
    assert {tuple(row) for row in rows["forum"]} == {("id", "text", "url", "date", "thread")}
    assert {tuple(row) for row in rows["benchmark"]} == {("id", "question", "choices", "answer", "context")}
    assert {Path(row["id"]).suffix for row in rows["web"]} == {".txt", ".md"}
    assert any(row["pmid"] is None for row in rows["papers"])


def test_lengths_are_those_of_their_kind(rows: dict[str, list[dict[str, Any]]], fates: list[dict[str, Any]]) -> None:
    odd = {(fate["source"], fate["id"]) for fate in _of(fates, "junk", "wrong_language")}
    for source, low, high in (
        ("papers", 150, 600),
        ("books", 1_500, 3_000),
        ("notes", 60, 400),
        ("forum", 50, 400),
        ("encyclopedia", 50, 400),
    ):
        n_words = [len(row["text"].split()) for row in rows[source] if (source, row["id"]) not in odd]
        assert low <= min(n_words)
        assert max(n_words) <= high


def test_only_junk_and_other_languages_break_the_gopher_rules(texts: dict[str, str], fates: list[dict[str, Any]]) -> None:
    planted = {f"{fate['source']}/{fate['id']}" for fate in _of(fates, "junk", "wrong_language")}
    assert {name for name, text in texts.items() if _gopher_reason(text)} == planted


def test_each_kind_of_junk_breaks_its_own_rule(texts: dict[str, str], fates: list[dict[str, Any]]) -> None:
    reasons = {(fate["of"], _gopher_reason(texts[f"{fate['source']}/{fate['id']}"])) for fate in _of(fates, "junk")}
    expected = zip(JUNK, ("symbols", "alpha", "bullets", "ellipses", "min_words", "stop_words"), strict=True)
    assert reasons == set(expected)


def test_copies_have_the_text_of_another_row(texts: dict[str, str], fates: list[dict[str, Any]]) -> None:
    copies = _of(fates, "exact_copy")
    assert all(texts[f"{fate['source']}/{fate['id']}"] == texts[fate["of"]] for fate in copies)
    assert {(fate["source"], fate["of"].split("/")[0]) for fate in copies} >= {
        ("papers", "papers"),
        ("web", "papers"),
        ("papers", "reference"),
    }
    repeated = Counter(texts.values())
    assert sum(repeated.values()) - len(repeated) == len(copies)


def test_near_copies_differ_in_a_few_words(texts: dict[str, str], fates: list[dict[str, Any]]) -> None:
    for fate in _of(fates, "near_copy"):
        text, original = texts[f"{fate['source']}/{fate['id']}"], texts[fate["of"]]
        assert text != original
        assert 0.75 < _jaccard(text, original) < 1.0
        assert len(text.split()) == len(original.split())


def test_ordinary_papers_are_no_near_copies_of_each_other(rows: dict[str, list[dict[str, Any]]], fates: list[dict[str, Any]]) -> None:
    copies = {fate["id"] for fate in _of(fates, "exact_copy", "near_copy", "interchangeable", "junk", "wrong_language")}
    ordinary = [_shingles(row["text"]) for row in rows["papers"] if row["id"] not in copies][:300]
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, ours in enumerate(ordinary):
        shared = Counter(other for shingle in ours for other in holders[shingle])
        assert all(n_both / (len(ours) + len(ordinary[other]) - n_both) < 0.5 for other, n_both in shared.items())
        for shingle in ours:
            holders[shingle].append(number)


def test_wrong_languages_share_no_common_word_with_english(texts: dict[str, str], fates: list[dict[str, Any]]) -> None:
    found = _of(fates, "wrong_language")
    assert {fate["of"] for fate in found} == set(LANGUAGES)
    for fate in found:
        words = set(texts[f"{fate['source']}/{fate['id']}"].lower().split())
        assert not words & {"the", "and", "with", "that", "have"}
        assert len(words & {"de": {"und", "der", "die"}, "fr": {"le", "la", "les"}, "es": {"el", "la", "los"}}[fate["of"]]) >= 1


def test_private_data_and_questions_are_in_the_text(
    rows: dict[str, list[dict[str, Any]]], texts: dict[str, str], fates: list[dict[str, Any]]
) -> None:
    for name, pattern in PII.items():
        for fate in _of(fates, name):
            assert re.fullmatch(pattern, fate["of"])
            assert fate["of"] in texts[f"{fate['source']}/{fate['id']}"]
    questions = {row["id"]: row["question"] for row in rows["benchmark"]}
    for fate in _of(fates, "benchmark"):
        assert questions[fate["of"]] in texts[f"{fate['source']}/{fate['id']}"]


def test_private_data_and_questions_are_nowhere_else(
    rows: dict[str, list[dict[str, Any]]], texts: dict[str, str], fates: list[dict[str, Any]]
) -> None:
    planted = {name: {f"{fate['source']}/{fate['id']}" for fate in _of(fates, name)} for name in (*PII, "benchmark")}
    for name, pattern in PII.items():
        assert {key for key, text in texts.items() if re.search(pattern, text)} == planted[name]
    questions = [row["question"] for row in rows["benchmark"]]
    assert {key for key, text in texts.items() if any(question in text for question in questions)} == planted["benchmark"]


def test_interchangeable_rows_agree_in_everything(rows: dict[str, list[dict[str, Any]]], fates: list[dict[str, Any]]) -> None:
    expected = Counter(fate["source"] for fate in _of(fates, "interchangeable"))
    for source, n in expected.items():
        twice = [key for key, count in Counter(json.dumps(row) for row in rows[source]).items() if count == 2]
        assert len(twice) == n
        assert {json.loads(key)["id"] for key in twice} == {
            fate["id"] for fate in fates if (fate["source"], fate["fate"]) == (source, "interchangeable")
        }
        assert len({row["id"] for row in rows[source]}) == len(rows[source]) - n


def test_shared_groups_are_shared(rows: dict[str, list[dict[str, Any]]], fates: list[dict[str, Any]]) -> None:
    for source, field in (("papers", "pmid"), ("forum", "thread")):
        group = {row["id"]: row[field] for row in rows[source]}
        shared = [fate for fate in _of(fates, "shared_group") if fate["source"] == source]
        assert all(group[fate["id"]] == group[fate["of"].split("/")[1]] is not None for fate in shared)
        named = [value for value in group.values() if value is not None]
        assert len(named) - len(set(named)) == len(shared)


def test_broken_rows_are_at_their_lines_and_few(sample: Path, fates: list[dict[str, Any]]) -> None:
    broken = _of(fates, "broken")
    assert len(broken) <= 0.005 * 4_960
    seen = set()
    for source in ("papers", "notes"):
        lines = _lines(sample, str(SAMPLE_SOURCES[source]["path"]))
        ours = {fate["line"]: fate for fate in broken if fate["source"] == source}
        assert {number for number, line in enumerate(lines, 1) if _broken_kind(line)} == ours.keys()
        assert len(ours) < 0.01 * len(lines)
        for number, fate in ours.items():
            assert _broken_kind(lines[number - 1]) == fate["of"]
            assert fate["id"].encode() in lines[number - 1]
            seen.add(fate["of"])
    assert seen == {"invalid_json", "invalid_utf8", "null_text", "empty_text", "missing_text"}


def _broken_kind(line: bytes) -> str | None:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        return "invalid_utf8"
    except ValueError:
        return "invalid_json"
    if "text" not in row:
        return "missing_text"
    return {None: "null_text", "": "empty_text"}.get(row["text"])


def test_every_ordinary_forum_and_web_row_has_a_topic(rows: dict[str, list[dict[str, Any]]], fates: list[dict[str, Any]]) -> None:
    topics = _of(fates, "topic")
    assert {fate["of"] for fate in topics if fate["source"] == "forum"} == set(TOPICS)
    planted = _of(fates, "exact_copy", "near_copy", "interchangeable", "junk", "wrong_language")
    for source in ("forum", "web"):
        n_added = sum(fate["source"] == source for fate in planted)
        assert sum(fate["source"] == source for fate in topics) == len(rows[source]) - n_added


def test_medical_and_general_text_differ_in_vocabulary(rows: dict[str, list[dict[str, Any]]]) -> None:
    medical, general = (
        {word for row in rows[source] for word in re.findall(r"[a-z]{6,}", row["text"])} for source in ("reference", "general")
    )
    assert len(medical & general) / len(medical | general) < 0.2


def test_benchmark_questions_are_unique_and_answered_by_the_facts(rows: dict[str, list[dict[str, Any]]]) -> None:
    assert len({row["question"] for row in rows["benchmark"]}) == len(rows["benchmark"]) == 100
    for index, row in enumerate(rows["benchmark"]):
        slot = ("drug", "disease", "complication", "test")[index % 4]
        assert len(set(row["choices"])) == 4
        assert row["choices"][row["answer"]] == disease_words(index // 4)[slot][0]


def test_fill_takes_different_options_for_numbered_slots_and_keeps_decimals() -> None:
    words = {"fruit": ("plum", "pear", "fig")}
    for n in range(50):
        first, second, number = fill("{fruit#0} {fruit#1} {num:1.5:2.5}", words, f"key/{n}").split()
        assert first != second
        assert re.fullmatch(r"[12]\.\d", number)
        assert 1.5 <= float(number) <= 2.5


def test_every_slot_of_the_grammar_can_be_filled() -> None:
    topic_slots = ("thing", "problem", "action", "tool", "result", "subject", "hero", "friend")
    words = {**disease_words(0), **dict.fromkeys(topic_slots, ("x",))}
    for name in grammar():
        for number, frame in enumerate(words[name]):
            assert "{" not in fill(frame, words, f"{name}/{number}")


def test_draws_are_even() -> None:
    counts = Counter(draw(4, "even", n) for n in range(4_000))
    # Four standard deviations of a binomial with n = 4000 and p = 1/4.
    assert all(abs(count - 4_000 / 4) < 4 * (4_000 * 0.25 * 0.75) ** 0.5 for count in counts.values())
