"""The first token of an answer, however the tokenizer cuts the box."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mirage_core.analysis.intervened_generation import FirstAnswerToken, kl_divergence
from mirage_core.generation.decode import Step
from mirage_core.generation.latent_modes import StepInput

PIECES = ["so ", "\\", "boxed", "\\boxed", "{", "{A", "A", "}", "<|latent_start|>"]


class Pieces:
    """A tokenizer of whole pieces."""

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool = False) -> str:
        return "".join(PIECES[at] for at in ids)


def first_answer_steps(*rows: list[str], in_answer_box: bool = False) -> list[int | None]:
    """Decode these pieces row by row; the step at which each row's answer began, read off its logits."""
    observer = FirstAnswerToken(Pieces(), len(rows), in_answer_box=in_answer_box)
    for step in range(max(map(len, rows))):
        going = [at for at, row in enumerate(rows) if step < len(row)]
        tokens = np.array([PIECES.index(rows[at][step]) for at in going])
        nothing = np.zeros(len(going), dtype=bool)
        logits = torch.zeros(len(going), 30)
        logits[:, step] = 50.0  # the step is written into the distribution
        observer(
            Step(
                np.array(going),
                torch.zeros(len(going), 2),
                logits,
                StepInput(nothing, tokens, nothing, nothing, nothing, np.zeros_like(tokens)),
            )
        )
    return [None if one is None else int(one.argmax()) for one in observer.log_probs]


def test_the_token_behind_the_brace_begins_the_answer_also_where_it_is_one_with_the_brace() -> None:
    apart = ["so ", "\\boxed", "{", "A", "}"]
    merged = ["so ", "so ", "\\", "boxed", "{A", "}"]
    assert first_answer_steps(apart, merged) == [3, 4]


def test_an_empty_box_a_late_box_and_no_box() -> None:
    assert first_answer_steps(["\\boxed", "{", "}"], ["so "] * 4, ["<|latent_start|>", "\\boxed", "{", "A"]) == [
        2,
        None,
        3,
    ]


def test_a_box_that_the_prompt_opened_is_answered_at_once() -> None:
    assert first_answer_steps(["A", "}"], in_answer_box=True) == [0]


def test_latents_are_no_tokens() -> None:
    observer = FirstAnswerToken(Pieces(), 1, in_answer_box=True)
    latent, nothing = np.ones(1, dtype=bool), np.zeros(1, dtype=bool)
    observer(
        Step(
            np.array([0]),
            torch.zeros(1, 2),
            torch.zeros(1, 9),
            StepInput(latent, np.array([6]), nothing, nothing, nothing, np.array([0])),
        )
    )
    assert observer.log_probs == [None]


def test_the_divergence_is_that_of_the_formula_and_none_of_a_distribution_with_itself() -> None:
    one, other = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.25, 0.5, 0.25]).log()
    assert kl_divergence(one, one) == 0 and kl_divergence(one, other) == pytest.approx(0.5 * np.log(2))
    assert kl_divergence(other, one) == float("inf")
