"""The diagnosis as one self-contained HTML page, its figures as JSON, and its plots as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_core.analysis.lens.results import LensResult
from mirage_core.analysis.results import Header, ImageAccess, Record, Run
from mirage_core.analysis.verdict import Verdict, derive_verdict
from mirage_core.config import AnalysisSettings, Settings, as_recipe
from mirage_core.evaluation.blind import TEXT_RULE
from mirage_core.evaluation.metrics import ALL, AccuracyRow, as_json
from mirage_core.evaluation.sample_selection import SELECTION_RULE
from mirage_core.reports.diagnosis.environment import environment
from mirage_core.reports.diagnosis.figures import figures
from mirage_core.reports.diagnosis.lens_view import images_of, lens_entry, true_frames
from mirage_core.reports.diagnosis.run_labels import run_order
from mirage_core.reports.figures import Figure
from mirage_core.reports.html import resolved_settings, versions
from mirage_core.types import Problem

PAGE_FILE = "diagnosis.html"
FIGURES_FILE = "diagnosis.json"

LIMITS = (
    "It is about one model and the problems that it answered; another training seed may give another verdict.",
    "A linear probe that reads a fact shows that the fact is encoded, not that the model uses it; one that does not "
    "read it excludes only a linear encoding.",
    "Latents of another problem are latents that the model could have produced; noise, zeros and the mean are not, so "
    "their effect may come from being out of distribution and not from the information that they lack.",
    "After vectors are exchanged, later latents can attend to the image again and repair the exchange; after keys and "
    "values are exchanged, they cannot. Both are shown.",
    "Similarity is a description. Hidden states of any one model point in similar directions, so text and image states "
    "of the same model are shown as baselines; the exact formula of arXiv 2602.22766 is not published, and the mean "
    "off-diagonal pairwise cosine is used.",
    "The latent lens gives illustrations, not evidence: each is shown beside the same lens on the average latent.",
    "The plane shows two directions of many, by PCA.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The model that was diagnosed: its path in the store, its digest, and the stage that trained it."""

    model: str
    digest: str
    made_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a diagnosis is written from; ``results`` by measure, ``problems`` and ``auxiliary`` images by problem id.

    ``accuracies``: of the clean answers and, beside them, of a rule from text alone.
    """

    settings: Settings
    subject: Subject
    results: Mapping[str, Record]
    lens: LensResult | None
    problems: Mapping[str, Problem]
    auxiliary: Mapping[str, bytes]
    accuracies: Sequence[AccuracyRow] = ()


def write_diagnosis(output: Path, sources: Sources) -> dict[str, Any]:
    """Write diagnosis.html, diagnosis.json and plots/ into ``output``; return a summary.

    The bytes depend on the sources and the versions of the libraries alone.
    """
    verdict = verdict_of(sources.results)
    blind = {row.benchmark: row.accuracy for row in sources.accuracies if (row.method, row.group) == (TEXT_RULE, ALL)}
    drawn = figures(sources.results, sources.lens, blind)
    (output / "plots").mkdir(parents=True, exist_ok=True)
    for figure in drawn.values():
        (output / figure.file).write_bytes(figure.light)
    (output / PAGE_FILE).write_text(render(sources, verdict, drawn), encoding="utf-8")
    figures_json = json.dumps(diagnosis_figures(sources, verdict), indent=1, ensure_ascii=False)
    (output / FIGURES_FILE).write_text(figures_json + "\n", encoding="utf-8")
    edges = [edge.model_dump(mode="json", include={"edge", "seen", "outcome", "n", "said"}) for edge in verdict.edges]
    return {"headline": verdict.headline, "edges": edges, "page": PAGE_FILE}


def verdict_of(results: Mapping[str, Record]) -> Verdict:
    """The verdict from the measures that were taken."""
    return derive_verdict(
        results.get("interventions"),  # type: ignore[arg-type]
        results.get("probes"),  # type: ignore[arg-type]
        results.get("similarity"),  # type: ignore[arg-type]
        results.get("text-chain"),  # type: ignore[arg-type]
    )


def diagnosis_figures(sources: Sources, verdict: Verdict) -> dict[str, Any]:
    """All figures as JSON; the lens without the answers shown in full."""
    lens = None if sources.lens is None else sources.lens.model_dump(mode="json", exclude={"shown"})
    return {
        "verdict": verdict.model_dump(mode="json"),
        "model": {"path": sources.subject.model, "digest": sources.subject.digest, "made_by": sources.subject.made_by},
        "accuracies": [as_json(row) for row in sources.accuracies],
        "measures": {name: result.model_dump(mode="json") for name, result in sources.results.items()},
        "looks": lens,
        "limits": list(LIMITS),
        "command": command(sources),
        "settings": sources.settings.model_dump(mode="json", exclude={"runtime"}),
        "versions": versions(),
    }


def command(sources: Sources) -> str:
    """The command that computes this page again from the model."""
    chosen, plain = as_recipe(sources.settings.analysis), as_recipe(AnalysisSettings())
    overrides = [f"--set 'analysis.{key}={json.dumps(value)}'" for key, value in chosen.items()
            if value != plain[key] and key != "measures"]  # fmt: skip
    return " ".join(["mirage diagnose", sources.subject.model, f"--measures {','.join(sources.results)}", *overrides])


def render(sources: Sources, verdict: Verdict, drawn: Mapping[str, Figure]) -> str:
    """Fill the template; everything that came from a model or a file is escaped."""
    page = environment().get_template("diagnosis.html")
    return (
        page.render(
            settings=sources.settings,
            subject=sources.subject,
            verdict=verdict,
            figures=drawn,
            results=sources.results,
            tables=run_tables(sources.results),
            headers=headers(sources.results),
            accuracies=[row for row in sources.accuracies if row.group == ALL],
            blind_method=TEXT_RULE,
            blind={(row.benchmark, row.group): row for row in sources.accuracies if row.method == TEXT_RULE},
            single_latents=single_latents(sources.results),
            lens=sources.lens,
            shown=shown_entries(sources),
            selection_rule=SELECTION_RULE,
            limits=LIMITS,
            command=command(sources),
            resolved=resolved_settings(sources.settings),
            versions=versions(),
        )
        + "\n"
    )


def run_tables(results: Mapping[str, Record]) -> dict[str, dict[ImageAccess, list[Run]]]:
    """The runs of each measure that has some, by image access, in the order of the page."""
    tables: dict[str, dict[ImageAccess, list[Run]]] = {}
    for name, result in results.items():
        for run in sorted(getattr(result, "runs", ()), key=run_order):
            tables.setdefault(name, {}).setdefault(run.seen, []).append(run)
    return tables


def single_latents(results: Mapping[str, Record]) -> set[str]:
    """The names of the states that are one latent alone."""
    probes = getattr(results.get("probes"), "probes", ())
    return {probe.states for probe in probes if probe.states.startswith("latent-")}


def headers(results: Mapping[str, Record]) -> list[Header]:
    """The header of each measure."""
    return [result.header for result in results.values() if hasattr(result, "header")]


def shown_entries(sources: Sources) -> list[dict[str, Any]]:
    """The answers that the lens shows in full; without images where the problem is not among the sources."""
    entries: list[dict[str, Any]] = []
    for shown in sources.lens.shown if sources.lens else ():
        problem = sources.problems.get(shown.problem_id)
        images = {} if problem is None else images_of(problem, sources.auxiliary.get(shown.problem_id))
        frames = () if problem is None else true_frames(shown, problem, sources.settings)
        entries.append(lens_entry(shown, images, frames=frames))
    return entries
