"""Settings of GRPO."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mirage_core.config.section import OPTIMIZERS, OptimizerName, Positive, Probability, Section
from mirage_core.config.training import ValidationSettings


class GRPOSettings(Section):
    """Group relative policy optimisation of the text, with gradient through recomputed latents."""

    LATER: ClassVar[frozenset[str]] = frozenset(
        {"latent_sigma", "latent_sigma_learned", "latent_term", "latent_term_sigma", "dual_clip", "rollouts"}
    )

    enabled: bool = True
    steps: int = Field(100, ge=0, description="Policy updates.")
    prompts_per_step: Positive = 8
    group_size: int = Field(8, ge=2, description="Sampled answers of each prompt; advantages compare them.")
    micro_batch_size: int | None = Field(None, gt=0, description="Answers of a forward pass of one process; None: all.")
    learning_rate: float = Field(1e-6, gt=0)
    warmup_steps: int = Field(0, ge=0)
    temperature: float = Field(1.0, gt=0)
    top_p: Probability = 1.0
    clip: float = Field(0.2, gt=0, description="Lower clipping range of the ratio: 1 - clip.")
    clip_high: float | None = Field(None, gt=0, description="Upper clipping range: 1 + clip_high; None: clip.")
    updates_per_rollout: Positive = Field(1, description="Optimizer steps on the same answers; 1 is on-policy.")
    zero_variance_groups: Literal["keep", "drop", "redraw"] = Field(
        "keep",
        description="Groups of equal rewards: keep them in the mean, drop them, or redraw other prompts.",
    )
    max_resamples: Positive = Field(
        3, description="Most times other prompts are drawn for a round, where they are redrawn."
    )
    accuracy_filter: tuple[Probability, Probability] | None = Field(
        None,
        description="Train only on groups whose share of correct answers is above the first and at most the second.",
    )
    advantage: Literal["std", "mean"] = Field(
        "std", description="std: (reward - mean) / standard deviation of the group; mean: reward - mean."
    )
    kl_weight: float = Field(0.01, ge=0, description="Weight of the KL to the starting model; 0: no reference model.")
    accuracy_reward: float = Field(1.0, allow_inf_nan=False, description="Reward of a correct answer (paper: 1).")
    format_reward: float = Field(0.1, allow_inf_nan=False, description="Reward of a well-formed answer (paper: 0.1).")
    latents: Literal["recompute", "replay"] = Field(
        "recompute",
        description="recompute: exact gradient through the latents; replay: constant latents, cheaper, biased (exact "
        "with latent_sigma).",
    )
    latent_sigma: float = Field(
        0.0,
        ge=0,
        description="Latents are sampled from a Gaussian around the hidden state, of this standard deviation in every "
        "dimension, and their densities are part of the policy (paper: 0.05); 0: latents are the hidden states.",
    )
    latent_sigma_learned: bool = Field(
        False, description="Train the logarithm of latent_sigma, one number, with the policy; else it is fixed."
    )
    latent_term: Literal["none", "aligned", "released"] = Field(
        "none",
        description="Monet's VLPO: -|latent - mean|^2 / (2 latent_term_sigma^2) counts as the log-probability of each "
        "latent, without noise. aligned: the mean is the state that was fed, and on policy the term has no gradient "
        "but that of the KL: latents are taught by the later updates of a rollout (updates_per_rollout above 1); "
        "released: the state one column late, as in the released code.",
    )
    latent_term_sigma: float = Field(10.0, gt=0, description="The sigma of latent_term (released code: 10).")
    dual_clip: float | None = Field(
        None, gt=1, description="The loss of a token of a bad answer is at most so many times -advantage; None: any."
    )
    rollouts: Literal["here", "served"] = Field(
        "here",
        description="What samples answers. here: the training processes; served: vLLM with this project's plug-in at "
        "runtime.rollouts_url, which is given the weights before every round.",
    )
    max_new_tokens: Positive = 512
    max_grad_norm: float = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    gradient_checkpointing: bool = Field(False, description="Recompute activations in the backward pass.")
    optimizer: OptimizerName = Field("adamw", description=OPTIMIZERS)
    validation: ValidationSettings = ValidationSettings()

    @model_validator(mode="after")
    def _measures_answers(self) -> GRPOSettings:
        """A policy has no loss on held-out problems: only its answers can be measured."""
        watched = self.validation
        if watched.every is not None and not watched.problems:
            raise ValueError("grpo.validation.every needs grpo.validation.problems, the number of problems answered")
        if watched.metric != "accuracy" and (watched.patience is not None or watched.keep_best):
            raise ValueError("patience and keep_best of grpo.validation go by metric: accuracy; got loss")
        return self

    @model_validator(mode="after")
    def _sampled_latents_are_actions(self) -> GRPOSettings:
        """What was sampled is fed as it was: nothing is recomputed. Learning a deviation needs one to begin with."""
        if self.latent_sigma and self.latents != "replay":
            raise ValueError(
                f"grpo.latent_sigma is {self.latent_sigma:g}: sampled latents are actions, fed again as they were; set "
                "grpo.latents to replay"
            )
        if self.latent_sigma_learned and not self.latent_sigma:
            raise ValueError(
                "grpo.latent_sigma_learned needs grpo.latent_sigma, the deviation to begin with: set it above 0"
            )
        return self

    @model_validator(mode="after")
    def _served_rollouts_have_log_probs(self) -> GRPOSettings:
        """An engine tells the log-probabilities of tokens as they were sampled, and samples no latents."""
        if self.rollouts == "served" and (self.top_p < 1 or self.latent_sigma):
            raise ValueError(
                f"grpo.rollouts is served, with top_p {self.top_p:g} and latent_sigma {self.latent_sigma:g}: set top_p "
                "to 1 and latent_sigma to 0, or rollouts to here"
            )
        return self

    @model_validator(mode="after")
    def _latent_term_judges_latents_as_they_were(self) -> GRPOSettings:
        """The term compares what was fed with its mean: it is fed again, and has no other density."""
        if self.latent_term == "none":
            return self
        if self.latents != "replay" or self.latent_sigma:
            raise ValueError(
                f"grpo.latent_term is {self.latent_term}, with latents {self.latents} and latent_sigma "
                f"{self.latent_sigma:g}: set latents to replay and latent_sigma to 0"
            )
        return self

    @model_validator(mode="after")
    def _accuracy_filter_is_a_range(self) -> GRPOSettings:
        """A range that no group can be in would leave no training data."""
        if self.accuracy_filter is not None and self.accuracy_filter[0] >= self.accuracy_filter[1]:
            raise ValueError(f"accuracy_filter is {self.accuracy_filter}: the first must be below the second")
        return self
