"""The figures of a diagnosis, by name; what was not measured has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mirage_core.analysis.lens.results import LensResult
from mirage_core.analysis.results import (
    FilmResult,
    InterventionsResult,
    MediationResult,
    OnlyLatentsResult,
    ProbesResult,
    Record,
    SimilarityResult,
    TextChainResult,
)
from mirage_core.reports.diagnosis import plots_effects, plots_film, plots_states
from mirage_core.reports.diagnosis.run_labels import access_label
from mirage_core.reports.figures import Figure
from mirage_core.reports.plots import DARK, LIGHT, Theme

_CHANGES = (
    "Points: accuracy minus that of own latents on the same problems, with the same access to the image; lines: "
    "Newcombe's paired 95 % interval. Green: latents of other problems."
)


_FILM = (
    "Share of answers whose latent has the right place and the right kind at each step, with 95 % intervals; bars: "
    "films that are wrong there for the first time."
)


def figures(
    results: Mapping[str, Record], lens: LensResult | None, blind: Mapping[str, float] | None = None
) -> dict[str, Figure]:
    """Every figure by its name; ``blind``: the accuracy of the text-only rule by benchmark, where it is known."""
    drawn = {name: figure for result in results.values() for name, figure in _figures_of(result, blind or {}).items()}
    if lens is None or lens.projection is None:
        return drawn
    plane = lens.projection
    for by in plane.labels:
        name = f"plane-{by.replace(' ', '-')}"
        drawn[name] = _figure(
            name,
            f"Latents in a plane, by {by}",
            "Each point: all latents of one answer on their first two principal components (PCA).",
            lambda theme, by=by: plots_states.plane_png(plane, by, theme),  # type: ignore[misc]
        )
    return drawn


def _figures_of(result: Record, blind: Mapping[str, float]) -> dict[str, Figure]:
    """The figures of one measure."""
    match result:
        case InterventionsResult():
            return _interventions(result)
        case MediationResult(ways=ways) if ways:
            reading = (
                "Natural effects of exchanging the whole input, the latents alone, and both; lines: 95 % intervals."
            )
            return {"mediation": _figure("mediation", "Through the latents, and past them", reading,
                                         lambda theme: plots_effects.mediation_png(ways, theme))}  # fmt: skip
        case OnlyLatentsResult(runs=runs) if runs:
            reading = "Accuracy with Wilson 95 % intervals; dashed: what needs no picture."
            title = "The latents as the only visual input"
            figure = _figure(
                "only-latents", title, reading, lambda theme: plots_effects.only_latents_png(result, theme, blind)
            )
            return {"only-latents": figure}
        case TextChainResult(runs=runs) if len(runs) > 1:
            return {"text-chain": _figure("text-chain", "Editing a chain in words", _CHANGES,
                                          lambda theme: plots_effects.changes_png(runs, theme))}  # fmt: skip
        case ProbesResult(probes=probes) if probes:
            reading = (
                "Bars: held-out accuracy, with 95 % intervals. Orange: lowest to highest of the same probe on shuffled "
                "labels; dotted: the majority class. Image features and text before the span are positive controls."
            )
            return {"probes": _figure("probes", "What a linear probe reads", reading,
                                      lambda theme: plots_states.probes_png(probes, theme))}  # fmt: skip
        case FilmResult(benchmarks=benchmarks) if benchmarks:
            return {"film": _figure("film", "Where imagination leaves the truth", _FILM,
                                    lambda theme: plots_film.film_png(benchmarks, theme))}  # fmt: skip
        case SimilarityResult(states=states) if states:
            return _similarity(result)
    return {}


def _interventions(result: InterventionsResult) -> dict[str, Figure]:
    drawn: dict[str, Figure] = {}
    for access in dict.fromkeys(run.seen for run in result.runs if run.name != "own"):
        runs = [run for run in result.runs if run.seen == access]
        title = f"What changing the latents does to accuracy, {access_label(access)}"
        drawn[f"changes-{access}"] = _figure(f"changes-{access}", title, _CHANGES,
                                             lambda theme, runs=runs: plots_effects.changes_png(runs, theme))  # type: ignore[misc]  # fmt: skip
    if result.dose:
        drawn["dose"] = _figure("dose", "Dose and response", "Noise added to every latent; 0 is the clean run.",
                                lambda theme: plots_effects.dose_png(result.dose, theme))  # fmt: skip
    return drawn


def _similarity(result: SimilarityResult) -> dict[str, Figure]:
    states = result.states
    inter = "Mean off-diagonal pairwise cosine between instances; dotted: after subtracting the mean at each position."
    intra = "Mean cosine of each position with each other position of the same instance."
    return {
        "similarity": _figure("similarity", "How alike latents of different problems are", inter,
                              lambda theme: plots_states.similarity_png(states, theme)),
        "intra": _figure("intra", "How alike the latents of one answer are", intra,
                         lambda theme: plots_states.intra_png(states, theme)),
    }  # fmt: skip


def _figure(name: str, title: str, reading: str, draw: Callable[[Theme], bytes]) -> Figure:
    return Figure(file=f"plots/{name}.png", title=title, reading=reading, light=draw(LIGHT), dark=draw(DARK))
