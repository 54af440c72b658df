"""The report as one HTML page: the view of the sources that the template fills in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from typing import Any

import yaml
from markupsafe import Markup
from PIL import Image

from mirage_core.config import Settings
from mirage_core.evaluation.metrics import ALL, AccuracyRow
from mirage_core.evaluation.option_orders import ProtocolRow, protocol_rows
from mirage_core.evaluation.sample_selection import SELECTION_RULE, choose
from mirage_core.reports.drawings import open_picture
from mirage_core.reports.figures import Figure, data_uri
from mirage_core.reports.html import page_environment
from mirage_core.reports.labels import (
    RULES,
    benchmark_label,
    group_label,
    method_label,
    method_order,
    short_label,
    stage_label,
)
from mirage_core.reports.run import findings as story
from mirage_core.reports.run import published_numbers as published
from mirage_core.reports.run.curves import last_step
from mirage_core.reports.run.inputs import Sources
from mirage_core.reports.run.training_budget import READING, budgets
from mirage_core.reports.trajectories import Sample, question_text, sample
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.types import Problem, ProgressEvent, TrainingExample

PICTURE_WIDTH = 200
TEXT_LIMIT = 700
EXAMPLES_SHOWN = 3
LIBRARIES = ("torch", "transformers", "deepspeed", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class MethodSamples:
    """The trajectories shown of one method on one benchmark."""

    method: str
    row: AccuracyRow
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class SampleLooks:
    """What latents of shown answers look like, made elsewhere: by method and problem id the output looked at and a
    piece of HTML; and the rules the pieces need."""

    pieces: Mapping[tuple[str, str], tuple[str, Markup]]
    css: Markup

    def of(self, shown: Sample) -> Markup | None:
        """The piece of a sample; None where there is none, or it is of another answer (drawn by chance)."""
        prediction = shown.scored[0]
        output, piece = self.pieces.get((prediction.method, prediction.problem_id), ("", None))
        return piece if output == prediction.output else None


def render(
    sources: Sources,
    scores: Mapping[str, Figure],
    curves: Mapping[str, Sequence[Figure]],
    samples: Mapping[str, Sequence[MethodSamples]],
    looks: SampleLooks | None = None,
) -> str:
    """Fill the template; everything that came from a model or a file is escaped."""
    environment = page_environment(
        percent=story.percent, points=_points, p_words=story.p_words, picture=picture_uri, method=method_label,
        short=short_label, group=group_label, benchmark=benchmark_label, stage=stage_label, clip=_clip,
    )  # fmt: skip
    named = context(sources, scores, curves, samples) | {"looks": looks}
    return environment.get_template("report.html").render(named) + "\n"


def context(
    sources: Sources,
    scores: Mapping[str, Figure],
    curves: Mapping[str, Sequence[Figure]],
    samples: Mapping[str, Sequence[MethodSamples]],
) -> dict[str, Any]:
    """Everything the template names."""
    settings = sources.settings
    chosen = story.focus(sources)
    return {
        "settings": settings,
        "headline": story.headline(sources),
        "focus": chosen,
        "tiles": story.focus_rows(sources, chosen) if chosen else [],
        "findings": story.findings(sources),
        "caveats": story.caveats(sources),
        "tables": [_table(sources, benchmark, scores[benchmark]) for benchmark in sources.benchmarks],
        "comparisons": story.comparisons(sources),
        "budgets": budgets(sources),
        "budget_reading": READING,
        "stages": [_stage(sources, stage, figures) for stage, figures in curves.items()],
        "selection_rule": SELECTION_RULE,
        "samples": [
            {"benchmark": benchmark, "prompt": _prompt(sources, shown), "methods": shown}
            for benchmark, shown in samples.items()
            if shown
        ],
        "examples": _examples(sources),
        "teacher": settings.teacher.kind,
        "resolved": resolved_settings(settings),
        "versions": versions(),
    }


def choose_samples(sources: Sources) -> dict[str, list[MethodSamples]]:
    """Pick and build the trajectories of every benchmark and method, by the stated rule."""
    return {benchmark: _samples_of(sources, benchmark) for benchmark in sources.benchmarks}


def resolved_settings(settings: Settings) -> str:
    """The settings as YAML, without ``runtime``, which changes no result."""
    plain = settings.model_dump(mode="json", exclude={"runtime"})
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def versions() -> dict[str, str]:
    """Versions of this project and of the libraries that shape its numbers; those not installed are left out."""
    found: dict[str, str] = {}
    for name in ("mirage-latent", *LIBRARIES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def picture_uri(picture: Image.Image | bytes, width: int = PICTURE_WIDTH) -> str:
    """A small copy of a picture as a data URI: lossy WebP, some kilobytes."""
    shown = open_picture(picture, "picture") if isinstance(picture, bytes) else picture
    if shown.width > width:
        shown = shown.resize((width, max(1, round(shown.height * width / shown.width))), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    shown.save(buffer, "WEBP", quality=84, method=4)
    return data_uri(buffer.getvalue(), "webp")


def _samples_of(sources: Sources, benchmark: str) -> list[MethodSamples]:
    shown: list[MethodSamples] = []
    for method in sources.methods:
        row = sources.row(benchmark, method, ALL)
        answers = [
            pair
            for pair in sources.scored
            if pair[0].benchmark == benchmark and pair[0].method == method and pair[0].problem_id in sources.problems
        ]
        picked = choose(answers, sources.settings.report.trajectories, sources.settings.seed)
        built = tuple(_sample(sources, pair) for pair in picked)
        if row is not None and built:
            shown.append(MethodSamples(method, row, built))
    return shown


def _sample(sources: Sources, pair: Any) -> Sample:
    problem = sources.problems[pair[0].problem_id]
    return sample(problem, pair, _auxiliary_image(sources, problem))


def _auxiliary_image(sources: Sources, problem: Problem) -> bytes | None:
    """The problem's auxiliary image; one that was not stored is drawn again, which gives the same picture."""
    if problem.id in sources.auxiliary_images:
        return sources.auxiliary_images[problem.id].image
    if "map" not in problem.facts:
        return None
    settings = sources.settings
    cell_px, seed = settings.problems.cell_px, settings.seed
    return draw_auxiliary_images([problem], settings.auxiliary_images, cell_px, seed, _silent)[0].image


def _silent(event: ProgressEvent) -> None:
    """Progress of one picture, which nobody needs."""


def _table(sources: Sources, benchmark: str, figure: Figure) -> dict[str, Any]:
    """One benchmark's score table; the last column is the paper's."""
    rows = [row for row in sources.rows if row.benchmark == benchmark]
    groups = sorted({row.group for row in rows}, key=lambda group: (group == ALL, group))
    lines = [
        {
            "method": method,
            "cells": [sources.row(benchmark, method, group) for group in groups],
            "total": sources.row(benchmark, method, ALL),
            "published": published.nearest(benchmark, method, sources.settings.teacher.variant),
        }
        for method in sources.methods
        if sources.row(benchmark, method, ALL) is not None
    ]
    return {
        "benchmark": benchmark,
        "figure": figure,
        "groups": groups,
        "lines": lines,
        "rule": RULES.get(rows[0].rule, f"rule: {rows[0].rule}"),
        "published": published.numbers(benchmark),
        "sampled": any(row.answers > row.n for row in rows),
        "protocols": _protocols(sources, benchmark),
    }


def _protocols(sources: Sources, benchmark: str) -> list[ProtocolRow]:
    """The protocol scores of all groups together, in the methods' order; none where a benchmark asks once."""
    found = protocol_rows([pair for pair in sources.scored if pair[0].benchmark == benchmark])
    return sorted((row for row in found if row.group == ALL), key=lambda row: method_order(row.method))


def _stage(sources: Sources, stage: str, figures: Sequence[Figure]) -> dict[str, Any]:
    return {"name": stage, "figures": figures, "steps": last_step(sources.curves[stage])}


def _prompt(sources: Sources, shown: Sequence[MethodSamples]) -> str:
    """How the first sample's problem was put to the model."""
    settings = sources.settings
    return question_text(shown[0].samples[0].problem, settings.prompt.form, settings.teacher.variant)


def _examples(sources: Sources) -> list[TrainingExample]:
    """The first training examples of every benchmark."""
    found: dict[str, list[TrainingExample]] = {}
    for example in sources.examples:
        if example.problem.split == "train":
            found.setdefault(example.problem.benchmark, []).append(example)
    return [example for listed in found.values() for example in listed[:EXAMPLES_SHOWN]]


def _points(share: float) -> str:
    """An accuracy in percent, one decimal, without its sign."""
    return f"{100 * share:.1f}"


def _clip(text: str) -> str:
    """A long output, cut where a page has had enough of it, saying so."""
    rest = len(text) - TEXT_LIMIT
    return text if rest <= 0 else f"{text[:TEXT_LIMIT]} … ({rest} more characters)"
