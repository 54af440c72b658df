"""The frontier plot of a study: test accuracy against the causal effect of the latents, a point a cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import FuncFormatter, PercentFormatter

from mirage_core.evaluation.metrics import ALL
from mirage_core.reports.figures import PAGE_WIDTH, Figure
from mirage_core.reports.labels import benchmark_label
from mirage_core.reports.plots import DARK, LIGHT, Theme, bare_figure, png, style_axes
from mirage_core.reports.study.seeds import Estimate
from mirage_core.reports.study.table import Row, Table

LABEL = 0.17  # inches between two labels
LEADER: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.6, "alpha": 0.7, "relpos": (0.0, 0.5), "shrinkB": 3}
"""Style of the line from the left end of a label to its point."""


def frontier_of(table: Table, benchmark: str) -> list[Figure]:
    """Draw the frontier on one benchmark; nothing where no cell's latents were replaced."""
    if not _points(table, benchmark):
        return []
    return [
        Figure(
            file=f"plots/frontier-{benchmark}.png",
            title=f"Accuracy against the causal effect of the latents, {benchmark_label(benchmark)}",
            reading="Across: accuracy with its own latents minus that with another problem's, in points. Up: accuracy "
            "on all test problems. Lines: 95 % intervals. Dashed: the baseline; dotted: the same method under other "
            "settings. Up and to the right is better.",
            light=png(draw_frontier(table, benchmark, LIGHT)),
            dark=png(draw_frontier(table, benchmark, DARK)),
        )
    ]


def draw_frontier(table: Table, benchmark: str, theme: Theme) -> Picture:
    """Draw a point for each cell that uses latents, and a line for cells of the baseline's method that use none."""
    points, lines = _points(table, benchmark), _lines(table, benchmark)
    entries = [(row, effect, score.mean) for row, effect, score in points] + [(row, None, mean) for row, mean in lines]
    figure = bare_figure(PAGE_WIDTH, max(3.4, 0.9 + LABEL * len(entries)), theme)
    axes = figure.add_axes((0.09, 0.12, 0.5, 0.83))
    style_axes(axes, theme)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    for number, (_, effect, score) in enumerate(points):
        _cross(axes, effect, score, theme.series[number % len(theme.series)])
    for row, mean in lines:
        _level(axes, mean, theme, dashed=row is table.baseline)
    _limits(axes, points, [mean for _, mean in lines])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("causal effect of the latents, points", color=theme.muted, fontsize=8)
    colours = [theme.series[number % len(theme.series)] for number in range(len(points))] + [theme.muted] * len(lines)
    right = axes.get_xlim()[1]
    anchors = [(right if effect is None else effect.mean, mean) for _, effect, mean in entries]
    _labels(axes, anchors, [_name(table, row) for row, _, _ in entries], colours, theme)
    return figure


def _points(table: Table, benchmark: str) -> list[tuple[Row, Estimate, Estimate]]:
    """Return cells with their causal effect and their accuracy on the benchmark."""
    return [
        (row, row.causal.effect, row.scores[benchmark, ALL].estimate)
        for row in table.rows
        if row.causal is not None and (benchmark, ALL) in row.scores
    ]


def _lines(table: Table, benchmark: str) -> list[tuple[Row, float]]:
    """Return the baseline, and its method under other settings where it uses no latents."""
    method = table.baseline.cell.method
    alike = [row for row in table.rows if row is table.baseline or (row.cell.method == method and row.causal is None)]
    return [(row, row.scores[benchmark, ALL].estimate.mean) for row in alike if (benchmark, ALL) in row.scores]


def _name(table: Table, row: Row) -> str:
    """Return the number of the cell's row in the tables, and its label."""
    return f"{table.rows.index(row) + 1}  {row.cell.label}"


def _cross(axes: Axes, effect: Estimate, score: Estimate, colour: str) -> None:
    """Draw a mean with its intervals in both directions."""
    axes.errorbar(
        effect.mean, score.mean, xerr=_sides(effect), yerr=_sides(score), fmt="o", color=colour, markersize=5,
        elinewidth=1.1, zorder=3,
    )  # fmt: skip


def _sides(estimate: Estimate) -> list[list[float]]:
    low, high = estimate.interval
    return [[max(0.0, estimate.mean - low)], [max(0.0, high - estimate.mean)]]


def _level(axes: Axes, mean: float, theme: Theme, *, dashed: bool) -> None:
    style, width = ("--", 1.1) if dashed else (":", 0.9)
    axes.axhline(mean, color=theme.muted, linestyle=style, linewidth=width, zorder=1)


def _limits(axes: Axes, points: Sequence[tuple[Row, Estimate, Estimate]], means: Sequence[float]) -> None:
    """Set limits with room for every interval; 0 is always visible."""
    left = min(0.0, *(effect.interval[0] for _, effect, _ in points))
    right = max(0.1, *(effect.interval[1] for _, effect, _ in points))
    low = min(*(score.interval[0] for _, _, score in points), *means, 1.0)
    high = max(*(score.interval[1] for _, _, score in points), *means, 0.0)
    axes.set_xlim(left - 0.04, right + 0.04)
    axes.set_ylim(low - 0.03, high + 0.03)


def _labels(
    axes: Axes, anchors: Sequence[tuple[float, float]], names: Sequence[str], colours: Sequence[str], theme: Theme
) -> None:
    """Draw names in a column on the right, highest first, each with a thin line to its point, without overlaps."""
    low, high = axes.get_ylim()
    order = sorted(range(len(anchors)), key=lambda i: (-anchors[i][1], anchors[i][0]))
    for rank, i in enumerate(order):
        y = high - (high - low) * (rank + 0.5) / len(order)
        axes.annotate(
            names[i], xy=anchors[i], xytext=(1.06, (y - low) / (high - low)), textcoords=axes.transAxes,
            fontsize=7.2, color=theme.ink, va="center", parse_math=False, annotation_clip=False,
            arrowprops={**LEADER, "color": colours[i]},
        )  # fmt: skip
