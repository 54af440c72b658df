"""``mirage scenes try|finetune``: one frame from a description; LoRA weights from pairs."""

from __future__ import annotations

from pathlib import Path

from flows.commands.printing import console
from flows.commands.session import DirectProgress
from mirage_core.config import SceneSettings
from mirage_core.recipes import load
from mirage_core.synthesis.scenes import SceneRequest, read_pairs

PREFIX = "auxiliary_images.scenes."


def try_out(description: str, output: Path, sets: list[str], seed: int) -> None:
    """Render one frame and write it as PNG."""
    from mirage_core.synthesis.scenes.pipeline import load_pipeline, place, render_frames

    settings = scene_settings(sets)
    pipeline = load_pipeline(settings)
    place(pipeline, device(), "none")
    frame = render_frames(pipeline, [SceneRequest("try", description, seed)], settings)[0]
    frame.save(output, "PNG")
    console.print(f"written: {output} ({frame.width} x {frame.height})", markup=False)


def train(pairs: Path, output: Path, sets: list[str], seed: int) -> None:
    """Fine-tune on the pairs of a file; the weights are loadable as auxiliary_images.scenes.lora."""
    from mirage_core.synthesis.scenes.finetune import finetune

    read = read_pairs(pairs)
    losses = finetune(read, scene_settings(sets), output, seed, DirectProgress(), device())
    console.print(f"{len(read)} pairs, loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last", markup=False)
    console.print(f"use it: --set auxiliary_images.scenes.lora={output}", markup=False)


def scene_settings(sets: list[str]) -> SceneSettings:
    """Scene settings from overrides such as ``width=480``; SettingsError for what is not one."""
    overrides = [one if one.startswith(PREFIX) else PREFIX + one for one in sets]
    return load("tiny", overrides).auxiliary_images.scenes or SceneSettings()


def device() -> str:
    """A GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
