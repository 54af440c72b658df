"""Settings of the model: prompt, latent spans, weights, and the warm-up of a model from scratch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from mirage_core.config.section import OPTIMIZERS, OptimizerName, Positive, Section

Bottleneck = Literal["none", "latent_kv", "latent_only", "image"]
"""none: text after a span attends to all tokens before it. latent_kv: to no token before the first latent, but to the
keys and values of the latents, which themselves attended to the image. latent_only: to the latents' vectors, encoded
again without any context before them. image: to all but the image, and so does the text before a span, the question's
too; only latents attend to the image (arXiv 2512.21218)."""

LatentInput = Literal["hidden_state", "blank", "query", "code"]
"""hidden_state: a latent's input embedding is the model's own previous hidden state; the others need no rollout in
training. blank: the embedding of latent_pad. query: a learned embedding for each number in the span (arXiv 2512.21218).
code: an entry of a codebook of image features, chosen by a head (discrete visual tokens, arXiv 2605.21642)."""

FeedNorm = Literal["own", "image"]
"""own: latents are fed as they are. image: rescaled to the mean norm of the image tokens of their own problem."""

SpanEnd = Literal["exact", "free", "open", "near"]
"""What ends a span in answers: so many latents, the model's own latent_end, or a latent near a learned vector."""

WarmupLevel = Annotated[int, Field(ge=3, le=8)]
"""The warm-up's heads tell rows and columns up to here; a model answers larger maps too."""


class PromptSettings(Section):
    """How a problem is presented to the model; saved with every checkpoint."""

    LATER: ClassVar[frozenset[str]] = frozenset({"background"})

    form: Literal["benchmark", "short"] = Field(
        "benchmark", description="The benchmark's own prompt, or a short one for tiny models."
    )
    image_scale: float = Field(
        1.0, gt=0, le=4.0, description="Scale of images before the processor (28/64: one token for each cell)."
    )
    max_pixels: Positive = Field(1003520, description="The processor's upper limit of pixels of an image.")
    background: Literal["white", "black"] = Field(
        "white", description="What transparent pixels of an image are drawn over."
    )


class LatentSettings(Section):
    """The latent span: its length, its targets, and how it ends. Paper, section 3.2."""

    LATER: ClassVar[frozenset[str]] = frozenset({"length", "feed_norm", "near"})

    num_latents: Positive = Field(4, description="k, the latent tokens of a span.")
    compression: Literal["even", "drop_tail", "changed_patches"] = Field(
        "even",
        description="even: average all patches; drop_tail: the released code's rule; changed_patches: average only "
        "patches in which the auxiliary image differs from the problem's first image, if both have one size.",
    )
    end: SpanEnd = Field(
        "exact",
        description="exact: k latents, then latent_end; open: k latents, then any token; free: the model ends the "
        "span; near: a latent near the model's stop vector ends it (lvr.stop vector).",
    )
    near: float = Field(0.02, gt=0, description="How near, if the end is near: mean square over the dimensions.")
    max_latents: Positive = Field(8, description="Most latents of a span if the end is free or near.")
    max_spans: Positive = Field(4, description="Most spans of an answer.")
    length: Literal["fixed", "frames"] = Field(
        "fixed",
        description="Latents of a span in training. fixed: num_latents; frames: one for each frame of the film, at "
        "most max_latents; the model learns where to end, so end is free.",
    )
    input: LatentInput = Field(
        "hidden_state",
        description="The input embedding of a latent. hidden_state: the model's own previous hidden state; blank: the "
        "embedding of latent_pad (k blank tokens, a control); query: a learned embedding for each number in the span; "
        "code: the entry of the codebook that the head of stepwise grounding chooses (what: codebook).",
    )
    feed_norm: FeedNorm = Field(
        "own",
        description="The norm at which hidden states are fed. own: theirs; image: the mean norm of the image tokens of "
        "the same problem (a problem without an image: own). Targets that stage 1 feeds stay as they are.",
    )
    bottleneck: Bottleneck = Field(
        "none",
        description="What text may attend to. none: everything; latent_kv: after a span, nothing before it but the "
        "keys and values of the latents; latent_only: after a span, nothing before it but the latent vectors; image: "
        "everything but the image, before a span too; the latents attend to the image.",
    )

    @model_validator(mode="after")
    def _ends_as_it_learned(self) -> LatentSettings:
        """Spans of different lengths have to be ended by the model."""
        if self.length == "frames" and self.end != "free":
            raise ValueError("latent.length frames needs latent.end free: the model ends its spans itself")
        return self

    @model_validator(mode="after")
    def _rescales_hidden_states(self) -> LatentSettings:
        """Only hidden states have a norm of their own to be replaced."""
        if self.feed_norm != "own" and not self.rolls_out:
            raise ValueError(
                f"latent.feed_norm {self.feed_norm} rescales hidden states, and latent.input is {self.input}: set "
                "feed_norm to own, or input to hidden_state"
            )
        return self

    @property
    def rolls_out(self) -> bool:
        """Whether hidden states are fed back, which takes a pass for each latent in training."""
        return self.input == "hidden_state"

    @property
    def span_limit(self) -> int:
        """The most latents of a span, in training and in answers."""
        return self.max_latents if self.end in ("free", "near") else self.num_latents


class WarmupSettings(Section):
    """Warm-up of a from-scratch base: dense perception of plain tasks, no planning."""

    LATER: ClassVar[frozenset[str]] = frozenset({"optimizer"})

    steps: int = Field(700, ge=0, description="Optimizer steps.")
    batch_size: Positive = Field(32, description="Images of a step.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak rate.")
    warmup_steps: int = Field(30, ge=0, description="Steps of linear warm-up.")
    dense_weight: float = Field(0.5, ge=0, description="Loss weight of the temporary heads at image positions.")
    centring_weight: float = Field(1.0, ge=0, description="Weight of |mean f|^2 / E|f|^2 of the visual features.")
    levels: tuple[WarmupLevel, ...] = Field((3, 4, 5, 6), min_length=1, description="Sizes of the maps, at most 8.")
    walk_length_max: Positive = Field(9, description="Longest random walk.")
    schedule: Literal["constant", "cosine", "linear"] = Field("cosine", description="Schedule after the warm-up.")
    weight_decay: float = Field(0.01, ge=0)
    optimizer: OptimizerName = Field("adamw", description=OPTIMIZERS)
    max_grad_norm: float = Field(1.0, gt=0)


class ArchitectureSettings(Section):
    """Sizes of a from-scratch Qwen2.5-VL."""

    hidden_size: Positive = 128
    intermediate_size: Positive = 384
    num_layers: Positive = 4
    num_heads: Positive = 4
    num_kv_heads: Positive = 2
    mrope_section: tuple[int, int, int] = (4, 6, 6)
    vision_hidden_size: Positive = 64
    vision_intermediate_size: Positive = 128
    vision_depth: Positive = 2
    vision_num_heads: Positive = 2
    vocab_size: Positive = 512
    initializer_range: float = Field(0.08, gt=0)


class LoRASettings(Section):
    """Low-rank adapters on the text model's matrices (arXiv 2106.09685) instead of training all weights."""

    rank: Positive = Field(64, description="Rank of the adapters.")
    alpha: float = Field(128.0, gt=0, description="Adapters are scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters.")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="Names of the adapted linear layers of the text model.",
    )
    train_latent_tokens: bool = Field(
        True, description="Also train the embeddings (and output rows) of the latent tokens, which are new."
    )


class ModelSettings(Section):
    """The base model: a hub id, a folder, or ``from_scratch``."""

    source: str = Field("from_scratch", description="from_scratch, a hub id, or a folder.")
    revision: str | None = Field(None, description="Hub revision; pin it for reproducible runs.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Dtype of the weights in training.")
    attention: Literal["sdpa", "eager"] = "sdpa"
    train_vision: bool = Field(False, description="Train the vision tower too (the paper freezes it).")
    lora: LoRASettings | None = Field(None, description="Train low-rank adapters; None: all weights.")
    architecture: ArchitectureSettings = ArchitectureSettings()
    warmup: WarmupSettings = WarmupSettings()

    @model_validator(mode="after")
    def _trains_one_or_the_other(self) -> ModelSettings:
        """Adapters train the text model only."""
        if self.lora is not None and self.train_vision:
            raise ValueError("model.lora trains adapters of the text model alone: set train_vision to false")
        return self
