"""Figures of the causal analysis in words, the same on the page, in the verdict and in a terminal."""

from __future__ import annotations

from mirage_core.analysis.results import Estimate, Run, Seen, Way


def percent(share: float | None) -> str:
    """``81.5 %``."""
    return "–" if share is None else f"{100 * share:.1f} %"


def shares(estimate: Estimate) -> str:
    """``81.5 % (78.0 to 84.6)``."""
    if estimate.low is None or estimate.high is None:
        return percent(estimate.value)
    return f"{percent(estimate.value)} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def points(estimate: Estimate) -> str:
    """``-3.5 points (-6.0 to -1.0)``."""
    if estimate.value is None:
        return "–"
    within = "" if estimate.low is None or estimate.high is None else (
        f" ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"
    )  # fmt: skip
    return f"{100 * estimate.value:+.1f} points{within}"


def p_words(p: float | None) -> str:
    """``.030``, ``< .001``."""
    if p is None:
        return "–"
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0")


def p_equals(p: float | None) -> str:
    """``p = .030``, ``p < .001``, in a sentence."""
    said = p_words(p)
    return f"p {said}" if said.startswith("<") else f"p = {said}"


_SEEN: dict[Seen, str] = {
    "present": "picture in view",
    "cut": "picture cut off after the latents",
    "hidden": "no picture",
}
_RUNS = {
    "own": "own latents",
    "own-alone": "own latents, text sees nothing else",
    "clamp": "clamped to one tensor",
    "mean": "mean latents",
    "zero": "zeros",
    "noise": "noise added",
    "noise-only": "noise only",
    "permute": "another problem's latents",
    "swap": "latents of a problem with another answer",
    "skip": "span skipped",
    "other": "another problem's chain",
    "truncate": "chain cut short",
    "shuffle": "words shuffled",
    "delete": "chain deleted",
}
_ORDER = tuple(_RUNS)
_WAYS = {"vectors": ", vectors", "states": ", keys and values", None: ""}


def seen_words(seen: Seen) -> str:
    """What is left of the picture, for people."""
    return _SEEN[seen]


def run_label(run: Run) -> str:
    """An intervention's name for people: ``noise added x 2``, ``another problem's latents, vectors``."""
    return run_name(run.name, run.scale, run.way)


def run_name(name: str, scale: float | None, way: Way | None) -> str:
    """The same of its parts."""
    return f"{_RUNS.get(name, name)}{'' if scale is None else f' x {scale:g}'}{_WAYS[way]}"


def run_order(run: Run) -> tuple[int, int, str, float]:
    """Sort key: with the picture first, exchanges before corruptions, small doses first."""
    first = ("own", "permute", "swap")
    names = [*first, *(name for name in _ORDER if name not in first)]
    place = names.index(run.name) if run.name in names else len(names)
    return (tuple(_SEEN).index(run.seen), place, run.way or "", run.scale or 0.0)


def nats(estimate: Estimate) -> str:
    """``0.120 (0.080 to 0.160)``."""
    return _digits(estimate, 3)


def number(estimate: Estimate) -> str:
    """``0.97 (0.95 to 0.98)``."""
    return _digits(estimate, 2)


def _digits(estimate: Estimate, digits: int) -> str:
    if estimate.value is None:
        return "–"
    value, *ends = (
        f"{round(each, digits) + 0.0:.{digits}f}"
        for each in (estimate.value, estimate.low, estimate.high)
        if each is not None
    )
    return f"{value} ({ends[0]} to {ends[1]})" if len(ends) == 2 else value
