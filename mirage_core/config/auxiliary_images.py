"""Settings of auxiliary images: drawn, stitched, or rendered as scenes by CogVideoX."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from mirage_core.config.section import Positive, Section


class SceneLoraSettings(Section):
    """Fine-tuning of CogVideoX by LoRA on pairs of a description and a frame."""

    rank: Positive = Field(64, description="Rank of the LoRA matrices.")
    alpha: Positive = Field(64, description="LoRA's scale: alpha / rank.")
    target_modules: tuple[str, ...] = Field(("to_q", "to_k", "to_v", "to_out.0"), min_length=1)
    steps: Positive = Field(1000, description="Optimizer steps.")
    batch_size: Positive = Field(1, description="Pairs of a step.")
    learning_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(50, ge=0)
    weight_decay: float = Field(1e-4, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = True
    checkpoint_every: Positive = Field(100, description="Steps between checkpoints.")


class SceneSettings(Section):
    """Scenes rendered by CogVideoX, one frame for each problem. Values that the paper does not publish are settings."""

    LATER: ClassVar[frozenset[str]] = frozenset({"film_frames"})

    model: str = Field("zai-org/CogVideoX-5b", description="A hub id, or a folder of the same layout.")
    revision: str | None = Field(None, description="Hub revision; pin it for reproducible runs.")
    lora: str | None = Field(None, description="A folder with LoRA weights (mirage scenes finetune makes one).")
    lora_scale: float = Field(1.0, ge=0)
    dtype: Literal["float32", "float16", "bfloat16"] = Field("bfloat16", description="Dtype of the weights.")
    description: str = Field(
        "{question} The answer: {answer}.",
        description="Template of a scene's description: {question}, {answer}; used without descriptions.",
    )
    descriptions: str | None = Field(None, description="JSONL of {id, description}: better descriptions.")
    negative_prompt: str = ""
    width: Positive = Field(720, description="Pixels.")
    height: Positive = Field(480, description="Pixels.")
    num_frames: Positive = Field(49, description="Frames rendered: 1 more than a multiple of 4.")
    frame: int | Literal["first", "middle", "last"] = Field("last", description="The selected frame.")
    film_frames: Positive = Field(8, description="Frames of a film, evenly over the video (auxiliary_images.film).")
    steps: Positive = Field(50, description="Denoising steps.")
    guidance: float = Field(6.0, ge=1, description="Classifier-free guidance scale.")
    max_text_tokens: Positive = Field(226, description="Tokens of a description.")
    finetuning: SceneLoraSettings = SceneLoraSettings()


class AuxiliaryImageSettings(Section):
    """How auxiliary images are drawn."""

    LATER: ClassVar[frozenset[str]] = frozenset({"film"})

    arrow_color: tuple[int, int, int] = Field((255, 0, 0), description="RGB of the path's arrows.")
    arrow_width: float = Field(0.09, gt=0, le=0.5, description="Shaft width, as a share of a cell.")
    arrow_head: float = Field(0.32, gt=0, le=1.0, description="Head length, as a share of a cell.")
    reasoning_step: Literal["first", "middle", "last", "random"] = Field(
        "random", description="The step of the plan after which the map of a reasoning chain is drawn."
    )
    scenes: SceneSettings | None = Field(None, description="Scenes for SAT by CogVideoX; training on SAT needs it.")
    jigsaw_layout: Literal["both", "right"] = Field(
        "both", description="both: each piece stitched into the reference, side by side; right: the right piece only."
    )
    film: Literal["off", "forward", "backward", "wave", "search"] = Field(
        "off",
        description="Also draw what happens step by step: a frame for each move, candidate or image. backward: a "
        "plan's arrows appear from the goal on; wave: the distances to a plan's goal spread from it, all cells of one "
        "distance in a frame; search: the same until they reach the player, then the arrows from there on; everything "
        "else as forward.",
    )

    @field_validator("film", mode="before")
    @classmethod
    def _off_is_a_word(cls, film: Any) -> Any:
        """YAML reads a bare ``off`` as false."""
        return "off" if film is False else film
