"""Plots of imagined films: how often each step is right, and where films leave the truth."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from mirage_core.analysis.results import BenchmarkFilms, Estimate, FilmStep
from mirage_core.reports.labels import benchmark_label
from mirage_core.reports.plots import Theme, bare_figure, legend, png, style_axes

WIDTH = 5.4


def film_png(benchmarks: Sequence[BenchmarkFilms], theme: Theme) -> bytes:
    """Draw the shares by step, one panel a benchmark; places and kinds as lines, departures from the truth as bars."""
    figure = bare_figure(WIDTH, 0.35 + 2.3 * len(benchmarks), theme)
    for row, films in enumerate(benchmarks):
        axes = figure.add_subplot(len(benchmarks), 1, row + 1)
        style_axes(axes, theme)
        _departures(axes, films, theme)
        _line(axes, films.steps, [step.place for step in films.steps], theme.series[0], "right place")
        _line(axes, films.steps, [step.kind for step in films.steps], theme.series[1], "right kind")
        axes.set_ylim(-0.04, 1.04)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xticks([step.index for step in films.steps], [str(step.index + 1) for step in films.steps])
        axes.set_title(benchmark_label(films.benchmark), loc="right", color=theme.muted, fontsize=8.5)
        if row == 0:
            legend(axes, theme, 3)
    figure.axes[-1].set_xlabel("step of the film", color=theme.muted, fontsize=8)
    figure.tight_layout(h_pad=1.2)
    return png(figure)


def _departures(axes: Axes, films: BenchmarkFilms, theme: Theme) -> None:
    shares = [step.left / films.n for step in films.steps]
    axes.bar([step.index for step in films.steps], shares, width=0.6, color=theme.grid, label="leaves the truth here")


def _line(axes: Axes, steps: Sequence[FilmStep], estimates: Sequence[Estimate], colour: str, label: str) -> None:
    known = [
        (
            step.index,
            each.value,
            each.value if each.low is None else each.low,
            each.value if each.high is None else each.high,
        )
        for step, each in zip(steps, estimates, strict=True)
        if each.value is not None
    ]
    if not known:
        return
    at, values, lows, highs = zip(*known, strict=True)
    axes.plot(at, values, "o-", color=colour, linewidth=1.4, markersize=4, label=label)
    axes.vlines(at, lows, highs, color=colour, linewidth=1.0)
