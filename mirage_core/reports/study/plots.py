"""Plots of a study as PNG bytes in both themes: all cells, sweeps of a setting, accuracy against seconds."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mirage_core.evaluation.metrics import ALL
from mirage_core.reports.figures import PAGE_WIDTH, Figure
from mirage_core.reports.labels import benchmark_label
from mirage_core.reports.plots import DARK, LIGHT, Theme, bare_figure, png, style_axes
from mirage_core.reports.study.table import Row, Table


def figures_of(table: Table, benchmark: str) -> list[Figure]:
    """Draw the plots of one benchmark: all cells, each sweep, accuracy against training seconds."""
    label = benchmark_label(benchmark)
    figures = [
        Figure(
            file=f"plots/cells-{benchmark}.png",
            title=f"Accuracy by cell, {label}",
            reading="Points: mean over seeds; lines: 95 % intervals; dashed: the baseline. Diamonds: the paper's.",
            light=cells_png(table, benchmark, LIGHT),
            dark=cells_png(table, benchmark, DARK),
        )
    ]
    for setting in sweeps(table):
        figures.append(
            Figure(
                file=f"plots/{setting.rpartition('.')[2]}-{benchmark}.png",
                title=f"{setting}, {label}",
                reading="Accuracy by value, with 95 % intervals; dashed: the baseline. Diamonds: the paper's.",
                light=sweep_png(table, benchmark, setting, LIGHT),
                dark=sweep_png(table, benchmark, setting, DARK),
            )
        )
    if any(row.seconds for row in table.rows):
        figures.append(
            Figure(
                file=f"plots/seconds-{benchmark}.png",
                title=f"Accuracy and training time, {label}",
                reading="Seconds of the stages that train a cell's model after the shared base, on the machine that "
                "ran them. Up and to the left is better. Numbers: the rows of the table.",
                light=seconds_png(table, benchmark, LIGHT),
                dark=seconds_png(table, benchmark, DARK),
            )
        )
    return figures


def sweeps(table: Table) -> tuple[str, ...]:
    """Return the settings that are swept over numbers."""
    swept = [row.cell.swept for row in table.rows if row.cell.swept is not None]
    numeric = [setting for setting, value in swept if not isinstance(value, bool | str)]
    return tuple(dict.fromkeys(numeric))


def cells_png(table: Table, benchmark: str, theme: Theme) -> bytes:
    """Draw one line a cell, in the table's order."""
    rows = [row for row in table.rows if (benchmark, ALL) in row.scores]
    figure = bare_figure(PAGE_WIDTH, 0.9 + 0.3 * len(rows), theme)
    axes = figure.add_subplot()
    style_axes(axes, theme)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    axes.grid(axis="y", visible=False)
    for y, row in enumerate(rows):
        estimate = row.scores[benchmark, ALL].estimate
        _point(axes, (estimate.mean, y), estimate.interval, _colour(row, theme), horizontal=True)
        axes.text(1.02, y, f"{100 * estimate.mean:.1f}", va="center", fontsize=7.5, color=theme.muted)
        number = row.published.get(benchmark)
        if number is not None:
            _diamond(axes, number.accuracy, y, theme)
    reference = table.baseline.scores.get((benchmark, ALL))
    if reference is not None:
        axes.axvline(reference.estimate.mean, color=theme.muted, linestyle="--", linewidth=0.9, zorder=1)
    axes.set_yticks(range(len(rows)), [row.cell.label for row in rows])
    axes.tick_params(axis="y", labelcolor=theme.ink, labelsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    return png(figure)


def sweep_png(table: Table, benchmark: str, setting: str, theme: Theme) -> bytes:
    """Draw accuracy over the values of one setting."""
    points = [(float(value), row) for value, row in _swept(table, setting) if (benchmark, ALL) in row.scores]
    figure = bare_figure(PAGE_WIDTH, 2.9, theme)
    axes = figure.add_subplot()
    style_axes(axes, theme)
    for value, row in points:
        estimate = row.scores[benchmark, ALL].estimate
        _point(axes, (value, estimate.mean), estimate.interval, _colour(row, theme), horizontal=False)
        number = row.published.get(benchmark)
        if number is not None:
            _diamond(axes, value, number.accuracy, theme)
    means = [row.scores[benchmark, ALL].estimate.mean for _, row in points]
    if points:
        axes.plot([value for value, _ in points], means, color=_colour(points[0][1], theme), linewidth=1.3, zorder=2)
    reference = table.baseline.scores.get((benchmark, ALL))
    if reference is not None:
        axes.axhline(reference.estimate.mean, color=theme.muted, linestyle="--", linewidth=0.9, zorder=1)
    axes.set_xticks([value for value, _ in points], [f"{value:g}" for value, _ in points])
    axes.set_xlabel(setting, color=theme.muted, fontsize=8)
    axes.set_ylim(-0.02, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return png(figure)


def seconds_png(table: Table, benchmark: str, theme: Theme) -> bytes:
    """Draw accuracy over the seconds of training; each point has the number of its row."""
    figure = bare_figure(PAGE_WIDTH, 3.2, theme)
    axes = figure.add_subplot()
    style_axes(axes, theme)
    for number, row in enumerate(table.rows, start=1):
        score = row.scores.get((benchmark, ALL))
        if score is None or row.seconds is None:
            continue
        point = (row.seconds, score.estimate.mean)
        _point(axes, point, score.estimate.interval, _colour(row, theme), horizontal=False)
        axes.annotate(str(number), point, (4, 4), textcoords="offset points", fontsize=7.5, color=theme.ink)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlim(left=0)
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlabel("training seconds after the base", color=theme.muted, fontsize=8)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return png(figure)


def _swept(table: Table, setting: str) -> Sequence[tuple[float, Row]]:
    rows: list[tuple[float, Row]] = []
    for row in table.rows:
        if row.cell.swept is not None and row.cell.swept[0] == setting:
            value = row.cell.swept[1]
            if not isinstance(value, bool | str):
                rows.append((float(value), row))
    return sorted(rows, key=lambda pair: pair[0])


def _point(
    axes: Axes, point: tuple[float, float], interval: tuple[float, float], colour: str, *, horizontal: bool
) -> None:
    """Draw a mean with its interval: along x where ``horizontal``, else along y."""
    centre = point[0] if horizontal else point[1]
    sides = [[max(0.0, centre - interval[0])], [max(0.0, interval[1] - centre)]]
    xerr, yerr = (sides, None) if horizontal else (None, sides)
    axes.errorbar(*point, xerr=xerr, yerr=yerr, fmt="o", color=colour, markersize=5, elinewidth=1.5, zorder=3)


def _diamond(axes: Axes, x: float, y: float, theme: Theme) -> None:
    """Draw a published number."""
    axes.plot([x], [y], marker="D", markersize=5, markerfacecolor="none", markeredgecolor=theme.muted, zorder=2)


def _colour(row: Row, theme: Theme) -> str:
    return theme.methods.get(row.cell.method, theme.series[0])
