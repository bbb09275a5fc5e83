"""Does our n-gram model say what KenLM says, and how fast is it fitted and asked, beside lmplz and KenLM's Python module?

    python bench/perplexity.py [--full] [--runs N]

A model of order 5 on the reference of a recipe is written as ARPA and asked by KenLM about candidates, a document a line, its words in
lower case; then lmplz fits one on the same lines, which KenLM is asked about the same. Times: one core each, contestants in turns after
one round that warms up, medians of ratios within a round. All start from lines of such words, in memory (lmplz: in a file), but where it
says "from text": KenLM's user then finds words by a regular expression of our rule. Our fit ends with a file to be asked; lmplz's with an
ARPA file, which build_binary turns into one. Peak memory of a fit is that of a process of its own, above what it had loaded before
(of the sample, which is small, it says nothing).

By default the sample corpus; --full takes tests/recipes/real.toml, 5,000 of its candidates. KenLM is built from its source package into
build/, where that can be done. Fails when a log-probability differs by more than 1e-3 of it, or when Spearman's correlation with the
perplexities of lmplz's model is below 0.99; never on a time.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from common import kenlm
from common.contest import ROOT, batches, in_turns, time_s
from common.texts import CORPORA
from common.words import word_expression
from rich.console import Console
from rich.table import Table

from curate import executor
from curate.build import ensure_sample
from curate.ingest import ingest
from curate.recipe_file import read_recipe
from curate.store import Store
from filters import perplexity

_REAL = ROOT / "tests" / "recipes" / "real.toml"
_ORDER = 5
_N_SCORED = 5000
_WORST = 1e-3
_LEAST_SPEARMAN = 0.99
# What lmplz may take for sorting on one core. With 128 MB it takes as long; as it comes it takes 80 % of the machine.
_SORTING = "1G"
_OURS = "gapless"


@dataclasses.dataclass(frozen=True, slots=True)
class Texts:
    """Documents as they come and as the models read them, and the file of these lines."""

    name: str
    raw: pa.Array
    spelled: pa.Array
    path: pathlib.Path

    @property
    def n_mb(self) -> float:
        return (pc.sum(pc.binary_length(self.spelled)).as_py() or 0) / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the real recipe (needs ../shared/corpora)")
    parser.add_argument("--runs", type=int, default=3, help="rounds after the one that warms up (default: 3)")
    args = parser.parse_args()
    if args.full and not CORPORA.is_dir():
        print("../shared/corpora is not here; without --full the sample corpus is used", file=sys.stderr)
        return 1
    module, programs = kenlm.module(), kenlm.programs()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        reference, candidates = _texts(folder, is_real=args.full)
        model = _fitted(reference.raw, folder / "gapless.ngrams")
        perplexity.write_arpa(model, str(folder / "gapless.arpa"))
        by_order = ", ".join(f"{n:,}" for n in model.n_ngrams)
        print(f"{len(reference.raw):,} reference documents, {model.n_words:,} words; n-grams by order: {by_order}")
        problems = [] if module is None else _wrong_scores(module, programs, model, folder, reference, candidates)
        _print_fits(programs, folder, reference, model, cores, args.runs)
        asked = {} if module is None else {kind: kenlm.opened(module, path) for kind, path in _binaries(programs, folder).items()}
        for texts in (candidates, reference):
            _print_scores(texts, model, asked, args.runs)
        _print_memory(programs, folder, reference, model, cores)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _texts(folder: pathlib.Path, *, is_real: bool) -> tuple[Texts, Texts]:
    """Give the reference and so many candidates of a recipe, normalised, each text once, in the order of doc_id, which is a hash."""
    store = Store(str(folder))
    recipe = read_recipe(store, file=str(_REAL)) if is_real else read_recipe(store, domain="medical")
    if recipe.is_sample:
        ensure_sample(store)
    found: dict[str, dict[str, str]] = {"reference": {}, "candidate": {}}
    sources = [source for source in recipe.sources if source.role in found]
    ingested = ingest(store, sources, run=executor.local(1))
    for source in sources:
        for shard in ingested[source.name].shards:
            rows = store.read_table(shard.path, ["doc_id", "text"])
            found[source.role].update(zip(rows["doc_id"].to_pylist(), rows["text"].to_pylist(), strict=True))
    reference = [text for _, text in sorted(found["reference"].items())]
    candidates = [text for _, text in sorted(found["candidate"].items())][:_N_SCORED]
    return _read("reference", reference, folder), _read("candidates", candidates, folder)


def _read(name: str, texts: list[str], folder: pathlib.Path) -> Texts:
    raw, path = pa.array(texts, pa.large_string()), folder / f"{name}.txt"
    spelled = pa.concat_arrays([perplexity.spell(batch) for batch in batches(raw)])
    path.write_text("".join(f"{line}\n" for line in spelled.to_pylist()), encoding="utf-8")
    return Texts(name, raw, spelled, path)


def _fitted(column: pa.Array, path: pathlib.Path) -> perplexity.NgramModel:
    """Fit, write, and open what was written: what a user has after a fit."""
    perplexity.save(perplexity.fit(batches(column), order=_ORDER), str(path))
    return perplexity.load(str(path))


def _binaries(programs: pathlib.Path | None, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """What KenLM is asked with: binaries of our ARPA file, or the file itself, of which it makes the first of them in memory."""
    arpa = folder / "gapless.arpa"
    return {"probing": arpa} if programs is None else {kind: kenlm.binary(programs, kind, arpa) for kind in ("probing", "trie")}


def _wrong_scores(
    module: Any, programs: pathlib.Path | None, model: perplexity.NgramModel, folder: pathlib.Path, reference: Texts, candidates: Texts
) -> list[str]:
    ours, n = (
        np.concatenate(found)
        for found in zip(*(perplexity.log10_probabilities(model, batch) for batch in batches(candidates.raw)), strict=True)
    )
    lines, problems = candidates.spelled.to_pylist(), []
    theirs = _asked(kenlm.opened(module, folder / "gapless.arpa"), lines)
    worst = float(np.max(np.abs(ours / theirs - 1)))
    print(
        f"{len(lines):,} candidates, our model: log-probabilities differ from KenLM's by at most {worst:.1e} of them (allowed: {_WORST:g})"
    )
    if not worst <= _WORST:
        problems.append(f"a log-probability differs from KenLM's by {worst:.1e} of it; allowed is {_WORST:g}")
    if programs is not None:
        kenlm.fit(programs, reference.path, folder / "lmplz.arpa")
        theirs = _asked(kenlm.opened(module, folder / "lmplz.arpa"), lines)
        spearman, worst = _spearman(-ours / n, -theirs / n), float(np.max(np.abs(ours / theirs - 1)))
        print(f"beside the model that lmplz fits: Spearman {spearman:.6f} (at least {_LEAST_SPEARMAN}), largest difference {worst:.1e}")
        if not spearman >= _LEAST_SPEARMAN:
            problems.append(f"Spearman's correlation with lmplz's perplexities is {spearman:.4f}; at least {_LEAST_SPEARMAN} is due")
    return problems


def _asked(model: Any, lines: Sequence[str]) -> np.ndarray:
    return np.array([model.score(line, bos=True, eos=True) for line in lines])


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(*(np.argsort(np.argsort(values)) for values in (a, b)))[0, 1])


def _print_fits(
    programs: pathlib.Path | None, folder: pathlib.Path, reference: Texts, model: perplexity.NgramModel, cores: set[int], n_runs: int
) -> None:
    lmplz = functools.partial(kenlm.fit, programs, reference.path, folder / "lmplz.arpa")
    contestants: dict[str, Callable[[], object]] = {_OURS: lambda: _fitted(reference.spelled, folder / "again.ngrams")}
    if programs is not None:
        contestants |= {
            f"lmplz, one core, {_SORTING} for sorting": lambda: lmplz("-S", _SORTING),
            f"lmplz as it comes, {len(cores)} cores": lambda: lmplz(cores=cores),
            "build_binary probing, on top": lambda: kenlm.binary(programs, "probing", folder / "lmplz.arpa"),
            "build_binary trie, on top": lambda: kenlm.binary(programs, "trie", folder / "lmplz.arpa"),
        }
    rows = _timed(contestants, n_runs)
    n_million = sum(model.n_ngrams) / 1e6
    table = Table("", "s", "text MB/s", "million n-grams/s", "gapless takes", title=f"fit of order {_ORDER}", title_justify="left")
    for label, (seconds, ratio) in rows.items():
        table.add_row(label, f"{seconds:.2f}", f"{reference.n_mb / seconds:.1f}", f"{n_million / seconds:.2f}", f"{1 / ratio:.2f}x")
    _show(table)


def _print_scores(texts: Texts, model: perplexity.NgramModel, asked: dict[str, Any], n_runs: int) -> None:
    lines, raw, find_words = texts.spelled.to_pylist(), texts.raw.to_pylist(), re.compile(word_expression()).findall
    contestants: dict[str, Callable[[], object]] = {
        _OURS: lambda: [perplexity.log10_probabilities(model, batch) for batch in batches(texts.spelled)],
        **{f"kenlm, {kind}": functools.partial(_asked, theirs, lines) for kind, theirs in asked.items()},
        f"{_OURS}, from text": lambda: [perplexity.perplexities(model, batch, min_words=1) for batch in batches(texts.raw)],
        f"{_OURS}, from text, with overlaps": lambda: [
            (perplexity.perplexities(model, batch, min_words=1), perplexity.overlaps(model, batch)) for batch in batches(texts.raw)
        ],
        **{
            f"kenlm, {kind}, from text": lambda theirs=theirs: _asked(theirs, [" ".join(find_words(text.lower())) for text in raw])
            for kind, theirs in asked.items()
        },
    }
    rows = _timed(contestants, n_runs)
    ours, from_text = rows[_OURS][1], rows[f"{_OURS}, from text"][1]
    n_words = sum(line.count(" ") + 1 for line in lines)
    title = f"scoring the {texts.name}: {len(lines):,} documents, {n_words:,} words, {texts.n_mb:.1f} MB"
    table = Table("", "s", "docs/s", "MB/s", "million words/s", "time, of ours", title=title, title_justify="left")
    for label, (seconds, ratio) in rows.items():
        base = from_text if "from text" in label else ours
        rates = [f"{len(lines) / seconds:,.0f}", f"{texts.n_mb / seconds:.1f}", f"{n_words / seconds / 1e6:.2f}"]
        table.add_row(label, f"{seconds:.3f}", *rates, f"{ratio / base:.2f}x")
    _show(table)


def _timed(contestants: dict[str, Callable[[], object]], n_runs: int) -> dict[str, tuple[float, float]]:
    """Give each contestant's median seconds and its median time as a multiple of ours, round by round."""
    times_s = in_turns({label: functools.partial(time_s, contestant) for label, contestant in contestants.items()}, n_runs + 1)
    ours_s = times_s[_OURS][1:]
    return {
        label: (statistics.median(runs_s[1:]), statistics.median(np.divide(runs_s[1:], ours_s).tolist()))
        for label, runs_s in times_s.items()
    }


def _print_memory(
    programs: pathlib.Path | None, folder: pathlib.Path, reference: Texts, model: perplexity.NgramModel, cores: set[int]
) -> None:
    n_million = sum(model.n_ngrams) / 1e6
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        fits_mb = {_OURS: process.submit(_fit_peak_mb, str(reference.path), str(folder / "again.ngrams")).result()}
    models_mb = {"gapless, of it for the overlap with the reference": model.grams.nbytes / 1e6}
    paths = {"gapless": folder / "gapless.ngrams", "ARPA": folder / "gapless.arpa"}
    if programs is not None:
        arpa = folder / "lmplz.arpa"
        fits_mb[f"lmplz, {_SORTING} for sorting"] = kenlm.fit(programs, reference.path, arpa, "-S", _SORTING)
        fits_mb["lmplz as it comes"] = kenlm.fit(programs, reference.path, arpa, cores=cores)
        paths |= {f"kenlm, {kind}": arpa.with_suffix(f".{kind}") for kind in ("probing", "trie")}
    models_mb |= {label: path.stat().st_size / 1e6 for label, path in paths.items()}
    table = Table("", "MB", "MB per million n-grams", title="memory", title_justify="left")
    for what, found in (("fit, peak", fits_mb), ("model", models_mb)):
        for label, n_mb in found.items():
            table.add_row(f"{what}: {label}", f"{n_mb:,.0f}", f"{n_mb / n_million:.1f}")
    _show(table)


def _fit_peak_mb(lines: str, path: str) -> float:
    column = pa.array(pathlib.Path(lines).read_text(encoding="utf-8").split("\n")[:-1], pa.large_string())
    _fitted(column.slice(0, 10), pathlib.Path(path))
    before_mb = _status_mb("VmRSS")
    # From here on the kernel counts the peak anew.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    perplexity.save(perplexity.fit(batches(column), order=_ORDER), path)
    return _status_mb("VmHWM") - before_mb


def _status_mb(key: str) -> float:
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{key}:")[1].split()[0]) / 1000


def _show(table: Table) -> None:
    for column in table.columns[1:]:
        column.justify = "right"
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
