"""KenLM, built once from its source package into build/: its Python module, which has no wheel, and its programs, which no package has."""

from __future__ import annotations

import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from types import ModuleType
from typing import Any

from common.contest import ROOT

_SOURCE = "kenlm==0.3.0"
_CACHE = ROOT / "build" / _SOURCE
_PROGRAMS = ("lmplz", "build_binary")
_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def module() -> ModuleType | None:
    """Import kenlm: the installed one, or one built here; None, said, where that cannot be done."""
    site = _CACHE / "site"
    sys.path.append(str(site))
    try:
        return importlib.import_module("kenlm")
    except ImportError:
        pass
    print(f"building {_SOURCE}: its Python module, a minute", flush=True)
    with _scratch() as folder:
        made = _run([*_PIP, "install", "--no-deps", "--no-binary", "kenlm", "--target", f"{folder}/site", _SOURCE])
        if made is None:
            os.replace(f"{folder}/site", site)
            importlib.invalidate_caches()
            return importlib.import_module("kenlm")
    print(f"left out: the Python module of kenlm ({made})")
    return None


def programs() -> pathlib.Path | None:
    """Give the folder of lmplz and build_binary; None, said, where these cannot be built."""
    folder = _CACHE / "bin"
    if folder.is_dir():
        return folder
    if shutil.which("cmake") is None:
        print("left out: lmplz and build_binary (no cmake)")
        return None
    print(f"building {_SOURCE}: lmplz and build_binary, a minute", flush=True)
    with _scratch() as scratch:
        failed = _built(scratch)
        if failed is None:
            os.replace(f"{scratch}/build/bin", folder)
            return folder
    print(f"left out: lmplz and build_binary ({failed}); these need boost: libboost-{{program-options,system,thread,test}}-dev on Debian")
    return None


def _built(scratch: str) -> str | None:
    failed = _run([*_PIP, "download", "--no-deps", "--no-binary", "kenlm", "--dest", scratch, _SOURCE])
    if failed is not None:
        return failed
    with tarfile.open(next(pathlib.Path(scratch).glob("*.tar.gz"))) as archive:
        archive.extractall(scratch, filter="data")
    source, build = next(path for path in pathlib.Path(scratch).glob("kenlm*") if path.is_dir()), f"{scratch}/build"
    failed = _run(["cmake", "-S", str(source), "-B", build, "-DCMAKE_BUILD_TYPE=Release"])
    return failed or _run(["cmake", "--build", build, "--parallel", str(os.cpu_count()), "--target", *_PROGRAMS])


def _scratch() -> tempfile.TemporaryDirectory[str]:
    _CACHE.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=_CACHE)


def _run(command: list[str]) -> str | None:
    """Run a command; None where it went well, else the end of what it said."""
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode == 0 else " ".join((done.stderr or done.stdout).split())[-200:]


def opened(kenlm: ModuleType, path: pathlib.Path) -> Any:
    """Open a model without a word on stderr."""
    config = kenlm.Config()
    config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    return kenlm.Model(str(path), config)


def fit(folder: pathlib.Path, lines: pathlib.Path, arpa: pathlib.Path, *options: str, cores: set[int] | None = None) -> float:
    """Have lmplz fit a model of order 5 on a file of lines, on this process's cores or on others; give its peak memory in MB, as it says.

    The fallback for discounts is for texts that are too few for an estimate; otherwise it changes nothing.
    """
    command = [folder / "lmplz", "-o", "5", "--discount_fallback", "-T", f"{arpa}.tmp", "--text", lines, "--arpa", arpa, *options]
    taskset = [] if cores is None else ["taskset", "--cpu-list", ",".join(map(str, sorted(cores)))]
    # Started by a shell: to a child's peak the system counts that of the process which started it.
    done = subprocess.run(["sh", "-c", '"$@"; exit $?', "sh", *taskset, *command], stderr=subprocess.PIPE, text=True, check=True)
    found = re.search(r"RSSMax:(\d+) kB", done.stderr)
    return int(found[1]) / 1000 if found else 0.0


def binary(folder: pathlib.Path, kind: str, arpa: pathlib.Path) -> pathlib.Path:
    """Make KenLM's binary of an ARPA file: `probing`, its fastest, or `trie`, its smallest without loss."""
    path = arpa.with_suffix(f".{kind}")
    subprocess.run([folder / "build_binary", kind, arpa, path], capture_output=True, check=True)
    return path
