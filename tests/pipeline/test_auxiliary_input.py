"""The upper bound's data: test problems and training examples with the auxiliary picture as an input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mirage_core.errors import DataError
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.stage import run_stage
from mirage_core.store import Store
from mirage_core.store.records import (
    AUXILIARY_IMAGES_FILE,
    PROBLEMS_FILE,
    load_auxiliary_images,
    load_examples,
    load_problems,
    save_auxiliary_images,
    save_problems,
)
from mirage_core.types import Artifact
from tests.pipeline.fakes import Events, settings, stage

SMALL = {"train_levels": [3], "test_levels": [3], "train": 4, "validation": 2, "test_per_level": 3}
GIVEN = settings(problems={"vsp_planning": SMALL, "vsp_reasoning": SMALL})


def run_stages(store: Store) -> dict[str, Artifact]:
    """All data stages, for real."""
    artifacts: dict[str, Artifact] = {}
    for name, inputs in (
        ("problems", {}),
        ("auxiliary-images", {"problems": "problems"}),
        ("examples", {"problems": "problems", "auxiliary_images": "auxiliary-images"}),
        ("auxiliary-problems", {"problems": "problems", "auxiliary_images": "auxiliary-images"}),
        ("auxiliary-examples", {"examples": "examples"}),
    ):
        stage_inputs = {key: artifacts[source] for key, source in inputs.items()}
        artifacts[name] = run_stage(get_stage(name), GIVEN, stage_inputs, store, Events()).artifact
    return artifacts


def test_every_test_problem_is_given_its_own_picture(store: Store) -> None:
    artifacts = run_stages(store)
    shown = load_problems(store.fetch(artifacts["auxiliary-problems"]))
    plain = {item.id: item for item in load_problems(store.fetch(artifacts["problems"]))}
    images = {item.problem_id: item.image for item in load_auxiliary_images(store.fetch(artifacts["auxiliary-images"]))}

    assert artifacts["auxiliary-problems"].kind == "problems"
    assert artifacts["auxiliary-problems"].summary == {"problems": 6}
    assert {item.split for item in shown} == {"test"}, "a method trains on examples, never on these"
    assert all(item.images == (*plain[item.id].images, images[item.id]) for item in shown)
    assert all((item.answer, item.group) == (plain[item.id].answer, plain[item.id].group) for item in shown)


def test_training_examples_hold_the_picture_they_would_imagine_and_no_test_problem(store: Store) -> None:
    artifacts = run_stages(store)
    shown = load_examples(store.fetch(artifacts["auxiliary-examples"]))
    plain = {item.problem.id: item for item in load_examples(store.fetch(artifacts["examples"]))}
    tests = {item.id for item in load_problems(store.fetch(artifacts["problems"]), "test")}
    answers = {item.images[-1] for item in load_problems(store.fetch(artifacts["auxiliary-problems"]))}

    assert len(shown) == len(plain) == 12
    assert {item.problem.split for item in shown} == {"train", "validation"}
    assert not tests & {item.problem.id for item in shown}
    assert not answers & {item.problem.images[-1] for item in shown}, "no drawn answer of a test problem"
    assert all(item.problem.images[-1] == item.auxiliary_image.image for item in shown)
    assert all(item.chain == plain[item.problem.id].chain for item in shown)
    assert (store.fetch(artifacts["auxiliary-examples"]) / "card.json").is_file()


def test_a_problem_without_a_picture_is_left_out_and_counted(store: Store, tmp_path: Path) -> None:
    artifacts = run_stages(store)
    problems = load_problems(store.fetch(artifacts["problems"]))
    tests = [item.id for item in problems if item.split == "test"]
    images = load_auxiliary_images(store.fetch(artifacts["auxiliary-images"]))

    def stage_inputs(ids: list[str]) -> dict[str, Artifact]:
        def work(context: Any) -> dict[str, Any]:
            save_problems(context.output / PROBLEMS_FILE, problems)
            selected = [item for item in images if item.problem_id in ids]
            save_auxiliary_images(context.output / AUXILIARY_IMAGES_FILE, selected)
            return {}

        artifact = run_stage(stage(work, name=f"some-{len(ids)}"), GIVEN, {}, store, Events()).artifact
        return {"problems": artifact, "auxiliary_images": artifact}

    some = run_stage(get_stage("auxiliary-problems"), GIVEN, stage_inputs(tests[:2]), store, Events()).artifact
    assert some.summary == {"problems": 2, "left_out": 4}
    assert [item.id for item in load_problems(store.fetch(some))] == tests[:2]
    with pytest.raises(DataError, match=r"remove auxiliary-input from evaluation.methods"):
        run_stage(get_stage("auxiliary-problems"), GIVEN, stage_inputs([]), store, Events())
