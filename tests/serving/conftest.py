"""A model that imagines often, and heads that read it, served by a real process on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from flows.trained import find_checkpoint
from mirage_core.config import (
    LatentSettings,
    ModelSettings,
    PromptSettings,
    Settings,
    StepwiseSettings,
    identity,
)
from mirage_core.generation.generator import Generator
from mirage_core.model.codes import HEADS_FILE
from mirage_core.model.loading import build_base_model, load_model, save_model
from mirage_core.model.weights import SavedModule, no_gather
from mirage_core.store import Store
from mirage_core.training.stepwise.heads import StepHeads, head_metadata
from tests.small_sizes import SIZES

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
    return make_model(tmp_path_factory.mktemp("models") / "imagines")


def make_model(folder: Path) -> Path:
    """Make the model, with heads that name the cells and kinds of mazes, in a folder."""
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
    return make_heads(folder, where="cell", what="kind")


def make_heads(folder: Path, **kinds: object) -> Path:
    """Save random heads of these kinds in a folder."""
    settings = StepwiseSettings.model_validate(kinds)
    names = {
        "cells": [json.dumps([row, column]) for row in range(6) for column in range(6)],
        "kinds": [json.dumps(name) for name in ("ice", "hole", "goal", "start")],
    }
    heads = StepHeads(SIZES.hidden_size, settings, len(names["cells"]), len(names["kinds"]))
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    folder.mkdir(exist_ok=True)
    SavedModule(heads, HEADS_FILE, head_metadata(settings, names)).save(folder, no_gather, write=True)
    return folder


@pytest.fixture(scope="session")
def settings(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings that the model is served with."""
    return find_checkpoint(str(model_folder), None, Store.open(tmp_path_factory.mktemp("store"))).settings


@pytest.fixture(scope="session")
def generator(model_folder: Path, settings: Settings) -> Generator:
    """What ``mirage evaluate`` answers with, for the same folder."""
    loaded = load_model(model_folder, dtype="float32", attention="sdpa", device=torch.device("cpu"))
    return Generator.for_evaluation(loaded, settings, method="stage-2")


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
