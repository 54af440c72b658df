"""Answers of other systems: every row accounted for, judged by the evaluation's own scorers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mirage_core import benchmarks
from mirage_core.benchmarks.vsp_folder import LEVELS, TASKS
from mirage_core.errors import DataError, SettingsError
from mirage_core.evaluation.predictions_file import read_outputs, score_outputs
from mirage_core.evaluation.statistics import wilson
from mirage_core.evaluation.summary import benchmark_summary
from mirage_core.types import Problem
from tests.benchmarks.data_sets import blink_folder, comt_folder, sat_folder, vsp_folder, write_parquet
from tests.benchmarks.public_data import hr_bench_folder, mme_rows, multi_view_rows, tablevqa_folder, vstar_folder


def written(folder: Path, rows: list[Any]) -> Path:
    file = folder / "predictions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def summarize(folder: Path, name: str, problems: list[Problem], rows: list[Any], **more: Any) -> dict[str, Any]:
    outputs = read_outputs(written(folder, rows), name, problems, partial=more.pop("partial", False))
    return benchmark_summary(name, score_outputs(name, problems, outputs.texts, method="other", **more))


def test_accuracy_interval_groups_and_unparsed_are_those_of_hand(tmp_path: Path) -> None:
    problems = benchmarks.get("vstar").load(vstar_folder(tmp_path))
    rows = [{"row": at, "output": text} for at, text in enumerate(["A", "no idea", "(B)", "\\boxed{B}"])]
    summary = summarize(tmp_path, "vstar", problems, rows)

    assert (summary["accuracy"], summary["n"], summary["unparsed"], summary["rule"]) == (0.5, 4, 1, "option-letter")
    assert summary["interval"] == list(wilson(2, 4))
    assert [(row["group"], row["accuracy"], row["unparsed"]) for row in summary["groups"]] == [
        ("direct_attributes", 0.5, 1), ("relative_position", 0.5, 0),
    ]  # fmt: skip
    assert summary["protocol"] == []


def test_the_order_of_the_lines_does_not_matter_and_an_id_may_name_the_problem(tmp_path: Path) -> None:
    problems = benchmarks.get("vstar").load(vstar_folder(tmp_path))
    rows = [{"row": 3, "output": "B"}, {"id": "vstar-0", "output": "A"}, {"row": 1, "output": None}]
    summary = summarize(tmp_path, "vstar", problems, rows, partial=True)

    assert (summary["accuracy"], summary["n"], summary["unparsed"]) == (pytest.approx(2 / 3), 3, 1)


def test_hr_bench_is_scored_by_its_mean_over_the_cycles(tmp_path: Path) -> None:
    problems = benchmarks.get("hr-bench-4k").load(hr_bench_folder(tmp_path))
    outputs = ["A", "B", "C", "D", "A", "A", "A", "A"]
    rows = [{"row": at, "output": output} for at, output in enumerate(outputs)]
    summary = summarize(tmp_path, "hr-bench-4k", problems, rows)

    assert summary["accuracy"] == 5 / 8 and summary["interval"] == list(wilson(1.25, 2))
    whole = summary["protocol"][-1]
    assert (whole["by_order"], whole["consistent"], whole["questions"]) == ([1.0, 0.5, 0.5, 0.5], 0.5, 2)


def test_sat_rows_are_answered_in_both_orders_or_in_the_published_one(tmp_path: Path) -> None:
    problems = benchmarks.get("sat").load(sat_folder(tmp_path, test=2))
    published = [{"row": 0, "output": "(A)"}, {"row": 1, "output": "(A)"}]
    once = summarize(tmp_path, "sat", problems, published)
    assert (once["n"], once["accuracy"], once["protocol"]) == (2, 0.5, [])

    both = [*published, *({"row": row, "order": 1, "output": "(B)"} for row in (0, 1))]
    summary = summarize(tmp_path, "sat", problems, both)
    assert (summary["n"], summary["accuracy"]) == (4, 0.5)
    assert (summary["protocol"][-1]["protocol"], summary["protocol"][-1]["consistent"]) == ("both-orders", 0.5)
    with pytest.raises(DataError, match=r"missing: row 1, order 1\. Answer every row"):
        read_outputs(written(tmp_path, both[:3]), "sat", problems)


def test_a_rule_of_the_benchmark_may_be_asked_for(tmp_path: Path) -> None:
    problems = benchmarks.get("mme-realworld-lite").load(write_parquet(tmp_path / "rows.parquet", mme_rows()))
    rows = [{"row": at, "output": text} for at, text in enumerate(["Both are A", "B", "E"])]

    assert summarize(tmp_path, "mme-realworld-lite", problems, rows)["accuracy"] == 1.0
    own = summarize(tmp_path, "mme-realworld-lite", problems, rows, rule="mme-realworld")
    assert (own["accuracy"], own["rule"]) == (pytest.approx(2 / 3), "mme-realworld")
    with pytest.raises(SettingsError, match=r"has no rule 'vsp'; known: option-letter, .*mme-realworld, official"):
        summarize(tmp_path, "mme-realworld-lite", problems, rows, rule="vsp")


def test_every_part_of_tablevqa_is_scored_by_its_own_rule(tmp_path: Path) -> None:
    problems = benchmarks.get("tablevqa").load(tablevqa_folder(tmp_path))
    outputs = ["2", "Straus||Larson", "October 24", "1,470", "True", "true and false", "$641.8 million", "17.5 %"]
    summary = summarize(tmp_path, "tablevqa", problems, [{"row": at, "output": one} for at, one in enumerate(outputs)])

    assert {row["group"]: (row["accuracy"], row["unparsed"]) for row in summary["groups"]} == {
        "vwtq": (0.5, 0), "vwtq_syn": (1.0, 0), "vtabfact": (0.5, 1), "fintabnetqa": (1.0, 0),
    }  # fmt: skip
    assert summary["accuracy"] == 6 / 8


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"row": 0, "output": "A"}], "answers 1 of 4 rows; missing: row 1; 2; 3. .*--partial"),
        ([{"row": 0, "output": "A"}, {"row": 0, "output": "A"}], "line 2: row 0 is answered on line 1 already"),
        ([{"row": 4, "output": "A"}], "line 1: row 4 is unknown; the data has the rows 0 to 3"),
        ([{"row": "0", "output": "A"}], "line 1: row is '0', expected a whole number"),
        ([{"row": True, "output": "A"}], "line 1: row is True, expected a whole number"),
        ([{"row": 0}], "line 1: the key 'output' is missing"),
        ([{"row": 0, "output": 3}], "line 1: 'output' is int, expected text"),
        ([{"row": 0, "order": 1, "output": "A"}], "line 1: row 0, order 1 is unknown"),
        ([{"id": "vstar-9", "output": "A"}], "line 1: the id 'vstar-9' is none of the 4 problems"),
        (["A"], "line 1: expected a JSON object"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(tmp_path: Path, rows: list[Any], said: str) -> None:
    problems = benchmarks.get("vstar").load(vstar_folder(tmp_path))

    with pytest.raises(DataError, match=said):
        read_outputs(written(tmp_path, rows), "vstar", problems)


def blink_rows(folder: Path) -> Path:
    return write_parquet(folder / "Multi-view_Reasoning" / "val.parquet", multi_view_rows())


def jigsaw_rows(folder: Path) -> Path:
    return blink_folder(folder) / "Jigsaw" / "val-00000-of-00001.parquet"


def vsp_questions(folder: Path) -> Path:
    for task in TASKS:
        vsp_folder(folder, task=task, levels=[f"level{level}" for level in LEVELS])
    return folder


DATA: dict[str, Callable[[Path], Path]] = {
    "vsp-questions": vsp_questions, "jigsaw": blink_folder, "sat": sat_folder, "comt": comt_folder,
    "blink-multi-view": blink_rows, "blink-jigsaw": jigsaw_rows, "vstar": vstar_folder, "hr-bench-4k": hr_bench_folder,
    "hr-bench-8k": hr_bench_folder, "tablevqa": tablevqa_folder,
    "mme-realworld-lite": lambda folder: write_parquet(folder / "rows.parquet", mme_rows()),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_every_benchmark_calls_its_own_right_answers_right(tmp_path: Path, name: str) -> None:
    problems = benchmarks.get(name).load(DATA[name](tmp_path / "data"))
    outputs = {problem.id: f"<think>x</think>\\boxed{{{problem.answer}}}" for problem in problems}
    summary = benchmark_summary(name, score_outputs(name, problems, outputs, method="perfect"))

    assert (summary["accuracy"], summary["n"], summary["unparsed"]) == (1.0, len(problems), 0)
    assert bool(summary["protocol"]) is (benchmarks.orders_of(name) is not None)


def test_nothing_to_score_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to score"):
        benchmark_summary("vstar", [])
