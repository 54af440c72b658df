"""The template environment of a diagnosis: its filters, and table cells of estimates with their intervals."""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import Environment
from markupsafe import Markup

from mirage_core.analysis.number_format import nats, number, p_words, percent, points, shares
from mirage_core.analysis.results import Estimate
from mirage_core.reports.diagnosis.film_view import film_figures, film_verdict
from mirage_core.reports.diagnosis.hand_made_view import (
    exchange_label,
    film_label,
    hand_made_verdict,
    left_out_words,
    way_label,
)
from mirage_core.reports.diagnosis.run_labels import access_label, run_label
from mirage_core.reports.drawings import image_uri
from mirage_core.reports.html import page_environment
from mirage_core.reports.labels import benchmark_label, group_label


def two_lines(formatted: Callable[[Estimate], str]) -> Callable[[Estimate], Markup]:
    """The filter that breaks ``81.5 % (78.0 to 84.6)`` before its bracket; a column's head says where it is points."""

    def cell(estimate: Estimate) -> Markup:
        value, _, interval = formatted(estimate).replace(" points", "").partition(" (")
        return Markup("{}<small>{}</small>").format(value, interval.rstrip(")")) if interval else Markup(value)

    return cell


CELLS = {
    "two_lines": two_lines(shares),
    "points_lines": two_lines(points),
    "nats_lines": two_lines(nats),
    "number_lines": two_lines(number),
}


def environment() -> Environment:
    """The templates of every page, with the filters of a diagnosis."""
    return page_environment(
        **CELLS, film_figures=film_figures, film_verdict=film_verdict, film_label=film_label, way_label=way_label,
        exchange_label=exchange_label, hand_made_verdict=hand_made_verdict, left_out_words=left_out_words,
        percent=percent, p_words=p_words, run_label=run_label, access=access_label, image=image_uri,
        benchmark=benchmark_label, group=group_label, token=visible_blanks,
    )  # fmt: skip


def visible_blanks(text: str) -> str:
    """The text of a token with its blanks made visible."""
    return text.replace(" ", "␣").replace("\n", "⏎") or "(empty)"
