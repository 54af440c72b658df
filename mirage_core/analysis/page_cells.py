"""Figures as cells of a table: the value, and its interval small below it."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from mirage_core.analysis.page_words import nats, number, points, shares
from mirage_core.analysis.result import Estimate


def two_lines(said: Callable[[Estimate], str]) -> Callable[[Estimate], Markup]:
    """The filter that breaks ``81.5 % (78.0 to 84.6)`` before its bracket; a column's head says what points are."""

    def cell(estimate: Estimate) -> Markup:
        value, _, interval = said(estimate).replace(" points", "").partition(" (")
        return Markup("{}<small>{}</small>").format(value, interval.rstrip(")")) if interval else Markup(value)

    return cell


CELLS = {
    "two_lines": two_lines(shares),
    "points_lines": two_lines(points),
    "nats_lines": two_lines(nats),
    "number_lines": two_lines(number),
}
