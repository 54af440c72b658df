"""How outputs are judged and how problems are asked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core import benchmarks
from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.errors import InputError, SettingsError
from mirage_core.worlds.maze import maze_from_rows, walk

MAZE = maze_from_rows([[1, 0, 0], [0, -1, 0], [0, 0, 2]])
PLANNING = vsp_planning.make_problem("p", "test", MAZE, b"", "DDRR")
REASONING = vsp_reasoning.make_problem("r", "test", MAZE, b"", "RRU", "C")


@pytest.mark.parametrize(
    ("output", "mirage", "vsp"),
    [
        ("\\boxed{DDRR}", True, True),
        ("\\boxed{R, R, D, D}", True, True),
        ("\\boxed{LLUDDRR}", True, True),
        ("\\boxed{DDRRU}", False, True),
        ("\\boxed{DDRRUD}", True, True),
        ("\\boxed{RDDR}", False, False),
        ("Action plan: D,D,R,R", True, True),
        ("Action plan: DDRR", True, None),
        ("Action plan: UU\nAction plan: R,R,D,D\nDone. Really", True, None),
        ("Action plan: U\n\\boxed{DDRR}", True, None),
        ("\\boxed{}", None, None),
        ("\\boxed{go home}", None, None),
        ("DDRR", True, True),
        ("\\boxed{ddrr}", True, True),
        ("\\boxed{Down (D), Down (D), Right (R), Right (R)}", True, True),
        ("\\boxed{Unreachable}", None, None),
        ("", None, None),
    ],
)
def test_each_planning_rule_judges_and_names_itself(output, mirage, vsp):
    for rule, verdict in (("mirage", mirage), ("vsp", vsp)):
        score = vsp_planning.score(PLANNING, output, rule)
        assert (score.rule, score.problem_id) == (rule, "p")
        assert score.correct == bool(verdict)
        assert (score.parsed is None) == (verdict is None)


@given(st.text("UDLR", min_size=1, max_size=12))
@settings(deadline=None)
def test_mirages_rule_is_the_walks_outcome(plan):
    score = vsp_planning.score(PLANNING, f"<latents:4>\\boxed{{{plan}}}")
    assert score.parsed == plan
    assert score.correct == (walk(MAZE, plan).outcome == "success")


def test_spatial_reasoning_is_judged_by_the_letter():
    assert vsp_reasoning.score(REASONING, "\\boxed{C}").correct
    assert not vsp_reasoning.score(REASONING, "\\boxed{A}").correct
    unread = vsp_reasoning.score(REASONING, "hm", "mirage")
    assert (unread.parsed, unread.correct, unread.rule) == (None, False, "option-letter")


def test_an_unknown_rule_is_refused_with_the_known_ones():
    for name, problem in (("vsp-planning", PLANNING), ("vsp-reasoning", REASONING)):
        with pytest.raises(SettingsError, match=benchmarks.get(name).rules[0]):
            benchmarks.get(name).score(problem, "\\boxed{A}", "optimal")


def test_an_unknown_benchmark_is_refused_with_the_known_names():
    with pytest.raises(InputError, match=r"vsp-planning, vsp-reasoning, .*; did you mean 'vsp-planning'"):
        benchmarks.get("vsp-planing")


def test_the_benchmarks_prompt_ends_as_the_variant_wants_it():
    for problem, module in ((PLANNING, vsp_planning), (REASONING, vsp_reasoning)):
        direct, cot = (module.prompt(problem, "benchmark", variant) for variant in ("direct", "cot"))
        assert direct.endswith("answer.\n The final answer MUST BE put in \\boxed{}.") or "action plan.\n The" in direct
        assert "<think> </think> tags. The final answer MUST BE put in \\boxed{}." in cot
        assert "<think>" not in direct
        assert direct.count("<image>") == cot.count("<image>") == 1
    assert "Full Action Plan: RIGHT, RIGHT, UP\n" in vsp_reasoning.prompt(REASONING, "benchmark", "cot")


def test_the_short_prompt_is_a_few_letters():
    assert vsp_planning.prompt(PLANNING, "short", "direct") == "<image>\nPlan:"
    assert vsp_reasoning.prompt(REASONING, "short", "direct") == "<image>\nPlan: RRU\nOutcome:"


def test_an_unknown_form_or_variant_is_refused():
    with pytest.raises(InputError, match="'benchmark' or 'short'"):
        vsp_planning.prompt(PLANNING, "long", "direct")
    with pytest.raises(InputError, match="variant"):
        vsp_planning.prompt(PLANNING, "benchmark", "loud")


def test_a_question_of_ones_own_keeps_its_words():
    own = vsp_planning.make_problem("p", "test", MAZE, b"", "DDRR", question="Way out of <image>?")
    assert vsp_planning.prompt(own, "benchmark", "direct").startswith("Way out of <image>?\n The final answer")
