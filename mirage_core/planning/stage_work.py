"""The work of one stage of a recipe, and what the plans of all stages compute alike."""

from __future__ import annotations

from dataclasses import dataclass

from mirage_core.config import (
    ModelSettings,
    OptimizerName,
    Settings,
)
from mirage_core.planning.activations import ComputeConfig
from mirage_core.planning.flops import (
    Rates,
    orthogonalising,
    step_seconds,
)
from mirage_core.planning.memory import (
    Moment,
    image_encoding_moment,
)
from mirage_core.planning.resident_memory import BYTES
from mirage_core.planning.sizes import ModelSizes
from mirage_core.planning.token_counts import RecipeRows
from mirage_core.training.data.feature_cache import CHUNK


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """The work of a stage. ``at_once``: rows of a micro-batch of one process; ``tokens``, ``flops``: of one step of all
    processes; ``seconds``: of one step (None without rates); ``main``: bytes in main memory."""

    name: str
    steps: int
    at_once: int
    tokens: float
    model_flops: float
    flops: float
    seconds: float | None
    moments: tuple[Moment, ...]
    main: int
    notes: tuple[str, ...] = ()


def compute_config(model: ModelSettings, checkpointing: bool) -> ComputeConfig:
    """Return how a model with these settings computes."""
    ranks = model.lora.rank * len(model.lora.target_modules) if model.lora else 0
    return ComputeConfig(dtype_bytes=BYTES[model.dtype], checkpointing=checkpointing, adapters=ranks)


def image_encoding(sizes: ModelSizes, rows: RecipeRows, config: ComputeConfig) -> Moment:
    """Return the encoding of images before training, CHUNK examples at a time, with only the weights resident."""
    patches = CHUNK * sizes.merged_patches * max(rows.max("image"), rows.max("auxiliary"))
    return image_encoding_moment(sizes.total * config.dtype_bytes, sizes, config.dtype_bytes, patches)


def optimizer_seconds(
    settings: Settings, sizes: ModelSizes, optimizer: OptimizerName, trained: int, config: ComputeConfig, rates: Rates
) -> float:
    """Return the seconds of an optimizer step over ``trained`` weights, sharded and offloaded as the runtime says.

    With Muon every process orthogonalises the matrices of all layers; those of adapters are small, and not counted.
    """
    runtime = settings.runtime
    deep = runtime.engine == "deepspeed"
    own_matrices = optimizer == "muon" and settings.model.lora is None
    return orthogonalising(sizes) * own_matrices / (rates.training * 1e12) + step_seconds(
        trained,
        runtime.world_size,
        sharded=deep and runtime.zero_stage > 0,
        offloaded=deep and runtime.offload_optimizer,
        dtype_bytes=config.dtype_bytes,
        rates=rates,
    )


def idle_note(setting: str, batch: int, world_size: int) -> str:
    """Return a note where a batch has fewer rows than there are processes, else an empty text."""
    return (
        f"{setting} is {batch}: {world_size - batch} of {world_size} processes have nothing to do"
        if batch < world_size
        else ""
    )
