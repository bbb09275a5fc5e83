"""One page about one run: what it gained, what it forgot, and what exactly it was.

    runs/RUN/{run.json, metrics.jsonl, evaluations} -> runs/RUN/report/curves.png and index.html

The page is one file without any outside resource: pictures are inlined, twice, for light and for dark. All text is
escaped, since names come from people and from files. The error of a change is that of paired differences (document by
document, clustered by group), which is much smaller than the errors of its two ends suggest.
"""

import base64
import dataclasses
import html
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import rich.table
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from curate.store import Store
from train.config import ConfigError
from train.evaluate import ratio_and_error
from train.journal import read_documents, read_metrics, read_scores
from train.run import sample_warning
from train.run_record import read_record


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A component's bits per byte at the start and at the last evaluation; an error is None where there is no interval."""

    component: str
    n_docs: int
    start: float
    start_se: float | None
    end: float
    end_se: float | None
    change: float
    change_se: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """Everything that the page shows."""

    record: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    scores: Mapping[str, Sequence[Mapping[str, Any]]]
    changes: tuple[Change, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Palette:
    paper: str
    ink: str
    faint: str
    lines: tuple[str, ...]


# The lines are those of Okabe and Ito (2008), which colour-blind readers tell apart; lightened for dark paper.
_LIGHT = _Palette("#ffffff", "#1f2328", "#d0d7de", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9"))
_DARK = _Palette("#161b22", "#e6edf3", "#30363d", ("#56b4e9", "#ff9e4a", "#2fd6a3", "#e8a3c9", "#f0e442", "#9ecbff"))


def read_report(store: Store, name: str) -> Report:
    """Read a run, finished or not. Raises ConfigError where there is none, or where it has no evaluation yet."""
    record = read_record(store, name)
    metrics, scores = read_metrics(store, name), read_scores(store, name)
    if not metrics or not scores:
        raise ConfigError(f"run {name!r} has no steps yet; go on first: train run --manifest {record['manifest']} --out {name} --resume")
    return Report(record, metrics, scores, tuple(_change(store, name, component, lines) for component, lines in scores.items()))


def write_report(store: Store, report: Report) -> list[str]:
    """Write the picture and the page; gives their paths."""
    folder = f"runs/{report.record['name']}/report"
    store.write_bytes(f"{folder}/curves.png", _png(report, _LIGHT, _PANELS, size=(7.2, 9.6)))
    store.write_bytes(f"{folder}/index.html", page(report).encode())
    return [store.url(f"{folder}/curves.png"), store.url(f"{folder}/index.html")]


def head(report: Report) -> list[str]:
    """Say what was run; that it was the sample corpus comes first."""
    record, last = report.record, report.metrics[-1]
    return [
        *([sample_warning(record["manifest"])] if record["sample"] else []),
        f"run {record['name']}: {record['model']} on {record['manifest']}, fingerprint {record['fingerprint'][:16]}",
        f"step {last['step'] + 1:,} of {record['n_steps']:,}, {last['tokens']:,} tokens",
    ]


def summary(report: Report) -> dict[str, Any]:
    """Give the report as plain values, for --json."""
    last = report.metrics[-1]
    kept = {key: report.record[key] for key in ("name", "manifest", "sample", "fingerprint", "model", "n_steps")}
    return {
        **kept,
        "steps_done": last["step"] + 1,
        "tokens": last["tokens"],
        "bits_per_byte": [dataclasses.asdict(change) for change in report.changes],
    }


def table(report: Report) -> rich.table.Table:
    """Lay the changes out for a terminal."""
    made = rich.table.Table(title="bits per byte", title_justify="left")
    for heading in _HEADINGS:
        made.add_column(heading, justify="left" if heading == "component" else "right")
    for change in report.changes:
        made.add_row(*_cells(change))
    return made


def page(report: Report) -> str:
    """Make the HTML page."""
    record = report.record
    facts = {
        "manifest": record["manifest"],
        "fingerprint": record["fingerprint"],
        "model": f"{record['model']}, {record['n_parameters']:,} parameters",
        "plan": record["plan"],
        "evalset": record["evalset"],
        "software": ", ".join(f"{key} {value}" for key, value in record["software"].items()),
    }
    settings = {key: json.dumps(value) for key, value in record["config"].items()}
    first, *others = head(report)
    note = f'<p class="sample">{html.escape(first)}</p>' if record["sample"] else f"<p>{html.escape(first)}</p>"
    body = [
        f"<h1>{html.escape(record['name'])}</h1>",
        note,
        *(f"<p>{html.escape(line)}</p>" for line in others),
        _html_table(_HEADINGS, [_cells(change) for change in report.changes]),
        '<p class="small">+- is one standard error, over groups of documents; of a change, of paired differences. Lower is better.</p>',
        *(_picture(report, panel) for panel in _PANELS),
        "<h2>What it was</h2>",
        _html_table(("", ""), list(facts.items())),
        "<h2>Config</h2>",
        _html_table(("key", "value"), list(settings.items())),
    ]
    title = html.escape(f"{record['name']}: bits per byte")
    return _PAGE.replace("{title}", title).replace("{body}", "\n".join(body))


def _change(store: Store, name: str, component: str, lines: Sequence[Mapping[str, Any]]) -> Change:
    first, last = lines[0], lines[-1]
    ends = [read_documents(store, name, line["step"]) for line in (first, last)]
    here = np.array(ends[0]["component"].to_pylist(), dtype=object) == component
    bits = (ends[1]["nats"].to_numpy() - ends[0]["nats"].to_numpy())[here] / math.log(2.0)
    group = np.array(ends[0]["group"].to_pylist(), dtype=object)[here]
    change, se = ratio_and_error(bits, ends[0]["n_bytes"].to_numpy()[here], group)
    return Change(
        component, first["n_docs"], first["bpb"], first["se"], last["bpb"], last["se"], change, None if last["se"] is None else se
    )


_HEADINGS = ("component", "documents", "start", "end", "change")


def _cells(change: Change) -> tuple[str, ...]:
    ends = (_with_error(change.start, change.start_se), _with_error(change.end, change.end_se))
    return (change.component, f"{change.n_docs:,}", *ends, _with_error(change.change, change.change_se, sign="+"))


def _with_error(value: float, se: float | None, sign: str = "") -> str:
    return f"{value:{sign}.4f} " + ("(no interval)" if se is None else f"+- {se:.4f}")


def _draw_bits_per_byte(axes: Axes, report: Report, palette: _Palette) -> None:
    for colour, (component, lines) in zip(_cycle(palette, report.scores), report.scores.items(), strict=True):
        tokens, bpb = ([line[key] for line in lines] for key in ("tokens", "bpb"))
        se = None if lines[0]["se"] is None else [line["se"] for line in lines]
        axes.axhline(bpb[0], color=colour, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
        axes.errorbar(
            tokens, bpb, yerr=se, color=colour, linewidth=1.6, marker="o", markersize=3.5, capsize=2.5, elinewidth=0.9, label=component
        )
    _finish(axes, palette, "bits per byte, held out (dashed: the base)")


def _draw_loss(axes: Axes, report: Report, palette: _Palette) -> None:
    names = list(dict.fromkeys(name for line in report.metrics for name in line["component_losses"]))
    for colour, name in zip(_cycle(palette, names), names, strict=True):
        found = [(line["tokens"], line["component_losses"][name]) for line in report.metrics if name in line["component_losses"]]
        tokens, loss = np.array(found).T
        n = max(len(loss) // 40, 1)
        axes.plot(tokens, loss, color=colour, linewidth=0.7, alpha=0.35)
        axes.plot(tokens[n - 1 :], np.convolve(loss, np.full(n, 1 / n), mode="valid"), color=colour, linewidth=1.6, label=name)
    _finish(axes, palette, "training loss, nats per token")


def _draw_lr(axes: Axes, report: Report, palette: _Palette) -> None:
    axes.plot([line["tokens"] for line in report.metrics], [line["lr"] for line in report.metrics], color=palette.ink, linewidth=1.4)
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _finish(axes, palette, "learning rate")


_Panel = Callable[[Axes, Report, _Palette], None]
_PANELS: tuple[_Panel, ...] = (_draw_bits_per_byte, _draw_loss, _draw_lr)
_ALT: Mapping[_Panel, str] = {
    _draw_bits_per_byte: "Bits per byte of each component against tokens trained on",
    _draw_loss: "Training loss of each component against tokens trained on",
    _draw_lr: "Learning rate against tokens trained on",
}


def _cycle(palette: _Palette, names: Any) -> list[str]:
    return [palette.lines[index % len(palette.lines)] for index in range(len(names))]


def _finish(axes: Axes, palette: _Palette, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=palette.ink)
    axes.set_xlabel("tokens", fontsize=9, color=palette.ink)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.tick_params(colors=palette.ink, labelsize=9, length=3, width=0.6)
    axes.grid(axis="y", color=palette.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor(palette.paper)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(palette.faint)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=palette.ink)


def _short(value: float) -> str:
    """Write a count of tokens as people say it.

    >>> _short(1_500_000), _short(20_000), _short(0)
    ('1.5M', '20k', '0')
    """
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _png(report: Report, palette: _Palette, panels: Sequence[_Panel], *, size: tuple[float, float]) -> bytes:
    figure = Figure(figsize=size, dpi=160, layout="constrained", facecolor=palette.paper)
    for axes, panel in zip(np.atleast_1d(figure.subplots(len(panels), 1)), panels, strict=True):
        panel(axes, report, palette)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _picture(report: Report, panel: _Panel) -> str:
    light, dark = (base64.b64encode(_png(report, palette, [panel], size=(6.4, 3.4))).decode() for palette in (_LIGHT, _DARK))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">'
        f'<img alt="{html.escape(_ALT[panel])}" src="data:image/png;base64,{light}"></picture>'
    )


def _html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = f"<tr>{''.join(f'<th>{html.escape(heading)}</th>' for heading in headings)}</tr>" if any(headings) else ""
    cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    return f'<div class="wide"><table>{top}{"".join(f"<tr>{row}</tr>" for row in cells)}</table></div>'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --faint: #d0d7de; --note: #fff8c5; }
@media (prefers-color-scheme: dark) { :root { --paper: #161b22; --ink: #e6edf3; --faint: #30363d; --note: #3b2f0b; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 46rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 0.5rem; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 0.5rem; }
p { margin: 0.25rem 0; }
.sample { background: var(--note); border-radius: 6px; padding: 0.6rem 0.8rem; font-weight: 600; }
.small { font-size: 0.85rem; opacity: 0.8; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.3rem 1.2rem 0.3rem 0; border-bottom: 1px solid var(--faint); overflow-wrap: anywhere; }
th { white-space: nowrap; }
td:first-child { min-width: 7rem; }
img { width: 100%; height: auto; margin: 0.75rem 0; }
</style>
</head>
<body>
{body}
</body>
</html>
"""
