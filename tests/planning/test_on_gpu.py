"""On a GPU: the planned memory against the allocator's peak."""

from __future__ import annotations

import pytest
import torch

from bench.training import CASES, measure
from mirage_core.config import Settings
from tests.planning.conftest import LARGE, row_of, settings_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the plan for a GPU is not checked"),
]
CONSTANT = 64 * 2**20
"""What libraries hold on a device whatever the model (workspaces of cuBLAS), which counts at this size."""
ROW = row_of(prompt=600, after=200)


def matrices(settings: Settings) -> int:
    """Bytes of the attention of every layer in float32, and of four more while one is differentiated.

    Rows that are alike need no mask, and for grouped queries without one torch has no fused kernel in float32
    (docs/real-size.md).
    """
    columns, sizes = ROW.prompt + ROW.before + ROW.after, settings.model.architecture
    return (sizes.num_layers + 4) * settings.direct_sft.batch_size * sizes.num_heads * columns**2 * 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_stage_is_planned_within_15_percent_of_the_allocators_peak(dtype: str) -> None:
    settings = settings_of(f"model.dtype={dtype}", architecture=LARGE)
    unfused = matrices(settings) if dtype == "float32" else 0
    rows = measure(settings, lambda _: None, rounds=1, row=ROW)
    assert [row.case for row in rows] == list(CASES)
    for row in rows:
        assert row.planned_bytes < 1.15 * row.peak_bytes + CONSTANT, row
        assert row.peak_bytes < 1.15 * (row.planned_bytes + unfused) + CONSTANT, row
