"""The figures of hand-made films in words, for the page of a diagnosis."""

from __future__ import annotations

from mirage_core.analysis.number_format import percent, shares
from mirage_core.analysis.results import HandMadeFilms, HandMadeRun, OneLatent
from mirage_core.reports.diagnosis.run_labels import access_label

_FILMS = {"plan": "another way to the goal", "walk": "a walk that misses the goal", "outcome": "another outcome"}
_WAYS = {"vectors": "vectors", "states": "keys and values"}
_EXCHANGES = {"place": "a neighbouring cell, of the same kind", "kind": "the same cell, of another kind"}


def film_label(run: HandMadeRun) -> str:
    """What the film of a run is of."""
    return _FILMS[run.film]


def way_label(run: HandMadeRun) -> str:
    """How the film of a run is fed."""
    return _WAYS[run.way]


def exchange_label(exchanged: OneLatent) -> str:
    """What a single latent is exchanged for."""
    return _EXCHANGES[exchanged.exchange]


def follows(run: HandMadeRun) -> bool:
    """Whether the answer follows: the interval lies above those of own latents and of noise."""
    others = [each.high for each in (run.follow_own, run.follow_noise) if each.high is not None]
    return run.follow.low is not None and bool(others) and run.follow.low > max(others)


def hand_made_verdict(films: HandMadeFilms) -> list[str]:
    """Whether answers follow each sort of film under the first image access measured, in a sentence each."""
    if not films.runs:
        return ["No film could be made."]
    first = [run for run in films.runs if run.seen == films.runs[0].seen]
    return [_verdict(run) for run in first]


def _verdict(run: HandMadeRun) -> str:
    said = "The answer follows" if follows(run) else f"Not shown by n = {run.n} that the answer follows"
    return (
        f"{said} a film of {film_label(run)}, fed as {way_label(run)} ({access_label(run.seen)}): it is what the film "
        f"says in {shares(run.follow)}; with own latents in {percent(run.follow_own.value)}, with noise in "
        f"{percent(run.follow_noise.value)}."
    )


def left_out_words(films: HandMadeFilms) -> str:
    """How many instances have no film, and why; empty where all have one."""
    return "; ".join(f"{count}: {reason}" for reason, count in films.left_out.items())
