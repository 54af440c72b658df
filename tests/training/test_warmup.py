"""The warm-up: its exercises, its losses, and that neither depends on the number of processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.benchmarks.splits import split_of
from mirage_core.config import (
    ArchitectureSettings,
    AuxiliaryImageSettings,
    ModelSettings,
    PromptSettings,
    Settings,
    WarmupSettings,
)
from mirage_core.errors import SettingsError
from mirage_core.latent.examples import IGNORED
from mirage_core.model.loading import build_base_model
from mirage_core.training.objective import MicroBatch
from mirage_core.training.warmup.objective import GROUP, WarmupObjective, centring_loss
from mirage_core.training.warmup.tasks import KINDS, SYMBOLS, Exercise, ExerciseSource, random_walk
from mirage_core.worlds.maze import HOLE, START, Maze, canonical, maze_from_rows, random_maze, read_maze, walk
from tests.training.small_world import rank_micro_batches

SMALL = ArchitectureSettings(hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2, num_kv_heads=1)


def recipe(batch_size: int = 12, scale: float = 28 / 64, **warmup: object) -> Settings:
    chosen = WarmupSettings(batch_size=batch_size, levels=(3, 4), **warmup)  # type: ignore[arg-type]
    return Settings(
        recipe="test",
        prompt=PromptSettings(form="short", image_scale=scale),
        model=ModelSettings(architecture=SMALL, warmup=chosen),
    )


def objective(chosen: Settings, seed: int = 3) -> WarmupObjective:
    return WarmupObjective(chosen, build_base_model(chosen.model, seed), seed)


def source(seed: int = 5, excluded: frozenset[str] = frozenset(), **warmup: object) -> ExerciseSource:
    chosen = WarmupSettings(**warmup)  # type: ignore[arg-type]
    return ExerciseSource(chosen, AuxiliaryImageSettings(), 0.2, 64, excluded, seed)


def exercises(count: int = 60) -> list[Exercise]:
    return [source().exercise(step, index) for step in range(6) for index in range(count // 6)]


def map_of(exercise: Exercise) -> Maze:
    kinds = np.array(KINDS)[exercise.facts.kind].reshape(exercise.level, exercise.level)
    return maze_from_rows(kinds.tolist())


def test_an_exercise_is_a_function_of_seed_step_and_index() -> None:
    first, again, other = source().exercise(4, 2), source().exercise(4, 2), source(seed=6).exercise(4, 2)
    assert first.image.tobytes() == again.image.tobytes() and first.answer == again.answer
    assert first.image.tobytes() != other.image.tobytes()


def test_no_exercise_shows_a_held_out_or_an_excluded_map() -> None:
    drawn = [map_of(exercise) for exercise in exercises()]
    assert {split_of(maze) for maze in drawn} == {"train"}
    banned = canonical(drawn[0])
    forms = {canonical(map_of(source(excluded=frozenset({banned})).exercise(0, index))) for index in range(20)}
    assert banned not in forms


def test_both_tasks_are_asked_and_all_maps_of_a_step_have_one_level() -> None:
    drawn = exercises()
    assert {exercise.task for exercise in drawn} == {"Map", "Walk"}
    assert len({source().exercise(3, index).level for index in range(10)}) == 1


def test_a_copied_map_is_the_map_of_the_picture() -> None:
    for exercise in exercises():
        if exercise.task == "Map":
            maze = map_of(exercise)
            assert exercise.answer.splitlines() == ["".join(SYMBOLS[kind] for kind in row) for row in maze.cells]
            assert exercise.image.size == (64 * maze.level,) * 2


def test_a_walk_is_drawn_as_a_solution_is_but_is_not_planned() -> None:
    ends = set()
    for exercise in exercises(180):
        if exercise.task == "Walk":
            plan = exercise.answer.removeprefix("\\boxed{").removesuffix("}")
            cells = walk(map_of(exercise), plan).cells
            assert len(set(cells)) == len(plan) + 1
            assert exercise.facts.arrows.sum() == 2 * len(plan)
            ends.add(walk(map_of(exercise), plan).outcome)
    assert ends == {"safe", "success"}


def test_the_cell_of_the_elf_is_labelled_where_it_stands() -> None:
    for exercise in exercises():
        elf = np.flatnonzero(exercise.facts.elf)
        assert len(elf) == 1
        if exercise.task == "Map" and read_maze(exercise.image).start == map_of(exercise).start:
            continue
        assert KINDS[exercise.facts.kind[elf[0]]] == START


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 6), st.integers(1, 12))
def test_a_random_walk_enters_no_hole_and_no_cell_twice(seed: int, level: int, longest: int) -> None:
    rng = np.random.default_rng(seed)
    maze = random_maze(rng, level)
    cells, plan = random_walk(rng, maze, longest)
    assert len(cells) == len(plan) + 1 == len(set(cells)) <= longest + 1
    assert all(maze[cell] != HOLE for cell in cells) and walk(maze, plan).cells == cells


def total_loss(work: WarmupObjective, batches: list[MicroBatch]) -> tuple[float, torch.Tensor]:
    """Loss and a gradient of a step cut into these micro-batches."""
    backbone = work._model.backbone
    totals = {name: sum(batch.counts[name] for batch in batches if not batch.filler) for name in batches[0].counts}
    backbone.zero_grad()
    value = 0.0
    for batch in batches:
        loss = work.loss(backbone, batch.data, totals).total * (0.0 if batch.filler else 1.0)
        loss.backward()
        value += loss.item()
    gradient = backbone.model.lm_head.weight.grad
    assert gradient is not None
    return value, gradient.clone()


@pytest.mark.parametrize("world_size", [2, 3])
def test_loss_and_gradient_do_not_depend_on_the_number_of_processes(world_size: int) -> None:
    work = objective(recipe(batch_size=12))
    alone = total_loss(work, list(work.micro_batches(7)))
    shared = total_loss(work, [b for rank in range(world_size) for b in rank_micro_batches(work, 7, rank, world_size)])
    assert shared[0] == pytest.approx(alone[0], abs=2e-5)
    assert torch.allclose(shared[1], alone[1], atol=1e-5)


def test_a_process_without_pictures_computes_a_filler() -> None:
    work = objective(recipe(batch_size=GROUP))
    batches = [rank_micro_batches(work, 0, rank, 2)[0] for rank in range(2)]
    assert [batch.filler for batch in batches] == [False, True]


def test_only_the_answer_is_labelled_and_each_cell_is_one_token() -> None:
    work = objective(recipe())
    batch = work.batch(0, range(6))
    ids = work._model.ids
    text = work._model.processor.tokenizer
    assert ((batch.layout.input_ids == ids.image_pad).sum(1) == batch.level**2).all()
    for row, labels in enumerate(batch.layout.labels):
        answer = text.decode(labels[labels != IGNORED])
        assert answer.startswith("\n") and answer.endswith("<|im_end|>\n")
        assert answer.strip().removesuffix("<|im_end|>") == work._source.exercise(0, row).answer
    assert batch.layout.causal


def test_a_scale_that_misaligns_cells_and_tokens_is_refused_with_the_right_one() -> None:
    with pytest.raises(SettingsError, match=r"0\.4375"):
        objective(recipe(scale=1.0)).batch(0, [0])


def test_centring_is_nought_for_centred_features_and_one_for_a_constant() -> None:
    features = torch.randn(64, 8)
    assert centring_loss(features - features.mean(0)).item() == pytest.approx(0.0, abs=1e-6)
    assert centring_loss(torch.ones(64, 8)).item() == pytest.approx(1.0)


def test_a_few_steps_teach_the_dense_heads_what_stands_in_a_cell() -> None:
    chosen = recipe(batch_size=16)
    chosen = chosen.model_copy(update={"model": chosen.model.model_copy(update={"architecture": SMALL})})
    work = objective(chosen)
    backbone = work._model.backbone
    weights = [*backbone.parameters(), *work.modules()["dense_heads"].parameters()]
    optimizer = torch.optim.AdamW(weights, lr=3e-3)
    seen = []
    for step in range(25):
        batch = work.micro_batches(step)[0]
        loss = work.loss(backbone, batch.data, batch.counts)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        seen.append({name: float(value.detach()) for name, value in loss.parts.items()})
    assert seen[-1]["cell_accuracy"] > 0.75 and seen[-1]["dense"] < 0.5 * seen[0]["dense"]
