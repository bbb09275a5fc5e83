"""Run a program and watch the memory of its whole process tree, by what it said last on stderr."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

_SAMPLE_S = 0.1


class Watch:
    """Runs a program once. Pages that processes share are counted once; anonymous memory leaves out pages of files, which the
    machine can take back."""

    def __init__(self) -> None:
        self.log: list[str] = ["start"]
        self.seconds = 0.0
        self._peaks: dict[str, tuple[float, float]] = {}

    @property
    def peak_mb(self) -> float:
        return max((both for both, _ in self._peaks.values()), default=0.0)

    @property
    def peak_anonymous_mb(self) -> float:
        return max((anonymous for _, anonymous in self._peaks.values()), default=0.0)

    def run(self, command: Sequence[str]) -> str:
        """Run to the end and give its stdout; a program that fails ends this one."""
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        is_done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(process.pid, is_done))
        said = threading.Thread(target=self._listen, args=(process,))
        watcher.start()
        said.start()
        assert process.stdout is not None
        stdout = process.stdout.read()
        said.join()
        is_done.set()
        watcher.join()
        self.seconds = time.monotonic() - started
        if process.wait():
            sys.exit(f"{' '.join(command)} failed:\n{''.join(self.log)}")
        return stdout

    def told(self) -> str:
        """Say the peak of each stage."""
        return ", ".join(f"{stage} {both:,.0f}" for stage, (both, _) in self._peaks.items())

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.log.extend(process.stderr)

    def _watch(self, pid: int, is_done: threading.Event) -> None:
        while not is_done.wait(_SAMPLE_S):
            stage = self.log[-1].split(":")[0].strip()
            found = [_memory_mb(one) for one in _tree(pid)]
            both, anonymous = self._peaks.get(stage, (0.0, 0.0))
            self._peaks[stage] = (max(both, sum(one for one, _ in found)), max(anonymous, sum(one for _, one in found)))


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, pathlib.Path(f"/proc/{parent}/task/{task}/children").read_text().split())
        except OSError:
            continue
    return found


def _memory_mb(pid: int) -> tuple[float, float]:
    try:
        rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0, 0.0
    found = dict(re.findall(r"^(Pss\w*):\s+(\d+) kB", rollup, re.MULTILINE))
    return int(found.get("Pss", 0)) / 1024, int(found.get("Pss_Anon", found.get("Pss", 0))) / 1024
