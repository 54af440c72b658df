"""Figures of the causal analysis as text, the same on the page, in the verdict and in a terminal."""

from __future__ import annotations

from mirage_core.analysis.results import Estimate


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
    text = p_words(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


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
