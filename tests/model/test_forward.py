"""Latents given, rolled out and replayed: a batch means what its rows mean alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from mirage_core.errors import InputError, SettingsError
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.examples import EncodedExample, no_grids, no_pixels
from mirage_core.model.backbone import Backbone
from mirage_core.model.cache import FixedCache
from mirage_core.model.features import with_features
from mirage_core.model.forward.forward import relaxation_forward, replay_forward, text_forward
from mirage_core.model.forward.grounding import grounding_forward
from tests.latent.tiny import IDS, KINDS, Maker, mixed_examples, tiny_backbone

CLOSE = {"atol": 5e-5, "rtol": 0.0}
Gradients = dict[str, Tensor]


def laid_out(backbone: Backbone, *examples: EncodedExample, align: bool = True) -> LatentBatch:
    return collate(examples, IDS, backbone.position_ids, align=align)


def gradients(backbone: Backbone, loss: Tensor) -> Gradients:
    backbone.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}


def summed(parts: list[Gradients]) -> Gradients:
    return {name: sum((part[name] for part in parts), torch.zeros(())) for name in parts[0]}


def check_equal(result: Gradients, expected: Gradients, bound: float = 1e-4) -> None:
    """Equal up to ``bound`` of each gradient's largest entry."""
    assert result.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (result[name] - gradient).abs().max() <= bound * gradient.abs().max(), name


def weighed(backbone: Backbone, batch: LatentBatch, hidden: Tensor) -> Tensor:
    """A scalar of the logits at the labels, the same for a row wherever it stands."""
    chosen = batch.labels != -100
    return backbone.logits(hidden[chosen]).log_softmax(-1).gather(-1, batch.labels[chosen][:, None]).sum()


def stock_rollout(backbone: Backbone, example: EncodedExample) -> tuple[Tensor, Tensor]:
    """Logits and latents of one row, token by token through the stock language model and its own cache."""
    model, text, ids = backbone.model.model, backbone.model.model.language_model, example.ids
    positions = backbone.position_ids(ids, torch.tensor([len(ids)]), example.grid_thw)
    embedded, deep = text.embed_tokens(ids[None]), torch.zeros(0)
    if len(example.grid_thw):
        images = model.get_image_features(example.pixel_values, example.grid_thw)
        embedded[:, ids == IDS.image_pad] = torch.cat(images.pooler_output)
        layers = [torch.cat(layer) for layer in getattr(images, "deepstack_features", [])]
        deep = torch.stack(layers) if layers else deep
    cache, hidden, latents = DynamicCache(config=text.config), [], []
    for column in range(len(ids)):
        token, seen = embedded[:, column : column + 1], int((ids[:column] == IDS.image_pad).sum())
        visual = {}
        if ids[column] == IDS.image_pad and len(deep):
            visual = {"visual_pos_masks": torch.ones(1, 1, dtype=torch.bool)}
            visual["deepstack_visual_embeds"] = deep[:, seen : seen + 1]
        if ids[column] == IDS.latent_pad:
            token = hidden[-1]
            latents.append(token[0, 0])
        position = positions[:, None, column : column + 1]
        step = text(inputs_embeds=token, position_ids=position, past_key_values=cache, **visual)
        hidden.append(step.last_hidden_state)
    return backbone.logits(torch.cat(hidden, dim=1))[0], torch.stack(latents) if latents else torch.empty(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rolled_out_latents_equal_a_token_by_token_rollout_of_the_stock_model(attention: str, kind: str) -> None:
    backbone, examples = tiny_backbone(attention, kind), mixed_examples()
    batch = laid_out(backbone, *examples)
    relaxed = relaxation_forward(backbone, batch)
    logits = backbone.logits(relaxed.hidden)
    for row, example in enumerate(examples):
        expected, latents = stock_rollout(backbone, example)
        torch.testing.assert_close(logits[row][batch.attention_mask[row]], expected, **CLOSE)
        result = relaxed.latents[batch.span_rows == row].flatten(0, 1)
        torch.testing.assert_close(result, latents.reshape(result.shape), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_relaxed_batch_are_the_sum_of_its_rows(kind: str) -> None:
    backbone, examples = tiny_backbone("sdpa", kind), mixed_examples(1)

    def of(*rows: EncodedExample) -> Gradients:
        batch = laid_out(backbone, *rows)
        return gradients(backbone, weighed(backbone, batch, relaxation_forward(backbone, batch).hidden))

    check_equal(of(*examples), summed([of(example) for example in examples]))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_flows_through_the_latents(kind: str) -> None:
    backbone = tiny_backbone("sdpa", kind)
    batch = laid_out(backbone, Maker(0).example())
    relaxed = relaxation_forward(backbone, batch)
    (gradient,) = torch.autograd.grad(weighed(backbone, batch, relaxed.hidden), relaxed.latents, allow_unused=True)
    assert gradient is None  # the stacked copy is a by-product
    through = gradients(backbone, weighed(backbone, batch, relaxation_forward(backbone, batch).hidden))
    constant = replay_forward(backbone, batch, [relaxed.latents[0].detach()])
    cut = gradients(backbone, weighed(backbone, batch, constant))
    name = "model.model.language_model.norm.weight"
    assert (through[name] - cut[name]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_checkpointing_changes_neither_loss_nor_gradients(attention: str, kind: str) -> None:
    """Stock checkpointing drops the cache, with a warning only; this fails if a stock layer ever breaks ours."""
    backbone = tiny_backbone(attention, kind)
    batch = laid_out(backbone, *mixed_examples(2))
    tokens = (batch.labels != -100).sum()
    result = []
    backbone.train()
    for checkpointing in (False, True):
        loss = weighed(backbone, batch, relaxation_forward(backbone, batch, checkpointing).hidden) / tokens
        result.append((loss.item(), gradients(backbone, loss)))
    backbone.eval()
    assert result[1][0] == pytest.approx(result[0][0], rel=0, abs=1e-6)
    check_equal(result[1][1], result[0][1], 1e-5)


def test_checkpointing_saves_activations() -> None:
    backbone = tiny_backbone()
    batch = laid_out(backbone, *mixed_examples(2))

    def saved(checkpointing: bool) -> int:
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            relaxation_forward(backbone, batch, checkpointing)
        return sum(sizes.values())

    assert saved(True) < 0.6 * saved(False)


def test_checkpointing_over_a_cache_that_is_written_in_place_is_refused() -> None:
    backbone = tiny_backbone()
    rotary = backbone.rotary(torch.zeros(3, 1, 1, dtype=torch.long))
    with pytest.raises(SettingsError, match="GrowingCache"):
        backbone.hidden(torch.zeros(1, 1, backbone.hidden_size), rotary, None, FixedCache(), checkpointing=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("align", [True, False])
def test_replayed_latents_give_what_rolling_them_out_gave(align: bool, kind: str) -> None:
    backbone, examples = tiny_backbone("sdpa", kind), mixed_examples(4)
    rolled = laid_out(backbone, *examples)
    relaxed = relaxation_forward(backbone, rolled)
    batch = laid_out(backbone, *examples, align=align)
    replayed = replay_forward(backbone, batch, list(relaxed.latents.detach()))
    for row in range(batch.rows):
        torch.testing.assert_close(
            replayed[row][batch.attention_mask[row]], relaxed.hidden[row][rolled.attention_mask[row]], **CLOSE
        )


def test_spans_of_different_lengths_roll_out_as_alone() -> None:
    backbone, make = tiny_backbone(), Maker(5)
    examples = [make.example(latents=2), make.example(segments=(3, 4, 2), latents=5), make.example(latents=1)]
    batch = laid_out(backbone, *examples)
    relaxed = relaxation_forward(backbone, batch)
    for row, example in enumerate(examples):
        alone = laid_out(backbone, example)
        expected = relaxation_forward(backbone, alone)
        torch.testing.assert_close(
            relaxed.hidden[row][batch.attention_mask[row]], expected.hidden[0][alone.attention_mask[0]], **CLOSE
        )
        length = int(alone.span_lengths[0])
        torch.testing.assert_close(
            relaxed.latents[batch.span_rows == row][:, :length], expected.latents[:, :length], **CLOSE
        )


def test_a_row_that_ends_within_its_span_rolls_out() -> None:
    backbone, example = tiny_backbone(), Maker(5).example()
    cut = int((example.ids == IDS.latent_pad).nonzero()[-1]) + 1
    short = replace(example, ids=example.ids[:cut], labels=example.labels[:cut])
    relaxed = relaxation_forward(backbone, laid_out(backbone, short))
    expected = relaxation_forward(backbone, laid_out(backbone, example))
    torch.testing.assert_close(relaxed.hidden, expected.hidden[:, :cut], **CLOSE)


def only_spans() -> list[EncodedExample]:
    """Examples with auxiliary images for every span, and one row without any."""
    return mixed_examples(6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("align", [True, False])
def test_grounding_of_a_batch_equals_its_rows(align: bool, kind: str) -> None:
    backbone, examples = tiny_backbone("sdpa", kind), only_spans()
    batch = laid_out(backbone, *examples, align=align)
    grounded = grounding_forward(backbone, batch, "even")
    for row, example in enumerate(examples):
        alone = laid_out(backbone, example)
        expected = grounding_forward(backbone, alone, "even")
        torch.testing.assert_close(grounded.hidden[row][batch.attention_mask[row]], expected.hidden[0], **CLOSE)
        own = batch.span_rows == row
        torch.testing.assert_close(
            grounded.predicted[own], expected.predicted.reshape(grounded.predicted[own].shape), **CLOSE
        )
        torch.testing.assert_close(
            grounded.targets[own], expected.targets.reshape(grounded.targets[own].shape), **CLOSE
        )


@pytest.mark.parametrize("kind", KINDS)
def test_grounding_gradients_of_a_batch_are_the_sum_of_its_rows(kind: str) -> None:
    backbone, examples = tiny_backbone("sdpa", kind), only_spans()

    def of(*rows: EncodedExample) -> Gradients:
        batch = laid_out(backbone, *rows, align=False)
        grounded = grounding_forward(backbone, batch, "drop_tail")
        loss = weighed(backbone, batch, grounded.hidden) + (grounded.predicted * grounded.targets).sum()
        return gradients(backbone, loss)

    check_equal(of(*examples), summed([of(example) for example in examples]))


@pytest.mark.parametrize("horizon", [2, 3, 7])
def test_with_a_horizon_targets_are_fed_only_every_so_often(horizon: int) -> None:
    """Against its definition: what is fed is found by feeding what was predicted, over and over."""
    backbone, example = tiny_backbone(), Maker(3).example(latents=4)
    batch = laid_out(backbone, example)
    result = grounding_forward(backbone, batch, "even", horizon=horizon)
    own = [column for column in range(4) if horizon >= 4 or (column + 1) % horizon]
    fed = result.targets[0].clone()
    for _ in range(len(fed) + 1):
        hidden = replay_forward(backbone, batch, [fed])
        predicted = hidden[0, batch.span_starts[0] - 1 + torch.arange(4)]
        fed = fed.index_copy(0, torch.tensor(own), predicted[own])
    torch.testing.assert_close(result.predicted[0], predicted, **CLOSE)
    torch.testing.assert_close(result.hidden, hidden, **CLOSE)


def test_a_horizon_of_one_is_the_papers_and_gradients_through_longer_ones_are_the_sum_of_the_rows() -> None:
    backbone, examples = tiny_backbone(), only_spans()
    batch = laid_out(backbone, *examples)
    given = batch.span_starts[:, None] + torch.arange(3)
    led = grounding_forward(backbone, batch, "even")
    every = relaxation_forward(backbone, batch, latent_transform=lambda latents, at: led.targets.flatten(0, 1)[at])
    torch.testing.assert_close(every.hidden[batch.attention_mask], led.hidden[batch.attention_mask], **CLOSE)
    torch.testing.assert_close(every.hidden[batch.span_rows[:, None], given - 1], led.predicted, **CLOSE)

    def of(*rows: EncodedExample, horizon: int) -> Gradients:
        batch = laid_out(backbone, *rows)
        grounded = grounding_forward(backbone, batch, "drop_tail", horizon=horizon)
        loss = weighed(backbone, batch, grounded.hidden) + (grounded.predicted * grounded.targets).sum()
        return gradients(backbone, loss)

    for horizon in (2, 3):
        full = of(*examples, horizon=horizon)
        check_equal(full, summed([of(example, horizon=horizon) for example in examples]))
    with pytest.raises(InputError, match="align=True"):
        grounding_forward(backbone, laid_out(backbone, *examples, align=False), "even", horizon=2)


def test_targets_are_made_of_the_kept_patches_alone() -> None:
    backbone, example = tiny_backbone(), Maker(3).example(latents=4)
    which = torch.zeros(9, dtype=torch.bool)
    which[[1, 5, 6]] = True
    plain, chosen = (laid_out(backbone, one) for one in (example, replace(example, auxiliary_patch_masks=(which,))))
    image = backbone.merged(backbone.image_features(plain.auxiliary_pixel_values, plain.auxiliary_grid_thw)[0])
    targets = grounding_forward(backbone, chosen, "changed_patches").targets
    torch.testing.assert_close(targets[0], image[[1, 1, 5, 6]])
    assert not torch.equal(grounding_forward(backbone, plain, "changed_patches").targets, targets)


@pytest.mark.parametrize("kind", KINDS)
def test_features_computed_beforehand_give_the_same(kind: str) -> None:
    backbone, examples = tiny_backbone("sdpa", kind), mixed_examples()
    batch = laid_out(backbone, *examples)
    expected = grounding_forward(backbone, batch, "even")
    auxiliary = backbone.image_features(batch.auxiliary_pixel_values, batch.auxiliary_grid_thw)
    own = backbone.image_features(batch.pixel_values, batch.grid_thw)
    cached = replace(batch, pixel_values=no_pixels(), image_features=tuple(own), auxiliary_features=tuple(auxiliary))
    torch.testing.assert_close(grounding_forward(backbone, cached, "even").hidden, expected.hidden, **CLOSE)
    make = Maker(7)
    prompts = [make.prompt(), make.prompt(images=[]), make.prompt(images=[(2, 2), (3, 1)])]
    for prompt, ready in zip(prompts, with_features(backbone, prompts), strict=True):
        example = make.example(prompt, (3,))
        kept_example = replace(example, pixel_values=ready.pixel_values, image_features=ready.image_features)
        rows = [laid_out(backbone, one) for one in (example, kept_example)]
        torch.testing.assert_close(text_forward(backbone, rows[1]), text_forward(backbone, rows[0]), **CLOSE)
    with pytest.raises(InputError, match="1 of 4 images of a batch have features"):
        laid_out(backbone, example, replace(kept_example, image_features=ready.image_features[:1]))


def test_features_are_not_kept_of_a_vision_tower_in_training() -> None:
    backbone = tiny_backbone()
    backbone.model.model.visual.requires_grad_(True)
    try:
        with pytest.raises(SettingsError, match="train_vision"):
            with_features(backbone, [Maker(0).prompt()])
    finally:
        backbone.freeze_vision()


def test_targets_have_no_gradient_even_of_a_vision_tower_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tower would learn to make its targets easy, and keep their activations for nothing."""
    backbone, with_gradient = tiny_backbone(), []
    encode = Backbone.image_features

    def watched(self: Backbone, *args: Any, **options: Any) -> list[Tensor]:
        features = encode(self, *args, **options)
        with_gradient.append(any(image.requires_grad for image in features))
        return features

    monkeypatch.setattr(Backbone, "image_features", watched)
    backbone.model.model.visual.requires_grad_(True)
    try:
        grounded = grounding_forward(backbone, laid_out(backbone, *mixed_examples()), "even")
        assert grounded.predicted.requires_grad and not grounded.targets.requires_grad
        assert with_gradient == [True, False]  # the input images, then the targets
    finally:
        backbone.freeze_vision()


def test_more_latents_than_patches_is_an_error() -> None:
    backbone, example = tiny_backbone(), Maker(0).example(latents=5, auxiliary=(2, 2))
    with pytest.raises(InputError, match="5 latents"):
        grounding_forward(backbone, laid_out(backbone, example), "even")


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda b, batch: grounding_forward(b, batch, "even"), "one auxiliary image a span"),
        (lambda b, batch: relaxation_forward(b, replace(batch, aligned=False, blocks=())), "align=True"),
        (lambda b, batch: replay_forward(b, batch, [torch.zeros(2, b.hidden_size)]), r"lengths \[2\] .* \[3\]"),
    ],
)
def test_what_a_forward_pass_lacks_is_named(forward: Callable[[Backbone, LatentBatch], object], message: str) -> None:
    backbone = tiny_backbone()
    bare = replace(Maker(0).example(), auxiliary_pixel_values=no_pixels(), auxiliary_grid_thw=no_grids())
    with pytest.raises(InputError, match=message):
        forward(backbone, laid_out(backbone, bare))
