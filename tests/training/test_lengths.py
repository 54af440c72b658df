"""Lengths are counted without encoding pictures, and are those of the encoded examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mirage_core.distributed.context import ProcessContext, as_process
from mirage_core.distributed.job import ProgramName
from mirage_core.errors import DataError
from mirage_core.latent.encoder import Encoder
from mirage_core.model.loading import LoadedModel
from mirage_core.store.records import load_examples
from mirage_core.training.data.feature_cache import lengths_of
from mirage_core.training.sft import examples as supervised
from mirage_core.training.sft.examples import example_encoder, training_data
from mirage_core.training.sft.objective import SupervisedObjective
from mirage_core.training.sft.train import load_trainable
from mirage_core.types import TrainingExample
from tests.training.small_world import make_job, quiet, small_settings


@pytest.fixture(scope="module")
def model(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_trainable(make_job(inputs, tmp_path_factory.mktemp("work"), "grounding"))


@pytest.fixture(scope="module")
def examples(inputs: Path) -> list[TrainingExample]:
    return load_examples(inputs / "examples", split="train")


def encoder_of(model: LoadedModel, scale: float) -> Encoder:
    settings = small_settings(prompt={"image_scale": scale})
    return Encoder(model.processor, settings.latent, settings.prompt, settings.teacher.variant)


@pytest.mark.parametrize("scale", (0.4375, 0.3, 1.0))
@pytest.mark.parametrize("with_latents", (True, False))
def test_the_length_is_that_of_the_encoded_example(
    model: LoadedModel, examples: list[TrainingExample], scale: float, with_latents: bool
) -> None:
    encoder = encoder_of(model, scale)
    found = lengths_of(examples, encoder, with_latents=with_latents)
    encoded = [encoder.example(example, with_latents=with_latents, with_targets=False) for example in examples]
    assert found == [len(one.ids) for one in encoded]
    assert len(set(found)) > 1


def test_two_processes_count_a_part_each(model: LoadedModel, examples: list[TrainingExample]) -> None:
    encoder = encoder_of(model, 0.4375)
    parts = []
    for rank in (0, 1):
        with as_process(ProcessContext.on_one_host(rank, 2)):
            parts.append(lengths_of(examples, encoder, with_latents=True))
    whole = lengths_of(examples, encoder, with_latents=True)
    assert [one + other for one, other in zip(*parts, strict=True)] == whole


def test_no_picture_is_decoded(
    model: LoadedModel, examples: list[TrainingExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr(Image.Image, "load", refuse)
    lengths_of(examples, encoder_of(model, 0.4375), with_latents=True)


def test_a_broken_picture_is_named(model: LoadedModel, examples: list[TrainingExample]) -> None:
    problem = replace(examples[0].problem, images=(b"nothing",))
    with pytest.raises(DataError, match=f"problem {problem.id} cannot be decoded"):
        encoder_of(model, 1.0).length(replace(examples[0], problem=problem), with_latents=True)


def test_batches_by_length_take_less_padding_and_every_example_once(
    inputs: Path, tmp_path: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    four_times = load_examples(inputs / "examples", split="train") * 4
    monkeypatch.setattr(supervised, "load_examples", lambda folder, split, frames: four_times)
    padding, seen = {}, {}
    for by in ("chance", "length"):
        cut = {"batch_by": by, "batch_size": 4, "micro_batch_size": 2, "steps": 14}
        job = make_job(inputs, tmp_path / by, "text", direct_sft=cut)
        data, _ = training_data(job, model, quiet)
        objective = SupervisedObjective("text", job.settings, model, data)
        work = [batch.work for step in range(14) for batch in objective.micro_batches(step)]
        padding[by] = 1 - sum(one["tokens"] for one in work) / sum(one["places"] for one in work)
        seen[by] = sorted(name for step in range(14) for name in objective.examples(step))
    assert padding["length"] < 0.5 * padding["chance"]
    assert seen["length"] == seen["chance"]


def test_encoding_and_counting_agree_for_every_program(
    inputs: Path, tmp_path: Path, model: LoadedModel, examples: list[TrainingExample]
) -> None:
    regions = {"region": "crop", "stop": "vector"}
    chosen: list[tuple[ProgramName, str, dict[str, Any]]] = [
        ("text", "direct_sft", {}), ("relaxation", "relaxation", {}), ("lvr", "lvr", {}), ("lvr", "lvr", regions)
    ]  # fmt: skip
    for program, section, more in chosen:
        job = make_job(inputs, tmp_path / program, program, **{section: {"batch_by": "length", **more}})
        data, _ = training_data(job, model, quiet)
        encode = example_encoder(program, job.settings, model, examples)
        assert data.lengths == [len(encode(index).ids) for index in range(len(examples))]
        assert (
            program != "lvr" or len({int((encode(index).ids == model.ids.latent_pad).sum()) for index in range(4)}) > 1
        )
