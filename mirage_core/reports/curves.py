"""Training curves of a stage, sorted into panels by what they show."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mirage_core.store.tables import read_table

FILE = "curves.parquet"
VALIDATION = "validation/"
"""Prefix of metrics on held-out examples."""

Curves = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class PanelKind:
    """A kind of panel: the names that belong to it, its title, how to read it, and whether y is a share."""

    key: str
    pattern: str
    title: str
    reading: str
    share: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """The curves of one panel of one stage, each a list of (step, value) in step order."""

    stage: str
    kind: PanelKind
    curves: Curves


# The first kind whose pattern matches takes a name, so special patterns stand before general ones.
KINDS: tuple[PanelKind, ...] = (
    PanelKind("cosine", r"cosine", "Cosine to the target latents",
              "How well the hidden state one position earlier points at each target. Only the distance ABOVE the two "
              "grey lines is learning: the best constant vector ignores the picture, the input's own features ignore "
              "the path."),
    PanelKind("reward", r"reward", "Reward",
              "Mean reward of the sampled answers and its parts. Sampled at a temperature, so lower than greedy."),
    PanelKind("kl", r"(^|[_/])kl", "KL to the reference",
              "How far the policy has moved from the model it started from."),
    PanelKind("clip", r"clip", "Clipped ratios", "Share of tokens whose probability ratio left the clip range.", True),
    PanelKind("entropy", r"entropy", "Entropy",
              "Spread of the next-token distribution; near 0 the policy stops exploring."),
    PanelKind("work", r"^step_tokens$", "Tokens a step", "Tokens of all processes that went through training passes."),
    PanelKind("length", r"length|(^|[_/])(tokens|latents)(_mean)?$|num_latents", "Length",
              "Tokens and latents an answer; a drift towards the limit is a warning."),
    PanelKind("groups", r"silent|signal|degenerate|zero_std", "Groups without signal",
              "Share of groups whose answers all got the same reward: they teach nothing.", True),
    PanelKind("share", r"accuracy|share|well_formed|format|correct", "Shares",
              "Shares of predictions or answers, 0 to 1.", True),
    PanelKind("loss", r"loss|cross_entropy|visual|centring|dense|explain|teacher|distillation|(^|[_/])(ce|text)$",
              "Loss",
              "Lower is better. The scale is logarithmic where values differ by more than a factor of 30."),
    PanelKind("gradient", r"grad|norm", "Gradient norm", "Before clipping; spikes are steps the clipping tamed."),
    PanelKind("rate", r"learning_rate|(^|[_/])lr$", "Learning rate", "The schedule as it was run."),
)  # fmt: skip
OTHER = PanelKind("other", r"", "Other figures", "Everything else this stage logged.")

# Machine metrics, shown only while a stage runs.
MACHINE: tuple[PanelKind, ...] = (
    PanelKind("speed", r"_per_second$", "Speed", "Steps, examples, tokens and latents a second."),
    PanelKind("memory", r"memory", "Memory", "GiB of process 0: its peak on the device, and in main memory now."),
    PanelKind("padding", r"padding", "Padding", "Share of the computed places that hold no token.", True),
)

# Timings differ from run to run, and the report's bytes must not.
_TIMING = re.compile(r"^time/|second|per_s$|wall|elapsed|memory|throughput|padding")


def read_curves(folder: Path) -> Curves:
    """Read curves.parquet of a trained model folder; an absent file is no curves."""
    path = folder / FILE
    return group_curves(read_table(path)) if path.is_file() else {}


def group_curves(rows: Iterable[Mapping[str, Any]]) -> Curves:
    """Group rows (step, name, value) into one list a name, in step order, without timings."""
    curves: Curves = defaultdict(list)
    for row in rows:
        if not _TIMING.search(row["name"]):
            curves[row["name"]].append((int(row["step"]), float(row["value"])))
    return {name: sorted(points) for name, points in sorted(curves.items())}


def panels(stage: str, curves: Curves) -> list[Panel]:
    """Sort a stage's curves into panels, in the order of KINDS; the last one has the unmatched names."""
    by_kind: dict[str, Curves] = defaultdict(dict)
    for name, points in curves.items():
        group = by_kind[_kind_of(name).key]
        if points not in group.values():  # a loss with one part is logged twice: as the loss, and as its part
            group[name] = points
    return [
        Panel(stage, _with_reading(kind, by_kind[kind.key]), by_kind[kind.key])
        for kind in (*KINDS, *MACHINE, OTHER)
        if kind.key in by_kind
    ]


def last_step(curves: Curves) -> int | None:
    """Return the last optimizer step any curve reached, None without curves."""
    return max((points[-1][0] for points in curves.values() if points), default=None)


def tail_mean(points: list[tuple[int, float]], share: float = 0.1) -> float:
    """Return the mean of the last tenth of a curve (at least one point), a smoothed last value."""
    count = max(1, int(len(points) * share))
    return sum(value for _, value in points[-count:]) / count


def _with_reading(kind: PanelKind, curves: Curves) -> PanelKind:
    """Return the kind, with a note on held-out metrics where there are any."""
    if not any(name.startswith(VALIDATION) for name in curves):
        return kind
    return replace(kind, reading=f"{kind.reading} Dashed: the same on a fixed sample of held-out examples.")


def _kind_of(name: str) -> PanelKind:
    return next((kind for kind in (*MACHINE, *KINDS) if re.search(kind.pattern, name)), OTHER)
