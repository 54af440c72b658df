"""Similarity: latents that vary with the input are told from latents that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mirage_core.analysis.measures.similarity import similarity, state_similarity
from mirage_core.analysis.results import Estimate, StateSimilarity
from mirage_core.config import AnalysisSettings
from tests.analysis.fake_runs import run
from tests.analysis.toys import toy_problems

SETTINGS = AnalysisSettings(resamples=200)
GROUPS = ["even", "odd"] * 20


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def measured(states: np.ndarray, groups: list[str] = GROUPS) -> StateSimilarity:
    return state_similarity("latents", states, groups, SETTINGS)


def value(estimate: Estimate) -> float:
    assert estimate.value is not None
    return estimate.value


def test_latents_that_are_the_same_everywhere_are_called_so() -> None:
    result = measured(np.tile(normal(1, 1, 16), (40, 3, 1)))
    assert value(result.intra) == pytest.approx(1) and value(result.by_index[2].inter) == pytest.approx(1)
    assert value(result.by_index[0].energy_share) == 0
    assert result.by_index[0].inter_centred.value is None and result.by_index[0].effective_rank.value is None
    assert result.instance_share.value is None, "where nothing varies there is nothing to share out"


def test_a_large_common_part_hides_in_plain_cosines_and_not_in_centred_ones() -> None:
    varied = normal(40, 3, 16)
    result = measured(varied + 20 * normal(1, 1, 16, seed=1))
    index = result.by_index[0]
    assert value(index.inter) > 0.99 and abs(value(index.inter_centred)) < 0.1
    assert value(index.energy_share) < 0.01 and value(index.effective_rank) > 10


def test_latents_of_their_own_instance_are_told_from_latents_of_their_index() -> None:
    own = measured(np.tile(normal(40, 1, 16), (1, 3, 1)))
    assert value(own.intra) == pytest.approx(1) and abs(value(own.by_index[0].inter)) < 0.1
    assert value(own.instance_share) == pytest.approx(1)
    position = measured(np.tile(normal(1, 3, 16, seed=2), (40, 1, 1)))
    assert value(position.index_share) == pytest.approx(1) and value(position.by_index[1].inter) == pytest.approx(1)
    assert position.intra_matrix[0][0] == pytest.approx(1) and abs(position.intra_matrix[0][1]) < 0.8


def test_groups_count_where_they_shape_latents() -> None:
    means = normal(2, 3, 16, seed=3)
    shaped = measured(means[np.arange(40) % 2] + 0.1 * normal(40, 3, 16))
    plain = measured(normal(40, 3, 16))
    assert value(shaped.by_index[0].group_share) > 0.9
    low = plain.by_index[0].group_share_chance
    assert low == pytest.approx(1 / 39) and value(plain.by_index[0].group_share) < 3 * low


def test_intervals_hold_the_figure_and_narrow_with_the_number_of_instances() -> None:
    wide, narrow = measured(normal(20, 2, 8) + 1, GROUPS[:20]), measured(normal(400, 2, 8) + 1, GROUPS * 10)
    for result in (wide, narrow):
        inter = result.by_index[0].inter
        assert inter.low is not None and inter.high is not None and inter.low <= value(inter) <= inter.high
    widths = [result.by_index[0].inter.high - result.by_index[0].inter.low for result in (wide, narrow)]
    assert widths[1] < widths[0] / 2


def test_text_and_image_states_stand_beside_latents_and_answers_without_a_span_are_left_out() -> None:
    problems = toy_problems(12)
    latents = torch.from_numpy(normal(12, 2, 8)).float()
    spans = torch.tensor([True] * 9 + [False] * 3)
    result = similarity(run(problems, latents, has_span=spans), problems, SETTINGS)
    assert [states.states for states in result.states] == ["latents", "text", "image"]
    assert [states.n for states in result.states] == [9, 12, 12]
    assert result.header.used == 9 and "3 of 12 answers" in result.header.notes[0]
    assert sum(result.header.groups.values()) == 9
