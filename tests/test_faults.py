"""kill -9 at seeded moments of every stage, run again: the digests are those of an undisturbed build.

`make faults N=50` sets how many kills a stage gets; each is a whole build, so the default is small. Dedup has a corpus of its own, on
which it takes a while, and as many kills over all of it.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from curate import executor, manifest
from curate.build import build
from curate.edges import edge_paths
from curate.recipe_file import read_recipe
from curate.store import Store
from curate.verify import verify
from tests.curate.corpora import write_corpus, write_jsonl
from tests.curate.near_copies import RECIPE, Edges, differing, edges_of, mixed, note_rows, stamps, verified

_N = int(os.environ.get("FAULTS", "3"))
_N_DEDUP = int(os.environ.get("FAULTS", "10"))
_STAGES = (
    "domain",
    "digest",
    "ingest",
    "quality",
    "round 2",
    "annotate",
    "edges",
    "shingle",
    "verify",
    "tokenizer",
    "decide",
    "count",
    "publish",
)
_COMMAND = [sys.executable, "-m", "curate", "build", "--recipe"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[str, str, str, float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = write_corpus(folder, n_files=4)
    started = time.monotonic()
    subprocess.run([*_COMMAND, recipe, "--root", str(folder / "root"), "--workers", "2"], check=True, capture_output=True)
    loaded = manifest.load(Store(str(folder / "root")), "v1")
    return recipe, loaded.fingerprint, str(loaded.info["decision"]), time.monotonic() - started


def _seeded(*key: object) -> float:
    return int(hashlib.sha256(repr(key).encode()).hexdigest()[:8], 16) / 2**32


def _started(recipe: str, root: pathlib.Path) -> subprocess.Popen[str]:
    """Start a build in a process group of its own; stderr is read line by line."""
    command = [*_COMMAND, recipe, "--root", str(root), "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _kill_in(recipe: str, root: pathlib.Path, stage: str, delay_s: float) -> bool:
    """Start a build, wait for the line that a stage writes when it starts, then a moment, and kill the whole group."""
    with _started(recipe, root) as process:
        assert process.stderr is not None
        seen = any(line.startswith(stage) for line in process.stderr)
        time.sleep(delay_s)
        killed = process.poll() is None
        os.killpg(process.pid, signal.SIGKILL) if killed else None
    return killed and seen


def _scratch(root: pathlib.Path) -> list[str]:
    return [path.name for path in (root / "cache/.scratch").iterdir()]


@pytest.mark.parametrize("stage", _STAGES)
def test_a_killed_build_ends_with_the_same_digests(undisturbed, tmp_path, stage):
    recipe, fingerprint, decision, _ = undisturbed
    hits = 0
    for number in range(_N):
        root = tmp_path / str(number)
        hits += _kill_in(recipe, root, stage, delay_s=0.3 * _seeded(stage, number))
        subprocess.run([*_COMMAND, recipe, "--root", str(root), "--workers", "1"], check=True, capture_output=True)
        store = Store(str(root))
        (version,) = manifest.versions(store)
        loaded = manifest.load(store, version)
        assert (loaded.fingerprint, loaded.info["decision"]) == (fingerprint, decision)
        assert verify(store, loaded) == ([], [])
        assert _scratch(root) == []
    assert hits, f"no kill hit the stage {stage}; the delays are too long"


def test_a_build_killed_at_any_moment_ends_with_the_same_digests(undisturbed, tmp_path):
    recipe, fingerprint, decision, wall_s = undisturbed
    for number in range(2 * _N):
        root = tmp_path / str(number)
        for attempt in range(3):  # killed three times over, each time somewhere else
            _kill_in(recipe, root, "domain", delay_s=wall_s * _seeded("any", number, attempt))
        subprocess.run([*_COMMAND, recipe, "--root", str(root), "--workers", "2"], check=True, capture_output=True)
        loaded = manifest.load(Store(str(root)), manifest.versions(Store(str(root)))[-1])
        assert (loaded.fingerprint, loaded.info["decision"]) == (fingerprint, decision)


@dataclasses.dataclass(frozen=True, slots=True)
class _Deduplicated:
    """A root in which dedup is all that is left to do, and what an undisturbed build makes of it."""

    recipe: str
    root: pathlib.Path
    seams: list[tuple[str, float]]  # what the build says as a step of dedup starts, and how long that step takes
    digests: tuple[str, str]
    edges: Edges


@pytest.fixture(scope="module")
def deduplicated(tmp_path_factory) -> _Deduplicated:
    folder = tmp_path_factory.mktemp("deduplicated")
    rows = mixed(3)
    rows["papers"] += note_rows(1500, seed=7, n_words=90, n_numbers=10)
    for source, its_rows in rows.items():
        write_jsonl(folder / "data" / source / "a.jsonl", its_rows)
    (folder / "recipe.toml").write_text(RECIPE)
    recipe, root = str(folder / "recipe.toml"), folder / "root"
    subprocess.run([*_COMMAND, recipe, "--root", str(root), "--workers", "2"], check=True, capture_output=True)
    store = Store(str(root))
    loaded = manifest.load(store, "v1")
    edges = edges_of(store, loaded)
    for made in ("manifests", "evalsets", "cache/edges", "cache/ready", "cache/signals/minhash", "cache/tokens"):
        shutil.rmtree(root / made)
    shutil.copytree(root, folder / "timed")
    return _Deduplicated(recipe, root, _seams(recipe, folder / "timed"), (loaded.fingerprint, str(loaded.info["decision"])), edges)


def _seams(recipe: str, root: pathlib.Path) -> list[tuple[str, float]]:
    """Time what a build says, from the first step of dedup to the one that follows the decision."""
    with _started(recipe, root) as process:
        assert process.stderr is not None
        said = [(line.split(":")[0].strip(), time.monotonic()) for line in process.stderr]
    started = dict(reversed(said))  # a step says that it starts, and mostly that it ended
    steps = sorted((moment, label) for label, moment in started.items() if started["annotate"] <= moment <= started["count"])
    return [(label, after - moment) for (moment, label), (after, _) in itertools.pairwise(steps)]


def test_dedup_that_is_killed_at_any_moment_ends_with_the_same_digests_and_edges(deduplicated, tmp_path):
    hits = 0
    for number in range(_N_DEDUP):
        root = tmp_path / str(number)
        shutil.copytree(deduplicated.root, root)
        seam, lasts_s = deduplicated.seams[number % len(deduplicated.seams)]
        hits += _kill_in(deduplicated.recipe, root, seam, delay_s=lasts_s * _seeded("dedup", number))
        _check_dedup(root, deduplicated)
        shutil.rmtree(root)
    assert hits > _N_DEDUP / 2, "most kills came too late; the delays are too long"


def test_pairs_that_were_verified_before_a_kill_are_not_verified_again(deduplicated, tmp_path):
    store = Store(str(tmp_path))
    shutil.copytree(deduplicated.root, tmp_path, dirs_exist_ok=True)
    with _started(deduplicated.recipe, tmp_path) as process:
        while not edge_paths(store) and process.poll() is None:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
    before = stamps(store, edge_paths(store))
    _check_dedup(tmp_path, deduplicated)
    after = stamps(store, edge_paths(store))
    assert before
    assert len(after) > len(before), "the kill came after the last part; more pairs are needed"
    assert {path: after[path] for path in before} == before


def _check_dedup(root: pathlib.Path, undisturbed: _Deduplicated) -> None:
    """Build again, in this process, which saves the start of another one."""
    store = Store(str(root))
    built = build(store, read_recipe(store, file=undisturbed.recipe), run=executor.local(1)).manifest
    assert (built.fingerprint, built.info["decision"]) == undisturbed.digests
    assert not differing(edges_of(store, built), undisturbed.edges)
    pairs = verified(store, edge_paths(store))
    assert len(pairs) == len(set(pairs))
    assert _scratch(root) == []
