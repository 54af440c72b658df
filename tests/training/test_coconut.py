"""Coconut's curriculum: its steps, schedule and layouts, its loss by definition, and a training across its stages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import cross_entropy

from mirage_core.config import CoconutSettings, LatentSettings, Settings
from mirage_core.distributed.job import Job
from mirage_core.errors import SettingsError
from mirage_core.latent.collate import collate
from mirage_core.latent.examples import EncodedExample
from mirage_core.latent.reasoning_steps import reasoning_steps
from mirage_core.methods import TRAIN_STAGES, get_method
from mirage_core.model.backbone import Backbone
from mirage_core.model.loading import load_model
from mirage_core.pipeline.stages.train import TRAIN
from mirage_core.store.records import load_examples
from mirage_core.store.tables import read_table
from mirage_core.training.objective import total_counts
from mirage_core.training.sft.beside import Beside, curriculum_of
from mirage_core.training.sft.coconut import Curriculum, StageSchedule, stage_latents
from mirage_core.training.sft.examples import example_encoder, training_data
from mirage_core.training.sft.objective import SupervisedObjective
from mirage_core.training.sft.train import load_trainable
from mirage_core.types import TrainingExample
from tests.training.small_world import make_job, quiet, rank_micro_batches, small_settings, trained_by

STAGE: dict[str, Any] = {
    "steps": 8,
    "batch_size": 6,
    "learning_rate": 2e-3,
    "warmup_steps": 2,
    "first_share": 0.25,
    "last_share": 0.25,
}
"""Stage 0: steps 0 and 1; stage 1: 2 and 3; stage 2: 4 and 5; the last: 6 and 7. Checkpoints after steps 3 and 6."""
WORLD: dict[str, Any] = {
    "captions": {"of": "film"},
    "auxiliary_images": {"film": "forward"},
    "latent": {"num_latents": 4},
}
BY_STEPS: dict[str, Any] = {**WORLD, "latent": {"length": "frames", "end": "free", "max_latents": 4}}


def job_of(
    inputs: Path, work: Path, *, world: dict[str, Any] = WORLD, resume_from: Path | None = None, **more: Any
) -> Job:
    job = make_job(inputs, work, "coconut", resume_from=resume_from, **world, coconut={**STAGE, **more})
    return job.model_copy(update={"inputs": {**job.inputs, "examples": inputs / "captions"}})


def trained(inputs: Path, work: Path, **chosen: Any) -> Path:
    job = job_of(inputs, work, **chosen)
    return trained_by(job)


def curve(output: Path, name: str) -> list[float]:
    return [row["value"] for row in read_table(output / "curves.parquet") if row["name"] == name]


def checkpoint(output: Path, step: int) -> Path:
    return output.parent / "scratch" / "checkpoints" / f"step-{step:08d}"


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained through all stages."""
    return trained(inputs, tmp_path_factory.mktemp("coconut") / "whole")


def test_steps_are_frames_or_sentences_and_make_up_the_caption() -> None:
    film = "(0,1) ice, (0,2) ice and (1,1) hole, (3,3) goal"
    assert reasoning_steps(film, "film") == ["(0,1) ice, ", "(0,2) ice and (1,1) hole, ", "(3,3) goal"]
    words = "It goes right, then down.  Is it 1.5 cells?\nYes! Done"
    assert reasoning_steps(words, "image") == ["It goes right, then down.  ", "Is it 1.5 cells?\n", "Yes! ", "Done"]
    assert "".join(reasoning_steps(words, "image")) == words
    assert reasoning_steps("One sentence.", "image") == ["One sentence."]


@pytest.mark.parametrize(("first", "last"), [(0.1, 0.3), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("steps", [0, 1, 7, 100])
@pytest.mark.parametrize("stages", [1, 3, 6])
def test_stages_follow_one_another_in_their_shares(first: float, last: float, steps: int, stages: int) -> None:
    settings = CoconutSettings(stages=stages, first_share=first, last_share=last)
    schedule = StageSchedule(settings, steps)
    found = [schedule.stage(step) for step in range(steps)]
    assert found == sorted(found) and set(found) <= set(range(stages + 2))
    counts = Counter(found)
    assert abs(counts[0] - first * steps) <= 0.5 and abs(counts[stages + 1] - last * steps) <= 0.5
    between = [counts[stage] for stage in range(1, stages + 1)]
    assert max(between) - min(between) <= 1
    assert [round(share * steps) for share in schedule.shares] == [counts[stage] for stage in range(stages + 2)]
    begun = {step for step in range(1, steps) if found[step] != found[step - 1]}
    assert {step for step in schedule.resets if step < steps} == begun
    assert StageSchedule(settings.model_copy(update={"reset_optimizer": False}), steps).resets == frozenset()


@pytest.mark.parametrize(
    ("length", "expected"),
    [("fixed", [2, 4, 6, 6]), ("frames", [2, 4, 4, 4])],
)
def test_a_chain_with_fewer_steps_has_padded_latents_or_its_own_number(length: Any, expected: list[int]) -> None:
    latent = LatentSettings(length=length, end="free" if length == "frames" else "exact")
    settings = CoconutSettings(stages=3, latents_per_step=2)
    assert [stage_latents(stage, 2, settings, latent) for stage in (1, 2, 3, 4)] == expected


def words_of(example: TrainingExample) -> list[str]:
    """The steps of a maze's film, from its labels."""
    details = example.auxiliary_image.details
    labels = zip(details["cells"], details["kinds"], strict=True)
    texts = [f"({cell[0]},{cell[1]}) {kind}" for cell, kind in labels]
    return [f"{text}, " for text in texts[:-1]] + texts[-1:]


def by_definition(tokenizer: Any, example: TrainingExample, stage: int, latents: Sequence[int]) -> list[int]:
    """The ids after the prompt in a stage of two; ``latents``: how many there are in stages 1 to 3."""
    steps = words_of(example)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    end = [tokenizer.convert_tokens_to_ids("<|im_end|>"), *ids("\n")]
    if stage == 0:
        return [*ids("".join(steps) + example.chain.text_after), *end]
    start, pad, close = (tokenizer.convert_tokens_to_ids(f"<|latent_{name}|>") for name in ("start", "pad", "end"))
    kept = steps[stage:] if stage < 3 else []
    text = "".join(kept) + example.chain.text_after
    return [start, *[pad] * latents[stage - 1], close, *ids(text), *end]


@pytest.mark.parametrize("by_steps", [False, True])
def test_the_layout_of_every_stage_is_that_of_the_definition(inputs: Path, tmp_path: Path, by_steps: bool) -> None:
    job = job_of(inputs, tmp_path, world=BY_STEPS if by_steps else WORLD)
    model = load_trainable(job)
    data, steps = training_data(job, model, quiet)
    curriculum = curriculum_of(job, model, data.examples, steps)
    assert curriculum is not None
    lengths, pad = set(), model.ids.latent_pad
    for index, example in enumerate(data.examples):
        source = data.source.get(index)
        count = len(words_of(example))
        lengths.add(min(count, 3))
        latents = [2, 2 * min(2, count), 2 * min(2, count)] if by_steps else [2, 4, 4]
        prompt = len(curriculum.encoder.prompt(example.problem).ids)
        for stage, step in enumerate((0, 3, 4, 7)):
            row = curriculum.row(index, step, source)
            ids = by_definition(model.processor.tokenizer, example, stage, latents)
            assert row.ids[prompt:].tolist() == ids
            assert row.labels[prompt:].tolist() == [-100 if token == pad else token for token in ids]
            assert torch.equal(row.ids[:prompt], source.ids[:prompt])
            assert torch.equal(row.labels[:prompt], source.labels[:prompt])
            assert row.image_features is source.image_features
    assert len(lengths) > 1  # chains with fewer steps than stages, or with more


def capimagine_example(job: Job, model: Any, example: TrainingExample) -> EncodedExample:
    return example_encoder("capimagine", job.settings, model, [example])(0)


def test_stage_0_is_capimagine(inputs: Path, tmp_path: Path) -> None:
    job = job_of(inputs, tmp_path)
    model = load_trainable(job)
    data, steps = training_data(job, model, quiet)
    curriculum = curriculum_of(job, model, data.examples, steps)
    assert curriculum is not None
    for index in range(3):
        row = curriculum.row(index, 0, data.source.get(index))
        plain = capimagine_example(job, model, data.examples[index])
        assert torch.equal(row.ids, plain.ids) and torch.equal(row.labels, plain.labels)


def test_drawn_stages_are_a_function_of_seed_step_and_example(inputs: Path, tmp_path: Path) -> None:
    def drawn(share: float) -> Curriculum:
        job = job_of(inputs, tmp_path, uniform_prob=share)
        model = load_model(job.input("model"))
        found = curriculum_of(job, model, load_examples(job.input("examples"), split="train"), 8)
        assert found is not None
        return found

    curriculum = drawn(1.0)
    for index in range(4):
        count = len(words_of(curriculum.examples[index]))
        stages = Counter(curriculum.stage(index, step) for step in range(400))
        assert set(stages) == set(range(min(count, 3) + 1))
        for stage in range(min(count, 3)):
            assert stages[stage] / 400 == pytest.approx(1 / (count + 1), abs=0.09)
    assert [drawn(1.0).stage(2, step) for step in range(20)] == [curriculum.stage(2, step) for step in range(20)]
    half = drawn(0.5)
    kept = [half.stage(index, 7) == 3 for index in range(14)]
    assert 0.2 < sum(kept) / len(kept) < 1.0
    assert [drawn(0.0).stage(0, step) for step in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]


def rolled_out(
    backbone: Backbone, row: EncodedExample, ids: Any, read: Callable[[Tensor], Tensor] = lambda state: state
) -> tuple[Tensor, Tensor]:
    """Hidden states [T, D] and latents [k, D] of one row: every latent takes a pass over all tokens before it."""
    batch = collate([row], ids, backbone.position_ids, align=False)
    vectors = backbone.embed(batch.input_ids, list(batch.image_features)).tokens[0]
    rotary = backbone.rotary(batch.position_ids)

    def hidden(length: int) -> Tensor:
        return backbone.hidden(vectors[None, :length], (rotary[0][:, :length], rotary[1][:, :length]), None)[0]

    latents = []
    for place in (row.ids == ids.latent_pad).nonzero().flatten().tolist():
        latents.append(read(hidden(place)[-1]))
        vectors = torch.cat([vectors[:place], latents[-1][None], vectors[place + 1 :]])
    return hidden(len(vectors)), torch.stack(latents) if latents else vectors[:0]


@pytest.mark.parametrize("step", [1, 3, 5, 7])
def test_loss_and_gradients_are_those_of_the_definition_in_every_stage(inputs: Path, tmp_path: Path, step: int) -> None:
    job = job_of(inputs, tmp_path, micro_batch_size=4, gradient_checkpointing=True)
    model = load_trainable(job)
    data, steps = training_data(job, model, quiet)
    curriculum = curriculum_of(job, model, data.examples, steps)
    assert curriculum is not None
    objective = SupervisedObjective("coconut", job.settings, model, data, Beside(curriculum=curriculum))
    batches = [one for rank in range(2) for one in rank_micro_batches(objective, step, rank, 2)]
    totals, backbone = total_counts(batches), model.backbone
    found = 0.0
    for batch in batches:
        part = objective.loss(backbone, batch.data, totals)
        part.total.backward()
        found += part.total.item()
        assert part.parts["stage"].item() > 0 or step == 1
    gradients = {name: weight.grad for name, weight in backbone.named_parameters() if weight.grad is not None}
    backbone.zero_grad()
    losses = []
    for index in data.order.batch(step):
        row = curriculum.row(index, step, data.source.get(index))
        hidden, _ = rolled_out(backbone, row, model.ids)
        losses.append(cross_entropy(backbone.logits(hidden[:-1]), row.labels[1:], reduction="none", ignore_index=-100))
    labelled = sum(int((loss != 0).sum()) for loss in losses)
    expected = torch.cat(losses).sum() / labelled
    assert found == pytest.approx(expected.item(), abs=1e-5)
    expected.backward()
    for name, weight in backbone.named_parameters():
        if name in gradients:
            assert weight.grad is not None
            torch.testing.assert_close(gradients[name], weight.grad, atol=5e-5, rtol=5e-4)
    assert len(gradients) > 20


def test_a_training_goes_through_its_stages_and_says_so(whole: Path) -> None:
    assert curve(whole, "stage") == [0, 0, 1, 1, 2, 2, 3, 3]
    about = load_model(whole).about
    assert about["stages"] == ["base", "coconut"] and about["latent"]["num_latents"] == 4
    assert sorted(path.name for path in whole.glob("*.safetensors")) == ["model.safetensors"]


@pytest.mark.parametrize("step", [3, 6])
def test_a_run_resumed_before_or_at_a_boundary_ends_with_the_same_bits(
    inputs: Path, whole: Path, tmp_path: Path, step: int
) -> None:
    again = trained(inputs, tmp_path / "again", resume_from=checkpoint(whole, step))
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert curve(again, "loss") == curve(whole, "loss")


def test_a_checkpoint_counts_the_optimizers_steps_from_its_reset(inputs: Path, whole: Path, tmp_path: Path) -> None:
    def counted(output: Path) -> list[int]:
        files = [checkpoint(output, step) / "checkpoint.json" for step in (3, 6)]
        return [json.loads(file.read_text())["optimizer_steps"] for file in files]

    kept = trained(inputs, tmp_path / "kept", reset_optimizer=False)
    assert counted(whole) == [1, 2] and counted(kept) == [3, 6]
    assert curve(kept, "loss")[:3] == curve(whole, "loss")[:3] != curve(kept, "loss")[-3:]
    assert curve(kept, "loss")[3] != curve(whole, "loss")[3]  # the step after the first reset


@pytest.mark.parametrize("trial", ["micro-batches", "mixed", "by steps", "blank", "adapters"])
def test_micro_batches_and_checkpointing_change_nothing(inputs: Path, tmp_path: Path, trial: str) -> None:
    world: dict[str, dict[str, Any]] = {
        "by steps": BY_STEPS,
        "blank": {**WORLD, "latent": {"num_latents": 4, "input": "blank"}},
        "adapters": {**WORLD, "model": {"lora": {"rank": 2}}},
    }
    chosen = {"world": world.get(trial, WORLD), "uniform_prob": 0.5 if trial == "mixed" else 0.0}
    plain = trained(inputs, tmp_path / "plain", **chosen)
    cut = trained(inputs, tmp_path / "cut", micro_batch_size=1, gradient_checkpointing=True, **chosen)
    assert curve(plain, "end") if trial == "by steps" else not curve(plain, "end")
    for name in ("loss", "text", "stage", "gradient_norm"):
        assert len(curve(plain, name)) == 8
        assert curve(cut, name) == pytest.approx(curve(plain, name), rel=2e-4), name


def test_validation_measures_the_last_stage_alone(inputs: Path, tmp_path: Path) -> None:
    watched = trained(inputs, tmp_path / "watched", validation={"every": 4, "examples": 2, "problems": 1})
    assert curve(watched, "validation/stage") == [3, 3, 3]
    assert len(curve(watched, "validation/loss")) == len(curve(watched, "validation/accuracy")) == 3


def test_settings_that_cannot_be_met_are_refused_with_the_way_out(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"first_share 0\.6 and last_share 0\.5"):
        CoconutSettings(first_share=0.6, last_share=0.5)
    with pytest.raises(ValidationError, match=r"latent\.num_latents is 2.*set it to 6"):
        small_settings(coconut={"stages": 3}, evaluation={"methods": ["coconut"]})
    with pytest.raises(ValidationError, match=r"coconut\.validation\.patience is 2.*before its last stage"):
        CoconutSettings(validation={"every": 2, "patience": 2})
    assert small_settings(coconut={"stages": 3}).coconut.stages == 3  # nothing is trained with it
    few = {**BY_STEPS, "latent": {"length": "frames", "end": "free", "max_latents": 3}}
    with pytest.raises(ValidationError, match=r"latent\.max_latents is 3.*up to 4"):
        small_settings(**few, evaluation={"methods": ["coconut"]})
    with pytest.raises(SettingsError, match=r"latent\.num_latents is 4.*set it to 6"):
        trained(inputs, tmp_path, stages=3)


def test_the_stage_reads_captions_and_only_its_own_settings() -> None:
    assert get_method("coconut").stages == ("coconut",) and get_method("coconut").latents == "on"
    assert TRAIN_STAGES["coconut"].inputs == {"model": "base", "examples": "captions"}
    plain, after = small_settings(), small_settings(coconut={"stages": 3})
    assert {name for name, stage in TRAIN.items() if stage.identity(plain) != stage.identity(after)} == {"coconut"}
    assert "coconut" not in plain.model_dump() and Settings.model_validate(plain.model_dump()) == plain
