"""The plan of a curriculum: its operations are the mean over its stages, its memory that of the largest."""

from __future__ import annotations

from typing import Any

import pytest

from mirage_core.planning.activations import Batch, ComputeConfig, rollout_passes
from mirage_core.planning.flops import training
from mirage_core.planning.sizes import model_sizes
from mirage_core.planning.stages import StageWork, stage_work
from mirage_core.planning.token_counts import RecipeRows, Row, recipe_rows
from mirage_core.recipes import load

ROW = Row(benchmark="x", prompt=50, image=20, before=0, after=6, caption=24, auxiliary=20, steps=3)
ROWS = RecipeRows(rows=((ROW, 1.0),), train=100, test=1, notes=())
CONFIG = ComputeConfig(dtype_bytes=4)


def planned(**coconut: Any) -> dict[str, StageWork]:
    chosen = {"steps": 10, "batch_size": 4, "stages": 2, **coconut}
    changes = ["evaluation.methods=[capimagine,coconut,codi,without-stage-1]", "capimagine.batch_size=4"]
    changes += [
        "codi.batch_size=4",
        "relaxation.batch_size=4",
        *(f"coconut.{name}={value}" for name, value in chosen.items()),
    ]
    settings = load("tiny-paper", changes)
    return {work.name: work for work in stage_work(settings, model_sizes(settings.model), ROWS, None)}


def operations(passes: tuple[int, ...], labels: int) -> float:
    settings = load("tiny-paper", [])
    batch = Batch(rows=4, passes=passes, labels=labels, image_features=20)
    return training(model_sizes(settings.model), batch, CONFIG)[1]


def test_the_operations_of_a_curriculum_are_the_mean_over_its_stages() -> None:
    by_stage = [
        operations((50 + 6 + 24,), 6 + 24 + 1),
        operations(rollout_passes(51, 6 + 16 + 1, 2), 6 + 16 + 3),
        operations(rollout_passes(51, 6 + 8 + 1, 4), 6 + 8 + 3),
        operations(rollout_passes(51, 6 + 1, 4), 6 + 3),
    ]
    found = planned(first_share=0.1, last_share=0.3)
    shares = [0.1, 0.3, 0.3, 0.3]
    expected = sum(share * flops for share, flops in zip(shares, by_stage, strict=True))
    assert found["coconut"].flops == pytest.approx(expected, rel=1e-9)
    tokens = (80, 51 + 22 + 3, 51 + 14 + 5, 51 + 6 + 5)
    assert found["coconut"].tokens == pytest.approx(
        4 * sum(share * count for share, count in zip(shares, tokens, strict=True))
    )
    assert planned(first_share=1.0, last_share=0.0)["coconut"].flops == found["capimagine"].flops
    assert planned(first_share=0.0, last_share=1.0)["coconut"].flops == found["without-stage-1"].flops
    drawn = planned(first_share=0.0, last_share=1.0, uniform_prob=1.0)["coconut"].flops
    assert drawn == pytest.approx(sum(by_stage) / 4, rel=1e-9)  # of three steps 0, 1, 2 or 3 are drawn


def test_the_memory_of_a_curriculum_is_that_of_its_largest_stage() -> None:
    found = planned()

    def most(name: str) -> dict[str, int]:
        return {moment.name: moment.total for moment in found[name].moments}

    both = {name: max(total, most("without-stage-1")[name]) for name, total in most("capimagine").items()}
    assert all(most("coconut")[name] >= total for name, total in both.items())
    assert most("coconut")["loss"] <= 1.2 * both["loss"]


def test_self_distillation_costs_both_of_its_tasks_whose_activations_are_held_together() -> None:
    found = planned()
    assert found["codi"].flops == pytest.approx(found["capimagine"].flops + found["without-stage-1"].flops, rel=1e-9)
    assert found["codi"].tokens == found["capimagine"].tokens + found["without-stage-1"].tokens
    memory = {
        name: next(moment for moment in found[name].moments if moment.name == "loss").parts["activations"]
        for name in ("codi", "capimagine", "without-stage-1")
    }
    both = memory["capimagine"] + memory["without-stage-1"]
    assert 0.98 * both < memory["codi"] < 1.3 * both


def test_the_steps_of_a_film_are_its_frames() -> None:
    settings = load("tiny-paper", ["auxiliary_images.film=forward", "captions.of=film", "problems.vsp_reasoning=null"])
    rows = recipe_rows(settings)
    assert rows.max("steps") > 3 and rows.mean("caption") / rows.mean("steps") > 4
    assert recipe_rows(load("tiny-paper", ["problems.vsp_reasoning=null"])).mean("steps") < 2.1
