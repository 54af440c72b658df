"""Probes find what latents hold, and say so of nothing they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mirage_core.analysis.measures.probes import probes
from mirage_core.analysis.results import Probe
from mirage_core.config import AnalysisSettings
from mirage_core.types import Problem
from tests.analysis.fake_runs import run
from tests.analysis.toys import toy_problems

SETTINGS = AnalysisSettings(resamples=100, shuffles=19)
MAPS = ([[1, 0, -1], [0, 0, 0], [-1, 0, 2]], [[1, 0, 0], [-1, 0, 0], [0, -1, 2]], [[0, -1, 1], [0, 0, 0], [2, 0, 0]])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def telling(problems: list[Problem], position: int) -> torch.Tensor:
    """Latents [N, 2, 8] of which the one at ``place`` holds the answer, and all else is noise."""
    letters = np.array(["ABC".index(problem.answer) for problem in problems])
    latents = normal(len(problems), 2, 8)
    latents[:, position] += 4 * normal(3, 8, seed=1)[letters]
    return torch.from_numpy(latents).float()


def by_states(result: list[Probe]) -> dict[str, Probe]:
    return {probe.states: probe for probe in result if probe.fact.endswith(": answer")}


def test_the_latent_that_holds_the_answer_is_found_and_the_others_are_not() -> None:
    problems = toy_problems(90)
    result = by_states(list(probes(run(problems, telling(problems, 1)), problems, SETTINGS).probes))
    assert list(result) == ["latents", "latent-0", "latent-1", "image-features", "image-pooled", "text-before"]
    for name, probe in result.items():
        value, low = probe.accuracy.value, probe.accuracy.low
        assert value is not None and low is not None and probe.test == 90 and probe.train == 72
        if name in ("latents", "latent-1"):
            assert value > 0.9 and low > max(probe.majority, probe.shuffled.high or 0)
            assert probe.p_value == pytest.approx(0.05)
        else:
            assert value < 0.55 and probe.p_value > 0.05


def test_what_the_group_tells_already_is_in_the_controls() -> None:
    problems = [
        Problem(
            id=f"p{at}", benchmark="sat", split="test", group="AB"[at % 2], question="<image>", images=(b"",),
            answer="AB"[at % 2] if at % 10 else "C",
        )
        for at in range(100)
    ]  # fmt: skip
    latents = torch.from_numpy(np.eye(2)[np.arange(100) % 2][:, None] * 5 + 0.1 * normal(100, 1, 2)).float()
    probe = by_states(list(probes(run(problems, latents), problems, SETTINGS).probes))["latents"]
    assert probe.accuracy.value == pytest.approx(0.9, abs=0.02)
    assert probe.majority == pytest.approx(0.9, abs=0.01) and probe.shuffled.value == pytest.approx(0.9, abs=0.02)


def test_holes_are_probed_cell_by_cell_and_copies_of_a_map_stay_together() -> None:
    problems = [
        Problem(
            id=f"p{at}", benchmark="vsp-planning", split="test", group="level-3", question="<image>", images=(b"",),
            answer="D", facts={"map": MAPS[at % 3]},
        )
        for at in range(60)
    ]  # fmt: skip
    pictures = torch.from_numpy(4 * normal(3, 2, 8, seed=5)[np.arange(60) % 3] + normal(60, 2, 8)).float()
    result = probes(run(problems, pictures), problems, SETTINGS)
    holes = next(probe for probe in result.probes if probe.fact.endswith("hole at each cell"))
    assert holes.accuracy.value is not None and holes.accuracy.value < 0.95, "no map was seen in training"
    assert result.skipped["vsp-planning: next move"] == "it is the same in all instances"


def test_too_few_instances_are_not_probed_and_the_reason_is_told() -> None:
    problems = toy_problems(12)
    result = probes(run(problems, telling(problems, 0)), problems, SETTINGS)
    assert result.probes == () and "fewer than 20" in result.skipped["vsp-reasoning: answer"]
