"""The report of a study: its numbers against hand-computed ones, and a self-contained page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirage_core.evaluation.statistics import wilson
from mirage_core.reports.study.inputs import RunReportInput
from mirage_core.reports.study.report import write_study
from mirage_core.reports.study.table import table_of
from mirage_core.store.records import save_problems
from mirage_core.types import Problem, Split
from tests.studies.answers import BENCHMARK, cell, folders, run, scored, study

MAP = [[1, 0, 2], [0, 0, 0], [0, 0, 0]]
ANSWERS = {
    "direct/1": "1111110000",
    "better/1": "1111111111",
    "worse/1": "000000000?",
    "k-2/1": "1111100000",
    "k-8/1": "1111111000",
}


def cells() -> list[Any]:
    return [
        cell("direct", [1]),
        cell("better", [1], method="stage-2"),
        cell("worse", [1], method="zero-shot", published=False),
        *[
            cell(f"k-{k}", [1], method="stage-2", swept=("latent.num_latents", k), runs=(run(f"k-{k}", 1, 10.0 * k),))
            for k in (2, 8)
        ],
    ]


def figures_of(at: Path, answers: dict[str, str] = ANSWERS, inputs: Any = None) -> tuple[dict[str, Any], Path]:
    output = at / "report"
    output.mkdir()
    answer_folders = folders(at / "answers", {name: scored(right) for name, right in answers.items()})
    write_study(output, inputs or study(cells(), [1], "direct"), answer_folders)
    return json.loads((output / "study.json").read_text()), output


def test_a_rule_from_text_alone_stands_beside_the_cells(tmp_path: Path) -> None:
    """Every test problem has the answer that the training problems have, so the rule is right without a picture."""

    def problem(split: Split, number: int, answer: str) -> Problem:
        return Problem(
            id=f"{BENCHMARK}-{number}", benchmark=BENCHMARK, split=split, group=f"level-{3 + number % 2}",
            question="<image>", images=(), answer=answer, facts={"map": MAP},
        )  # fmt: skip

    train = [problem("train", 100 + at, "RR") for at in range(30)]
    test = [problem("test", at, "RR") for at in range(10)]
    folder = tmp_path / "problems"
    folder.mkdir()
    save_problems(folder / "problems.parquet", [*train, *test])
    output = tmp_path / "report"
    output.mkdir()
    answer_folders = folders(tmp_path / "answers", {name: scored(right) for name, right in ANSWERS.items()})
    write_study(output, study(cells(), [1], "direct"), {**answer_folders, "problems/abc": folder})
    figures = json.loads((output / "study.json").read_text())
    whole = next(row for row in figures["blind"] if row["level"] == "all")
    assert (whole["accuracy"], whole["interval"]) == (1.0, list(wilson(10, 10)))
    page = (output / "study.html").read_text()
    assert page.count("text alone, by rule") >= 3
    assert "no cell is clear of it" in page
    assert "(text alone 100 %; 0 of 5 cells clear of it)" in page
    assert "| text alone, by rule (no picture) | 100.0" in (output / "table.md").read_text()


def test_accuracies_intervals_and_tests_are_those_of_the_answers(tmp_path: Path) -> None:
    """Better than direct: 4 won, 0 lost: p = 0.125; worse: 6 lost: p = 2 / 2^6. Four tests: Holm times 4, 3."""
    figures, _ = figures_of(tmp_path)
    by_name = {item["name"]: item for item in figures["cells"]}
    scores = {
        name: next(score for score in item["scores"] if score["level"] == "all") for name, item in by_name.items()
    }
    tests = {name: item["tests_against_baseline"][BENCHMARK] for name, item in by_name.items() if name != "direct"}

    assert {name: score["accuracy"] for name, score in scores.items()} == {
        "direct": 0.6, "better": 1.0, "worse": 0.0, "k-2": 0.5, "k-8": 0.7
    }  # fmt: skip
    assert scores["direct"]["interval"] == list(wilson(6, 10))
    assert scores["worse"]["unparsed_share"] == 0.1
    assert tests["better"]["p_problems"] == 0.125
    assert tests["worse"]["p_problems"] == 2 / 2**6
    assert tests["worse"]["holm_problems"] == pytest.approx(4 * 2 / 2**6)
    assert tests["better"]["holm_problems"] == pytest.approx(3 * 0.125)
    assert tests["k-2"]["difference"] == pytest.approx(-0.1)
    assert by_name["direct"]["tests_against_baseline"] == {}


def test_levels_stand_apart(tmp_path: Path) -> None:
    figures, _ = figures_of(tmp_path)
    result = {score["level"]: score["accuracy"] for score in figures["cells"][0]["scores"]}

    assert result == {"3": 0.6, "4": 0.6, "all": 0.6}


def test_published_figures_stand_beside_the_same_method_and_the_same_value_alone(tmp_path: Path) -> None:
    inputs = study([cell("direct", [1]), *cells()[1:]], [1], "direct")
    reasoning = {name: scored(right, benchmark="vsp-reasoning") for name, right in ANSWERS.items()}
    rows = {row.cell.name: row for row in table_of(inputs, reasoning).rows}
    result = {name: {b: n.accuracy for b, n in row.published.items()} for name, row in rows.items()}

    assert result["direct"] == {"vsp-reasoning": 0.83}
    assert result["better"] == {"vsp-reasoning": 0.86}
    assert result["worse"] == {}, "published: false"
    assert (result["k-2"], result["k-8"]) == ({"vsp-reasoning": 0.86}, {"vsp-reasoning": 0.75})


def test_a_figure_of_the_other_variant_says_so(tmp_path: Path) -> None:
    inputs = study([cell("direct", [1]), cell("ungrounded", [1], method="without-stage-1")], [1], "direct")
    _, output = figures_of(tmp_path, {"direct/1": "10", "ungrounded/1": "01"}, inputs)

    assert "| ungrounded | 50.0 (9-91) | *52 (cot)* |" in (output / "table.md").read_text()
    assert "Mirage CoT, without stage 1" in (output / "study.html").read_text()


def test_what_differs_by_the_problems_of_a_few_seeds_alone_is_not_called_different(tmp_path: Path) -> None:
    """Won 20 to 0 under one seed, 0 to 0 under the other: p over problems is tiny, the seeds disagree."""
    inputs = study([cell("direct", [1, 2]), cell("lucky", [1, 2])], [1, 2], "direct")
    answers = {"direct/1": "0" * 20, "direct/2": "0" * 20, "lucky/1": "1" * 20, "lucky/2": "0" * 20}
    figures, output = figures_of(tmp_path, answers, inputs)

    assert figures["cells"][1]["tests_against_baseline"][BENCHMARK]["holm_problems"] < 0.001
    assert "0 better than direct, 0 worse, of 1" in (output / "study.html").read_text()


def test_systems_nobody_trains_here_are_rows_marked_as_published(tmp_path: Path) -> None:
    figures, output = figures_of(tmp_path)
    page = (output / "study.html").read_text()

    assert [item["label"] for item in figures["published_not_ours"][BENCHMARK]] == ["Anole", "MVoT", "Aurora"]
    assert "Published by others, not trained here" in page
    assert "| *Anole* |  | *1* |" in (output / "table.md").read_text()


def test_a_failed_cell_is_listed_and_the_others_are_shown(tmp_path: Path) -> None:
    failed = RunReportInput(seed=1, state="Failed", error="TrainingError: the loss is nan", command="mirage run")
    inputs = study([cell("direct", [1]), cell("odd", [1], runs=(failed,))], [1], "direct")
    figures, output = figures_of(tmp_path, {"direct/1": "10"}, inputs)

    assert [item["scores"] == [] for item in figures["cells"]] == [False, True]
    page = (output / "study.html").read_text()
    assert "Failed cells, shown without answers: odd (seed 1)." in page
    assert "TrainingError: the loss is nan" in page
    assert "| odd | failed |" in (output / "table.md").read_text()


def test_seeds_are_repeats(tmp_path: Path) -> None:
    inputs = study([cell("direct", [1, 2]), cell("better", [1, 2])], [1, 2], "direct")
    answers = {"direct/1": "1000", "direct/2": "1100", "better/1": "1110", "better/2": "1110"}
    figures, output = figures_of(tmp_path, answers, inputs)
    score = next(item for item in figures["cells"][1]["scores"] if item["level"] == "all")
    test = figures["cells"][1]["tests_against_baseline"][BENCHMARK]

    assert (score["accuracy"], score["by_seed"], score["n"]) == (0.75, [0.75, 0.75], [4, 4])
    assert score["interval"] == pytest.approx(list(wilson(6, 8)))
    assert [item["difference"] for item in test["by_seed"]] == [0.5, 0.25]
    assert test["p_problems"] == 0.25  # 3 won, 0 lost
    assert test["holm_seeds"] == test["p_seeds"] == pytest.approx(0.2048, abs=1e-4)  # t = 3, one degree of freedom
    assert "p over seeds" in (output / "study.html").read_text()


def test_the_page_needs_no_network_holds_every_command_and_escapes_what_it_was_given(tmp_path: Path) -> None:
    _, output = figures_of(tmp_path)
    page = (output / "study.html").read_text()

    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert "What &lt;b&gt;?&lt;/b&gt;" in page
    assert page.count("mirage run --set seed=1") == len(ANSWERS)
    assert page.count("data:image/png;base64,") == 2 * 3, "cells, the sweep, seconds; light and dark"
    assert {path.name for path in (output / "plots").iterdir()} == {
        f"cells-{BENCHMARK}.png", f"num_latents-{BENCHMARK}.png", f"seconds-{BENCHMARK}.png"
    }  # fmt: skip
    assert "width=device-width" in page


def test_the_same_answers_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (figures_of(tmp_path / name) for name in ("a", "b") if not (tmp_path / name).mkdir())

    for file in sorted(path for path in first[1].rglob("*") if path.is_file()):
        assert file.read_bytes() == (second[1] / file.relative_to(first[1])).read_bytes(), file.name


def test_a_cell_that_answered_fewer_problems_is_compared_on_those(tmp_path: Path) -> None:
    inputs = study([cell("direct", [1]), cell("shown", [1])], [1], "direct")
    both = {"direct/1": scored("110") + scored("10", benchmark="vstar"), "shown/1": scored("111")}
    rows = {row.cell.name: row for row in table_of(inputs, both).rows}

    assert list(rows["shown"].tests) == [BENCHMARK]
    assert rows["shown"].tests[BENCHMARK].comparison.tests[0].n == 3


def test_a_cells_answers_without_the_picture_stand_beside_it_and_decide_what_shows_seeing(tmp_path: Path) -> None:
    """The better cell is as good without the picture (10 of 10); k = 8 has 7 of 10 right, none without it."""
    output = tmp_path / "report"
    output.mkdir()
    hidden = {"blind-evaluation/better/1": "1111111111", "blind-evaluation/k-8/1": "0000000000"}
    answers = {name: scored(right) for name, right in {**ANSWERS, **hidden}.items()}
    write_study(output, study(cells(), [1], "direct"), folders(tmp_path / "answers", answers))
    figures = json.loads((output / "study.json").read_text())
    unseen = {item["name"]: item["scores_without_picture"] for item in figures["cells"]}

    assert {name for name, scores in unseen.items() if scores} == {"better", "k-8"}
    assert next(score["accuracy"] for score in unseen["better"] if score["level"] == "all") == 1.0
    assert [len(item["scores"]) for item in figures["cells"]] == [3] * 5, "they are no scores of the cell"
    page = (output / "study.html").read_text()
    assert page.count("better, no picture") == 2, "in the scores, and by level"
    assert "without the picture: better 100 %, k 8 0 %; k 8 is clear of it." in page
    assert "(no picture; 1 of 2 cells clear of it)" in page
    assert "| better, no picture | 100.0" in (output / "table.md").read_text()
