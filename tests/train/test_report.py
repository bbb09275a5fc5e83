import dataclasses
import html.parser
import json
import math

import numpy as np
import pytest

from train.report import _short, page, read_report


class _Page(html.parser.HTMLParser):
    """Collects what a browser would fetch, and the words."""

    def __init__(self):
        super().__init__()
        self.fetched, self.tags, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for key, value in attrs if key in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_stands_alone_and_says_first_that_it_is_the_sample(root, train):
    done = train("report", "done", "--root", str(root))
    assert done.code == 0, done.err
    assert done.out.startswith("SAMPLE CORPUS")
    assert done.out.splitlines()[-2:] == [str(root / "runs/done/report" / name) for name in ("curves.png", "index.html")]
    assert (root / "runs/done/report/curves.png").read_bytes().startswith(b"\x89PNG")
    text = (root / "runs/done/report/index.html").read_text()
    read = _Page()
    read.feed(text)
    assert len(read.fetched) == 6
    assert all(value.startswith("data:image/png;base64,") for value in read.fetched)
    assert "script" not in read.tags
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    words = "".join(read.words)
    record = json.loads((root / "runs/done/run.json").read_text())
    for fact in (record["fingerprint"], record["evalset"], record["plan"], "checkpoint_every", "(no interval)"):
        assert fact in words
    assert words.index("SAMPLE CORPUS") < words.index("run done: tiny on v1")


def test_json_has_the_change_as_the_difference_of_its_ends(root, train):
    done = train("report", "done", "--root", str(root), "--json")
    table = json.loads(done.out)
    assert (table["name"], table["sample"], table["steps_done"]) == ("done", True, 12)
    for row in table["bits_per_byte"]:
        assert row["change"] == pytest.approx(row["end"] - row["start"])
        assert row["change"] < 0


def test_names_from_outside_are_escaped(store):
    report = read_report(store, "done")
    evil = "<script>alert(1)</script>&"
    record = {**report.record, "name": evil, "model": evil, "manifest": evil}
    changes = tuple(dataclasses.replace(change, component=evil) for change in report.changes)
    text = page(dataclasses.replace(report, record=record, changes=changes))
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in text


def test_the_error_of_a_change_is_of_pairs(store, root):
    # With an interval granted, each document that moves by its bytes times a constant leaves no error at all.
    lines = [json.loads(line) for line in (root / "runs/done/evaluations.jsonl").read_text().splitlines()]
    (root / "runs/done/evaluations.jsonl").write_text("".join(f"{json.dumps({**line, 'se': 0.1})}\n" for line in lines))
    first = store.read_table("runs/done/evaluations/step-0.parquet")
    nats = first["nats"].to_numpy() - 0.5 * math.log(2) * first["n_bytes"].to_numpy()
    store.write_table("runs/done/evaluations/step-12.parquet", first.set_column(4, "nats", [nats]))
    components = first["component"].to_pylist()
    several = [change for change in read_report(store, "done").changes if components.count(change.component) > 1]
    assert several
    for change in several:
        assert change.change == pytest.approx(-0.5)
        assert change.change_se == pytest.approx(0.0, abs=1e-12)


def test_a_run_that_is_not_there_is_one_line(root, train):
    done = train("report", "none", "--root", str(root))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: run 'none' not found")


def test_a_run_without_steps_says_how_to_go_on(root, train):
    (root / "runs/done/metrics.jsonl").unlink()
    done = train("report", "done", "--root", str(root))
    assert done.code == 2
    assert "has no steps yet" in done.err


def test_counts_are_written_short():
    assert [_short(value) for value in np.array([0, 999, 1e3, 2.5e6, 3e9])] == ["0", "999", "1k", "2.5M", "3B"]
