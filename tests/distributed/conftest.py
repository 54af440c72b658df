"""The small world of the training tests."""

from __future__ import annotations

from tests.training.conftest import inputs

__all__ = ["inputs"]
