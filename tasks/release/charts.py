"""The report's charts as numbers: axes, marks and lines of SVG that the page's template draws and its style colours.

Hand-made instead of matplotlib: its pictures bring colours of their own, unreadable in the other of light and dark, and
letters as outlines that no search finds; and importing it costs more than the whole report (0.1 s). The price is these
lines.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

CHART_WIDTH = 900
SOURCES_SHOWN = 16


@dataclass(frozen=True)
class Axis:
    """A straight map from values [low, high] to pixels [start, end], with round ticks."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, from_zero: bool = False) -> "Axis":
        """An axis over finite values, rounded outwards to ticks. Raises ValueError without a finite value."""
        finite = [value for value in values if math.isfinite(value)]
        low, high = min(finite + ([0.0] if from_zero else [])), max(finite)
        step = _step(low, high)
        return cls(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step or step, start, end)

    @property
    def ticks(self) -> list[float]:
        """Three to seven round values from low to high."""
        step = _step(self.low, self.high)
        return [round(i * step, 12) for i in range(round(self.low / step), round(self.high / step) + 1)]

    def at(self, value: float) -> float:
        """Pixel of a value, to a tenth."""
        return round(self.start + (value - self.low) / ((self.high - self.low) or 1) * (self.end - self.start), 1)


@dataclass(frozen=True)
class Mark:
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float
    colour: str = "first"
    hollow: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Row:
    """A line of an interval chart."""

    name: str
    marks: tuple[Mark, ...]
    remark: str


@dataclass(frozen=True)
class Intervals:
    """Estimates with intervals, one row a thing, on a common axis."""

    label: str
    rows: tuple[Row, ...]
    axis: Axis
    percent: bool = False
    width: int = CHART_WIDTH

    @property
    def height(self) -> int:
        """The drawing's height in pixels: 26 a row, and 34 for the axis."""
        return 26 * len(self.rows) + 34

    def show_tick(self, value: float) -> str:
        """What stands at a tick of the axis: the value, or its percentage."""
        return f"{value:.0%}" if self.percent else f"{value:g}"


@dataclass(frozen=True)
class Losses:
    """The loss curve: SVG points of the raw line, its running mean, and the learning rate below on an axis of its
    own."""

    raw: str
    mean: str
    rate: str
    across: Axis
    up: Axis
    rate_up: Axis
    highest_rate: float
    last_step: int
    window: int
    width: int = CHART_WIDTH
    height: int = 360


def losses_of(losses: pl.DataFrame) -> Losses:
    """The loss curve of a table (step, loss, learning_rate)."""
    steps, loss = losses["step"].cast(pl.Float64).to_numpy(), losses["loss"].cast(pl.Float64).to_numpy()
    rate = losses["learning_rate"].cast(pl.Float64).to_numpy()
    window = max(len(steps) // 40, 1)
    across = Axis.over(steps.tolist(), 64, CHART_WIDTH - 12, from_zero=True)
    across = Axis(across.low, float(steps[-1]), across.start, across.end)  # the curve ends where the axis does
    # The first steps fall from ln(vocabulary) in a moment; without their peaks the rest would have no height.
    up = Axis.over([*smooth(loss, window).tolist(), *loss[len(loss) // 20 :].tolist()], 240, 12)
    highest = float(rate.max())
    rate_up = Axis(0.0, highest or 1.0, 332, 296)
    return Losses(
        raw=line(steps, loss.clip(up.low, up.high), across, up, most_points=900),
        mean=line(steps, smooth(loss, window), across, up),
        rate=line(steps, rate, across, rate_up),
        across=across,
        up=up,
        rate_up=rate_up,
        highest_rate=highest,
        last_step=int(steps[-1]),
        window=window,
    )


def bits_of(evaluation: dict[str, Any]) -> Intervals:
    """Bits per byte (or per hidden token) before and after, over all and for the largest sources."""
    before, after, measure = evaluation["before"], evaluation["after"], evaluation["measure"]
    size = "bytes" if measure == "bits_per_byte" else "hidden_tokens"
    largest = sorted(after["sources"], key=lambda name: (-after["sources"][name][size], name))[:SOURCES_SHOWN]
    pairs = [("all sources", before["all"], after["all"])]
    pairs += [(name, before["sources"][name], after["sources"][name]) for name in sorted(largest)]
    rows = []
    for name, old, new in pairs:
        marks = (_mark(old, measure, "soft", hollow=True), _mark(new, measure, "first"))
        rows.append(Row(_shorten(name), marks, f"{old[measure]:.2f} → {new[measure]:.2f}"))
    values = [edge for row in rows for mark in row.marks for edge in (mark.low, mark.high)]
    axis = Axis.over(values, 210, CHART_WIDTH - 120, from_zero=True)
    label = f"{measure.replace('_', ' ').capitalize()} by source, before and after pre-training"
    return Intervals(label, tuple(rows), axis)


def accuracies_of(contenders: dict[str, tuple[dict[str, int | float], str]]) -> Intervals:
    """Accuracy of each contender (name to metrics and colour)."""
    rows = []
    for name, (metrics, colour) in contenders.items():
        low, high = metrics["accuracy_low"], metrics["accuracy_high"]
        hint = f"{name}: {metrics['accuracy']:.1%}, 95% interval {low:.1%} to {high:.1%}"
        rows.append(Row(name, (Mark(metrics["accuracy"], low, high, colour, hint=hint),), f"{metrics['accuracy']:.1%}"))
    edges = [edge for row in rows for mark in row.marks for edge in (mark.low, mark.high)]
    axis = Axis.over(edges, 210, CHART_WIDTH - 120, from_zero=True)
    return Intervals("Accuracy", tuple(rows), axis, percent=True)


def line(x: NDArray[np.float64], y: NDArray[np.float64], across: Axis, up: Axis, most_points: int = 500) -> str:
    """Points of an SVG polyline through (x, y); values that are not finite are left out, many are averaged by bins."""
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) > most_points:
        bins = np.arange(len(x)) * most_points // len(x)
        sizes = np.bincount(bins)
        x, y = np.bincount(bins, x) / sizes, np.bincount(bins, y) / sizes
    return " ".join(f"{across.at(a)},{up.at(b)}" for a, b in zip(x.tolist(), y.tolist(), strict=True))


def smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean over a centred window that shrinks at the ends; same length as `values`."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, len(values) - 1 - index), window // 2)
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def _mark(estimate: dict[str, float], measure: str, colour: str, *, hollow: bool = False) -> Mark:
    value, low, high = estimate[measure], estimate["low"], estimate["high"]
    return Mark(value, low, high, colour, hollow, f"{value:.3f}, 95% interval {low:.3f} to {high:.3f}")


def _shorten(name: str) -> str:
    return name if len(name) <= 30 else name[:14] + "…" + name[-15:]


def _step(low: float, high: float) -> float:
    """1, 2 or 5 times a power of ten, so that there are about five steps from low to high. Values that are equal but
    for rounding get steps of their own size."""
    size = max(abs(low), abs(high))
    span = high - low if high - low > 1e-9 * size else size
    raw = (span if span > 1e-100 else 1.0) / 5
    magnitude = 10.0 ** math.floor(math.log10(raw))
    return next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * (1 - 1e-9))
