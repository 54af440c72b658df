"""A study's figures as JSON, and its table as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mirage_core.evaluation.metrics import ALL, level_of
from mirage_core.reports.labels import benchmark_label
from mirage_core.reports.run.published_numbers import PublishedNumber
from mirage_core.reports.study.causal import Causal, SeedRuns
from mirage_core.reports.study.seeds import Comparison, Estimate
from mirage_core.reports.study.table import Row, Score, Table


def as_json(table: Table) -> dict[str, Any]:
    """Every figure of the page, by cell."""
    told = table.told
    return {
        "study": told.name,
        "description": told.description,
        "recipe": told.recipe,
        "seeds": list(told.seeds),
        "baseline": told.baseline,
        "measures": list(told.measures),
        "command": told.command,
        "cells": [_cell(row) for row in table.rows],
        "published_not_ours": {name: [asdict(one) for one in numbers] for name, numbers in table.systems.items()},
    }


def _cell(row: Row) -> dict[str, Any]:
    return {
        **row.cell.model_dump(mode="json"),
        "training_seconds": row.seconds,
        "scores": [
            {
                "benchmark": benchmark,
                "level": level_of(group),
                **_estimate(score.estimate),
                "n": list(score.n),
                "unparsed_share": score.unparsed,
                "latent_share": score.latent_share,
            }
            for (benchmark, group), score in row.scores.items()
        ],
        "tests_against_baseline": {
            benchmark: {
                **_comparison(test.comparison),
                "holm_problems": test.holm_problems,
                "holm_seeds": test.holm_seeds,
            }
            for benchmark, test in row.tests.items()
        },
        "latents": None if row.causal is None else _causal(row.causal),
        "published": {benchmark: asdict(number) for benchmark, number in row.published.items()},
    }


def _causal(causal: Causal) -> dict[str, Any]:
    """Shares, and differences of shares; each with its interval over the seeds."""
    return {
        "own": _figure(causal.own),
        "permuted": _figure(causal.permuted),
        "change": _figure(causal.change),
        "causal_effect": _figure(causal.effect),
        "zero": _figure(causal.zero),
        "follow": None if causal.follow is None else _figure(causal.follow),
        "follow_base_rate": None if causal.follow_clean is None else _figure(causal.follow_clean),
        "by_seed": [_seed(one) for one in causal.by_seed],
    }


def _seed(one: SeedRuns) -> dict[str, Any]:
    """The runs of one seed as the measure wrote them."""
    runs = {"own": one.own, "permuted": one.permuted, "swapped": one.swapped, "zero": one.zero}
    return {
        "seed": one.seed,
        "instances": one.instances,
        **{name: None if run is None else run.model_dump(mode="json") for name, run in runs.items()},
    }


def _figure(estimate: Estimate) -> dict[str, Any]:
    return {"mean": estimate.mean, "interval": list(estimate.interval), "by_seed": list(estimate.values)}


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "accuracy": estimate.mean,
        "interval": list(estimate.interval),
        "by_seed": list(estimate.values),
        "spread": estimate.spread,
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "difference": comparison.difference.mean,
        "interval": list(comparison.difference.interval),
        "by_seed": [asdict(test) | {"difference": test.difference} for test in comparison.tests],
        "p_problems": comparison.p_problems,
        "p_seeds": comparison.p_seeds,
    }


def as_markdown(table: Table) -> str:
    """One table of all cells and benchmarks; the paper's figures stand in columns of their own, in italics."""
    told = table.told
    heads = [column for name in table.benchmarks for column in (benchmark_label(name), "*published*")]
    lines = [_line(["cell", *heads, "text steps", "training s"]), _line(["---"] * (len(heads) + 3))]
    lines += [_line(_cells(table, row)) for row in table.rows]
    lines += [_line(line) for line in _systems(table)]
    seeds = ", ".join(map(str, told.seeds))
    of = "seed" if len(told.seeds) == 1 else "mean over the seeds"
    note = (
        f"Accuracy in % with its 95 % interval, {of} {seeds}; *published*: the paper's figure for the nearest method, "
        f"another model on other data. Baseline: {table.baseline.cell.label}. Made by `{told.command}`."
    )
    return "\n".join([*lines, "", note, *latents_as_markdown(table)]) + "\n"


LATENTS = ("cell", "own latents", "another's", "change, points", "follows the donor", "base rate", "zeros")


def latents_as_markdown(table: Table) -> list[str]:
    """The lines of a second table: what accuracy does when latents are exchanged; none where nothing was measured."""
    rows = [(row.cell.label, row.causal) for row in table.rows if row.causal is not None]
    if not rows:
        return []
    lines = [_line(list(LATENTS)), _line(["---"] * len(LATENTS))]
    lines += [_line([label, *_exchanged(causal)]) for label, causal in rows]
    note = (
        "Do the latents matter? Accuracy in % with its 95 % interval, the picture present, keys and values of the "
        "latents exchanged between problems; *follows the donor*: answers that are right for the problem whose latents "
        "were given, beside those that were so already."
    )
    return ["", *lines, "", note]


def _exchanged(causal: Causal) -> list[str]:
    change = causal.change
    low, high = (100 * bound for bound in change.interval)
    return [
        estimate_words(causal.own),
        estimate_words(causal.permuted),
        f"{100 * change.mean:+.1f} ({low:+.0f} to {high:+.0f})",
        *("" if one is None else estimate_words(one) for one in (causal.follow, causal.follow_clean)),
        estimate_words(causal.zero),
    ]


def _cells(table: Table, row: Row) -> list[str]:
    shown: list[str] = [row.cell.label]
    for name in table.benchmarks:
        score, number = row.scores.get((name, ALL)), row.published.get(name)
        shown += [_score(row, score), _number(number, row.cell.variant)]
    steps = row.done[0].budget.text_steps if row.done else 0
    return [*shown, str(steps), "" if row.seconds is None else f"{row.seconds:.0f}"]


def _systems(table: Table) -> Iterator[list[str]]:
    """A line for each system that only others have evaluated."""
    named = {number.label: number.source for numbers in table.systems.values() for number in numbers}
    for label in named:
        shown = [f"*{label}*"]
        for benchmark in table.benchmarks:
            number = next((one for one in table.systems[benchmark] if one.label == label), None)
            shown += ["", _number(number)]
        yield [*shown, "", ""]


def estimate_words(estimate: Estimate) -> str:
    """``81.5 (78-85)``."""
    low, high = estimate.interval
    return f"{100 * estimate.mean:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def _score(row: Row, score: Score | None) -> str:
    """A cell without a score failed, or cannot be asked this."""
    if score is None:
        return "" if row.done else "failed"
    return estimate_words(score.estimate)


def _number(number: PublishedNumber | None, variant: str | None = None) -> str:
    """The figure in italics; with its variant where that is not the cell's."""
    if number is None:
        return ""
    other = f" ({number.variant})" if number.variant not in (None, variant) else ""
    return f"*{100 * number.accuracy:.0f}{other}*"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
