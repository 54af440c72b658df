r"""Chains in words: a model that answers by its chain is told apart from one that answers past it.

What the models answer is a rule of the test; prompts, words, boxes, verdicts and figures are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mirage_core.analysis.intervened_generation import GeneratedAnswer, InterventionRunner
from mirage_core.analysis.measures.text_chain import generate_from_chains, shuffled, text_chain, truncated
from mirage_core.analysis.results import Run, TextChainResult
from mirage_core.types import Prediction, Problem, Score
from tests.analysis import fake_runs, toys

PROBLEMS = toys.toy_problems(30)
WORDS = {"A": "The tile is red so the answer is", "B": "It looks green to me so I say", "C": "All is blue here hence"}
Rule = Callable[[str, Problem], str]
"""(chain, problem) -> the letter that is answered."""


def by_the_chain(chain: str, problem: Problem) -> str:
    named = [letter for letter, word in (("A", "red"), ("B", "green"), ("C", "blue")) if word in chain.split()]
    return named[0] if named else "A"


def past_the_chain(chain: str, problem: Problem) -> str:
    return problem.answer


class RuleRunner(InterventionRunner):
    """Answers by a rule from the text in the prompt; everything else is an InterventionRunner's."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(toys.trained("none"), toys.toy_settings())
        self._rule = rule
        self.seen: list[str] = []

    def generate(self, problems: Sequence[Problem], intervene: Any = None, **options: Any) -> list[GeneratedAnswer]:
        """One letter per problem, after its prefix; its token is certain."""
        assert intervene is None and options["prefix_in_answer_box"]
        answers = []
        for problem, prompt, prefix in zip(problems, options["prompts"], options["prefix_text"], strict=True):
            self.seen.append(self.loaded.processor.tokenizer.decode(prompt.ids))
            letter = self._rule(prefix, problem)
            prediction, _ = fake_runs.answer(problem, "A")
            output = f"{prefix}{letter}}}"
            prediction = Prediction(**{**fields(prediction), "output": output, "spans": ()})
            score = Score(problem_id=problem.id, correct=letter == problem.answer, parsed=letter, rule="option-letter")
            first = torch.full((3,), 1e-4).log()
            first["ABC".index(letter)] = np.log(1 - 2e-4)
            answers.append(GeneratedAnswer(prediction=prediction, score=score, first_token=first))
        return answers


def fields(prediction: Prediction) -> dict[str, Any]:
    return {name: getattr(prediction, name) for name in Prediction.__slots__}


def measured(rule: Rule) -> tuple[TextChainResult, RuleRunner]:
    """The measure on clean answers with the toy's words before their boxes."""
    collected = fake_runs.run(PROBLEMS, torch.zeros(len(PROBLEMS), 2, 4))
    scored = []
    for problem in PROBLEMS:
        prediction, score = fake_runs.answer(problem, problem.answer)
        output = f"{WORDS[problem.answer]} \\boxed{{{problem.answer}}}"
        scored.append((Prediction(**{**fields(prediction), "output": output, "spans": ()}), score))
    runner = RuleRunner(rule)
    settings = toys.toy_settings().analysis
    return text_chain(runner, replace(collected, scored=tuple(scored)), PROBLEMS, settings, toys.quiet), runner


def runs_of(result: TextChainResult) -> dict[str, Run]:
    return {run.name if run.scale is None else f"{run.name} {run.scale:g}": run for run in result.runs}


def test_another_chain_gives_another_answer_where_the_chain_decides() -> None:
    result, runner = measured(by_the_chain)
    runs = runs_of(result)
    assert list(runs) == ["own", "other", "truncate 0.25", "truncate 0.5", "truncate 0.75", "shuffle", "delete"]
    assert runs["own"].accuracy.value == 1 and runs["own"].changed.value == 0
    other = runs["other"]
    assert other.follow is not None and other.follow.value == 1 and other.changed.value == 1 - other.accuracy.value
    assert other.change.value is not None and other.change.value < -0.4 and other.p_value is not None
    assert other.kl.value is not None and other.kl.value > 1
    assert runs["shuffle"].changed.value == 0, "this rule reads words in any order"
    assert runs["delete"].accuracy.value == pytest.approx(1 / 3)
    assert runs["truncate 0.25"].accuracy.value < runs["truncate 0.75"].accuracy.value == 1
    assert result.mean_words == pytest.approx(np.mean([len(WORDS[problem.answer].split()) for problem in PROBLEMS]))
    assert any("The tile is red so the answer is \\boxed{" in text for text in runner.seen)


def test_no_edit_of_the_chain_moves_answers_that_go_past_it() -> None:
    result, _ = measured(past_the_chain)
    for run in result.runs:
        assert run.change.value == 0 and run.changed.value == 0 and run.p_value == 1 and run.kl.value == 0
        assert run.follow is None or run.follow == run.follow_clean


def test_answers_with_latents_or_without_a_box_take_no_part() -> None:
    runner, settings = toys.deaf()
    result = text_chain(runner, toys.clean("deaf"), toys.toy_problems(), settings.analysis, toys.quiet)
    assert result.runs == () and result.header.used == 0 and result.mean_words is None
    assert "24 of 24 answers hold latents" in result.header.notes[0]


def test_a_model_goes_on_from_a_forced_chain_and_an_open_box_with_its_answer() -> None:
    runner, _ = toys.deaf()
    answers = generate_from_chains(
        InterventionRunner(runner.loaded, toys.toy_settings()), PROBLEMS[:4], ["The tile is red. "] * 4
    )
    for answer in answers:
        assert answer.prediction.output.startswith("The tile is red. \\boxed{") and answer.first_token is not None
        begins = int(answer.first_token.argmax())
        assert begins == answer.prediction.token_ids[0], "the first token behind the open box is the answer's first"


def test_chains_are_cut_and_mixed_word_by_word() -> None:
    assert truncated("one two three four", 0.5) == "one two " and truncated("one two", 0.1) == ""
    mixed = shuffled("one two three four five", np.random.default_rng(0))
    assert sorted(mixed.split()) == sorted(["one", "two", "three", "four", "five"]) and mixed.endswith(" ")
    assert shuffled("", np.random.default_rng(0)) == ""
