"""Films that a model did not imagine: put together from others' latents, fed, and followed by who reads latents."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch

from mirage_core.analysis.imagined.latent_bank import LatentBank
from mirage_core.analysis.imagined.other_paths import walks
from mirage_core.analysis.intervened_generation import InterventionRunner, replace_latent
from mirage_core.analysis.measures import hand_made as measure
from mirage_core.analysis.measures.film import NO_HEADS
from mirage_core.analysis.measures.replacements import own_covariance_noise
from mirage_core.analysis.results import HandMadeRun
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.pictures import picture_units
from mirage_core.evaluation.statistics import wilson
from mirage_core.generation.interventions import SpanStates, shift_states
from mirage_core.model.loading import build_base_model
from mirage_core.types import Problem
from mirage_core.worlds.maze import Maze, maze_from_rows, random_maze, random_plan, shortest_path, walk
from tests.analysis import fake_runs
from tests.analysis.hand_made_stand_in import (
    MARKS,
    K,
    StandIn,
    content_of,
    measured,
    planning,
    reasoning,
    true_film,
    walked,
)
from tests.training.small_world import quiet, small_settings

OUTCOMES = {"success": "A", "hole": "B", "safe": "C"}
OPEN = [[1, 0, 0], [0, 0, 0], [0, 0, 2]]
RING = [[1, 0, 0], [0, -1, 0], [0, 0, 2]]
CORRIDOR = [[1, 0, 2], [-1, 0, -1], [0, -1, 0]]  # one way to the goal


def questions(count: int = 24) -> list[Problem]:
    """Reasoning problems on maps that all differ."""
    rng, found, seen = np.random.default_rng(3), [], set()
    while len(found) < count:
        maze = random_maze(rng, 3, 0.25)
        outcome = list(OUTCOMES)[len(found) % 3]
        plan = random_plan(rng, maze, outcome, K)  # type: ignore[arg-type]
        if plan is not None and maze not in seen:
            seen.add(maze)
            found.append(reasoning(f"p{len(found)}", maze.rows(), plan, OUTCOMES[outcome]))
    return found


QUESTIONS = questions()


def run_of(runs: tuple[HandMadeRun, ...], way: str = "vectors", film: str = "outcome") -> HandMadeRun:
    (found,) = [run for run in runs if (run.way, run.film) == (way, film)]
    return found


def fed_films(runner: StandIn, problems: list[Problem]) -> dict[str, torch.Tensor]:
    """The hand-made films of a measure, by problem: after the clean run and that for keys and values comes noise."""
    names, spans = runner.fed[3]
    assert len(names) <= len(problems)
    return dict(zip(names, spans, strict=True))


def test_a_model_that_reads_its_latents_follows_films_that_it_did_not_imagine(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = measured(monkeypatch, QUESTIONS)
    (films,) = result.benchmarks
    for way in ("vectors", "states"):
        run = run_of(films.runs, way)
        assert run.n >= 15 and run.n + sum(films.left_out.values()) == len(QUESTIONS)
        assert run.follow.value == 1 and run.follow_own.value == 0
        assert run.accuracy.value == 0 and run.accuracy_own.value == 1
        assert run.same.value == 1 and run.same.n > 0


def test_a_model_that_does_not_read_its_latents_keeps_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = measured(monkeypatch, QUESTIONS, reads=False)
    (films,) = result.benchmarks
    for run in films.runs:
        assert run.follow.value == run.follow_own.value == run.follow_noise.value == 0
        assert run.accuracy.value == run.accuracy_noise.value == run.same.value == 1
    for each in films.one_latent:
        assert each.changed.value == each.changed_null.value == 0
        assert each.film.value == 1 and each.film_null.value == 0  # what it imagines changes all the same


def test_films_are_means_of_other_instances_latents_and_walk_on_the_map_to_another_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every latent that was fed is computed anew, from the true films alone."""
    result, runner = measured(monkeypatch, QUESTIONS)
    films = fed_films(runner, QUESTIONS)
    known = {(name, at): runner.latent(content, problem) for problem in QUESTIONS
             for name, (at, content) in ((problem.id, pair) for pair in enumerate(true_film(problem)))}  # fmt: skip
    for problem in QUESTIONS:
        if problem.id not in films:
            continue
        span, maze = films[problem.id], maze_from_rows(problem.facts["map"])
        assert not span[:, MARKS + runner.numbers[problem.id]].any(), "never its own latents"
        content = [content_of(latent) for latent in span]
        for at, latent in enumerate(span):
            alike = {
                key: each for key, each in known.items() if content_of(each) == content[at] and key[0] != problem.id
            }
            here = [each for key, each in alike.items() if key[1] == at]
            wanted = torch.stack(here if len(here) >= 3 else list(alike.values())).mean(0)
            torch.testing.assert_close(latent, wanted)
        cells = [maze.start, *(cell for cell, _ in content)]
        moved = [cell for at, cell in enumerate(cells) if at == 0 or cell != cells[at - 1]]
        assert len(set(moved)) == len(moved)
        assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a, b in pairwise(moved))
        assert [kind for _, kind in content] == [{0: "ice", 2: "goal", -1: "hole"}[maze[cell]] for cell, _ in content]
        answer = {"goal": "A", "hole": "B"}.get(content[-1][1], "C")
        assert answer != problem.answer
    assert len(films) == run_of(result.benchmarks[0].runs).n


def test_after_one_exchanged_latent_the_film_goes_on_from_it_and_after_the_null_exchange_it_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result, _ = measured(monkeypatch, QUESTIONS)
    place, kind = result.benchmarks[0].one_latent
    assert (place.exchange, kind.exchange) == ("place", "kind") and place.n >= 5 and kind.n >= 5
    for each in (place, kind):
        assert each.goes_on.value == 1 and each.goes_on_null.value == 0
        assert each.film.value == 1 and each.film_null.value == 0
        assert each.changed_null.value == 0 and each.follow.value == 1
    assert kind.changed.value is not None and kind.changed.value > 0.5


def test_a_film_that_goes_on_after_its_plan_is_held_where_the_plan_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As films of other problems do (``frames: other``): nothing tells where they end."""
    rng, problems = np.random.default_rng(5), list[Problem]()
    while len(problems) < 24:
        maze = random_maze(rng, 3, 0.25)
        outcome = list(OUTCOMES)[len(problems) % 3]
        plan = random_plan(rng, maze, outcome, 2)  # type: ignore[arg-type]
        if plan is not None:
            problems.append(reasoning(f"s{len(problems)}", maze.rows(), plan, OUTCOMES[outcome]))
    result, _ = measured(monkeypatch, problems, stepwise={"frames": "other"}, changes={"after_end": False})
    found = result.benchmarks[0].one_latent
    assert found and all(each.n > 0 for each in found)


def test_the_twin_of_a_picture_gives_no_latents_and_no_certainty(monkeypatch: pytest.MonkeyPatch) -> None:
    twins = [each for problem in QUESTIONS for each in (problem, replace(problem, id=f"{problem.id}-twin"))]
    result, runner = measured(monkeypatch, twins)
    numbers = {name: MARKS + number for name, number in runner.numbers.items()}
    films = fed_films(runner, twins)
    for name, span in films.items():
        first = name.removesuffix("-twin")
        assert not span[:, [numbers[first], numbers[f"{first}-twin"]]].any()
    run = run_of(result.benchmarks[0].runs)
    pictures = int(picture_units([each for each in twins if each.id in films]).max()) + 1
    assert run.n == 2 * pictures
    assert (run.follow.low, run.follow.high) == pytest.approx(wilson(pictures, pictures))


def test_a_plan_is_followed_by_another_way_to_the_goal_or_by_a_walk_that_misses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mazes = [Maze(tuple(map(tuple, rows))) for rows in (OPEN, [[1, 0, 0], [0, 0, 0], [-1, 0, 2]], CORRIDOR)]
    mazes += [maze_from_rows(problem.facts["map"]) for problem in QUESTIONS]
    problems = [planning(f"q{at}", maze.rows(), shortest_path(maze) or "") for at, maze in enumerate(mazes)]
    result, runner = measured(monkeypatch, problems)
    (films,) = result.benchmarks
    plan, past = run_of(films.runs, film="plan"), run_of(films.runs, film="walk")
    assert plan.n + past.n + sum(films.left_out.values()) == len(problems)
    assert plan.follow.value == past.follow.value == 1 and plan.follow_own.value == past.follow_own.value == 0
    by_name = {problem.id: problem for problem in problems}
    for name, span in fed_films(runner, problems).items():
        problem, moves = by_name[name], walked(by_name[name], span)
        assert moves != problem.answer and walk(maze_from_rows(problem.facts["map"]), moves).outcome == "success"
    assert films.one_latent[0].goes_on_null.value == 0
    assert "q2" not in fed_films(runner, problems), "it has one way"


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        (measure.NO_PLACE, {"changes": {"place": None, "places": ()}}),
        (measure.TOKENS, {"changes": {"places": ((0.5, 0.5),)}}),
        (measure.SEVERAL, {"film": "wave"}),
        (measure.SEVERAL, {"film": "search"}),
        (measure.LAST, {"stepwise": {"frames": "last"}}),
        (measure.NO_SPAN, {"without_span": (0,)}),
    ],
    ids=["no place", "large tokens", "wave", "search", "last frame", "no span"],
)
def test_the_reason_is_given_where_no_film_can_be_made(
    monkeypatch: pytest.MonkeyPatch, reason: str, options: dict[str, Any]
) -> None:
    problems = [planning(f"q{at}", rows, "RRDD") for at, rows in enumerate((OPEN, RING))]
    result, _ = measured(monkeypatch, problems, **options)
    assert result.benchmarks[0].left_out[reason] == (1 if "without_span" in options else 2)


def test_a_single_instance_has_no_others_a_closed_map_no_path_and_another_benchmark_no_rules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone, _ = measured(monkeypatch, QUESTIONS[:1])
    assert alone.benchmarks[0].left_out == {measure.NO_LATENTS: 1} and alone.benchmarks[0].runs == ()
    closed = reasoning("closed", [[1, -1, 2], [-1, -1, -1], [0, 0, 0]], "R", "B")
    result, _ = measured(monkeypatch, [closed])
    assert result.benchmarks[0].left_out == {measure.NO_PATH: 1}
    other, _ = measured(monkeypatch, [replace(each, benchmark="jigsaw") for each in QUESTIONS[:2]])
    assert other.benchmarks[0].left_out == {measure.NO_MAP: 2} and other.benchmarks[0].one_latent == ()


def test_without_heads_the_measure_says_why_it_is_empty() -> None:
    runner = InterventionRunner(build_base_model(small_settings().model, 0), small_settings())
    problems = QUESTIONS[:2]
    run = fake_runs.run(problems, torch.zeros(2, 2, 64))
    result = measure.hand_made(runner, run, problems, AnalysisSettings(), quiet)
    assert result.benchmarks == () and NO_HEADS in result.header.notes


def test_heads_that_name_appearances_take_kinds_from_the_map_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = measured(monkeypatch, QUESTIONS, stepwise={"what": "codebook"}, changes={"kinds": ()})
    assert measure.FROM_MAP in result.header.notes
    assert run_of(result.benchmarks[0].runs).follow.value == 1


@pytest.mark.parametrize("end", [2, -1, 0], ids=["goal", "hole", "ice"])
def test_walks_are_all_simple_plans_of_their_length_and_end(end: int) -> None:
    maze = Maze(((1, 0, -1), (0, 0, 0), (-1, 0, 2)))
    for length in range(1, 6):
        wanted = set()
        for plan in map("".join, product("UDLR", repeat=length)):
            cells = walk(maze, plan, stop_at_goal=True).cells
            if len(cells) == length + 1 == len(set(cells)) and maze[cells[-1]] == end:
                wanted.add(plan)
        found = list(walks(maze, length, end, np.random.default_rng(0)))
        assert set(found) == wanted and len(found) == len(wanted)


def test_keys_and_values_of_a_film_are_means_at_the_positions_of_the_instance() -> None:
    backbone = build_base_model(small_settings().model, 0).backbone
    generator = torch.Generator().manual_seed(0)
    random = [torch.randn(2, 1, 2, 32, generator=generator) for _ in range(6)]
    spans = [
        SpanStates(
            latents=torch.zeros(2, 64), keys=random[2 * at], values=random[2 * at + 1],
            positions=torch.tensor([10 * at, 10 * at + 1]),
        )
        for at in range(3)
    ]  # fmt: skip
    content = (((0, 0), "ice"), ((0, 1), "ice"))
    bank = LatentBank(torch.zeros(3, 2, 64), [content] * 3, np.arange(3))
    made = bank.span_states(content, torch.ones(2, 64), 0, spans, backbone)
    assert made is not None and made.positions.tolist() == [0, 1]
    moved = [shift_states(backbone, span, torch.tensor([0, 1])) for span in spans[1:]]
    torch.testing.assert_close(made.keys, (moved[0].keys + moved[1].keys) / 2)
    torch.testing.assert_close(made.values, (moved[0].values + moved[1].values) / 2)
    assert bank.span_states(content, torch.ones(2, 64), 0, [None, *spans[1:]], backbone) is None


def test_noise_of_the_latents_own_covariance_varies_as_they_do_over_a_whole_span() -> None:
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(5, 3 * 4, generator=generator, dtype=torch.float64)
    latents = (torch.randn(40, 5, generator=generator, dtype=torch.float64) @ mixing + 2.0).view(40, 3, 4)
    draws = torch.cat([own_covariance_noise(latents, seed) for seed in range(400)]).view(-1, 12)
    flat = latents.view(40, 12)
    covariance = torch.cov(flat.T, correction=0)
    torch.testing.assert_close(draws.mean(0), flat.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(torch.cov(draws.T), covariance, atol=0.05 * float(covariance.max()), rtol=0)
    assert int(torch.linalg.matrix_rank(draws[:100] - flat.mean(0))) == 5  # full, not diagonal


def test_one_latent_is_replaced_and_no_other() -> None:
    latents = torch.arange(3.0)[:, None].expand(3, 2)
    replaced = replace_latent(latents, np.array([1, 0, 4]), np.array([2, 0]))
    rows, numbers = np.array([0, 1, 1]), np.array([4, 0, 1])
    assert replaced(rows, numbers, torch.full((3, 2), 9.0))[:, 0].tolist() == [2.0, 9.0, 0.0]
