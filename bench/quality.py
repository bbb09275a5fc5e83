"""How fast does the classifier score, beside the C++ program of fastText itself and beside one Python call a document?

    python bench/quality.py [--full]

One thread, the same model, the same documents, all contestants in turns after one that warms them up; the table shows medians. The C++
program is compiled from fastText's source package, where pip and a compiler can be had; the time that it needs for no text at all
(to load the model) is taken off. Also: the share of our time that is not inside the C++ library, the memory of scoring beside the
model's own, and the time of a fit. By default generated text and a small model; --full takes real text of ../shared/corpora and
the settings of a recipe. Fails where a score differs from the C++ program's by more than rounding, never on a time.
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from filters import bags, quality
from filters.columns import TextBatch

_CORPORA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "corpora"
_FOLDERS = ("medical-abstracts", "general-forum", "general-news", "medical-reference")
_SOURCE = "fasttext-numpy2==0.10.4"
_N_RUNS = 5
_BATCH_DOCS = 4096


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="real text and the default settings (needs ../shared/corpora)")
    options = parser.parse_args()
    if options.full and not _CORPORA.is_dir():
        print("../shared/corpora is not here; without --full generated text is used", file=sys.stderr)
        return 1
    texts, is_domain = _real() if options.full else _generated()
    settings = quality.FitSettings() if options.full else quality.FitSettings(dim=16, bucket=10_000)
    column = pa.array(texts, pa.large_string())
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model, fit_s = _fitted(folder, column, is_domain, settings)
        return _compare(folder, column, model, fit_s)


def _compare(folder: pathlib.Path, column: pa.Array, model: pathlib.Path, fit_s: float) -> int:
    before_mb = _resident_mb()
    scorer = quality.load(str(model))
    scorer.score(bags.bags(TextBatch.from_arrow(column.slice(0, _BATCH_DOCS))))
    loaded_mb = _resident_mb()
    batches = [column.slice(start, _BATCH_DOCS) for start in range(0, len(column), _BATCH_DOCS)]
    read = [bags.bags(TextBatch.from_arrow(batch)) for batch in batches]
    lines = [line for batch in read for line in batch.to_pylist()]
    parts = [lines[start : start + _BATCH_DOCS] for start in range(0, len(lines), _BATCH_DOCS)]
    scores = np.concatenate([scorer.score(batch).to_numpy(zero_copy_only=False) for batch in read])
    contestants: dict[str, Callable[[], object]] = {
        "gapless, text to score": lambda: [scorer.score(bags.bags(TextBatch.from_arrow(batch))) for batch in batches],
        "gapless, bags to score": lambda: [scorer.score(batch) for batch in read],
        "the library, ready strings": lambda: [scorer.model.predict(part, k=1) for part in parts],
        "one call a document, k = -1": lambda: [scorer.model.predict(line, k=-1) for line in lines],
    }  # fmt: skip
    program = _compiled(folder)
    if program is not None:
        (folder / "bags.txt").write_text("".join(f"{line}\n" for line in lines))
        (folder / "empty.txt").write_text("")
        contestants["the C++ program"] = lambda: _predicted(program, model, folder / "bags.txt")
        contestants["the C++ program, no text"] = lambda: _predicted(program, model, folder / "empty.txt")
        theirs = _probabilities(_predicted(program, model, folder / "bags.txt"))
        worst = float(np.abs(theirs - scores).max())
        if worst > 2e-4:
            print(f"a score differs from the C++ program's by {worst}", file=sys.stderr)
            return 1
    times_s = _in_turns(contestants)
    medians = {name: statistics.median(runs) for name, runs in times_s.items()}
    if program is not None:
        medians["the C++ program"] -= medians.pop("the C++ program, no text")
    n_mb = sum(len(batch.buffers()[2] or b"") for batch in [column]) / 1e6
    print(
        f"{len(column):,} documents, {n_mb:.1f} MB, bags {sum(map(len, lines)) / 1e6:.1f} MB; one thread, median of {_N_RUNS} runs in turn"
    )
    print(f"{'':30} {'s':>7} {'docs/s':>8} {'MB/s':>6} {'of ours':>8}")
    ours = medians["gapless, bags to score"]
    for name, median_s in medians.items():
        print(f"{name:30} {median_s:7.3f} {len(column) / median_s:8,.0f} {n_mb / median_s:6.1f} {median_s / ours:7.2f}x")
    share = 1 - medians["the library, ready strings"] / ours
    print(f"outside of the library: {max(0.0, share):.1%} of scoring bags")
    more_mb, disk_mb = loaded_mb - before_mb, model.stat().st_size / 1e6
    print(f"memory: {more_mb:,.0f} MB for the model ({disk_mb:,.0f} MB on disk) and the scoring of a batch of {_BATCH_DOCS:,} documents")
    print(f"fit: {fit_s:.1f} s")
    return 0


def _fitted(folder: pathlib.Path, column: pa.Array, is_domain: list[bool], settings: quality.FitSettings) -> tuple[pathlib.Path, float]:
    with open(folder / "examples.txt", "wb") as file:
        for start in range(0, len(column), _BATCH_DOCS):
            pieces, starts = bags.pieces(TextBatch.from_arrow(column.slice(start, _BATCH_DOCS)), 20)
            labels = pa.array(is_domain[start : start + _BATCH_DOCS])
            quality.write_examples(file, pieces.take(pa.array(starts[:-1])), labels)
    started = time.perf_counter()
    quality.fit(str(folder / "examples.txt"), str(folder / "model.bin"), settings)
    return folder / "model.bin", time.perf_counter() - started


def _compiled(folder: pathlib.Path) -> pathlib.Path | None:
    """Build fastText's own command from its source package; None, said, where that cannot be done."""
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    got = subprocess.run([*download, "--no-binary", ":all:", _SOURCE, "--dest", str(folder)], capture_output=True, text=True)
    package = next(folder.glob("*.tar.gz"), None)
    compiler = shutil.which("g++") or shutil.which("c++")
    if package is None or compiler is None:
        why = "no compiler" if compiler is None else " ".join(got.stderr.split())[-200:]
        print(f"left out: the C++ program ({why})")
        return None
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    source = next(folder.glob("fasttext*/src"))
    program = folder / "fasttext"
    flags = ["-pthread", "-std=c++17", "-march=native", "-O3", "-funroll-loops", "-DNDEBUG", "-I", str(source)]
    made = subprocess.run([compiler, *flags, *map(str, source.glob("*.cc")), "-o", str(program)], capture_output=True, text=True)
    if made.returncode:
        print(f"left out: the C++ program (it does not compile: {' '.join(made.stderr.split())[:200]})")
        return None
    return program


def _predicted(program: pathlib.Path, model: pathlib.Path, lines: pathlib.Path) -> str:
    done = subprocess.run([str(program), "predict-prob", str(model), str(lines), "2"], capture_output=True, text=True, check=True)
    return done.stdout


def _probabilities(printed: str) -> np.ndarray:
    found = []
    for line in printed.splitlines():
        words = line.split()
        found.append(float(dict(zip(words[::2], words[1::2], strict=True))[quality.DOMAIN_LABEL]))
    return np.clip(np.array(found), 0.0, 1.0)


def _in_turns(contestants: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    times_s: dict[str, list[float]] = {name: [] for name in contestants}
    for run in range(_N_RUNS + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            if run > 0:
                times_s[name].append(time.perf_counter() - start)
    return times_s


def _resident_mb() -> float:
    """Memory that this process holds now; 0 where the system does not say."""
    status = pathlib.Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS")), 0.0)


def _generated() -> tuple[list[str], list[bool]]:
    generator = random.Random(0)
    vocabulary = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz\u00e9\u00fc", k=generator.randint(2, 10))) for _ in range(5_000)]
    texts, is_domain = [], []
    for number in range(4_000):
        words = vocabulary[:3_000] if number % 3 else vocabulary[2_000:]
        texts.append(" ".join(generator.choices(words, k=generator.randint(20, 400))))
        is_domain.append(bool(number % 3))
    return texts, is_domain


def _real() -> tuple[list[str], list[bool]]:
    rows = [(text, folder == "medical-reference") for folder in _FOLDERS for text in _texts(_CORPORA / folder)]
    return [text for text, _ in rows], [is_domain for _, is_domain in rows]


def _texts(folder: pathlib.Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        with io.BufferedReader(pa.input_stream(str(path))) as lines:
            yield from (json.loads(line)["text"] for line in lines)


if __name__ == "__main__":
    sys.exit(main())
