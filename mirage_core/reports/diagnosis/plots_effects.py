"""Plots of the effect of interventions on answers: changes with intervals, dose-response, mediation, latents alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from mirage_core.analysis.results import Dose, Estimate, Mediation, OnlyLatentsResult, Run
from mirage_core.reports.diagnosis.run_labels import access_label, run_label, run_order
from mirage_core.reports.plots import Theme, bare_figure, legend, png, style_axes

WIDTH = 5.4
_EFFECTS = ("total", "direct", "indirect", "interaction")


def changes_png(runs: Sequence[Run], theme: Theme) -> bytes:
    """Draw the change of accuracy with its 95 % interval, one row per intervention; exchanges in their own colour.

    Runs without a change are left out.
    """
    rows = sorted((run for run in runs if run.change.value is not None and run.name != "own"), key=run_order)
    figure = bare_figure(WIDTH, 0.7 + 0.3 * max(len(rows), 1), theme)
    axes = figure.add_subplot()
    style_axes(axes, theme)
    for at, run in enumerate(rows):
        _interval(axes, at, run.change, theme.series[0 if run.follow is not None else 1])
    axes.axvline(0, color=theme.ink, linewidth=0.9)
    axes.set_yticks(range(len(rows)), [_two_lines(run_label(run)) for run in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("change of accuracy, points", color=theme.muted, fontsize=8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.0f}"))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    return png(figure)


def dose_png(doses: Sequence[Dose], theme: Theme) -> bytes:
    """Draw accuracy and changed answers over the scale of noise on the latents, one panel per image access."""
    figure = bare_figure(WIDTH, 0.35 + 2.3 * len(doses), theme)
    for row, dose in enumerate(doses):
        axes = figure.add_subplot(len(doses), 1, row + 1)
        style_axes(axes, theme)
        ticks = range(len(dose.scales))
        for at, (values, name) in enumerate(((dose.accuracy, "accuracy"), (dose.changed, "answers changed"))):
            _dots(axes, values, theme.series[at], name)
        fitted = [(at, value) for at, value in enumerate(dose.isotonic) if value is not None]
        axes.plot(
            *zip(*fitted, strict=True), ":", color=theme.series[0], linewidth=1.0, label="accuracy, fitted to fall"
        )
        axes.set_xticks(ticks, [f"{scale:g}" for scale in dose.scales])
        axes.set_ylim(-0.04, 1.04)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if len(doses) > 1:
            axes.set_title(access_label(dose.seen), loc="right", color=theme.muted, fontsize=8.5)
        if row == 0:
            legend(axes, theme, 3)
    figure.axes[-1].set_xlabel("noise added, in standard deviations of the latents", color=theme.muted, fontsize=8)
    figure.tight_layout(h_pad=1.2)
    return png(figure)


def mediation_png(ways: Sequence[Mediation], theme: Theme) -> bytes:
    """Draw the effects on accuracy with their intervals, one colour per way of patching latents."""
    figure = bare_figure(WIDTH, 2.7, theme)
    axes = figure.add_subplot()
    style_axes(axes, theme)
    width = 0.8 / max(len(ways), 1)
    for at, way in enumerate(ways):
        effects = next((each for each in way.effects if each.outcome == "accuracy"), None)
        if effects is None:
            continue
        estimates = [getattr(effects, name) for name in _EFFECTS]
        label = {"vectors": "vectors exchanged", "states": "keys and values exchanged"}[way.way]
        _bars(axes, [x + (at - (len(ways) - 1) / 2) * width for x in range(4)], estimates, width * 0.88,
              theme.series[at], theme, label)  # fmt: skip
    axes.axhline(0, color=theme.ink, linewidth=0.9)
    axes.set_xticks(range(4), ["total", "direct\n(past the latents)", "indirect\n(through them)", "interaction"])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.0f}"))
    axes.set_ylabel("points of accuracy", color=theme.muted, fontsize=8)
    axes.tick_params(axis="x", length=0)
    if ways:
        legend(axes, theme, 2)
    return png(figure)


def only_latents_png(result: OnlyLatentsResult, theme: Theme, blind: Mapping[str, float]) -> bytes:
    """Draw accuracy with the image, with its latents alone and with other latents, and what needs no picture.

    That is the text-only rule, by benchmark; where it is not known, the most frequent answer.
    """
    runs = sorted((run for run in result.runs if run.accuracy.value is not None), key=lambda run: run.name != "own")
    figure = bare_figure(WIDTH, 0.8 + 0.4 * max(len(runs), 1), theme)
    axes = figure.add_subplot()
    style_axes(axes, theme)
    for at, run in enumerate(runs):
        value = run.accuracy.value or 0.0
        axes.barh(at, value, 0.62, color=theme.series[0 if run.name == "own" else 1], alpha=0.85, zorder=2)
        _interval(axes, at, run.accuracy, theme.ink, marker="")
        end = max(value, run.accuracy.high or value) + 0.015
        axes.text(end, at, f"{100 * value:.0f}", va="center", fontsize=7.5, color=theme.muted)
    for chance in (each for each in result.chance if each.group == "all"):
        rule = blind.get(chance.benchmark)
        named = "the most frequent answer" if rule is None else "text alone, by rule"
        axes.axvline(chance.majority if rule is None else rule, color=theme.series[2], linewidth=1.2, linestyle="--",
                     zorder=4, label=f"{named}, {chance.benchmark}")  # fmt: skip
    axes.set_yticks(range(len(runs)), [f"{run_label(run)}\n{access_label(run.seen)}" for run in runs], parse_math=False)
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.set_xlim(0, 1.08)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", visible=False)
    if result.chance:
        legend(axes, theme, 1)
    return png(figure)


def _two_lines(label: str) -> str:
    """A label broken in two, which leaves room for the plot on a phone."""
    return label.replace(", ", ",\n")


def _interval(axes: Axes, at: float, estimate: Estimate, colour: str, marker: str = "o") -> None:
    """A point with its horizontal interval."""
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [at, at], color=colour, linewidth=1.7, alpha=0.75, zorder=3)
    if estimate.value is not None and marker:
        axes.plot([estimate.value], [at], marker, color=colour, ms=5, zorder=4)


def _bars(
    axes: Axes, at: Sequence[float], estimates: Sequence[Estimate], width: float, colour: str, theme: Theme, label: str
) -> None:
    axes.bar(at, [each.value or 0.0 for each in estimates], width, color=colour, label=label, zorder=2)
    for x, each in zip(at, estimates, strict=True):
        if each.low is not None and each.high is not None:
            axes.plot([x, x], [each.low, each.high], color=theme.ink, linewidth=1.0, alpha=0.75, zorder=3)


def _dots(axes: Axes, values: Sequence[float | None], colour: str, name: str) -> None:
    known = [(at, value) for at, value in enumerate(values) if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), marker="o", ms=4, color=colour, linewidth=1.6, label=name)
