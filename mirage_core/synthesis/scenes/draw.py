"""Auxiliary images of problems about scenes: rendered in batches and saved at once, so a killed run continues.

Every frame has a file named by its inputs (description, seed, settings); an existing file is not rendered again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from mirage_core.config import SceneSettings, identity
from mirage_core.store.digests import fingerprint
from mirage_core.synthesis.scenes.pipeline import Offload, load_pipeline, place, render_frames
from mirage_core.synthesis.scenes.request import SceneRequest, scene_requests
from mirage_core.types import AuxiliaryImage, Problem, Progress, ProgressEvent

Render = Callable[[Sequence[SceneRequest]], Sequence[Image.Image]]
STYLE = "cogvideox-frame"


def draw_scenes(
    problems: Sequence[Problem],
    settings: SceneSettings,
    seed: int,
    folder: Path,
    progress: Progress,
    *,
    batch_size: int = 1,
    offload: Offload = "none",
    device: str | None = None,
) -> list[AuxiliaryImage]:
    """Return a frame for each problem, in order; existing frames are read from ``folder``.

    ``device`` None: a GPU if there is one. Raises SettingsError for a model or sizes that do not fit.
    """
    requests = scene_requests(problems, settings, seed)
    files = {request.problem_id: folder / frame_name(request, settings) for request in requests}
    missing = [request for request in requests if not files[request.problem_id].is_file()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        _render_missing(missing, files, _renderer(settings, offload, device), batch_size, len(requests), progress)
    return [_image(request, files[request.problem_id], settings) for request in requests]


def frame_name(request: SceneRequest, settings: SceneSettings) -> str:
    """Return the file name of a frame, a digest of its inputs."""
    stored_settings = identity(settings.model_copy(update={"descriptions": None}))
    inputs = {"description": request.description, "seed": request.seed, "settings": stored_settings}
    return f"{fingerprint('scene', 1, inputs, {})[:32]}.png"


def _renderer(settings: SceneSettings, offload: Offload, device: str | None) -> Render:
    import torch

    pipeline = load_pipeline(settings)
    place(pipeline, device or ("cuda" if torch.cuda.is_available() else "cpu"), offload)
    return lambda requests: render_frames(pipeline, requests, settings)


def _render_missing(
    missing: Sequence[SceneRequest],
    files: dict[str, Path],
    render: Render,
    batch_size: int,
    total: int,
    progress: Progress,
) -> None:
    done = total - len(missing)
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        for request, frame in zip(batch, render(batch), strict=True):
            _write_atomically(frame, files[request.problem_id])
        done += len(batch)
        progress(ProgressEvent(stage="auxiliary-images", message="scenes", step=done, total=total))


def _write_atomically(frame: Image.Image, file: Path) -> None:
    """Write a frame completely or not at all."""
    partial = file.with_suffix(f".{os.getpid()}.part")
    frame.save(partial, "PNG")
    os.replace(partial, file)


def _image(request: SceneRequest, file: Path, settings: SceneSettings) -> AuxiliaryImage:
    details = {
        "description": request.description,
        "model": settings.model,
        "lora": settings.lora is not None,
        "frame": settings.frame,
        "steps": settings.steps,
        "seed": request.seed,
    }
    return AuxiliaryImage(problem_id=request.problem_id, image=file.read_bytes(), style=STYLE, details=details)
