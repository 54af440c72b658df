"""Two evaluations of the same problems: what is counted, corrected and called a drop."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest

from mirage_core.errors import InputError
from mirage_core.evaluation.compare import Change, compare_evaluations, problems_digest
from mirage_core.evaluation.statistics import exact_p
from mirage_core.types import Prediction, Problem, Score, Scored

PLANNING, REASONING = "vsp-planning", "vsp-reasoning"


def answers(benchmark: str, right: Iterable[bool], sample: int = 0) -> list[Scored]:
    return [answer(benchmark, f"{benchmark}-{at}", verdict, sample) for at, verdict in enumerate(right)]


def answer(benchmark: str, name: str, right: bool, sample: int = 0) -> Scored:
    prediction = Prediction(
        problem_id=name, benchmark=benchmark, group="level-3", method="stage-2", output="", token_ids=(), spans=(),
        finished=True, sample=sample,
    )  # fmt: skip
    return prediction, Score(problem_id=name, correct=right, parsed="R", rule="mirage")


def by_name(changes: list[Change]) -> dict[str, Change]:
    return {change.benchmark: change for change in changes}


def test_every_benchmark_has_its_row_and_there_is_one_over_all() -> None:
    before = answers(PLANNING, [True] * 12 + [False] * 8) + answers(REASONING, [True] * 10)
    now = answers(PLANNING, [True] * 2 + [False] * 16 + [True] * 2) + answers(REASONING, [True] * 9 + [False])
    rows = by_name(compare_evaluations(before, now))

    assert set(rows) == {PLANNING, REASONING, "all"}
    planning = rows[PLANNING]
    assert (planning.n, planning.right_then_wrong, planning.wrong_then_right) == (20, 10, 2)
    assert (planning.before, planning.now, planning.difference) == pytest.approx((0.6, 0.2, -0.4))
    assert planning.interval[0] < -0.4 < planning.interval[1] < 0
    assert planning.p_value == pytest.approx(exact_p(10, 2))
    assert (rows["all"].n, rows["all"].right_then_wrong, rows["all"].wrong_then_right) == (30, 11, 2)


def test_p_values_are_corrected_over_all_rows() -> None:
    before = answers(PLANNING, [True] * 20) + answers(REASONING, [True] * 20)
    now = answers(PLANNING, [False] * 6 + [True] * 14) + answers(REASONING, [True] * 20)
    rows = by_name(compare_evaluations(before, now))

    assert rows[PLANNING].p_value == rows["all"].p_value == pytest.approx(2 / 64)
    assert rows[PLANNING].p_corrected == pytest.approx(3 * 2 / 64)
    assert not rows[PLANNING].is_drop(0.05), "alone it would be called a drop, corrected it is not"
    assert rows[PLANNING].is_drop(0.1)


def test_one_benchmark_needs_no_row_over_all() -> None:
    rows = compare_evaluations(answers(PLANNING, [True] * 8), answers(PLANNING, [False] * 8))

    assert [row.benchmark for row in rows] == [PLANNING]
    assert rows[0].p_corrected == rows[0].p_value == pytest.approx(2 / 256)
    assert rows[0].is_drop(0.05)


def test_a_gain_is_never_a_drop() -> None:
    (row,) = compare_evaluations(answers(PLANNING, [False] * 20), answers(PLANNING, [True] * 20))

    assert row.difference == 1.0
    assert row.p_corrected < 1e-5
    assert not row.is_drop(0.05)


def test_of_several_samples_the_first_one_counts() -> None:
    before = answers(PLANNING, [True] * 6)
    now = answers(PLANNING, [True] * 6) + answers(PLANNING, [False] * 6, sample=1)

    assert compare_evaluations(before, now)[0].difference == 0.0


def test_other_problems_are_not_compared() -> None:
    with pytest.raises(InputError, match="same problems"):
        compare_evaluations(answers(PLANNING, [True] * 6), answers(PLANNING, [True] * 5))


def test_a_model_that_did_not_change_is_seldom_called_worse() -> None:
    """Twice the same model, answering by chance: the level bounds how often any row raises the alarm."""
    chance = random.Random(7)
    nights = [
        [right for name in (PLANNING, REASONING) for right in answers(name, [chance.random() < 0.7 for _ in range(80)])]
        for _ in range(400)
    ]
    alarms = [
        any(change.is_drop(0.05) for change in compare_evaluations(before, now)) for before, now in pairwise(nights)
    ]
    assert 0 < sum(alarms) / len(alarms) < 0.05


def test_the_digest_of_problems_is_of_what_is_asked_and_judged() -> None:
    problem = Problem(
        id="a", benchmark=PLANNING, split="test", group="level-3", question="<image>?", images=(b"png",), answer="R"
    )
    changed = [
        Problem(**{**fields_of(problem), name: value})
        for name, value in [("question", "<image>!"), ("images", (b"other",)), ("answer", "L"), ("id", "b")]
    ]

    digests = {problems_digest([one]) for one in [problem, *changed]}
    assert len(digests) == 5
    assert problems_digest([Problem(**{**fields_of(problem), "facts": {"map": 1}})]) == problems_digest([problem])


def fields_of(problem: Problem) -> dict[str, object]:
    return {name: getattr(problem, name) for name in problem.__slots__}
