"""Markdown for Prefect's UI: curves, the score table, the resolved settings, the report's place."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from mirage_core.config import Settings
from mirage_core.pipeline.run_record import RunRecord, ScoreLine
from mirage_core.recipes import dump

Curves = Mapping[str, Sequence[tuple[int, float]]]


def settings_markdown(settings: Settings) -> str:
    """The resolved settings as YAML."""
    return f"# Settings of the recipe {settings.recipe}\n\n```yaml\n{dump(settings)}```\n"


def scores_markdown(scores: Sequence[ScoreLine]) -> str:
    """The score table: accuracy with its 95 % interval, n, and unparsed answers apart."""
    head = (
        "| benchmark | level | method | accuracy | 95 % interval | n | unparsed |\n|---|---|---|---:|---|---:|---:|\n"
    )
    return "# Scores\n\n" + head + "".join(_score_row(score) for score in scores)


def run_markdown(record: RunRecord, report: str | None) -> str:
    """What a run did: its stages and where the report is."""
    head = f"# Run {record.id}: {record.state} in {record.wall_seconds:.0f} s\n\n"
    stages = "| stage | state | seconds | artifact |\n|---|---|---:|---|\n" + "".join(
        f"| {stage.name} | {stage.state} | {stage.seconds:.1f} | {stage.path or stage.error or ''} |\n"
        for stage in record.stages
    )
    return head + stages + (f"\nReport: `{report}`\n" if report else "")


def curves_markdown(title: str, stage: str, curves: Curves) -> str:
    """The curves of a stage as inline PNGs, a panel for each question they answer."""
    from mirage_core.reports.plots import panel_png
    from mirage_core.reports.run.curves import panels

    pictures = [
        f"![{panel.kind.title}](data:image/png;base64,{base64.b64encode(panel_png(panel)).decode('ascii')})"
        for panel in panels(stage, {name: list(points) for name, points in curves.items()})
    ]
    return f"# {title}\n\n" + "\n".join(pictures) + "\n"


def _score_row(score: ScoreLine) -> str:
    low, high = score.interval
    return (
        f"| {score.benchmark} | {score.level} | {score.method} | {score.accuracy:.1%} "
        f"| {low:.1%} to {high:.1%} | {score.n} | {score.unparsed} |\n"
    )
