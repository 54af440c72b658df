"""The report's inputs from the results of a study's cells; budgets are read from the artifacts' manifests."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from mirage_core.methods import get_method
from mirage_core.pipeline.portable_settings import strip_local_paths
from mirage_core.reports.study.blind import NO_PICTURE, PROBLEMS
from mirage_core.reports.study.inputs import CellBudget, CellReportInput, RunReportInput, StudyReportInput
from mirage_core.store import Store
from mirage_core.studies.plan import is_measured
from mirage_core.studies.scheduler import CellResult
from mirage_core.studies.spec import Cell, Study
from mirage_core.types import Artifact


def report_input(study: Study, sets: Sequence[str], results: Sequence[CellResult], store: Store) -> StudyReportInput:
    """Return the report's parameter: the study with its cells, runs and budgets."""
    by_cell = {cell.name: [result for result in results if result.run.cell == cell] for cell in study.all_cells()}
    return StudyReportInput(
        name=study.name,
        description=study.description,
        recipe=study.recipe,
        baseline=study.baseline,
        seeds=study.seeds,
        cells=tuple(_cell(cell, by_cell[cell.name], store) for cell in study.all_cells()),
        command=command_of(study, sets),
        measures=study.measures,
    )


def command_of(study: Study, sets: Sequence[str]) -> str:
    """Return the shell command that runs a study."""
    cells = f" --cells {','.join(study.selected)}" if study.selected else ""
    overrides = "".join(f" --set {shlex.quote(text)}" for text in sets)
    return f"mirage study {shlex.quote(study.name)} --seeds {','.join(map(str, study.seeds))}{cells}{overrides}"


def report_artifacts(results: Sequence[CellResult]) -> dict[str, Artifact]:
    """Return the report's artifacts: the answers of every completed run by its name, its interventions and problems.

    Where the recipe has ``evaluation.blind``, the answers without the picture too.
    """
    answers = {result.run.name: result.evaluation for result in results if result.evaluation is not None}
    interventions = {
        _interventions_name(result): result.interventions for result in results if result.interventions is not None
    }
    blind = {
        f"{NO_PICTURE}{result.run.name}": result.blind_evaluation
        for result in results
        if result.evaluation is not None and result.blind_evaluation is not None
    }
    problems = {
        f"{PROBLEMS}{result.artifacts['problems'].digest}": result.artifacts["problems"]
        for result in results
        if result.evaluation is not None
    }
    return {**answers, **interventions, **blind, **problems}


def _interventions_name(result: CellResult) -> str:
    """Return the name of a run's interventions among the report's inputs."""
    return f"{result.run.name}/interventions"


def _cell(cell: Cell, results: Sequence[CellResult], store: Store) -> CellReportInput:
    first = results[0].run
    changes = tuple(text for text in first.sets if text.partition("=")[0] not in ("seed", "evaluation.methods"))
    return CellReportInput(
        name=cell.name,
        label=cell.shown,
        method=cell.method,
        variant=strip_local_paths(first.settings).teacher.variant,
        published=cell.published,
        swept=cell.swept,
        changes=changes,
        runs=tuple(_run(result, store) for result in results),
    )


def _run(result: CellResult, store: Store) -> RunReportInput:
    run = result.run
    if result.evaluation is None:
        return RunReportInput(seed=run.seed, state="Failed", error=result.error, command=run.command)
    return RunReportInput(
        seed=run.seed,
        state="Completed",
        command=run.command,
        evaluation=run.name,
        interventions=None if result.interventions is None else _interventions_name(result),
        diagnosis=run.diagnosis if is_measured(run) else None,
        problems=result.artifacts["problems"].digest,
        budget=_budget(result, store),
        stages={name: artifact.path for name, artifact in result.artifacts.items()},
    )


def _budget(result: CellResult, store: Store) -> CellBudget:
    """Return steps and tokens of the summaries of the stages that train the model, seconds of their manifests."""
    from mirage_core.reports.run.training_budget import budget_of

    trained = {name: result.artifacts[name] for name in get_method(result.run.cell.method).all_stages}
    steps = {name: int(artifact.summary.get("steps", 0)) for name, artifact in trained.items()}
    budget = budget_of(result.run.cell.method, result.run.settings, steps)
    tokens = [artifact.summary.get("tokens") for artifact in trained.values()]
    return CellBudget(
        text_steps=budget.text_steps,
        grounding_steps=budget.grounding_steps,
        policy_updates=budget.policy_updates,
        examples=budget.examples,
        sampled_answers=budget.sampled_answers,
        tokens=None if None in tokens else sum(int(count) for count in tokens if count is not None),
        seconds=round(sum(float(store.manifest(each).about.get("seconds", 0.0)) for each in trained.values()), 3),
    )
