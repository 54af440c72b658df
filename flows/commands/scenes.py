"""``mirage scenes try|finetune``: one frame from a description; LoRA weights from pairs."""

from __future__ import annotations

from pathlib import Path

from flows.commands.printing import DirectProgress, print_line
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
    print_line(f"written: {output} ({frame.width} x {frame.height})")


def train(pairs: Path, output: Path, sets: list[str], seed: int) -> None:
    """Fine-tune on the pairs of a file; auxiliary_images.scenes.lora loads the weights."""
    from mirage_core.synthesis.scenes.finetune import finetune

    frames = read_pairs(pairs)
    losses = finetune(frames, scene_settings(sets), output, seed, DirectProgress(), device())
    print_line(f"{len(frames)} pairs, first loss {losses[0]:.4f}, last loss {losses[-1]:.4f}")
    print_line(f"use it: --set auxiliary_images.scenes.lora={output}")


def scene_settings(sets: list[str]) -> SceneSettings:
    """Return scene settings from overrides such as ``width=480``; SettingsError for an unknown one."""
    overrides = [text if text.startswith(PREFIX) else PREFIX + text for text in sets]
    return load("tiny", overrides).auxiliary_images.scenes or SceneSettings()


def device() -> str:
    """Return cuda where there is a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
