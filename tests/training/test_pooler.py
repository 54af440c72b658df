"""A pooler of auxiliary images: its vectors, its training beside a frozen model, and latents that are held to them."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from mirage_core.config import PooledTrainSettings, Settings
from mirage_core.errors import InputError, SettingsError
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.methods import TRAIN_STAGES, get_method
from mirage_core.model.forward.forward import relaxation_forward, replay_forward
from mirage_core.model.loading import load_model
from mirage_core.pipeline.stages.train import TRAIN
from mirage_core.planning.sizes import model_sizes
from mirage_core.planning.stages import stage_work
from mirage_core.planning.token_counts import recipe_rows
from mirage_core.store.tables import read_table
from mirage_core.training.sft.losses import pooler_loss, relaxation_loss
from mirage_core.training.sft.pooler import (
    POOLER_FILE,
    Pooler,
    answer_labels,
    load_pooler,
    new_pooler,
    places,
    pooled_latents,
    pooler_parameters,
    token_grid,
)
from mirage_core.training.sft.targets import TargetComparison
from mirage_core.training.validation.metrics import ValidationLoss
from tests.latent.tiny import HIDDEN, IDS, Maker, mixed_examples, tiny_backbone
from tests.training.small_world import make_job, small_settings, trained_by

STAGE = {"steps": 4, "batch_size": 6, "learning_rate": 2e-3, "warmup_steps": 2}


def trained(inputs: Path, work: Path, program: str, resume_from: Path | None = None, **sections: Any) -> Path:
    job = make_job(inputs, work, program, resume_from=resume_from, **sections)
    return trained_by(job)


def curve(output: Path, name: str) -> list[float]:
    return [row["value"] for row in read_table(output / "curves.parquet") if row["name"] == name]


def with_model(inputs: Path, folder: Path, model: Path) -> Path:
    """The same inputs, with another model to begin with."""
    folder.mkdir()
    for name in ("examples", "problems"):
        (folder / name).symlink_to(inputs / name)
    (folder / "model").symlink_to(model)
    return folder


@pytest.fixture(scope="module")
def pooled_inputs(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world, with a pooler beside its model."""
    work = tmp_path_factory.mktemp("pooler")
    return with_model(inputs, work / "inputs", trained(inputs, work / "work", "pooler", pooler=STAGE))


def by_definition(pooler: Pooler, image: Tensor, rows: int, columns: int) -> Tensor:
    """The vectors [K, D] of one image, head by head and query by query."""
    size, heads = image.shape[-1], pooler.heads
    tokens = pooler.image_norm(image).clone()
    quarter = size // 4
    for at in range(rows * columns):
        for number, place in enumerate(divmod(at, columns)):
            for wave in range(quarter):
                angle = place / 10_000 ** (wave / quarter)
                tokens[at, number * 2 * quarter + wave] += math.sin(angle)
                tokens[at, number * 2 * quarter + quarter + wave] += math.cos(angle)
    keys, values, width = pooler.key(tokens), pooler.value(tokens), size // heads
    vectors = []
    for query in pooler.query(pooler.queries):
        parts = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            weights = (keys[:, part] @ query[part] / math.sqrt(width)).softmax(0)
            parts.append(weights @ values[:, part])
        vectors.append(torch.cat(parts))
    return pooler.norm(pooler.queries + pooler.output(torch.stack(vectors)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [64, 128, 20])
def test_the_vectors_are_those_of_the_definition_whatever_else_is_pooled(size: int) -> None:
    torch.manual_seed(3)
    pooler, grids = Pooler(size, 3), [(2, 3), (4, 1), (1, 1)]
    images = [torch.randn(rows * columns, size) for rows, columns in grids]
    found = pooler(images, grids)
    assert found.shape == (3, 3, size)
    for vectors, image, grid in zip(found, images, grids, strict=True):
        torch.testing.assert_close(vectors, by_definition(pooler, image, *grid), atol=1e-5, rtol=1e-4)


def test_equal_tokens_at_other_places_give_other_vectors() -> None:
    torch.manual_seed(0)
    pooler, image = Pooler(64, 2), torch.zeros(9, 64)
    image[2] = 4.0 * torch.randn(64)
    moved = image.roll(1, 0)
    with torch.no_grad():
        assert not torch.allclose(pooler([image], [(3, 3)]), pooler([moved], [(3, 3)]), atol=1e-4)
    assert len({tuple(row.tolist()) for row in places(5, 4, 64)}) == 20
    assert places(2, 2, 18)[:, 16:].abs().max() == 0  # what is left over


def test_the_grid_of_tokens_is_that_of_patches_before_they_were_merged() -> None:
    assert token_grid((1, 6, 8), 12) == (3, 4)
    assert token_grid((1, 2, 2), 1) == (1, 1)


def batch_of(count: int = 3) -> LatentBatch:
    make = Maker(5)
    examples = [answer_labels(make.example(), IDS.latent_end) for _ in range(count)]
    return collate(examples, IDS, tiny_backbone().position_ids, align=False)


def test_only_what_follows_the_last_span_is_learned_from() -> None:
    for example in mixed_examples():
        labels = answer_labels(example, IDS.latent_end).labels
        ends = (example.ids == IDS.latent_end).nonzero().flatten().tolist()
        first = ends[-1] + 1 if ends else 0
        assert (labels[:first] == -100).all() and torch.equal(labels[first:], example.labels[first:])


def test_a_poolers_loss_is_that_of_its_vectors_fed_and_moves_nothing_else() -> None:
    backbone, batch = deepcopy(tiny_backbone()).requires_grad_(False), batch_of()
    pooler = new_pooler(backbone, 3, seed=1)
    latents = pooled_latents(pooler, backbone, batch)
    found = pooler_loss(backbone, batch, pooler)
    hidden = replay_forward(backbone, batch, list(latents))
    labelled = batch.labels != -100
    expected = cross_entropy(backbone.logits(hidden[labelled]), batch.labels[labelled])
    assert found.total.item() == pytest.approx(expected.item(), abs=1e-5)
    found.total.backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in pooler.parameters())
    assert all(weight.grad is None for weight in backbone.parameters())


def test_a_new_pooler_makes_vectors_of_the_size_of_hidden_states() -> None:
    backbone, batch = deepcopy(tiny_backbone()), batch_of()
    with torch.no_grad():
        backbone.norm_weight.mul_(3.0)
        vectors = pooled_latents(new_pooler(backbone, 3, seed=1), backbone, batch)
        hidden = relaxation_forward(backbone, collate(mixed_examples(), IDS, backbone.position_ids)).latents
    assert vectors.norm(dim=-1).mean().item() == pytest.approx(hidden.norm(dim=-1).mean().item(), rel=0.15)


def test_latents_are_held_to_the_poolers_vectors_beside_the_text() -> None:
    backbone = tiny_backbone()
    make = Maker(5)
    batch = collate([make.example() for _ in range(3)], IDS, backbone.position_ids)
    pooler = new_pooler(backbone, 3, seed=1)
    settings = PooledTrainSettings()
    comparison = TargetComparison(
        compression="even", pooler=pooler, weight=settings.grounding_weight, distance=settings.distance
    )
    found = relaxation_loss(backbone, batch, text_weight=settings.text_weight, comparison=comparison)
    relaxed = relaxation_forward(backbone, batch)
    targets = pooled_latents(pooler, backbone, batch)
    squared = sum(
        float((ours - theirs).detach().square().sum()) for ours, theirs in zip(relaxed.latents, targets, strict=True)
    ) / (3 * 3 * HIDDEN)
    labelled = batch.labels != -100
    text = cross_entropy(backbone.logits(relaxed.hidden[labelled]), batch.labels[labelled]).item()
    assert found.total.item() == pytest.approx(0.5 * text + squared, rel=1e-5)
    assert "cosine" in found.parts and "cosine_input" not in found.parts
    found.total.backward()
    assert all(weight.grad is None for weight in pooler.parameters())


def test_the_model_beside_a_pooler_stays_as_it_was_also_with_adapters_and_a_trained_tower(
    inputs: Path, pooled_inputs: Path, tmp_path: Path
) -> None:
    before = load_file(inputs / "model" / "model.safetensors")
    adapted = trained(inputs, tmp_path / "lora", "pooler", pooler=STAGE, model={"lora": {"rank": 2}})
    seeing = trained(inputs, tmp_path / "tower", "pooler", pooler={**STAGE, "steps": 1}, model={"train_vision": True})
    for folder in (pooled_inputs / "model", adapted, seeing):
        after = load_file(folder / "model.safetensors")
        assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
        assert not (folder / "adapter").exists()
    first, second = (load_file(folder / POOLER_FILE) for folder in (pooled_inputs / "model", adapted))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_pooler_learns(inputs: Path, tmp_path: Path) -> None:
    output = trained(inputs, tmp_path, "pooler", pooler={**STAGE, "steps": 40, "learning_rate": 1e-2})
    losses = curve(output, "loss")
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])  # the model is random, and frozen


def test_a_pooler_resumed_in_micro_batches_goes_as_one_undisturbed(
    inputs: Path, pooled_inputs: Path, tmp_path: Path
) -> None:
    whole = (pooled_inputs / "model").resolve()
    middle = whole.parent / "scratch" / "checkpoints" / "step-00000003"
    again = trained(inputs, tmp_path / "same", "pooler", pooler=STAGE, resume_from=middle)
    assert (again / POOLER_FILE).read_bytes() == (whole / POOLER_FILE).read_bytes()
    halves = {**STAGE, "micro_batch_size": 2, "gradient_checkpointing": True}
    parts = trained(inputs, tmp_path / "parts", "pooler", pooler=halves)
    for name in ("loss", "text", "gradient_norm"):
        assert curve(parts, name) == pytest.approx(curve(whole, name), rel=1e-4), name


def test_the_best_pooler_is_kept(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [3.0, 1.0, 2.0, 4.0, 5.0]  # a pooler of a random model hardly gets worse
    monkeypatch.setattr(ValidationLoss, "__call__", lambda *_: {"loss": losses.pop(0)})
    stage = {**STAGE, "warmup_steps": 0, "schedule": "constant"}
    watched = {**stage, "validation": {"every": 1, "keep_best": True}}
    output = trained(inputs, tmp_path / "watched", "pooler", pooler=watched)
    short = trained(inputs, tmp_path / "short", "pooler", pooler={**stage, "steps": 1})
    for name, weight in load_file(output / POOLER_FILE).items():
        torch.testing.assert_close(weight, load_file(short / POOLER_FILE)[name], atol=1e-5, rtol=0.0)


def test_pooled_targets_are_trained_in_any_micro_batches_and_measured(pooled_inputs: Path, tmp_path: Path) -> None:
    watched = {**STAGE, "validation": {"every": 4, "examples": 2}}
    whole = trained(pooled_inputs, tmp_path / "whole", "pooled", pooled=watched)
    parts = trained(pooled_inputs, tmp_path / "parts", "pooled", pooled={**watched, "micro_batch_size": 2})
    for name in ("loss", "text", "visual", "cosine", "validation/loss", "validation/cosine_constant"):
        assert curve(whole, name) and curve(parts, name) == pytest.approx(curve(whole, name), rel=1e-3), name
    assert [0.5 * text + visual for text, visual in zip(curve(whole, "text"), curve(whole, "visual"), strict=True)] == (
        pytest.approx(curve(whole, "loss"), rel=1e-5)
    )
    assert curve(whole, "visual")[-1] < curve(whole, "visual")[0]
    about = load_model(whole).about
    assert about["stages"] == ["base", "pooler", "pooled"] and not (whole / POOLER_FILE).exists()


def test_a_pooler_that_is_missing_or_another_is_refused_with_the_way_out(
    inputs: Path, pooled_inputs: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="stage pooler"):
        trained(inputs, tmp_path / "missing", "pooled", pooled=STAGE)
    backbone = load_model(pooled_inputs / "model").backbone
    with pytest.raises(SettingsError, match=r"latent\.num_latents"):
        load_pooler(pooled_inputs / "model", backbone, 3)
    frames: dict[str, Any] = {"latent": {"length": "frames", "end": "free"}, "auxiliary_images": {"film": "forward"}}
    with pytest.raises(SettingsError, match=r"latent\.length"):
        trained(inputs, tmp_path / "frames", "pooler", pooler=STAGE, **frames)
    with pytest.raises(ValidationError, match=r"pooler\.validation\.problems"):
        small_settings(pooler={"validation": {"every": 1, "problems": 3}})
    batch = batch_of()
    with pytest.raises(InputError, match="spans and lengths"):
        pooler_loss(tiny_backbone(), batch, new_pooler(tiny_backbone(), 2, seed=0))


def test_the_stages_follow_one_another_and_each_depends_on_its_own_settings() -> None:
    assert get_method("pooled-grpo").stages == ("pooler", "pooled", "pooled-grpo")
    assert get_method("pooled").latents == "on"
    assert TRAIN_STAGES["pooled"].inputs == {"model": "pooler", "examples": "examples"}
    plain = small_settings()

    def changed(**sections: Any) -> set[str]:
        after = small_settings(**sections)
        return {name for name, stage in TRAIN.items() if stage.identity(plain) != stage.identity(after)}

    assert changed(pooler={"steps": 3}) == {"pooler"}
    assert changed(pooled={"text_weight": 1.0}) == {"pooled"}
    assert not {"pooler", "pooled"} & plain.model_dump().keys()
    assert Settings.model_validate(plain.model_dump()) == plain


def test_the_plan_counts_a_frozen_model_and_the_poolers_own_weights() -> None:
    stage = {"steps": 4, "batch_size": 6}
    settings = small_settings(
        pooler=stage, pooled=stage, relaxation=stage, evaluation={"methods": ["pooled", "without-stage-1"]}
    )
    works = stage_work(settings, model_sizes(settings.model), recipe_rows(settings), None)
    stages = {work.name: work for work in works}
    assert list(stages) == ["base", "without-stage-1", "pooler", "pooled", "evaluation"]
    assert stages["pooled"].flops == stages["without-stage-1"].flops
    assert stages["pooler"].flops < 0.7 * stages["pooled"].flops
    (step,) = (moment for moment in stages["pooler"].moments if moment.name == "step")
    moments_of_adam = 8 * sum(weight.numel() for weight in Pooler(64, 2).parameters())
    assert step.parts["optimizer"] == moments_of_adam == 8 * pooler_parameters(64, 2)
