"""The table of a study: every cell on every benchmark over its seeds, tests against the baseline, published numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from mirage_core.analysis.results import InterventionsResult
from mirage_core.benchmarks import NAMES
from mirage_core.evaluation.metrics import ALL, AccuracyRow, accuracy_rows
from mirage_core.evaluation.statistics import holm
from mirage_core.reports.run import published_numbers as published
from mirage_core.reports.run.published_numbers import PublishedNumber
from mirage_core.reports.study.blind import BlindScores
from mirage_core.reports.study.causal import Causal, causal_of
from mirage_core.reports.study.inputs import CellReportInput, RunReportInput, StudyReportInput
from mirage_core.reports.study.seeds import Comparison, Estimate, compare, share
from mirage_core.types import Scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A cell on one group of a benchmark (``all``: on all of it). ``n``: problems of each seed."""

    estimate: Estimate
    n: tuple[int, ...]
    unparsed: float
    latent_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """A cell against the baseline on one benchmark, with Holm's correction for the number of cells tested there."""

    comparison: Comparison
    holm_problems: float
    holm_seeds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One cell: scores by (benchmark, group), tests and published numbers by benchmark, and the effect of its latents.

    ``causal``: None where it was not measured, or no answer had latents. ``no_picture``: the scores of the same model
    without the picture; empty where it did not answer so.
    """

    cell: CellReportInput
    scores: Mapping[tuple[str, str], Score]
    tests: Mapping[str, Test]
    published: Mapping[str, PublishedNumber]
    causal: Causal | None = None
    no_picture: Mapping[tuple[str, str], Score] = field(default_factory=dict)

    @property
    def done(self) -> tuple[RunReportInput, ...]:
        """The completed runs."""
        return tuple(run for run in self.cell.runs if run.state == "Completed")

    @property
    def seconds(self) -> float | None:
        """Training seconds, the mean over seeds; None where no run was completed."""
        return fmean(run.budget.seconds for run in self.done) if self.done else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All rows, the benchmarks in order with their groups, and published systems without a row.

    ``blind``: the text-only rule, without the pictures; empty where the problems are not known.
    """

    study: StudyReportInput
    rows: tuple[Row, ...]
    groups: Mapping[str, tuple[str, ...]]
    rules: Mapping[str, str]
    systems: Mapping[str, tuple[PublishedNumber, ...]]
    blind: BlindScores = field(default_factory=dict)

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The evaluated benchmarks."""
        return tuple(self.groups)

    def sees(self, row: Row, benchmark: str) -> bool | None:
        """Return whether a cell is clear of what needs no picture: its interval lies above that of the text-only rule.

        Also above its own without the picture, where that was measured. None where nothing is known to compare with.
        """
        key = (benchmark, ALL)
        own = row.no_picture.get(key)
        known = [each for each in (self.blind.get(key), None if own is None else own.estimate) if each is not None]
        if not known or key not in row.scores:
            return None
        return row.scores[key].estimate.interval[0] > max(each.interval[1] for each in known)

    @property
    def baseline(self) -> Row:
        """The baseline's row."""
        return next(row for row in self.rows if row.cell.name == self.study.baseline)


def table_of(
    study: StudyReportInput,
    scored: Mapping[str, Sequence[Scored]],
    measured: Mapping[str, InterventionsResult] | None = None,
    unseen: Mapping[str, Sequence[Scored]] | None = None,
) -> Table:
    """Compute the table of a study; ``scored``: the answers of each completed run, by its ``evaluation``.

    ``measured``: the interventions on its latents, by its ``interventions``. ``unseen``: the answers of a run without
    the picture, by its ``evaluation``.
    """
    rows = {cell.name: _scores(cell, scored) for cell in study.cells}
    groups = _groups(rows.values())
    tests: dict[str, dict[str, Test]] = {cell.name: {} for cell in study.cells}
    for benchmark in groups:
        for name, test in _tests(study, scored, benchmark).items():
            tests[name][benchmark] = test
    return Table(
        study=study,
        rows=tuple(
            Row(
                cell=cell,
                scores=rows[cell.name],
                tests=tests[cell.name],
                published={name: number for name in groups if (number := _published(name, cell)) is not None},
                causal=_causal(cell, measured or {}),
                no_picture=_scores(_only(cell, unseen or {}), unseen or {}),
            )
            for cell in study.cells
        ),
        groups=groups,
        rules={pair[0].benchmark: pair[1].rule for pairs in scored.values() for pair in pairs},
        systems={name: _systems(name) for name in groups},
    )


def _only(cell: CellReportInput, answers: Mapping[str, Sequence[Scored]]) -> CellReportInput:
    """Return a cell with the runs that have such answers."""
    return cell.model_copy(update={"runs": tuple(run for run in cell.runs if run.evaluation in answers)})


def _scores(cell: CellReportInput, scored: Mapping[str, Sequence[Scored]]) -> dict[tuple[str, str], Score]:
    """Return the scores of one cell over its completed seeds."""
    runs = [run for run in cell.runs if run.evaluation is not None]
    groups: dict[tuple[str, str], list[AccuracyRow]] = {}
    for run in runs:
        for row in accuracy_rows(scored[str(run.evaluation)]):
            groups.setdefault((row.benchmark, row.group), []).append(row)
    return {key: _score(rows, same_problems=_share_problems(runs)) for key, rows in groups.items()}


def _score(rows: Sequence[AccuracyRow], *, same_problems: bool) -> Score:
    estimate = share([row.accuracy * row.n for row in rows], [row.n for row in rows], same_problems=same_problems)
    return Score(
        estimate=estimate,
        n=tuple(row.n for row in rows),
        unparsed=fmean(row.unparsed_share for row in rows),
        latent_share=fmean(row.latent_share for row in rows),
    )


def _causal(cell: CellReportInput, measured: Mapping[str, InterventionsResult]) -> Causal | None:
    """Return the causal effect of one cell's latents over the measured seeds."""
    runs = [run for run in cell.runs if run.interventions is not None]
    results = {run.seed: measured[str(run.interventions)] for run in runs}
    return causal_of(results, same_problems=_share_problems(runs))


def _share_problems(runs: Sequence[RunReportInput]) -> bool:
    """Return whether any two seeds have the same test problems."""
    return len({run.problems for run in runs}) < len(runs)


def _tests(study: StudyReportInput, scored: Mapping[str, Sequence[Scored]], benchmark: str) -> dict[str, Test]:
    """Return each cell's test against the baseline on one benchmark, over the seeds that both completed."""
    cells = {cell.name: cell for cell in study.cells}
    comparisons: dict[str, Comparison] = {}
    for name, cell in cells.items():
        comparison = None if name == study.baseline else _compare(cell, cells[study.baseline], scored, benchmark)
        if comparison is not None:
            comparisons[name] = comparison
    by_problems = holm([comparison.p_problems for comparison in comparisons.values()])
    seeds = {name: comparison.p_seeds for name, comparison in comparisons.items() if comparison.p_seeds is not None}
    by_seeds = dict(zip(seeds, holm(list(seeds.values())), strict=True))
    return {
        name: Test(comparison=comparison, holm_problems=corrected, holm_seeds=by_seeds.get(name))
        for (name, comparison), corrected in zip(comparisons.items(), by_problems, strict=True)
    }


def _compare(
    cell: CellReportInput, baseline: CellReportInput, scored: Mapping[str, Sequence[Scored]], benchmark: str
) -> Comparison | None:
    """Compare a cell with the baseline on the problems that both answered; None where there are none."""
    ours, theirs, runs = [], [], []
    against = {run.seed: run.evaluation for run in baseline.runs}
    for run in cell.runs:
        other = against.get(run.seed)
        if run.evaluation is None or other is None:
            continue
        first, second = _right(scored[run.evaluation], benchmark), _right(scored[other], benchmark)
        both = first.keys() & second.keys()
        if both:
            ours.append({name: first[name] for name in sorted(both)})
            theirs.append({name: second[name] for name in sorted(both)})
            runs.append(run)
    return compare(ours, theirs, same_problems=_share_problems(runs)) if runs else None


def _right(scored: Sequence[Scored], benchmark: str) -> dict[str, bool]:
    """Return whether each problem was answered right; of several samples the first counts."""
    return {
        prediction.problem_id: score.correct
        for prediction, score in scored
        if prediction.benchmark == benchmark and prediction.sample == 0
    }


def _groups(rows: Iterable[Mapping[tuple[str, str], Score]]) -> dict[str, tuple[str, ...]]:
    """Return the groups of every benchmark, ``all`` last; the project's benchmarks first, in its order."""
    present = {key for scores in rows for key in scores}
    order = [*NAMES, *sorted({benchmark for benchmark, _ in present} - set(NAMES))]
    groups = {name: sorted(group for benchmark, group in present if benchmark == name) for name in order}
    return {
        name: tuple(sorted(names, key=lambda group: (group == ALL, group))) for name, names in groups.items() if names
    }


def _published(benchmark: str, cell: CellReportInput) -> PublishedNumber | None:
    """Return the paper's number for the same method and variant, and for the same value of a swept setting."""
    if not cell.published:
        return None
    if cell.swept is None:
        return published.nearest(benchmark, cell.method, cell.variant)
    setting, value = cell.swept
    if isinstance(value, bool | str):
        return None
    return published.nearest(benchmark, cell.method, cell.variant, (setting, float(value)))


def _systems(benchmark: str) -> tuple[PublishedNumber, ...]:
    """Return published numbers of systems that this project does not train."""
    return tuple(number for number in published.numbers(benchmark) if number.method is None)
