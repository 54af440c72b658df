"""The report of a run: one page that needs nothing else, the plots as files, and the figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mirage_core.config import Settings
from mirage_core.evaluation.metrics import as_json, run_scores
from mirage_core.evaluation.sample_selection import SELECTION_RULE
from mirage_core.reports.figures import Figure, curve_figures, score_figures
from mirage_core.reports.plots import LIGHT, scores_png
from mirage_core.reports.run import findings as story
from mirage_core.reports.run import published_numbers as published
from mirage_core.reports.run.curves import last_step, tail_mean
from mirage_core.reports.run.inputs import Sources, read_sources
from mirage_core.reports.run.page import MethodSamples, SampleLooks, choose_samples, render, versions
from mirage_core.reports.run.training_budget import budgets
from mirage_core.reports.trajectories import Sample
from mirage_core.reports.trajectory_figure import storyboard_png

PAGE_FILE = "report.html"
FIGURES_FILE = "report.json"
TRAJECTORY_FILE = "trajectory.png"
SCORES_FILE = "scores.png"
TRAJECTORY_RULE = (
    "trajectory.png: of the trajectories the page shows of stage 2 (else of the last method) on the first benchmark, "
    "the right one with the longest reference answer; a wrong one where none is right"
)


def write_report(
    output: Path, settings: Settings, folders: Mapping[str, Path], looks: SampleLooks | None = None
) -> dict[str, Any]:
    """Write report.html, report.json, scores.png, trajectory.png and plots/ into ``output``; returns a summary.

    ``folders`` are local folders of artifacts by stage name ("problems", "examples", "base", "direct-sft",
    "grounding", "relaxation", "grpo", "evaluation/<method>", ...); absent ones leave their part of the page out.
    ``looks``: at the latents of the answers shown. The bytes depend on these, the folders, the settings without
    ``runtime``, and the versions of the libraries.
    """
    sources = read_sources(settings, folders)
    scores, curves, samples = score_figures(sources), curve_figures(sources), choose_samples(sources)
    output.mkdir(parents=True, exist_ok=True)
    _write_pictures(output, sources, scores, curves, samples)
    (output / PAGE_FILE).write_text(render(sources, scores, curves, samples, looks), encoding="utf-8")
    figures = report_figures(sources)
    (output / FIGURES_FILE).write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {"headline": figures["headline"], "page": PAGE_FILE, "methods": list(sources.methods)}


def report_figures(sources: Sources) -> dict[str, Any]:
    """The report's figures as JSON: ``scores`` in a run record's form, and everything behind the page's sentences."""
    return {
        "recipe": sources.settings.recipe,
        "headline": story.headline(sources),
        "findings": story.findings(sources),
        "caveats": story.caveats(sources),
        "scores": run_scores(sources.rows),
        "rows": [as_json(row) for row in sources.rows],
        "paired_tests": [
            {"benchmark": found.benchmark, "outcome": found.outcome, "difference": found.test.difference}
            | asdict(found.test)
            for found in story.comparisons(sources)
        ],
        "budgets": [asdict(budget) | {"optimizer_steps": budget.optimizer_steps} for budget in budgets(sources)],
        "stages": {
            stage: {"steps": last_step(curves), "last": {name: tail_mean(points) for name, points in curves.items()}}
            for stage, curves in sources.curves.items()
        },
        "published_not_ours": [
            asdict(number) for benchmark in sources.benchmarks for number in published.numbers(benchmark)
        ],
        "selection_rule": SELECTION_RULE,
        "trajectory_rule": TRAJECTORY_RULE,
        "settings": sources.settings.model_dump(mode="json", exclude={"runtime"}),
        "versions": versions(),
    }


def _write_pictures(
    output: Path,
    sources: Sources,
    scores: Mapping[str, Figure],
    curves: Mapping[str, Sequence[Figure]],
    samples: Mapping[str, Sequence[MethodSamples]],
) -> None:
    for figure in [*scores.values(), *(figure for listed in curves.values() for figure in listed)]:
        path = output / figure.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(figure.light)
    if sources.rows:
        (output / SCORES_FILE).write_bytes(scores_png(sources.rows, LIGHT))
    shown = _pictured(samples)
    if shown is not None:
        (output / TRAJECTORY_FILE).write_bytes(storyboard_png(shown))


def _pictured(samples: Mapping[str, Sequence[MethodSamples]]) -> Sample | None:
    """The trajectory of TRAJECTORY_RULE, None when none is shown."""
    for shown in samples.values():
        by_method = {entry.method: entry for entry in shown}
        if by_method:
            candidates = by_method.get("stage-2", shown[-1]).samples
            return max(candidates, key=lambda sample: (sample.verdict == "right", len(sample.problem.answer)))
    return None
