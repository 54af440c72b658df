"""Whatever rows meet in a batch, each means what it means alone: stage 2 and decoding."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mirage_core.generation.decode import DecodeSettings, decode
from mirage_core.latent.collate import collate
from mirage_core.latent.examples import EncodedExample, EncodedPrompt
from mirage_core.model.forward.forward import relaxation_forward, text_forward
from mirage_core.training.sft.losses import counts_of, relaxation_loss
from tests.latent.tiny import IDS, KINDS, TEXT_IDS, Maker, Size, tiny_backbone

FEW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a failing batch is small, and to shrink it takes minutes
)
CLOSE = {"atol": 1e-4, "rtol": 0.0}


@dataclass(frozen=True)
class Row:
    """How one row is made: text before and after its images, their sizes, its answer's segments and latents a span."""

    before: int
    images: tuple[Size, ...]
    after: int
    segments: tuple[int, ...]
    latents: int
    begun: bool


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3))
ROWS = st.builds(
    Row,
    before=st.integers(1, 12),
    images=st.lists(SIZES, max_size=2).map(tuple),
    after=st.integers(1, 9),
    segments=st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple),
    latents=st.integers(1, 5),
    begun=st.booleans(),
)
BATCHES = st.lists(ROWS, min_size=1, max_size=5)


def examples_of(rows: list[Row]) -> list[EncodedExample]:
    make = Maker(0)
    return [make.example(make.prompt(row.before, row.images, row.after), row.segments, row.latents) for row in rows]


def prompts_of(rows: list[Row]) -> list[EncodedPrompt]:
    make, begun = Maker(0), torch.tensor([IDS.latent_start])
    made = [make.prompt(row.before, row.images, row.after) for row in rows]
    return [
        replace(one, ids=torch.cat([one.ids, begun])) if row.begun else one for one, row in zip(made, rows, strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(rows=BATCHES)
def test_hidden_states_and_latents_of_a_rollout(kind: str, rows: list[Row]) -> None:
    backbone, examples = tiny_backbone(kind=kind), examples_of(rows)
    batch = collate(examples, IDS, backbone.position_ids)
    with torch.no_grad():
        together = relaxation_forward(backbone, batch)
        for index, example in enumerate(examples):
            alone = collate([example], IDS, backbone.position_ids)
            expected = relaxation_forward(backbone, alone)
            torch.testing.assert_close(together.hidden[index][batch.attention_mask[index]], expected.hidden[0], **CLOSE)
            latents = together.latents[batch.span_rows == index]
            torch.testing.assert_close(latents[:, : expected.latents.shape[1]], expected.latents, **CLOSE)


@FEW
@given(rows=BATCHES)
def test_the_loss_of_stage_2_and_its_gradient(rows: list[Row]) -> None:
    backbone, examples = deepcopy(tiny_backbone()), examples_of(rows)
    backbone.model.double()  # twenty latents, one fed to the next, enlarge the rounding of float32 to 1e-4
    weight = backbone.model.model.language_model.layers[0].self_attn.k_proj.weight

    def of(some: list[EncodedExample], checkpointing: bool) -> tuple[float, torch.Tensor, float]:
        batch = collate(some, IDS, backbone.position_ids)
        loss = relaxation_loss(backbone, batch, checkpointing=checkpointing).total
        (gradient,) = torch.autograd.grad(loss, weight)
        return loss.item(), gradient, counts_of(batch)["text"]

    alone = [of([example], False) for example in examples]
    total = sum(count for _, _, count in alone)
    gradient = sum((part * count / total for _, part, count in alone), torch.zeros(()))
    for checkpointing in (False, True):
        result, its, _ = of(examples, checkpointing)
        assert result == pytest.approx(sum(loss * count / total for loss, _, count in alone), abs=1e-5)
        assert (its - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-7


@FEW
@given(rows=BATCHES)
def test_one_pass_with_padding_on_either_side(rows: list[Row]) -> None:
    backbone, examples = tiny_backbone(), examples_of(rows)
    with torch.no_grad():
        for align in (True, False):
            batch = collate(examples, IDS, backbone.position_ids, align=align)
            together = text_forward(backbone, batch)
            for index, example in enumerate(examples):
                expected = text_forward(backbone, collate([example], IDS, backbone.position_ids))
                torch.testing.assert_close(together[index][batch.attention_mask[index]], expected[0], **CLOSE)


@FEW
@given(rows=BATCHES, end=st.sampled_from(["exact", "free"]), seed=st.integers(0, 99))
def test_greedy_and_sampled_decoding(rows: list[Row], end: str, seed: int) -> None:
    backbone, prompts = tiny_backbone(), prompts_of(rows)
    greedy = DecodeSettings(
        max_new_tokens=8,
        num_latents=3,
        max_latents=4,
        max_spans=2,
        end=end,  # type: ignore[arg-type]
        banned=tuple(range(14, TEXT_IDS)),
    )
    drawn = replace(greedy, temperature=1.0, samples=2)
    uniform = torch.rand(len(rows) * 2, 8, generator=torch.Generator().manual_seed(seed))
    for chosen, numbers in ((greedy, None), (drawn, uniform)):
        together = decode(backbone, prompts, IDS, chosen, uniform=numbers)
        for index, prompt in enumerate(prompts):
            own = None if numbers is None else numbers[2 * index : 2 * index + 2]
            (alone,) = decode(backbone, [prompt], IDS, chosen, uniform=own)
            assert [one.token_ids for one in together[index]] == [one.token_ids for one in alone]
            assert [one.spans for one in together[index]] == [one.spans for one in alone]
