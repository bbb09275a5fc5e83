"""What all tests share: kernels that are compiled once, the sample corpus, and the order that workers of xdist take tests in."""

import os
import pathlib
import subprocess
import sys

import hypothesis
import pytest

# A process per core runs the tests, and threads of torch that wait would spin on the others' cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The first example of a kernel compiles it, and a busy machine takes its time: neither says anything about the code.
hypothesis.settings.register_profile("gapless", deadline=None)
hypothesis.settings.load_profile("gapless")

# What nearly all other kernels wait for takes longest: the one process begins with the lines, the other one with the words.
_COMPILE = """
import sys
import pyarrow as pa
from curate.annotate import warm_up
from filters import FAMILIES, bags, family, minhash
from filters.columns import TextBatch

batch = TextBatch.from_arrow(pa.array(["A few words."]))
backwards = sys.argv[1] == "1"
bags.bags(batch) if backwards else batch.lines
minhash.band_keys(batch) if backwards else batch.line_sums
for name in sorted(FAMILIES, reverse=backwards):
    compute = family(name).compute
    compute and compute(batch)
warm_up()
"""


def pytest_configure(config: pytest.Config) -> None:
    """Compile the kernels where this machine has not: in two processes, from both ends, for each loads what the other one has compiled."""
    if "PYTEST_XDIST_WORKER" in os.environ or not config.getoption("numprocesses", None):
        return
    from filters.kernels import CACHE_DIR

    if CACHE_DIR is not None and not any(pathlib.Path(CACHE_DIR).rglob("*.nbi")):
        root = pathlib.Path(__file__).parents[1]
        compiling = [subprocess.Popen([sys.executable, "-c", _COMPILE, side], cwd=root) for side in "01"]
        assert not any(process.wait() for process in compiling), "the kernels do not compile"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put training first. A worker without work takes tests from the end of another's, and so the runs that those of training share are
    made in one worker only."""
    items.sort(key=lambda item: "/train/" not in item.nodeid)


@pytest.fixture(scope="session")
def made_sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, int]]:
    """The sample corpus, which tests only read, and what making it gave: its rows by path."""
    from curate.sample import make_sample

    folder = tmp_path_factory.mktemp("sample")
    return folder, make_sample(str(folder))
