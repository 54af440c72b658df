"""The sizes of a model of one layer, for tests that need some model and no figure of it."""

from __future__ import annotations

from mirage_core.config import ArchitectureSettings

SIZES = ArchitectureSettings(
    hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2, num_kv_heads=1, vision_hidden_size=32,
    vision_intermediate_size=32, vision_depth=1, vision_num_heads=2,
)  # fmt: skip
