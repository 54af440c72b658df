"""Markdown and tables for Prefect's UI: settings, scores, a run's stages, curves, a diagnosis, a night, a study."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mirage_core.config import Settings
from mirage_core.pipeline.run_record import RunRecord, ScoreLine
from mirage_core.recipes import dump
from mirage_core.store import Store
from mirage_core.types import Artifact

if TYPE_CHECKING:
    from mirage_core.evaluation.agreement import Difference
    from mirage_core.evaluation.compare import Change
    from mirage_core.pipeline.trend import TrendPoint
    from mirage_core.studies.run import StudyResult

Curves = Mapping[str, Sequence[tuple[int, float]]]

_INTERVENTION_MEASURES = ("interventions", "only-latents", "text-chain")
_SCORE_COLUMNS = (
    "| benchmark | level | method | accuracy | 95 % interval | n | unparsed |\n|---|---|---|---:|---|---:|---:|\n"
)
_CHANGE_COLUMNS = (
    "| benchmark | n | before | now | difference | 95 % interval | right then wrong | wrong then right | p "
    "| p (Holm) | |\n|---|---:|---:|---:|---:|---|---:|---:|---:|---:|---|\n"
)


def settings_markdown(settings: Settings) -> str:
    """Return the resolved settings as YAML."""
    return f"# Settings of the recipe {settings.recipe}\n\n```yaml\n{dump(settings)}```\n"


def scores_markdown(scores: Sequence[ScoreLine]) -> str:
    """Return the score table: accuracy with its 95 % interval, n, and the number of unparsed answers."""
    rows = [
        f"| {score.benchmark} | {score.level} | {score.method} | {score.accuracy:.1%} "
        f"| {score.interval[0]:.1%} to {score.interval[1]:.1%} | {score.n} | {score.unparsed} |\n"
        for score in scores
    ]
    return "# Scores\n\n" + _SCORE_COLUMNS + "".join(rows)


def canary_markdown(model: str, method: str, asked: int, different: Sequence[Difference]) -> str:
    """Return what a served model answered in another way than its stored evaluation; texts are shown as code."""
    head = f"# {model} ({method}), served\n\n{asked - len(different)} of {asked} answers as stored.\n"
    if not different:
        return head
    rows = "".join(
        f"| {each.problem_id} | {each.what} | {_cell(each.stored)} | {_cell(each.found)} |\n" for each in different
    )
    return f"{head}\n| problem | differs in | stored | served |\n|---|---|---|---|\n{rows}"


def _cell(text: str) -> str:
    """Text as code within a cell of a table."""
    return f"`{' '.join(text.replace('|', '/').replace('`', chr(39)).split())[:300]}`" if text.strip() else ""


def run_markdown(record: RunRecord, report: str | None) -> str:
    """Return the stages of a run and the URL of its report."""
    head = f"# Run {record.id}: {record.state} in {record.wall_seconds:.0f} s\n\n"
    stages = "| stage | state | seconds | artifact |\n|---|---|---:|---|\n" + "".join(
        f"| {stage.name} | {stage.state} | {stage.seconds:.1f} | {stage.path or stage.error or ''} |\n"
        for stage in record.stages
    )
    return head + stages + (f"\nReport: `{report}`\n" if report else "")


def curves_markdown(title: str, stage: str, curves: Curves) -> str:
    """Return the curves of a stage as inline PNGs, one panel per kind of metric."""
    from mirage_core.reports.curves import panels
    from mirage_core.reports.plots import panel_png

    images = [
        _inline_png(panel.kind.title, panel_png(panel))
        for panel in panels(stage, {name: list(points) for name, points in curves.items()})
    ]
    return f"# {title}\n\n" + "\n".join(images) + "\n"


def verdict_markdown(store: Store, page: Artifact) -> str:
    """Return a diagnosis' headline, the verdict on every edge, and the URL of its page."""
    edges = "".join(
        f"- **{edge['edge'].replace('->', '→')}**{_image_access(edge)}: {edge['outcome']}. {edge['said']}\n"
        for edge in page.summary.get("edges", ())
    )
    url = f"{store.url}/{page.path}/{page.summary.get('page', '')}"
    return f"# {page.summary.get('headline', 'Diagnosis')}\n\n{edges}\nPage: `{url}`\n"


def interventions_table(store: Store, artifacts: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """Return one row per intervention of the measures among ``artifacts``; empty where none intervenes."""
    from mirage_core.analysis.number_format import nats, p_words, percent, points, shares
    from mirage_core.analysis.result_files import read_result, result_kind
    from mirage_core.reports.diagnosis.run_labels import access_label, run_label, run_order

    rows: list[dict[str, Any]] = []
    for measure in _INTERVENTION_MEASURES:
        if f"measure/{measure}" not in artifacts:
            continue
        result: Any = read_result(store.fetch(artifacts[f"measure/{measure}"]), result_kind(measure))
        rows += [
            {
                "measure": measure,
                "latents are": run_label(run),
                "image": access_label(run.seen),
                "n": run.n,
                "accuracy": shares(run.accuracy),
                "change": points(run.change),
                "p": p_words(run.p_value),
                "answers changed": shares(run.changed),
                "KL of the first answer token": nats(run.kl),
                "right for the donor": "–" if run.follow is None else shares(run.follow),
                "clean answers right for it": "–" if run.follow_clean is None else shares(run.follow_clean),
                "unparsed": percent(run.unparsed.value),
            }
            for run in sorted(result.runs, key=run_order)
        ]
    return rows


def comparison_markdown(point: TrendPoint) -> str:
    """Return a night against the one before: counts, differences with intervals, and corrected p-values."""
    compared = point.comparison
    lines = [f"# {point.pointer}: {compared.outcome}\n", f"{compared.said}.\n"]
    if compared.changes:
        lines.append(_CHANGE_COLUMNS + "".join(_change_row(change, compared.alpha) for change in compared.changes))
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


def trend_markdown(point: TrendPoint, plot_png: bytes, page: str) -> str:
    """Return the trend's plot as an inline PNG, and the URL of its page."""
    plot = _inline_png("accuracy over the nights", plot_png)
    return f"# Trend of {point.pointer}\n\n{plot}\n\nPage: `{page}`\n"


def study_markdown(store: Store, result: StudyResult) -> str:
    """Return a study's table, the state of each cell, and the URL of its report."""
    table = (store.fetch(result.report) / "table.md").read_text(encoding="utf-8")
    cells = "| cell | seed | state | seconds | |\n|---|---:|---|---:|---|\n" + "".join(
        f"| {cell.cell} | {cell.seed} | {cell.state} | {cell.seconds:.0f} | {cell.error or ''} |\n"
        for cell in result.record.cells
    )
    report = f"Report: `{store.url}/{result.report.path}` (study.html in its files)"
    return f"# {result.report.summary['headline']}\n\n{table}\n{cells}\n{report}\n"


def _inline_png(title: str, png: bytes) -> str:
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"


def _image_access(edge: Mapping[str, Any]) -> str:
    from mirage_core.analysis.results import ImageAccess
    from mirage_core.reports.diagnosis.run_labels import access_label

    return f", {access_label(ImageAccess(edge['seen']))}" if edge.get("seen") else ""


def _change_row(change: Change, alpha: float) -> str:
    low, high = change.interval
    return (
        f"| {change.benchmark} | {change.n} | {change.before:.1%} | {change.now:.1%} | {100 * change.difference:+.1f} "
        f"| {100 * low:+.1f} to {100 * high:+.1f} | {change.right_then_wrong} | {change.wrong_then_right} "
        f"| {change.p_value:.3g} | {change.p_corrected:.3g} | {'**drop**' if change.is_drop(alpha) else ''} |\n"
    )
