"""Batches whose latent spans share columns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import InputError
from mirage_core.latent.collate import LatentBatch, collate, collate_prompts
from mirage_core.latent.examples import IGNORED, EncodedExample
from tests.latent.tiny import IDS, Maker, mixed_examples, tiny_backbone

POSITIONS = tiny_backbone().position_ids


def rows_of(batch: LatentBatch) -> list[list[int]]:
    """Each row's tokens, read from left to right without padding."""
    return [ids[mask].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]


def check_meaning(examples: list[EncodedExample], batch: LatentBatch) -> None:
    """Every row holds its tokens in order, predicts what it is to predict, and has the positions it has alone."""
    assert rows_of(batch) == [example.ids.tolist() for example in examples]
    for row, example in enumerate(examples):
        mask = batch.attention_mask[row]
        assert batch.labels[row][mask].tolist() == [*example.labels[1:].tolist(), IGNORED]
        assert (batch.labels[row][~mask] == IGNORED).all()
        alone = POSITIONS(example.ids, torch.tensor([len(example.ids)]), example.grid_thw)
        assert torch.equal(batch.position_ids[:, row][:, mask], alone)


@pytest.mark.parametrize("align", [True, False])
def test_rows_mean_the_same_in_a_mixed_batch(align: bool) -> None:
    examples = mixed_examples()
    check_meaning(examples, collate(examples, IDS, POSITIONS, align=align))


def test_spans_of_all_rows_share_columns() -> None:
    batch = collate(mixed_examples(), IDS, POSITIONS)
    assert [block.width for block in batch.blocks] == [3, 3]
    starts = [batch.blocks[block].start for block in batch.span_blocks.tolist()]
    assert batch.span_starts.tolist() == starts
    assert batch.span_rows.tolist() == [0, 1, 3, 3, 4]
    for row, start, length in zip(batch.span_rows, batch.span_starts, batch.span_lengths, strict=True):
        assert batch.input_ids[row, start - 1] == IDS.latent_start
        assert (batch.input_ids[row, start : start + length] == IDS.latent_pad).all()


def test_rows_without_a_span_fill_the_segments_instead_of_widening_the_batch() -> None:
    make = Maker(0)
    prompt = make.prompt(20, [], 20)
    batch = collate([make.example(prompt, (0, 5)), make.example(prompt, (5,))], IDS, POSITIONS)
    assert batch.input_ids.shape[1] == len(prompt.ids) + 1 + 3 + 1 + 5 + 1


def test_one_row_alone_has_no_padding() -> None:
    batch = collate([Maker(0).example()], IDS, POSITIONS)
    assert batch.causal
    assert batch.attention_mask.all()


def test_spans_of_different_lengths_share_a_block() -> None:
    make = Maker(0)
    examples = [make.example(latents=2), make.example(segments=(3, 4), latents=5)]
    batch = collate(examples, IDS, POSITIONS)
    assert [block.width for block in batch.blocks] == [5]
    check_meaning(examples, batch)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(1, 4)),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_any_mixture_of_rows_keeps_its_meaning(rows: list[tuple[int, list[int], int]], align: bool) -> None:
    make = Maker(1)
    examples = [make.example(make.prompt(before, [], 1), segments, latents) for before, segments, latents in rows]
    check_meaning(examples, collate(examples, IDS, POSITIONS, align=align))


def test_prompts_are_padded_on_the_left() -> None:
    make = Maker(2)
    prompts = [make.prompt(), make.prompt(9, [(2, 2)], 1)]
    batch = collate_prompts(prompts, IDS, POSITIONS)
    assert rows_of(batch) == [prompt.ids.tolist() for prompt in prompts]
    assert batch.attention_mask[:, -1].all()


def test_latents_in_a_prompt_are_refused() -> None:
    make = Maker(0)
    prompt = make.prompt()
    with pytest.raises(InputError, match="latent_pad"):
        collate_prompts([replace(prompt, ids=torch.cat([prompt.ids, torch.tensor([IDS.latent_pad])]))], IDS, POSITIONS)


def test_a_latent_pad_outside_a_span_is_refused() -> None:
    example = Maker(0).example()
    ids = example.ids.clone()
    ids[2] = IDS.latent_pad
    with pytest.raises(InputError, match="token 2 does not follow latent_start"):
        collate([replace(example, ids=ids)], IDS, POSITIONS)


def test_a_row_short_of_auxiliary_images_is_refused() -> None:
    make = Maker(0)
    two = make.example(segments=(1, 1, 1))
    with pytest.raises(InputError, match="1 auxiliary images for 2 latent spans"):
        collate(
            [
                replace(
                    two,
                    auxiliary_pixel_values=two.auxiliary_pixel_values[:36],
                    auxiliary_grid_thw=two.auxiliary_grid_thw[:1],
                )
            ],
            IDS,
            POSITIONS,
        )


def test_image_tokens_that_do_not_fit_the_grids_are_refused() -> None:
    example = Maker(0).example()
    with pytest.raises(InputError, match=r"6 image_pad tokens for images of \[4\]"):
        collate([replace(example, grid_thw=torch.tensor([[1, 4, 4]]))], IDS, POSITIONS)


def test_ids_the_model_does_not_have_are_refused() -> None:
    example = Maker(0).example()
    ids = example.ids.clone()
    ids[0] = 512
    with pytest.raises(InputError, match="vocabulary of 512"):
        collate([replace(example, ids=ids)], IDS, POSITIONS)


def test_an_empty_batch_and_an_empty_row_are_refused() -> None:
    example = Maker(0).example()
    with pytest.raises(InputError, match="empty batch"):
        collate([], IDS, POSITIONS)
    with pytest.raises(InputError, match=r"Rows \[0\] have no token"):
        collate([replace(example, ids=example.ids[:0], labels=example.labels[:0])], IDS, POSITIONS)
