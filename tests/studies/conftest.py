"""A store in a local folder, as in tests/pipeline."""

from tests.pipeline.conftest import store

__all__ = ["store"]
