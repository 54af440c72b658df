"""Both engines: the same steps, whatever the number of processes and micro-batches, and exact resumption."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mirage_core.errors import SettingsError, TrainingError
from mirage_core.training.engine.base import EngineSettings, Root
from mirage_core.training.engine.make_engine import EngineState, make_engine
from tests.forked import run_ranks
from tests.training.engine_child import CASES

pytestmark = pytest.mark.xdist_group("ranks")  # trained once, not by each worker, by processes of one server
MUON = tuple(name for name in CASES if "muon" in name)
"""Cases whose steps are none of the others'."""
FLOAT32 = tuple(name for name in CASES if name != "plain" and "bf16" not in name and name not in MUON)
BF16 = tuple(name for name in CASES if "bf16" in name)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What process 0 saw of every case, with 1 and with 2 processes; the two go on from checkpoints of the one, too."""
    alone, together = tmp_path_factory.mktemp("world-1"), tmp_path_factory.mktemp("world-2")
    return {1: run(alone, 1), 2: run(together, 2, alone)}


def run(folder: Path, world_size: int, *others: Path) -> dict[str, Any]:
    commands = [(folder, str(rank), str(world_size), *others) for rank in range(world_size)]
    run_ranks("tests.training.engine_child", folder, commands)
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
@pytest.mark.parametrize("name", MUON)
def test_muon_takes_the_same_steps_in_every_engine_and_matrices_have_one_moment(
    results: dict[int, dict[str, Any]], name: str, world_size: int
) -> None:
    found, alone = results[world_size][name], results[1]["muon"]
    assert not any(found["state"]["exp_avg_sq/parts.net.0.weight"])
    assert any(found["state"]["exp_avg_sq/parts.net.0.bias"])
    assert alone["weights"] != results[1]["plain"]["weights"]
    for key, values in alone["weights"].items() if "bf16" not in name else ():
        assert close(found["weights"][key], values, 1e-5), key


@pytest.mark.parametrize("world_size", (1, 2))
def test_gradients_averaged_where_they_lie_give_the_bits_of_deepspeeds_own_reduction(
    results: dict[int, dict[str, Any]], world_size: int
) -> None:
    cases = results[world_size]["default reduction"]

    assert {"zero-1", "zero-2", "zero-1-offload", "zero-2-offload", "zero-1-bf16", "zero-2-bf16"} <= cases.keys()
    assert cases == {name: results[world_size][name] for name in cases}


@pytest.mark.parametrize("world_size", (1, 2))
@pytest.mark.parametrize("name", tuple(CASES))
def test_a_restored_engine_goes_on_to_the_same_bits(
    results: dict[int, dict[str, Any]], name: str, world_size: int
) -> None:
    assert results[world_size][name]["resumed"] == results[world_size][name]["state"]


@pytest.mark.parametrize("world_size", (1, 2))
@pytest.mark.parametrize("name", tuple(CASES))
def test_a_reset_optimizer_begins_anew_and_a_state_saved_after_it_goes_on_to_the_same_bits(
    results: dict[int, dict[str, Any]], name: str, world_size: int
) -> None:
    found, plain = results[world_size]["reset"][name], results[world_size]["reset"]["plain"]
    assert found["steps"] == 0
    moments = [values for key, values in found["reset"].items() if not key.startswith("master/")]
    assert len(moments) == 2 * len(found["reset"]) / 3 and not any(map(any, moments))
    assert found["reset-resumed"] == found["straight-on"] != results[world_size][name]["state"]
    for key, values in plain["straight-on"].items() if name in FLOAT32 else ():
        assert close(found["straight-on"][key], values, 1e-5), key


def test_every_engine_goes_on_from_another_engine_and_number_of_processes(results: dict[int, dict[str, Any]]) -> None:
    crossed = results[2]["crossed"]
    assert len(crossed) == len(FLOAT32) + 1
    for pair, state in crossed.items():
        for key, values in results[1]["plain"]["state"].items():
            assert close(state[key], values, 1e-5), (pair, key)


@pytest.mark.parametrize("name", FLOAT32)
def test_the_state_has_one_form_in_every_engine(results: dict[int, dict[str, Any]], name: str) -> None:
    plain, other = results[2]["plain"]["state"], results[2][name]["state"]
    assert plain.keys() == other.keys()
    for key in plain:
        assert close(plain[key], other[key], 1e-5), key


@pytest.mark.parametrize("name", BF16)
def test_low_precision_weights_follow_float32_masters(results: dict[int, dict[str, Any]], name: str) -> None:
    case = results[1][name]
    followed = 0
    for key, weights in case["weights"].items():
        if f"master/{key}" in case["state"]:
            followed += 1
            rounded = torch.tensor(case["state"][f"master/{key}"]).bfloat16().float()
            assert torch.equal(rounded, torch.tensor(weights))
    assert followed == 6


@pytest.mark.parametrize("world_size", (1, 2))
@pytest.mark.parametrize("name", BF16)
def test_gradients_of_many_micro_batches_are_summed_in_float32(
    results: dict[int, dict[str, Any]], name: str, world_size: int
) -> None:
    assert results[world_size]["many"][name] == 300 * world_size


def test_a_step_of_one_micro_batch_and_of_many_agree_in_bfloat16() -> None:
    norms = []
    for pieces in (1, 500):
        root = Root({"net": torch.nn.Linear(3, 2).to(torch.bfloat16)})
        torch.nn.init.constant_(root.parts["net"].weight, 0.5)
        engine = make_engine(root, settings(), None)
        inputs = torch.ones(500, 3, dtype=torch.bfloat16)
        for chunk in inputs.chunk(pieces):
            engine.backward(engine.compute(lambda chunk=chunk, root=root: root.parts["net"](chunk).float().sum() / 500))
        norms.append(engine.step(0.0))
    assert norms[1] == pytest.approx(norms[0], rel=2e-3)


def settings(**more: Any) -> EngineSettings:
    return EngineSettings(**{"kind": "plain", "zero_stage": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, **more})


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    state = EngineState(3, {"parts.net.weight": (2, 2)}, [])
    with pytest.raises(TrainingError, match=r"holds \[2, 2\] for parts.net.weight, expected \[2, 3\].*another model"):
        make_engine(Root({"net": torch.nn.Linear(3, 2)}), settings(), state)


@pytest.mark.parametrize(
    "given",
    [
        {"offload_optimizer": True},
        {"kind": "deepspeed", "offload_optimizer": True},
        {"kind": "deepspeed", "zero_stage": 2, "offload_parameters": True},
    ],
)
def test_offloading_that_nothing_would_do_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"runtime\.offload_\w+ needs runtime\.engine deepspeed"):
        make_engine(Root({"net": torch.nn.Linear(3, 2)}), settings(**given), None)


def test_eight_bits_without_bitsandbytes_name_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SettingsError, match="pip install bitsandbytes"):
        make_engine(Root({"net": torch.nn.Linear(3, 2)}), settings(optimizer="adamw_8bit"), None)
