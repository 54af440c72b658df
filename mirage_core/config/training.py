"""Settings of training: the supervised stages, and validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mirage_core.config.model import Bottleneck, LatentSettings
from mirage_core.config.section import OPTIMIZERS, OptimizerName, Positive, Probability, Section


@dataclass(frozen=True, slots=True)
class ReadoutKind:
    """What reads latents off hidden states: a ``head``, and whether a learned vector ``stops`` spans.

    ``width``: of the head's inner layer, where that is not the model's own (None).
    """

    head: Literal["none", "simple", "glu", "mlp"]
    stops: bool = False
    width: int | None = None


class ValidationSettings(Section):
    """Metrics on the validation split while a stage trains, and their use.

    They are measured before the first step, every ``every`` steps, and after the last.
    """

    every: int | None = Field(None, gt=0, description="Optimizer steps between validations; None: none.")
    examples: Positive = Field(64, description="Validation examples for the loss.")
    problems: int = Field(0, ge=0, description="Validation problems answered (greedily) for the accuracy; 0: none.")
    metric: Literal["loss", "accuracy"] = Field(
        "loss", description="The metric of the best weights; accuracy needs problems; GRPO has accuracy only."
    )
    patience: int | None = Field(
        None, gt=0, description="Stop after so many validations without an improvement; None: never."
    )
    keep_best: bool = Field(False, description="Return the best weights by the metric, not the last ones.")

    @model_validator(mode="after")
    def _metric_is_measured(self) -> ValidationSettings:
        """The best weights need a metric that is measured."""
        if self.every is None and (self.patience is not None or self.keep_best):
            raise ValueError("patience and keep_best need every, the steps between validations")
        if self.metric == "accuracy" and not self.problems:
            raise ValueError("metric accuracy needs problems, the number of problems answered at each validation")
        return self


class TrainSettings(Section):
    """One supervised training stage. Steps count optimizer steps; epochs are used where steps is None."""

    steps: int | None = Field(None, ge=0, description="Optimizer steps; None: from epochs.")
    epochs: float = Field(15, gt=0, description="Passes over the training examples, if steps is None.")
    batch_size: Positive = Field(1, description="Examples of an optimizer step, over all processes.")
    micro_batch_size: int | None = Field(
        None, gt=0, description="Examples of a forward pass of one process; None: all."
    )
    learning_rate: float = Field(1e-5, gt=0, description="Peak rate of the optimizer.")
    warmup_steps: int = Field(10, ge=0, description="Steps of linear warm-up.")
    schedule: Literal["constant", "cosine", "linear"] = Field("cosine", description="Schedule after the warm-up.")
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = Field(False, description="Recompute activations in the backward pass.")
    optimizer: OptimizerName = Field("adamw", description=OPTIMIZERS)
    batch_by: Literal["random", "group", "length"] = Field(
        "random",
        description="What the examples of a batch share, for less padding: nothing; benchmark and level; length.",
    )
    max_loss_ratio: float | None = Field(
        5.0, gt=1, description="Stop if the smoothed loss exceeds this multiple of the first steps' loss; None: never."
    )
    validation: ValidationSettings = ValidationSettings()

    # What a method asks of training beside its loss: its section answers, and nothing asks for a section by its type.

    @property
    def new_tokens(self) -> int:
        """The tokens by which the vocabulary of its model grows."""
        return 0

    @property
    def film_steps(self) -> StepwiseSettings | None:
        """How states are held to the frames of a film; None: they are not."""
        return None

    @property
    def step_decoding(self) -> StepDecoderSettings | None:
        """The decoder that must write reasoning steps from their latents; None: there is none."""
        return None

    @property
    def regularization(self) -> RelaxationSettings | None:
        """The settings of noise on latents and of a bottleneck that changes with the steps; None: neither."""
        return None

    @property
    def holds_to_targets(self) -> bool:
        """Whether rolled-out latents are held to targets."""
        return False

    @property
    def feeds_predictions(self) -> bool:
        """Whether latents that are taught by targets are sometimes fed the model's own."""
        return False

    @property
    def reads_steps(self) -> bool:
        """Whether it depends on how captions are split into reasoning steps."""
        return False

    @property
    def readout(self) -> ReadoutKind | None:
        """What reads latents off hidden states; None: the states themselves are fed."""
        return None

    def latents_fault(self, latent: LatentSettings) -> str | None:  # noqa: ARG002
        """Return what is wrong with the latents of an answer, with the way out; None: answers have those learned."""
        return None


class GroundingSettings(TrainSettings):
    """Stage 1: L1 = L_visual + gamma * L_text. Paper, Eq. 2-3."""

    text_weight: float = Field(0.1, ge=0, description="gamma, the weight of the text loss.")
    horizon: Positive = Field(
        1,
        description="Latents predicted from the model's own before a target is fed again; 1: every target is fed "
        "(paper); latent.num_latents or more: none.",
    )

    @property
    def feeds_predictions(self) -> bool:
        """Where more than one latent is predicted before a target is fed again."""
        return self.horizon > 1


class StepDecoderSettings(Section):
    """A small decoder that must write each reasoning step from its latents (SIM-CoT, f3ae967); discarded afterwards."""

    weight: float = Field(1.0, gt=0, description="Weight of its cross-entropy, mean over reasoning steps.")
    layers: Positive = Field(2, description="Transformer layers.")
    width: int = Field(128, gt=0, multiple_of=4, description="Hidden size; a head has 64 where that divides it.")


class StepwiseSettings(Section):
    """Stepwise grounding: each rolled-out latent must tell where its frame of the film changed, and what is there.

    It needs ``auxiliary_images.film``. ``cell`` and ``kind`` are labels of the world; the others see images alone.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"weighting", "after_end"})

    where: Literal["pointer", "cell"] = Field(
        "pointer",
        description="pointer: which tokens of the problem's first image changed (a bilinear head over their last "
        "hidden states); cell: the world's own name of the place (a linear head).",
    )
    what: Literal["codebook", "kind", "contrastive"] = Field(
        "codebook",
        description="What stands at the changed place. codebook: its appearance, one of k-means clusters of image "
        "features; kind: the world's own name; contrastive: its centred feature among those of other frames.",
    )
    weight_where: float = Field(1.0, ge=0, description="Weight of the cross-entropy of where; 0: no such head.")
    weight_what: float = Field(1.0, ge=0, description="Weight of the cross-entropy of what; 0: no such head.")
    frames: Literal["film", "last", "other"] = Field(
        "film",
        description="film: each latent is held to its frame; last: every latent to the last frame; other: to the film "
        "of another problem of the same benchmark and level (a control: are the targets needed?).",
    )
    pace: Literal["frame", "spread"] = Field(
        "frame",
        description="Which frame a latent is held to. frame: one frame a latent, then the last frame; spread: all "
        "frames spread evenly over the latents.",
    )
    after_end: Literal["last", "free"] = Field(
        "last",
        description="What latents after the film's end are held to, with pace frame. last: the last frame; free: "
        "nothing.",
    )
    weighting: Literal["uniform", "prefix"] = Field(
        "uniform",
        description="uniform: every latent of a span counts alike; prefix: in so far as the latents before it are "
        "right, so that the first steps are learned first.",
    )
    tolerance: float = Field(
        0.0, ge=0, description="Mean grey levels by which a token's pixels may differ and count as unchanged."
    )
    codebook_size: int = Field(24, ge=2, description="Appearances of codebook, and other frames of contrastive.")
    temperature: float = Field(0.1, gt=0, description="Temperature of contrastive.")

    @model_validator(mode="after")
    def _has_a_head(self) -> StepwiseSettings:
        """Without a weight nothing is left to train."""
        if not self.weight_where and not self.weight_what:
            raise ValueError("weight_where and weight_what are both 0: set one above 0, or stepwise to null")
        return self

    @property
    def where_head(self) -> str | None:
        """``where``; None where its weight is 0."""
        return self.where if self.weight_where else None

    @property
    def what_head(self) -> str | None:
        """``what``; None where its weight is 0."""
        return self.what if self.weight_what else None


class TextTrainSettings(TrainSettings):
    """Direct SFT, and an option, off by default: the supervision of stepwise grounding without latents."""

    LATER: ClassVar[frozenset[str]] = frozenset({"stepwise"})

    stepwise: StepwiseSettings | None = Field(
        None,
        description="Hold the last hidden states of the plan's moves, in the question or the answer, to the frames of "
        "the film (a control: does the supervision do it, without latents?); null: none.",
    )

    @property
    def film_steps(self) -> StepwiseSettings | None:
        """``stepwise``."""
        return self.stepwise


class VisualTokenSettings(TrainSettings):
    """Explicit visual tokens: the auxiliary image as codes of the vocabulary, written as text before the answer.

    After Anole (arXiv 2407.06135), MVoT (arXiv 2501.07542) and Aurora (arXiv 2412.03548), at the cost of latents.
    """

    codebook_size: int = Field(128, ge=2, description="Codes, each a new token of the vocabulary.")
    codebook_examples: Positive = Field(
        512, description="Training examples whose auxiliary images the codebook is made from, the first of the split."
    )
    codebook_of: Literal["pooled", "patches"] = Field(
        "pooled",
        description="What k-means clusters. pooled: averages, which are quantised (latent.compression, or a frame); "
        "patches: single merged patches, so that a code looks like one; but averages of many are near to none.",
    )

    @property
    def new_tokens(self) -> int:
        """One for each code, and the borders of a span."""
        return self.codebook_size + 2


class RelaxationSettings(TrainSettings):
    """Stage 2: the text loss (paper, Eq. 4), and options, off by default, that may make the latents matter."""

    LATER: ClassVar[frozenset[str]] = frozenset(
        {"stepwise", "first_bottleneck", "first_share", "distance", "text_weight"}
    )

    bottleneck_ramp: Probability = Field(
        0.0,
        description="Share of the steps in which latent.bottleneck is introduced: the share of a batch's rows under it "
        "rises from 0 to 1; 0: every row from the first step.",
    )
    first_bottleneck: Bottleneck = Field(
        "none", description="A bottleneck of the first steps alone (first_share); then latent.bottleneck takes over."
    )
    first_share: Probability = Field(0.4, description="Share of the steps under first_bottleneck, if there is one.")
    text_weight: float = Field(1.0, ge=0, description="Weight of the text loss.")
    grounding_weight: float = Field(
        0.0, ge=0, description="Weight of the distance between rolled-out latents and targets in the loss."
    )
    distance: Literal["cosine", "l2"] = Field(
        "cosine", description="That distance. cosine: 1 - cosine; l2: the squared difference, mean over dimensions."
    )
    latent_noise: float = Field(
        0.0, ge=0, description="Gaussian noise on every input latent, in units of its standard deviation."
    )
    latent_dropout: float = Field(0.0, ge=0, lt=1, description="Share of the input latents that are set to zero.")
    stepwise: StepwiseSettings | None = Field(None, description="Stepwise grounding beside the text loss; null: none.")

    @property
    def film_steps(self) -> StepwiseSettings | None:
        """``stepwise``."""
        return self.stepwise

    @property
    def regularization(self) -> RelaxationSettings | None:
        """This section; without noise and a ramp it changes nothing."""
        return self

    @property
    def holds_to_targets(self) -> bool:
        """Where their distance has a weight."""
        return self.grounding_weight > 0

    @model_validator(mode="after")
    def _has_one_beginning(self) -> RelaxationSettings:
        """The bottleneck cannot come first and be introduced by and by."""
        if self.first_bottleneck != "none" and self.bottleneck_ramp:
            raise ValueError("first_bottleneck and bottleneck_ramp exclude each other: set one of them")
        return self


class FilmTrainSettings(RelaxationSettings):
    """Relaxation from the base model, without stage 1: each latent is held to its frame of the film."""

    stepwise: StepwiseSettings | None = Field(
        StepwiseSettings(), description="Stepwise grounding beside the text loss; null: none (a control)."
    )


class PoolerSettings(TrainSettings):
    """A pooler of the auxiliary image, trained by the answer's text with the base model frozen (arXiv 2608.19669)."""

    @model_validator(mode="after")
    def _answers_nothing(self) -> PoolerSettings:
        """The model answers without the pooler, which needs the auxiliary image."""
        if self.validation.problems:
            raise ValueError(
                f"pooler.validation.problems is {self.validation.problems}, but a pooler gives no answers: set it to 0 "
                "(the loss is measured)"
            )
        return self


class PooledTrainSettings(RelaxationSettings):
    """Relaxation from the base model, with rolled-out latents held to a trained pooler's vectors (arXiv 2608.19669)."""

    text_weight: float = Field(0.5, ge=0, description="Weight of the text loss.")
    grounding_weight: float = Field(
        1.0, ge=0, description="Weight of the distance between rolled-out latents and the pooler's vectors."
    )
    distance: Literal["cosine", "l2"] = Field(
        "l2", description="That distance. cosine: 1 - cosine; l2: the squared difference, mean over dimensions."
    )
