"""The diagnosis as one HTML page that needs nothing else, its figures as JSON, and its plots as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image

from mirage_core.analysis import number_format as words
from mirage_core.analysis.lens.lens import shows_nothing
from mirage_core.analysis.lens.results import AUXILIARY, INPUT, LooksResult, ShownAnswer
from mirage_core.analysis.results import Header, Record, Run, Seen
from mirage_core.analysis.verdict import Verdict, judge
from mirage_core.config import AnalysisSettings, Settings
from mirage_core.evaluation.sample_selection import SELECTION_RULE
from mirage_core.reports.diagnosis.figures import CELLS, figures
from mirage_core.reports.diagnosis.heatmaps import heat_rows
from mirage_core.reports.drawings import open_picture
from mirage_core.reports.figures import Figure
from mirage_core.reports.html import page_environment
from mirage_core.reports.labels import benchmark_label, group_label
from mirage_core.reports.run import page as report_page
from mirage_core.reports.trajectories import pieces
from mirage_core.types import Problem

PAGE_FILE = "diagnosis.html"
FIGURES_FILE = "diagnosis.json"

LIMITS = (
    "It speaks of one model and the problems it was asked; another seed of training may give another verdict.",
    "A linear probe that reads a fact says the fact is there, not that the model uses it; one that does not read it "
    "excludes a linear trace only.",
    "A latent that is exchanged is one the model could have made; noise, zeros and the mean are not, so what they do "
    "may come from being strange and not from what they lack.",
    "Exchanging vectors lets later latents look at the picture again and repair; exchanging keys and values does not. "
    "Both are shown.",
    "Similarity is a description. Hidden states of any one model point much the same way, so latents stand beside text "
    "and image states of the same model; the exact formula of arXiv 2602.22766 is not published, and the mean "
    "off-diagonal pairwise cosine is used.",
    "Looks at latents are pictures, not evidence: each stands beside the same look at the average latent.",
    "The plane shows two directions of many; it is PCA, since no t-SNE is among the libraries used here.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What was diagnosed: the model's path in the store and its digest, and the stage that made it."""

    model: str
    digest: str
    made_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The material of a diagnosis; ``results`` by measure, ``pictures``: PNG or JPEG by problem id and name."""

    settings: Settings
    subject: Subject
    results: Mapping[str, Record]
    looks: LooksResult | None
    problems: Mapping[str, Problem]
    auxiliary: Mapping[str, bytes]


def write_diagnosis(output: Path, sources: Sources) -> dict[str, Any]:
    """Write diagnosis.html, diagnosis.json and plots/ into ``output``; returns a summary for people.

    The bytes depend on the sources and the versions of the libraries alone.
    """
    verdict = verdict_of(sources.results)
    drawn = figures(sources.results, sources.looks)
    (output / "plots").mkdir(parents=True, exist_ok=True)
    for figure in drawn.values():
        (output / figure.file).write_bytes(figure.light)
    (output / PAGE_FILE).write_text(render(sources, verdict, drawn), encoding="utf-8")
    told = diagnosis_figures(sources, verdict)
    (output / FIGURES_FILE).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    edges = [edge.model_dump(mode="json", include={"edge", "seen", "outcome", "n", "said"}) for edge in verdict.edges]
    return {"headline": verdict.headline, "edges": edges, "page": PAGE_FILE}


def verdict_of(results: Mapping[str, Record]) -> Verdict:
    """The verdict on the measures that were taken."""
    return judge(
        results.get("interventions"),  # type: ignore[arg-type]
        results.get("probes"),  # type: ignore[arg-type]
        results.get("similarity"),  # type: ignore[arg-type]
        results.get("text-chain"),  # type: ignore[arg-type]
    )


def diagnosis_figures(sources: Sources, verdict: Verdict) -> dict[str, Any]:
    """All figures as JSON; of the looks without their maps."""
    looks = None if sources.looks is None else sources.looks.model_dump(mode="json", exclude={"shown"})
    return {
        "verdict": verdict.model_dump(mode="json"),
        "model": {"path": sources.subject.model, "digest": sources.subject.digest, "made_by": sources.subject.made_by},
        "measures": {name: result.model_dump(mode="json") for name, result in sources.results.items()},
        "looks": looks,
        "limits": list(LIMITS),
        "command": command(sources),
        "settings": sources.settings.model_dump(mode="json", exclude={"runtime"}),
        "versions": report_page.versions(),
    }


def command(sources: Sources) -> str:
    """The command that makes this page again from the model."""
    chosen, plain = sources.settings.analysis.model_dump(mode="json"), AnalysisSettings().model_dump(mode="json")
    sets = [f"--set 'analysis.{key}={json.dumps(value)}'" for key, value in chosen.items()
            if value != plain[key] and key != "measures"]  # fmt: skip
    return " ".join(["mirage diagnose", sources.subject.model, f"--measures {','.join(sources.results)}", *sets])


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
            single_latents=single_latents(sources.results),
            looks=sources.looks,
            shown=[shown_answer(shown, sources) for shown in (sources.looks.shown if sources.looks else ())],
            selection_rule=SELECTION_RULE,
            limits=LIMITS,
            command=command(sources),
            resolved=report_page.resolved_settings(sources.settings),
            versions=report_page.versions(),
        )
        + "\n"
    )


def environment() -> Environment:
    """Templates of the analysis, with those of the report behind them."""
    return page_environment(
        **CELLS, percent=words.percent, p_words=words.p_words, run_label=words.run_label,
        seen=words.seen_words,
        picture=report_page.picture_uri, benchmark=benchmark_label, group=group_label, token=token_words,
    )  # fmt: skip


def run_tables(results: Mapping[str, Record]) -> dict[str, dict[Seen, list[Run]]]:
    """The runs of each measure that has some, by what is left of the picture, in the order of the page."""
    tables: dict[str, dict[Seen, list[Run]]] = {}
    for name, result in results.items():
        for run in sorted(getattr(result, "runs", ()), key=words.run_order):
            tables.setdefault(name, {}).setdefault(run.seen, []).append(run)
    return tables


def single_latents(results: Mapping[str, Record]) -> set[str]:
    """The names under which probes read one latent alone."""
    probes = getattr(results.get("probes"), "probes", ())
    return {probe.states for probe in probes if probe.states.startswith("latent-")}


def headers(results: Mapping[str, Record]) -> list[Header]:
    """What each measure was taken on."""
    return [result.header for result in results.values() if hasattr(result, "header")]


def shown_answer(shown: ShownAnswer, sources: Sources) -> dict[str, Any]:
    """One answer with its latents' maps drawn over its pictures."""
    problem = sources.problems.get(shown.problem_id)
    pictures = {} if problem is None else pictures_of(problem, sources.auxiliary.get(shown.problem_id))
    return {
        "answer": shown,
        "pieces": pieces(shown.output),
        "pictures": pictures,
        "latents": [{"look": look, "heat": heat_rows(look, pictures)} for look in shown.latents],
        "nothing": shows_nothing(shown.latents),
    }


def pictures_of(problem: Problem, auxiliary: bytes | None) -> dict[str, Image.Image]:
    """A problem's pictures by the names that looks give them."""
    named = {INPUT if at == 0 else f"{INPUT} {at + 1}": image for at, image in enumerate(problem.images)}
    named |= {} if auxiliary is None else {AUXILIARY: auxiliary}
    return {name: open_picture(image, f"{problem.id}, {name}") for name, image in named.items()}


def token_words(text: str) -> str:
    """A token's text with its blanks made visible."""
    return text.replace(" ", "␣").replace("\n", "⏎") or "(empty)"
