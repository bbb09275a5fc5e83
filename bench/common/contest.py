"""Contestants that take turns, some of them in processes of their own, and the environment of these."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from filters.columns import TextBatch

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS_DIR = ROOT / ".venv-peers"
_BATCH_DOCS = 1000


def batches(column: pa.Array) -> Iterator[TextBatch]:
    """Cut a column as `curate` would, into views that share its memory."""
    return (TextBatch.from_arrow(column.slice(start, _BATCH_DOCS)) for start in range(0, len(column), _BATCH_DOCS))


def time_s(run: Callable[[], object], n_times: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(n_times):
        run()
    return (time.perf_counter() - start) / n_times


def in_turns(contestants: Mapping[str, Callable[[], float]], n_runs: int) -> dict[str, list[float]]:
    """Have all of them run and say their seconds, again and again, so that other work on the machine meets all alike."""
    times_s: dict[str, list[float]] = {label: [] for label in contestants}
    for _ in range(n_runs):
        for label, contestant in contestants.items():
            times_s[label].append(contestant())
    return times_s


def peers_python(*, make: bool, folder: pathlib.Path = PEERS_DIR, requirements: str = "requirements-peers.txt") -> pathlib.Path:
    """The Python that has the peers: that of their own environment, or ours, which has few of them."""
    python = folder / "bin" / "python"
    if make and not python.exists():
        print(f"making {folder.name}: some 700 MB, two minutes", flush=True)
        venv.create(folder, with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check", "--requirement"]
        if subprocess.run([*install, ROOT / "bench" / requirements]).returncode != 0:
            shutil.rmtree(folder)
    return python if python.exists() else pathlib.Path(sys.executable)


class Peer:
    """A process of bench/peers that does its work each time it is asked. Its state is "ready", or why it cannot."""

    def __init__(self, python: pathlib.Path, program: str, *arguments: str | pathlib.Path) -> None:
        # What rensa (rayon) and NumPy obey.
        one_thread = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [python, ROOT / "bench" / "peers" / program, *arguments]
        self._process = subprocess.Popen(command, env=os.environ | one_thread, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.state = self._process.stdout.readline().strip()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def time_s(self, task: str = "") -> float:
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())
