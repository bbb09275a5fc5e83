"""Items run once each on any number of workers; a fault in one, or a killed worker, ends the run with a word."""

import functools
import os
import pathlib
import signal

import pytest

from curate.executor import WorkerDied, local


def _touch(folder: str, item: int) -> None:
    pathlib.Path(folder, str(item)).write_text(str(os.getpid()))


def _fail(item: int) -> None:
    if item == 3:
        raise ValueError(f"item {item}")


def _die(item: int) -> None:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_runs_once(tmp_path, workers):
    local(workers)(list(range(7)), functools.partial(_touch, str(tmp_path)), label="touch")
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(n) for n in range(7)]
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
    local(2)([], _fail, label="none")
    assert capfd.readouterr() == ("", "")
