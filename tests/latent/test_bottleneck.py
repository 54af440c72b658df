"""Zones of a batch, latents that are read again, and what a bottleneck leaves as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.bottleneck import Bottleneck, Segment, attention_table
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.collate_answers import collate_answers
from mirage_core.latent.examples import EncodedExample
from tests.latent.tiny import IDS, Maker, mixed_examples, tiny_backbone

BOTTLENECKS: tuple[Bottleneck, ...] = ("latent_kv", "latent_only", "image")


def laid_out(
    examples: Sequence[EncodedExample],
    bottleneck: Bottleneck = "none",
    *,
    align: bool = True,
    bottleneck_rows: Sequence[bool] | None = None,
) -> LatentBatch:
    return collate(
        examples, IDS, tiny_backbone().position_ids, align=align, bottleneck=bottleneck, bottleneck_rows=bottleneck_rows
    )


def row_of(batch: LatentBatch, values: Tensor, row: int) -> list[int]:
    """What stands in a row's columns, padding left out."""
    found: list[int] = values[row][batch.attention_mask[row]].tolist()
    return found


@pytest.mark.parametrize("align", [True, False])
def test_zones_of_a_row_with_two_spans(align: bool) -> None:
    make = Maker(0)
    prompt = make.prompt(3, [], 2)
    batch = laid_out([make.example(prompt, (1, 2, 1), 2), make.example(segments=(0, 9))], "latent_only", align=align)
    # Five of the prompt, one of text, latent_start | latents, read again | latent_end, two of text, latent_start | ...
    before, latent, after, read = Segment.BEFORE, Segment.LATENT, Segment.AFTER, Segment.REENCODED
    expected = [before] * 7 + [latent] * 2 + [read] * 2 + [after] * 4 + [latent] * 2 + [read] * 2 + [after] * 3
    assert row_of(batch, batch.segments, 0) == expected
    pads = [token == IDS.latent_pad for token in row_of(batch, batch.input_ids, 0)]
    assert pads == [segment in (Segment.LATENT, Segment.REENCODED) for segment in expected]


def test_read_again_latents_stand_at_the_positions_of_the_latents() -> None:
    batch = laid_out(mixed_examples(), "latent_only")
    assert bool((batch.segments == Segment.REENCODED).any())
    latents, read = batch.segments == Segment.LATENT, batch.segments == Segment.REENCODED
    assert torch.equal(batch.position_ids[:, read], batch.position_ids[:, latents])
    assert bool((batch.labels[read] == -100).all())


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_tokens_positions_labels_and_spans_are_those_of_no_bottleneck(bottleneck: Bottleneck, align: bool) -> None:
    examples = mixed_examples(1)
    plain, found = laid_out(examples, align=align), laid_out(examples, bottleneck, align=align)
    own = found.attention_mask & (found.segments != Segment.REENCODED)
    for row in range(plain.rows):
        mine, theirs = own[row], plain.attention_mask[row]
        assert torch.equal(found.input_ids[row][mine], plain.input_ids[row][theirs])
        assert torch.equal(found.labels[row][mine], plain.labels[row][theirs])
        assert torch.equal(found.position_ids[:, row][:, mine], plain.position_ids[:, row][:, theirs])
    assert torch.equal(found.span_rows, plain.span_rows)
    assert torch.equal(found.span_lengths, plain.span_lengths)
    for row, start, length in zip(found.span_rows, found.span_starts, found.span_lengths, strict=True):
        assert bool((found.segments[row, start : start + length] == Segment.LATENT).all())
        assert int(found.input_ids[row, start - 1]) == IDS.latent_start
        assert int(found.labels[row, start + length - 1]) == IDS.latent_end


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_a_batch_of_which_no_row_is_under_the_bottleneck_is_laid_out_as_ever(
    bottleneck: Bottleneck, align: bool
) -> None:
    examples = mixed_examples(2)
    plain = laid_out(examples, align=align)
    found = replace(laid_out(examples, bottleneck, align=align, bottleneck_rows=[False] * 5), bottleneck="none")
    for field in fields(LatentBatch):
        one, other = getattr(found, field.name), getattr(plain, field.name)
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other, field.name
    assert not bool(plain.segments.any())


def test_only_some_rows_are_under_the_bottleneck() -> None:
    examples = mixed_examples(3)
    batch = laid_out(examples, "latent_only", bottleneck_rows=[True, False, True, True, False])
    assert [bool(row.any()) for row in batch.segments] == [True, False, False, True, False]  # the third has no span
    assert (batch.segments == Segment.REENCODED).sum(1).tolist() == [3, 0, 0, 6, 0]


def test_a_value_for_every_row_is_needed() -> None:
    with pytest.raises(InputError, match="bottleneck_rows has 2 values for 5 rows"):
        laid_out(mixed_examples(), "latent_kv", bottleneck_rows=[True, False])


def test_the_rows_of_another_device_keep_their_zones() -> None:
    assert laid_out(mixed_examples(), "latent_kv").to("meta").segments.device.type == "meta"


def test_answers_beside_their_prompts_have_the_zones_of_whole_rows() -> None:
    make = Maker(4)
    prompt = make.prompt()
    answers = [make.example(prompt, (2, 3, 4), 2), make.example(prompt, (5,)), make.example(prompt, (0, 2), 3)]
    positions = tiny_backbone().position_ids
    shared = collate_answers([(prompt, answers)], IDS, positions, bottleneck="latent_only").answers
    whole = laid_out(answers, "latent_only")
    for row in range(3):
        tail = row_of(shared, shared.segments, row)
        assert row_of(whole, whole.segments, row)[-len(tail) :] == tail
        places = shared.attention_mask[row], whole.attention_mask[row]
        assert torch.equal(
            shared.position_ids[:, row][:, places[0]], whole.position_ids[:, row][:, places[1]][:, -len(tail) :]
        )


def test_every_zone_sees_itself_and_none_before_the_text_after_sees_what_is_read_again() -> None:
    for bottleneck in ("none", *BOTTLENECKS):
        table = attention_table(bottleneck)
        assert bool(table.diagonal().all())
        assert not bool(table[[Segment.BEFORE, Segment.LATENT, Segment.IMAGE], Segment.REENCODED].any())


def test_zones_of_a_row_whose_text_may_not_see_the_image() -> None:
    make = Maker(0)
    prompt = make.prompt(3, [(2, 2)], 2)
    batch = laid_out([make.example(prompt, (1, 2), 2), make.example(prompt, (4,))], "image")
    before, latent, after, image = Segment.BEFORE, Segment.LATENT, Segment.AFTER, Segment.IMAGE
    for row, answer in ((0, [before, latent, latent, latent, after, after, after]), (1, [before] * 4)):
        found = row_of(batch, batch.segments, row)
        seen = [token == IDS.image_pad for token in row_of(batch, batch.input_ids, row)]
        assert [segment == image for segment in found] == seen
        assert any(seen)
        assert found[len(prompt.ids) :][: len(answer)] == answer
        assert set(found[: len(prompt.ids)]) == {before, image}
