"""The rule that answers from text alone: what it learns, and that no test answer reaches it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirage_core.evaluation.blind import TEXT_RULE, text_rule, text_rule_rows
from mirage_core.types import Problem, Split


def asked(number: int, question: str, answer: str, split: Split = "test", image: bytes = b"") -> Problem:
    return Problem(
        id=f"{split}-{number}", benchmark="sat", split=split, group="g", question=f"<image>{question}",
        images=(image or f"{split}{number}".encode(),), answer=answer,
        facts={"options": ["yes", "no"]},
    )  # fmt: skip


def accuracy(train: list[Problem], test: list[Problem]) -> float:
    scored = text_rule(train, test, "mirage")
    assert [prediction.problem_id for prediction, _ in scored] == [problem.id for problem in test]
    return sum(score.correct for _, score in scored) / len(scored)


def test_what_the_question_says_of_its_answer_is_learned() -> None:
    train = [asked(at, f"{'Is' if at % 2 else 'Are'} it {at}?", "AB"[at % 2], "train") for at in range(40)]
    test = [asked(at, f"{'Is' if at % 2 else 'Are'} it {100 + at}?", "AB"[at % 2]) for at in range(20)]
    assert accuracy(train, test) == 1.0


def test_the_text_of_an_option_counts_wherever_it_stands() -> None:
    def choice(number: int, split: Split) -> Problem:
        options = ["left", "right"] if number % 2 else ["right", "left"]
        return replace(asked(number, f"{number} where?", "AB"[number % 2], split), facts={"options": options})

    test = [choice(at, "test") for at in range(10)]
    assert accuracy([choice(at, "train") for at in range(20)], test) == 1.0  # it is always on the right


def test_without_a_hint_it_answers_as_most_training_problems() -> None:
    train = [asked(at, f"{at} what?", "A" if at % 4 else "B", "train") for at in range(40)]
    assert accuracy(train, [asked(at, f"x{at} what?", "AB"[at % 2]) for at in range(20)]) == 0.5


def test_the_answers_of_the_test_and_of_validation_teach_nothing() -> None:
    train = [asked(at, "Same words?", "A", "train") for at in range(10)]
    held_out = [asked(at, "Same words?", "B", "validation") for at in range(50)]
    assert accuracy([*train, *held_out], [asked(at, "Same words?", "B") for at in range(8)]) == 0.0


def test_a_benchmark_without_training_problems_is_answered_by_its_other_parts() -> None:
    test = [asked(at, "Same words?", "A" if at % 5 else "B") for at in range(100)]
    assert accuracy([], test) == pytest.approx(0.8)
    # Each picture's answer is found in its own questions alone: they are in one part, so it cannot be looked up.
    pairs = [asked(at, f"Picture {at // 4}?", "AB"[at // 4 % 2], image=bytes([at // 4])) for at in range(100)]
    scored = text_rule([], pairs, "mirage")
    assert sum(score.correct for _, score in scored) / 100 < 0.7


def test_problems_that_share_any_picture_are_in_one_part() -> None:
    """Two pictures each, the second of which is the first of the next: the answer of a chain is known in it alone."""
    chains = [
        replace(asked(at, f"Chain {at // 5}?", "AB"[at // 5 % 2]), images=(bytes([at]), bytes([at // 5, 1])))
        for at in range(100)
    ]
    assert sum(score.correct for _, score in text_rule([], chains, "mirage")) / 100 < 0.7


def test_its_rows_are_those_of_a_method() -> None:
    (group, total) = text_rule_rows([], [asked(at, "Same words?", "A") for at in range(10)], "mirage")
    assert (group.method, total.group, total.n, total.accuracy) == (TEXT_RULE, "all", 10, 1.0)
