"""What the text after a span may see: batches equal rows alone in the stock model, with the mask of the definition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mirage_core.latent.bottleneck import Bottleneck, Segment
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.collate_answers import collate_answers
from mirage_core.latent.examples import EncodedExample
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import (
    answers_forward,
    blank_forward,
    relaxation_forward,
    replay_forward,
    text_forward,
)
from mirage_core.model.forward.grounding import grounding_forward
from tests.latent.tiny import IDS, KINDS, Maker, mixed_examples, tiny_backbone
from tests.model.bottleneck_reference import reference
from tests.model.test_answers import some_groups
from tests.model.test_forward import check_equal, gradients, weighed
from tests.model.test_lora import adapted

CLOSE = {"atol": 2e-5, "rtol": 1e-5}
BOTTLENECKS: tuple[Bottleneck, ...] = ("latent_kv", "latent_only", "image")


def laid_out(
    backbone: Backbone,
    examples: Sequence[EncodedExample],
    bottleneck: Bottleneck,
    *,
    align: bool = True,
    bottleneck_rows: Sequence[bool] | None = None,
) -> LatentBatch:
    return collate(
        examples, IDS, backbone.position_ids, align=align, bottleneck=bottleneck, bottleneck_rows=bottleneck_rows
    )


def own_columns(batch: LatentBatch, row: int) -> Tensor:
    """The columns of a row's own tokens."""
    return batch.attention_mask[row] & (batch.segments[row] != Segment.REENCODED)


def check_rows(
    backbone: Backbone,
    examples: Sequence[EncodedExample],
    batch: LatentBatch,
    hidden: Tensor,
    bottleneck_rows: Sequence[bool],
    given: Sequence[Tensor] | None = None,
) -> None:
    """Hidden states of the batch are those of the slow reference, row by row."""
    for row, example in enumerate(examples):
        spans = [span for span, of in enumerate(batch.span_rows.tolist()) if of == row]
        vectors = None if given is None or not spans else [given[span] for span in spans]
        expected = reference(backbone, example, batch.bottleneck if bottleneck_rows[row] else "none", vectors)
        torch.testing.assert_close(hidden[row][own_columns(batch, row)], expected.hidden, **CLOSE)


@pytest.mark.parametrize(("attention", "kind"), [("sdpa", KINDS[0]), ("eager", KINDS[0]), ("sdpa", KINDS[1])])
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_rolled_out_rows_are_those_of_the_stock_model_with_the_mask_of_the_definition(
    bottleneck: Bottleneck, attention: str, kind: str
) -> None:
    backbone, examples = tiny_backbone(attention, kind), mixed_examples()
    batch = laid_out(backbone, examples, bottleneck)
    with torch.no_grad():
        relaxed = relaxation_forward(backbone, batch)
        for row, example in enumerate(examples):
            expected = reference(backbone, example, bottleneck)
            torch.testing.assert_close(relaxed.hidden[row][own_columns(batch, row)], expected.hidden, **CLOSE)
            result = relaxed.latents[batch.span_rows == row].flatten(0, 1)
            torch.testing.assert_close(result, expected.latents.reshape(result.shape), **CLOSE)


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_rows_that_are_not_under_the_bottleneck_are_as_ever_beside_those_that_are(bottleneck: Bottleneck) -> None:
    backbone, examples = tiny_backbone(), mixed_examples(3)
    bottleneck_rows = [True, False, True, False, True]
    batch = laid_out(backbone, examples, bottleneck, bottleneck_rows=bottleneck_rows)
    with torch.no_grad():
        check_rows(backbone, examples, batch, relaxation_forward(backbone, batch).hidden, bottleneck_rows)


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_spans_of_different_lengths_under_a_bottleneck(bottleneck: Bottleneck) -> None:
    backbone, make = tiny_backbone(), Maker(5)
    examples = [
        make.example(segments=(0, 1), latents=6),
        make.example(segments=(3, 4, 2), latents=1),
        make.example(make.prompt(1, [], 3), segments=(1, 1, 1, 5), latents=2),
    ]
    batch = laid_out(backbone, examples, bottleneck)
    with torch.no_grad():
        check_rows(backbone, examples, batch, relaxation_forward(backbone, batch).hidden, [True] * 3)


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_a_row_that_ends_within_its_span_is_fine_under_a_bottleneck(bottleneck: Bottleneck) -> None:
    backbone, make = tiny_backbone(), Maker(6)
    example = make.example()
    cut = int((example.ids == IDS.latent_pad).nonzero()[-1]) + 1
    rows = [replace(example, ids=example.ids[:cut], labels=example.labels[:cut]), make.example()]
    batch = laid_out(backbone, rows, bottleneck)
    with torch.no_grad():
        check_rows(backbone, rows, batch, relaxation_forward(backbone, batch).hidden, [True, True])


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_given_latents_are_seen_as_those_rolled_out(bottleneck: Bottleneck, align: bool) -> None:
    backbone, examples = tiny_backbone(), mixed_examples(4)
    batch = laid_out(backbone, examples, bottleneck, align=align)
    random = torch.Generator().manual_seed(1)
    given = [torch.randn(3, backbone.hidden_size, generator=random) for _ in batch.span_rows]
    with torch.no_grad():
        check_rows(backbone, examples, batch, replay_forward(backbone, batch, given), [True] * 5, given)
        grounded = grounding_forward(backbone, batch, "even")
        check_rows(backbone, examples, batch, grounded.hidden, [True] * 5, list(grounded.targets))
        for row in range(len(examples)):
            chosen = (batch.span_rows == row).nonzero()[:, 0].tolist()
            if chosen:
                alone = reference(backbone, examples[row], bottleneck, [grounded.targets[span] for span in chosen])
                pads = (examples[row].ids == IDS.latent_pad).nonzero()[:, 0]
                result = grounded.predicted[chosen].flatten(0, 1)
                torch.testing.assert_close(result, alone.hidden[pads - 1], **CLOSE)


@pytest.mark.parametrize(("kind", "checkpointing"), [(KINDS[0], False), (KINDS[0], True), (KINDS[1], True)])
@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_gradients_are_those_of_the_rows_in_the_stock_model(
    bottleneck: Bottleneck, kind: str, checkpointing: bool
) -> None:
    backbone, examples = tiny_backbone("sdpa", kind), mixed_examples(2)
    bottleneck_rows = [True, True, True, True, False]
    batch = laid_out(backbone, examples, bottleneck, bottleneck_rows=bottleneck_rows)
    result = gradients(backbone, weighed(backbone, batch, relaxation_forward(backbone, batch, checkpointing).hidden))
    check_equal(result, reference_gradients(backbone, examples, bottleneck, bottleneck_rows))


def reference_gradients(
    backbone: Backbone, examples: Sequence[EncodedExample], bottleneck: Bottleneck, bottleneck_rows: Sequence[bool]
) -> dict[str, Tensor]:
    loss = torch.zeros(())
    for example, hidden in zip(examples, bottleneck_rows, strict=True):
        logits = backbone.logits(reference(backbone, example, bottleneck if hidden else "none").hidden)
        labels = example.labels[1:]
        chosen = labels != -100
        loss = loss + logits[:-1][chosen].log_softmax(-1).gather(-1, labels[chosen][:, None]).sum()
    return gradients(backbone, loss)


@pytest.mark.parametrize("bottleneck", ["none", *BOTTLENECKS])
def test_what_the_text_after_a_span_can_learn_of_the_picture_but_by_its_latents(bottleneck: Bottleneck) -> None:
    """Latents are held fixed, the picture is another: under latent_only no logit after the span moves."""
    backbone, example = tiny_backbone(), Maker(8).example(segments=(2, 6))
    other = replace(example, pixel_values=example.pixel_values.flip(0))
    given = [torch.randn(3, backbone.hidden_size, generator=torch.Generator().manual_seed(2))]
    with torch.no_grad():
        batches = [laid_out(backbone, [one], bottleneck) for one in (example, other)]
        shown, moved = [backbone.logits(replay_forward(backbone, batch, given))[0] for batch in batches]
    last = int((batches[0].input_ids[0] == IDS.latent_end).nonzero())
    start = int((batches[0].input_ids[0] == IDS.latent_start).nonzero())
    question = slice(int((batches[0].input_ids[0] == IDS.image_pad).nonzero()[-1]) + 1, start)
    change = (shown - moved).abs().amax(-1)
    assert float(change[: last - 1].max()) > 0.01  # the picture does differ
    if bottleneck == "latent_only":
        assert float(change[last:].max()) == 0.0
    else:
        assert float(change[last:].min()) > 1e-3
    assert (float(change[question].max()) == 0.0) is (bottleneck == "image")


@pytest.mark.parametrize(
    ("bottleneck", "kind"), [("latent_kv", KINDS[0]), ("latent_only", KINDS[1]), ("image", KINDS[0])]
)
def test_answers_that_share_a_prompt_are_whole_rows_under_a_bottleneck_too(bottleneck: Bottleneck, kind: str) -> None:
    backbone, groups = tiny_backbone("sdpa", kind), some_groups()
    batch = collate_answers(groups, IDS, backbone.position_ids, bottleneck=bottleneck)
    rows = laid_out(backbone, [answer for _, answers in groups for answer in answers], bottleneck)
    given = [
        torch.randn(length, backbone.hidden_size, generator=torch.Generator().manual_seed(length))
        for length in rows.span_lengths.tolist()
    ]
    pairs = [
        (lambda: answers_forward(backbone, batch), lambda: relaxation_forward(backbone, rows).hidden),
        (lambda: answers_forward(backbone, batch, given), lambda: replay_forward(backbone, rows, given)),
        (lambda: answers_forward(backbone, batch, blank=True), lambda: text_forward(backbone, rows)),
    ]
    for shared, full in pairs:
        hidden, expected = shared(), full()
        for row in range(rows.rows):
            result = hidden[row][batch.answers.attention_mask[row]]
            torch.testing.assert_close(result, expected[row][rows.attention_mask[row]][-len(result) :], **CLOSE)
        check_equal(
            gradients(backbone, weighed(backbone, batch.answers, hidden)),
            gradients(backbone, weighed(backbone, rows, expected)),
        )


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_sharded_weights_change_nothing(bottleneck: Bottleneck, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are then packed in every pass, also where no row has padding."""
    backbone, make = tiny_backbone(), Maker(3)
    prompt = make.prompt()
    batch = laid_out(backbone, [make.example(prompt), make.example(prompt)], bottleneck)
    with torch.no_grad():
        expected = relaxation_forward(backbone, batch)
        monkeypatch.setattr(Backbone, "sharded", property(lambda _: True))
        result = relaxation_forward(backbone, batch)
    torch.testing.assert_close(result.hidden, expected.hidden, **CLOSE)


@pytest.mark.parametrize("bottleneck", ["none", *BOTTLENECKS])
def test_blank_spans_are_an_ordinary_pass(bottleneck: Bottleneck) -> None:
    backbone, examples = tiny_backbone(), mixed_examples(7)
    batch = laid_out(backbone, examples, bottleneck, align=False)
    with torch.no_grad():
        result = blank_forward(backbone, batch)
        pad = backbone.embed_text(torch.tensor([[IDS.latent_pad] * 3]))[0]
        check_rows(backbone, examples, batch, result.hidden, [True] * 5, [pad] * len(batch.span_rows))
        grounded = grounding_forward(backbone, batch, "even", blank=True)
    assert torch.equal(grounded.hidden, result.hidden)
    assert torch.equal(grounded.predicted, result.latents)


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_gradient_of_one_weight_by_finite_differences(bottleneck: Bottleneck) -> None:
    backbone, examples = tiny_backbone(), mixed_examples(9)[:2]
    backbone.double()
    try:
        batch = laid_out(backbone, examples, bottleneck)
        weight = backbone.model.model.language_model.layers[1].self_attn.k_proj.weight

        def loss() -> Tensor:
            return weighed(backbone, batch, relaxation_forward(backbone, batch).hidden)

        result = gradients(backbone, loss())["model.model.language_model.layers.1.self_attn.k_proj.weight"]
        place = divmod(int(result.abs().argmax()), result.shape[1])
        step, values = 1e-3, []  # the stock norms compute in float32
        with torch.no_grad():
            for sign in (1.0, -1.0):
                weight[place] += sign * step
                values.append(loss().item())
                weight[place] -= sign * step
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(result[place].item(), rel=2e-3)
    finally:
        backbone.float()


@pytest.mark.parametrize(
    ("bottleneck", "checkpointing"),
    [("none", False), ("latent_kv", True), ("latent_only", False), ("latent_only", True)],
)
def test_disturbed_latents_are_read_again_as_they_were_fed(bottleneck: Bottleneck, checkpointing: bool) -> None:
    """The fifth row is not under the bottleneck, and its latents are disturbed too."""
    backbone, examples = tiny_backbone(), mixed_examples(5)
    bottleneck_rows = [True, True, True, True, False]
    batch = laid_out(backbone, examples, bottleneck, bottleneck_rows=bottleneck_rows)
    latents = int(batch.span_lengths.sum())
    random = torch.Generator().manual_seed(4)
    noise = torch.randn(latents, backbone.hidden_size, generator=random)
    cached = torch.rand(latents, 1, generator=random).gt(0.3).float()

    def transform(latent: Tensor, numbers: Tensor) -> Tensor:
        return (latent + 0.5 * noise[numbers]) * cached[numbers]

    relaxed = relaxation_forward(backbone, batch, checkpointing, latent_transform=transform)
    first, loss = 0, torch.zeros(())
    for row, example in enumerate(examples):
        expected = reference(
            backbone,
            example,
            bottleneck if bottleneck_rows[row] else "none",
            disturbed=lambda number, latent, begin=first: transform(latent[None], torch.tensor([begin + number]))[0],
        )
        torch.testing.assert_close(relaxed.hidden[row][own_columns(batch, row)], expected.hidden, **CLOSE)
        rolled = relaxed.latents[batch.span_rows == row].flatten(0, 1)
        torch.testing.assert_close(rolled, expected.latents.reshape(rolled.shape), **CLOSE)
        first += len(expected.latents)
        chosen = example.labels[1:] != -100
        scores = backbone.logits(expected.hidden[:-1][chosen]).log_softmax(-1)
        loss = loss + scores.gather(-1, example.labels[1:][chosen][:, None]).sum()
    check_equal(
        gradients(backbone, weighed(backbone, batch, relaxed.hidden)),
        gradients(backbone, loss),
    )


def test_adapters_under_a_bottleneck() -> None:
    bottleneck: Bottleneck = "latent_only"
    backbone = adapted()
    examples = mixed_examples(1)
    bottleneck_rows = [True, False, True, True, True]
    batch = laid_out(backbone, examples, bottleneck, bottleneck_rows=bottleneck_rows)
    hidden = relaxation_forward(backbone, batch, True).hidden
    check_rows(backbone, examples, batch, hidden, bottleneck_rows)
    check_equal(
        gradients(backbone, weighed(backbone, batch, hidden)),
        reference_gradients(backbone, examples, bottleneck, bottleneck_rows),
    )
