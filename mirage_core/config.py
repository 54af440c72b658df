"""Settings: one YAML a recipe, read into frozen pydantic models that refuse unknown keys.

The resolved settings are saved with every run. ``runtime`` never changes a result beyond rounding
and is left out of every identity; everything else is part of the identity of the stages that read it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Level = Annotated[int, Field(ge=3, le=8)]
Positive = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
StageName = Literal[
    "problems", "auxiliary-images", "examples", "base", "direct-sft", "captions", "capimagine", "grounding",
    "relaxation", "grpo", "evaluation", "report",
]  # fmt: skip


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    # An error's text goes into logs: what was typed (a URL with a password in it) does not.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True)


class BenchmarkData(Section):
    """How many problems of one generated benchmark go into each split, and of which levels."""

    train_levels: tuple[Level, ...] = Field(
        (3, 4, 5, 6), description="Map sizes trained on; one named twice gets two shares."
    )
    test_levels: tuple[Level, ...] = Field((3, 4, 5, 6), description="Map sizes evaluated on.")
    train: int = Field(1000, ge=0, description="Training problems, spread evenly over the levels.")
    validation: int = Field(100, ge=0, description="Validation problems, spread over train_levels.")
    test_per_level: int = Field(100, ge=0, description="Held-out test problems of each test level.")


class JigsawData(Section):
    """Jigsaw problems cut from pictures, and where BLINK's rows are for the test."""

    pictures: str = Field("drawn", description="A folder of PNG/JPEG, a data set (folder or hub id), or drawn.")
    pictures_column: str = Field("image", description="The column of pictures, of a data set.")
    pictures_split: str = Field("train", description="The split read, of a data set.")
    train: int = Field(1000, ge=0, description="Training problems.")
    validation: int = Field(100, ge=0, description="Validation problems.")
    test: int = Field(150, ge=0, description="Held-out problems cut from the same source.")
    blink: str | None = Field(None, description="BLINK's Jigsaw rows (folder, file or hub id), tested on beside these.")
    side_px: int = Field(224, gt=0, multiple_of=2, description="Side of the reference, in pixels; a piece has half.")
    wrong: Literal["same", "near"] = Field(
        "same", description="The wrong piece: from elsewhere in the same picture, or from the one nearest in colours."
    )


class SATData(Section):
    """SAT's questions about scenes."""

    source: str = Field("array/SAT", description="A hub id, a folder of parquet files, or a file.")
    train_split: str = Field("train", description="The split trained on: train, or static.")
    test_split: str = Field("test", description="The split tested on: test (150 real photographs) or val.")
    types: tuple[str, ...] = Field((), description="Question types that are used; empty: all.")
    train: int = Field(1000, ge=0, description="Training problems.")
    validation: int = Field(100, ge=0, description="Validation problems, from the split trained on.")
    test: int | None = Field(None, ge=0, description="Test rows, each asked in both orders; None: all.")


class CoMTData(Section):
    """CoMT's questions, whose rationales hold the auxiliary pictures."""

    source: str = Field("comt", description="The folder that holds data.jsonl and images/.")
    types: tuple[Literal["creation", "deletion", "update", "selection"], ...] = Field(
        ("creation",), min_length=1, description="Row types that are used; creation is the geometry part."
    )
    train: int = Field(1000, ge=0, description="Training problems, of those with a picture in the rationale.")
    validation: int = Field(100, ge=0, description="Validation problems.")
    test: int | None = Field(None, ge=0, description="Test problems; None: all of the test share.")


class OwnData(Section):
    """Your own questions in one JSONL file; ``mirage data check FILE`` shows what is wrong with it."""

    file: str = Field(description="A JSONL file, its pictures beside it.")
    test_share: Probability = Field(0.2, description="Share of the lines without a split that are kept for testing.")
    validation_share: Probability = Field(0.05, description="Share of them for validation.")


class VSPFolderData(Section):
    """Maps of the original VSP repository (maze/task-main/maps/level3/img/0.png), tested on as spatial planning."""

    source: str = Field(description="The repository's folder, or its folder maze.")
    tasks: tuple[Literal["task-main", "task1", "task2", "task3", "task4"], ...] = Field(
        ("task-main",), min_length=1, description="task-main: planning; task1 to task4: questions in words."
    )
    levels: tuple[Level, ...] = Field((3, 4, 5, 6), min_length=1, description="Levels that are read.")
    per_level: int | None = Field(None, gt=0, description="Maps a level; None: all.")


class TaskData(Section):
    """A task of your own: one Python file with its world, run as code (docs/your-own-task.md)."""

    module: str = Field(
        min_length=1, description="A Python file, relative to the recipe that names it, or a dotted module name."
    )
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="What the file must hold; filled in when a recipe is read."
    )
    train: int = Field(1000, ge=0, description="Training problems.")
    validation: int = Field(100, ge=0, description="Validation problems.")
    test: int = Field(150, ge=0, description="Held-out test problems.")
    options: dict[str, Any] = Field(default_factory=dict, description="What only the task understands.")


class ProblemSettings(Section):
    """Which problems are generated or read, and what they must not share."""

    vsp_planning: BenchmarkData | None = Field(BenchmarkData(), description="VSP spatial planning.")
    vsp_reasoning: BenchmarkData | None = Field(BenchmarkData(), description="VSP spatial reasoning.")
    vsp_folder: VSPFolderData | None = Field(None, description="Test maps of the original VSP repository.")
    jigsaw: JigsawData | None = Field(None, description="Jigsaw, cut from pictures; BLINK's rows for the test.")
    sat: SATData | None = Field(None, description="SAT, spatial aptitude.")
    comt: CoMTData | None = Field(None, description="CoMT, with the pictures of its rationales.")
    own: OwnData | None = Field(None, description="Your own questions, from one JSONL file.")
    task: TaskData | None = Field(None, description="Your own task: its world in one Python file.")
    hole_probability: Probability = Field(0.2, description="Chance that a cell is a hole.")
    cell_px: Positive = Field(64, description="Side of a cell in the drawn map, in pixels.")
    plan_length_max: Positive = Field(9, description="Longest action plan of a reasoning problem.")
    exclude: tuple[str, ...] = Field((), description="Published JSONL files whose maps are never generated.")


class SceneLoraSettings(Section):
    """Fine-tuning of CogVideoX by LoRA on pairs of a description and a frame."""

    rank: Positive = Field(64, description="Rank of the LoRA matrices.")
    alpha: Positive = Field(64, description="LoRA's scale: alpha / rank.")
    target_modules: tuple[str, ...] = Field(("to_q", "to_k", "to_v", "to_out.0"), min_length=1)
    steps: Positive = Field(1000, description="Optimizer steps.")
    batch_size: Positive = Field(1, description="Pairs a step.")
    learning_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(50, ge=0)
    weight_decay: float = Field(1e-4, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = True
    checkpoint_every: Positive = Field(100, description="Steps between checkpoints.")


class SceneSettings(Section):
    """Scenes rendered by CogVideoX, one frame a problem. What the paper does not publish is a setting here."""

    model: str = Field("zai-org/CogVideoX-5b", description="A hub id, or a folder of the same layout.")
    revision: str | None = Field(None, description="Hub revision; pin it for reproducible runs.")
    lora: str | None = Field(None, description="A folder with LoRA weights (mirage scenes finetune makes one).")
    lora_scale: float = Field(1.0, ge=0)
    dtype: Literal["float32", "float16", "bfloat16"] = Field("bfloat16", description="Type of the weights.")
    description: str = Field(
        "{question} The answer: {answer}.",
        description="The scene in words, from a problem: {question}, {answer}; used where no description is given.",
    )
    descriptions: str | None = Field(None, description="JSONL of {id, description}: the scenes in better words.")
    negative_prompt: str = ""
    width: Positive = Field(720, description="Pixels.")
    height: Positive = Field(480, description="Pixels.")
    num_frames: Positive = Field(49, description="Frames rendered: 1 more than a multiple of 4.")
    frame: int | Literal["first", "middle", "last"] = Field("last", description="The frame that is kept.")
    steps: Positive = Field(50, description="Denoising steps.")
    guidance: float = Field(6.0, ge=1, description="Classifier-free guidance scale.")
    max_text_tokens: Positive = Field(226, description="Tokens of a description.")
    finetuning: SceneLoraSettings = SceneLoraSettings()


class AuxiliaryImageSettings(Section):
    """How the pictures to imagine are drawn."""

    arrow_color: tuple[int, int, int] = Field((255, 0, 0), description="RGB of the path's arrows.")
    arrow_width: float = Field(0.09, gt=0, le=0.5, description="Shaft width, as a share of a cell.")
    arrow_head: float = Field(0.32, gt=0, le=1.0, description="Head length, as a share of a cell.")
    reasoning_step: Literal["first", "middle", "last", "random"] = Field(
        "random", description="After which step of the plan the map of a reasoning chain is drawn."
    )
    scenes: SceneSettings | None = Field(None, description="Scenes for SAT by CogVideoX; training on SAT needs it.")
    jigsaw_layout: Literal["both", "right"] = Field(
        "both", description="both: each piece stitched into the reference, side by side; right: the right piece only."
    )


class TeacherSettings(Section):
    """Who writes the chains, of which form, and what is accepted. How an endpoint is reached is ``runtime.teacher``."""

    kind: Literal["oracle", "endpoint", "replay"] = Field(
        "oracle",
        description="oracle: from the solver's own knowledge; endpoint: a model behind an OpenAI-compatible API "
        "(runtime.teacher); replay: recorded answers of one.",
    )
    variant: Literal["direct", "cot"] = Field("direct", description="direct: the answer only.")
    model: str | None = Field(None, min_length=1, description="The asked model, as the endpoint names it.")
    revision: str | None = Field(
        None, min_length=1, description="What the model's name alone does not say (a commit, a quantisation)."
    )
    recording: str | None = Field(
        None, min_length=1, description="replay: a JSONL file or a folder of answers; None: those kept in the store."
    )
    template: str = Field("mirage", min_length=1, description="The prompts: a set of the project's, or a folder.")
    temperature: float | None = Field(0.0, ge=0, le=2, description="None: not sent.")
    top_p: Probability | None = Field(None, description="None: not sent.")
    seed: int | None = Field(42, ge=0, description="Sent with every request; another asks anew. None: not sent.")
    max_tokens: Positive = Field(2048, description="Longest answer, in tokens.")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="What the endpoint calls it; newer hosted models want the second."
    )
    attempts: Positive = Field(3, description="Answers a problem; a re-ask says what was wrong, the last one decides.")
    min_thought_chars: int = Field(20, ge=0, description="Shortest text before, and after, the picture.")
    max_thought_chars: Positive = Field(8000, description="Longest text before, and after, the picture.")
    betrayals: tuple[str, ...] = Field(
        (
            "as given", "given answer", "answer given", "answer is given", "provided answer", "answer provided",
            "the provided solution", "known answer", "ground truth", "ground-truth", "reference answer",
            "according to the answer", "i was told", "i am told", "auxiliary image", "helper image", "hint image",
        ),
        description="Words that betray that the answer or the picture was given; capitals and spacing do not matter.",
    )  # fmt: skip
    min_accepted: Probability = Field(
        0.8, description="Share of the problems that must get an acceptable chain; the stage fails below it."
    )

    @model_validator(mode="after")
    def _has_something_to_ask(self) -> TeacherSettings:
        """An endpoint needs a model, and something to write."""
        if self.kind == "oracle":
            return self
        if self.model is None:
            raise ValueError(f"teacher.kind {self.kind} needs teacher.model, the model's name as the endpoint knows it")
        if self.variant == "direct":
            raise ValueError(
                f"a direct chain is the answer alone, so there is nothing to ask: with teacher.kind {self.kind} set "
                "teacher.variant to cot, or take the oracle"
            )
        return self


class CaptionSettings(Section):
    """CapImagine's data: what the auxiliary image shows, in words; the teacher of the chains writes it."""

    polish: bool = Field(True, description="An endpoint rewrites each whole chain so that its parts go together.")
    judge: bool = Field(True, description="An endpoint judges each chain; conflicts and ambiguity are left out.")
    shortest: Positive = Field(10, description="Letters a caption has at least.")
    longest: Positive = Field(1200, description="Letters a caption has at most.")


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

    methods: tuple[Literal["zero-shot", "direct-sft", "capimagine", "stage-1", "stage-2", "grpo"], ...] = (
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


class TeacherRuntime(Section):
    """How the teacher's endpoint is reached. The key itself is never a setting, only where to find it."""

    base_url: str | None = Field(
        None, description="The endpoint: http(s)://host[:port]/v1, without credentials, query or fragment."
    )
    api_key_variable: str = Field(
        "OPENAI_API_KEY", pattern="^[A-Za-z_][A-Za-z0-9_]*$", description="The environment variable with the key."
    )
    api_key_block: str | None = Field(None, min_length=1, description="A Prefect Secret block with the key instead.")
    concurrency: int = Field(8, gt=0, le=256, description="Requests under way at a time.")
    requests_per_minute: int | None = Field(None, gt=0, description="Most requests in any minute; None: no limit.")
    tokens_per_minute: int | None = Field(None, gt=0, description="Most tokens in any minute; None: no limit.")
    connect_timeout_s: float = Field(10.0, gt=0, description="Longest time to connect.")
    timeout_s: float = Field(300.0, gt=0, description="Longest time from a request to the last byte of its answer.")
    tries: Positive = Field(6, description="Times one request is sent while the endpoint fails, before giving up.")
    backoff_s: float = Field(1.0, ge=0, description="First wait after a failure; doubles each time, with jitter.")
    backoff_max_s: float = Field(60.0, ge=0, description="Longest such wait.")
    retry_after_max_s: float = Field(900.0, ge=0, description="Longest Retry-After obeyed; a longer one ends the run.")
    max_answer_bytes: int = Field(2**20, ge=1024, description="Larger answers are cut off unread.")
    price_prompt: float = Field(0.0, ge=0, description="Price of a million prompt tokens, in any currency.")
    price_completion: float = Field(0.0, ge=0, description="Price of a million tokens written, in the same.")

    @field_validator("base_url")
    @classmethod
    def _is_plain_url(cls, url: str | None) -> str | None:
        return None if url is None else plain_url(url)


class RuntimeSettings(Section):
    """How the work is done here. Never part of an identity."""

    engine: Literal["deepspeed", "plain"] = Field("deepspeed", description="plain needs no compiler; same losses.")
    zero_stage: Literal[0, 1, 2, 3] = 1
    processes: Positive = Field(2, description="Training and evaluation processes on this machine.")
    threads: Positive = Field(1, description="CPU threads a process.")
    checkpoint_every: Positive = Field(50, description="Optimizer steps between checkpoints.")
    timeout_s: Positive = Field(6 * 3600, description="Longest time a stage may take, where timeouts does not name it.")
    timeouts: dict[StageName, Positive] = Field(
        default_factory=dict, description="Longest time of a stage by its name, in seconds: {relaxation: 3600}."
    )
    stall_timeout_s: Positive = Field(900, description="Longest silence of a training process.")
    teacher: TeacherRuntime = TeacherRuntime()
    scene_batch_size: Positive = Field(1, description="Scenes rendered at a time by CogVideoX.")
    scene_offload: Literal["none", "model", "sequential"] = Field(
        "none", description="Keep CogVideoX's parts off the GPU until they are needed: slower, 5B in 16 or 5 GiB."
    )

    def for_stage(self, name: str) -> RuntimeSettings:
        """These settings with the time-out of one stage as the only one."""
        chosen = {str(stage): seconds for stage, seconds in self.timeouts.items()}.get(name, self.timeout_s)
        return self.model_copy(update={"timeout_s": chosen, "timeouts": {}})

    shards: Positive = Field(
        1, description="Parts that drawing, the teacher's chains and each evaluation are cut into, made side by side."
    )
    task_runner: Literal["threads", "dask"] = Field(
        "threads", description="Who makes the shards of a Prefect run: threads of the flow's process, or Dask workers."
    )
    dask_address: str | None = Field(
        None, description="A Dask scheduler (tcp://host:8786); None: a local cluster of `shards` workers."
    )


class Settings(Section):
    """A whole recipe."""

    recipe: str = Field(description="The recipe's name.")
    description: str = Field("", description="What it is for.")
    seed: int = Field(42, ge=0)
    problems: ProblemSettings = ProblemSettings()
    auxiliary_images: AuxiliaryImageSettings = AuxiliaryImageSettings()
    teacher: TeacherSettings = TeacherSettings()
    captions: CaptionSettings = CaptionSettings()
    prompt: PromptSettings = PromptSettings()
    latent: LatentSettings = LatentSettings()
    model: ModelSettings = ModelSettings()
    direct_sft: TrainSettings = TrainSettings()
    capimagine: TrainSettings = TrainSettings()
    grounding: GroundingSettings = GroundingSettings()
    relaxation: TrainSettings = TrainSettings()
    grpo: GRPOSettings = GRPOSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    report: ReportSettings = ReportSettings()
    runtime: RuntimeSettings = RuntimeSettings()

    @model_validator(mode="after")
    def _knows_its_endpoint(self) -> Settings:
        """Known before hours of work, not when the chains are due."""
        if self.teacher.kind == "endpoint" and self.runtime.teacher.base_url is None:
            raise ValueError(
                "teacher.kind endpoint needs runtime.teacher.base_url, for example http://127.0.0.1:8000/v1"
            )
        return self


def plain_url(url: str) -> str:
    """An http(s) URL without credentials, query or fragment; ValueError says what it must not have, never the URL."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as problem:
        raise ValueError("expected a URL such as http://127.0.0.1:8000/v1") from problem
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("expected http:// or https:// and a host, such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc:
        raise ValueError("expected no credentials in the URL: the key belongs into an environment variable")
    if parts.query or parts.fragment:
        raise ValueError("expected a URL without a query and a fragment")
    return url.rstrip("/")


def identity(section: BaseModel) -> dict[str, Any]:
    """The JSON form of a settings section, as it enters a fingerprint."""
    return section.model_dump(mode="json")
