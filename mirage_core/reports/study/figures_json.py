"""A study's table as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from mirage_core.evaluation.metrics import ALL, level_of
from mirage_core.reports.labels import benchmark_label
from mirage_core.reports.run.published_numbers import PublishedNumber
from mirage_core.reports.study.causal import Causal, SeedRuns
from mirage_core.reports.study.seeds import Comparison, Estimate
from mirage_core.reports.study.table import Row, Score, Table


def as_json(table: Table) -> dict[str, Any]:
    """Return all numbers of the page, by cell."""
    study = table.study
    return {
        "study": study.name,
        "description": study.description,
        "recipe": study.recipe,
        "seeds": list(study.seeds),
        "baseline": study.baseline,
        "measures": list(study.measures),
        "command": study.command,
        "cells": [_cell(row) for row in table.rows],
        "blind": [
            {"benchmark": benchmark, "level": level_of(group), **_estimate(estimate)}
            for (benchmark, group), estimate in table.blind.items()
        ],
        "published_not_ours": {name: [asdict(number) for number in numbers] for name, numbers in table.systems.items()},
    }


def _cell(row: Row) -> dict[str, Any]:
    return {
        **row.cell.model_dump(mode="json"),
        "training_seconds": row.seconds,
        "scores": _scores(row.scores),
        "scores_without_picture": _scores(row.no_picture),
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


def _scores(scores: Mapping[tuple[str, str], Score]) -> list[dict[str, Any]]:
    return [
        {
            "benchmark": benchmark,
            "level": level_of(group),
            **_estimate(score.estimate),
            "n": list(score.n),
            "unparsed_share": score.unparsed,
            "latent_share": score.latent_share,
        }
        for (benchmark, group), score in scores.items()
    ]


def _causal(causal: Causal) -> dict[str, Any]:
    """Return shares and differences of shares, each with its interval over the seeds."""
    return {
        "own": _figure(causal.own),
        "permuted": _figure(causal.permuted),
        "change": _figure(causal.change),
        "causal_effect": _figure(causal.effect),
        "zero": _figure(causal.zero),
        "follow": None if causal.follow is None else _figure(causal.follow),
        "follow_base_rate": None if causal.follow_clean is None else _figure(causal.follow_clean),
        "by_seed": [_seed(runs) for runs in causal.by_seed],
    }


def _seed(seed: SeedRuns) -> dict[str, Any]:
    """Return the runs of one seed in the format of the measurement."""
    runs = {"own": seed.own, "permuted": seed.permuted, "swapped": seed.swapped, "zero": seed.zero}
    return {
        "seed": seed.seed,
        "instances": seed.instances,
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
    """Return a table of all cells and benchmarks, with the paper's numbers in separate columns, in italics."""
    study = table.study
    heads = [column for name in table.benchmarks for column in (benchmark_label(name), "*published*")]
    lines = [_line(["cell", *heads, "text steps", "training s"]), _line(["---"] * (len(heads) + 3))]
    lines += [_line(_cells(table, row)) for row in table.rows]
    lines += [_line(line) for line in (*_blind(table), *_no_picture(table), *_systems(table))]
    seeds = ", ".join(map(str, study.seeds))
    over = "seed" if len(study.seeds) == 1 else "mean over the seeds"
    note = (
        f"Accuracy in % with its 95 % interval, {over} {seeds}; *published*: the paper's figure for the nearest "
        f"method, another model on other data. Baseline: {table.baseline.cell.label}. Made by `{study.command}`."
    )
    return "\n".join([*lines, "", note, *latents_as_markdown(table)]) + "\n"


def _blind(table: Table) -> list[list[str]]:
    """Return the line of the text-only rule; none where it was not computed."""
    if not table.blind:
        return []
    cells = [cell for name in table.benchmarks for cell in (_accuracy(table.blind.get((name, ALL))), "")]
    return [["text alone, by rule (no picture)", *cells, "", ""]]


def _no_picture(table: Table) -> list[list[str]]:
    """Return a line for each cell that answered without the picture too."""
    lines = []
    for row in table.rows:
        scores = [row.no_picture.get((name, ALL)) for name in table.benchmarks]
        if any(scores):
            cells = [cell for score in scores for cell in (_accuracy(score.estimate if score else None), "")]
            lines.append([f"{row.cell.label}, no picture", *cells, "", ""])
    return lines


def _accuracy(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    low, high = estimate.interval
    return f"{100 * estimate.mean:.1f} ({100 * low:.1f}–{100 * high:.1f})"


LATENTS = ("cell", "own latents", "another's", "change, points", "follows the donor", "base rate", "zeros")


def latents_as_markdown(table: Table) -> list[str]:
    """Return the lines of a second table: accuracy with replaced latents; none where nothing was measured."""
    rows = [(row.cell.label, row.causal) for row in table.rows if row.causal is not None]
    if not rows:
        return []
    lines = [_line(list(LATENTS)), _line(["---"] * len(LATENTS))]
    lines += [_line([label, *_replaced(causal)]) for label, causal in rows]
    note = (
        "Do the latents matter? Accuracy in % with its 95 % interval, the picture present, keys and values of the "
        "latents exchanged between problems; *follows the donor*: answers that are right for the problem whose latents "
        "were given, beside those that were so already."
    )
    return ["", *lines, "", note]


def _replaced(causal: Causal) -> list[str]:
    change = causal.change
    low, high = (100 * bound for bound in change.interval)
    return [
        estimate_words(causal.own),
        estimate_words(causal.permuted),
        f"{100 * change.mean:+.1f} ({low:+.0f} to {high:+.0f})",
        *("" if rate is None else estimate_words(rate) for rate in (causal.follow, causal.follow_clean)),
        estimate_words(causal.zero),
    ]


def _cells(table: Table, row: Row) -> list[str]:
    cells: list[str] = [row.cell.label]
    for name in table.benchmarks:
        score, number = row.scores.get((name, ALL)), row.published.get(name)
        cells += [_score(row, score), _number(number, row.cell.variant)]
    steps = row.done[0].budget.text_steps if row.done else 0
    return [*cells, str(steps), "" if row.seconds is None else f"{row.seconds:.0f}"]


def _systems(table: Table) -> Iterator[list[str]]:
    """Yield a line for each published system without a row."""
    named = {number.label: number.source for numbers in table.systems.values() for number in numbers}
    for label in named:
        cells = [f"*{label}*"]
        for benchmark in table.benchmarks:
            number = next((number for number in table.systems[benchmark] if number.label == label), None)
            cells += ["", _number(number)]
        yield [*cells, "", ""]


def estimate_words(estimate: Estimate) -> str:
    """Format an estimate as ``81.5 (78-85)``."""
    low, high = estimate.interval
    return f"{100 * estimate.mean:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def _score(row: Row, score: Score | None) -> str:
    """Format a score; a cell without one failed, or does not have this benchmark."""
    if score is None:
        return "" if row.done else "failed"
    return estimate_words(score.estimate)


def _number(number: PublishedNumber | None, variant: str | None = None) -> str:
    """Format a published number in italics, with its variant where that is not the cell's."""
    if number is None:
        return ""
    other = f" ({number.variant})" if number.variant not in (None, variant) else ""
    return f"*{100 * number.accuracy:.0f}{other}*"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
