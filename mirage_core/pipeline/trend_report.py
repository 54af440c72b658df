"""trend.html and trend.json of a pointer, written into the store from its nights."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mirage_core.evaluation.metrics import ALL
from mirage_core.pipeline.trend import TrendPoint, folder
from mirage_core.store import Store

if TYPE_CHECKING:
    from mirage_core.reports.trend import Night

PAGE, FIGURES = "trend.html", "trend.json"


def write_trend(store: Store, pointer: str, points: Sequence[TrendPoint]) -> bytes:
    """Write the page and the JSON beside it; returns the plot as PNG. The points are a pointer's, oldest first."""
    from mirage_core.reports.trend import trend_figure, trend_html

    figure = trend_figure(nights_of(points))
    listed = [as_json(point) for point in points]
    store.write_json(f"{folder(pointer)}/{FIGURES}", {"pointer": pointer, "nights": listed})
    page = trend_html(pointer, listed, figure)
    store.backend.write(f"{folder(pointer)}/{PAGE}", page.encode())
    return figure.light


def page_url(store: Store, pointer: str) -> str:
    """Return the URL of a pointer's page."""
    return f"{store.url}/{folder(pointer)}/{PAGE}"


def as_json(point: TrendPoint) -> dict[str, Any]:
    """Return a night as JSON, with its series and its drops."""
    night: dict[str, Any] = json.loads(point.model_dump_json())
    night["series"] = point.series
    dropped = {change.benchmark for change in point.comparison.drops}
    night["comparison"]["drops"] = [row for row in night["comparison"]["changes"] if row["benchmark"] in dropped]
    return night


def nights_of(points: Sequence[TrendPoint]) -> dict[str, Sequence[Night]]:
    """Return the points for the plot, one list a benchmark."""
    from mirage_core.reports.trend import Night

    nights: dict[str, list[Night]] = defaultdict(list)
    for point in points:
        dropped = {change.benchmark for change in point.comparison.drops}
        for score in point.scores:
            if score.level == ALL:
                night = Night(
                    time=datetime.fromisoformat(point.time),
                    series=point.series,
                    model=point.model.digest,
                    accuracy=score.accuracy,
                    interval=score.interval,
                    dropped=bool(dropped & {score.benchmark, ALL}),
                )
                nights[score.benchmark].append(night)
    return dict(nights)
