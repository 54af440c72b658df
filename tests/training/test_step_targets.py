"""The targets of stepwise grounding: frames about several places, and the control that takes other problems' films."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mirage_core.config import StepwiseSettings
from mirage_core.errors import DataError, SettingsError
from mirage_core.synthesis.labels import parts_of
from mirage_core.training.stepwise.setup import FilmData, make_stepwise, others
from mirage_core.training.stepwise.targets import Vocabulary, label_targets
from mirage_core.types import AuxiliaryImage, Problem, ReasoningChain, TrainingExample
from tests.training.small_world import small_settings

LABELS = StepwiseSettings(where="cell", what="kind")


def example_of(name: str, group: str) -> TrainingExample:
    problem = Problem(
        id=name, benchmark="vsp-planning", group=group, split="train", question="?", images=(), answer="R", facts={}
    )
    image = AuxiliaryImage(problem_id=name, image=b"", style="arrows")
    chain = ReasoningChain(problem_id=name, variant="direct", text_before="", text_after="", teacher="none")
    return TrainingExample(problem=problem, auxiliary_image=image, chain=chain)


EXAMPLES = [example_of(f"{group}-{number}", group) for number in range(4) for group in ("level-3", "level-4")]
DATA = FilmData(EXAMPLES, "train", range(len(EXAMPLES)), Path("unused"), Path("unused"))


def test_a_frame_about_several_places_has_each_of_them_as_a_target_and_one_place_is_as_before() -> None:
    details = {"frames": 2, "cells": [[[0, 1], [1, 0]], [[2, 2]]], "kinds": [["ice", "ice"], ["goal"]]}
    single = {"frames": 1, "cells": [[0, 1]], "kinds": ["ice"]}
    assert [parts_of(label) for label in ([[0, 1], [1, 0]], [0, 1], "ice")] == [[[0, 1], [1, 0]], [[0, 1]], ["ice"]]
    cells, kinds = Vocabulary(("[0, 1]", "[1, 0]", "[2, 2]")), Vocabulary(('"goal"', '"ice"'))
    assert label_targets(details, "cells", cells, 3, LABELS).tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert label_targets(details, "kinds", kinds, 2, LABELS).tolist() == [[0, 2], [1, 0]]
    assert label_targets(single, "cells", cells, 1, LABELS).tolist() == [[1, 0, 0]]


def test_other_films_are_those_of_the_same_level_and_never_the_own_one() -> None:
    chosen = others(DATA, seed=3)
    assert sorted(chosen) == sorted(chosen.values()) == list(range(8))
    for own, other in chosen.items():
        assert own != other and EXAMPLES[own].problem.group == EXAMPLES[other].problem.group
    assert others(DATA, seed=3) == chosen != others(DATA, seed=4)


def test_a_level_of_one_example_has_no_other_film() -> None:
    with pytest.raises(DataError, match=r"level-4 has one train example; stepwise\.frames other needs two"):
        others(replace(DATA, indices=[0, 1, 2]), seed=3)


def test_other_films_need_spans_of_one_length() -> None:
    frames = {"length": "frames", "end": "free"}
    recipe = small_settings(latent=frames, auxiliary_images={"film": "forward"})
    with pytest.raises(SettingsError, match=r"another film has another length: set latent\.length to fixed"):
        make_stepwise(StepwiseSettings(frames="other"), recipe, None, DATA, 3)  # type: ignore[arg-type]
