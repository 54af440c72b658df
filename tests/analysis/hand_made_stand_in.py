"""A stand-in for a model whose latents are known: each says its place and kind, and which instance it came from.

Its next latent follows from the one before by the rules of the world, and its answer is what its film says; or, where
it does not read its latents, what it always was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mirage_core.analysis.collect import CleanRun
from mirage_core.analysis.imagined.implied import implied_answer
from mirage_core.analysis.imagined.reading import ImaginationReader
from mirage_core.analysis.imagined.records import ImaginedStep, Kind
from mirage_core.analysis.intervened_generation import BatchIntervention, GeneratedAnswer, InterventionRunner
from mirage_core.analysis.measures.hand_made import hand_made
from mirage_core.analysis.results import HandMadeResult
from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import AnalysisSettings, StepwiseSettings
from mirage_core.generation.interventions import Interventions, SpanStates
from mirage_core.model.loading import build_base_model
from mirage_core.types import Problem
from mirage_core.worlds.maze import Maze, maze_from_rows, picture_bytes, render, step
from tests.analysis import fake_runs
from tests.training.small_world import quiet, small_settings

LEVEL, K = 3, 4
NAMES = ("ice", "start", "goal", "hole")
KINDS = {0: "ice", 1: "start", 2: "goal", -1: "hole"}
MARKS = LEVEL * LEVEL + len(NAMES)  # where the numbers begin that say whose latent it is

Content = tuple[tuple[int, int], str]


def reasoning(name: str, rows: Any, plan: str, answer: str) -> Problem:
    maze = Maze(tuple(map(tuple, rows)))
    return vsp_reasoning.make_problem(name, "test", maze, picture_bytes(render(maze, 28)), plan, answer)


def planning(name: str, rows: Any, answer: str) -> Problem:
    maze = Maze(tuple(map(tuple, rows)))
    return vsp_planning.make_problem(name, "test", maze, picture_bytes(render(maze, 28)), answer=answer)


def content_of(latent: Tensor) -> Content:
    """What a latent says."""
    place = int(latent[: LEVEL * LEVEL].argmax())
    return (place // LEVEL, place % LEVEL), NAMES[int(latent[LEVEL * LEVEL : MARKS].argmax())]


def true_film(problem: Problem) -> list[Content]:
    """The cells after each of K moves, by the rules; the walk ends in a hole or at the goal, and is held there."""
    maze = maze_from_rows(problem.facts["map"])
    cell, film = maze.start, []
    plan = problem.facts.get("plan", problem.answer)
    for number in range(K):
        if number < len(plan) and maze[cell] not in (2, -1):
            cell = step(maze, cell, plan[number])
        film.append((cell, KINDS[maze[cell]]))
    return film


class StandIn(InterventionRunner):
    """Answers as described above; ``fed``: the latents [n, K, D] of every run."""

    def __init__(self, problems: Sequence[Problem], *, reads: bool, film: str = "forward") -> None:
        settings = small_settings(auxiliary_images={"film": film}, latent={"num_latents": K})
        super().__init__(build_base_model(settings.model, 0), settings, Path("model"))
        self.numbers = {problem.id: number for number, problem in enumerate(problems)}
        self.reads = reads
        self.fed: list[tuple[tuple[str, ...], Tensor]] = []

    def latent(self, content: Content, problem: Problem) -> Tensor:
        vector = torch.zeros(MARKS + len(self.numbers))
        (row, column), kind = content
        vector[row * LEVEL + column] = vector[LEVEL * LEVEL + NAMES.index(kind)] = 1.0
        vector[MARKS + self.numbers[problem.id]] = 1.0
        return vector

    def following(self, problem: Problem, before: Tensor, number: int) -> Tensor:
        """The latent that the model imagines after ``before``."""
        maze, plan = maze_from_rows(problem.facts["map"]), problem.facts.get("plan", problem.answer)
        cell, kind = content_of(before)
        if kind in ("hole", "goal") or number >= len(plan):
            return self.latent((cell, kind), problem)
        there = step(maze, cell, plan[number])
        return self.latent((there, KINDS[maze[there]]), problem)

    def generate(
        self, problems: Sequence[Problem], intervene: BatchIntervention | None = None, **options: Any
    ) -> list[GeneratedAnswer]:
        changes = Interventions() if intervene is None else intervene(np.arange(len(problems)))
        spans = [self.rolled(row, problem, changes) for row, problem in enumerate(problems)]
        self.fed.append((tuple(problem.id for problem in problems), torch.stack(spans)))
        answers = []
        for row, (problem, span) in enumerate(zip(problems, spans, strict=True)):
            patched = changes.states[row] if changes.states is not None else None
            seen = patched[0].values[0, 0] if patched else span
            says = implied_answer(problem, read(problem, seen), "forward") or walked(problem, seen)
            text = says if self.reads else problem.answer
            prediction, score = fake_runs.answer(problem, text)
            states = SpanStates(latents=span, keys=span[None, None], values=span[None, None], positions=torch.zeros(K))
            answers.append(
                GeneratedAnswer(prediction=prediction, score=score, first_token=None, latents=span, states=states)
            )
        return answers

    def rolled(self, row: int, problem: Problem, changes: Interventions) -> Tensor:
        span: list[Tensor] = []
        for number in range(K):
            own = self.following(problem, span[-1], number) if span else self.latent(true_film(problem)[0], problem)
            span.append(changes.replace_latents(np.array([row]), np.array([number]), own[None])[0])
        return torch.stack(span)


def walked(problem: Problem, span: Tensor) -> str:
    """The moves of a walk that does not reach the goal, as a model that reads its latents would write them down."""
    cell, plan = maze_from_rows(problem.facts["map"]).start, ""
    for latent in span:
        there, _ = content_of(latent)
        delta = (there[0] - cell[0], there[1] - cell[1])
        plan += {(-1, 0): "U", (1, 0): "D", (0, -1): "L", (0, 1): "R"}.get(delta, "")
        cell = there
    return plan


def read(problem: Problem, span: Tensor) -> tuple[ImaginedStep, ...]:
    film, length = [], len(problem.facts.get("plan", problem.answer))
    for index, latent in enumerate(span):
        place, kind = content_of(latent)
        grid = tuple(tuple(float((row, at) == place) for at in range(LEVEL)) for row in range(LEVEL))
        named = (Kind(name=kind, probability=1.0),)
        film.append(
            ImaginedStep(index=index, places=grid, place=place, kinds=named, frame=index, after_end=index >= length)
        )
    return tuple(film)


class Reader:
    """Reads what the latents of the stand-in say; ``changes``: what every step is otherwise."""

    def __init__(self, stepwise: dict[str, Any], changes: dict[str, Any]) -> None:
        self.stepwise = StepwiseSettings.model_validate({"where": "cell", "what": "kind", **stepwise})
        self.changes = changes

    def read(self, problems: Sequence[Problem], latents: Sequence[Tensor]) -> list[tuple[ImaginedStep, ...]]:
        films = [read(problem, span) for problem, span in zip(problems, latents, strict=True)]
        return [tuple(each.model_copy(update=self.changes) for each in film) for film in films]


def clean_run(runner: StandIn, problems: Sequence[Problem]) -> CleanRun:
    answers = runner.generate(problems)
    run = fake_runs.run(problems, torch.stack([each.latents for each in answers if each.latents is not None]))
    return replace(run, scored=tuple((each.prediction, each.score) for each in answers))


def measured(
    monkeypatch: pytest.MonkeyPatch,
    problems: Sequence[Problem],
    *,
    reads: bool = True,
    film: str = "forward",
    stepwise: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None,
    without_span: Sequence[int] = (),
) -> tuple[HandMadeResult, StandIn]:
    """The measure of the stand-in over problems, and the runner, which knows what was fed."""
    runner = StandIn(problems, reads=reads, film=film)
    reader = Reader(stepwise or {}, changes or {})
    monkeypatch.setattr(ImaginationReader, "of", classmethod(lambda *_: reader))
    run = clean_run(runner, problems)
    for at in without_span:
        run.has_span[at] = False
    settings = AnalysisSettings(resamples=50, views=("present",))
    return hand_made(runner, run, problems, settings, quiet), runner
