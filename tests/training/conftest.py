"""The small world that training tests share, with a random model and with one that answers with latents."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.grpo_world import make_latent_inputs
from tests.training.small_world import make_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders named model, examples and problems."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="session")
def latent_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folders; the model has been trained for a few steps to answer with latents."""
    folder, work = tmp_path_factory.mktemp("latent-inputs"), tmp_path_factory.mktemp("latent-training") / "work"
    make_latent_inputs(folder, work)
    return folder
