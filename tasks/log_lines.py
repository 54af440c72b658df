"""A progress event as one log line."""

from __future__ import annotations

from collections.abc import Mapping

from mirage_core.types import ProgressEvent


def line_of(name: str, event: ProgressEvent) -> str:
    """Return the log line of a progress event: ``relaxation 120/700 loss 0.31 (message)``."""
    parts = [name]
    if event.step is not None:
        parts.append(f"{event.step}/{event.total}" if event.total else f"{event.step}")
    figures = figures_of(event.metrics)
    parts += [figures] if figures else []
    parts += [event.message] if event.message and event.message != figures else []
    return " ".join(parts)


def figures_of(metrics: Mapping[str, float]) -> str:
    """Return metrics in one line: ``loss 0.31, cosine 0.92``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
