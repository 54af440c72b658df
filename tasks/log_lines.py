"""A progress event as one log line, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mirage_core.types import ProgressEvent

MAIN_FIGURES = ("loss", "accuracy", "cell_accuracy", "batch_accuracy", "reward", "cosine", "validation/accuracy")
"""What a line shows of many figures, the one to draw first; the others are in the curves."""
RATE = "steps_per_second"
FEW_FIGURES = 3
_FIGURE = r"\S+ [-+]?(?:\d[\d.]*(?:e[-+]?\d+)?|inf|nan)"
_FIGURES = rf"{_FIGURE}(?:, {_FIGURE})*"
# A number alone at the start of words is no step: "46 chains captioned".
_STEP = rf"(?P<step>\d+)(?:/(?P<total>\d+)|(?=$| {_FIGURES}))"
_STEP_LINE = re.compile(rf"{_STEP}(?: (?P<figures>{_FIGURES}))?(?: (?P<message>.*))?")


def line_of(name: str, event: ProgressEvent) -> str:
    """Return the log line of a progress event: ``relaxation 120/700 loss 0.31 (message)``."""
    parts = [name]
    if event.step is not None:
        parts.append(f"{event.step}/{event.total}" if event.total else f"{event.step}")
    figures = figures_of(main_figures(event.metrics))
    parts += [figures] if figures else []
    parts += [event.message] if event.message and event.message != figures_of(event.metrics) else []
    return " ".join(parts)


def event_of(name: str, line: str) -> ProgressEvent:
    """Return the event of a line that ``line_of`` wrote for ``name``: a step with its figures, or a message alone."""
    rest = line.removeprefix(f"{name} ")
    found = _STEP_LINE.fullmatch(rest)
    if found is None:
        return ProgressEvent(stage=name, message=rest)
    total, figures = found["total"], found["figures"]
    pairs = (pair.split() for pair in (figures or "").split(", ") if pair)
    return ProgressEvent(
        stage=name,
        step=int(found["step"]),
        total=int(total) if total else None,
        metrics={key: float(value) for key, value in pairs},
        message=found["message"] or "",
    )


def main_figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the figures that a line shows: all where they are few, else the main ones and the steps a second."""
    if len(metrics) <= FEW_FIGURES:
        return dict(metrics)
    main = [name for name in MAIN_FIGURES if name in metrics][:FEW_FIGURES]
    return {name: metrics[name] for name in [*main, RATE] if name in metrics}


def figures_of(metrics: Mapping[str, float]) -> str:
    """Return metrics in one line: ``loss 0.31, cosine 0.92``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
