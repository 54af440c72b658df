"""From a teacher's text to a chain: what is accepted, and the reason for every rejection."""

from __future__ import annotations

import pytest

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.llm_client.response_cache import Answer
from mirage_core.teacher.checks import Fault
from mirage_core.teacher.endpoint import read_chain
from mirage_core.types import Problem, ReasoningChain
from mirage_core.worlds.maze import maze_from_rows
from tests.teacher.conftest import teacher_settings

MAZE = maze_from_rows([[1, 0, 0], [0, -1, 0], [0, 0, 2]])
PLANNING = vsp_planning.make_problem("p", "train", MAZE, b"", "DDRR")
REASONING = vsp_reasoning.make_problem("r", "train", MAZE, b"", "RD", "B")
BEFORE = "<think>The player stands at the upper left, a hole is in the middle. I picture the way.</think>"
AFTER = "<think>I go down twice along the edge, then right twice, and no cell is a hole.</think>"
GOOD = f"{BEFORE}\n<output_image>\n{AFTER}\n\\boxed{{DDRR}}"


def read(text: str, problem: Problem = PLANNING, finish: str = "stop") -> ReasoningChain | list[Fault]:
    answer = Answer(
        request="a" * 64, problem=problem.id, template="t", attempt=1, model="m", served="m", text=text, finish=finish
    )
    return read_chain(answer, problem, teacher_settings(), "cot", "m")


def test_a_good_answer_becomes_a_chain_round_the_picture() -> None:
    chain = read(f"\n {GOOD}\n")
    assert chain == ReasoningChain(
        problem_id="p", variant="cot", text_before=BEFORE, text_after=f"{AFTER}\n\\boxed{{DDRR}}", teacher="m"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("I cannot see any picture.", "place"),
        (GOOD.replace("<output_image>", ""), "place"),
        (GOOD.replace("<output_image>", "<output_image><output_image>"), "place"),
        (GOOD.replace("<output_image>", "<image>"), "place"),
        (GOOD.replace("picture the", "picture <image> the"), "special-token"),
        (GOOD.replace("picture the", "picture <|latent_start|> the"), "special-token"),
        (GOOD.replace("picture the", "picture \x1b the"), "special-token"),
        (GOOD.replace("<think>The", "The"), "think-tags"),
        (f"Sure! {GOOD}", "think-tags"),
        (GOOD.replace("</think>\n\\boxed", "\\boxed"), "think-tags"),
        (GOOD.replace("\\boxed{DDRR}", "DDRR"), "box"),
        (GOOD.replace("\\boxed{DDRR}", "\\boxed{DDRR"), "box"),
        (GOOD.replace("\\boxed{DDRR}", "\\boxed{DDRR} \\boxed{DDRR}"), "box"),
        (GOOD.replace("\\boxed{DDRR}", "\\boxed{RDDR}"), "wrong-answer"),
        (GOOD.replace("I picture", "\\boxed{DDRR} I picture"), "answer-early"),
        (GOOD.replace("I picture", "So DDRR. I picture"), "answer-early"),
        (GOOD.replace("I go down", "\\boxed{DDRR} I go down"), "answer-early"),
        (GOOD.replace(BEFORE, "<think>Hm.</think>"), "length"),
        (GOOD.replace("the way", "the way " * 2000), "length"),
        (GOOD.replace(AFTER, ""), "length"),
        (GOOD.replace("I picture", "As given, the plan works. I picture"), "betrayal"),
        (GOOD.replace("I go", "By the GROUND  Truth I go"), "betrayal"),
        (GOOD.replace("I go", "The auxiliary\nimage shows that I go"), "betrayal"),
    ],
)
def test_what_may_not_be_taught_is_counted_under_its_reason(text: str, reason: str) -> None:
    faults = read(text)
    assert isinstance(faults, list)
    assert faults[0].reason == reason, faults


@pytest.mark.parametrize(
    ("early_text", "early"),
    [
        ("The answer is B.", True),
        ("So the answer: (b)!", True),
        ("the answer is option B", True),
        ("The answer is Best found by looking.", False),
        ("Option B would mean a hole.", False),
    ],
)
def test_an_option_letter_is_told_early_only_where_it_is_called_the_answer(early_text: str, early: bool) -> None:
    text = GOOD.replace("I picture", f"{early_text} I picture").replace("{DDRR}", "{B}")
    result = read(text, REASONING)
    assert isinstance(result, list) == early
    if isinstance(result, list):
        assert [fault.reason for fault in result] == ["answer-early"]


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "cut"), ("content_filter", "refused"), ("refusal", "refused")]
)
def test_an_answer_that_did_not_end_by_itself_is_not_read(finish: str, reason: str) -> None:
    faults = read(GOOD, finish=finish)
    assert isinstance(faults, list)
    assert [fault.reason for fault in faults] == [reason]
