"""On a GPU: the planned memory against the allocator's peak."""

from __future__ import annotations

import pytest
import torch

from benchmarks.training import CASES, measure
from tests.planning.conftest import LARGE, row_of, settings_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the plan for a GPU is not checked"),
]
CONSTANT = 64 * 2**20
"""What libraries hold on a device whatever the model (workspaces of cuBLAS), which counts at this size."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_stage_is_planned_within_15_percent_of_the_allocators_peak(dtype: str) -> None:
    settings = settings_of(f"model.dtype={dtype}", architecture=LARGE)
    found = measure(settings, lambda _: None, rounds=1, row=row_of(prompt=600, after=200))
    assert [one.case for one in found] == list(CASES)
    for one in found:
        assert abs(one.planned_bytes - one.peak_bytes) < 0.15 * one.peak_bytes + CONSTANT, one
