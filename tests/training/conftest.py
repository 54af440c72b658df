"""The small world that training tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.small_world import make_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders named model, examples and problems."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder
