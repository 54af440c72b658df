"""A model of random weights, made once, for the tests of stages that can be cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirage_core.store import Store
from tests.machines.small_world import World, publish_model, recipe


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of random weights."""
    store = Store.open(tmp_path_factory.mktemp("model"))
    return store.fetch(publish_model(store, recipe(), tmp_path_factory.mktemp("saved")))


@pytest.fixture
def world(tmp_path: Path, model_folder: Path) -> World:
    """A store with the model and a few problems."""
    return World.create(tmp_path / "store", model_folder)
