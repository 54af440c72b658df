"""Both engines: the same steps, whatever the number of processes and micro-batches, and exact resumption."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mirage_core.errors import TrainingError
from mirage_core.training.engine import EngineSettings, EngineState, Root, make_engine

ROOT = Path(__file__).parents[2]
FLOAT32 = ("zero-0", "zero-1", "zero-2", "zero-3")
EVERY = ("plain", *FLOAT32, "plain-bf16", "zero-1-bf16")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What process 0 saw of every case, with 1 and with 2 processes."""
    return {world_size: run(tmp_path_factory.mktemp(f"world-{world_size}"), world_size) for world_size in (1, 2)}


def run(folder: Path, world_size: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.training.engine_child", str(folder)]
    children = [subprocess.Popen([*command, str(rank), str(world_size)], cwd=ROOT) for rank in range(world_size)]
    assert [child.wait(timeout=100) for child in children] == [0] * world_size
    assert not (folder / "extensions").exists()  # DeepSpeed compiled nothing
    found: dict[str, Any] = json.loads((folder / "rank-0.json").read_text())
    return found


def close(left: Any, right: Any, tolerance: float) -> bool:
    return torch.allclose(torch.tensor(left), torch.tensor(right), rtol=tolerance, atol=tolerance)


def losses(case: dict[str, Any], world: list[dict[str, Any]] | None = None) -> list[float]:
    return [loss for loss, _ in case["figures"]]


@pytest.mark.parametrize("name", FLOAT32)
def test_deepspeed_takes_the_steps_of_the_plain_engine(results: dict[int, dict[str, Any]], name: str) -> None:
    assert close(results[1][name]["figures"], results[1]["plain"]["figures"], 1e-5)
    for key, values in results[1]["plain"]["weights"].items():
        assert close(results[1][name]["weights"][key], values, 1e-5)


@pytest.mark.parametrize("name", ("plain", *FLOAT32))
def test_two_processes_take_the_steps_of_one(results: dict[int, dict[str, Any]], name: str) -> None:
    norms = [[norm for _, norm in results[size][name]["figures"]] for size in (1, 2)]
    assert close(norms[0], norms[1], 1e-5)
    for key, values in results[1][name]["weights"].items():
        assert close(results[2][name]["weights"][key], values, 1e-5)


@pytest.mark.parametrize("world_size", (1, 2))
@pytest.mark.parametrize("name", EVERY)
def test_a_restored_engine_goes_on_to_the_same_bits(
    results: dict[int, dict[str, Any]], name: str, world_size: int
) -> None:
    assert results[world_size][name]["identical"]
    assert results[world_size][name]["steps"] == 8


@pytest.mark.parametrize("name", FLOAT32)
def test_the_state_has_one_form_in_every_engine(results: dict[int, dict[str, Any]], name: str) -> None:
    plain, other = results[2]["plain"]["state"], results[2][name]["state"]
    assert plain.keys() == other.keys()
    for key in plain:
        assert close(plain[key], other[key], 1e-5), key


def test_low_precision_weights_follow_float32_masters(results: dict[int, dict[str, Any]]) -> None:
    for name in ("plain-bf16", "zero-1-bf16"):
        case = results[1][name]
        for key, weights in case["weights"].items():
            if f"master/{key}" in case["state"]:
                rounded = torch.tensor(case["state"][f"master/{key}"]).bfloat16().float()
                assert torch.equal(rounded, torch.tensor(weights))


def test_a_state_of_another_model_is_refused() -> None:
    settings = EngineSettings(kind="plain", zero_stage=0, weight_decay=0.0, max_grad_norm=1.0)
    state = EngineState(3, {"master/parts.net.weight": torch.zeros(2, 2)})
    with pytest.raises(TrainingError, match="another model"):
        make_engine(Root({"net": torch.nn.Linear(3, 2)}), settings, state)
