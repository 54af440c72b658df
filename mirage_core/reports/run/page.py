"""The report of a run as one self-contained HTML page: the values of its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mirage_core.evaluation.metrics import ALL, AccuracyRow
from mirage_core.evaluation.option_orders import ProtocolRow, protocol_rows
from mirage_core.evaluation.sample_selection import SELECTION_RULE, select_samples
from mirage_core.reports.curves import last_step
from mirage_core.reports.drawings import image_uri
from mirage_core.reports.figures import Figure
from mirage_core.reports.html import page_environment, resolved_settings, versions
from mirage_core.reports.labels import (
    RULES,
    benchmark_label,
    blind_label,
    group_label,
    method_label,
    method_order,
    short_label,
    stage_label,
)
from mirage_core.reports.run import findings, published_numbers
from mirage_core.reports.run.inputs import RunReportInputs
from mirage_core.reports.run.training_budget import READING, budgets
from mirage_core.reports.trajectories import Sample, question_text, sample
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.types import Problem, ProgressEvent, TrainingExample

TEXT_LIMIT = 700
EXAMPLES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class MethodSamples:
    """The shown trajectories of one method on one benchmark."""

    method: str
    row: AccuracyRow
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class SampleLens:
    """Latent lens of the shown answers: (output, HTML) by method and problem id, and the style of the HTML."""

    pieces: Mapping[tuple[str, str], tuple[str, Markup]]
    css: Markup

    def of(self, sample: Sample) -> Markup | None:
        """Return the HTML of a sample; None without any, or if it belongs to another output."""
        prediction = sample.scored[0]
        output, piece = self.pieces.get((prediction.method, prediction.problem_id), ("", None))
        return piece if output == prediction.output else None


def render(
    inputs: RunReportInputs,
    scores: Mapping[str, Figure],
    curves: Mapping[str, Sequence[Figure]],
    samples: Mapping[str, Sequence[MethodSamples]],
    lens: SampleLens | None = None,
) -> str:
    """Render the page; texts from models and files are escaped."""
    environment = page_environment(
        percent=findings.percent, points=_points, p_words=findings.p_words, image=image_uri, method=method_label,
        short=short_label, group=group_label, benchmark=benchmark_label, stage=stage_label, clip=_clip,
    )  # fmt: skip
    values = context(inputs, scores, curves, samples) | {"lens": lens}
    return environment.get_template("report.html").render(values) + "\n"


def context(
    inputs: RunReportInputs,
    scores: Mapping[str, Figure],
    curves: Mapping[str, Sequence[Figure]],
    samples: Mapping[str, Sequence[MethodSamples]],
) -> dict[str, Any]:
    """Return the values of the template."""
    settings = inputs.settings
    focus = findings.focus(inputs)
    return {
        "settings": settings,
        "headline": findings.headline(inputs),
        "focus": focus,
        "tiles": findings.focus_rows(inputs, focus) if focus else [],
        "findings": findings.findings(inputs),
        "caveats": findings.caveats(inputs),
        "tables": [_table(inputs, benchmark, scores[benchmark]) for benchmark in inputs.benchmarks],
        "comparisons": findings.comparisons(inputs),
        "budgets": budgets(inputs),
        "budget_reading": READING,
        "stages": [_stage(inputs, stage, figures) for stage, figures in curves.items()],
        "selection_rule": SELECTION_RULE,
        "samples": [
            {"benchmark": benchmark, "prompt": _prompt(inputs, methods), "methods": methods}
            for benchmark, methods in samples.items()
            if methods
        ],
        "examples": _examples(inputs),
        "teacher": settings.teacher.kind,
        "resolved": resolved_settings(settings),
        "arithmetic": inputs.arithmetic,
        "versions": versions(),
    }


def choose_samples(inputs: RunReportInputs) -> dict[str, list[MethodSamples]]:
    """Choose the trajectories of every benchmark and method, by SELECTION_RULE."""
    return {benchmark: _samples_of(inputs, benchmark) for benchmark in inputs.benchmarks}


def _samples_of(inputs: RunReportInputs, benchmark: str) -> list[MethodSamples]:
    methods: list[MethodSamples] = []
    for method in inputs.methods:
        row = inputs.row(benchmark, method, ALL)
        answers = [
            pair
            for pair in inputs.scored
            if pair[0].benchmark == benchmark and pair[0].method == method and pair[0].problem_id in inputs.problems
        ]
        chosen = select_samples(answers, inputs.settings.report.trajectories, inputs.settings.seed)
        trajectories = tuple(_sample(inputs, pair) for pair in chosen)
        if row is not None and trajectories:
            methods.append(MethodSamples(method, row, trajectories))
    return methods


def _sample(inputs: RunReportInputs, pair: Any) -> Sample:
    problem = inputs.problems[pair[0].problem_id]
    return sample(problem, pair, _auxiliary_image(inputs, problem), inputs.code_sheet(pair[0].method))


def _auxiliary_image(inputs: RunReportInputs, problem: Problem) -> bytes | None:
    """Return the problem's auxiliary image; one that was not stored is drawn again (deterministic)."""
    if problem.id in inputs.auxiliary_images:
        return inputs.auxiliary_images[problem.id].image
    if "map" not in problem.facts:
        return None
    settings = inputs.settings
    cell_px, seed = settings.problems.cell_px, settings.seed
    return draw_auxiliary_images([problem], settings.auxiliary_images, cell_px, seed, _silent)[0].image


def _silent(event: ProgressEvent) -> None:
    """Ignore the progress of one image."""


def _table(inputs: RunReportInputs, benchmark: str, figure: Figure) -> dict[str, Any]:
    """Return one benchmark's score table; the last column is the paper's."""
    rows = [row for row in inputs.rows if row.benchmark == benchmark]
    groups = sorted({row.group for row in rows}, key=lambda group: (group == ALL, group))
    lines = [
        {
            "method": method,
            "cells": [inputs.row(benchmark, method, group) for group in groups],
            "total": inputs.row(benchmark, method, ALL),
            "published": published_numbers.nearest(benchmark, method, inputs.settings.teacher.variant),
        }
        for method in inputs.methods
        if inputs.row(benchmark, method, ALL) is not None
    ]
    return {
        "benchmark": benchmark,
        "figure": figure,
        "groups": groups,
        "lines": lines,
        "blind": [_blind_line(inputs, benchmark, method, groups) for method in _blind_methods(inputs, benchmark)],
        "rule": RULES.get(rows[0].rule, f"rule: {rows[0].rule}"),
        "published": published_numbers.numbers(benchmark),
        "sampled": any(row.answers > row.n for row in rows),
        "protocols": _protocols(inputs, benchmark),
    }


def _blind_methods(inputs: RunReportInputs, benchmark: str) -> list[str]:
    return list(dict.fromkeys(row.method for row in inputs.blind_rows if row.benchmark == benchmark))


def _blind_line(inputs: RunReportInputs, benchmark: str, method: str, groups: Sequence[str]) -> dict[str, Any]:
    """Return the score table's line of answers without the picture."""
    rows = {row.group: row for row in inputs.blind_rows if (row.benchmark, row.method) == (benchmark, method)}
    return {"label": blind_label(method), "cells": [rows.get(group) for group in groups]}


def _protocols(inputs: RunReportInputs, benchmark: str) -> list[ProtocolRow]:
    """Return the protocol scores over all groups, in the methods' order; none where a benchmark asks once."""
    rows = protocol_rows([pair for pair in inputs.scored if pair[0].benchmark == benchmark])
    return sorted((row for row in rows if row.group == ALL), key=lambda row: method_order(row.method))


def _stage(inputs: RunReportInputs, stage: str, figures: Sequence[Figure]) -> dict[str, Any]:
    return {"name": stage, "figures": figures, "steps": last_step(inputs.curves[stage])}


def _prompt(inputs: RunReportInputs, methods: Sequence[MethodSamples]) -> str:
    """Return the prompt of the first sample's problem."""
    settings = inputs.settings
    return question_text(methods[0].samples[0].problem, settings.prompt.form, settings.teacher.variant)


def _examples(inputs: RunReportInputs) -> list[TrainingExample]:
    """Return the first training examples of every benchmark."""
    by_benchmark: dict[str, list[TrainingExample]] = {}
    for example in inputs.examples:
        if example.problem.split == "train":
            by_benchmark.setdefault(example.problem.benchmark, []).append(example)
    return [example for examples in by_benchmark.values() for example in examples[:EXAMPLES_SHOWN]]


def _points(share: float) -> str:
    """Format an accuracy in percent with one decimal, without a percent sign."""
    return f"{100 * share:.1f}"


def _clip(text: str) -> str:
    """Truncate a long output, with a note."""
    rest = len(text) - TEXT_LIMIT
    return text if rest <= 0 else f"{text[:TEXT_LIMIT]} … ({rest} more characters)"
