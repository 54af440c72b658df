"""The losses of the supervised stages, log-probabilities, and the cosines to watch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity
from torch.nn.functional import cross_entropy as stock_cross_entropy

from mirage_core.config import GroundingSettings, LatentSettings
from mirage_core.errors import InputError
from mirage_core.generation.decode import DecodeSettings, sampling_rules
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.examples import EncodedExample
from mirage_core.model.forward.forward import relaxation_forward, text_forward
from mirage_core.model.forward.grounding import GroundingOutput, grounding_forward
from mirage_core.training.grpo.log_probs import text_log_probs
from mirage_core.training.objective import LossParts
from mirage_core.training.sft.losses import (
    cosine_diagnostics,
    counts_of,
    cross_entropy,
    grounding_loss,
    relaxation_loss,
    text_loss,
)
from tests.latent.tiny import IDS, Maker, mixed_examples, tiny_backbone

GROUNDING, LATENT = GroundingSettings(), LatentSettings(num_latents=3)
Loss = Callable[[LatentBatch], LossParts]


def laid_out(*examples: EncodedExample, align: bool = True) -> LatentBatch:
    return collate(examples, IDS, tiny_backbone().position_ids, align=align)


def grounded_loss(batch: LatentBatch) -> LossParts:
    return grounding_loss(tiny_backbone(), batch, GROUNDING, LATENT)


LOSSES: dict[str, Loss] = {
    "text": lambda batch: text_loss(tiny_backbone(), batch),
    "grounding": grounded_loss,
    "relaxation": lambda batch: relaxation_loss(tiny_backbone(), batch),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_parts_of_a_batch_are_the_means_of_its_rows_by_what_they_hold(name: str) -> None:
    examples = mixed_examples()
    whole = LOSSES[name](laid_out(*examples))
    alone = [(LOSSES[name](batch), counts_of(batch)) for batch in (laid_out(example) for example in examples)]
    for part in {"text", "visual"} & whole.parts.keys():
        total_count = sum(count[part] for _, count in alone)
        mean = sum(loss.parts[part].item() * count[part] for loss, count in alone) / total_count
        assert whole.parts[part].item() == pytest.approx(mean, abs=2e-6)
        assert whole.parts[part].requires_grad


def test_cross_entropy_is_that_of_all_logits() -> None:
    backbone, example = tiny_backbone(), Maker(0).example()
    batch = laid_out(example)
    hidden = text_forward(backbone, batch)
    expected = stock_cross_entropy(backbone.logits(hidden)[0, :-1], example.labels[1:])
    assert cross_entropy(backbone, hidden, batch.labels).item() == pytest.approx(expected.item(), abs=1e-6)


def test_gamma_weighs_the_text() -> None:
    found = grounded_loss(laid_out(*mixed_examples()))
    expected = found.parts["visual"] + 0.1 * found.parts["text"]
    torch.testing.assert_close(found.total, expected)


def test_a_batch_without_spans_has_no_visual_loss_and_no_nan() -> None:
    found = grounded_loss(laid_out(Maker(0).example(segments=(5,))))
    assert found.parts["visual"].item() == 0.0
    assert math.isfinite(found.total.item())
    found.total.backward()


def test_a_batch_without_labels_has_a_loss_of_zero_that_can_go_backward() -> None:
    example = Maker(0).example()
    found = text_loss(tiny_backbone(), laid_out(replace(example, labels=torch.full_like(example.labels, -100))))
    assert found.total.item() == 0.0
    found.total.backward()


def chances(logits: torch.Tensor, banned: list[int]) -> torch.Tensor:
    return logits.index_fill(0, torch.tensor(banned), -math.inf).softmax(-1)


def test_log_probs_are_those_of_the_rules() -> None:
    backbone, batch = tiny_backbone(), laid_out(*mixed_examples())
    settings = DecodeSettings(max_new_tokens=9, num_latents=3, temperature=0.7, end="free", banned=(499,))
    labels = batch.labels.masked_fill(batch.labels == 499, -100)
    batch = replace(batch, labels=labels)
    hidden = relaxation_forward(backbone, batch).hidden
    found = text_log_probs(backbone, batch, hidden, sampling_rules(IDS, settings))
    logits = backbone.logits(hidden) / 0.7
    for row, column in (labels >= 0).nonzero().tolist():
        banned = [499, IDS.image_pad, IDS.video_pad, IDS.latent_pad]
        banned += [] if batch.input_ids[row, column] == IDS.latent_pad else [IDS.latent_end]
        expected = chances(logits[row, column], banned)[labels[row, column]].log()
        if labels[row, column] == IDS.latent_end:  # two latents more than the first were chosen
            for earlier in (column - 2, column - 1):
                expected = expected + (1 - chances(logits[row, earlier], banned)[IDS.latent_end]).log()
        assert found[row, column].item() == pytest.approx(expected.item(), abs=1e-4)
    assert (found[labels < 0] == 0).all()


def test_a_label_that_cannot_be_sampled_is_refused() -> None:
    backbone, batch = tiny_backbone(), laid_out(Maker(0).example())
    rules = sampling_rules(IDS, DecodeSettings(max_new_tokens=9, num_latents=3))  # latent_end is forced, not sampled
    with pytest.raises(InputError, match="probability zero"):
        text_log_probs(backbone, batch, relaxation_forward(backbone, batch).hidden, rules)


def test_diagnostics_name_the_cosine_of_a_constant_and_of_the_input_image() -> None:
    make = Maker(3)
    batch = laid_out(make.example(), make.example(make.prompt(3, [(3, 3), (2, 2)], 2)))
    grounded = grounding_forward(tiny_backbone(), batch, "even")
    found = cosine_diagnostics(batch, grounded, "even")
    by_index = [found[f"cosine_{index}"].item() for index in range(3)]
    assert found["cosine"].item() == pytest.approx(sum(by_index) / 3, abs=1e-6)
    visual = grounding_loss(tiny_backbone(), batch, GROUNDING, LATENT).parts["visual"].item()
    assert found["cosine"].item() == pytest.approx(1 - visual, abs=1e-6)
    candidates = grounded.targets / grounded.targets.norm(dim=-1, keepdim=True)
    best = cosine_similarity(candidates, candidates.mean(0, keepdim=True), dim=-1).mean()
    assert found["cosine_constant"].item() == pytest.approx(best.item(), abs=1e-6)
    assert -1.0 <= found["cosine_input"].item() <= 1.0


def test_the_input_image_as_target_has_a_cosine_of_one() -> None:
    prompt = Maker(3).prompt(images=[(3, 3)])
    example = Maker(3).example(prompt)
    same = replace(example, auxiliary_pixel_values=prompt.pixel_values, auxiliary_grid_thw=prompt.grid_thw)
    batch = laid_out(same)
    found = cosine_diagnostics(batch, grounding_forward(tiny_backbone(), batch, "even"), "even")
    assert found["cosine_input"].item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("images", [[], [(1, 2)]])
def test_the_input_cosine_is_left_out_where_there_is_none(images: list[tuple[int, int]]) -> None:
    batch = laid_out(Maker(3).example(Maker(3).prompt(images=images)))
    grounded: GroundingOutput = grounding_forward(tiny_backbone(), batch, "even")
    assert "cosine_input" not in cosine_diagnostics(batch, grounded, "even")
