"""A version that an earlier program published is read by this one: tests/golden/root was built once and never changes.

Made from tests/curate/corpora.py (`write_corpus`, n_files=1) with its cache taken away.
"""

import pathlib

import pytest

from curate import manifest
from curate.sql import connect, select
from curate.store import Store
from curate.verify import verify

_STORE = Store(str(pathlib.Path(__file__).parent / "golden" / "root"))


@pytest.fixture(scope="module")
def golden() -> manifest.Manifest:
    return manifest.load(_STORE, "v1")


def test_its_digests_are_those_of_the_day(golden):
    assert golden.fingerprint == "7e953adc2b76aca8f34bf3fe7342722acb450e8cdb130a64507cb4ef383f1500"
    assert golden.info["decision"] == "368472c6ead79b4b539914e78125f6393dd42f03c310322609178cfe70d73dc9"


def test_it_verifies(golden):
    faults, remarks = verify(_STORE, golden)
    assert faults == []
    assert len(remarks) == 1
    assert "no tokens under cache/tokens" in remarks[0]


def test_its_rows_and_its_evalset_are_read(golden):
    counts = {split: manifest.rows(_STORE, golden, split).num_rows for split in manifest.SPLITS}
    assert counts == {"train": 96, "holdout": 26, "dropped": 240}
    assert manifest.evalset(_STORE, golden).num_rows == 22


def test_its_draws_are_those_of_the_day(golden):
    drawn = manifest.draw(_STORE, golden, stage=0, component="domain", epoch=1)
    assert drawn["ordinal"].to_pylist()[:8] == [16, 64, 14, 95, 20, 51, 13, 12]
    assert sum(drawn["n_tokens"].to_pylist()) == golden.stages[0].components[0].epoch_tokens == 9600


def test_sql_reads_it(golden):
    found = select(connect(_STORE.url()), 'SELECT count(*) AS n FROM manifest JOIN documents USING (shard, "row")').to_pylist()
    assert found == [{"n": 362}]
