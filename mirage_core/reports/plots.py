"""Plots of a report as PNG bytes, in a light and a dark theme; the same data give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from mirage_core.evaluation.metrics import ALL, AccuracyRow
from mirage_core.reports.curves import VALIDATION, Panel
from mirage_core.reports.labels import benchmark_label, group_label, method_order, short_label

DPI = 160


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a plot: paper, ink, faint lines, one colour per known method, and a series for anything else."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    methods: dict[str, str]
    series: tuple[str, ...]


LIGHT = Theme(
    "light", "#ffffff", "#1d2430", "#6a7383", "#e6e9ee",
    {"zero-shot": "#9aa2ae", "direct-sft": "#4773b8", "capimagine": "#c2456b", "stage-1": "#d98f2b",
     "stage-2": "#0d8a7c", "grpo": "#7a52b8", "direct-sft-grpo": "#2f4f86", "capimagine-grpo": "#8d2f4d",
     "without-stage-1": "#5fb5a9", "without-stage-1-grpo": "#a98fd0", "auxiliary-input": "#5c7f2b"},
    ("#0d8a7c", "#4773b8", "#d98f2b", "#7a52b8", "#c2456b", "#5c7f2b", "#8c5a3c", "#3d8fb0"),
)  # fmt: skip
DARK = Theme(
    "dark", "#171c24", "#e7eaf0", "#98a2b3", "#2a313c",
    {"zero-shot": "#828b99", "direct-sft": "#739fe3", "capimagine": "#e77f9f", "stage-1": "#e5ac5a",
     "stage-2": "#3dbdae", "grpo": "#ac8bea", "direct-sft-grpo": "#a9c4f0", "capimagine-grpo": "#f0adc2",
     "without-stage-1": "#2b8378", "without-stage-1-grpo": "#7a5cb0", "auxiliary-input": "#a3c469"},
    ("#3dbdae", "#739fe3", "#e5ac5a", "#ac8bea", "#e77f9f", "#a3c469", "#c79a7c", "#7cc3de"),
)  # fmt: skip


def panel_png(panel: Panel, theme: Theme = LIGHT) -> bytes:
    """Draw one panel of training curves: every logged value as a faint line, its running mean as a strong one."""
    figure, axes = _figure(4.7, 2.9, theme)
    baselines = [name for name in panel.curves if is_baseline(name)]
    learned = [name for name in panel.curves if name not in baselines]
    quantities = dict.fromkeys(name.removeprefix(VALIDATION) for name in learned)  # training and validation share one
    colours = {name: theme.series[at % len(theme.series)] for at, name in enumerate(quantities)}
    for name in learned:
        line = "--" if name.startswith(VALIDATION) else "-"
        _curve(axes, name, panel.curves[name], colours[name.removeprefix(VALIDATION)], line)
    for index, name in enumerate(baselines):
        _curve(axes, name, panel.curves[name], theme.muted, ("--", ":")[index % 2])
    values = [value for points in panel.curves.values() for _, value in points]
    if panel.kind.share:
        if max(values) > 0.5:
            axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    elif panel.kind.key in ("loss", "gradient") and min(values) > 0 and max(values) > 30 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)
    axes.set_xlabel("optimizer step", color=theme.muted, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(panel.curves) > 1:
        legend(axes, theme, 3 if len(panel.curves) > 4 else 2)
    elif panel.kind.key not in ("loss", "gradient", "rate"):
        axes.set_title(curve_label(next(iter(panel.curves))), loc="left", color=theme.muted, fontsize=8.5)
    return png(figure)


def scores_png(rows: Sequence[AccuracyRow], theme: Theme = LIGHT, width: float = 7.2) -> bytes:
    """Draw accuracy bars by group and method, one row of axes per benchmark, with Wilson 95 % intervals."""
    names = sorted({row.benchmark for row in rows})
    columns = 5 if width > 6 else 3
    figure = bare_figure(width, 0.5 + 2.75 * len(names), theme)
    for index, benchmark in enumerate(names):
        axes = figure.add_subplot(len(names), 1, index + 1)
        style_axes(axes, theme)
        _bars(axes, [row for row in rows if row.benchmark == benchmark], theme)
        if len(names) > 1:
            axes.set_title(
                benchmark_label(benchmark), loc="left", color=theme.ink, fontsize=10, fontweight="bold", pad=6
            )
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper center", ncols=min(columns, len(labels)), frameon=False, labelcolor=theme.ink,
        fontsize=8.5, handlelength=1.0, handleheight=1.0, columnspacing=1.4, handletextpad=0.5,
    )  # fmt: skip
    figure.tight_layout(
        rect=(0, 0, 1, 1 - (0.32 if columns >= len(labels) else 0.5) / figure.get_figheight()), h_pad=1.6
    )
    return png(figure, tight=False)


def is_baseline(name: str) -> bool:
    """Whether a curve is a baseline (the best constant vector, the input's own features), not the model."""
    return "constant" in name or "input" in name


def curve_label(name: str) -> str:
    """The label of a curve in a legend."""
    return name.replace("_", " ").replace("/", " ")


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean over a centred window of a fifteenth of the curve, narrower at both ends."""
    half = len(values) // 30
    return [sum(part) / len(part) for part in (values[max(0, i - half) : i + half + 1] for i in range(len(values)))]


def _curve(axes: Axes, name: str, points: Sequence[tuple[int, float]], colour: str, line: str) -> None:
    steps = [step for step, _ in points]
    values = [value for _, value in points]
    if len(points) >= 30:
        axes.plot(steps, values, color=colour, alpha=0.22, linewidth=0.8)
        values = running_mean(values)
    marker = "o" if len(points) < 12 or name.startswith(VALIDATION) else ""
    axes.plot(steps, values, color=colour, linewidth=1.6, linestyle=line, label=curve_label(name), marker=marker, ms=3)


def _bars(axes: Axes, rows: Sequence[AccuracyRow], theme: Theme) -> None:
    """Bars of one benchmark: one cluster per group, ``all`` last and set apart."""
    groups = sorted({row.group for row in rows}, key=lambda group: (group == ALL, group))
    methods = sorted({row.method for row in rows}, key=method_order)
    width = 0.84 / len(methods)
    for index, method in enumerate(methods):
        by_group = {row.group: row for row in rows if row.method == method}
        present = [group for group in groups if group in by_group]
        at = [_cluster_x(groups, group) + (index - (len(methods) - 1) / 2) * width for group in present]
        heights = [by_group[group].accuracy for group in present]
        lows = [max(0.0, by_group[group].accuracy - by_group[group].interval[0]) for group in present]
        highs = [max(0.0, by_group[group].interval[1] - by_group[group].accuracy) for group in present]
        colour = theme.methods.get(method, theme.series[index % len(theme.series)])
        axes.bar(at, heights, width * 0.9, color=colour, label=short_label(method), zorder=2)
        axes.errorbar(
            at, heights, yerr=[lows, highs], fmt="none", ecolor=theme.ink, elinewidth=0.9, alpha=0.75, zorder=3
        )
        for x, height, high in zip(at, heights, highs, strict=True):
            axes.text(x, height + high + 0.015, f"{100 * height:.0f}", ha="center", fontsize=6.8, color=theme.muted)
    axes.set_xticks([_cluster_x(groups, group) for group in groups], [group_label(group) for group in groups])
    axes.set_ylim(0, 1.12)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)


def _cluster_x(groups: Sequence[str], group: str) -> float:
    return groups.index(group) + (0.18 if group == ALL and len(groups) > 1 else 0.0)


def _figure(width: float, height: float, theme: Theme) -> tuple[Figure, Axes]:
    figure = bare_figure(width, height, theme)
    axes = figure.add_subplot()
    style_axes(axes, theme)
    return figure, axes


def bare_figure(width: float, height: float, theme: Theme) -> Figure:
    """A figure without axes, of ``width`` by ``height`` inches."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor=theme.paper)


def style_axes(axes: Axes, theme: Theme) -> None:
    """Style axes: no box, horizontal grid only, small muted numbers."""
    axes.set_facecolor(theme.paper)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.grid)
    axes.tick_params(colors=theme.muted, labelsize=8, length=3)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)


def legend(axes: Axes, theme: Theme, columns: int) -> None:
    """Draw a legend above the axes."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, frameon=False, labelcolor=theme.ink,
        fontsize=7.8, handlelength=1.4, columnspacing=1.2, handletextpad=0.5, borderpad=0.1,
    )  # fmt: skip


def png(figure: Figure, *, tight: bool = True) -> bytes:
    """Encode as PNG without dates or versions, so that the bytes depend on the data alone."""
    buffer = BytesIO()
    options: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.12} if tight else {}
    figure.savefig(buffer, format="png", metadata={"Software": None}, facecolor=figure.get_facecolor(), **options)
    return buffer.getvalue()
