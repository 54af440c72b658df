"""The findings and caveats of a study as sentences, each derived from a number by a fixed rule."""

from __future__ import annotations

from collections.abc import Sequence

from mirage_core.evaluation.metrics import ALL
from mirage_core.reports.labels import benchmark_label
from mirage_core.reports.run.findings import SIGNIFICANT, p_words, percent
from mirage_core.reports.study.seeds import Estimate
from mirage_core.reports.study.table import Row, Table, Test


def headline(table: Table) -> str:
    """Say on each benchmark how many cells are clear of text alone, and how many differ from the baseline."""
    baseline = table.baseline.cell.label
    parts = []
    for benchmark in table.benchmarks:
        tests = [row.tests[benchmark] for row in table.rows if benchmark in row.tests]
        better = sum(differs(test) and test.comparison.difference.mean > 0 for test in tests)
        worse = sum(differs(test) and test.comparison.difference.mean < 0 for test in tests)
        beside = _beside(table, benchmark)
        parts.append(
            f"{benchmark_label(benchmark)}{beside}: {better} better than {baseline}, {worse} worse, of {len(tests)}"
        )
    return "; ".join(parts) + "." if parts else "No cell was completed."


def _beside(table: Table, benchmark: str) -> str:
    blind = table.blind.get((benchmark, ALL))
    sees = [seen for row in table.rows if (seen := table.sees(row, benchmark)) is not None]
    if not sees:
        return ""
    named = "no picture" if blind is None else f"text alone {percent(blind.mean)}"
    return f" ({named}; {sum(sees)} of {len(sees)} cells clear of it)"


def differs(test: Test) -> bool:
    """Return whether a cell differs: p over problems below 0.05 after Holm, and an interval without 0.

    Over several seeds the interval includes the spread of training, which p over problems does not.
    """
    low, high = test.comparison.difference.interval
    return test.holm_problems < SIGNIFICANT and not low <= 0 <= high


def findings(table: Table) -> list[str]:
    """Name the best cell of each benchmark, and each cell that differs from the baseline."""
    sentences: list[str] = []
    for benchmark in table.benchmarks:
        rows = [row for row in table.rows if (benchmark, ALL) in row.scores]
        best = max(rows, key=lambda row: row.scores[benchmark, ALL].estimate.mean)
        estimate = best.scores[benchmark, ALL].estimate
        low, high = estimate.interval
        sentences.append(
            f"{benchmark_label(benchmark)}: the highest is {best.cell.label} with {percent(estimate.mean)} "
            f"({percent(low)} to {percent(high)})."
        )
        sentences += _seeing(table, benchmark, rows)
        sentences += [
            _differs(table, benchmark, row, row.tests[benchmark])
            for row in rows
            if benchmark in row.tests and differs(row.tests[benchmark])
        ]
    return sentences


def _seeing(table: Table, benchmark: str, rows: Sequence[Row]) -> list[str]:
    """Name the cells that are clear of what needs no picture (``Table.sees``): the others show nothing of seeing."""
    sees = {row.cell.label: seen for row in rows if (seen := table.sees(row, benchmark)) is not None}
    if not sees:
        return []
    above = [label for label, seen in sees.items() if seen]
    blind = table.blind.get((benchmark, ALL))
    unseen = [(row.cell.label, row.no_picture[benchmark, ALL]) for row in rows if (benchmark, ALL) in row.no_picture]
    figures = []
    if blind is not None:
        low, high = blind.interval
        figures.append(
            f"{percent(blind.mean)} ({percent(low)} to {percent(high)}) are right from the text alone, by rule"
        )
    if unseen:
        listed = ", ".join(f"{label} {percent(score.estimate.mean)}" for label, score in unseen)
        figures.append(f"without the picture: {listed}")
    return [
        f"{benchmark_label(benchmark)}: {'; '.join(figures)}; {', '.join(above) or 'no cell'} "
        f"{'is' if len(above) < 2 else 'are'} clear of it."
    ]


def _differs(table: Table, benchmark: str, row: Row, test: Test) -> str:
    difference = test.comparison.difference
    side = "above" if difference.mean > 0 else "below"
    low, high = (100 * bound for bound in difference.interval)
    over_seeds = ""
    if test.comparison.p_seeds is not None:
        over_seeds = f"; over seeds {p_words(test.comparison.p_seeds)}"
    return (
        f"{benchmark_label(benchmark)}: {row.cell.label} is {abs(100 * difference.mean):.1f} points {side} "
        f"{table.baseline.cell.label} ({low:+.1f} to {high:+.1f}; {p_words(test.holm_problems)} after "
        f"Holm{over_seeds})."
    )


def latents_matter(table: Table) -> list[str]:
    """Name the cells whose accuracy falls with another problem's latents (interval above 0), and the others."""
    effects = [(row.cell.label, row.causal.effect) for row in table.rows if row.causal is not None]
    affected = [f"{label} ({100 * effect.mean:.1f} points)" for label, effect in effects if _above_zero(effect)]
    unaffected = [f"{label} ({100 * effect.mean:+.1f})" for label, effect in effects if not _above_zero(effect)]
    sentences = []
    if affected:
        sentences.append(f"Another problem's latents in place of its own cost accuracy in: {', '.join(affected)}.")
    if unaffected:
        sentences.append(f"No measurable cost (interval includes 0): {', '.join(unaffected)}.")
    return sentences


def _above_zero(effect: Estimate) -> bool:
    return effect.interval[0] > 0


def caveats(table: Table) -> list[str]:
    """List what a reader must know before trusting a number of the page."""
    sentences = []
    failed = [f"{row.cell.label} (seed {run.seed})" for row in table.rows for run in row.cell.runs if run.error]
    if failed:
        sentences.append(f"Failed cells, shown without answers: {', '.join(failed)}.")
    if len(table.study.seeds) == 1:
        sentences.append(
            "One seed. Intervals and tests cover the choice of test problems only; another seed of the training can "
            "move a cell by several points."
        )
    else:
        sentences.append(
            f"{len(table.study.seeds)} seeds, each with its own data, base and training. A small number of seeds "
            "says little about the spread: therefore the t intervals are wide."
        )
    sentences += [
        "Equal steps are not equal time: chains of thought are longer than answers, and stage 1 and GRPO come on top. "
        "The budget's columns say what each cell took.",
        "Published numbers come from other models, data and budgets. They are shown for orientation and are not "
        "results of this project.",
        "Seconds are those of the machine that ran the stages, including other load on it; of an interrupted "
        "training only the last part.",
    ]
    return sentences
