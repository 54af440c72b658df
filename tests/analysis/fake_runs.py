"""Clean runs that no model made: latents, states and answers as a test wants them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mirage_core.analysis.collect import CleanRun
from mirage_core.types import LatentSpan, Prediction, Problem, Score


def run(problems: Sequence[Problem], latents: Tensor, **tensors: Tensor) -> CleanRun:
    """A clean run whose answers are right, with these latents [N, k, D]; all other states are noise."""
    count, positions, width = latents.shape
    noise = torch.from_numpy(np.random.default_rng(7).normal(size=(4, count, positions, width))).float()
    everywhere = torch.ones(count, dtype=torch.bool)
    tensors_by_name = {
        "latents": latents,
        "has_span": everywhere,
        "text": noise[0],
        "has_text": everywhere,
        "text_mean": noise[0].mean(1),
        "text_before": noise[1].mean(1),
        "image": noise[2],
        "has_image": everywhere,
        "image_mean": noise[2].mean(1),
        "image_features": noise[3].mean(1),
        "image_pooled": noise[3],
        "first": torch.zeros(count, 5).log_softmax(-1),
        "has_first": everywhere,
    }
    return CleanRun(
        scored=tuple(answer(problem, problem.answer) for problem in problems), **{**tensors_by_name, **tensors}
    )


def answer(problem: Problem, text: str) -> tuple[Prediction, Score]:
    """An answer with one span of two latents."""
    prediction = Prediction(
        problem_id=problem.id,
        benchmark=problem.benchmark,
        group=problem.group,
        method="constructed",
        output=f"<latents:2>\\boxed{{{text}}}",
        token_ids=(1, 2, 3),
        spans=(LatentSpan(position=1, num_latents=2),),
        finished=True,
    )
    return prediction, Score(problem_id=problem.id, correct=text == problem.answer, parsed=text, rule="option-letter")
