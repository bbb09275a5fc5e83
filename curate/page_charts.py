"""Charts of the page of a version, as inline SVG: a waterfall, stacked bars and histograms.

Stands under `page_html`; pure functions of plain numbers. Decision: widths are percentages and heights pixels, so that a chart is as wide
as the screen and its letters never shrink; colours are classes, so that light and dark are the business of the style sheet.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from curate.page_bins import Bins
from curate.page_tags import Html, el

_ROW = 46  # pixels of a bar with the line above it
_BAR = 16
_PLOT = 120
_LEAST = 1.5  # pixels of a bar that stands for something


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar: what stands above it on the left and on the right, and its parts as (class, what it is, value)."""

    label: str
    note: str
    parts: tuple[tuple[str, str, int], ...]


def waterfall(title: str, steps: Sequence[tuple[str, str, int, str]]) -> Html:
    """Draw what is left after each step (label, class of what goes, what is left, that in words), and what went at it."""
    top = max(1, steps[0][2])
    shapes = []
    for place, (label, name, value, note) in enumerate(steps):
        before = steps[max(0, place - 1)][2]
        y = place * _ROW
        shapes += _captions(y, label, note)
        shapes.append(_rect(0.0, value / top, y + 20, "kept", f"{label}: {note}"))
        if before > value:
            shapes.append(_rect(value / top, (before - value) / top, y + 20, name, f"{before - value:,} less than the step before"))
    return _svg(title, len(steps) * _ROW, shapes)


def stacked(title: str, bars: Sequence[Bar]) -> Html:
    """Draw bars on one scale, their parts one after the other."""
    top = max([1, *(sum(value for _, _, value in bar.parts) for bar in bars)])
    shapes = []
    for place, bar in enumerate(bars):
        shapes += _captions(place * _ROW, bar.label, bar.note)
        start = 0
        for name, what, value in bar.parts:
            if value:
                shapes.append(_rect(start / top, value / top, place * _ROW + 20, name, f"{what}: {value:,}"))
            start += value
    return _svg(title, len(bars) * _ROW, shapes)


def passes(title: str, bars: Sequence[tuple[str, str, float]], *, limit: float) -> Html:
    """Draw how often each part of a mixture is read, with the limit beyond which that helps less."""
    top = max([limit * 1.25, *(value * 1.05 for _, _, value in bars)])
    shapes = []
    mark = _percent(limit / top)
    for place, (label, note, value) in enumerate(bars):
        y = place * _ROW
        shapes += _captions(y, label, note)
        shapes.append(_rect(0.0, value / top, y + 20, "warned" if value > limit else "kept", f"{label}: {value:.2f} times"))
        shapes.append(el("line", x1=mark, x2=mark, y1=str(y + 18), y2=str(y + 22 + _BAR), class_="mark"))
    height = len(bars) * _ROW
    shapes.append(el("text", f"{limit:g} times", x=mark, y=str(height + 8), text_anchor="middle", class_="label"))
    return _svg(title, height + 14, shapes)


def histogram(
    title: str, bins: Bins, counts: Sequence[Mapping[str, Any]], series: Sequence[tuple[str, str, str]], marks: Sequence[tuple[float, str]]
) -> Html:
    """Draw counts (bin, and a number by each key of `series`: key, class, meaning), and marks (value, words) as lines.

    The height of a bar is the square root of its count, so that the few rows that a rule drops are seen beside the many that pass; its
    parts divide it as they divide the count.
    """
    top = max([1.0, *(sum(row[key] for key, _, _ in series) ** 0.5 for row in counts)])
    width = 1.0 / (bins.last + 1 - bins.first)
    shapes = [el("line", x1="0", x2="100%", y1=str(_PLOT + 18), y2=str(_PLOT + 18), class_="axis")]
    for row in counts:
        total = sum(row[key] for key, _, _ in series)
        height = max(_LEAST, _PLOT * total**0.5 / top) if total else 0.0
        y = _PLOT + 18.0
        words = f"{_between(bins, row['bin'])}: " + ", ".join(f"{row[key]:,} {meaning}" for key, _, meaning in series if row[key])
        for key, name, _ in series:
            if row[key]:
                part = height * row[key] / total
                y -= part
                shapes.append(_rect((row["bin"] - bins.first) * width, width, y, name, words, part, gap=True))
    shapes += [shape for number in _ticks(bins) for shape in _tick(bins, number)]
    shapes += [shape for value, words in marks for shape in _mark(bins.share(value), words)]
    return _svg(title, _PLOT + 38, shapes)


def bin_rows(bins: Bins, counts: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[list[str | int]]:
    """Give the numbers behind a histogram, as rows of a table."""
    return [[_between(bins, row["bin"]), *(int(row[key]) for key in keys)] for row in counts]


def legend(meanings: Mapping[str, str]) -> Html:
    """Say what the colours (class -> meaning) stand for."""
    swatches = []
    for name, meaning in meanings.items():
        box = el("svg", el("rect", el("title", meaning), width="11", height="11", rx="2", class_=name), width="11", height="11")
        swatches.append(el("li", box, meaning))
    return el("ul", *swatches, class_="legend")


def _between(bins: Bins, number: int) -> str:
    low, high = bins.edge(number), bins.edge(number + 1)
    if number == bins.first:
        return f"up to {high:g}" if bins.holds_upper else f"below {high:g}"
    if number == bins.last:
        return f"above {low:g}" if bins.holds_upper else f"from {low:g}"
    return f"{low:g} to {high:g}"


def _ticks(bins: Bins) -> list[int]:
    n_edges = bins.last + 1 - bins.first
    step = max(1, -(-n_edges // 5))
    return list(range(bins.first + -bins.first % step, bins.last + 2, step))  # the threshold, where bins begin, is one of them


def _tick(bins: Bins, number: int) -> list[Html]:
    place = (number - bins.first) / (bins.last + 1 - bins.first)
    anchor = "start" if place < 0.02 else "end" if place > 0.98 else "middle"
    x = _percent(place)
    return [
        el("line", x1=x, x2=x, y1=str(_PLOT + 18), y2=str(_PLOT + 22), class_="axis"),
        el("text", f"{bins.edge(number):,.6g}", x=x, y=str(_PLOT + 35), text_anchor=anchor, class_="label"),
    ]


def _mark(place: float, words: str) -> list[Html]:
    x = _percent(place)
    anchor = "start" if place < 0.5 else "end"
    return [
        el("line", x1=x, x2=x, y1="4", y2=str(_PLOT + 18), class_="mark"),
        el("text", words, x=x, y="12", dx="5" if anchor == "start" else "-5", text_anchor=anchor, class_="label strong"),
    ]


def _captions(y: int, label: str, note: str) -> list[Html]:
    return [
        el("text", label, x="0", y=str(y + 13), class_="label"),
        el("text", note, x="100%", y=str(y + 13), text_anchor="end", class_="label number"),
    ]


def _rect(x: float, width: float, y: float, name: str, words: str, height: float = _BAR, *, gap: bool = False) -> Html:
    more = {"class_": f"{name} bin" if gap else name}
    return el(
        "rect",
        el("title", words),
        x=_percent(x),
        y=f"{y:.2f}".rstrip("0").rstrip("."),
        width=_percent(width),
        height=f"{height:.2f}",
        **more,
    )


def _svg(title: str, height: int, shapes: Sequence[Html]) -> Html:
    return el("svg", el("title", title), *shapes, width="100%", height=str(height), role="img")


def _percent(share: float) -> str:
    return f"{100 * share:.3f}%"
