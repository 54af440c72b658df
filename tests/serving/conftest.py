"""A model that imagines often, served by a real process on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mirage_core.config import ArchitectureSettings, LatentSettings, ModelSettings, PromptSettings, identity
from mirage_core.model.loading import build_base_model, save_model

SIZES = ArchitectureSettings(
    hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2, num_kv_heads=1, vision_hidden_size=32,
    vision_intermediate_size=32, vision_depth=1, vision_num_heads=2,
)  # fmt: skip
KEY = "sk-of-the-test"
START_S = 120


@dataclass(frozen=True)
class Served:
    """A running ``mirage serve``."""

    process: subprocess.Popen[str]
    url: str
    log: Path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, but for latent_start and the end of turn, which come often."""
    folder = tmp_path_factory.mktemp("models") / "imagines"
    loaded = build_base_model(ModelSettings(architecture=SIZES), 1)
    about = {
        "prompt": identity(PromptSettings(form="short", image_scale=28 / 64)), "latent": identity(LatentSettings()),
        "variant": "direct", "stage": "relaxation",
    }  # fmt: skip
    with torch.no_grad():
        weight = loaded.backbone.model.get_output_embeddings().weight
        weight[loaded.ids.latent_start] *= 6
        weight[loaded.ids.end_of_turn] *= 2
    folder.mkdir()
    save_model(folder, loaded.backbone, loaded.processor, about)
    return folder


def start(folder: Path, log: Path, *options: str) -> Served:
    """Start ``mirage serve`` on a free port; it listens when this returns."""
    environment = {**os.environ, "MIRAGE_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve", str(folder), "--port", "0", *options],
            stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert " at http://" in line, log.read_text()
    return Served(process, line.split(" at ")[1].split(",")[0], log)


@pytest.fixture(scope="session")
def served(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The model, served for all tests; SIGTERM ends it in seconds."""
    server = start(
        model_folder, tmp_path_factory.mktemp("served") / "log", "--max-rows", "8", "--max-queue", "40",
        "--max-prompt-tokens", "600", "--max-body-mb", "1", "--name", "imagines",
    )  # fmt: skip
    yield server
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(START_S) in (0, -signal.SIGTERM)
    assert KEY not in server.log.read_text()
