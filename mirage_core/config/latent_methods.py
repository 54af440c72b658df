"""Settings of the latent methods of other authors: LVR, Coconut with SIM-CoT's decoder, CODI, Monet."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mirage_core.config.model import LatentSettings
from mirage_core.config.section import Positive, Probability
from mirage_core.config.training import ReadoutKind, StepDecoderSettings, TrainSettings


class LvrSettings(TrainSettings):
    """LVR: features of a region of the image are fed as latents, and are their targets (arXiv 2509.24251)."""

    region: Literal["tokens", "crop"] = Field(
        "tokens",
        description="tokens: the image's own tokens that the region touches; crop: those of the region cut out and "
        "encoded anew.",
    )
    grounding_weight: float = Field(0.1, ge=0, description="lambda, the weight of the distance beside the text loss.")
    distance: Literal["l2", "l1", "cosine"] = Field(
        "l2", description="l2: squared difference, l1: absolute one, means over latents and dimensions; cosine: 1 - it."
    )
    head: Literal["none", "simple", "glu"] = Field(
        "none",
        description="What is fed, read from a hidden state. none: itself (best in the paper); simple: "
        "LayerNorm and two linear layers; glu: SwiGLU.",
    )
    stop: Literal["text", "vector", "switch"] = Field(
        "text",
        description="What teaches where a span ends. text: the text loss at latent_end alone; vector: a learned vector "
        "that the state after the last latent is to come near (latent.end near); switch: the cross-entropy of "
        "latent_end, yes or no, after each latent (latent.end free).",
    )
    stop_weight: float = Field(0.1, ge=0, description="Weight of vector or switch.")
    detached: bool = Field(
        True, description="Whether targets are constants where the vision tower is trained (released: false)."
    )

    @property
    def readout(self) -> ReadoutKind | None:
        """A head, a stop vector, or both."""
        stops = self.stop == "vector"
        return ReadoutKind(self.head, stops=stops) if self.head != "none" or stops else None

    @model_validator(mode="after")
    def _has_no_head_beside_a_switch(self) -> LvrSettings:
        """Answers read the end of a span off the state itself."""
        if self.stop == "switch" and self.head != "none":
            raise ValueError(
                f"lvr.stop is switch and lvr.head {self.head}: the switch would be learned on what the head gives, and "
                "answers read it off the hidden state; set lvr.head to none, or lvr.stop to text or vector"
            )
        return self


class CoconutSettings(TrainSettings):
    """Coconut's curriculum (arXiv 2412.06769): stage after stage, one more reasoning step becomes latents.

    Stage 0 is chain of thought in words. In stage s of S the first s steps are left out, and s times
    ``latents_per_step`` latents stand in their place; in the last stage all steps are left out.
    """

    stages: Positive = Field(2, description="S: stages that replace one more step each; S times c latents at the end.")
    latents_per_step: Positive = Field(2, description="c, the latents that take the place of a step.")
    first_share: Probability = Field(0.1, description="Share of the steps in stage 0, all in words.")
    last_share: Probability = Field(
        0.3, description="Share of the steps in the last stage, without words; stages 1 to S share the rest equally."
    )
    uniform_prob: Probability = Field(
        0.0, description="Share of a batch's examples whose stage is drawn, from 0 to the number of their steps."
    )
    reset_optimizer: bool = Field(True, description="Clear the moments of AdamW where a stage begins.")
    step_decoder: StepDecoderSettings | None = Field(
        None, description="A decoder that must write each step from its latents (SIM-CoT); null: none."
    )

    @property
    def step_decoding(self) -> StepDecoderSettings | None:
        """``step_decoder``."""
        return self.step_decoder

    @property
    def reads_steps(self) -> bool:
        """Always: steps become latents one after another."""
        return True

    @model_validator(mode="after")
    def _has_room_for_stages(self) -> CoconutSettings:
        """The first and the last stage are parts of one training."""
        if self.first_share + self.last_share > 1:
            raise ValueError(
                f"first_share {self.first_share:g} and last_share {self.last_share:g} are more than all steps: their "
                "sum is at most 1"
            )
        return self

    @model_validator(mode="after")
    def _reaches_the_last_stage(self) -> CoconutSettings:
        """Validation is of the last stage's rows, for which the earlier ones only prepare."""
        if self.validation.patience is not None:
            raise ValueError(
                f"coconut.validation.patience is {self.validation.patience}, which may end the curriculum before its "
                "last stage: set it to null (keep_best keeps the best weights)"
            )
        return self

    def latents_fault(self, latent: LatentSettings) -> str | None:
        """Answers have the latents of the last stage."""
        most = self.stages * self.latents_per_step
        if latent.length == "fixed" and latent.num_latents != most:
            return (
                f"latent.num_latents is {latent.num_latents}, but the last stage has {self.stages} x "
                f"{self.latents_per_step} latents (coconut.stages, coconut.latents_per_step): set it to {most}"
            )
        if latent.end == "free" and latent.max_latents < most:
            return (
                f"latent.max_latents is {latent.max_latents}, but the last stage has up to {most} latents "
                "(coconut.stages, coconut.latents_per_step): raise it"
            )
        return None


class CodiSettings(TrainSettings):
    """CODI (arXiv 2502.21074): words and latents learned beside each other, states at one token held together."""

    LATER: ClassVar[frozenset[str]] = frozenset({"projection", "step_decoder"})

    teacher_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy of the task in words.")
    distillation_weight: float = Field(
        1.0, gt=0, description="Weight of the distance of states at the token before the answer."
    )
    projection: int | None = Field(
        None,
        gt=0,
        description="Inner width of the projection between a hidden state and what is fed (released: 2048): linear, "
        "GELU, linear, LayerNorm; null: none.",
    )
    step_decoder: StepDecoderSettings | None = Field(
        None, description="A decoder that must write each reasoning step from its latent (SIM-CoT); null: none."
    )

    @property
    def readout(self) -> ReadoutKind | None:
        """The projection."""
        return None if self.projection is None else ReadoutKind("mlp", width=self.projection)

    @property
    def step_decoding(self) -> StepDecoderSettings | None:
        """``step_decoder``."""
        return self.step_decoder

    @property
    def reads_steps(self) -> bool:
        """Where a decoder must write them."""
        return self.step_decoder is not None

    def latents_fault(self, latent: LatentSettings) -> str | None:
        """A projection reads hidden states."""
        if self.projection is None or latent.input == "hidden_state":
            return None
        return (
            f"latent.input is {latent.input}, and codi.projection reads what is fed off hidden states: set input to "
            "hidden_state, or projection to null"
        )


class MonetWarmupSettings(TrainSettings):
    """Monet's first stage (arXiv 2511.21395): auxiliary images in the chains, weighted cross-entropy."""

    epochs: float = Field(4, gt=0, description="Passes over the training examples, if steps is None.")
    observation_weight: float = Field(2.0, gt=0, description="Weight of observed words in the cross-entropy.")


class MonetTrainSettings(TrainSettings):
    """Monet's last supervised stage: latents held to those that saw the auxiliary image, without it."""

    epochs: float = Field(2, gt=0, description="Passes over the training examples, if steps is None.")
    observation_weight: float = Field(4.0, gt=0, description="Weight of observed words in the cross-entropy.")
    alignment_weight: float = Field(2.0, ge=0, description="Weight of the alignment with the teacher's states.")
    alignment: Literal["paper", "released"] = Field(
        "paper",
        description="1 - cosine of states at every depth. paper: along their features; released: of each feature along "
        "a row's tokens, as in the released code.",
    )


class MonetTargetSettings(MonetTrainSettings):
    """Monet's second stage: latents that see the auxiliary image and must tell it to the observed words."""

    latent_weight: float = Field(
        2.0,
        ge=0,
        description="The alignment's gradient reaches the weights through the latents alone, so many times; 0: it is "
        "an ordinary part of the loss.",
    )
