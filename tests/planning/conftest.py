"""Small models and rows whose plans are held against what is measured."""

from __future__ import annotations

from typing import Any

from mirage_core.config import Settings
from mirage_core.planning.token_counts import Row
from mirage_core.recipes import load

SMALL = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "mrope_section": [8, 12, 12],
}
LARGE = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_layers": 11,
    "num_heads": 8,
    "num_kv_heads": 2,
    "mrope_section": [8, 12, 12],
}
"""34 million parameters; the vocabulary is that of a small tokenizer."""


def settings_of(*overrides: str, architecture: dict[str, Any] | None = None) -> Settings:
    """A recipe of one process and the plain engine, with a small model and batches of four."""
    sizes = architecture or SMALL
    return load(
        "tiny-paper",
        [
            f"model.architecture={sizes}",
            "runtime.engine=plain",
            "runtime.processes=1",
            *(f"{stage}.batch_size=4" for stage in ("direct_sft", "grounding", "relaxation")),
            "grpo.prompts_per_step=2",
            "grpo.group_size=4",
            "grpo.max_new_tokens=16",
            *overrides,
        ],
    )


def row_of(prompt: int = 96, before: int = 20, after: int = 40) -> Row:
    """Rows as long as these."""
    return Row(benchmark="x", prompt=prompt, image=0, before=before, after=after, caption=0, auxiliary=64)
