"""kill -9 at seeded moments of every stage, run again: the digests are those of an undisturbed build.

`make faults N=50` sets how many kills a stage gets; each is a whole build, so the default is small.
"""

import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from curate import manifest
from curate.store import Store
from curate.verify import verify
from tests.curate.corpora import write_corpus

_N = int(os.environ.get("FAULTS", "3"))
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


def _kill_in(recipe: str, root: pathlib.Path, stage: str, delay_s: float) -> bool:
    """Start a build, wait for the line that a stage writes when it starts, then a moment, and kill the whole group."""
    command = [*_COMMAND, recipe, "--root", str(root), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    seen = any(line.startswith(stage) for line in process.stderr)
    time.sleep(delay_s)
    killed = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL) if killed else None
    process.stderr.close()
    process.wait()
    return killed and seen


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
        assert not [path for path in root.rglob("*") if "scratch" in path.parts and path.is_file()]
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
