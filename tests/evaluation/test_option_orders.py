"""Questions asked in several orders: the mean over the orders, and the share that is right in all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mirage_core.evaluation.option_orders import protocol_rows
from mirage_core.evaluation.statistics import wilson
from mirage_core.reports.run.report import write_report
from mirage_core.store.records import load_predictions, save_predictions
from mirage_core.types import Prediction, Score
from tests.evaluation.fake_run import fake_run, small_settings


def answer(
    benchmark: str, identity: str, right: bool, group: str = "single", sample: int = 0
) -> tuple[Prediction, Score]:
    prediction = Prediction(
        problem_id=identity, benchmark=benchmark, group=group, method="m", output="", token_ids=(), spans=(),
        finished=True, sample=sample,
    )  # fmt: skip
    return prediction, Score(problem_id=identity, correct=right, parsed="A", rule="r")


def cycles(question: str, rights: str, group: str = "single") -> list[tuple[Prediction, Score]]:
    return [answer("hr-bench-8k", f"hr-bench-8k-{question}-{at}", one == "1", group) for at, one in enumerate(rights)]


def test_the_mean_over_four_rotations_and_the_consistent_share_are_counted_by_question() -> None:
    scored = [*cycles("a", "1111"), *cycles("b", "1010"), *cycles("c", "1000", "cross"), *cycles("d", "0000", "cross")]
    cross, single, whole = protocol_rows(scored)

    assert (whole.group, whole.questions, whole.orders, whole.protocol) == ("all", 4, 4, "cyclic")
    assert whole.by_order == (0.75, 0.25, 0.5, 0.25)
    assert whole.accuracy == pytest.approx(7 / 16)
    assert whole.interval == wilson(7 / 4, 4)
    assert (whole.consistent, whole.consistent_interval) == (0.25, wilson(1, 4))
    assert (cross.group, cross.accuracy, cross.consistent) == ("cross", 0.125, 0.0)
    assert (single.group, single.accuracy, single.consistent) == ("single", 0.75, 0.5)


def test_questions_without_an_answer_in_every_order_are_counted_apart() -> None:
    scored = [*cycles("a", "1111"), *cycles("b", "11")]
    row = protocol_rows(scored)[-1]

    assert (row.questions, row.incomplete, row.accuracy) == (1, 1, 1.0)
    assert protocol_rows(cycles("b", "11")) == []


def test_samples_are_firm_when_the_same_sample_is_right_in_both_orders() -> None:
    rights = {("q-0", 0): True, ("q-0", 1): False, ("q-1", 0): True, ("q-1", 1): True}
    scored = [answer("sat", f"sat-{name}", right, "static", at) for (name, at), right in rights.items()]
    row = protocol_rows(scored)[-1]

    assert (row.protocol, row.by_order, row.accuracy, row.consistent) == ("both-orders", (0.5, 1.0), 0.75, 0.5)


def test_benchmarks_that_ask_once_have_no_protocol() -> None:
    assert protocol_rows([answer("vstar", "vstar-1", True), answer("turning", "turning-1", True)]) == []


def test_the_report_shows_the_mean_over_the_orders(tmp_path: Path) -> None:
    settings = small_settings(test_per_level=1, trajectories=0)
    folders = fake_run(tmp_path / "run", settings, curves=False)
    file = folders["evaluation/stage-2"] / "predictions.parquet"
    asked = [
        answer("sat", f"sat-q{at}-{order}", order == 0 or at == 0, "static") for at in range(2) for order in (0, 1)
    ]
    save_predictions(file, [*load_predictions(file), *((replace(p, method="stage-2"), s) for p, s in asked)])
    write_report(tmp_path / "report", settings, folders)
    page = (tmp_path / "report" / "report.html").read_text()

    assert page.count("right in every order") == 1
    assert '<td>2</td><td class="total">75.0<small>' in page
