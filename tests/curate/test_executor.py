"""Items run once each on any number of workers of any executor; a fault in one, or a killed worker, ends the run with a word."""

import functools
import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from rich.progress import Task, TaskID

from curate import executor
from curate.build import build
from curate.executor import Run, Shown, Size, WorkerDied, in_flight, local, rates
from curate.ray_executor import ray_cluster
from curate.recipe import DomainError
from curate.recipe_file import read_recipe
from curate.store import Store
from tests.curate.corpora import write_corpus

_ROOT = pathlib.Path(__file__).parents[2]
_without_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an extra, which is not installed here")


def on_ray(test: Any) -> Any:
    """Mark a test that takes the cluster, which all of them share: 16 s together."""
    return pytest.mark.slow(_without_ray(test))


def _touch(folder: str, item: int) -> None:
    pathlib.Path(folder, str(item)).write_text(str(os.getpid()))


def _fail(item: int) -> None:
    if item == 3:
        raise ValueError(f"item {item}")


def _refuse(item: int) -> None:
    if item == 3:
        raise DomainError(f"item {item} is wrong; correct it")


def _die(item: int) -> None:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def _in_order(items: Sequence[Any], fn: Any) -> Iterator[int]:
    for place, item in enumerate(items):
        fn(item)
        yield place


@pytest.fixture(scope="module")
def ray_run() -> Iterator[Run]:
    """One cluster for all tests, because its start takes seconds."""
    with ray_cluster(2, "local") as run:
        yield run


@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_runs_once(tmp_path, workers):
    local(workers)(list(range(40)), functools.partial(_touch, str(tmp_path)), label="touch")
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == list(range(40))
    pids = {int(path.read_text()) for path in tmp_path.iterdir()}
    assert (os.getpid() in pids) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_through(workers):
    with pytest.raises(ValueError, match="item 3"):
        local(workers)(list(range(6)), _fail, label="fail")


def test_a_killed_worker_ends_the_run_with_a_word():
    with pytest.raises(WorkerDied, match="run the same command again"):
        local(2)(list(range(6)), _die, label="die")


def test_nothing_to_do_says_nothing(capfd):
    local(2)([], _fail, label="none", sizes=[])
    assert capfd.readouterr() == ("", "")


def test_a_run_says_what_is_to_do_and_how_fast_it_was(capfd):
    sizes = [Size(10, 2_000_000), Size(20, 4_000_000)]
    Shown(_in_order)([0, 1], _fail, label="annotate", sizes=sizes)
    Shown(_in_order)([0, 1], _fail, label="digest", sizes=[Size(0, size.n_bytes) for size in sizes])
    Shown(_in_order)([0, 1], _fail, label="verify")
    lines = capfd.readouterr().err
    said = re.sub(r"[\d.,]+ (s|docs/s|MB/s)\b", r"N \1", lines).splitlines()
    assert said == [
        "annotate: 2 to do", "annotate: 2 done in N s (N docs/s, N MB/s)",
        "digest: 2 to do", "digest: 2 done in N s (N MB/s)",
        "verify: 2 to do", "verify: 2 done in N s",
    ]  # fmt: skip
    docs_rate, mb_rate = (float(number.replace(",", "")) for number in re.findall(r"([\d.,]+) (?:docs|MB)/s", lines)[:2])
    assert mb_rate / docs_rate == pytest.approx((2 + 4) / (10 + 20), rel=0.05)


def test_rates_are_of_the_whole_time():
    assert rates(Size(72_860, 167_000_000), 5.0) == "14,572 docs/s, 33.4 MB/s"
    assert rates(Size(0, 0), 0.0) == "0.0 MB/s"


def test_the_time_left_is_that_of_the_bytes_left():
    # Of 10 items the large one is done: 90 of 99 bytes in 90 s, so 9 s are left, and 4 s later 5.
    whole_s = executor.whole_s(90, 99, elapsed_s=90.0)
    task = Task(TaskID(0), "", 99, 90, lambda: 94.0, fields={"whole_s": whole_s})
    task.start_time = 0.0
    assert executor.TimeLeft().render(task).plain == "0:00:05"
    assert executor.whole_s(0, 99, elapsed_s=90.0) is None


def test_a_window_of_items_is_on_its_way():
    most: list[int] = []

    def wait(pending):
        most.append(len(pending))
        return [max(pending)]

    places = list(in_flight("abcdefgh", "abcdefgh".index, wait=wait, limit=lambda: 3))
    assert sorted(places) == list(range(8))
    assert places[:3] == [2, 3, 4]
    assert most == [3, 3, 3, 3, 3, 3, 2, 1]


def test_after_a_fault_nothing_more_is_sent():
    sent: list[str] = []

    def wait(pending):
        raise ValueError("item 3")

    with pytest.raises(ValueError, match="item 3"):
        list(in_flight("abcdefgh", lambda item: sent.append(item) or item, wait=wait, limit=lambda: 3))
    assert sent == ["a", "b", "c"]


@on_ray
def test_every_item_runs_once_on_ray(tmp_path, ray_run):
    ray_run(list(range(40)), functools.partial(_touch, str(tmp_path)), label="touch")
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == list(range(40))
    assert os.getpid() not in {int(path.read_text()) for path in tmp_path.iterdir()}


@on_ray
@pytest.mark.parametrize(("fn", "error"), [(_fail, ValueError), (_refuse, DomainError)])
def test_an_error_comes_through_from_ray_as_itself(ray_run, fn, error):
    with pytest.raises(error, match=r"^item 3") as caught:
        ray_run(list(range(6)), fn, label="fail")
    assert type(caught.value) is error
    assert "in _" in str(caught.value.__cause__), "where it happened"


@on_ray
def test_a_killed_worker_ends_the_run_on_ray_with_the_same_word(ray_run):
    with pytest.raises(WorkerDied, match="run the same command again"):
        ray_run(list(range(6)), _die, label="die")


@on_ray
def test_a_build_on_ray_gives_the_same_digests(tmp_path, ray_run):
    recipe = write_corpus(tmp_path)
    found = []
    for name, run in [("one", local(1)), ("ray", ray_run)]:
        store = Store(str(tmp_path / name))
        made = build(store, read_recipe(store, file=recipe), run=run).manifest
        found.append((made.fingerprint, made.info["decision"]))
    assert found[0] == found[1]


@on_ray
def test_what_needs_a_folder_of_this_machine_stays_on_it(tmp_path, ray_run):
    ray_run.here([1], functools.partial(_touch, str(tmp_path)), label="touch")
    assert (tmp_path / "1").read_text() == str(os.getpid())


@_without_ray
@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_refused(address):
    with pytest.raises(DomainError, match=r"is no cluster that can be used .*ray start --head"), ray_cluster(1, address) as run:
        run([1], _fail, label="fail")


def test_without_ray_the_command_says_what_to_install(tmp_path):
    code = "import sys\nsys.modules['ray'] = None\nfrom curate.cli import main\nmain()"
    recipe = write_corpus(tmp_path)
    command = [sys.executable, "-c", code, "build", "--recipe", recipe, "--root", str(tmp_path / "root"), "--executor", "ray"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: --executor ray needs Ray, which is not installed")
    assert 'pip install "gapless[ray]"' in done.stderr
    assert not (tmp_path / "root").exists()
