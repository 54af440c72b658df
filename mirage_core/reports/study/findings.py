"""What a study shows, in sentences: each follows from a figure and a fixed rule."""

from __future__ import annotations

from mirage_core.evaluation.metrics import ALL
from mirage_core.reports.labels import benchmark_label
from mirage_core.reports.run.findings import SIGNIFICANT, p_words, percent
from mirage_core.reports.study.seeds import Estimate
from mirage_core.reports.study.table import Row, Table, Test


def headline(table: Table) -> str:
    """How many cells differ from the baseline, on each benchmark."""
    baseline = table.baseline.cell.label
    parts = []
    for benchmark in table.benchmarks:
        tests = [row.tests[benchmark] for row in table.rows if benchmark in row.tests]
        better = sum(differs(test) and test.comparison.difference.mean > 0 for test in tests)
        worse = sum(differs(test) and test.comparison.difference.mean < 0 for test in tests)
        parts.append(f"{benchmark_label(benchmark)}: {better} better than {baseline}, {worse} worse, of {len(tests)}")
    return "; ".join(parts) + "." if parts else "No cell was completed."


def differs(test: Test) -> bool:
    """Whether a cell is said to differ: p over problems below 0.05 after Holm, and an interval that leaves 0 out.

    Over several seeds the interval holds the spread of training too, which p over problems knows nothing of.
    """
    low, high = test.comparison.difference.interval
    return test.holm_problems < SIGNIFICANT and not low <= 0 <= high


def findings(table: Table) -> list[str]:
    """One sentence a benchmark for what is best, and one for each cell that differs from the baseline."""
    told: list[str] = []
    for benchmark in table.benchmarks:
        rows = [row for row in table.rows if (benchmark, ALL) in row.scores]
        best = max(rows, key=lambda row: row.scores[benchmark, ALL].estimate.mean)
        estimate = best.scores[benchmark, ALL].estimate
        low, high = estimate.interval
        told.append(
            f"{benchmark_label(benchmark)}: the highest is {best.cell.label} with {percent(estimate.mean)} "
            f"({percent(low)} to {percent(high)})."
        )
        told += [
            _differs(table, benchmark, row, row.tests[benchmark])
            for row in rows
            if benchmark in row.tests and differs(row.tests[benchmark])
        ]
    return told


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
    """Which cells answer by their latents: those whose change under another problem's latents leaves 0 out, and not."""
    found = [(row.cell.label, row.causal.effect) for row in table.rows if row.causal is not None]
    moved = [f"{label} ({100 * effect.mean:.1f} points)" for label, effect in found if _leaves_zero_out(effect)]
    still = [f"{label} ({100 * effect.mean:+.1f})" for label, effect in found if not _leaves_zero_out(effect)]
    told = []
    if moved:
        told.append(f"Another problem's latents in place of its own cost accuracy in: {', '.join(moved)}.")
    if still:
        told.append(f"No cost that its interval tells from 0: {', '.join(still)}.")
    return told


def _leaves_zero_out(effect: Estimate) -> bool:
    return effect.interval[0] > 0


def caveats(table: Table) -> list[str]:
    """What a reader must know before believing a figure of the page."""
    told = []
    failed = [f"{row.cell.label} (seed {run.seed})" for row in table.rows for run in row.cell.runs if run.error]
    if failed:
        told.append(f"Cells that failed, and stand here without answers: {', '.join(failed)}.")
    if len(table.told.seeds) == 1:
        told.append(
            "One seed. Intervals and tests cover the choice of test problems only; another seed of the training can "
            "move a cell by several points."
        )
    else:
        told.append(
            f"{len(table.told.seeds)} seeds, each with data, base and training of its own. A small number of seeds "
            "says little of the spread: the t intervals are wide for that reason."
        )
    told += [
        "Equal steps are not equal time: chains of thought are longer than answers, and stage 1 and GRPO come on top. "
        "The budget's columns say what each cell took.",
        "Published figures come from other models, data and budgets. They are printed for orientation and are no "
        "result of this project.",
        "Seconds are those of the machine that ran the stages, with whatever else ran on it; of a training that was "
        "interrupted, the last part alone.",
    ]
    return told
