"""The part of the loss that teaches where a span ends, against its definition."""

from __future__ import annotations

import math

import pytest

from mirage_core.config import LatentSettings
from mirage_core.errors import DataError
from mirage_core.latent.collate import collate
from mirage_core.latent.encoder import span_length
from mirage_core.model.forward.forward import relaxation_forward
from mirage_core.training.engine.lockstep import dummy_row
from mirage_core.training.sft.losses import relaxation_loss
from mirage_core.training.sft.span_end import SpanEnds
from mirage_core.types import AuxiliaryImage
from tests.latent.tiny import IDS, Maker, tiny_backbone

FRAMES = LatentSettings(length="frames", end="free", max_latents=3)


def test_every_latent_but_the_last_pays_for_the_probability_of_ending() -> None:
    backbone, make = tiny_backbone(), Maker(2)
    examples = [make.example(latents=3), make.example(make.prompt(9, [(3, 4)], 2), (5, 3), 1), make.example(latents=2)]
    batch = collate([*examples, dummy_row((4,), IDS, examples)], IDS, backbone.position_ids)
    ends = SpanEnds.of(batch, 3, IDS.latent_end)
    loss = relaxation_loss(backbone, batch, ends=ends)

    losses, right = [], []
    for example in examples:
        hidden = relaxation_forward(backbone, collate([example], IDS, backbone.position_ids)).hidden[0]
        columns = (example.ids == IDS.latent_pad).nonzero()[:, 0].tolist()
        for column in columns:
            shares = backbone.logits(hidden[column]).detach().softmax(-1)
            if column != columns[-1]:
                losses.append(-math.log(1 - float(shares[IDS.latent_end])))
            right.append((int(shares.argmax()) == IDS.latent_end) == (column == columns[-1]))

    assert ends.count == len(losses) == 3
    assert loss.parts["end"].item() == pytest.approx(sum(losses) / 3, abs=1e-6)
    assert loss.parts["end_accuracy"].item() == pytest.approx(sum(right) / 6)
    plain = relaxation_loss(backbone, batch).total.item()
    assert loss.total.item() == pytest.approx(plain + loss.parts["end"].item(), abs=1e-5)


def test_without_a_span_nothing_is_paid() -> None:
    backbone = tiny_backbone()
    batch = collate([Maker(0).example(segments=(5,))], IDS, backbone.position_ids)
    ends = SpanEnds.of(batch, 0, IDS.latent_end)
    parts = relaxation_loss(backbone, batch, ends=ends).parts
    assert ends.count == parts["end"].item() == parts["end_accuracy"].item() == 0.0


def test_a_span_is_as_long_as_its_film_up_to_the_most() -> None:
    film = AuxiliaryImage(problem_id="p", image=b"", style="arrows", details={"frames": 2})
    longer = AuxiliaryImage(problem_id="p", image=b"", style="arrows", details={"frames": 7})
    assert [span_length(image, FRAMES) for image in (film, longer)] == [2, 3]
    assert span_length(longer, LatentSettings(num_latents=5)) == 5
    with pytest.raises(DataError, match="problem p has no film"):
        span_length(AuxiliaryImage(problem_id="p", image=b"", style="arrows"), FRAMES)


def test_spans_of_their_films_need_a_free_end() -> None:
    with pytest.raises(ValueError, match=r"latent\.length frames needs latent\.end free"):
        LatentSettings(length="frames")
    assert (FRAMES.span_limit, LatentSettings().span_limit) == (3, 4)
