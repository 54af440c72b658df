"""The trend as one HTML page that needs nothing else: the plot, the last comparison, and every night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mirage_core.evaluation.figures import Figure
from mirage_core.evaluation.names import benchmark_label, short_label
from mirage_core.evaluation.plots import DARK, LIGHT
from mirage_core.evaluation.story import p_words, percent
from mirage_core.evaluation.templating import page_environment
from mirage_core.evaluation.trend_plot import Night, trend_png

READING = (
    "Share of the test problems answered right; bands and bars are Wilson 95 % intervals. A dotted line: another "
    "model, named by its digest. A full line: other problems or another rule, so that what stands left of it cannot be "
    "compared with what stands right of it. A triangle: significantly worse than the night before."
)


def trend_figure(nights: Mapping[str, Sequence[Night]]) -> Figure:
    """The plot of all nights, a list of them a benchmark, on light and on dark paper."""
    return Figure(
        file="trend.png",
        title="Accuracy over the nights",
        reading=READING,
        light=trend_png(dict(nights), LIGHT),
        dark=trend_png(dict(nights), DARK),
    )


def trend_html(pointer: str, points: Sequence[Mapping[str, Any]], figure: Figure) -> str:
    """The page of a pointer's nights (JSON forms of trend points, oldest first); everything in it is escaped."""
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


def _points(share: float) -> str:
    """A difference in percentage points with its sign."""
    return f"{100 * share:+.1f}"
