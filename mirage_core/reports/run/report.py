"""Write the report of a run: a self-contained page, the plots as files, and the numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mirage_core.config import Settings
from mirage_core.evaluation.metrics import as_json, run_scores
from mirage_core.evaluation.sample_selection import SELECTION_RULE
from mirage_core.reports.curves import last_step, tail_mean
from mirage_core.reports.figures import Figure
from mirage_core.reports.html import versions
from mirage_core.reports.plots import LIGHT, scores_png
from mirage_core.reports.run import findings, published_numbers
from mirage_core.reports.run.figures import curve_figures, score_figures
from mirage_core.reports.run.inputs import RunReportInputs, read_inputs
from mirage_core.reports.run.page import MethodSamples, SampleLens, choose_samples, render
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
    output: Path, settings: Settings, folders: Mapping[str, Path], lens: SampleLens | None = None
) -> dict[str, Any]:
    """Write report.html, report.json, scores.png, trajectory.png and plots/ into ``output``; returns a summary.

    ``folders`` are local folders of artifacts by stage name ("problems", "examples", "base", "direct-sft",
    "grounding", "relaxation", "grpo", "evaluation/<method>", ...); absent ones leave their part of the page out.
    ``lens``: the latent lens on the answers shown. The bytes depend on these, the folders, the settings without
    ``runtime``, and the versions of the libraries.
    """
    inputs = read_inputs(settings, folders)
    scores, curves, samples = score_figures(inputs), curve_figures(inputs), choose_samples(inputs)
    output.mkdir(parents=True, exist_ok=True)
    _write_plots(output, inputs, scores, curves, samples)
    (output / PAGE_FILE).write_text(render(inputs, scores, curves, samples, lens), encoding="utf-8")
    figures = report_figures(inputs)
    (output / FIGURES_FILE).write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {"headline": figures["headline"], "page": PAGE_FILE, "methods": list(inputs.methods)}


def report_figures(inputs: RunReportInputs) -> dict[str, Any]:
    """Return the report's numbers as JSON: ``scores`` as in a run record, and all inputs of the page's sentences."""
    return {
        "recipe": inputs.settings.recipe,
        "headline": findings.headline(inputs),
        "findings": findings.findings(inputs),
        "caveats": findings.caveats(inputs),
        "scores": run_scores(inputs.rows),
        "rows": [as_json(row) for row in inputs.rows],
        "blind_rows": [as_json(row) for row in inputs.blind_rows],
        "paired_tests": [
            {
                "benchmark": comparison.benchmark,
                "outcome": comparison.outcome,
                "difference": comparison.test.difference,
                **asdict(comparison.test),
            }
            for comparison in findings.comparisons(inputs)
        ],
        "budgets": [asdict(budget) | {"optimizer_steps": budget.optimizer_steps} for budget in budgets(inputs)],
        "stages": {
            stage: {"steps": last_step(curves), "last": {name: tail_mean(points) for name, points in curves.items()}}
            for stage, curves in inputs.curves.items()
        },
        "published_not_ours": [
            asdict(number) for benchmark in inputs.benchmarks for number in published_numbers.numbers(benchmark)
        ],
        "selection_rule": SELECTION_RULE,
        "trajectory_rule": TRAJECTORY_RULE,
        "settings": inputs.settings.model_dump(mode="json", exclude={"runtime"}),
        "arithmetic": inputs.arithmetic,
        "versions": versions(),
    }


def _write_plots(
    output: Path,
    inputs: RunReportInputs,
    scores: Mapping[str, Figure],
    curves: Mapping[str, Sequence[Figure]],
    samples: Mapping[str, Sequence[MethodSamples]],
) -> None:
    for figure in [*scores.values(), *(figure for listed in curves.values() for figure in listed)]:
        path = output / figure.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(figure.light)
    if inputs.rows:
        (output / SCORES_FILE).write_bytes(scores_png(inputs.rows, LIGHT))
    trajectory = _trajectory(samples)
    if trajectory is not None:
        (output / TRAJECTORY_FILE).write_bytes(storyboard_png(trajectory))


def _trajectory(samples: Mapping[str, Sequence[MethodSamples]]) -> Sample | None:
    """Return the trajectory of TRAJECTORY_RULE; None without any."""
    for methods in samples.values():
        by_method = {entry.method: entry for entry in methods}
        if by_method:
            candidates = by_method.get("stage-2", methods[-1]).samples
            return max(candidates, key=lambda sample: (sample.verdict == "right", len(sample.problem.answer)))
    return None
