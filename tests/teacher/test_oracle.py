"""Chains: what the oracle writes, and what no teacher may write."""

from __future__ import annotations

import dataclasses

import pytest

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import AuxiliaryImageSettings, BenchmarkData, ProblemSettings, TeacherSettings
from mirage_core.errors import InputError, TeacherError
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.teacher import OracleTeacher, check_chain, make_teacher, write_examples
from mirage_core.teacher.checks import chain_faults
from mirage_core.types import AuxiliaryImage, ReasoningChain
from mirage_core.worlds.maze import maze_from_rows

DATA = BenchmarkData(train_levels=(3, 5), train=60, validation=0, test_per_level=0)
MAZE = maze_from_rows([[1, 0, 0], [0, -1, 0], [0, 0, 2]])
PLANNING = vsp_planning.make_problem("p", "test", MAZE, b"", "DDRR")
DIRECT = ReasoningChain(problem_id="p", variant="direct", text_before="", text_after="\\boxed{DDRR}", teacher="oracle")
COT = dataclasses.replace(
    DIRECT, variant="cot", text_before="<think>Look.</think>", text_after="<think>Go.</think>\\boxed{DDRR}"
)


def quiet(event):
    """Nobody listens."""


def image(problem_id, **details):
    return AuxiliaryImage(problem_id=problem_id, image=b"", style="arrows", details=details)


@pytest.fixture(scope="module")
def drawn():
    problems = generate_problems(ProblemSettings(vsp_planning=DATA, vsp_reasoning=DATA), 3, quiet)
    return problems, draw_auxiliary_images(problems, AuxiliaryImageSettings(), 64, 3, quiet)


@pytest.mark.parametrize("variant", ["direct", "cot"])
def test_every_chain_of_the_oracle_passes_the_checks_and_says_who_wrote_it(drawn, variant):
    problems, images = drawn
    events = []
    examples = write_examples(make_teacher(TeacherSettings()), problems, images, variant, events.append)
    assert [e.problem for e in examples] == problems
    assert {e.chain.teacher for e in examples} == {"oracle"}
    assert all(e.auxiliary_image.problem_id == e.chain.problem_id == e.problem.id for e in examples)
    assert events[-1].step == 120
    again = write_examples(OracleTeacher(), problems, images, variant, quiet)
    assert [e.chain for e in again] == [e.chain for e in examples]


def test_a_direct_chain_is_the_boxed_answer_alone(drawn):
    problems, images = drawn
    chain = OracleTeacher().chain(problems[0], images[0], "direct")
    assert (chain.text_before, chain.text_after) == ("", f"\\boxed{{{problems[0].answer}}}")


def test_a_thought_names_the_cells_and_varies_from_problem_to_problem(drawn):
    problems, images = drawn
    chains = [OracleTeacher().chain(p, i, "cot") for p, i in zip(problems, images, strict=True)]
    openings = {c.text_before[:16] for c in chains}
    assert len(openings) >= 3
    thought = OracleTeacher().chain(PLANNING, image("p"), "cot")
    assert "(0,0)" in thought.text_before
    assert "(1,1)" in thought.text_before
    assert "down to (1,0), down to (2,0), right to (2,1), right to (2,2)" in thought.text_after
    assert "DDRR" not in thought.text_before


@pytest.mark.parametrize(
    ("plan", "answer", "step", "before", "after"),
    [
        ("RD", "B", 1, "(0,1)", "a hole"),
        ("RD", "B", 2, "a hole", "fail"),
        ("RRDD", "A", 3, "(1,2)", "the goal"),
        ("ULR", "C", 1, "would leave the map", "(0,1)"),
    ],
)
def test_a_reasoning_thought_tells_the_moves_on_each_side_of_the_imagined_step(plan, answer, step, before, after):
    problem = vsp_reasoning.make_problem("r", "test", MAZE, b"", plan, answer)
    chain = OracleTeacher().chain(problem, image("r", step=step), "cot")
    check_chain(chain, problem)
    assert before in chain.text_before
    assert after in chain.text_after


def test_the_oracle_refuses_what_it_cannot_reason_about():
    reasoning = vsp_reasoning.make_problem("r", "test", MAZE, b"", "RD", "B")
    oracle = OracleTeacher()
    with pytest.raises(TeacherError, match="1 to 2"):
        oracle.chain(reasoning, image("r"), "cot")
    with pytest.raises(TeacherError, match="picture of other"):
        oracle.chain(PLANNING, image("other"), "direct")
    with pytest.raises(TeacherError, match="no map"):
        oracle.chain(dataclasses.replace(PLANNING, facts={}), image("p"), "cot")
    with pytest.raises(TeacherError, match="no solver"):
        oracle.chain(dataclasses.replace(PLANNING, benchmark="sat"), image("p"), "cot")


def test_a_problem_without_a_picture_is_refused():
    with pytest.raises(InputError, match="p has no auxiliary image"):
        write_examples(OracleTeacher(), [PLANNING], [], "direct", quiet)


def test_well_formed_chains_pass():
    check_chain(DIRECT, PLANNING)
    check_chain(COT, PLANNING)
    check_chain(dataclasses.replace(COT, text_after="The answer is \\boxed{RRDD}."), PLANNING)


@pytest.mark.parametrize(
    ("chain", "changes", "fault"),
    [
        (DIRECT, {"problem_id": "q"}, "belongs to problem q"),
        (DIRECT, {"teacher": ""}, "does not name its teacher"),
        (DIRECT, {"text_before": "hm"}, "text before the image"),
        (DIRECT, {"text_after": "<think>x</think>\\boxed{DDRR}"}, "thinks aloud"),
        (DIRECT, {"text_after": "DDRR"}, "one complete"),
        (DIRECT, {"text_after": "\\boxed{DDRR"}, "one complete"),
        (DIRECT, {"text_after": "\\boxed{A}\\boxed{DDRR}"}, "one complete"),
        (DIRECT, {"text_after": "\\boxed{RDDR}"}, "'RDDR' is wrong"),
        (COT, {"text_before": ""}, "not one thought"),
        (COT, {"text_before": "<think></think>"}, "not one thought"),
        (COT, {"text_before": "<think>a"}, "not pairs"),
        (COT, {"text_before": "<think>a<think>b</think></think>"}, "not pairs"),
        (COT, {"text_after": "go</think>\\boxed{DDRR}"}, "not pairs"),
        (COT, {"text_before": "<think>\\boxed{DDRR}</think>"}, "before the image"),
        (COT, {"text_after": "<think>\\boxed{DDRR}</think>"}, "inside the reasoning"),
        (COT, {"text_before": "<think><|latent_pad|></think>"}, r"<|latent_pad|>"),
        (COT, {"text_after": "<think><output_image></think>\\boxed{DDRR}"}, "<output_image>"),
        (COT, {"text_after": "<think><|im_end|></think>\\boxed{DDRR}"}, r"<|im_end|>"),
    ],
)
def test_a_chain_that_may_not_be_taught_is_told_why(chain, changes, fault):
    broken = dataclasses.replace(chain, **changes)
    assert any(fault in result for result in chain_faults(broken, PLANNING))
    with pytest.raises(TeacherError, match="cannot be taught"):
        check_chain(broken, PLANNING)
