"""The trend of nightly evaluations as one self-contained HTML page: the plot, the last comparison, every night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.ticker import PercentFormatter

from mirage_core.reports.figures import Figure
from mirage_core.reports.html import page_environment
from mirage_core.reports.labels import benchmark_label, short_label
from mirage_core.reports.plots import DARK, LIGHT, Theme, bare_figure, png, style_axes
from mirage_core.reports.run.findings import p_words, percent

PANEL_HEIGHT = 2.3
READING = (
    "Share of the test problems answered right; bands and bars are Wilson 95 % intervals. A dotted line: another "
    "model, named by its digest. A solid line: other problems or another rule, so that the two sides cannot be "
    "compared. A triangle: significantly worse than the night before."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """One night on one benchmark. Nights of one ``series`` answered the same problems, judged by the same rule."""

    time: datetime
    series: str
    model: str
    accuracy: float
    interval: tuple[float, float]
    dropped: bool


def trend_html(pointer: str, points: Sequence[Mapping[str, Any]], figure: Figure) -> str:
    """The page of a pointer's nights (trend points as JSON, oldest first); everything in it is escaped."""
    environment = page_environment(
        percent=percent, p_words=p_words, benchmark=benchmark_label, method=short_label, points=_points
    )
    benchmarks = sorted({score["benchmark"] for point in points for score in point["scores"]})
    template = environment.get_template("trend.html")
    return (
        template.render(
            pointer=pointer,
            nights=list(points)[::-1],
            last=points[-1],
            benchmarks=benchmarks,
            figure=figure,
            diagnosed=[point for point in reversed(points) if point.get("latents")],
        )
        + "\n"
    )


def trend_figure(nights: Mapping[str, Sequence[Night]]) -> Figure:
    """The plot of all nights, by benchmark, in both themes."""
    return Figure(
        file="trend.png",
        title="Accuracy over the nights",
        reading=READING,
        light=trend_png(dict(nights), LIGHT),
        dark=trend_png(dict(nights), DARK),
    )


def trend_png(nights: dict[str, Sequence[Night]], theme: Theme = LIGHT, width: float = 7.2) -> bytes:
    """Draw one panel per benchmark, nights by time; no line connects two series."""
    figure = bare_figure(width, 0.4 + PANEL_HEIGHT * max(1, len(nights)), theme)
    for index, (benchmark, points) in enumerate(sorted(nights.items())):
        axes = figure.add_subplot(len(nights), 1, index + 1)
        style_axes(axes, theme)
        _panel(axes, points, theme)
        axes.set_title(benchmark_label(benchmark), loc="left", color=theme.ink, fontsize=10, fontweight="bold", pad=14)
    figure.tight_layout(h_pad=1.4)
    return png(figure, tight=False)


def _panel(axes: Axes, points: Sequence[Night], theme: Theme) -> None:
    for part in _runs(points):
        times = [date2num(night.time) for night in part]
        values = [night.accuracy for night in part]
        colour = theme.series[0]
        lows, highs = ([night.interval[side] for night in part] for side in (0, 1))
        axes.fill_between(times, lows, highs, color=colour, alpha=0.16, linewidth=0)
        axes.errorbar(
            times, values, yerr=[_gaps(values, lows), _gaps(highs, values)],
            color=colour, marker="o", markersize=3.5, linewidth=1.5, elinewidth=0.7,
        )  # fmt: skip
    dropped = [night for night in points if night.dropped]
    if dropped:
        times = [date2num(night.time) for night in dropped]
        axes.plot(times, [night.accuracy for night in dropped], "v", color=theme.series[4], markersize=9, zorder=5)
    _marks(axes, points, theme)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    locator = AutoDateLocator(minticks=2, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set(fontsize=8, color=theme.muted)
    middle = (date2num(points[0].time) + date2num(points[-1].time)) / 2
    axes.set_xlim(middle - 0.54 * _span(points), middle + 0.54 * _span(points))


def _marks(axes: Axes, points: Sequence[Night], theme: Theme) -> None:
    """Mark each new model by a line with the start of its digest, and each new series by a stronger line.

    A mark too close to the one before it has no text.
    """
    room = 0.11 * _span(points)
    last_text = float("-inf")
    for before, night in pairwise(points):
        if (before.model, before.series) == (night.model, night.series):
            continue
        at = (date2num(before.time) + date2num(night.time)) / 2
        new = before.series != night.series
        axes.axvline(at, color=theme.ink if new else theme.muted, linewidth=0.9, linestyle="-" if new else ":")
        if at - last_text >= room:
            last_text = at
            text = "new series" if new else night.model[:7]
            axes.text(
                at, 1.02, text, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=6.8,
                color=theme.muted,
            )  # fmt: skip


def _span(points: Sequence[Night]) -> float:
    """Days from the first night to the last, at least one."""
    return max(1.0, (points[-1].time - points[0].time).total_seconds() / 86400)


def _runs(points: Sequence[Night]) -> list[list[Night]]:
    """Neighbouring nights of one series."""
    runs: list[list[Night]] = []
    for night in points:
        if runs and runs[-1][-1].series == night.series:
            runs[-1].append(night)
        else:
            runs.append([night])
    return runs


def _gaps(highs: Sequence[float], lows: Sequence[float]) -> list[float]:
    return [max(0.0, high - low) for high, low in zip(highs, lows, strict=True)]


def _points(share: float) -> str:
    """A difference in percentage points with its sign."""
    return f"{100 * share:+.1f}"
