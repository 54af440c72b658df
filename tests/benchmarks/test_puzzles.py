"""Rotations and foldings as benchmarks: splits, levels, films, chains, and words that do not tell the answer."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mirage_core import benchmarks
from mirage_core.analysis.imagined.implied import implied_answer
from mirage_core.analysis.imagined.records import ImaginedStep, Kind
from mirage_core.analysis.imagined.truth import drawn_film
from mirage_core.benchmarks import mental_rotation, paper_folding
from mirage_core.benchmarks.multiple_choice import options_of
from mirage_core.benchmarks.puzzles import FORM
from mirage_core.config import AuxiliaryImageSettings, CaptionSettings, PuzzleData
from mirage_core.dataset_card.duplicates import problem_key, shared_with_test
from mirage_core.errors import DataError, InputError
from mirage_core.evaluation.blind import text_rule
from mirage_core.image_files import read_rgb
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.teacher import OracleTeacher
from mirage_core.teacher.captions import caption_faults, oracle_caption, with_caption
from mirage_core.teacher.checks import chain_faults
from mirage_core.types import AuxiliaryImage, Problem, TrainingExample
from mirage_core.worlds.folding import SHAPES, unfolded
from tests.training.small_world import small_settings

PUZZLES = {puzzle.name: puzzle for puzzle in (mental_rotation.PUZZLE, paper_folding.PUZZLE)}
KINDS = pytest.mark.parametrize("kind", PUZZLES)
FILM = AuxiliaryImageSettings(film="forward")
SETTINGS = small_settings(problems={"cell_px": 8}, auxiliary_images={"film": "forward"})
CHANCE = 0.25


@lru_cache(maxsize=4)
def problems_of(kind: str, **numbers: int) -> tuple[Problem, ...]:
    data = PuzzleData(**{"train": 120, "validation": 4, "test_per_level": 40, **numbers})
    return tuple(PUZZLES[kind].problems(data, 7, 8, lambda event: None))


def drawn(problem: Problem, settings: AuxiliaryImageSettings = FILM) -> AuxiliaryImage:
    (image,) = draw_auxiliary_images([problem], settings, 8, 7, lambda event: None)
    return image


def right_text(problem: Problem) -> str:
    return options_of(problem)[problem.answer]


@KINDS
def test_every_split_and_level_has_what_was_asked_for_and_is_the_same_again(kind: str) -> None:
    problems = problems_of(kind)
    counts = Counter((problem.split, problem.group) for problem in problems)
    assert counts == {
        (split, f"level-{level}"): number
        for split, number in (("train", 30), ("validation", 1), ("test", 40))
        for level in (3, 4, 5, 6)
    }
    assert len({problem.id for problem in problems}) == len(problems)
    again = PUZZLES[kind].problems(PuzzleData(train=4, validation=0, test_per_level=1), 7, 8, lambda event: None)
    assert next(problem.question for problem in again) == problems[0].question


@KINDS
def test_no_two_splits_share_a_puzzle_in_any_orientation_and_test_repeats_none(kind: str) -> None:
    problems = problems_of(kind)
    forms = {split: [p.facts[FORM] for p in problems if p.split == split] for split in ("train", "validation", "test")}
    assert not set(forms["train"]) & set(forms["test"]) and not set(forms["validation"]) & set(forms["test"])
    assert not set(forms["train"]) & set(forms["validation"]) and len(set(forms["test"])) == len(forms["test"])
    keys = {split: [problem_key(p) for p in problems if p.split == split] for split in ("train", "test")}
    assert shared_with_test(keys["train"], keys["test"]) == []


@KINDS
def test_the_words_alone_tell_no_more_than_chance(kind: str) -> None:
    """The best rule fitted on words has 25 %, within three standard errors of 160 problems; letters are balanced."""
    problems = problems_of(kind)
    train = [problem for problem in problems if problem.split == "train"]
    test = [problem for problem in problems if problem.split == "test"]
    assert set(Counter(problem.answer for problem in test).values()) == {40}
    right = sum(score.correct for _, score in text_rule(train, test, "mirage"))
    assert abs(right / len(test) - CHANCE) < 0.1


def test_the_position_of_the_smallest_or_largest_number_of_holes_says_nothing() -> None:
    """Always the nearest to the mean of the options, or to what half of a sheet gives: a quarter is right."""
    problems = problems_of(paper_folding.NAME)
    numbers = [[int(text) for text in options_of(problem).values()] for problem in problems]
    right = ["ABCD".index(problem.answer) for problem in problems]
    for guess in (np.mean, np.median, lambda options: len(problems[0].facts["holes"]) ** 2 / 6):
        nearest = [int(np.argmin([abs(number - guess(options)) for number in options])) for options in numbers]
        assert abs(np.mean(np.array(nearest) == right) - CHANCE) < 0.1


@KINDS
def test_levels_get_harder_by_more_steps_and_larger_grids(kind: str) -> None:
    frames: dict[int, list[int]] = {3: [], 4: [], 5: [], 6: []}
    for problem in problems_of(kind):
        level = int(problem.group.removeprefix("level-"))
        frames[level].append(len(problem.facts["turns" if kind == mental_rotation.NAME else "folds"]))
        assert read_rgb(problem.images[0], "an image").size == (8 * level, 8 * level)
    expected = {level: {level - 1, level} for level in frames}
    if kind == paper_folding.NAME:
        expected = {level: {level - 2} for level in frames}
    assert {level: set(counts) for level, counts in frames.items()} == expected


def test_a_film_of_a_rotation_is_the_pattern_after_each_turn_and_follows_the_tile_that_is_asked_for() -> None:
    for problem in problems_of(mental_rotation.NAME)[:40]:
        image = drawn(problem)
        assert image.details["frames"] == len(problem.facts["turns"]) and image.style == "turned"
        assert image.details["kinds"] == [right_text(problem)] * image.details["frames"]
        assert image.details["cells"][-1] == problem.facts["cell"]
        assert image.image == image.frames[-1] == drawn(problem, AuxiliaryImageSettings()).image


def test_a_film_of_a_folding_shows_the_holes_that_each_unfolding_adds_and_ends_with_the_open_sheet() -> None:
    for problem in problems_of(paper_folding.NAME)[:40]:
        image, shape = drawn(problem), problem.facts["shape"]
        sheets = unfolded(*paper_folding.sheet_of(problem.facts))
        assert image.details["frames"] == len(problem.facts["folds"]) and image.style == "unfolded"
        assert all(image.details["cells"]) and image.image == image.frames[-1]
        shown = [kind for kinds in image.details["kinds"] for kind in kinds].count(shape)
        assert shown + (sheets[0] == SHAPES.index(shape) + 1).sum() == int(right_text(problem))


@KINDS
@pytest.mark.parametrize("form", ["benchmark", "short"])
def test_a_prompt_has_one_image_and_the_options_or_what_stands_for_them(kind: str, form: Any) -> None:
    benchmark = benchmarks.get(kind)
    for problem in problems_of(kind)[:8]:
        prompt = benchmark.prompt(problem, form, "direct")
        assert prompt.count("<image>") == 1
        assert ("\\boxed{}" in prompt) == (form == "benchmark") and (form == "benchmark" or len(prompt) < 120)
        assert benchmark.score(problem, f"\\boxed{{{problem.answer}}}").correct
        assert not benchmark.score(problem, "").correct


@KINDS
@pytest.mark.parametrize("variant", ["direct", "cot"])
def test_the_oracle_writes_chains_and_captions_without_faults(kind: str, variant: Any) -> None:
    for problem in problems_of(kind)[:24]:
        image = drawn(problem)
        chain = OracleTeacher().chain(problem, image, variant)
        assert chain_faults(chain, problem) == []
        example = TrainingExample(problem=problem, auxiliary_image=image, chain=chain)
        for of in ("image", "film"):
            settings = CaptionSettings(of=of)
            captioned = with_caption(example, oracle_caption(example, settings))
            assert caption_faults(captioned, settings) == [], captioned.chain.caption


def test_a_chain_of_a_rotation_follows_the_tile() -> None:
    facts = {"pattern": [[0, 1, 2], [3, 3, 3], [3, 3, 3]], "turns": "RR", "cell": [2, 1], "options": ["red", "green"]}
    problem = mental_rotation.PUZZLE.problem("p", "train", 3, {**facts, "answer": "B"}, 8)
    chain = OracleTeacher().chain(problem, drawn(problem), "cot")
    assert "The tile that ends at (2,1) is at (0,1) now." in chain.text_before and "(1,2)" in chain.text_before
    assert (
        "green" in chain.text_after and "2 quarter turns, one after the other: clockwise, clockwise" in problem.question
    )


def test_a_question_of_a_folding_says_every_fold() -> None:
    folds = [["left", 2], ["bottom", 1], ["right", 1], ["top", 1]]
    holes = np.zeros((6, 6), dtype=int)
    facts = {"holes": holes.tolist(), "folds": folds, "shape": "round", "options": ["1", "2"], "answer": "A"}
    question = paper_folding.PUZZLE.problem("p", "train", 6, facts, 8).question
    words = (
        "the left 2 columns to the right, then the bottom row up, then the right column to the left, then the top row"
    )
    assert f"folded 4 times: {words} down." in question and "How many round holes" in question


def test_the_colour_that_a_film_of_a_rotation_ends_with_is_the_answer_that_it_says() -> None:
    problem = problems_of(mental_rotation.NAME)[0]
    steps = [
        ImaginedStep(index=at, kinds=(Kind(name=name, probability=1.0),)) for at, name in enumerate(["red", "blue"])
    ]
    assert implied_answer(problem, steps, "forward") == "C"
    assert implied_answer(problem, [ImaginedStep(index=0)], "forward") is None


@KINDS
def test_a_true_film_is_drawn_from_the_facts_and_of_a_persons_own_picture_there_is_none(kind: str) -> None:
    problem = problems_of(kind)[0]
    film = drawn_film(problem, SETTINGS)
    assert film is not None and film.details == drawn(problem).details
    own = Problem(id="a", benchmark=kind, split="test", group="own", question="?", images=(), answer="")
    assert drawn_film(own, SETTINGS) is None


@KINDS
def test_a_level_that_has_too_few_puzzles_says_so_and_a_file_is_refused(kind: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("mirage_core.benchmarks.puzzles.split_of_form", lambda form: "train")
    monkeypatch.setattr("mirage_core.benchmarks.puzzles._DRAWS", 3)
    data = PuzzleData(train=0, validation=0, test_levels=(3,), test_per_level=2)
    with pytest.raises(DataError, match="2 test problems of level 3 are wanted, but after 0"):
        list(PUZZLES[kind].problems(data, 7, 8, lambda event: None))
    with pytest.raises(InputError, match="leave out --data"):
        benchmarks.get(kind).load(Path("rows.jsonl"))
