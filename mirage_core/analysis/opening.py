"""A model folder opened for questions, on this machine's device."""

from __future__ import annotations

from pathlib import Path

from mirage_core.analysis.asking import Asker
from mirage_core.config import Settings
from mirage_core.model.base import load_model
from mirage_core.training.processes import process_device


def open_asker(folder: Path, settings: Settings) -> Asker:
    """Load the model in a folder and make it ready to be asked. SettingsError where the folder is no model's."""
    wanted = settings.model
    device = process_device(0, 1)
    return Asker(load_model(folder, dtype=wanted.dtype, attention=wanted.attention, device=device), settings)
