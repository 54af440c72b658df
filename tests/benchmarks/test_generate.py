"""Generated problems: balanced, solvable, deterministic, and no map in two splits."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from PIL import Image

from mirage_core import benchmarks
from mirage_core.benchmarks.generate import generate_problems, level_counts
from mirage_core.benchmarks.splits import split_of
from mirage_core.benchmarks.vsp_reasoning import LETTERS
from mirage_core.config import BenchmarkData, ProblemSettings, ReasoningData, as_recipe, identity
from mirage_core.errors import DataError
from mirage_core.evaluation.blind import text_rule
from mirage_core.worlds.maze import (
    canonical,
    maze_from_rows,
    orientations,
    picture_bytes,
    read_maze,
    render,
    shape_of,
    shortest_path,
    walk,
)

DATA = BenchmarkData(train_levels=(3, 4), test_levels=(3, 4, 5), train=62, validation=12, test_per_level=30)
SETTINGS = ProblemSettings(vsp_planning=DATA, vsp_reasoning=DATA)

GENERATED = ("vsp-planning", "vsp-reasoning")


def quiet(event):
    """Nobody listens."""


def maze_of(problem):
    return maze_from_rows(problem.facts["map"])


@pytest.fixture(scope="module")
def problems():
    return generate_problems(SETTINGS, 42, quiet)


def text_rule_accuracy(problems):
    test = [problem for problem in problems if problem.split == "test"]
    scored = text_rule([problem for problem in problems if problem.split == "train"], test, "mirage")
    return sum(score.correct for _, score in scored) / len(scored)


@pytest.fixture(scope="module")
def by_plans():
    sizes = {"train_levels": (4, 5), "test_levels": (4, 5), "train": 600, "validation": 0, "test_per_level": 90}
    return {
        plans: generate_problems(
            ProblemSettings(vsp_planning=None, vsp_reasoning=ReasoningData(plans=plans, **sizes)), 3, quiet
        )
        for plans in ("published", "balanced")
    }


def test_published_plans_tell_half_of_the_answers_without_a_picture_and_balanced_ones_a_third(by_plans):
    assert text_rule_accuracy(by_plans["published"]) > 0.45
    assert text_rule_accuracy(by_plans["balanced"]) == pytest.approx(1 / 3, abs=0.08)


def test_balanced_plans_have_every_outcome_as_often_for_every_length_and_number_of_revisits(by_plans):
    counts = Counter(
        (problem.split, problem.group, shape_of(problem.facts["plan"]), problem.answer)
        for problem in by_plans["balanced"]
    )
    for split, group, shape, _ in counts:
        assert not shape.ends_in_visited
        assert len({counts[split, group, shape, answer] for answer in "ABC"}) == 1
    assert len({shape.length for _, _, shape, _ in counts}) > 5
    assert len({shape.revisits for _, _, shape, _ in counts}) > 2


def test_balanced_plans_are_right_and_their_maps_differ_in_the_test(by_plans):
    problems = by_plans["balanced"]
    for problem in problems:
        maze, plan = maze_of(problem), problem.facts["plan"]
        assert LETTERS[walk(maze, plan, stop_at_goal=True).outcome] == problem.answer
        assert all(walk(maze, plan[:moves], stop_at_goal=True).outcome == "safe" for moves in range(1, len(plan))), (
            "only the last move decides"
        )
    forms = [canonical(maze_of(problem)) for problem in problems if problem.split == "test"]
    assert len(set(forms)) == len(forms) == 180


def test_the_published_way_is_the_default_and_not_part_of_an_identity():
    assert ProblemSettings().vsp_reasoning == ReasoningData(plans="published")
    assert "plans" not in identity(ProblemSettings())["vsp_reasoning"]
    assert identity(ReasoningData(plans="balanced"))["plans"] == "balanced"
    assert ReasoningData.model_validate(identity(ReasoningData(plans="balanced"))).plans == "balanced"
    assert as_recipe(ReasoningData(plans="balanced"))["plans"] == "balanced"


def test_every_split_and_level_has_what_was_asked_for(problems):
    counts = Counter((p.benchmark, p.split, p.group) for p in problems)
    for name in GENERATED:
        assert [counts[name, "train", f"level-{n}"] for n in (3, 4, 5)] == [31, 31, 0]
        assert [counts[name, "validation", f"level-{n}"] for n in (3, 4)] == [6, 6]
        assert [counts[name, "test", f"level-{n}"] for n in (3, 4, 5)] == [30, 30, 30]
    assert len({p.id for p in problems}) == len(problems)


def test_a_level_named_twice_gets_two_shares():
    data = BenchmarkData(train_levels=(3, 4, 4, 5), train=10, validation=4)
    assert level_counts(data, "train") == {3: 3, 4: 5, 5: 2}
    assert level_counts(data, "validation") == {3: 1, 4: 2, 5: 1}


def test_no_two_splits_of_any_benchmarks_share_a_map_in_any_orientation(problems):
    forms = {split: {canonical(maze_of(p)) for p in problems if p.split == split} for split in ("train", "validation")}
    forms["test"] = {canonical(t) for p in problems if p.split == "test" for t in orientations(maze_of(p))}
    assert not forms["train"] & forms["test"]
    assert not forms["train"] & forms["validation"]
    assert not forms["validation"] & forms["test"]
    assert all(split_of(maze_of(p)) == p.split for p in problems)


def test_held_out_maps_of_a_benchmark_differ(problems):
    for name in GENERATED:
        forms = [canonical(maze_of(p)) for p in problems if p.benchmark == name and p.split == "test"]
        assert len(set(forms)) == len(forms)


def test_pictures_show_the_maps_and_answers_score(problems):
    for problem in problems[::7]:
        assert read_maze(Image.open(io.BytesIO(problem.images[0]))) == maze_of(problem)
        benchmark = benchmarks.get(problem.benchmark)
        boxes = [rule for rule in benchmark.rules if rule != "vsp-official"]  # which wants "Action plan: D,R"
        assert all(benchmark.score(problem, f"\\boxed{{{problem.answer}}}", rule).correct for rule in boxes)


def test_planning_answers_are_shortest_paths(problems):
    assert all(p.answer == shortest_path(maze_of(p)) for p in problems if p.benchmark == "vsp-planning")


def test_reasoning_outcomes_are_balanced_in_every_split_and_level(problems):
    reasoning = [p for p in problems if p.benchmark == "vsp-reasoning"]
    for split in ("train", "validation", "test"):
        overall = Counter(p.answer for p in reasoning if p.split == split)
        assert max(overall.values()) - min(overall.values()) <= 1
        assert len(overall) == 3
        for level in (3, 4):
            inside = Counter(p.answer for p in reasoning if p.split == split and p.group == f"level-{level}")
            assert max(inside.values()) - min(inside.values()) <= 1


def test_reasoning_plans_end_with_their_outcome_at_the_last_move(problems):
    for problem in (p for p in problems if p.benchmark == "vsp-reasoning"):
        plan, letters = problem.facts["plan"], {"success": "A", "hole": "B", "safe": "C"}
        result = walk(maze_of(problem), plan, stop_at_goal=True)
        assert len(result.cells) == len(plan) + 1
        assert 1 <= len(plan) <= SETTINGS.plan_length_max
        assert letters[result.outcome] == problem.answer


def test_the_same_seed_gives_the_same_problems_and_another_seed_others(problems):
    small = SETTINGS.model_copy(update={"vsp_planning": None})
    again = generate_problems(small, 42, quiet)
    assert again == [p for p in problems if p.benchmark == "vsp-reasoning"]
    assert [p.facts for p in generate_problems(small, 43, quiet)] != [p.facts for p in again]


def test_published_maps_are_never_generated_in_any_orientation(tmp_path, problems):
    by_row, by_picture = (next(p for p in problems if p.benchmark == name) for name in GENERATED)
    (tmp_path / "a.png").write_bytes(picture_bytes(render(orientations(maze_of(by_picture))[3])))
    file = tmp_path / "published.jsonl"
    rows = [{"map_desc": orientations(maze_of(by_row))[5].rows()}, {"image_input": "a.png"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    problems = generate_problems(SETTINGS.model_copy(update={"exclude": (str(file),)}), 42, quiet)
    forms = {canonical(maze_of(p)) for p in problems}
    assert not forms & {canonical(maze_of(by_row)), canonical(maze_of(by_picture))}


def test_an_excluded_picture_that_cannot_be_read_is_an_error(tmp_path):
    Image.new("RGB", (192, 192), "green").save(tmp_path / "a.png")
    file = tmp_path / "published.jsonl"
    file.write_text('{"image_input": "a.png"}')
    with pytest.raises(DataError, match=r"published.jsonl, line 1"):
        generate_problems(SETTINGS.model_copy(update={"exclude": (str(file),)}), 42, quiet)


def test_level_3_holds_150_held_out_maps_and_no_more_than_it_has(monkeypatch):
    data = BenchmarkData(train=0, validation=0, test_levels=(3,), test_per_level=150)
    assert len(generate_problems(ProblemSettings(vsp_planning=data, vsp_reasoning=data), 0, quiet)) == 300
    monkeypatch.setattr("mirage_core.benchmarks.generate._DRAWS", 5000)  # as many as show how it ends
    greedy = data.model_copy(update={"test_per_level": 400})
    with pytest.raises(DataError, match=r"400 different test maps of level 3 .* after 2\d\d .* 5000 draws"):
        generate_problems(ProblemSettings(vsp_planning=greedy, vsp_reasoning=None), 0, quiet)


def test_no_holes_means_no_plan_into_one(monkeypatch):
    monkeypatch.setattr("mirage_core.benchmarks.generate._DRAWS", 1000)
    data = BenchmarkData(train_levels=(3,), train=3, validation=0, test_per_level=0)
    settings = ProblemSettings(vsp_planning=None, vsp_reasoning=data, hole_probability=0.0)
    with pytest.raises(DataError, match=r"hole probability 0\.0"):
        generate_problems(settings, 0, quiet)


def test_progress_is_told_to_the_end():
    events = []
    generate_problems(ProblemSettings(vsp_planning=DATA, vsp_reasoning=None), 0, events.append)
    assert [e.step for e in events] == [100, 164]
    assert all(e.total == 164 for e in events)
