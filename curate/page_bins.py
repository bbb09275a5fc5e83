"""Histograms in SQL: bins of round widths that begin at a threshold, so that no bar is on both sides of it.

Stands under the modules that gather what the page of a version says. Decision: the outer percent on each side share the outer bins, so
that one odd document does not flatten all the others. Cost: two aggregations, which hold the bins and the exact quantiles of one column.
"""

import dataclasses
import math
from collections.abc import Sequence

_N_BINS = 36
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
# What `bins_over` needs of a column: its least and greatest value but for a percent in all.
RANGE = "quantile_disc({value}, 0.005)::DOUBLE, quantile_disc({value}, 0.995)::DOUBLE"


@dataclasses.dataclass(frozen=True, slots=True)
class Bins:
    """Bins of one width; number 0 begins at `base`. A bin holds its lower end, or where `holds_upper` its upper one."""

    base: float
    width: float
    first: int
    last: int
    holds_upper: bool = False

    def sql(self, value: str) -> str:
        """Number the bin of a value; what is beyond the outer bins is in them."""
        place = f"({value}::DOUBLE - {self.base!r}::DOUBLE) / {self.width!r}::DOUBLE"
        number = f"ceil({place}) - 1" if self.holds_upper else f"floor({place})"
        return f"least({self.last}, greatest({self.first}, {number}))::INTEGER"

    def edge(self, number: int) -> float:
        """Give the lower end of a bin, without the noise of binary fractions.

        >>> Bins(0.1, 0.02, -5, 5).edge(1)
        0.12
        """
        return float(f"{self.base + number * self.width:.6g}")

    def share(self, value: float) -> float:
        """Give the place of a value between the ends of all bins, 0 to 1."""
        place = (value - self.edge(self.first)) / (self.width * (self.last + 1 - self.first))
        return min(1.0, max(0.0, place))


def bins_over(low: float, high: float, *, marks: Sequence[float] = (), is_whole: bool = False, holds_upper: bool = False) -> Bins:
    """Choose bins that cover [low, high] and every mark; the first of the marks is the end of a bin. Whole numbers get whole widths.

    >>> bins_over(0, 360, marks=[21], is_whole=True)
    Bins(base=21.0, width=10.0, first=-3, last=33, holds_upper=False)
    """
    base = float(marks[0]) if marks else 0.0
    low, high = min(low, *marks, high), max(high, *marks, low)
    width = _round_width((high - low) / _N_BINS) if high > low else (_round_width(abs(high) / _N_BINS) or 1.0)
    if is_whole:
        width = max(1.0, float(round(width)))
    first, last = (_number(value, base, width, holds_upper) for value in (low, high))
    # The least or the greatest of all, alone at an edge, needs no bin of its own.
    if not is_whole and holds_upper and _is_edge(low, base, width):
        first += 1
    elif not is_whole and not holds_upper and _is_edge(high, base, width):
        last -= 1
    if marks:
        first, last = min(first, -1), max(last, 0)
    return Bins(base, width, first, max(first, last), holds_upper)


def _is_edge(value: float, base: float, width: float) -> bool:
    return float(f"{(value - base) / width:.6g}").is_integer()


def _number(value: float, base: float, width: float, holds_upper: bool) -> int:
    place = float(f"{(value - base) / width:.6g}")
    return math.ceil(place) - 1 if holds_upper else math.floor(place)


def _round_width(width: float) -> float:
    """Round a width up to 1, 2, 2.5 or 5 of a power of ten.

    >>> _round_width(0.013), _round_width(7.0)
    (0.02, 10.0)
    """
    if width <= 0.0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(width))
    return float(f"{next(step for step in _STEPS if step * power >= width * (1 - 1e-9)) * power:.9g}")
