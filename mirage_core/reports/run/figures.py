"""The figures of a run: accuracy by benchmark, and the learning curves of every stage."""

from __future__ import annotations

from collections.abc import Mapping

from mirage_core.reports.curves import panels
from mirage_core.reports.figures import PAGE_WIDTH, Figure
from mirage_core.reports.labels import benchmark_label, stage_label
from mirage_core.reports.plots import DARK, LIGHT, panel_png, scores_png
from mirage_core.reports.run.inputs import RunReportInputs


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
