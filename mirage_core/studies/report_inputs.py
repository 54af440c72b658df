"""From the outcomes of a study's cells to what its report is told: budgets are read in the artifacts' manifests."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from mirage_core.pipeline.pipeline import trained_for
from mirage_core.pipeline.portable_settings import without_places
from mirage_core.reports.study.inputs import CellBudget, CellTold, RunTold, StudyTold
from mirage_core.store import Store
from mirage_core.studies.plan import is_measured
from mirage_core.studies.scheduler import Outcome
from mirage_core.studies.spec import Cell, Study
from mirage_core.types import Artifact


def told_of(study: Study, sets: Sequence[str], outcomes: Sequence[Outcome], store: Store) -> StudyTold:
    """What the report of these outcomes is told."""
    by_cell = {cell.name: [one for one in outcomes if one.run.cell == cell] for cell in study.all_cells()}
    return StudyTold(
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
    """What makes a study, out of a shell."""
    cells = f" --cells {','.join(study.kept)}" if study.kept else ""
    chosen = "".join(f" --set {shlex.quote(one)}" for one in sets)
    return f"mirage study {shlex.quote(study.name)} --seeds {','.join(map(str, study.seeds))}{cells}{chosen}"


def read_by_the_report(outcomes: Sequence[Outcome]) -> dict[str, Artifact]:
    """The answers of every completed run, by the run's name, and the interventions on its latents beside them."""
    answers = {outcome.run.name: outcome.evaluation for outcome in outcomes if outcome.evaluation is not None}
    latents = {_latents(outcome): outcome.interventions for outcome in outcomes if outcome.interventions is not None}
    return {**answers, **latents}


def _latents(outcome: Outcome) -> str:
    """What the interventions on a run's latents are called among the report's inputs."""
    return f"{outcome.run.name}/interventions"


def _cell(cell: Cell, outcomes: Sequence[Outcome], store: Store) -> CellTold:
    first = outcomes[0].run
    chosen = tuple(one for one in first.sets if one.partition("=")[0] not in ("seed", "evaluation.methods"))
    return CellTold(
        name=cell.name,
        label=cell.shown,
        method=cell.method,
        variant=without_places(first.settings).teacher.variant,
        published=cell.published,
        swept=cell.swept,
        changes=chosen,
        runs=tuple(_run(outcome, store) for outcome in outcomes),
    )


def _run(outcome: Outcome, store: Store) -> RunTold:
    run = outcome.run
    if outcome.evaluation is None:
        return RunTold(seed=run.seed, state="Failed", error=outcome.error, command=run.command)
    return RunTold(
        seed=run.seed,
        state="Completed",
        command=run.command,
        evaluation=run.name,
        interventions=None if outcome.interventions is None else _latents(outcome),
        diagnosis=run.diagnosis if is_measured(run) else None,
        problems=outcome.artifacts["problems"].digest,
        budget=_budget(outcome, store),
        stages={name: artifact.path for name, artifact in outcome.artifacts.items()},
    )


def _budget(outcome: Outcome, store: Store) -> CellBudget:
    """Steps as the stages counted them, tokens as their curves have them, seconds as their manifests say."""
    from mirage_core.reports.run.training_budget import budget_of

    trained = {name: outcome.artifacts[name] for name in trained_for(outcome.run.cell.method)}
    steps = {name: int(artifact.summary.get("steps", 0)) for name, artifact in trained.items()}
    known = budget_of(outcome.run.cell.method, outcome.run.settings, steps)
    tokens = [artifact.summary.get("tokens") for artifact in trained.values()]
    return CellBudget(
        text_steps=known.text_steps,
        grounding_steps=known.grounding_steps,
        policy_updates=known.policy_updates,
        examples=known.examples,
        sampled_answers=known.sampled_answers,
        tokens=None if None in tokens else sum(int(count) for count in tokens if count is not None),
        seconds=round(sum(float(store.manifest(one).about.get("seconds", 0.0)) for one in trained.values()), 3),
    )
