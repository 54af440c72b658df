"""Stepwise grounding: its targets, its loss against a definition written anew, and how it trains and is saved."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mirage_core.config import StepwiseSettings
from mirage_core.errors import DataError, InputError, SettingsError
from mirage_core.latent.collate import LatentBatch, collate
from mirage_core.latent.examples import EncodedExample
from mirage_core.methods import TRAIN_STAGES, get_method
from mirage_core.model.forward.forward import relaxation_forward
from mirage_core.planning.plan import make_plan
from mirage_core.recipes import load
from mirage_core.training.engine.lockstep import dummy_row
from mirage_core.training.sft.losses import relaxation_loss
from mirage_core.training.stepwise.batch import StepBatch, step_batch
from mirage_core.training.stepwise.codebook import make_codebook
from mirage_core.training.stepwise.heads import HIDDEN_SCORE, StepHeads, StepLoss, prefix_probabilities, span_weights
from mirage_core.training.stepwise.targets import (
    StepTargets,
    Vocabulary,
    frames_of_latents,
    label_targets,
    rows_of_frames,
)
from tests.latent.tiny import HIDDEN, IDS, Maker, tiny_backbone
from tests.training.small_world import small_settings

PLACES, KINDS, LATENTS = 5, 3, 3
LABELS = StepwiseSettings(where="cell", what="kind", weight_where=0.7, weight_what=1.3)
VISUAL = StepwiseSettings(where="pointer", what="codebook")
CONTRASTIVE = StepwiseSettings(where="pointer", what="contrastive", temperature=0.2)
CODES = torch.randn(KINDS, HIDDEN, generator=torch.Generator().manual_seed(5))
ALL = pytest.mark.parametrize("settings", [LABELS, VISUAL, CONTRASTIVE], ids=["labels", "visual", "contrastive"])


def heads_of(settings: StepwiseSettings) -> StepHeads:
    torch.manual_seed(11)
    codes = None if settings is LABELS else CODES
    return StepHeads(HIDDEN, settings, PLACES if settings is LABELS else 0, KINDS if settings is LABELS else 0, codes)


def rows() -> list[EncodedExample]:
    """Prompts of several lengths and images; the third has two images, of which the first counts."""
    make = Maker(4)
    return [
        make.example(make.prompt(4, [(2, 3)]), latents=LATENTS),
        make.example(make.prompt(9, [(1, 2)], 7), (3, 4), latents=LATENTS),
        make.example(make.prompt(2, [(2, 2), (3, 3)], 3), latents=LATENTS),
    ]


def targets_of(settings: StepwiseSettings) -> list[StepTargets]:
    """Random targets; the second latent of the first row has none, one of the third row has two places."""
    random = torch.Generator().manual_seed(3)

    def classes(width: int) -> Tensor:
        return torch.nn.functional.one_hot(torch.randint(0, width, (LATENTS,), generator=random), width).float()

    widths = [PLACES] * 3 if settings is LABELS else [6, 2, 4]
    targets = [StepTargets(where=classes(width), what=classes(KINDS)) for width in widths]
    if settings is CONTRASTIVE:
        targets = [replace(t, what=torch.randn(LATENTS, HIDDEN, generator=random)) for t in targets]
    targets[0].where[1], targets[0].what[1] = 0.0, 0.0
    targets[2].where[2, :2] = 1.0
    targets[2].where[2, 2:] = 0.0
    return targets


def laid_out(
    examples: Sequence[EncodedExample], targets: Sequence[StepTargets], heads: StepHeads
) -> tuple[LatentBatch, StepLoss]:
    batch = collate(examples, IDS, tiny_backbone().position_ids)
    pad = IDS.image_pad if heads.settings.where == "pointer" else None
    return batch, StepLoss(heads, step_batch(batch, targets, pad, heads.widths), LATENTS)


def expected(settings: StepwiseSettings, heads: StepHeads) -> dict[str, list[tuple[float, float]]]:
    """The cross-entropy and whether it is right of every latent with a target, row by row, each row alone."""
    found: dict[str, list[tuple[float, float]]] = {"where": [], "what": []}
    for example, targets in zip(rows(), targets_of(settings), strict=True):
        hidden = relaxation_forward(tiny_backbone(), collate([example], IDS, tiny_backbone().position_ids)).hidden[0]
        images = hidden[(example.ids == IDS.image_pad).nonzero()[:, 0]][: targets.where.shape[1]]
        for number, column in enumerate((example.ids == IDS.latent_pad).nonzero()[:, 0].tolist()):
            latent = hidden[column - 1]  # what is fed at this column
            wanted = targets.where[number]
            if wanted.any():
                found["where"].append(entropy(where_scores(heads, latent, images), wanted))
            wanted = targets.what[number]
            if wanted.any():
                scores, classes = what_scores(settings, heads, latent, wanted)
                found["what"].append(entropy(scores, classes))
    return found


def entropy(scores: Tensor, wanted: Tensor) -> tuple[float, float]:
    log_shares = scores - scores.exp().sum().log()
    classes = wanted.nonzero()[:, 0].tolist()
    loss = -sum(float(wanted[c] / wanted.sum() * log_shares[c]) for c in classes)
    return loss, float(int(scores.argmax()) in classes)


def where_scores(heads: Any, latent: Tensor, images: Tensor) -> Tensor:
    if heads.settings.where == "cell":
        return heads.where.weight @ latent + heads.where.bias  # type: ignore[no-any-return]
    query = heads.where.query.weight @ latent + heads.where.query.bias
    keys = [heads.where.key.weight @ image for image in images]
    return torch.stack([query @ key / math.sqrt(len(query)) for key in keys])


def what_scores(settings: StepwiseSettings, heads: Any, latent: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    if settings is not CONTRASTIVE:
        return heads.what.weight @ latent + heads.what.bias, wanted
    query = heads.what.query.weight @ latent + heads.what.query.bias
    nearest = min(range(KINDS), key=lambda code: float((wanted - CODES[code]).norm()))
    others = [code for number, code in enumerate(CODES) if number != nearest]
    cosines = [query @ other / query.norm() / other.norm() for other in (wanted, *others)]
    return torch.stack(cosines) / settings.temperature, torch.tensor([1.0] + [0.0] * len(others))


@ALL
def test_the_loss_is_the_mean_cross_entropy_of_the_latents_with_a_target(settings: StepwiseSettings) -> None:
    heads = heads_of(settings)
    batch, steps = laid_out(rows(), targets_of(settings), heads)
    loss = relaxation_loss(tiny_backbone(), batch, stepwise=steps, diagnostics=True)
    with torch.no_grad():
        by_hand = expected(settings, heads)
    plain = relaxation_loss(tiny_backbone(), batch).parts["text"].item()
    total = plain
    for name, values in by_hand.items():
        assert len(values) == 8
        assert loss.parts[name].item() == pytest.approx(sum(value for value, _ in values) / 8, abs=1e-5)
        assert loss.parts[f"{name}_accuracy"].item() == pytest.approx(sum(right for _, right in values) / 8)
        total += heads.weights[name] * loss.parts[name].item()
    assert loss.parts["text"].item() == pytest.approx(plain, abs=1e-6)
    assert loss.total.item() == pytest.approx(total, abs=1e-5)
    assert {f"where_accuracy_{step}" for step in range(LATENTS)} <= loss.parts.keys()


def weighted_by_prefix(heads: StepHeads) -> dict[str, float]:
    """The sum over spans of their latents' cross-entropy, weighed by the probability that those before are right."""
    sums = {"where": 0.0, "what": 0.0}
    for example, targets in zip(rows(), targets_of(LABELS), strict=True):
        hidden = relaxation_forward(tiny_backbone(), collate([example], IDS, tiny_backbone().position_ids)).hidden[0]
        before, terms = 1.0, []
        for number, column in enumerate((example.ids == IDS.latent_pad).nonzero()[:, 0].tolist()):
            scores = {"where": where_scores(heads, hidden[column - 1], hidden[:0])}
            scores["what"] = what_scores(LABELS, heads, hidden[column - 1], targets.what[number])[0]
            wanted = {"where": targets.where[number], "what": targets.what[number]}
            terms.append(
                {name: (before, entropy(scores[name], wanted[name])[0]) for name in wanted if any(wanted[name])}
            )
            for name in terms[-1]:
                before *= float(scores[name].softmax(-1)[wanted[name] > 0].sum())
        for name in sums:
            mine = [term[name] for term in terms if name in term]
            mean = sum(weight * loss for weight, loss in mine) / sum(weight for weight, _ in mine)
            sums[name] += len(mine) * mean
    return sums


def test_prefix_weighting_counts_a_latent_in_so_far_as_those_before_it_are_right() -> None:
    heads = heads_of(LABELS)
    heads.settings = LABELS.model_copy(update={"weighting": "prefix"})
    with torch.no_grad():
        by_hand = weighted_by_prefix(heads)
    _, uniform = laid_out(rows(), targets_of(LABELS), heads_of(LABELS))
    sums = {"where": 0.0, "what": 0.0}
    for chosen in (slice(0, 1), slice(1, 3)):  # in two micro-batches: their sums are those of the whole
        batch, steps = laid_out(rows()[chosen], targets_of(LABELS)[chosen], heads)
        parts = relaxation_loss(tiny_backbone(), batch, stepwise=steps).parts
        for name in sums:
            sums[name] += parts[name].item() * steps.batch.counts(LATENTS)[name]
    batch, steps = laid_out(rows(), targets_of(LABELS), heads)
    whole = relaxation_loss(tiny_backbone(), batch, stepwise=steps)
    plain = relaxation_loss(tiny_backbone(), batch, stepwise=uniform)
    for name, total in by_hand.items():
        assert sums[name] == pytest.approx(total, abs=1e-4)
        assert whole.parts[name].item() * 8 == pytest.approx(total, abs=1e-4)
        assert abs(whole.parts[name].item() - plain.parts[name].item()) > 1e-3
        assert whole.parts[f"{name}_accuracy"] == plain.parts[f"{name}_accuracy"]


def test_the_weights_of_a_prefix_get_no_gradient_and_a_first_latent_always_counts() -> None:
    steps, scores = torch.tensor([0, 1, 2, 0, 1]), torch.full((5, 2), 0.0, requires_grad=True)
    targets = torch.tensor([[1.0, 0], [1, 1], [0, 1], [0, 0], [1, 0]])
    prefix = prefix_probabilities([(scores, targets)], steps)
    assert not prefix.requires_grad
    torch.testing.assert_close(prefix, torch.tensor([1.0, 0.5, 0.5, 1.0, 1.0], dtype=torch.float64))
    weights = span_weights(prefix, targets.any(-1), steps)
    torch.testing.assert_close(weights, torch.tensor([1.5, 0.75, 0.75, 0.0, 1.0]))
    certain = prefix_probabilities([(torch.tensor([[-1e9, 1e9]] * 5), targets)], steps)
    assert span_weights(certain, targets.any(-1), steps).isfinite().all()


@ALL
def test_rows_alone_and_beside_a_dummy_row_add_up_to_the_whole_batch(settings: StepwiseSettings) -> None:
    heads, examples, targets = heads_of(settings), rows(), targets_of(settings)

    def sums(chosen: slice, *more: EncodedExample) -> dict[str, tuple[float, float]]:
        batch, steps = laid_out([*examples[chosen], *more], targets[chosen], heads)
        parts = relaxation_loss(tiny_backbone(), batch, stepwise=steps, diagnostics=True).parts
        counts = steps.batch.counts(LATENTS)
        named = {name: name.replace("_accuracy", "") for name in parts if name.startswith(("where", "what"))}
        return {name: (parts[name].item() * counts[of], counts[of]) for name, of in named.items()}

    whole = sums(slice(None))
    apart = [sums(slice(0, 1)), sums(slice(1, 3), dummy_row((LATENTS + 2,), IDS, examples))]
    assert whole["where"][1] == 8 and whole["where_accuracy_1"][1] == 2
    for name, (total, count) in whole.items():
        assert sum(part[name][1] for part in apart) == count
        assert sum(part[name][0] for part in apart) == pytest.approx(total, abs=2e-5), name


@ALL
def test_a_batch_without_targets_has_a_loss_of_zero_and_gradients_of_zero(settings: StepwiseSettings) -> None:
    heads = heads_of(settings)
    batch, steps = laid_out([dummy_row((LATENTS,), IDS, [])], [], heads)
    parts = relaxation_loss(tiny_backbone(), batch, stepwise=steps).parts
    (parts["where"] + parts["what"]).backward()
    assert parts["where"].item() == parts["what"].item() == 0.0
    assert not any(gradient_of(parameter).any() for parameter in heads.parameters())


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.clone()


@ALL
def test_gradient_checkpointing_changes_no_gradient(settings: StepwiseSettings) -> None:
    gradients: list[list[Tensor]] = []
    for checkpointing in (False, True):
        heads = heads_of(settings)
        batch, steps = laid_out(rows(), targets_of(settings), heads)
        backbone = tiny_backbone()
        backbone.zero_grad()
        relaxation_loss(backbone, batch, checkpointing=checkpointing, stepwise=steps).total.backward()
        layer = next(parameter for parameter in backbone.layers[0].parameters() if parameter.requires_grad)
        gradients.append([gradient_of(parameter) for parameter in (layer, *heads.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, atol=1e-5, rtol=1e-4)
    assert gradients[0][0].any()


def test_a_row_with_other_latents_than_targets_is_refused() -> None:
    with pytest.raises(InputError, match="row 0 has 3 latents and targets for 2"):
        laid_out(rows()[:1], [StepTargets(torch.ones(2, PLACES), torch.ones(2, KINDS))], heads_of(LABELS))


@pytest.mark.parametrize(
    ("settings", "frames", "latents", "expected"),
    [
        ({}, 3, 5, [0, 1, 2, 2, 2]),
        ({}, 5, 3, [0, 1, 2]),
        ({"after_end": "free"}, 3, 5, [0, 1, 2, None, None]),
        ({"after_end": "free"}, 5, 3, [0, 1, 2]),
        ({"pace": "spread"}, 6, 3, [1, 3, 5]),
        ({"pace": "spread"}, 2, 4, [0, 0, 1, 1]),
        ({"pace": "spread"}, 3, 3, [0, 1, 2]),
        ({"frames": "last"}, 4, 3, [3, 3, 3]),
    ],
)
def test_each_latent_is_held_to_its_frame(
    settings: dict[str, Any], frames: int, latents: int, expected: list[int | None]
) -> None:
    assert frames_of_latents(frames, latents, StepwiseSettings(**settings)) == expected


def test_a_latent_without_a_frame_has_no_target_of_any_kind() -> None:
    for targets in (torch.tensor([[True, False], [True, True]]), torch.tensor([[1.0, 2], [3, 4]])):
        rows_found = rows_of_frames(targets, [1, None, 0])
        assert (
            rows_found.tolist() == [targets[1].tolist(), [0, 0], targets[0].tolist()]
            and rows_found.dtype == targets.dtype
        )


def test_labels_become_classes_and_unknown_or_missing_ones_no_target() -> None:
    vocabulary = Vocabulary(tuple(json.dumps(name) for name in ("hole", "ice")))
    found = label_targets({"frames": 3, "kinds": ["ice", "hole", "lava"]}, "kinds", vocabulary, 4, LABELS)
    assert found.tolist() == [[0, 1], [1, 0], [0, 0], [0, 0]]
    assert not label_targets({"frames": 3}, "kinds", vocabulary, 4, LABELS).any()
    free = LABELS.model_copy(update={"after_end": "free"})
    assert label_targets({"frames": 1, "kinds": ["ice"]}, "kinds", vocabulary, 3, free).tolist() == [
        [0, 1],
        [0, 0],
        [0, 0],
    ]
    with pytest.raises(DataError, match="2 kinds for 3 frames"):
        label_targets({"frames": 3, "kinds": ["ice", "ice"]}, "kinds", vocabulary, 4, LABELS)


def test_labels_that_no_example_has_are_refused_with_the_way_out() -> None:
    with pytest.raises(SettingsError, match="where: pointer, what: codebook"):
        Vocabulary.of([], "cells")


def test_a_codebook_finds_the_clusters_and_ignores_the_common_part() -> None:
    random = torch.Generator().manual_seed(0)
    middles = 10 * torch.randn(4, 8, generator=random)
    owners = torch.arange(4).repeat_interleave(25)
    features = 1000 + middles[owners] + 0.1 * torch.randn(100, 8, generator=random)
    book = make_codebook(features, 4, seed=1)
    codes = book.nearest(features).view(4, 25)
    assert sorted(codes[:, 0].tolist()) == [0, 1, 2, 3] and (codes == codes[:, :1]).all()
    again = make_codebook(features, 4, seed=1)
    assert torch.equal(book.codes, again.codes) and torch.equal(book.centre, again.centre)
    assert book.codes.norm(dim=-1).max() < 100


def test_a_codebook_larger_than_the_appearances_is_refused() -> None:
    with pytest.raises(DataError, match="24 appearances needs as many different ones, and the images have 1"):
        make_codebook(torch.ones(50, 4), 24, seed=0)


def test_settings_without_a_head_are_refused() -> None:
    with pytest.raises(ValueError, match="weight_where and weight_what are both 0"):
        StepwiseSettings(weight_where=0, weight_what=0)


def test_the_film_is_a_method_like_the_others() -> None:
    assert get_method("film").stages == ("film",) and get_method("film-grpo").stages == ("film", "film-grpo")
    assert TRAIN_STAGES["film"].inputs == {"model": "base", "examples": "examples"}
    assert get_method("film").latents == get_method("film-grpo").latents == "on"


def test_image_columns_are_those_of_the_first_image() -> None:
    heads, examples = heads_of(VISUAL), rows()
    batch, steps = laid_out(examples, targets_of(VISUAL), heads)
    found: StepBatch = steps.batch
    for row, count in enumerate((6, 2, 4)):
        columns = found.image_columns[row]
        assert (columns[count:] == -1).all() and (batch.input_ids[row, columns[:count]] == IDS.image_pad).all()
        first = int((batch.input_ids[row] == IDS.image_pad).nonzero()[0])
        assert columns[0] == first
    scores = heads(relaxation_forward(tiny_backbone(), batch).hidden, found)["where"][0]
    assert (scores[LATENTS : 2 * LATENTS, 2:] == HIDDEN_SCORE).all()


@pytest.mark.parametrize(
    ("sections", "name"),
    [
        ({"evaluation": {"methods": ["film"]}}, r"film\.stepwise"),
        ({"relaxation": {"stepwise": {}}, "evaluation": {"methods": ["stage-2"]}}, r"relaxation\.stepwise"),
        ({"latent": {"length": "frames", "end": "free"}}, r"latent\.length frames"),
    ],
)
def test_a_recipe_that_needs_a_film_and_draws_none_is_refused(sections: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} needs a film: set auxiliary_images\.film to forward"):
        small_settings(**sections)
    assert small_settings(**sections, auxiliary_images={"film": "forward"})


def test_a_film_is_planned_with_a_pass_for_each_latent() -> None:
    film = ["auxiliary_images.film=forward", "latent.num_latents=6", "evaluation.methods=[film]"]
    plan = make_plan(load("micro", film), 80.0)
    assert [stage.name for stage in plan.stages] == ["base", "film", "evaluation"]
    shorter = make_plan(load("micro", [*film, "latent.num_latents=3"]), 80.0)
    assert plan.stages[1].tokens_per_step > shorter.stages[1].tokens_per_step
