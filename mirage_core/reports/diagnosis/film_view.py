"""The figures of imagined films in words, for the page of a diagnosis."""

from __future__ import annotations

from mirage_core.analysis.number_format import shares
from mirage_core.analysis.results import BenchmarkFilms, Estimate


def film_figures(films: BenchmarkFilms) -> list[tuple[str, Estimate]]:
    """The rows of the table, with their labels."""
    return [
        ("right at every step", films.whole),
        ("right answers where the whole film is right", films.whole_right),
        ("right answers where it leaves the truth", films.left_right),
        ("films that say the right answer", films.implied_right),
        ("answers that are what their film says", films.followed),
        ("the same where the film says a wrong answer", films.misled),
    ]


def film_verdict(films: BenchmarkFilms) -> str:
    """At which step imagination leaves the truth, and whether the answer goes with it, in two sentences."""
    worst = max(films.steps, key=lambda step: step.left, default=None)
    if films.whole.value == 1 or worst is None or not worst.left:
        where = "No film leaves the truth."
    else:
        where = (
            f"{shares(films.whole)} of the films are right at every step; most of the others leave the truth at step "
            f"{worst.index + 1} ({worst.left} of {films.n} films)."
        )
    if not films.misled.n:
        return f"{where} No film says a wrong answer, so whether answers go with wrong ones cannot be told."
    return f"{where} Where the film says a wrong answer, the answer goes with it in {shares(films.misled)}."
