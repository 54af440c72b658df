"""GRPO on two processes under every ZeRO stage: the losses and rewards of one process without DeepSpeed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mirage_core.distributed.events import EventWriter
from mirage_core.store.tables import read_table
from mirage_core.training.sft.train import run_supervised
from tests.forked import run_ranks
from tests.training.grpo_child import CASES, GRPO, run_case
from tests.training.small_world import make_inputs, make_job

CLOSE = 1e-4
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ranks")]  # trained once, by processes of one server
Points = dict[tuple[int, str], float]


def points(folder: Path) -> Points:
    rows = read_table(folder / "output" / "curves.parquet")
    return {(row["step"], row["name"]): row["value"] for row in rows}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world, its model taught for a few steps to answer with latents: none, one or two spans an answer."""
    folder, work = tmp_path_factory.mktemp("taught"), tmp_path_factory.mktemp("teaching") / "work"
    make_inputs(folder)
    job = make_job(folder, work, "relaxation", relaxation={"steps": 40})
    job.output.mkdir(parents=True)
    job.scratch.mkdir(parents=True)
    run_supervised(job, EventWriter(job.scratch / "events.jsonl"))
    shutil.rmtree(folder / "model")
    shutil.copytree(job.output, folder / "model")
    return folder


@pytest.fixture(scope="module")
def two(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case on two processes, in one start of them."""
    folder = tmp_path_factory.mktemp("two")
    commands = [(inputs, folder, str(rank), "2", *CASES) for rank in (0, 1)]
    run_ranks("tests.training.grpo_child", folder, commands, timeout_s=550)
    return folder


@pytest.fixture(scope="module")
def one(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cases of the plain engine on one process, which is this one."""
    folder = tmp_path_factory.mktemp("one")
    for name in CASES:
        if name.startswith("plain"):
            run_case(name, inputs, folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_figures_of_one_without_deepspeed(one: Path, two: Path, name: str) -> None:
    _, _, kind = name.partition(":")
    expected, found = points(one / f"plain:{kind}"), points(two / name)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=CLOSE), key


def test_the_cases_are_what_they_are_meant_to_be(one: Path) -> None:
    """Answers with no, one and two spans; prompts drawn in place of others; ratios that moved."""
    plain, redrawn, replayed = (points(one / f"plain:{kind}") for kind in ("whole", "adapters", "replay"))
    steps = range(1, GRPO["steps"] + 1)
    assert any(0 < plain[step, "latent_share"] < 1 for step in steps)
    assert any(plain[step, "num_latents"] > 2 * plain[step, "latent_share"] for step in steps)
    assert any(redrawn[step, "groups_drawn"] > 3 for step in steps)
    assert any(redrawn[step, "groups_learned"] < 3 for step in steps)
    assert replayed[2, "ratio_deviation"] > 1e-3 > 1e-5 > replayed[1, "ratio_deviation"]
    assert all(plain[step, "kl"] > 1e-4 for step in steps if step > 1)
