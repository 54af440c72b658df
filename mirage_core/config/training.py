"""Training: the supervised stages, GRPO, and what is watched meanwhile."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mirage_core.config.section import Positive, Probability, Section


class ValidationSettings(Section):
    """What is measured on the validation split while a stage trains, and what follows from it.

    It is measured before the first step, every so many, and after the last.
    """

    every: int | None = Field(None, gt=0, description="Optimizer steps between validations; None: none.")
    examples: Positive = Field(64, description="Validation examples whose losses are taken.")
    problems: int = Field(0, ge=0, description="Validation problems answered (greedily) for an accuracy; 0: none.")
    metric: Literal["loss", "accuracy"] = Field(
        "loss", description="What best means; accuracy needs problems, and GRPO has no other."
    )
    patience: int | None = Field(
        None, gt=0, description="Stop after so many validations in a row without a better one; None: never."
    )
    keep_best: bool = Field(False, description="The result is the best weights by the metric, not the last ones.")

    @model_validator(mode="after")
    def _is_measured(self) -> ValidationSettings:
        """Nothing can be best that is not measured."""
        if self.every is None and (self.patience is not None or self.keep_best):
            raise ValueError("patience and keep_best need every, the steps between validations")
        if self.metric == "accuracy" and not self.problems:
            raise ValueError("metric accuracy needs problems, the number of problems answered at each validation")
        return self


class TrainSettings(Section):
    """One supervised training stage. Steps count optimizer steps; epochs are used where steps is None."""

    steps: int | None = Field(None, ge=0, description="Optimizer steps; None: from epochs.")
    epochs: float = Field(15, gt=0, description="Passes over the training examples, where steps is None.")
    batch_size: Positive = Field(1, description="Examples an optimizer step, over all processes.")
    micro_batch_size: int | None = Field(None, gt=0, description="Examples a forward pass and process; None: as one.")
    learning_rate: float = Field(1e-5, gt=0, description="Peak rate of AdamW.")
    warmup_steps: int = Field(10, ge=0, description="Steps of linear warm-up.")
    schedule: Literal["constant", "cosine", "linear"] = Field("cosine", description="What follows the warm-up.")
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = Field(False, description="Compute activations again in the backward pass.")
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit keeps its moments in 8 bits (bitsandbytes, on a GPU)."
    )
    batch_by: Literal["chance", "group", "length"] = Field(
        "chance",
        description="What a batch has in common, for less padding: nothing; benchmark and level; the number of tokens.",
    )
    stop_above: float | None = Field(
        5.0, gt=1, description="Stop when the smoothed loss is this many times that of the first steps; None: go on."
    )
    validation: ValidationSettings = ValidationSettings()


class GroundingSettings(TrainSettings):
    """Stage 1: L1 = L_visual + gamma * L_text. Paper, Eq. 2-3."""

    text_weight: float = Field(0.1, ge=0, description="gamma, the weight of the text loss.")
    horizon: Positive = Field(
        1,
        description="Latents predicted in a row, fed on the model's own between, before a target is fed again; 1: "
        "every target (paper); latent.num_latents or more: none.",
    )


class RelaxationSettings(TrainSettings):
    """Stage 2: the text loss alone (paper, Eq. 4), and, all off by default, what may make the latents matter."""

    bottleneck_ramp: Probability = Field(
        0.0,
        description="Share of the steps over which latent.bottleneck comes on: the share of a batch's rows under it "
        "rises from 0 to 1; 0: on for every row from the first step.",
    )
    grounding_weight: float = Field(
        0.0, ge=0, description="Weight of 1 - cosine of the rolled-out latents and their targets beside the text loss."
    )
    latent_noise: float = Field(
        0.0, ge=0, description="Gaussian noise on every latent that is fed, in units of its own standard deviation."
    )
    latent_dropout: float = Field(0.0, ge=0, lt=1, description="Share of the latents that are fed as zeros instead.")


class GRPOSettings(Section):
    """Group relative policy optimisation of the text, with gradient through recomputed latents."""

    enabled: bool = True
    steps: int = Field(100, ge=0, description="Policy updates.")
    prompts_per_step: Positive = 8
    group_size: Positive = Field(8, description="Sampled answers a prompt.")
    micro_batch_size: int | None = Field(None, gt=0, description="Answers a forward pass and process; None: all.")
    learning_rate: float = Field(1e-6, gt=0)
    warmup_steps: int = Field(0, ge=0)
    temperature: float = Field(1.0, gt=0)
    top_p: Probability = 1.0
    clip: float = Field(0.2, gt=0, description="Ratios below 1 - clip gain nothing.")
    clip_high: float | None = Field(None, gt=0, description="Ratios above 1 + clip_high gain nothing; None: clip.")
    updates_per_rollout: Positive = Field(1, description="Optimizer steps on the same answers; 1 is on-policy.")
    silent_groups: Literal["keep", "drop", "redraw"] = Field(
        "keep",
        description="Groups of equal rewards: they count in the mean, or not, or other prompts replace them.",
    )
    redraws: Positive = Field(3, description="Most times other prompts are drawn for a round, where they are redrawn.")
    group_accuracy: tuple[Probability, Probability] | None = Field(
        None,
        description="Learn only from groups whose share of right answers is above the first and at most the second.",
    )
    advantage: Literal["std", "mean"] = Field(
        "std", description="std: reward less the group's mean, over its standard deviation; mean: not divided."
    )
    kl_weight: float = Field(0.01, ge=0, description="Weight of the KL to the model it began with; 0: no reference.")
    accuracy_reward: float = Field(1.0, description="For a right answer (paper: 1).")
    format_reward: float = Field(0.1, description="For a well-formed one (paper: 0.1).")
    latents: Literal["recompute", "replay"] = Field(
        "recompute", description="recompute: exact gradient through the latents; replay: constants, cheaper and biased."
    )
    max_new_tokens: Positive = 512
    max_grad_norm: float = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    gradient_checkpointing: bool = Field(False, description="Compute activations again in the backward pass.")
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    validation: ValidationSettings = ValidationSettings()

    @model_validator(mode="after")
    def _measures_answers(self) -> GRPOSettings:
        """There is no loss of a policy on held-out problems: only its answers can be measured."""
        watched = self.validation
        if watched.every is not None and not watched.problems:
            raise ValueError("grpo.validation.every needs grpo.validation.problems, the number of problems answered")
        if watched.metric != "accuracy" and (watched.patience is not None or watched.keep_best):
            raise ValueError("patience and keep_best of grpo.validation go by metric: accuracy; got loss")
        return self

    @model_validator(mode="after")
    def _some_group_can_teach(self) -> GRPOSettings:
        """A range of accuracies that no group can have would leave nothing to learn from."""
        if self.group_accuracy is not None and self.group_accuracy[0] >= self.group_accuracy[1]:
            raise ValueError(f"group_accuracy is {self.group_accuracy}: the first must be below the second")
        return self
