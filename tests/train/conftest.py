"""What the tests of training share: a small sample manifest, built once, and the command line as a function."""

import dataclasses
import io
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
import rich.console
import torch

from curate.store import Store

_ROOT = pathlib.Path(__file__).parents[2]

# Twelve steps of 512 tokens with three checkpoints, of which two stay; one evaluation between start and end.
SETTINGS = ("seq_len=64", "global_batch=8", "micro_batch=4", "n_evals=1", "checkpoint_every=4", "max_steps=12")


@dataclasses.dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models this small gain nothing from a second thread, and wait for it where other work has the core."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sample_root(made_sample: tuple[pathlib.Path, dict[str, int]], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    from curate.build import build
    from curate.executor import local
    from curate.recipe_file import read_recipe

    root = tmp_path_factory.mktemp("root")
    shutil.copytree(made_sample[0], root / "cache/sample")
    settings = ["select.budget_tokens=20k", "tokenizer.vocab_size=512", "mix.epochs=2"]
    settings += ["holdout.share=0.001", "sources.encyclopedia.holdout_share=0.01"]  # some documents of two components to be examined on
    settings += ["scorers=[]", "select.order_by=random", "dedup.threshold=false"]  # training reads nothing that these would compute
    store = Store(str(root))
    build(store, read_recipe(store, domain="medical", settings=settings), run=local(1))
    return root


@pytest.fixture(scope="session")
def finished_root(sample_root: pathlib.Path) -> pathlib.Path:
    """The sample's root with the finished run `done`, of twelve steps."""
    from train.loop import open_run, train
    from train.run import Request, prepare

    run = prepare(Store(str(sample_root)), Request("v1", settings=SETTINGS, out="done"))
    train(run, open_run(run), rich.console.Console(file=io.StringIO()))
    return sample_root


@pytest.fixture
def root(finished_root: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the root with its finished run, without the corpus, for a test to write into."""
    return pathlib.Path(
        shutil.copytree(finished_root, tmp_path / "root", ignore=shutil.ignore_patterns("corpus", "inputs", "signals", "sample"))
    )


@pytest.fixture
def store(root: pathlib.Path) -> Store:
    return Store(str(root))


@pytest.fixture
def train(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the command in this process, which spares every test the seconds of importing torch."""
    from train.cli import main

    def run(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        return Done(int(caught.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def settings() -> list[str]:
    """The settings of the finished run, for the command line."""
    return [part for setting in SETTINGS for part in ("--set", setting)]


@pytest.fixture
def train_process() -> Callable[..., "subprocess.Popen[bytes]"]:
    """Start the command as a process of its own, to be killed."""

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        code = "from train.cli import main; main()"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments], cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start
