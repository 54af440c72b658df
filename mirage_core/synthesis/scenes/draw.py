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
from mirage_core.synthesis.scenes.pipeline import (
    Offload,
    load_pipeline,
    place,
    render_films,
    render_frames,
)
from mirage_core.synthesis.scenes.request import SceneRequest, scene_requests
from mirage_core.types import AuxiliaryImage, Problem, Progress, ProgressEvent

Render = Callable[[Sequence[SceneRequest]], Sequence[Sequence[Image.Image]]]
"""Renders the images of each request: the selected frame, and after it the frames of its film, if it has one."""
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
    film: bool = False,
) -> list[AuxiliaryImage]:
    """Return a frame for each problem, in order; existing frames are read from ``folder``.

    ``film``: also the frames of its video (``settings.film_frames``). ``device`` None: a GPU if there is one. Raises
    SettingsError for a model or sizes that do not fit.
    """
    requests = scene_requests(problems, settings, seed)
    files = {request.problem_id: _files(folder / frame_name(request, settings), settings, film) for request in requests}
    missing = [request for request in requests if not all(file.is_file() for file in files[request.problem_id])]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        render = _renderer(settings, offload, device, film)
        _render_missing(missing, files, render, batch_size, len(requests), progress)
    return [_image(request, files[request.problem_id], settings) for request in requests]


def _files(frame: Path, settings: SceneSettings, film: bool) -> tuple[Path, ...]:
    """Return the files of a request: its selected frame, and after it the frames of its film."""
    frames = min(settings.film_frames, settings.num_frames) if film else 0
    return (frame, *(frame.with_stem(f"{frame.stem}-{number:02d}") for number in range(frames)))


def frame_name(request: SceneRequest, settings: SceneSettings) -> str:
    """Return the file name of a frame, a digest of its inputs."""
    stored_settings = identity(settings.model_copy(update={"descriptions": None}))
    inputs = {"description": request.description, "seed": request.seed, "settings": stored_settings}
    return f"{fingerprint('scene', 1, inputs, {})[:32]}.png"


def _renderer(settings: SceneSettings, offload: Offload, device: str | None, film: bool) -> Render:
    import torch

    pipeline = load_pipeline(settings)
    place(pipeline, device or ("cuda" if torch.cuda.is_available() else "cpu"), offload)
    if film:
        return lambda requests: render_films(pipeline, requests, settings)
    return lambda requests: [[frame] for frame in render_frames(pipeline, requests, settings)]


def _render_missing(
    missing: Sequence[SceneRequest],
    files: dict[str, tuple[Path, ...]],
    render: Render,
    batch_size: int,
    total: int,
    progress: Progress,
) -> None:
    done = total - len(missing)
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        for request, frames in zip(batch, render(batch), strict=True):
            for frame, file in zip(frames, files[request.problem_id], strict=True):
                _write_atomically(frame, file)
        done += len(batch)
        progress(ProgressEvent(stage="auxiliary-images", message="scenes", step=done, total=total))


def _write_atomically(frame: Image.Image, file: Path) -> None:
    """Write a frame completely or not at all."""
    partial = file.with_suffix(f".{os.getpid()}.part")
    frame.save(partial, "PNG")
    os.replace(partial, file)


def _image(request: SceneRequest, files: Sequence[Path], settings: SceneSettings) -> AuxiliaryImage:
    details = {
        "description": request.description,
        "model": settings.model,
        "lora": settings.lora is not None,
        "frame": settings.frame,
        "steps": settings.steps,
        "seed": request.seed,
    }
    image, *frames = (file.read_bytes() for file in files)
    return AuxiliaryImage(
        problem_id=request.problem_id, image=image, style=STYLE, details=details, frames=tuple(frames)
    )
