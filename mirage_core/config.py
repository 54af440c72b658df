"""Settings: one YAML a recipe, read into frozen pydantic models that refuse unknown keys.

The resolved settings are saved with every run. ``runtime`` never changes a result beyond rounding
and is left out of every identity; everything else is part of the identity of the stages that read it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Level = Annotated[int, Field(ge=3, le=8)]
Positive = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class BenchmarkData(Section):
    """How many problems of one generated benchmark go into each split, and of which levels."""

    train_levels: tuple[Level, ...] = Field(
        (3, 4, 5, 6), description="Map sizes trained on; one named twice gets two shares."
    )
    test_levels: tuple[Level, ...] = Field((3, 4, 5, 6), description="Map sizes evaluated on.")
    train: int = Field(1000, ge=0, description="Training problems, spread evenly over the levels.")
    validation: int = Field(100, ge=0, description="Validation problems, spread over train_levels.")
    test_per_level: int = Field(100, ge=0, description="Held-out test problems of each test level.")


class ProblemSettings(Section):
    """Which problems are generated, and what they must not share."""

    vsp_planning: BenchmarkData | None = Field(BenchmarkData(), description="VSP spatial planning.")
    vsp_reasoning: BenchmarkData | None = Field(BenchmarkData(), description="VSP spatial reasoning.")
    hole_probability: Probability = Field(0.2, description="Chance that a cell is a hole.")
    cell_px: Positive = Field(64, description="Side of a cell in the drawn map, in pixels.")
    plan_length_max: Positive = Field(9, description="Longest action plan of a reasoning problem.")
    exclude: tuple[str, ...] = Field((), description="Published JSONL files whose maps are never generated.")


class AuxiliaryImageSettings(Section):
    """How the pictures to imagine are drawn."""

    arrow_color: tuple[int, int, int] = Field((255, 0, 0), description="RGB of the path's arrows.")
    arrow_width: float = Field(0.09, gt=0, le=0.5, description="Shaft width, as a share of a cell.")
    arrow_head: float = Field(0.32, gt=0, le=1.0, description="Head length, as a share of a cell.")
    reasoning_step: Literal["first", "middle", "last", "random"] = Field(
        "random", description="After which step of the plan the map of a reasoning chain is drawn."
    )


class TeacherSettings(Section):
    """Who writes the chains, and of which form."""

    kind: Literal["oracle"] = Field("oracle", description="oracle: from the solver's own knowledge.")
    variant: Literal["direct", "cot"] = Field("direct", description="direct: the answer only.")


class PromptSettings(Section):
    """How a problem is shown to the model; travels with every checkpoint."""

    form: Literal["benchmark", "short"] = Field(
        "benchmark", description="The benchmark's own prompt, or a short one for tiny models."
    )
    image_scale: float = Field(
        1.0, gt=0, le=4.0, description="Pictures are resized by this before the processor (28/64: a cell a token)."
    )
    max_pixels: Positive = Field(1003520, description="The processor's upper limit of pixels a picture.")


class LatentSettings(Section):
    """The latent span: its length, how its targets are made, and how it ends. Paper, section 3.2."""

    num_latents: Positive = Field(4, description="k, latent tokens a span.")
    compression: Literal["even", "drop_tail"] = Field(
        "even", description="even: every patch is averaged; drop_tail: the released code's rule."
    )
    end: Literal["exact", "free"] = Field("exact", description="exact: k latents; free: the model ends the span.")
    max_latents: Positive = Field(8, description="Cap on latents a span when the end is free.")
    max_spans: Positive = Field(4, description="Cap on spans an answer.")


class WarmupSettings(Section):
    """Warm-up of a from-scratch base: dense perception of plain tasks, no planning."""

    steps: int = Field(700, ge=0, description="Optimizer steps.")
    batch_size: Positive = Field(32, description="Pictures a step.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak rate.")
    warmup_steps: int = Field(30, ge=0, description="Steps of linear warm-up.")
    dense_weight: float = Field(0.5, ge=0, description="Weight of the throw-away heads on the image positions.")
    centring_weight: float = Field(1.0, ge=0, description="Weight of |mean f|^2 / E|f|^2 of the visual features.")
    levels: tuple[Level, ...] = Field((3, 4, 5, 6), min_length=1, description="Sizes of the maps seen.")
    walk_length_max: Positive = Field(9, description="Longest random walk read.")
    schedule: Literal["constant", "cosine", "linear"] = Field("cosine", description="What follows the warm-up.")
    weight_decay: float = Field(0.01, ge=0)
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


class ModelSettings(Section):
    """The base model: a hub id, a folder, or ``from_scratch``."""

    source: str = Field("from_scratch", description="from_scratch, a hub id, or a folder.")
    revision: str | None = Field(None, description="Hub revision; pin it for reproducible runs.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Type of the weights in training.")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    train_vision: bool = Field(False, description="Train the vision tower too (the paper freezes it).")
    architecture: ArchitectureSettings = ArchitectureSettings()
    warmup: WarmupSettings = WarmupSettings()


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
    gradient_checkpointing: bool = False
    batch_by_group: bool = Field(
        False, description="Batches of one benchmark and group (level) as far as they go: less padding, same examples."
    )


class GroundingSettings(TrainSettings):
    """Stage 1: L1 = L_visual + gamma * L_text. Paper, Eq. 2-3."""

    text_weight: float = Field(0.1, ge=0, description="gamma, the weight of the text loss.")


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
    clip: float = Field(0.2, gt=0)
    kl_weight: float = Field(0.01, ge=0)
    accuracy_reward: float = 1.0
    format_reward: float = 0.1
    latents: Literal["recompute", "replay"] = Field(
        "recompute", description="recompute: exact gradient through the latents; replay: constants, cheaper and biased."
    )
    max_new_tokens: Positive = 512
    max_grad_norm: float = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)


class EvaluationSettings(Section):
    """How methods are compared. Greedy by default: the released temperature of 0.7 is noisy."""

    methods: tuple[Literal["zero-shot", "direct-sft", "stage-1", "stage-2", "grpo"], ...] = (
        "zero-shot", "direct-sft", "stage-1", "stage-2", "grpo",
    )  # fmt: skip
    max_new_tokens: Positive = 1024
    temperature: float = Field(0.0, ge=0)
    top_p: Probability = 1.0
    samples: Positive = Field(1, description="Answers a problem; more than 1 needs a temperature above 0.")
    batch_size: Positive = 32
    planning_rule: Literal["mirage", "vsp"] = Field("mirage", description="How a plan is judged; named in every score.")


class ReportSettings(Section):
    """What the report shows."""

    trajectories: int = Field(8, ge=0, description="Sample trajectories a method and benchmark.")


class RuntimeSettings(Section):
    """How the work is done here. Never part of an identity."""

    engine: Literal["deepspeed", "plain"] = Field("deepspeed", description="plain needs no compiler; same losses.")
    zero_stage: Literal[0, 1, 2, 3] = 1
    processes: Positive = Field(2, description="Training and evaluation processes on this machine.")
    threads: Positive = Field(1, description="CPU threads a process.")
    checkpoint_every: Positive = Field(50, description="Optimizer steps between checkpoints.")
    timeout_s: Positive = Field(6 * 3600, description="Longest time one training stage may take.")
    stall_timeout_s: Positive = Field(900, description="Longest silence of a training process.")


class Settings(Section):
    """A whole recipe."""

    recipe: str = Field(description="The recipe's name.")
    description: str = Field("", description="What it is for.")
    seed: int = Field(42, ge=0)
    problems: ProblemSettings = ProblemSettings()
    auxiliary_images: AuxiliaryImageSettings = AuxiliaryImageSettings()
    teacher: TeacherSettings = TeacherSettings()
    prompt: PromptSettings = PromptSettings()
    latent: LatentSettings = LatentSettings()
    model: ModelSettings = ModelSettings()
    direct_sft: TrainSettings = TrainSettings()
    grounding: GroundingSettings = GroundingSettings()
    relaxation: TrainSettings = TrainSettings()
    grpo: GRPOSettings = GRPOSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    report: ReportSettings = ReportSettings()
    runtime: RuntimeSettings = RuntimeSettings()


def identity(section: BaseModel) -> dict[str, Any]:
    """The JSON form of a settings section, as it enters a fingerprint."""
    return section.model_dump(mode="json")
