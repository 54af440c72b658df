"""Both Mirage stages under ZeRO 0 to 3, offloaded, in one and two processes: losses and norms of the plain engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mirage_core.model.loading import load_model
from mirage_core.model.readout import READOUT_FILE
from mirage_core.training.sft.pooler import POOLER_FILE
from mirage_core.training.stepwise.heads import load_heads
from tests.forked import run_ranks
from tests.training.stages_child import AFTER, CODED, STEPS, cases
from tests.training.test_visual_tokens import quantised

pytestmark = pytest.mark.xdist_group("ranks")  # trained once, not by each worker, by processes of one server
Found = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {world_size: tmp_path_factory.mktemp(f"world-{world_size}") for world_size in (1, 2)}


@pytest.fixture(scope="module")
def found(inputs: Path, folders: dict[int, Path]) -> Found:
    """The figures of every engine, with 1 and 2 processes; the two go on from checkpoints of the one, too."""
    quantised(inputs, inputs / CODED, "picture")
    return {1: run(inputs, folders[1], 1), 2: run(inputs, folders[2], 2, folders[1])}


def run(inputs: Path, folder: Path, world_size: int, *others: Path) -> dict[str, Any]:
    commands = [(inputs, folder, str(rank), str(world_size), *others) for rank in range(world_size)]
    run_ranks("tests.training.stages_child", folder, commands)
    figures: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return figures


@pytest.mark.parametrize(("world_size", "case", "engine"), [(size, *case) for size in (1, 2) for case in cases(size)])
def test_every_engine_and_number_of_processes_gives_the_same_losses_and_norms(
    found: Found, world_size: int, case: str, engine: str
) -> None:
    expected, got = found[1][f"{case} plain"], found[world_size][f"{case} {engine}"]
    assert expected.keys() == got.keys() >= {"loss", "gradient_norm", "text"}
    for name, values in expected.items():
        assert len(values) == STEPS
        assert got[name] == pytest.approx(values, rel=1e-4), name


@pytest.mark.parametrize("engine", ("zero-2", "zero-3"))
def test_the_heads_of_stepwise_grounding_are_those_of_the_plain_engine(
    found: Found, folders: dict[int, Path], engine: str
) -> None:
    plain, _ = load_heads(folders[1] / "film" / "plain" / "output", 64)
    sharded, _ = load_heads(folders[2] / "film" / engine / "output", 64)
    assert found[2][f"film {engine}"].keys() >= {"where", "what", "where_accuracy"}
    for name, weight in plain.state_dict().items():
        assert (sharded.state_dict()[name] - weight).abs().max() < 1e-4, name


def test_a_pooler_of_sharded_weights_is_that_of_the_plain_engine(found: Found, folders: dict[int, Path]) -> None:
    plain = load_file(folders[1] / "pooler" / "plain" / "output" / POOLER_FILE)
    sharded = load_file(folders[2] / "pooler" / "zero-3" / "output" / POOLER_FILE)
    assert found[2]["pooled zero-3"].keys() >= {"text", "visual"}
    for name, weight in plain.items():
        assert (sharded[name] - weight).abs().max() < 1e-4, name


@pytest.mark.parametrize("engine", ("zero-2", "zero-3"))
@pytest.mark.parametrize("case", ("coconut", "codi"))
def test_a_step_decoder_is_trained_and_thrown_away_with_every_engine(
    found: Found, folders: dict[int, Path], case: str, engine: str
) -> None:
    assert min(found[2][f"{case} {engine}"]["explain"]) > 0.5
    output = folders[2] / case / engine / "output"
    kept = {"model.safetensors"} | ({READOUT_FILE} if case == "codi" else set())
    assert {path.name for path in output.glob("*.safetensors")} == kept


@pytest.mark.parametrize("engine", AFTER)
def test_training_goes_on_from_another_engine_and_number_of_processes(found: Found, engine: str) -> None:
    expected, got = found[1]["relaxation plain"], found[2][f"{engine} after {AFTER[engine]}"]
    for name, values in expected.items():
        assert got[name] == pytest.approx(values, rel=1e-4), name


@pytest.mark.parametrize("engine", ("zero-3", "zero-3-offload"))
def test_weights_gathered_one_by_one_are_those_of_the_plain_engine(
    found: Found, folders: dict[int, Path], engine: str
) -> None:
    plain = load_model(folders[1] / "relaxation" / "plain" / "output").backbone.state_dict()
    gathered = load_model(folders[2] / "relaxation" / engine / "output").backbone.state_dict()
    for name, weight in plain.items():
        assert (gathered[name] - weight).abs().max() < 1e-4, name
