"""One trajectory as a figure: the input image, the auxiliary image, the output, the verdict."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from mirage_core.reports.labels import benchmark_label, group_label, method_label
from mirage_core.reports.plots import LIGHT, Theme, bare_figure, png
from mirage_core.reports.trajectories import Sample

CAPTIONS = {
    "input": "what the model saw",
    "auxiliary image": "its auxiliary image: the truth,\nwhich the model did not see",
    "the model's plan": "the answer, drawn on the map",
    "the plan to judge": "the plan it was asked about",
}
_CHARACTER = 0.0104  # width of a monospaced character at this size, in shares of the strip
_WIDTH = 82  # characters a line
_MAX_SQUARES = 12  # squares drawn for one span
_LINE = 0.2  # height of a line of output, in inches


def storyboard_png(sample: Sample, theme: Theme = LIGHT) -> bytes:
    """Draw a sample: its images side by side, its text with latents as squares below, the verdict last."""
    lines = _layout(sample)
    strip = 0.75 + _LINE * 1.3 * len(lines)
    height = 3.35 + strip
    figure = bare_figure(8.4, height, theme)
    _title(figure, sample, theme, height)
    count = len(sample.images)
    for index, (name, image) in enumerate(sample.images):
        left = 0.5 + (index - count / 2) * 0.315
        axes = figure.add_axes((left + 0.02, (strip + 0.42) / height, 0.275, 2.25 / height))
        axes.imshow(np.asarray(image), interpolation="antialiased")
        axes.set_axis_off()
        axes.text(0.5, -0.04, CAPTIONS.get(name, name), transform=axes.transAxes, ha="center", va="top",
                  fontsize=8, color=theme.muted, linespacing=1.35)  # fmt: skip
    _write(figure.add_axes((0.04, 0.02, 0.92, (strip - 0.25) / height)), lines, sample, theme)
    return png(figure, tight=False)


def _title(figure: Figure, sample: Sample, theme: Theme, height: float) -> None:
    prediction = sample.scored[0]
    group = f"{benchmark_label(prediction.benchmark)}, {group_label(prediction.group)}"
    figure.text(0.04, 1 - 0.2 / height, method_label(prediction.method), fontsize=11.5, fontweight="bold",
                color=theme.ink, va="top")  # fmt: skip
    figure.text(0.96, 1 - 0.22 / height, group, fontsize=9, color=theme.muted, va="top", ha="right")


def _layout(sample: Sample) -> list[list[tuple[str, int]]]:
    """Break an output into lines of (text, latents) that fit the strip."""
    lines: list[list[tuple[str, int]]] = [[]]
    used = 0
    for piece in sample.pieces:
        shown = " ".join(textwrap.shorten(piece.text, 420, placeholder=" …").split())
        parts = textwrap.wrap(shown, _WIDTH, drop_whitespace=False) if piece.text else [""]
        for part in parts:
            size = len(part) if piece.text else 2 * min(piece.num_latents, _MAX_SQUARES) + 16
            if used and used + size > _WIDTH:
                lines.append([])
                used = 0
            lines[-1].append((part, piece.num_latents))
            used += size + 1
    return lines


def _write(axes: Axes, lines: list[list[tuple[str, int]]], sample: Sample, theme: Theme) -> None:
    """The model's output, then the verdict and its reason."""
    axes.set_xlim(0, 1)
    axes.set_ylim(len(lines) + 1.35, 0)
    axes.set_axis_off()
    for row, line in enumerate(lines):
        x = 0.0
        for text, latents in line:
            x = _latents(axes, x, row, latents, theme) if latents else _text(axes, x, row, text, theme)
    good = sample.verdict == "right"
    colour = "#15803d" if good else "#b91c1c"
    y = len(lines) + 0.75
    mark = "✓ right" if good else f"✗ {sample.verdict}"
    axes.text(0, y, mark, fontsize=10, fontweight="bold", color=colour, va="center")
    axes.text(0.15, y, sample.explanation, fontsize=9, color=theme.ink, va="center")


def _text(axes: Axes, x: float, row: int, text: str, theme: Theme) -> float:
    axes.text(x, row + 0.5, text, fontsize=9, family="monospace", color=theme.ink, va="center", parse_math=False)
    return x + _CHARACTER * len(text) + 0.008


def _latents(axes: Axes, x: float, row: int, count: int, theme: Theme) -> float:
    """Draw latent tokens as squares: they have a position in the sequence, but no word."""
    shown = min(count, _MAX_SQUARES)
    for index in range(shown):
        axes.add_patch(
            FancyBboxPatch(
                (x + 0.02 * index, row + 0.27), 0.0145, 0.46, boxstyle="round,pad=0,rounding_size=0.004",
                mutation_aspect=30, facecolor=theme.methods["stage-2"], edgecolor="none",
                alpha=0.55 + 0.45 * (index + 1) / shown,
            )
        )  # fmt: skip
    x += 0.02 * shown + 0.004
    label = f"{count} latent tokens"
    axes.text(x, row + 0.5, label, fontsize=8.5, color=theme.methods["stage-2"], va="center")
    return x + 0.0079 * len(label) + 0.012
