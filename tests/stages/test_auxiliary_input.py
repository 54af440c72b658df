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
from tests.stages.fakes import Events, settings, stage

SMALL = {"train_levels": [3], "test_levels": [3], "train": 4, "validation": 2, "test_per_level": 3}
GIVEN = settings(problems={"vsp_planning": SMALL, "vsp_reasoning": SMALL})


def made(store: Store) -> dict[str, Artifact]:
    """All data stages, for real."""
    found: dict[str, Artifact] = {}
    for name, inputs in (
        ("problems", {}),
        ("auxiliary-images", {"problems": "problems"}),
        ("examples", {"problems": "problems", "auxiliary_images": "auxiliary-images"}),
        ("auxiliary-problems", {"problems": "problems", "auxiliary_images": "auxiliary-images"}),
        ("auxiliary-examples", {"examples": "examples"}),
    ):
        given = {key: found[source] for key, source in inputs.items()}
        found[name] = run_stage(get_stage(name), GIVEN, given, store, Events()).artifact
    return found


def test_every_test_problem_is_given_its_own_picture(store: Store) -> None:
    found = made(store)
    shown = load_problems(store.fetch(found["auxiliary-problems"]))
    plain = {one.id: one for one in load_problems(store.fetch(found["problems"]))}
    pictures = {one.problem_id: one.image for one in load_auxiliary_images(store.fetch(found["auxiliary-images"]))}

    assert found["auxiliary-problems"].kind == "problems"
    assert found["auxiliary-problems"].summary == {"problems": 6}
    assert {one.split for one in shown} == {"test"}, "a method trains on examples, never on these"
    assert all(one.images == (*plain[one.id].images, pictures[one.id]) for one in shown)
    assert all((one.answer, one.group) == (plain[one.id].answer, plain[one.id].group) for one in shown)


def test_training_examples_hold_the_picture_they_would_imagine_and_no_test_problem(store: Store) -> None:
    found = made(store)
    shown = load_examples(store.fetch(found["auxiliary-examples"]))
    plain = {one.problem.id: one for one in load_examples(store.fetch(found["examples"]))}
    tests = {one.id for one in load_problems(store.fetch(found["problems"]), "test")}
    answers = {one.images[-1] for one in load_problems(store.fetch(found["auxiliary-problems"]))}

    assert len(shown) == len(plain) == 12
    assert {one.problem.split for one in shown} == {"train", "validation"}
    assert not tests & {one.problem.id for one in shown}
    assert not answers & {one.problem.images[-1] for one in shown}, "no drawn answer of a test problem"
    assert all(one.problem.images[-1] == one.auxiliary_image.image for one in shown)
    assert all(one.chain == plain[one.problem.id].chain for one in shown)
    assert (store.fetch(found["auxiliary-examples"]) / "card.json").is_file()


def test_a_problem_without_a_picture_is_left_out_and_counted(store: Store, tmp_path: Path) -> None:
    found = made(store)
    problems = load_problems(store.fetch(found["problems"]))
    tests = [one.id for one in problems if one.split == "test"]
    pictures = load_auxiliary_images(store.fetch(found["auxiliary-images"]))

    def given(kept: list[str]) -> dict[str, Artifact]:
        def work(context: Any) -> dict[str, Any]:
            save_problems(context.output / PROBLEMS_FILE, problems)
            wanted = [one for one in pictures if one.problem_id in kept]
            save_auxiliary_images(context.output / AUXILIARY_IMAGES_FILE, wanted)
            return {}

        artifact = run_stage(stage(work, name=f"some-{len(kept)}"), GIVEN, {}, store, Events()).artifact
        return {"problems": artifact, "auxiliary_images": artifact}

    some = run_stage(get_stage("auxiliary-problems"), GIVEN, given(tests[:2]), store, Events()).artifact
    assert some.summary == {"problems": 2, "left_out": 4}
    assert [one.id for one in load_problems(store.fetch(some))] == tests[:2]
    with pytest.raises(DataError, match=r"take auxiliary-input out of evaluation.methods"):
        run_stage(get_stage("auxiliary-problems"), GIVEN, given([]), store, Events())
