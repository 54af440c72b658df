"""Plots of hidden states: their similarity, the probes, and their first two principal components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import PercentFormatter

from mirage_core.analysis.lens.pca import Projection
from mirage_core.analysis.results import Probe, StateSimilarity
from mirage_core.reports.plots import Theme, bare_figure, legend, png, style_axes

WIDTH = 5.4
MAX_COLOURS = 8
PROBED = ("latents", "image-features", "image-pooled", "text-before")


def similarity_png(states: Sequence[StateSimilarity], theme: Theme) -> bytes:
    """Draw the mean cosine between instances by position, raw (solid) and centred (dotted), for each kind of states."""
    figure = bare_figure(WIDTH, 2.8, theme)
    axes = figure.add_subplot()
    style_axes(axes, theme)
    for at, kind in enumerate(states):
        known = [each for each in kind.by_index if each.inter.value is not None]
        if not known:
            continue
        positions, colour = [each.index for each in known], theme.series[at]
        axes.plot(positions, [each.inter.value or 0.0 for each in known], "-o", ms=4, color=colour, linewidth=1.7,
                  label=kind.states)  # fmt: skip
        for each in known:
            if each.inter.low is not None and each.inter.high is not None:
                axes.plot([each.index] * 2, [each.inter.low, each.inter.high], color=colour, linewidth=3, alpha=0.35)
        centred = [(each.index, each.inter_centred.value) for each in known if each.inter_centred.value is not None]
        if centred:
            axes.plot(*zip(*centred, strict=True), ":o", ms=2.5, color=colour, linewidth=1.1)
    axes.axhline(0, color=theme.muted, linewidth=0.7)
    axes.set_ylim(min(-0.1, axes.get_ylim()[0]), 1.04)
    axes.set_xticks(sorted({each.index for kind in states for each in kind.by_index}))
    axes.set_xlabel("position of the latent (of the token, in the baselines)", color=theme.muted, fontsize=8)
    axes.set_ylabel("cosine between instances", color=theme.muted, fontsize=8)
    if states:
        legend(axes, theme, 3)
    return png(figure)


def intra_png(states: Sequence[StateSimilarity], theme: Theme) -> bytes:
    """Draw the mean cosine of each position with each other within an instance, one matrix per kind of states."""
    shown = [kind for kind in states if kind.intra_matrix]
    figure = bare_figure(WIDTH, 2.1, theme)
    colours = LinearSegmentedColormap.from_list("cosine", [theme.paper, theme.series[0]])
    for at, kind in enumerate(shown):
        axes = figure.add_subplot(1, max(len(shown), 1), at + 1)
        matrix = np.array(kind.intra_matrix)
        axes.imshow(matrix, vmin=0, vmax=1, cmap=colours)
        axes.set_title(kind.states, color=theme.ink, fontsize=8.5)
        if len(matrix) <= 6:
            for row, column in np.ndindex(matrix.shape):
                axes.text(column, row, f"{matrix[row, column]:.2f}".replace("0.", "."), ha="center", va="center",
                          fontsize=6.3, color=theme.ink if matrix[row, column] < 0.6 else theme.paper)  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
    figure.tight_layout(w_pad=1.0)
    return png(figure)


def probes_png(probes: Sequence[Probe], theme: Theme) -> bytes:
    """Draw held-out accuracy by fact and states, with its interval, the majority class and shuffled labels."""
    shown = [probe for probe in probes if probe.states in PROBED and probe.accuracy.value is not None]
    facts = list(dict.fromkeys(probe.fact for probe in shown))
    states = [name for name in PROBED if any(probe.states == name for probe in shown)]
    step = 0.8 / max(len(states), 1)
    figure = bare_figure(WIDTH, 0.9 + (0.2 + 0.2 * max(len(states), 1)) * max(len(facts), 1), theme)
    axes = figure.add_subplot()
    style_axes(axes, theme)
    for probe in shown:
        at = facts.index(probe.fact) + (states.index(probe.states) - (len(states) - 1) / 2) * step
        colour = theme.series[PROBED.index(probe.states)]
        axes.barh(at, probe.accuracy.value or 0.0, step * 0.82, color=colour, alpha=0.85, zorder=2)
        _line(axes, probe.accuracy.low, probe.accuracy.high, at, theme.ink, 1.0)
        _line(axes, probe.shuffled.low, probe.shuffled.high, at, theme.series[2], 3.2)
        axes.plot([probe.majority] * 2, [at - step * 0.45, at + step * 0.45], color=theme.ink, linewidth=1.3,
                  linestyle=(0, (1.5, 1)), zorder=5)  # fmt: skip
    for name in states:
        axes.bar(0, 0, color=theme.series[PROBED.index(name)], label=name.replace("-", " "))
    axes.plot([], [], color=theme.series[2], linewidth=3.2, label="shuffled labels")
    axes.plot([], [], color=theme.ink, linewidth=1.3, linestyle=(0, (1.5, 1)), label="majority class")
    axes.set_yticks(range(len(facts)), facts, parse_math=False)
    axes.set_ylim(len(facts) - 0.45, -0.55)
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    legend(axes, theme, 3)
    return png(figure)


def plane_png(projection: Projection, by: str, theme: Theme) -> bytes:
    """Draw every answer's latents as a point on the first two components, coloured by a labelling."""
    labels = projection.labels[by]
    names = sorted(set(labels), key=lambda name: (-labels.count(name), name))
    coloured = names if len(names) <= MAX_COLOURS else names[: MAX_COLOURS - 1]
    figure = bare_figure(WIDTH, 3.4, theme)
    axes = figure.add_subplot()
    style_axes(axes, theme)
    groups = [(name, [at for at, label in enumerate(labels) if label == name]) for name in coloured]
    if len(coloured) < len(names):
        groups.append(
            (f"{len(names) - len(coloured)} others", [at for at, label in enumerate(labels) if label not in coloured])
        )
    for number, (name, members) in enumerate(groups):
        colour = theme.series[number] if number < len(coloured) else theme.muted
        axes.scatter([projection.x[at] for at in members], [projection.y[at] for at in members], s=16, alpha=0.75,
                     color=colour, edgecolors="none", label=name.replace("$", r"\$"), zorder=3)  # fmt: skip
    axes.set_xlabel(
        f"first component, {100 * projection.explained[0]:.0f} % of the variance", color=theme.muted, fontsize=8
    )
    axes.set_ylabel(f"second, {100 * projection.explained[1]:.0f} %", color=theme.muted, fontsize=8)
    legend(axes, theme, 3)
    return png(figure)


def _line(axes: Axes, low: float | None, high: float | None, at: float, colour: str, width: float) -> None:
    if low is not None and high is not None:
        axes.plot([low, high], [at, at], color=colour, linewidth=width, alpha=0.8, zorder=4, solid_capstyle="butt")
