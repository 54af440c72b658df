"""Rows that bring about the passes of other processes: nothing is learned from them, and they change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.examples import IGNORED
from mirage_core.model.forward.forward import relaxation_forward
from mirage_core.training.engine.lockstep import dummy_row, sync_block_widths
from tests.latent.tiny import IDS, mixed_examples, tiny_backbone


def widths(batch: LatentBatch) -> tuple[int, ...]:
    return tuple(block.width for block in batch.blocks)


ONE_SPAN, NO_SPAN, TWO_SPANS = 1, 2, 3


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (ONE_SPAN, (3, 5)),
        (ONE_SPAN, (4,)),
        (NO_SPAN, (3,)),
        (NO_SPAN, (2, 3, 4)),
        (TWO_SPANS, (3, 5)),
        (TWO_SPANS, (3, 3, 4)),
    ],
)
def test_a_row_beside_others_brings_about_the_blocks_and_changes_nothing(row: int, wanted: tuple[int, ...]) -> None:
    backbone, example = tiny_backbone(), mixed_examples()[row]
    alone = collate([example], IDS, backbone.position_ids)
    assert widths(alone) != wanted
    beside = collate([example, dummy_row(wanted, IDS, [example])], IDS, backbone.position_ids)
    assert widths(beside) == wanted
    assert (beside.labels != IGNORED).sum() == (alone.labels != IGNORED).sum()
    with torch.no_grad():
        one, both = (relaxation_forward(backbone, batch).hidden for batch in (alone, beside))
    kept = both[0][beside.attention_mask[0]]
    assert torch.allclose(one[0][alone.attention_mask[0]], kept, atol=1e-5)


def test_auxiliary_images_are_lent_where_the_others_have_them() -> None:
    plain, with_images = mixed_examples()[2], mixed_examples()[1]
    assert len(dummy_row((3, 3), IDS, [plain]).auxiliary_grid_thw) == 0
    lent = dummy_row((3, 3), IDS, [plain, with_images])
    assert torch.equal(lent.auxiliary_grid_thw, with_images.auxiliary_grid_thw.repeat(2, 1))
    assert torch.equal(lent.auxiliary_pixel_values, with_images.auxiliary_pixel_values.repeat(2, 1))
    which = torch.arange(12) % 2 == 0
    lent = dummy_row((3, 3), IDS, [plain, replace(with_images, auxiliary_patch_masks=(which,))])
    assert [kept.tolist() for kept in lent.auxiliary_patch_masks] == [which.tolist()] * 2


def test_alone_everybody_agrees() -> None:
    assert sync_block_widths([(3, 5), (), (2,)]) == [(3, 5), (), (2,)]
