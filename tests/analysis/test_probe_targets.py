"""Facts of problems: what the map says, what the answer says, what a data set says itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from mirage_core.analysis.measures.probe_targets import facts_of, unit_names
from mirage_core.types import Problem

SMALL = [[1, 0, -1], [0, 0, 0], [-1, 0, 2]]
LARGE = [[0, 0, 0, 1], [0, -1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]


def problem(benchmark: str, answer: str, **facts: Any) -> Problem:
    return Problem(
        id=answer, benchmark=benchmark, split="test", group="g", question="<image>", images=(b"",), answer=answer,
        facts=facts,
    )  # fmt: skip


def test_a_planning_problem_tells_cells_holes_and_the_plan() -> None:
    facts = {
        fact.name: fact
        for fact in facts_of([problem("vsp-planning", "DRRD", map=SMALL), problem("vsp-planning", "DDLLL", map=LARGE)])
    }
    labels = {name: fact.labels for name, fact in facts.items() if fact.labels}
    assert labels == {
        "start cell": ("0,0", "0,3"),
        "goal cell": ("2,2", "2,0"),
        "number of holes": ("2", "1"),
        "next move": ("D", "D"),
        "length of the plan": ("4", "5"),
    }
    signs = facts["hole at each cell"].signs
    assert signs is not None and signs.shape == (2, 16)
    assert (signs[0].reshape(4, 4)[:3, :3] == 1).sum() == 2 and (signs[0].reshape(4, 4)[3] == 0).all()
    assert np.flatnonzero(signs[1] == 1).tolist() == [5] and (signs[1] != 0).all()


def test_another_benchmark_tells_its_answer_and_its_small_facts_only() -> None:
    rows = [
        problem("sat", "B", kind="egomotion", count=2, note="a" * 99, only_here=True),
        problem("sat", "A", kind="action", count=1, note="b" * 99),
    ]
    facts = {fact.name: fact.labels for fact in facts_of(rows)}
    assert facts == {"answer": ("B", "A"), "kind": ("egomotion", "action"), "count": ("2", "1")}


def test_a_reasoning_problem_without_a_map_tells_its_outcome_alone() -> None:
    facts = facts_of([problem("vsp-reasoning", "A", plan="RD"), problem("vsp-reasoning", "B", plan="RD", map=SMALL)])
    assert [fact.name for fact in facts] == ["answer"]


def test_problems_of_one_map_are_one_unit() -> None:
    one, same = problem("vsp-planning", "D", map=SMALL), problem("vsp-reasoning", "A", map=SMALL)
    other = problem("vsp-planning", "D", map=LARGE)
    names = unit_names([one, same, other, problem("sat", "A")])
    assert names[0] == names[1] != names[2]
    assert names[3] == "A"
