"""The losses of the supervised programs.

Legend: B rows, T columns, S spans, K latents, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from mirage_core.config import (
    FeedNorm,
    GroundingSettings,
    LatentSettings,
    LvrSettings,
    RelaxationSettings,
    TrainSettings,
)
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.examples import IGNORED
from mirage_core.methods import programs
from mirage_core.model.backbone import Backbone
from mirage_core.model.forward.forward import (
    LatentTransform,
    RelaxationOutput,
    blank_forward,
    given_forward,
    image_features,
    relaxation_forward,
    text_forward,
)
from mirage_core.model.forward.grounding import GroundingOutput, grounding_forward
from mirage_core.model.forward.layer_states import LayerStates
from mirage_core.model.readout import LatentReadout
from mirage_core.training.monet import losses as monet
from mirage_core.training.monet.losses import Teaching
from mirage_core.training.objective import TEXT_ONLY, LossParts
from mirage_core.training.sft.codi import Teacher
from mirage_core.training.sft.diagnostics import cosine_diagnostics, norm_figures
from mirage_core.training.sft.pooler import Pooler, pooler_loss
from mirage_core.training.sft.region_loss import region_loss
from mirage_core.training.sft.span_end import SpanEnds
from mirage_core.training.sft.step_decoder import Explanations
from mirage_core.training.sft.targets import Distance, TargetComparison, distance_of
from mirage_core.training.sft.text import cross_entropy
from mirage_core.training.stepwise.heads import StepLoss


def counts_of(batch: LatentBatch) -> dict[str, float]:
    """Return what each part is a mean over: labelled tokens ("text") and latents ("visual")."""
    return {"text": float((batch.labels != IGNORED).sum()), "visual": float(batch.span_lengths.sum())}


def text_loss(
    backbone: Backbone,
    batch: LatentBatch,
    *,
    checkpointing: bool = False,
    stepwise: StepLoss | None = None,
    diagnostics: bool = False,
) -> LossParts:
    """Return the plain supervised loss: direct and CoT SFT, and the text of the warm-up.

    ``stepwise``: also hold tokens of the text to the frames of a film.
    """
    hidden = text_forward(backbone, batch, checkpointing=checkpointing)
    return LossParts.sum(*_text_and_steps(backbone, hidden, batch, stepwise, diagnostics))


def _text_and_steps(
    backbone: Backbone, hidden: Tensor, batch: LatentBatch, stepwise: StepLoss | None, diagnostics: bool
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the text loss with the parts of stepwise grounding, and the weights of all of them."""
    parts, weights = {"text": cross_entropy(backbone, hidden, batch.labels)}, dict(TEXT_ONLY)
    if stepwise is not None:
        parts |= stepwise.parts(hidden, diagnostics=diagnostics)
        weights |= stepwise.heads.weights
    return parts, weights


def grounding_loss(
    backbone: Backbone,
    batch: LatentBatch,
    settings: GroundingSettings,
    latent: LatentSettings,
    *,
    diagnostics: bool = False,
) -> LossParts:
    """Return the loss of stage 1: (1 - mean cosine) + gamma * cross-entropy. Paper, Eq. 2-3.

    Gamma weighs the TEXT loss, as released. ``diagnostics`` adds ``cosine_diagnostics``. A batch without spans has a
    visual loss of 0.
    """
    grounded = grounding_forward(
        backbone,
        batch,
        latent.compression,
        checkpointing=settings.gradient_checkpointing,
        blank=not latent.rolls_out,
        horizon=settings.horizon,
        feed_norm=latent.feed_norm,
    )
    text = cross_entropy(backbone, grounded.hidden, batch.labels)
    visual = visual_loss(grounded)
    parts = {"text": text, "visual": visual}
    if diagnostics:
        parts |= cosine_diagnostics(batch, grounded, latent.compression)
    return LossParts.sum(parts, {"visual": 1.0, "text": settings.text_weight})


def visual_loss(grounded: GroundingOutput, distance: Distance = "cosine") -> Tensor:
    """Return 1 - mean cosine of predicted and target latents over all spans (paper, Eq. 2), or their "l2".

    "l2" is the squared difference, mean over latents and dimensions (arXiv 2608.19669).
    """
    if not grounded.targets.numel():
        return grounded.hidden.sum() * 0.0
    return distance_of(grounded.predicted, grounded.targets, distance)


def relaxation_loss(
    backbone: Backbone,
    batch: LatentBatch,
    *,
    checkpointing: bool = False,
    text_weight: float = 1.0,
    comparison: TargetComparison | None = None,
    blank: bool = False,
    given: Sequence[Tensor] | None = None,
    readout: LatentReadout | None = None,
    feed_norm: FeedNorm = "own",
    latent_transform: LatentTransform | None = None,
    stepwise: StepLoss | None = None,
    ends: SpanEnds | None = None,
    explanations: Explanations | None = None,
    teacher: Teacher | None = None,
    diagnostics: bool = False,
    spans: int | None = None,
) -> LossParts:
    """Return the loss of stage 2: cross-entropy alone, with latents rolled out under gradient. Paper, Eq. 4.

    ``text_weight``: of the cross-entropy, beside other parts. ``comparison``: compare the latents with their targets,
    as diagnostics or as a part of the loss; all spans are then of one length. ``blank``: the spans hold the tokens of
    the batch, ``given``: they hold these vectors ([k_s, D] a span); then nothing is rolled out. Latents are fed as
    ``readout`` reads them off the states, at ``feed_norm``, after that as ``latent_transform`` changes them.
    ``stepwise``: also hold each latent to its frame. ``ends``: also learn where spans end, if lengths differ.
    ``explanations``: a decoder must also write steps from the latents. ``teacher``: also learn its task, and hold
    states at one token to its own. ``diagnostics``: add the accuracies of stepwise grounding by the number of the
    latent, and the norms of rolled-out latents (``norm_figures``), of the first ``spans``.
    """
    states = None if teacher is None else LayerStates(teacher.student_cells)
    if blank:
        relaxed = blank_forward(backbone, batch, checkpointing=checkpointing, states=states)
    elif given is not None:
        relaxed = given_forward(backbone, batch, given, checkpointing=checkpointing)
    else:
        relaxed = relaxation_forward(
            backbone, batch, checkpointing, readout=readout, latent_transform=latent_transform, feed_norm=feed_norm,
            states=states,
        )  # fmt: skip
    parts, weights = _text_and_steps(backbone, relaxed.hidden, batch, stepwise, diagnostics)
    weights["text"] = text_weight
    if ends is not None:
        parts |= ends.parts(backbone, relaxed.hidden)
        weights["end"] = 1.0
    if explanations is not None:
        parts |= explanations.parts(relaxed.latents if readout is None else readout(relaxed.latents))
        weights["explain"] = explanations.weight
    if teacher is not None and states is not None:
        parts |= teacher.parts(backbone, states, checkpointing=checkpointing)
        weights |= teacher.weights
    rolled_out = not blank and given is None
    compared = comparison is not None or (diagnostics and rolled_out)
    images = [backbone.merged(image) for image in image_features(backbone, batch)] if compared else []
    if diagnostics and rolled_out:
        parts |= norm_figures(batch, relaxed.latents, images, spans)
    if comparison is not None:
        parts |= _compared(backbone, batch, relaxed, images, comparison)
        weights |= {"visual": comparison.weight} if comparison.weight else {}
    return LossParts.sum(parts, weights)


def _compared(
    backbone: Backbone,
    batch: LatentBatch,
    relaxed: RelaxationOutput,
    images: list[Tensor],
    comparison: TargetComparison,
) -> dict[str, Tensor]:
    """Return the parts of the loss, and the figures, that compare latents with their targets."""
    targets, parts = comparison.targets(backbone, batch), dict[str, Tensor]()
    grounded = GroundingOutput(relaxed.hidden, relaxed.latents[: comparison.spans], targets, images)
    if comparison.weight:
        parts["visual"] = visual_loss(grounded, comparison.distance)
    if comparison.diagnostics:
        own_spans = replace(batch, span_rows=batch.span_rows[: comparison.spans])
        compression = comparison.compression if comparison.pooler is None else None
        parts |= cosine_diagnostics(own_spans, grounded, compression)
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """What the loss of a supervised program is computed from.

    ``settings``: the section that the program reads; ``spans``: how many of the batch's spans, from the first, are of
    examples; ``diagnostics``: whether to add figures to log; ``latent_transform``: applied to latents
    before they are fed; ``stepwise``: the heads and targets of stepwise grounding; ``ends``: where spans of different
    lengths end; ``pooler``: what is trained, or makes the targets, where the program has one; ``readout``: what is fed
    of a hidden state, where a module reads it; ``latent_end``: the token's id; ``explanations``: what a step decoder
    must write from the latents; ``teacher``: the rows of the other task of self-distillation; ``teaching``: Monet's
    teacher.
    """

    batch: LatentBatch
    settings: TrainSettings
    latent: LatentSettings
    spans: int
    diagnostics: bool = False
    latent_transform: LatentTransform | None = None
    stepwise: StepLoss | None = None
    ends: SpanEnds | None = None
    pooler: Pooler | None = None
    readout: LatentReadout | None = None
    latent_end: int = IGNORED
    explanations: Explanations | None = None
    teacher: Teacher | None = None
    teaching: Teaching | None = None


def _text(backbone: Backbone, inputs: LossInputs) -> LossParts:
    return text_loss(
        backbone,
        inputs.batch,
        checkpointing=inputs.settings.gradient_checkpointing,
        stepwise=inputs.stepwise,
        diagnostics=inputs.diagnostics,
    )


def _grounding(backbone: Backbone, inputs: LossInputs) -> LossParts:
    assert isinstance(inputs.settings, GroundingSettings)
    return grounding_loss(backbone, inputs.batch, inputs.settings, inputs.latent, diagnostics=inputs.diagnostics)


def _pooler(backbone: Backbone, inputs: LossInputs) -> LossParts:
    assert inputs.pooler is not None  # sft/train.py makes one for such a program
    checkpointing = inputs.settings.gradient_checkpointing
    return pooler_loss(backbone, inputs.batch, inputs.pooler, checkpointing=checkpointing)


def _relaxation(backbone: Backbone, inputs: LossInputs) -> LossParts:
    """Stage 2; latents are compared with targets for the loss, or for diagnostics where the batch has targets."""
    assert isinstance(inputs.settings, RelaxationSettings)
    latent, given = inputs.latent, None
    if latent.input == "code":
        assert inputs.stepwise is not None  # sft/train.py asks for it before training
        given = inputs.stepwise.true_codes().split(inputs.batch.span_lengths.tolist())
    weight, comparison = inputs.settings.grounding_weight, None
    diagnostics = inputs.diagnostics and len(inputs.batch.auxiliary_grid_thw) > 0
    if diagnostics or weight:
        comparison = TargetComparison(
            compression=latent.compression,
            pooler=inputs.pooler,
            weight=weight,
            distance=inputs.settings.distance,
            diagnostics=diagnostics,
            spans=inputs.spans,
        )
    return relaxation_loss(
        backbone,
        inputs.batch,
        checkpointing=inputs.settings.gradient_checkpointing,
        text_weight=inputs.settings.text_weight,
        comparison=comparison,
        blank=latent.input in ("blank", "query"),
        given=given,
        feed_norm=latent.feed_norm,
        latent_transform=inputs.latent_transform,
        stepwise=inputs.stepwise,
        ends=inputs.ends,
        diagnostics=inputs.diagnostics,
        spans=inputs.spans,
    )


def _region(backbone: Backbone, inputs: LossInputs) -> LossParts:
    assert isinstance(inputs.settings, LvrSettings)
    return region_loss(backbone, inputs.batch, inputs.settings, inputs.readout, latent_end=inputs.latent_end)


def _latent_thoughts(backbone: Backbone, inputs: LossInputs) -> LossParts:
    """Coconut and CODI: what stays in words, with latents rolled out, and what they are held by beside the text."""
    return relaxation_loss(
        backbone,
        inputs.batch,
        checkpointing=inputs.settings.gradient_checkpointing,
        blank=not inputs.latent.rolls_out,
        readout=inputs.readout,
        feed_norm=inputs.latent.feed_norm,
        ends=inputs.ends,
        explanations=inputs.explanations,
        teacher=inputs.teacher,
        diagnostics=inputs.diagnostics,
        spans=inputs.spans,
    )


Loss = Callable[[Backbone, LossInputs], LossParts]
LOSSES: dict[str, Loss] = {
    "text": _text,
    "grounding": _grounding,
    "pooler": _pooler,
    "relaxation": _relaxation,
    "region": _region,
    "latent_thoughts": _latent_thoughts,
    "monet_warmup": monet.warmup,
    "monet_targets": monet.targets,
    "monet": monet.latents,
}
"""The losses that a supervised program may name (``methods.Program.loss``)."""


def loss_of(program: str) -> Loss:
    """Return the loss of a supervised program: that of its name in ``LOSSES``, or its own function."""
    loss = programs()[program].loss
    return LOSSES[loss] if isinstance(loss, str) else loss
