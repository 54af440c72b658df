"""Figures of a page: each plot once on light and once on dark paper, and as a file beside the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from mirage_core.reports.labels import benchmark_label, stage_label
from mirage_core.reports.plots import DARK, LIGHT, panel_png, scores_png
from mirage_core.reports.run.curves import panels
from mirage_core.reports.run.inputs import Sources

PAGE_WIDTH = 5.4  # inches: narrow enough that numbers can be read on a phone


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot: its file name, its title, how to read it, and its PNG bytes in both themes.

    ``minor`` plots (the optimizer's) are folded away on a page.
    """

    file: str
    title: str
    reading: str
    light: bytes
    dark: bytes
    minor: bool = False

    @property
    def light_uri(self) -> str:
        """The light picture as a data URI."""
        return data_uri(self.light, "png")

    @property
    def dark_uri(self) -> str:
        """The dark picture as a data URI."""
        return data_uri(self.dark, "png")


def data_uri(data: bytes, kind: str) -> str:
    """Encoded picture bytes as a URI a page can hold."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def score_figures(sources: Sources) -> dict[str, Figure]:
    """Accuracy bars, one figure a benchmark."""
    found: dict[str, Figure] = {}
    for benchmark in sources.benchmarks:
        rows = [row for row in sources.rows if row.benchmark == benchmark]
        found[benchmark] = Figure(
            file=f"plots/scores-{benchmark}.png",
            title=f"Accuracy, {benchmark_label(benchmark)}",
            reading="Bars: accuracy in %; lines: Wilson 95 % intervals over problems.",
            light=scores_png(rows, LIGHT, PAGE_WIDTH),
            dark=scores_png(rows, DARK, PAGE_WIDTH),
        )
    return found


def curve_figures(sources: Sources) -> Mapping[str, list[Figure]]:
    """Training curves: for every stage that logged any, one figure a panel."""
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
        for stage, curves in sources.curves.items()
    }
