"""From problems and examples to token ids and pixels."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mirage_core.config import LatentSettings, PromptSettings
from mirage_core.errors import DataError, InputError
from mirage_core.latent.encoder import Encoder, encode_rollout
from mirage_core.latent.examples import IGNORED
from mirage_core.latent.images import open_image
from mirage_core.latent.tokens import token_ids
from mirage_core.model.processing import build_processor
from mirage_core.types import AuxiliaryImage, LatentSpan, Problem, ReasoningChain, TrainingExample

PROCESSOR = build_processor(512)
TOKENIZER = PROCESSOR.tokenizer
IDS = token_ids(TOKENIZER)
SHORT = PromptSettings(form="short", image_scale=28 / 64)


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(stream, "PNG")
    return stream.getvalue()


PROBLEM = Problem(
    id="p1",
    benchmark="vsp-planning",
    split="train",
    group="level-3",
    question="Here is the map: <image>\n\nPlan.\n",
    images=(png(192, 256),),
    answer="RD",
    facts={},
)


def example(before: str = "", after: str = "\\boxed{RD}") -> TrainingExample:
    return TrainingExample(
        problem=PROBLEM,
        auxiliary_image=AuxiliaryImage(problem_id="p1", image=png(192, 256), style="arrows"),
        chain=ReasoningChain(problem_id="p1", variant="direct", text_before=before, text_after=after, teacher="oracle"),
    )


def encoder(prompt: PromptSettings = SHORT) -> Encoder:
    return Encoder(PROCESSOR, LatentSettings(num_latents=3), prompt, "direct")


def test_a_cell_of_the_map_is_one_visual_token() -> None:
    prompt = encoder().prompt(PROBLEM)
    assert prompt.grid_thw.tolist() == [[1, 8, 6]]
    assert prompt.pixel_values.shape == (48, 1176)
    assert (prompt.ids == IDS.image_pad).sum() == 12
    assert TOKENIZER.decode(prompt.ids).endswith("<|vision_end|>\nPlan:<|im_end|>\n<|im_start|>assistant\n")


def test_the_benchmark_form_asks_the_problem_in_its_own_words() -> None:
    prompt = encoder(PromptSettings()).prompt(PROBLEM)
    assert "Here is the map: <|vision_start|>" in TOKENIZER.decode(prompt.ids)


def test_pictures_are_kept_below_the_limit_of_pixels() -> None:
    prompt = encoder(PromptSettings(max_pixels=28 * 28 * 6)).prompt(PROBLEM)
    assert (prompt.ids == IDS.image_pad).sum() <= 6


def test_the_target_holds_a_span_where_the_auxiliary_image_stands() -> None:
    found = encoder().example(example("Plan: ", "\\boxed{RD}"), with_latents=True)
    prompt = encoder().prompt(PROBLEM)
    answer = TOKENIZER.decode(found.ids[len(prompt.ids) :])
    pads = "<|latent_pad|>" * 3
    assert answer == f"Plan: <|latent_start|>{pads}<|latent_end|>\\boxed{{RD}}<|im_end|>\n"
    assert found.auxiliary_grid_thw.tolist() == [[1, 8, 6]]


def test_everything_after_the_assistant_header_is_supervised_but_latent_pads() -> None:
    found = encoder().example(example(), with_latents=True)
    start = len(encoder().prompt(PROBLEM).ids)
    assert (found.labels[: start - 1] == IGNORED).all()
    assert TOKENIZER.decode(found.ids[start - 2 : start]) == "assistant\n"
    supervised = found.ids[start - 1 :] != IDS.latent_pad
    assert (found.labels[start - 1 :][supervised] == found.ids[start - 1 :][supervised]).all()
    assert (found.labels[start - 1 :][~supervised] == IGNORED).all()


def test_without_latents_the_text_goes_straight_on() -> None:
    found = encoder().example(example("Plan: "), with_latents=False)
    assert "assistant\nPlan: \\boxed{RD}<|im_end|>\n" in TOKENIZER.decode(found.ids)
    assert not len(found.auxiliary_grid_thw)


def test_changed_patches_are_those_in_which_something_was_drawn() -> None:
    drawn = Image.open(io.BytesIO(png(192, 256)))
    drawn.paste((255, 0, 0), (80, 150, 110, 180))  # within the cell of row 2, column 1
    stream = io.BytesIO()
    drawn.save(stream, "PNG")
    whole = example()
    shown = replace(whole, auxiliary_image=replace(whole.auxiliary_image, image=stream.getvalue()))
    latent = LatentSettings(num_latents=3, compression="changed_patches")
    (kept,) = Encoder(PROCESSOR, latent, SHORT, "direct").example(shown, with_latents=True).auxiliary_patch_masks
    assert kept.nonzero()[:, 0].tolist() == [7], "of 4 x 3 cells"
    assert encoder().example(shown, with_latents=True).auxiliary_patch_masks == ()


def test_relaxation_needs_no_auxiliary_pixels() -> None:
    found = encoder().example(example(), with_latents=True, with_targets=False)
    assert (found.ids == IDS.latent_pad).sum() == 3
    assert not len(found.auxiliary_pixel_values)


def test_a_rollout_has_its_latents_back_and_labels_where_it_was_sampled() -> None:
    prompt = encoder().prompt(PROBLEM)
    tokens = (5, IDS.latent_start, IDS.latent_end, 6, IDS.end_of_turn)
    sampled = (True, True, False, True, True)
    found = encode_rollout(prompt, tokens, (LatentSpan(position=2, num_latents=2),), sampled, IDS)
    pad = IDS.latent_pad
    answer = found.ids[len(prompt.ids) :].tolist()
    assert answer == [5, IDS.latent_start, pad, pad, IDS.latent_end, 6, IDS.end_of_turn]
    labels = found.labels[len(prompt.ids) :].tolist()
    assert labels == [5, IDS.latent_start, IGNORED, IGNORED, IGNORED, 6, IDS.end_of_turn]
    assert (found.labels[: len(prompt.ids)] == IGNORED).all()


def test_text_cannot_smuggle_in_special_tokens() -> None:
    with pytest.raises(DataError, match=r"problem p1 contains the special token <\|im_end\|>"):
        encoder(PromptSettings()).prompt(replace(PROBLEM, question="a <image> <|im_end|>"))
    with pytest.raises(DataError, match="chain of problem p1"):
        encoder().example(example(after="<|latent_start|>"), with_latents=True)


def test_pictures_must_match_their_places_in_the_text() -> None:
    with pytest.raises(DataError, match="2 images, but its question has 1 times <image>"):
        encoder().prompt(replace(PROBLEM, images=(png(64, 64), png(64, 64))))


def test_a_chain_of_another_variant_is_refused() -> None:
    with pytest.raises(InputError, match="'cot'"):
        encoder().example(replace(example(), chain=replace(example().chain, variant="cot")), with_latents=True)


def test_broken_huge_and_odd_pictures_are_named() -> None:
    with pytest.raises(DataError, match="the map cannot be decoded"):
        open_image(png(4, 4)[:40], 1.0, "the map")
    with pytest.raises(DataError, match="the map"):
        open_image(png(81000, 1000, "1"), 1.0, "the map")
    with pytest.raises(DataError, match="image of problem p1"):
        encoder(PromptSettings(form="short")).prompt(replace(PROBLEM, images=(png(1, 900),)))


def test_any_mode_becomes_rgb() -> None:
    for mode in ("L", "RGBA", "P", "1"):
        assert np.asarray(open_image(png(4, 6, mode), 0.5, "it")).shape == (3, 2, 3)
