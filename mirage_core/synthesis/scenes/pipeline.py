"""CogVideoX by diffusers: loaded from a hub or a folder, moved to a device, run for one frame of each scene.

``diffusers`` and torch are imported where they are used. Weights are safetensors only; code of a model folder is never
run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_core.config import SceneSettings
from mirage_core.errors import SettingsError
from mirage_core.synthesis.scenes.request import SceneRequest

Offload = Literal["none", "model", "sequential"]
_MARKS = {"first": 0, "last": -1}


def load_pipeline(settings: SceneSettings) -> Any:
    """Load the diffusers pipeline of the settings with its LoRA, on the CPU.

    SettingsError if diffusers is not installed, the model or the LoRA cannot be loaded, or the sizes do not fit the
    model.
    """
    import torch

    try:
        from diffusers import CogVideoXPipeline
    except ImportError as error:
        raise SettingsError(
            f"auxiliary_images.scenes needs diffusers, which cannot be imported ({error}): "
            "pip install -c constraints.txt '.[scenes]'"
        ) from error
    try:
        pipeline = CogVideoXPipeline.from_pretrained(
            settings.model, revision=settings.revision, dtype=getattr(torch, settings.dtype), use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"auxiliary_images.scenes.model {settings.model!r} cannot be loaded: {error}. Expected a hub id (with a "
            "network) or a folder with model_index.json and safetensors"
        ) from error
    check_sizes(settings, pipeline)
    pipeline.set_progress_bar_config(disable=True)
    if settings.lora:
        _load_lora(pipeline, settings)
    return pipeline


def check_sizes(settings: SceneSettings, pipeline: Any) -> None:
    """Raise SettingsError if width, height, frames or the selected frame do not fit the model."""
    multiple = pipeline.vae_scale_factor_spatial * pipeline.transformer.config.patch_size
    if settings.width % multiple or settings.height % multiple:
        raise SettingsError(
            f"auxiliary_images.scenes: {settings.width} x {settings.height} pixels, expected multiples of {multiple}"
        )
    stride = pipeline.vae_scale_factor_temporal
    if settings.num_frames % stride != 1 and settings.num_frames != 1:
        raise SettingsError(f"auxiliary_images.scenes.num_frames is {settings.num_frames}, expected {stride} n + 1")
    if isinstance(settings.frame, int) and not -settings.num_frames <= settings.frame < settings.num_frames:
        raise SettingsError(f"auxiliary_images.scenes.frame is {settings.frame} of {settings.num_frames} frames")


def place(pipeline: Any, device: str, offload: Offload) -> None:
    """Move the pipeline to a device: completely, or module by module when needed (less memory, slower)."""
    pipeline.vae.enable_slicing()
    if device == "cpu":
        return
    pipeline.vae.enable_tiling()
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)


def render_frames(pipeline: Any, requests: Sequence[SceneRequest], settings: SceneSettings) -> list[Image.Image]:
    """Render the selected frame [height, width] of each request in one batch, each with its own generator."""
    videos = _render(pipeline, requests, settings)
    selected = frame_index(settings.frame, videos.shape[1])
    return [_image(video[selected]) for video in videos]


def render_films(pipeline: Any, requests: Sequence[SceneRequest], settings: SceneSettings) -> list[list[Image.Image]]:
    """Render the selected frame of each request, as ``render_frames`` does, and after it the frames of its film."""
    videos = _render(pipeline, requests, settings)
    count = videos.shape[1]
    shown = np.linspace(0, count - 1, min(settings.film_frames, count)).round().astype(int)
    chosen = [frame_index(settings.frame, count), *shown.tolist()]
    return [[_image(video[frame]) for frame in chosen] for video in videos]


def _render(pipeline: Any, requests: Sequence[SceneRequest], settings: SceneSettings) -> NDArray[np.float32]:
    """Return the videos of requests [B, F, H, W, 3], values from 0 to 1."""
    import torch

    # On the CPU, so that a seed gives the same noise on every device.
    generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
    videos: NDArray[np.float32] = pipeline(
        prompt=[request.description for request in requests],
        negative_prompt=[settings.negative_prompt] * len(requests),
        height=settings.height,
        width=settings.width,
        num_frames=settings.num_frames,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        generator=generators,
        max_sequence_length=settings.max_text_tokens,
        output_type="np",
    ).frames
    return videos


def _image(frame: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray((frame * 255).round().astype(np.uint8), mode="RGB")


def frame_index(frame: int | str, count: int) -> int:
    """Return the index of the selected frame among ``count``."""
    if isinstance(frame, int):
        return frame
    return count // 2 if frame == "middle" else _MARKS[frame]


def _load_lora(pipeline: Any, settings: SceneSettings) -> None:
    folder = str(settings.lora)
    if Path(folder).is_dir() and not any(Path(folder).glob("*.safetensors")):
        raise SettingsError(f"auxiliary_images.scenes.lora: {folder} holds no .safetensors file")
    try:
        pipeline.load_lora_weights(folder, adapter_name="scenes", use_safetensors=True)
    except (OSError, ValueError) as error:
        raise SettingsError(f"auxiliary_images.scenes.lora {folder!r} cannot be loaded: {error}") from error
    pipeline.set_adapters(["scenes"], adapter_weights=[settings.lora_scale])
