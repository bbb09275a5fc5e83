import numpy as np
import pytest

from curate import manifest as manifests
from curate import tokens
from curate.manifest import ManifestError
from train.config import config_from
from train.plan import epoch_tokens, make_plan
from train.run_record import read_record
from train.stream import open_stream


@pytest.fixture
def opened(store):
    """Give a function that opens the data of the finished run and reads a step."""
    manifest = manifests.load(store, "v1")
    config = config_from(read_record(store, "done")["config"])
    plan = make_plan(manifest, config, n_tokens=epoch_tokens(manifest, config))

    def read():
        stream, _ = open_stream(store, manifest, plan, tokenizer=manifest.tokenizer, n_tokens=None)
        return stream.batch(3)

    return read


def _segments(store):
    folder = tokens.segments_dir(manifests.load(store, "v1").tokenizer)
    return [store.local(path) for path in store.files(folder)]


def test_documents_that_were_found_once_are_found_without_their_indexes(store, opened):
    before = opened()
    for path in _segments(store):
        if path.suffix == ".parquet":
            path.unlink()
    assert np.array_equal(opened().inputs_BT, before.inputs_BT)


def test_documents_are_looked_up_again_where_a_segment_has_another_name(store, opened):
    before = opened()
    for path in _segments(store):
        path.rename(path.with_name(f"{'f' * 32}{path.suffix}"))
    assert np.array_equal(opened().targets_BT, before.targets_BT)


def test_documents_whose_segments_are_gone_are_one_line(store, opened):
    opened()
    for path in _segments(store):
        path.unlink()
    with pytest.raises(ManifestError, match="documents have no tokens under cache/tokens; run the same curate build again"):
        opened()
