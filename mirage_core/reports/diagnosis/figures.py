"""The plots of a diagnosis, by the part of the page they stand in; what was not measured has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from markupsafe import Markup

from mirage_core.analysis.lens.results import LooksResult
from mirage_core.analysis.number_format import nats, number, points, seen_words, shares
from mirage_core.analysis.results import (
    Estimate,
    InterventionsResult,
    MediationResult,
    OnlyLatentsResult,
    ProbesResult,
    Record,
    SimilarityResult,
    TextChainResult,
)
from mirage_core.reports.diagnosis import plots_effects, plots_states
from mirage_core.reports.figures import Figure
from mirage_core.reports.plots import DARK, LIGHT, Theme


def figures(results: Mapping[str, Record], looks: LooksResult | None) -> dict[str, Figure]:
    """Every figure by its name."""
    found: dict[str, Figure] = {}
    for result in results.values():
        found |= _of(result)
    if looks is not None and looks.projection is not None:
        plane = looks.projection
        for by in plane.labels:
            name = f"plane-{by.replace(' ', '-')}"
            found[name] = _figure(
                name,
                f"Latents in a plane, by {by}",
                "Each point: all latents of one answer on their first two principal components (PCA).",
                lambda theme, by=by: plots_states.plane_png(plane, by, theme),  # type: ignore[misc]
            )
    return found


def _of(result: Record) -> dict[str, Figure]:
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
            reading = "Accuracy with Wilson 95 % intervals; dashed: one answer given to all questions."
            return {"only-latents": _figure("only-latents", "The latents as the only visual input", reading,
                                            lambda theme: plots_effects.only_latents_png(result, theme))}  # fmt: skip
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
        case SimilarityResult(states=states) if states:
            return _similarity(result)
    return {}


_CHANGES = (
    "Points: accuracy minus that of own latents on the same problems, under the same view of the picture; lines: "
    "Newcombe's paired 95 % interval. Green: latents of other problems."
)


def _interventions(result: InterventionsResult) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for seen in dict.fromkeys(run.seen for run in result.runs if run.name != "own"):
        runs = [run for run in result.runs if run.seen == seen]
        title = f"What changing the latents does to accuracy, {seen_words(seen)}"
        found[f"changes-{seen}"] = _figure(f"changes-{seen}", title, _CHANGES,
                                           lambda theme, runs=runs: plots_effects.changes_png(runs, theme))  # type: ignore[misc]  # fmt: skip
    if result.dose:
        found["dose"] = _figure("dose", "Dose and response", "Noise added to every latent; 0 is the clean run.",
                                lambda theme: plots_effects.dose_png(result.dose, theme))  # fmt: skip
    return found


def _similarity(result: SimilarityResult) -> dict[str, Figure]:
    states = result.states
    inter = "Mean off-diagonal pairwise cosine between instances; dotted: after the mean at each place was taken away."
    intra = "Mean cosine of each place with each other place of the same instance."
    return {
        "similarity": _figure("similarity", "How alike latents of different problems are", inter,
                              lambda theme: plots_states.similarity_png(states, theme)),
        "intra": _figure("intra", "How alike the latents of one answer are", intra,
                         lambda theme: plots_states.intra_png(states, theme)),
    }  # fmt: skip


def _figure(name: str, title: str, reading: str, drawn: Callable[[Theme], bytes]) -> Figure:
    return Figure(file=f"plots/{name}.png", title=title, reading=reading, light=drawn(LIGHT), dark=drawn(DARK))


def two_lines(said: Callable[[Estimate], str]) -> Callable[[Estimate], Markup]:
    """The filter that breaks ``81.5 % (78.0 to 84.6)`` before its bracket; a column's head says what points are."""

    def cell(estimate: Estimate) -> Markup:
        value, _, interval = said(estimate).replace(" points", "").partition(" (")
        return Markup("{}<small>{}</small>").format(value, interval.rstrip(")")) if interval else Markup(value)

    return cell


CELLS = {
    "two_lines": two_lines(shares),
    "points_lines": two_lines(points),
    "nats_lines": two_lines(nats),
    "number_lines": two_lines(number),
}
