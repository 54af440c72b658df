"""Monet's passes on both model families: rows of any kind, none, one and two spans, with and without an image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mirage_core.latent.collate import collate
from mirage_core.latent.examples import EncodedExample, no_grids, no_pixels
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import embed_batch, single_pass
from mirage_core.training.monet.forward import span_cells, teacher_latents
from mirage_core.training.monet.losses import target_loss
from mirage_core.training.monet.sight import auxiliary_sight
from mirage_core.training.objective import LossParts
from tests.latent.tiny import IDS, mixed_examples, tiny_backbone

KINDS = ("qwen2_5_vl", "qwen3_vl")


def shown(example: EncodedExample) -> EncodedExample:
    """The row with each auxiliary image before its span, and its last three tokens observed."""
    ids, labels = example.ids.tolist(), example.labels.tolist()
    starts = [at for at, token in enumerate(ids) if token == IDS.latent_start]
    for at, grid in reversed(list(zip(starts, example.auxiliary_grid_thw, strict=True))):
        image = [IDS.vision_start, *[IDS.image_pad] * (int(grid.prod()) // 4), IDS.vision_end]
        ids[at:at], labels[at:at] = image, [-100] * len(image)
    pixels = [part for part in (example.pixel_values, example.auxiliary_pixel_values) if len(part)]
    observed = torch.zeros(len(ids), dtype=torch.bool)
    observed[-4:-1] = True
    return replace(
        example,
        ids=torch.tensor(ids),
        labels=torch.tensor(labels),
        pixel_values=torch.cat(pixels) if pixels else no_pixels(),
        grid_thw=torch.cat([example.grid_thw, example.auxiliary_grid_thw]),
        auxiliary_pixel_values=no_pixels(),
        auxiliary_grid_thw=no_grids(),
        observed=observed,
    )


def loss_of(backbone: Backbone, rows: list[EncodedExample], teacher: Tensor, *, checkpointing: bool) -> LossParts:
    batch = collate(rows, IDS, backbone.position_ids)
    return target_loss(
        backbone,
        batch,
        teacher,
        auxiliary_sight(batch, IDS),
        observation_weight=4.0,
        alignment_weight=2.0,
        latent_weight=2.0,
        axis="paper",
        checkpointing=checkpointing,
    )


def gradients(backbone: Backbone, loss: Tensor) -> dict[str, Tensor]:
    backbone.zero_grad(set_to_none=True)
    loss.backward()
    return {name: weight.grad for name, weight in backbone.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_batch_gives_the_mean_of_its_rows(kind: str, checkpointing: bool) -> None:
    backbone, rows = tiny_backbone("sdpa", kind), [shown(example) for example in mixed_examples()]
    torch.manual_seed(0)
    states = [torch.randn(len(backbone.layers) + 1, 3, backbone.hidden_size) for _ in rows]
    pairs = list(zip(rows, states, strict=True))
    alone = [loss_of(backbone, [row], own, checkpointing=False) for row, own in pairs]
    expected = [gradients(backbone, loss.total) for loss in alone]
    together = loss_of(backbone, rows, torch.cat(states, dim=1), checkpointing=checkpointing)
    for part in ("text", "alignment"):
        mean = sum(loss.parts[part].item() for loss in alone) / len(rows)
        assert together.parts[part].item() == pytest.approx(mean, abs=1e-5)
    for name, gradient in gradients(backbone, together.total).items():
        mean_gradient = sum((one[name] for one in expected if name in one), torch.zeros_like(gradient)) / len(rows)
        torch.testing.assert_close(gradient, mean_gradient, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teachers_states_do_not_depend_on_the_other_rows(kind: str) -> None:
    backbone = tiny_backbone("sdpa", kind)
    rows = [row for row in map(shown, mixed_examples()) if bool((row.ids == IDS.latent_pad).any())]
    alone = [teacher_latents(backbone, collate([row], IDS, backbone.position_ids)) for row in rows]
    together = teacher_latents(backbone, collate(rows, IDS, backbone.position_ids))
    torch.testing.assert_close(together, torch.cat(alone, dim=1), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_text_after_a_span_learns_of_its_image_through_the_latents_alone(kind: str) -> None:
    """Another auxiliary image: other latents and other text after them; where the latents are hidden, the same text."""
    backbone, row = tiny_backbone("sdpa", kind), shown(mixed_examples()[1])
    other = row.pixel_values.clone()
    other[-int(row.grid_thw[-1].prod()) :] += 1.0
    first, second = (
        collate([replace(row, pixel_values=pixels)], IDS, backbone.position_ids) for pixels in (row.pixel_values, other)
    )
    sight = auxiliary_sight(first, IDS).parallel
    row_of, columns = span_cells(first)
    hidden = sight.table.clone()
    hidden[:, sight.segments[row_of[0], columns[0]]] = False
    text = first.input_ids[0] != IDS.image_pad
    text[columns] = False  # the latents' own columns see the image
    for table, equal in ((sight.table, False), (hidden, True)):
        pair = (
            single_pass(backbone, embed_batch(backbone, batch), batch, sight=replace(sight, table=table))[0]
            for batch in (first, second)
        )
        differences = next(pair) - next(pair)
        assert float(differences[columns].abs().max()) > 1e-3
        assert (float(differences[text].abs().max()) < 1e-6) == equal
        assert float(differences[: int(columns[0])][text[: int(columns[0])]].abs().max()) < 1e-6
