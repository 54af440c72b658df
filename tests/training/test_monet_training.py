"""Monet's stages as the pipeline trains them: their rows, teachers' states, micro-batches, engines, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from mirage_core.errors import DataError, InputError
from mirage_core.latent.collate import collate
from mirage_core.latent.observed import ObservedEncoder
from mirage_core.methods import TRAIN_STAGES, get_method, stage_inputs, stage_names
from mirage_core.model.loading import load_model
from mirage_core.planning.sizes import model_sizes
from mirage_core.planning.stages import stage_work
from mirage_core.planning.token_counts import recipe_rows
from mirage_core.store.records import load_examples
from mirage_core.store.tables import read_table
from mirage_core.training.monet.sight import auxiliary_sight
from mirage_core.training.monet.teacher_states import TeacherStates, teacher_batch
from tests.forked import run_ranks
from tests.training.monet_child import ADAPTED, ADAPTERS, CASES, PROGRAMS, run
from tests.training.monet_world import STAGE, make_monet_world, trained
from tests.training.small_world import small_settings

LATENT = ("monet-targets", "monet")
pytestmark = pytest.mark.xdist_group("ranks")  # trained once, by processes of one server


@pytest.fixture(scope="module")
def world(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_monet_world(inputs, tmp_path_factory.mktemp("monet"))


def curve(output: Path, name: str) -> list[float]:
    return [row["value"] for row in read_table(output / "curves.parquet") if row["name"] == name]


@pytest.mark.parametrize("with_image", [False, True])
@pytest.mark.parametrize("with_latents", [False, True])
def test_the_caption_is_observed_and_the_image_stands_before_the_span(
    world: dict[str, Path], with_latents: bool, with_image: bool
) -> None:
    inputs, settings = world["monet-warmup"], small_settings()
    model, example = load_model(inputs / "model"), load_examples(inputs / "examples", frames=False)[0]
    encoder = ObservedEncoder(model.processor, settings.latent, settings.prompt, settings.teacher.variant)
    found = encoder.observed(example, with_latents=with_latents, with_image=with_image)
    tokenizer, ids = model.processor.tokenizer, model.ids
    assert found.observed is not None
    assert tokenizer.decode(found.ids[found.observed]) == example.chain.caption
    assert len(found.grid_thw) == len(example.problem.images) + with_image
    assert len(found.ids) == encoder.observed_length(example, with_latents=with_latents, with_image=with_image)
    silent = torch.isin(found.ids, torch.tensor([ids.image_pad, ids.vision_start, ids.vision_end, ids.latent_pad,
                                                 ids.latent_end]))  # fmt: skip
    answer = len(encoder.prompt(example.problem).ids) - 1
    assert torch.equal(found.labels[answer:] == -100, silent[answer:]) and bool((found.labels[:answer] == -100).all())
    kept = tokenizer.decode(found.ids[answer + 1 :][~silent[answer + 1 :]])
    chain = example.chain
    start = "<|latent_start|>" * with_latents
    assert kept == f"{chain.text_before}{start}{chain.caption}{chain.text_after}<|im_end|>\n"
    if with_latents and with_image:
        batch = collate([found], ids, model.backbone.position_ids)
        assert int(auxiliary_sight(batch, ids).tails.sum()) == int(found.grid_thw[-1].prod()) // 4 + 2


@pytest.mark.parametrize("program", PROGRAMS)
def test_parts_and_checkpointing_leave_the_training_as_it_is(
    world: dict[str, Path], tmp_path: Path, program: str
) -> None:
    watched = {**STAGE, "validation": {"every": 4, "examples": 2}}
    parts = {**watched, "micro_batch_size": 2, "gradient_checkpointing": True, "batch_by": "random"}
    section = PROGRAMS[program]
    whole, split = (
        trained(world[program], tmp_path / name, program, **{section: stage})
        for name, stage in (("whole", watched), ("parts", parts))
    )
    names = ["loss", "text", "gradient_norm", "validation/loss"] + ["alignment"] * (program in LATENT)
    for name in names:
        assert curve(whole, name) and curve(split, name) == pytest.approx(curve(whole, name), rel=1e-3), name
    weight = {"monet-warmup": 0.0, "monet-targets": 4.0, "monet": 2.0}[program]
    aligned = curve(whole, "alignment") or [0.0] * 4
    totals = [text + weight * part for text, part in zip(curve(whole, "text"), aligned, strict=True)]
    assert curve(whole, "loss") == pytest.approx(totals, rel=1e-5)
    stages = ["base", program] if program == "monet-warmup" else ["base", "monet-warmup", program]
    assert load_model(whole).about["stages"] == stages


@pytest.mark.parametrize("program", PROGRAMS)
def test_training_resumed_goes_as_one_undisturbed(world: dict[str, Path], tmp_path: Path, program: str) -> None:
    by_length = {PROGRAMS[program]: {**STAGE, "batch_by": "length"}}
    whole = trained(world[program], tmp_path / "whole", program, **by_length)
    middle = whole.parent / "scratch" / "checkpoints" / "step-00000003"
    again = trained(world[program], tmp_path / "again", program, middle, **by_length)
    for name in ("model.safetensors", "curves.parquet"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


@pytest.fixture(scope="module")
def two(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    commands = [(world["monet"].parent, folder, str(rank), "2") for rank in (0, 1)]
    run_ranks("tests.training.monet_child", folder, commands, timeout_s=550)
    return folder


@pytest.mark.parametrize(("program", "engine"), CASES)
def test_two_processes_of_every_engine_have_the_figures_of_one(
    world: dict[str, Path], two: Path, tmp_path: Path, program: str, engine: str
) -> None:
    alone = run(world["monet"].parent, tmp_path / "alone", program, "plain")
    sharded = two / f"{program}-{engine}" / "output"
    for name in ["loss", "text", "gradient_norm"] + ["alignment"] * (program in LATENT):
        assert curve(alone, name) and curve(sharded, name) == pytest.approx(curve(alone, name), rel=1e-4), name


@pytest.mark.parametrize(("program", "engine"), ADAPTED)
def test_adapters_of_sharded_weights_have_the_figures_of_one_process(
    world: dict[str, Path], two: Path, tmp_path: Path, program: str, engine: str
) -> None:
    alone = run(world["monet"].parent, tmp_path / "alone", program, "plain", **ADAPTERS)
    sharded = two / f"{program}-{engine}-adapters" / "output"
    for name in ("loss", "text", "alignment", "gradient_norm"):
        assert curve(sharded, name) == pytest.approx(curve(alone, name), rel=1e-3), name
    one, other = (load_file(folder / "adapter/adapter_model.safetensors") for folder in (alone, sharded))
    assert one.keys() == other.keys() and any(bool(tensor.any()) for name, tensor in one.items() if "lora_B" in name)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("program", LATENT)
def test_adapters_train_and_learn(world: dict[str, Path], tmp_path: Path, program: str) -> None:
    stage = {**STAGE, "steps": 12}
    output = trained(world[program], tmp_path, program, model={"lora": {"rank": 4}}, **{PROGRAMS[program]: stage})
    assert curve(output, "loss")[-1] < curve(output, "loss")[0]


def test_the_alignment_can_be_the_released_ones(world: dict[str, Path], tmp_path: Path) -> None:
    paper, released = (
        trained(world["monet"], tmp_path / axis, "monet", monet={**STAGE, "steps": 1, "alignment": axis})
        for axis in ("paper", "released")
    )
    assert curve(paper, "text") == curve(released, "text")
    assert abs(curve(paper, "alignment")[0] - curve(released, "alignment")[0]) > 1e-3


def test_states_that_are_missing_or_of_other_rows_are_refused_with_the_way_out(
    world: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="holds no teacher's states"):
        TeacherStates(tmp_path)
    states = TeacherStates(world["monet"] / "states")
    with pytest.raises(DataError, match="has no states of problem nobody"):
        states.get("nobody")
    with pytest.raises(InputError, match="another number of latents"):
        trained(world["monet"], tmp_path / "other", "monet", monet=STAGE, latent={"num_latents": 3})
    with pytest.raises(InputError, match="expected model, examples, states"):
        trained(world["monet-warmup"], tmp_path / "none", "monet", monet=STAGE)
    with pytest.raises(ValidationError, match="Monet needs hidden_state, none and own"):
        small_settings(evaluation={"methods": ["monet"]}, latent={"bottleneck": "latent_kv"})


def test_states_are_those_of_the_rows_they_were_computed_for(world: dict[str, Path]) -> None:
    """Each example's own, however many were computed at once."""
    inputs = world["monet"]
    examples, model, settings = load_examples(inputs / "examples"), load_model(inputs / "model"), small_settings()
    encoder = ObservedEncoder(model.processor, settings.latent, settings.prompt, settings.teacher.variant)
    states = TeacherStates(inputs / "states")
    for example in examples[:3]:
        batch = collate([encoder.observed(example, with_latents=True, with_image=False)], model.ids,
                        model.backbone.position_ids)  # fmt: skip
        own = states.get(example.problem.id)
        assert own.shape == (model.backbone.model.config.text_config.num_hidden_layers + 1, 2, 64)
        assert teacher_batch([own], batch, at_latents=True).equal(own)


def test_the_stages_follow_one_another_and_come_into_the_plan() -> None:
    monet, order = get_method("monet"), list(stage_names())
    assert monet.stages == ("monet-warmup", "monet") and monet.latents == "on"
    assert monet.all_stages == ("monet-warmup", "monet-targets", "monet")
    for name, sources in stage_inputs().items():
        assert all(order.index(source) < order.index(name) for source in sources.values())
    assert TRAIN_STAGES["monet"].inputs == {
        "model": "monet-warmup", "examples": "captions", "states": "monet-latents"
    }  # fmt: skip
    sections: dict[str, Any] = {section: {"steps": 4, "batch_size": 6} for section in PROGRAMS.values()}
    settings = small_settings(**sections, evaluation={"methods": ["monet"]})
    works = {work.name: work for work in stage_work(settings, model_sizes(settings.model), recipe_rows(settings), None)}
    assert list(works) == ["base", "monet-warmup", "monet-targets", "monet", "evaluation"]
    assert works["monet-targets"].flops > works["monet"].flops
