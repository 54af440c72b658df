"""What a night leaves among the UI's artifacts: its comparison with the night before, and the trend."""

from __future__ import annotations

import base64

from prefect.artifacts import create_markdown_artifact

from mirage_core.evaluation.regression import Change
from mirage_core.pipeline.trend import TrendPoint
from tasks.pictures import scores_markdown

COLUMNS = (
    "| benchmark | n | before | now | difference | 95 % interval | right then wrong | wrong then right | p "
    "| p (Holm) | |\n|---|---:|---:|---:|---:|---|---:|---:|---:|---:|---|\n"
)


def show_night(point: TrendPoint, plot: bytes, page: str) -> None:
    """Leave the artifacts ``nightly-scores``, ``nightly-comparison`` and ``nightly-trend``."""
    described = f"{point.method}, {point.model.path}"
    create_markdown_artifact(scores_markdown(point.scores), key="nightly-scores", description=described)
    said = point.comparison.said[:200]
    create_markdown_artifact(comparison_markdown(point), key="nightly-comparison", description=said)
    create_markdown_artifact(trend_markdown(point, plot, page), key="nightly-trend", description="Accuracy over time")


def comparison_markdown(point: TrendPoint) -> str:
    """A night against the one before: counts, differences with their intervals, and corrected p-values."""
    compared = point.comparison
    lines = [f"# {point.pointer}: {compared.outcome}\n", f"{compared.said}.\n"]
    if compared.changes:
        rows = "".join(_row(change, compared.alpha) for change in compared.changes)
        lines.append(COLUMNS + rows)
        lines.append(
            "McNemar's test on the same problems; p (Holm) is corrected for the rows of this table. The interval of "
            f"the difference is Newcombe's. A drop is a negative difference with p (Holm) < {compared.alpha:g}.\n"
        )
    if compared.before:
        lines.append(f"Before: `{compared.before.model.path}`, digest `{compared.before.model.digest}`\n")
    lines.append(f"Now: `{point.model.path}`, digest `{point.model.digest}`\n")
    if point.latents:
        exchanged = "".join(f" Latents permuted ({each.way}): {each.said}." for each in point.latents.exchanges)
        lines.append(f"Latents: {point.latents.said}{exchanged}\n")
    return "\n".join(lines)


def trend_markdown(point: TrendPoint, plot: bytes, page: str) -> str:
    """The plot as a data URL, and where the page is."""
    picture = base64.b64encode(plot).decode("ascii")
    shown = f"![accuracy over the nights](data:image/png;base64,{picture})"
    return f"# Trend of {point.pointer}\n\n{shown}\n\nPage: `{page}`\n"


def _row(change: Change, alpha: float) -> str:
    low, high = change.interval
    return (
        f"| {change.benchmark} | {change.n} | {change.before:.1%} | {change.now:.1%} | {100 * change.difference:+.1f} "
        f"| {100 * low:+.1f} to {100 * high:+.1f} | {change.right_then_wrong} | {change.wrong_then_right} "
        f"| {change.p_value:.3g} | {change.p_corrected:.3g} | {'**drop**' if change.is_drop(alpha) else ''} |\n"
    )
