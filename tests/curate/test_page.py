"""The page of a version: its numbers are those of the version, foreign text cannot act on it, and a browser has nothing to complain of."""

import html.parser
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import duckdb
import fsspec
import matplotlib.image
import numpy as np
import pyarrow as pa
import pytest
import yaml

from curate import executor
from curate.build import build
from curate.manifest import load
from curate.page import FATES, gather
from curate.page_bins import bins_over
from curate.page_card import card
from curate.page_charts import histogram, passes
from curate.page_html import MAX_PASSES, page
from curate.page_texts import excerpt, read_texts
from curate.page_write import write_report
from curate.recipe_file import read_recipe
from curate.report import SAMPLE_NOTE
from curate.sql import connect
from curate.store import Store
from tests.curate.commands import curate
from tests.curate.corpora import RECIPE, text, write_corpus, write_jsonl

_EVIL = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(2)></style>\x1b[31m\u202e<a href=http://evil.example>|`x`\\\n---\n- *b*: [c](d)"
)
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
_TAGS = """
html head meta link title style body div nav ol ul li a main section h1 h2 h3 h4 small p b span dl dt dd code pre figure
figcaption blockquote del ins details summary table thead tbody tr th td svg rect line text
"""
# A text of exactly as many words as the rule asks for, and one of a word less; both try whatever a text may try on a page.
_ODD = """
[sources.odd]
path = "data/odd"
holdout_share = 0.0
gopher_quality = { min_words = 50, min_alpha_words_ratio = false, min_stop_words = 1 }
"""


class _Read(html.parser.HTMLParser):
    """Collects tags with their attributes, and the words."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def _write(folder: pathlib.Path, **layout: Any) -> str:
    recipe = pathlib.Path(write_corpus(folder, **layout))
    recipe.write_text(recipe.read_text() + _ODD)
    at_limit = f"{_EVIL.split('http')[0]} the and of be "
    odd = [{"id": f"odd-{n}", "text": text(f"odd{n}"), "url": _EVIL, "licence": "CC BY-SA 4.0"} for n in range(30)]
    for name, n_words in (("kept", 50), ("gone", 49)):
        body = f"{at_limit}{name} {text(name, 60)}".split()
        odd.append(
            {"id": _EVIL + name, "text": _words(" ".join(body), n_words), "url": "javascript:alert(1)", "licence": _EVIL, "lang": "en"}
        )
    odd += [{"id": f"copy-{n}", "text": text("odd1")} for n in range(3)]
    write_jsonl(folder / "data/odd/part-0.jsonl", odd)
    return str(recipe)


def _words(body: str, n: int) -> str:
    """Cut a text after so many words by our word rule: letters and digits, so that of markup every run of letters is one."""
    ends = [match.end() for match in re.finditer(r"\w+", body)]
    return body[: ends[n - 1]]


def _built(folder: pathlib.Path, recipe: str, *settings: str) -> dict[str, Any]:
    store = Store(str(folder / "root"))
    built = build(store, read_recipe(store, file=recipe, settings=settings), run=executor.local(1), accept={"dedup"})
    return gather(store, built.manifest)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def data(folder) -> dict[str, Any]:
    """What the page of v1 says."""
    return _built(folder, _write(folder))


@pytest.fixture(scope="module")
def sql(folder, data):
    connection = connect(str(folder / "root"), data["version"])
    return lambda query: connection.sql(query).fetchall()


def _tables(source: str, title: str) -> list[list[list[str]]]:
    """Read the tables of a section as rows of cells."""
    body = source.split(f"<h2>{title}</h2>")[1].split("</section>")[0]
    rows = [re.findall(r"<tr>(.*?)</tr>", table) for table in re.findall(r"<table>(.*?)</table>", body)]
    return [[[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in table] for table in rows]


def test_the_funnel_is_that_of_the_manifest(folder, data):
    info = load(Store(str(folder / "root")), data["version"]).info
    (table,) = _tables(page(data), "Funnel")
    assert [row[:3] for row in table[1:]] == [[step["step"], f"{step['rows']:,}", f"{step['n_bytes']:,}"] for step in info["funnel"]]
    assert [row[3] for row in table[1:]] == [f"{'~' if step['estimated'] else ''}{step['n_tokens']:,}" for step in info["funnel"]]


def test_a_source_is_divided_by_what_became_of_its_rows(data, sql):
    for entry in data["sources"]:
        splits = dict(sql(f"SELECT split, count(*) FROM manifest WHERE source = '{entry['name']}' GROUP BY 1"))
        dropped = sum(n for fate, n in entry["rows"].items() if fate not in ("kept", "held_out"))
        assert (entry["rows"].get("kept", 0), entry["rows"].get("held_out", 0), dropped) == tuple(
            splits.get(split, 0) for split in ("train", "holdout", "dropped")
        )
        assert (
            entry["n_tokens"].get("kept", 0)
            == sql(f"SELECT coalesce(sum(n_tokens), 0) FROM manifest WHERE split = 'train' AND source = '{entry['name']}'")[0][0]
        )
    assert sum(sum(entry["rows"].values()) for entry in data["components"]) == sql("SELECT count(*) FROM manifest")[0][0]
    shown = {row[0]: row for row in _tables(page(data), "Sources and components")[0][1:]}
    assert shown["papers"][1:6] == [f"{next(e for e in data['sources'] if e['name'] == 'papers')['rows'].get(fate, 0):,}" for fate in FATES]


def test_reasons_are_counted_by_source(data, sql):
    expected = dict(sql("SELECT reason, count(*) FROM manifest WHERE reason IS NOT NULL GROUP BY 1"))
    assert {entry["reason"]: entry["rows"] for entry in data["reasons"]} == expected
    assert {entry["reason"]: sum(entry["by_source"].values()) for entry in data["reasons"]} == expected


def test_the_histogram_of_a_score_holds_all_ranked_rows_and_marks_the_cut(data, sql):
    (score,) = data["scores"]
    n_kept, n_all, cut = sql(
        "SELECT count(*) FILTER (split = 'train'), count(*), min(quality) FILTER (split = 'train') FROM manifest"
        " WHERE component = 'domain' AND rank IS NOT NULL"
    )[0]
    assert sum(row["kept"] for row in score["counts"]) == n_kept
    assert sum(row["kept"] + row["other"] for row in score["counts"]) == n_all
    assert score["cut"] == cut
    assert f">cut {cut:.4f}</text>" in page(data)
    assert [row["value"] for row in data["cut"]["kept"]] == [n_kept, n_kept - 1, n_kept - 2]
    assert [row["value"] for row in data["cut"]["dropped"]] == [n_kept + 1, n_kept + 2, n_kept + 3]


def test_a_rule_shows_the_rows_nearest_to_its_limit_and_counts_all_that_it_judged(data, sql):
    rules = {rule["reason"]: rule for rule in data["rules"]}
    rule = rules["gopher_quality.min_words"]
    assert {limit["limit"]: limit["sources"] for limit in rule["limits"]} == {50: ["papers", "web", "wiki", "odd"]}
    rows = sql(
        "SELECT row_id, gopher_quality.n_words, coalesce(reason, '') FROM manifest JOIN signals USING (shard, \"row\")"
        " WHERE split <> 'holdout' ORDER BY abs(gopher_quality.n_words - 50), row_id"
    )
    gone = [(row_id, n) for row_id, n, reason in rows if reason == "gopher_quality.min_words"]
    kept = [(row_id, n) for row_id, n, reason in rows if reason in ("", "budget")]
    assert [(row["row_id"], row["value"]) for row in rule["dropped"]] == gone[:3]
    assert [(row["row_id"], row["value"]) for row in rule["kept"]] == kept[:3]
    assert (rule["dropped"][0]["value"], rule["kept"][0]["value"]) == (49, 50)
    assert sum(row["dropped"] for row in rule["counts"]) == len(gone) == rule["n_dropped"]
    assert sum(row["dropped"] + row["other"] for row in rule["counts"]) == len(rows)
    assert all((row["bin"] < 0) == (row["dropped"] > 0) for row in rule["counts"] if row["dropped"])


def test_pairs_lie_on_both_sides_of_the_threshold_with_what_differs(data, sql):
    group = next(group for group in data["copies"]["pairs"] if group["kind"] == "jaccard")
    gone = sql("SELECT row_id, dup_of FROM manifest WHERE dup_kind = 'jaccard' ORDER BY dup_similarity, row_id LIMIT 3")
    assert [(pair["one"]["row_id"], pair["other"]["row_id"]) for pair in group["dropped"]] == gone
    assert all(pair["similarity"] >= group["limit"] for pair in group["dropped"])
    assert sum(row["dropped"] for row in group["counts"]) == sql("SELECT count(*) FROM manifest WHERE dup_kind = 'jaccard'")[0][0]
    assert all({op for op, _ in pair["diff"]} == {"same", "removed", "added"} for pair in group["dropped"])


def test_pairs_below_the_threshold_are_both_kept(folder, data):
    strict = _built(folder, str(folder / "recipe.toml"), "dedup.threshold=0.97", "dedup.containment=false", "select.budget_tokens=60000")
    (group,) = strict["copies"]["pairs"]
    assert [pair["similarity"] < 0.97 for pair in group["kept"]] == [True, True, True]
    kept = load(Store(str(folder / "root")), strict["version"])
    connection = connect(str(folder / "root"), kept.version)
    ids = ", ".join(f"'{pair[end]['row_id']}'" for pair in group["kept"] for end in ("one", "other"))
    assert set(connection.sql(f"SELECT DISTINCT split FROM manifest WHERE row_id IN ({ids})").fetchall()) == {("train",)}
    assert "Both kept: just below 0.97" in page(strict)


def test_the_rows_that_most_others_hang_on_come_first(data, sql):
    expected = sql(
        "SELECT count(*), dup_of FROM manifest WHERE dup_of IS NOT NULL GROUP BY 2 HAVING count(*) > 1 ORDER BY 1 DESC, 2 LIMIT 10"
    )
    assert expected
    assert [(row["n_copies"], row["row_id"]) for row in data["copies"]["clusters"]] == expected
    assert all(row["text"] for row in data["copies"]["clusters"])


def test_the_mixture_shows_shares_and_how_often_a_pool_is_read(data):
    (stage,) = data["stages"]
    table = _tables(page(data), "Mixture")[0]
    for row, part in zip(table[1:], stage["components"], strict=True):
        assert row[0] == part["name"]
        assert row[3] == f"{part['epoch_tokens'] / stage['epoch_tokens']:.2%}"
        assert row[6] == f"{part['epoch_tokens'] * stage['epochs'] / part['pool_tokens']:.2f}"


def test_every_stage_says_where_its_shares_come_from(data):
    (stage,) = data["stages"]
    mixture = {"preset": "llama-1", "like": None, "source": "a paper", "requested": {"domain": 0.7, "wikipedia": 0.1}}
    mixture |= {"replaced": {"common_crawl": 0.67}, "absent": {"books": 0.2}}
    late = {**stage, "name": "late", "epochs": 1, "order": "quality ASC", "mixture": mixture}
    two = {**data, "stages": [stage, late], "repeats": {"domain": 4.5, "wikipedia": 1.25}}
    two["strata"] = [{"stratum": '"2020"', "n_rows": 10, "n_taken": 4, "n_tokens": 1234}]
    source = page(two)
    first, second, repeats, strata = _tables(source, "Mixture")
    assert [row[1] for row in first[1:]] == ["80.00%", "20.00%"]
    assert [row[1] for row in second[1:]] == ["70.00%", "10.00%"]
    assert repeats[1:] == [["domain", "4.50"], ["wikipedia", "1.25"]]
    assert strata[1] == ["&quot;2020&quot;", "10", "4", "1,234"]
    words = (
        "in the order quality ASC",
        "Shares of preset llama-1 (a paper).",
        "in the place of common_crawl 67.00%.",
        "components: books 20.00%.",
    )
    for said in words:
        assert said in source
    assert "Shares of preset llama-1 (a paper)." in card(two)


def test_more_than_four_passes_warn(data):
    many = json.loads(json.dumps(data))
    assert 'class="warned' not in page(many)
    many["stages"][0]["components"][0]["repeats"] = MAX_PASSES + 0.01
    assert 'class="warned-text">4.01</span>' in page(many)
    assert f"Read more than 4 times: {many['stages'][0]['components'][0]['name']}." in page(many)
    assert "more than 4 times" in card(many)
    assert 'class="warned"' in passes("t", [("web", "", 4.5)], limit=4.0).markup
    assert 'class="warned"' not in passes("t", [("web", "", 4.0)], limit=4.0).markup


def test_a_text_cannot_act_on_the_page(data):
    source = page(data)
    shown = [row["source_id"] for rule in data["rules"] for side in ("kept", "dropped") for row in rule[side]]
    assert {_EVIL + "kept", _EVIL + "gone"} <= set(shown)
    _check_harmless(source)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in source
    assert "\\u202e" in source


def test_a_name_cannot_act_on_the_page_or_the_card(data):
    """Names of sources and domains are narrow where a recipe is read; a version from elsewhere may hold any."""
    evil = json.loads(re.sub(r'"(papers|tiny|domain|jaccard)"(?!:)', lambda _: json.dumps(_EVIL), json.dumps(data)))
    evil["inputs"] = {_EVIL if name == "papers" else name: entry for name, entry in evil["inputs"].items()}
    evil["software"][_EVIL] = _EVIL
    evil["accepted"], evil["remarks"] = [_EVIL], [_EVIL]
    evil["domain"], evil["parent"] = _EVIL, _EVIL
    _check_harmless(page(evil))
    header, body = _card(card(evil))
    assert header["pretty_name"].startswith("\"'><script>alert(1)</script>")
    assert set(header) == {"pretty_name", "license", "size_categories", "task_categories", "tags", "configs"}
    text = re.sub(r"(`{3,}).*?\n\1", "", body, flags=re.DOTALL)
    assert not re.search(r"<[a-z/]", text)
    assert all(char.isprintable() or char == "\n" for char in body)
    assert all(line.count("|") - line.count("\\|") in (0, 4, 5, 7, 8) for line in text.split("\n"))


def _check_harmless(source: str) -> None:
    """Nothing but our own markup, no resource, no style and no handler; no character that nobody sees."""
    read = _Read(source)
    assert {tag for tag, _ in read.tags} <= set(_TAGS.split())
    for tag, attributes in read.tags:
        assert not {name for name in attributes if name.startswith("on")} | ({"style", "src", "srcset", "action"} & set(attributes)), tag
        assert attributes.get("href", "#").startswith("#") or (tag, attributes["href"]) == ("link", "data:,")
    assert [attributes["http-equiv"] for tag, attributes in read.tags if tag == "meta" and "http-equiv" in attributes] == [
        "Content-Security-Policy"
    ]
    assert "default-src 'none'" in source
    assert "url(" not in source.partition("</style>")[0]
    assert all(char.isprintable() or char == "\n" for char in source)


@pytest.mark.slow
def test_the_page_does_not_depend_on_files_and_shards(folder, data, tmp_path):
    again = _built(tmp_path, _write(tmp_path, n_files=3, reverse=True))
    assert again["decision"] == data["decision"]
    same = {"inputs": data["inputs"]}
    assert page({**again, **same}) == page({**data, **same})
    assert card(again) == card(data)


def test_without_scorer_rules_and_near_duplicates_the_page_says_so(folder, data):
    (folder / "bare.toml").write_text(RECIPE.format(data="data"))
    bare = _built(
        folder, str(folder / "bare.toml"), "rules=[]", "scorers=[]", "select.order_by=random", "dedup.threshold=false",
    )  # fmt: skip
    source = page(bare)
    for words in ("No scorer", "No rule dropped a row", "Exact copies only"):
        assert words in source
    assert bare["scores"] == []
    assert bare["copies"]["pairs"] == []
    assert [row["kind"] for row in bare["copies"]["kinds"]] == ["exact"]


def test_nothing_dropped_is_a_page_too(data):
    empty = {**data, "reasons": [], "rules": [], "licences": [], "languages": [], "scores": [{**data["scores"][0], "bins": None}]}
    empty["copies"] = {**data["copies"], "kinds": [], "clusters": [], "pairs": []}
    empty["cut"] = {**data["cut"], "kept": [], "dropped": []}
    source = page(empty)
    for words in ("Nothing was dropped", "No rule dropped a row", "No row went as a copy", "No row of the domain was scored"):
        assert words in source
    assert "license" not in _card(card(empty))[0]


def test_what_is_not_stored_any_more_is_said(folder, data, tmp_path):
    shutil.copytree(folder / "root", tmp_path / "root")
    shutil.rmtree(tmp_path / "root/corpus")
    shutil.rmtree(tmp_path / "root/cache")
    store = Store(str(tmp_path / "root"))
    found = gather(store, load(store, data["version"]))
    said = " ".join(found["remarks"])
    assert "signals of gopher_quality are not stored for" in said
    assert "its texts are not shown" in said
    assert "the edges are not stored any more" in said
    source = page(found)
    assert "Its signal is not stored any more." in source
    assert "its text is not stored any more" in source
    assert _tables(source, "Funnel") == _tables(page(data), "Funnel")


def test_the_sample_says_so_first(data):
    source = page({**data, "sample": True})
    read = "".join(_Read(source.partition("<main>")[2]).words)
    assert read.index(SAMPLE_NOTE) < read.index("documents read")
    assert SAMPLE_NOTE not in page(data)
    header, body = _card(card({**data, "sample": True}))
    assert "sample" in header["tags"]
    assert body.index("SAMPLE CORPUS") < body.index("## Sources")


def _card(source: str) -> tuple[dict[str, Any], str]:
    _, header, body = source.split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_card_has_the_header_that_the_hub_reads(data):
    header, body = _card(
        card({**data, "languages": [{"name": "en-GB", "rows": 2, "n_tokens": 9}, {"name": _EVIL, "rows": 1, "n_tokens": 3}]})
    )
    n_rows = sum(entry["rows"].get(fate, 0) for entry in data["sources"] for fate in ("kept", "held_out"))
    assert n_rows < 1000
    assert header == {
        "pretty_name": f"tiny {data['version']}",
        "license": ["cc-by-sa-4.0", "cc0-1.0", "unknown"],
        "language": ["en"],
        "size_categories": ["n<1K"],
        "task_categories": ["text-generation"],
        "tags": ["continual-pretraining", "gapless", "tiny"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": "train", "path": "data/train-*.parquet"},
                    {"split": "holdout", "path": "data/holdout-*.parquet"},
                ],
            }
        ],
    }
    assert f"fingerprint {data['fingerprint']}" in body
    alone, _ = _card(card(data, splits=("train",)))
    assert [entry["split"] for entry in alone["configs"][0]["data_files"]] == ["train"]
    assert "curate build --recipe recipe.toml" in body


def test_no_bar_is_on_both_sides_of_a_limit():
    bins = bins_over(0.0, 0.4, marks=[0.1], holds_upper=True)
    assert bins.edge(0) == 0.1
    assert bins.edge(bins.first) == 0.0  # the least value of all, at an edge, has no bin of its own
    assert bins_over(0.0, 1.0).edge(bins_over(0.0, 1.0).last + 1) == 1.0
    chart = histogram("t", bins, [{"bin": -1, "n": 2}, {"bin": 0, "n": 1}], [("n", "kept", "rows")], [(0.1, "at most 0.1")])
    mark = f'x1="{100 * bins.share(0.1):.3f}%"'
    assert chart.markup.count("<rect") == 2
    assert mark in chart.markup
    assert f'<rect x="{100 * bins.share(0.1):.3f}%"' in chart.markup
    assert "at most 0.1</text>" in chart.markup


@pytest.mark.parametrize(("holds_upper", "is_whole", "limit"), [(True, False, 0.1), (False, False, 0.1), (True, True, 3), (False, True, 3)])
def test_a_value_is_in_the_bin_whose_ends_enclose_it_and_a_limit_on_the_side_that_passes(holds_upper, is_whole, limit):
    mark = limit if is_whole else float(np.float32(limit))
    values = np.arange(0, 100) if is_whole else np.linspace(0.0, 0.5, 101, dtype=np.float32)
    bins = bins_over(float(values[0]), float(values[-1]), marks=[mark], is_whole=is_whole, holds_upper=holds_upper)
    query = f"SELECT value, {bins.sql('value')} FROM (SELECT unnest(?::{'INTEGER' if is_whole else 'FLOAT'}[]) AS value)"
    found = duckdb.execute(query, [[*values.tolist(), mark]]).fetchall()
    for value, number in found:
        assert bins.edge(number) - 1e-6 <= value <= bins.edge(number + 1) + 1e-6
        assert (number >= 0) == (value > mark if holds_upper else value >= mark)
    assert {number for _, number in found} <= set(range(bins.first, bins.last + 1))


def test_masked_spans_are_not_shown(tmp_path):
    store, remarks = Store(str(tmp_path)), []
    store.write_table("corpus/s/one.parquet", pa.table({"text": ["not this", "\u00e9va takes x"]}))
    masks = [{"start": 0, "end": 4, "kind": "name"}, {"start": 5, "end": 10, "kind": "no_loss"}]
    row = {"row_id": "r", "shard": "s/one.parquet", "row": 1, "masks": masks}
    assert (read_texts(store, [row], remarks), remarks) == ({"r": "<name> takes x"}, [])


def test_a_long_text_is_cut(tmp_path):
    assert excerpt("a\n\n\n b") == "a\nb"
    assert excerpt("x" * 700) == f"{'x' * 600} ..."
    remarks: list[str] = []
    assert read_texts(Store(str(tmp_path)), [{"row_id": "r", "shard": "s/none.parquet", "row": 0, "masks": []}], remarks) == {}
    assert remarks == ["corpus/s/none.parquet is missing, so its texts are not shown; restore it, or build again"]


def test_an_object_store_gives_the_same_bytes(folder, data):
    files = fsspec.filesystem("memory")
    root = f"memory://page-{folder.name}"
    files.put(f"{folder}/root", f"/page-{folder.name}", recursive=True)
    store = Store(root)
    path = write_report(store, load(store, data["version"]))
    assert path == f"{root}/reports/{data['version']}.html"
    assert files.cat_file(path).decode() == page(data)


def test_the_command_writes_the_page_and_the_card_and_prints_the_path(folder, data):
    root = folder / "root"
    for options, name, expected in (((), "v1.html", page(data)), (("--markdown",), "v1.md", card(data))):
        done = curate("report", "v1", *options, "--root", str(root), cwd=folder)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{root}/reports/{name}\n", "")
        assert (root / "reports" / name).read_text() == expected
    done = curate("report", "v1", "--out", "deep/here.html", "--root", str(root), cwd=folder)
    assert (done.returncode, done.stdout) == (0, "deep/here.html\n")
    assert (folder / "deep/here.html").read_text() == page(data)


def test_what_cannot_be_written_or_is_not_there_is_one_line(folder, data):
    for arguments, said in ((("v1", "--out", str(folder)), "cannot be written"), (("v99",), "manifest 'v99' not found")):
        done = curate("report", *arguments, "--root", str(folder / "root"), cwd=folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


# Two frames in one window: what a phone shows and what a desk shows. It reports what is wider than its frame, and each chart's size.
_FRAMES = """<!doctype html><meta charset="utf-8"><title></title>
<style>body { margin: 0; background: #808080; display: flex } iframe { border: 0 }</style>
<iframe id="phone" src="page.html" width="390" height="900"></iframe><iframe id="desk" src="page.html" width="1280" height="900"></iframe>
<script>
onload = () => {
  const seen = {};
  for (const name of ["phone", "desk"]) {
    const page = document.getElementById(name).contentDocument, root = page.documentElement;
    for (const one of page.querySelectorAll("details")) one.open = true;
    const beyond = (one) => !one.closest(".wide, pre") && one.getBoundingClientRect().right > root.clientWidth + 1;
    seen[name] = {
      overflow: root.scrollWidth - root.clientWidth,
      beyond: [...page.querySelectorAll("main *")].filter(beyond).map((one) => one.outerHTML.slice(0, 80)),
      charts: [...page.querySelectorAll("figure svg")].map(
        (one) => [one.clientWidth, one.clientHeight, one.querySelectorAll("rect").length],
      ),
    };
  }
  // The top of a phone's screen holds no chart.
  for (const name of ["phone", "desk"]) document.getElementById(name).contentDocument.getElementById("funnel").scrollIntoView();
  document.title = JSON.stringify(seen);
};
</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser on the PATH (looked for {', '.join(_BROWSERS)}); apt-get install chromium brings one")
    return found


def _opened(browser: str, folder: pathlib.Path, source: str, *options: str) -> tuple[dict[str, Any], list[str], Any]:
    """Open a page in a headless browser: what the frames saw, what it complained of, and the picture."""
    folder.mkdir()
    (folder / "page.html").write_text(source)
    (folder / "frames.html").write_text(_FRAMES)
    command = [
        browser, "--headless", "--disable-gpu", "--no-sandbox", "--hide-scrollbars", "--enable-logging=stderr",
        "--virtual-time-budget=4000", "--allow-file-access-from-files", "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1670,900",
        f"--screenshot={folder / 'seen.png'}", "--dump-dom", *options, f"file://{folder / 'frames.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    complaints = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    seen = json.loads(html.unescape(done.stdout.partition("<title>")[2].partition("</title>")[0]))
    return seen, complaints, matplotlib.image.imread(folder / "seen.png")[:, :, :3]


def _has(picture: Any, colour: str) -> bool:
    wanted = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return bool((abs(picture - wanted).max(axis=2) < 0.01).sum() > 200)


def test_a_browser_shows_the_charts_in_light_and_dark_on_a_phone_and_on_a_desk(browser, data, tmp_path):
    source = page(data)
    light, dark = ({"paper": "#ffffff", "bar": "#0072b2"}, {"paper": "#0f141a", "bar": "#56b4e9"})
    for name, options, own, other in (("light", (), light, dark), ("dark", ("--force-dark-mode",), dark, light)):
        seen, complaints, picture = _opened(browser, tmp_path / name, source, *options)
        assert complaints == []
        n_charts = source.count('role="img"')
        for frame, screen in (("phone", picture[:, :390]), ("desk", picture[:, 390:])):
            assert (seen[frame]["overflow"], seen[frame]["beyond"]) == (0, [])
            assert len(seen[frame]["charts"]) == n_charts > 6
            assert all(width > 250 and height > 40 and n_bars > 0 for width, height, n_bars in seen[frame]["charts"])
            assert _has(screen, own["paper"])
            assert _has(screen, own["bar"])
            assert not _has(screen, other["bar"])


def test_the_browser_would_complain_of_a_script_and_of_a_style(browser, data, tmp_path):
    source = page(data).replace("</main>", '<script>alert(1)</script><p style="color: red">x</p></main>')
    _, complaints, _ = _opened(browser, tmp_path / "bad", source)
    assert len([line for line in complaints if "Content Security Policy" in line]) >= 2
