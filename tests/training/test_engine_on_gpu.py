"""On a GPU: every engine, offloaded and fused, takes the steps the plain engine takes on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.engine_child import CASES

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: fused kernels are not checked"),
]


def run(folder: Path, *device: str) -> dict[str, Any]:
    folder.mkdir()
    command = [sys.executable, "-m", "tests.training.engine_child", str(folder), "0", "1", *device]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    found: dict[str, Any] = json.loads((folder / "rank-0.json").read_text())
    return found


def test_a_gpu_takes_the_steps_of_the_cpu_and_resumes_exactly(tmp_path: Path) -> None:
    here, there = run(tmp_path / "cpu"), run(tmp_path / "cuda", "cuda")
    for name in CASES:
        close = {"rel": 0.05, "abs": 0.05} if "bf16" in name else {"rel": 1e-3, "abs": 1e-3}
        for expected, got in zip(here[name]["figures"], there[name]["figures"], strict=True):
            assert got == pytest.approx(expected, **close), name
        assert there[name]["resumed"] == there[name]["state"], name
