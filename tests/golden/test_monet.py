"""Number for number what Monet's released code computes (arXiv 2511.21395), on stock transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from mirage_core.benchmarks.io.chain_rows import OBSERVATION, monet_rows
from mirage_core.errors import InputError
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.examples import EncodedExample
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.sight import Sight
from mirage_core.training.monet.forward import (
    observed_cells,
    span_cells,
    student_forward,
    teacher_latents,
    teacher_observations,
)
from mirage_core.training.monet.losses import latent_loss, target_loss, warmup_loss
from mirage_core.training.monet.sight import auxiliary_sight
from mirage_core.training.objective import LossParts
from tests.golden.monet_cases import MonetCase, MonetGolden, monet_case_names

LOSS, VALUES, NORM = 1e-5, 5e-5, 1e-4
Gradients = dict[str, Tensor]
pytestmark = pytest.mark.parametrize("name", monet_case_names())


@pytest.fixture(scope="module")
def golden() -> MonetGolden:
    return MonetGolden()


def check(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach().reshape(expected.shape), expected, atol=VALUES, rtol=VALUES)


def gradients(backbone: Backbone, loss: Tensor) -> Gradients:
    backbone.zero_grad(set_to_none=True)
    loss.backward()
    return {name: weight.grad for name, weight in backbone.model.named_parameters() if weight.grad is not None}


def check_gradients(case: MonetCase, found: Gradients, stage: int, kind: str) -> None:
    """The norm of every gradient, that of all, and the whole gradients that the case has."""
    norms = dict(case.scalars[f"s{stage}_{kind}_norms"])
    everything = torch.stack([gradient.norm() for gradient in found.values()]).norm().item()
    assert everything == pytest.approx(norms.pop("__global__"), rel=NORM)
    for name, norm in norms.items():
        ours = found[name].norm().item() if name in found else 0.0
        assert ours == pytest.approx(norm, rel=NORM, abs=VALUES), name
    outputs, prefix = case.tensors(f"stage{stage}.outputs"), f"s{stage}_{kind}."
    for key in (key for key in outputs if key.startswith(prefix)):
        check(found[key.removeprefix(prefix)], outputs[key])


def stage_2(
    golden: MonetGolden, case: MonetCase, backbone: Backbone, *, latent_weight: float = 2.0, checkpointing: bool = False
) -> LossParts:
    batch = golden.batch(backbone, case.example(2))
    return target_loss(
        backbone,
        batch,
        case.tensors("teacher_reps")["teacher_reps"],
        auxiliary_sight(batch, golden.ids),
        observation_weight=4.0,
        alignment_weight=2.0,
        latent_weight=latent_weight,
        axis="released",
        checkpointing=checkpointing,
    )


def stage_3(
    golden: MonetGolden, case: MonetCase, backbone: Backbone, *, weight: float = 2.0, checkpointing: bool = False
) -> LossParts:
    return latent_loss(
        backbone,
        golden.batch(backbone, case.example(3)),
        case.tensors("teacher_latents")["teacher_latents"],
        observation_weight=4.0,
        alignment_weight=weight,
        axis="released",
        checkpointing=checkpointing,
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_warm_up(golden: MonetGolden, name: str, attention: str) -> None:
    case, backbone = golden.case(name), golden.backbone("m1", attention)
    batch = golden.batch(backbone, case.example(1))
    assert torch.equal(batch.position_ids, case.tensors("stage1.inputs")["position_ids"])
    loss = warmup_loss(backbone, batch, observation_weight=2.0)
    assert loss.total.item() == pytest.approx(case.scalars["s1_ce_x2"], abs=LOSS)
    check_gradients(case, gradients(backbone, loss.total), 1, "grad")
    plain = warmup_loss(backbone, batch, observation_weight=1.0)
    assert plain.total.item() == pytest.approx(case.scalars["s1_ce_plain"], abs=LOSS)


def test_the_teachers_states_at_observations(golden: MonetGolden, name: str) -> None:
    case, backbone = golden.case(name), golden.backbone("m1")
    found = teacher_observations(backbone, golden.batch(backbone, case.example(1)))
    check(found, case.tensors("teacher_reps")["teacher_reps"])


def test_the_teachers_states_at_latents(golden: MonetGolden, name: str) -> None:
    case, backbone = golden.case(name), golden.backbone("m2")
    found = teacher_latents(backbone, golden.batch(backbone, case.example(2)))
    check(found, case.tensors("teacher_latents")["teacher_latents"])


def visible(batch: LatentBatch, sight: Sight) -> Tensor:
    """What each token of the only row may attend to [T, T]."""
    segments = sight.segments[0]
    return sight.table[segments[:, None], segments[None]] & torch.ones(len(segments), len(segments)).tril().bool()


def test_who_sees_the_auxiliary_image(golden: MonetGolden, name: str) -> None:
    case, backbone = golden.case(name), golden.backbone("m1")
    batch = golden.batch(backbone, case.example(2))
    found = visible(batch, auxiliary_sight(batch, golden.ids).parallel)
    assert torch.equal(found, case.tensors("stage2.inputs")["attention_mask_4d"][0, 0])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_target_latents(golden: MonetGolden, name: str, attention: str, checkpointing: bool) -> None:
    case, backbone = golden.case(name), golden.backbone("m1", attention)
    loss = stage_2(golden, case, backbone, checkpointing=checkpointing)
    assert loss.parts["text"].item() == pytest.approx(case.scalars["s2_ce_x4"], abs=LOSS)
    assert loss.parts["alignment"].item() == pytest.approx(case.scalars["s2_alignment"], abs=LOSS)
    check_gradients(case, gradients(backbone, loss.total), 2, "grad")


def test_the_student_of_target_latents(golden: MonetGolden, name: str) -> None:
    case, backbone = golden.case(name), golden.backbone("m1")
    batch, outputs = golden.batch(backbone, case.example(2)), case.tensors("stage2.outputs")
    found = student_forward(backbone, batch, observed_cells(batch), auxiliary_sight(batch, golden.ids))
    check(found.latents, outputs["s2_latents"])
    check(backbone.logits(found.hidden), outputs["s2_logits"])
    check(found.states, outputs["s2_student_hidden"])


def test_the_alignment_reaches_weights_through_latents_alone(golden: MonetGolden, name: str) -> None:
    case, backbone = golden.case(name), golden.backbone("m1")
    loss = stage_2(golden, case, backbone)  # their value of this is alpha <z, g>: its gradient is 2 x the alignment's
    check_gradients(case, gradients(backbone, 2 * loss.parts["alignment"]), 2, "latent_only_grad")


def test_the_alignment_as_an_ordinary_part(golden: MonetGolden, name: str) -> None:
    case, backbone = golden.case(name), golden.backbone("m1")
    loss = stage_2(golden, case, backbone, latent_weight=0.0)
    assert loss.total.item() == pytest.approx(case.scalars["s2_naive_total"], abs=LOSS)
    check_gradients(case, gradients(backbone, loss.total), 2, "naive_grad")
    text = stage_2(golden, case, backbone).parts["text"]
    check_gradients(case, gradients(backbone, text), 2, "ce_only_grad")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_latents_without_the_image(golden: MonetGolden, name: str, attention: str, checkpointing: bool) -> None:
    case, backbone = golden.case(name), golden.backbone("m1", attention)
    loss = stage_3(golden, case, backbone, checkpointing=checkpointing)
    assert loss.parts["text"].item() == pytest.approx(case.scalars["s3_ce_x4"], abs=LOSS)
    assert loss.parts["alignment"].item() == pytest.approx(case.scalars["s3_alignment"], abs=LOSS)
    assert loss.total.item() == pytest.approx(case.scalars["s3_total"], abs=LOSS)
    check_gradients(case, gradients(backbone, loss.total), 3, "grad")
    check_gradients(case, gradients(backbone, stage_3(golden, case, backbone, weight=0.0).total), 3, "ce_only_grad")


def test_the_student_without_the_image(golden: MonetGolden, name: str) -> None:
    case, backbone = golden.case(name), golden.backbone("m1")
    batch, outputs = golden.batch(backbone, case.example(3)), case.tensors("stage3.outputs")
    found = student_forward(backbone, batch, span_cells(batch))
    check(found.latents, outputs["s3_latents"])
    check(backbone.logits(found.hidden), outputs["s3_logits"])
    check(found.states, outputs["s3_student_hidden"])


@pytest.mark.parametrize("axis", ["paper", "released"])
@pytest.mark.parametrize("stage", [2, 3])
def test_a_batch_gives_the_mean_of_its_rows(
    golden: MonetGolden, name: str, stage: Literal[2, 3], axis: Literal["paper", "released"]
) -> None:
    """The released code takes one row at a time; here one is shorter, and one has no span."""
    case, backbone = golden.case(name), golden.backbone("m1")
    whole = case.example(stage)
    rows = [cut(whole, len(whole.ids) - 5), whole, before_the_span(golden, whole)]
    key = "teacher_reps" if stage == 2 else "teacher_latents"
    states = case.tensors(key)[key]
    of_rows = [states.roll(1, -1), states, states[:, :0]]
    alone = [row_loss(golden, backbone, [row], own, axis, stage) for row, own in zip(rows, of_rows, strict=True)]
    expected = [gradients(backbone, loss.total) for loss in alone]
    together = row_loss(golden, backbone, rows, torch.cat(of_rows, dim=1), axis, stage)
    for part in ("text", "alignment"):
        mean = sum(loss.parts[part].item() for loss in alone) / 3
        assert mean and together.parts[part].item() == pytest.approx(mean, abs=LOSS)
    for weight, gradient in gradients(backbone, together.total).items():
        check(gradient, sum((one[weight] for one in expected if weight in one), torch.zeros_like(gradient)) / 3)


def row_loss(
    golden: MonetGolden,
    backbone: Backbone,
    rows: list[EncodedExample],
    teacher: Tensor,
    axis: Literal["paper", "released"],
    stage: Literal[2, 3],
) -> LossParts:
    batch, weights = golden.batch(backbone, *rows), {"observation_weight": 4.0, "alignment_weight": 2.0}
    if stage == 3:
        return latent_loss(backbone, batch, teacher, axis=axis, **weights)
    sight = auxiliary_sight(batch, golden.ids)
    return target_loss(backbone, batch, teacher, sight, axis=axis, latent_weight=2.0, **weights)


def cut(row: EncodedExample, length: int) -> EncodedExample:
    """The first tokens of a row, with the images that are in them."""
    assert row.observed is not None
    return replace(row, ids=row.ids[:length], labels=row.labels[:length], observed=row.observed[:length])


def before_the_span(golden: MonetGolden, row: EncodedExample) -> EncodedExample:
    """The question and the answer up to the first span or its image."""
    starts = (row.ids == golden.ids.vision_start).nonzero().flatten().tolist()
    spans = (row.ids == golden.ids.latent_start).nonzero().flatten().tolist()
    row = cut(row, [*starts, *spans][1])
    return replace(row, pixel_values=row.pixel_values[: int(row.grid_thw[0].prod())], grid_thw=row.grid_thw[:1])


def test_the_alignment_of_the_paper(golden: MonetGolden, name: str) -> None:
    """By definition: two states of a token, along their features."""
    case, backbone = golden.case(name), golden.backbone("m1")
    teacher = case.tensors("teacher_latents")["teacher_latents"]
    student = case.tensors("stage3.outputs")["s3_student_hidden"]
    cosines = [a @ b / (a.norm() * b.norm()) for a, b in zip(teacher.flatten(0, 1), student.flatten(0, 1), strict=True)]
    found = row_loss(golden, backbone, [case.example(3)], teacher, "paper", 3).parts["alignment"]
    assert found.item() == pytest.approx(1 - float(torch.stack(cosines).mean()), abs=LOSS)


def test_a_span_without_its_image_is_refused(golden: MonetGolden, name: str) -> None:
    backbone = golden.backbone("m1")
    row = golden.case(name).example(3)
    batch = golden.batch(backbone, row)
    with pytest.raises(InputError, match=r"images for \d latent spans|expected its auxiliary image"):
        auxiliary_sight(batch, golden.ids)


def test_the_record_of_a_case_is_read_as_published(golden: MonetGolden, name: str) -> None:
    (row,) = monet_rows(golden.folder / "data" / name / "train.json")
    ids = golden.case(name).example(2).ids
    shown = [part for part in row.answer if isinstance(part, bytes)]
    assert len(shown) == int((ids == golden.ids.latent_start).sum())
    assert len(row.images) + len(shown) == int((ids == golden.ids.vision_start).sum())
    tags = golden.scalars["token_ids"]["obs_start"][0]
    text = "".join(part for part in row.answer if isinstance(part, str))
    assert text.count(OBSERVATION[0]) == int((ids == tags).sum()) > 0
