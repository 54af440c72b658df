"""Accuracy and what stands beside it, counted by hand on a few answers."""

from __future__ import annotations

import pytest

from mirage_core.errors import DataError
from mirage_core.evaluation.metrics import accuracy_rows, paired, pooled_row, run_scores
from mirage_core.evaluation.statistics import wilson
from mirage_core.types import LatentSpan, Prediction, Score

Scored = tuple[Prediction, Score]


def answer(
    problem: str, correct: bool, *, group: str = "level-3", method: str = "stage-2", parsed: str | None = "R",
    latents: int = 0, finished: bool = True, sample: int = 0, rule: str = "mirage", tokens: int = 3,
) -> Scored:  # fmt: skip
    spans = (LatentSpan(position=1, num_latents=latents),) if latents else ()
    prediction = Prediction(
        problem_id=problem, benchmark="vsp-planning", group=group, method=method, output="", token_ids=(7,) * tokens,
        spans=spans, finished=finished, sample=sample,
    )  # fmt: skip
    return prediction, Score(problem_id=problem, correct=correct, parsed=parsed, rule=rule)


def test_a_group_is_counted_with_everything_beside_its_accuracy() -> None:
    scored = [
        answer("a", True, latents=4, tokens=2),
        answer("b", False, parsed=None, finished=False, tokens=6),
        answer("c", False, latents=4, tokens=4),
        answer("d", True, latents=4, tokens=4),
    ]
    row = accuracy_rows(scored)[0]
    assert (row.benchmark, row.method, row.group, row.rule) == ("vsp-planning", "stage-2", "level-3", "mirage")
    assert (row.n, row.answers, row.accuracy, row.unparsed) == (4, 4, 0.5, 1)
    assert row.interval == wilson(2, 4)
    assert (row.unparsed_share, row.latent_share, row.cut_share, row.mean_tokens) == (0.25, 0.75, 0.25, 4.0)
    assert row.spread == 0.0


def test_micro_pools_problems_and_macro_averages_groups() -> None:
    scored = [answer(f"easy-{index}", True) for index in range(3)] + [answer("hard", False, group="level-4")]
    total = accuracy_rows(scored)[-1]
    assert total.group == "all"
    assert total.accuracy == 0.75
    assert total.macro == 0.5


def test_several_samples_of_a_problem_do_not_narrow_its_interval() -> None:
    scored = [answer("a", sample < 3, sample=sample) for sample in range(4)]
    scored += [answer("b", True, sample=sample) for sample in range(4)]
    row = accuracy_rows(scored)[0]
    assert (row.n, row.answers) == (2, 8)
    assert row.accuracy == pytest.approx((0.75 + 1) / 2)
    assert row.interval == wilson(1.75, 2)
    # The repeats reach 1, 1, 1 and 1/2: their standard deviation is sqrt(3) / 8.
    assert row.spread == pytest.approx(3**0.5 / 8)


def test_answers_judged_by_two_rules_are_never_mixed() -> None:
    with pytest.raises(DataError, match="mirage, vsp"):
        accuracy_rows([answer("a", True), answer("b", True, rule="vsp")])


def test_the_rows_fit_a_run_record() -> None:
    scores = run_scores(accuracy_rows([answer("a", True), answer("b", False, parsed=None, group="level-4")]))
    assert [score["level"] for score in scores] == ["3", "4", "all"]
    assert scores[2]["accuracy"] == 0.5
    assert scores[2]["interval"] == list(wilson(1, 2))
    assert (scores[2]["n"], scores[2]["unparsed"], scores[2]["method"]) == (2, 1, "stage-2")


def test_some_groups_are_pooled_for_a_headline() -> None:
    scored = [answer("a", True), answer("b", False, group="level-4"), answer("c", False, group="level-5")]
    row = pooled_row(scored, "vsp-planning", "stage-2", ("level-3", "level-4"))
    assert row is not None
    assert (row.n, row.accuracy) == (2, 0.5)
    assert pooled_row(scored, "vsp-planning", "grpo", ("level-3",)) is None


def test_two_methods_are_paired_by_problem_and_by_first_sample() -> None:
    scored = [answer("a", True), answer("b", True), answer("c", False, group="level-4")]
    scored += [answer("a", False, method="direct-sft"), answer("a", True, method="direct-sft", sample=1)]
    scored += [answer("b", True, method="direct-sft"), answer("c", True, method="direct-sft", group="level-4")]
    whole = paired(scored, "vsp-planning", "stage-2", "direct-sft")
    assert (whole.only_first, whole.only_second, whole.n) == (1, 1, 3)
    part = paired(scored, "vsp-planning", "stage-2", "direct-sft", ("level-3",))
    assert (part.only_first, part.only_second, part.n) == (1, 0, 2)
