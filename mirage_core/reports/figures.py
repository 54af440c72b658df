"""Figures of a page: each plot in the light and the dark theme, embedded in the page and as a file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mirage_core.reports.drawings import data_uri
from mirage_core.reports.labels import benchmark_label, stage_label
from mirage_core.reports.plots import DARK, LIGHT, panel_png, scores_png
from mirage_core.reports.run.curves import panels
from mirage_core.reports.run.inputs import RunReportInputs

PAGE_WIDTH = 5.4  # inches: narrow enough that numbers can be read on a phone


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot: its file name, its title, how to read it, and its PNG bytes in both themes.

    ``minor`` plots (the optimizer's) are collapsed on a page.
    """

    file: str
    title: str
    reading: str
    light: bytes
    dark: bytes
    minor: bool = False

    @property
    def light_uri(self) -> str:
        """The plot in the light theme as a data URI."""
        return data_uri(self.light, "png")

    @property
    def dark_uri(self) -> str:
        """The plot in the dark theme as a data URI."""
        return data_uri(self.dark, "png")


def score_figures(inputs: RunReportInputs) -> dict[str, Figure]:
    """Accuracy bars, one figure per benchmark."""
    figures: dict[str, Figure] = {}
    for benchmark in inputs.benchmarks:
        rows = [row for row in inputs.rows if row.benchmark == benchmark]
        figures[benchmark] = Figure(
            file=f"plots/scores-{benchmark}.png",
            title=f"Accuracy, {benchmark_label(benchmark)}",
            reading="Bars: accuracy in %; lines: Wilson 95 % intervals over problems.",
            light=scores_png(rows, LIGHT, PAGE_WIDTH),
            dark=scores_png(rows, DARK, PAGE_WIDTH),
        )
    return figures


def curve_figures(inputs: RunReportInputs) -> Mapping[str, list[Figure]]:
    """Training curves: one figure per panel, for every stage that logged any."""
    return {
        stage: [
            Figure(
                file=f"plots/{stage}-{panel.kind.key}.png",
                title=f"{panel.kind.title} ({stage_label(stage)})",
                reading=panel.kind.reading,
                light=panel_png(panel, LIGHT),
                dark=panel_png(panel, DARK),
                minor=panel.kind.key in ("gradient", "rate", "work"),
            )
            for panel in panels(stage, curves)
        ]
        for stage, curves in inputs.curves.items()
    }
