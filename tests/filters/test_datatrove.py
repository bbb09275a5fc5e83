"""The families against datatrove's own filters, on real documents of every kind: decisions, and every number behind them.

datatrove gets our words and sentences (tests/filters/trove.py), so that what is compared is all the rest.
"""

import importlib
import io
import json
import pathlib
import random
from collections.abc import Iterator
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from curate.normalise import normalise
from curate.pages import Refused, read_page
from filters import family
from filters.columns import TextBatch
from tests.filters.line_twin import is_wordless

CORPORA = pathlib.Path(__file__).parents[2].parent / "shared" / "corpora"
pytestmark = [pytest.mark.real, pytest.mark.skipif(not CORPORA.is_dir(), reason="../shared/corpora is not here")]

FAMILIES = ("gopher_quality", "gopher_repetition", "c4", "c4_fineweb", "fineweb")
# How many documents of each file: papers, books and articles of up to some 100 kB among them.
DRAWN = {
    "general-books/public-domain.jsonl.gz": 30,
    "general-forum/newsgroups.jsonl.zst": 700,
    "general-news/reuters.jsonl.gz": 500,
    "general-web/human-judged.jsonl.gz": 300,
    "general-web/movie-reviews.jsonl.gz": 60,
    "general-web/small-samples.jsonl.gz": 141,
    "general-wiki/full-articles.jsonl.gz": 60,
    "general-wiki/vital-intros.parquet": 400,
    "medical-abstracts/medical-tc-abstracts.jsonl.gz": 200,
    "medical-abstracts/pmc-rct-abstracts.jsonl.gz": 200,
    "medical-clinical/mts-dialog.jsonl.gz": 300,
    "medical-papers/pmc-rct-00.jsonl.zst": 60,
    "medical-papers/pmc-rct-01.jsonl.zst": 60,
    "medical-reference/medquad.jsonl.gz": 500,
    "medical-reference/openstax-anatomy.jsonl.gz": 40,
    "web-html/pages-00.warc.gz": 150,
    "web-html/pages-01.warc.gz": 150,
}


def _texts(path: pathlib.Path, n: int, rng: random.Random) -> list[str]:
    if path.suffix == ".parquet":
        return rng.sample(pq.read_table(path, columns=["text"])["text"].to_pylist(), n)
    with io.BufferedReader(pa.input_stream(str(path))) as file:
        if ".warc" not in path.suffixes:
            return [json.loads(row)["text"] for row in rng.sample(list(file), n)]
    with path.open("rb") as file:
        pages = [record.reader.read() for record in ArchiveIterator(file, record_types=WarcRecordType.response, parse_http=True)]
    return list(_page_texts(rng.sample(pages, n)))


def _page_texts(pages: list[bytes]) -> Iterator[str]:
    for page in pages:
        try:
            yield read_page(page, None).text
        except Refused:
            continue


@pytest.fixture(scope="module")
def trove() -> ModuleType:
    pytest.importorskip("datatrove", reason="datatrove is not installed")
    return importlib.import_module("tests.filters.trove")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(0)
    drawn = [text for name, n in DRAWN.items() for text in _texts(CORPORA / name, n, rng)]
    normalised: list[str] = normalise(pa.array(drawn, pa.large_string())).to_pylist()
    return normalised


@pytest.fixture(scope="module")
def batch(texts: list[str]) -> TextBatch:
    return TextBatch.from_arrow(pa.array(texts, pa.large_string()))


def _first_reasons(name: str, batch: TextBatch) -> list[str | None]:
    found = family(name)
    signals = found.compute(batch)
    judged = {rule.name: rule.passes(signals[rule.signal]).to_pylist() for rule in found.rules}
    return [next((rule for rule, passes in judged.items() if not passes[place]), None) for place in range(len(batch))]


def test_the_documents_are_many_and_of_every_size(texts):
    assert len(texts) > 3500
    assert min(map(len, texts)) < 100
    assert max(map(len, texts)) > 100_000


@pytest.mark.parametrize("name", FAMILIES)
def test_decisions_are_those_of_datatrove_where_words_mean_something(name, trove, texts, batch):
    ours = _first_reasons(name, batch)
    theirs = [trove.decide(name, text) for text in texts]
    differ = [(text, one, other) for text, one, other in zip(texts, ours, theirs, strict=True) if (one is None) != (other is None)]
    assert len(differ) <= 0.005 * len(texts)
    # Ours keep a text in a script without spaces that theirs drop by its words; nothing else.
    assert [(text[:80], one, other) for text, one, other in differ if one is not None or not is_wordless(text)] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_numbers_are_those_of_datatrove_to_the_last_bit(name, trove, texts, batch):
    theirs = [trove.numbers(name, text) for text in texts]
    for signal, values in family(name).compute(batch).items():
        ours = values.to_pylist()
        differ = [place for place, value in enumerate(ours) if value != theirs[place][signal]]
        not_judged = [place for place in differ if ours[place] is None]
        assert all(is_wordless(texts[place]) for place in not_judged), signal
        if signal.startswith("duplicate_") and "gram" in signal:
            n = int(signal.split("_")[1].removesuffix("gram"))
            # datatrove compares runs as one string without spaces, in which "1 11" and "11 1" are the same; ours compares words.
            differ = [place for place in differ if ours[place] != trove.repeated_runs_ratio(texts[place], n)]
        assert [(texts[place][:80], ours[place], theirs[place][signal]) for place in differ if place not in not_judged] == [], signal
