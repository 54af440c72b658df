"""TableVQA-Bench: its rows, and its scoring beside verdicts its authors published for GPT-4V."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirage_core import benchmarks
from mirage_core.benchmarks import tablevqa
from mirage_core.benchmarks.tablevqa import same_number, same_number_relaxed, same_values
from mirage_core.errors import DataError
from mirage_core.types import Problem
from tests.benchmarks.data_sets import write_parquet
from tests.benchmarks.public_data import tablevqa_folder, tablevqa_rows

# gt, GPT-4V's answer, and the verdict in naver-ai/tablevqabench outputs/gpt4v_evaluated/vwtq.json.
WTQ = [
    ("2", "2", True),
    ("More", "Less", False),
    ("Interjet", "Interjet||Volaris||Aeroméxico Connect", False),
    ("Léon Balcer", "Balcer", False),
    ("Rodolfo Lavín", "Rodolfo Lavín", True),
    ("Season 3 (2001)", "2001", False),
    ("5", "Five", False),
    ("1,470", "1,470", True),
    ("7 days", "1week", False),
    ("Joe Straus|Lyle Larson", "Straus||Larson", False),
    ("4", "5||6", False),
    ("18-9", "16-9", False),
]
# gt, answer, relieved and exact verdict in outputs/gpt4v_evaluated/fintabnetqa.json.
FINTABNET = [
    ("Printing & Identification, Industrials.", "Printing & Identification", False, False),
    ("3.14%", "3.14%", True, True),
    ("$641.8", "$641.8 million", True, False),
    ("0.123 billion gallons", "0.123 billion gallons", True, True),
    ("48%", "60%", False, False),
    ("A-", "A-", True, True),
    ("576,000", "576,000 square feet", True, True),
    ("147,965", "147,965 MMBtu", True, True),
    ("196", "196 units", True, True),
    ("$11,832,000", "$11,832 thousand", True, True),
    ("$(16.7) million", "$16.7 million", True, True),
    (".497", "49.7%", True, True),
    ("757,839", "$757,839 million", True, False),
    ("3", "$5", False, False),
    ("7.5 million", "$7.5 million", True, True),
    ("17 weeks", "17 weeks", True, True),
]


@pytest.mark.parametrize(("expected", "answer", "right"), WTQ)
def test_values_are_compared_as_the_authors_did(expected: str, answer: str, right: bool) -> None:
    assert same_values(expected, answer) is right


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("Lyle Larson|Joe Straus", "joe straus||lyle larson.", True),
        ("2.0", "2", True),
        ("2004-11-xx", "2004-11-xx", True),
        ("2004-xx-xx", "2004", True),
        ("Paris[1]", '"Paris" (France)', True),
        ("a|a", "a", True),
        ("A [note] [2]*", "a", True),
        ("[x]", "x", False),
        ("[7]", "", True),
        ("f(x)", "f", False),
        ("inf", "nan", False),
        ("2004-13-01", "2004-13-02", False),
    ],
)
def test_spelling_order_and_footnotes_do_not_matter(expected: str, answer: str, right: bool) -> None:
    assert same_values(expected, answer) is right


@pytest.mark.parametrize(("expected", "answer", "relieved", "exact"), FINTABNET)
def test_figures_are_compared_as_the_authors_did(expected: str, answer: str, relieved: bool, exact: bool) -> None:
    assert (same_number_relaxed(expected, answer), same_number(expected, answer)) == (relieved, exact)


def test_every_part_of_a_folder_is_read_in_the_authors_words(tmp_path: Path) -> None:
    problems = benchmarks.get("tablevqa").load(tablevqa_folder(tmp_path))

    assert [problem.group for problem in problems] == [part for part in tablevqa.GROUPS for _ in range(2)]
    assert problems[0].id == "tablevqa-vwtq-vwtq-0"
    assert problems[0].facts["official"].startswith("<image>\nYou are asked to answer questions asked on an image.\n")
    assert problems[0].facts["official"].endswith("\n\nQuestion: Question 0 about the table?\nAnswer:")
    assert problems[4].facts["official"].endswith("\n\nStatement: Question 0 about the table?\nAnswer:")
    assert [problem.answer for problem in problems[4:6]] == ["true", "false"]


def scored(tmp_path: Path, rule: str = "tablevqa") -> list[tuple[bool, str | None]]:
    outputs = [
        "2", "\\boxed{Lyle Larson||Joe Straus}", "Answer: October 24", "1470",
        "Both true and false", "<think>true?</think>It is False.", "\\boxed{\\$641.8 \\text{million}}", "",
    ]  # fmt: skip
    problems: list[Problem] = benchmarks.get("tablevqa").load(tablevqa_folder(tmp_path))
    verdicts = [tablevqa.score(problem, output, rule) for problem, output in zip(problems, outputs, strict=True)]
    return [(verdict.correct, verdict.parsed) for verdict in verdicts]


def test_answers_are_read_from_the_box_the_answer_line_or_the_whole_text(tmp_path: Path) -> None:
    assert scored(tmp_path) == [
        (True, "2"), (True, "Lyle Larson||Joe Straus"), (True, "October 24"), (False, "1470"),
        (False, None), (True, "false"), (True, "$641.8 million"), (False, None),
    ]  # fmt: skip


def test_the_exact_rule_wants_the_scale_too(tmp_path: Path) -> None:
    assert [right for right, _ in scored(tmp_path, "tablevqa-exact")] == [
        True, True, True, False, False, True, False, False,
    ]  # fmt: skip


def test_one_parts_file_is_known_by_its_name_and_a_mixed_one_by_its_column(tmp_path: Path) -> None:
    rows = [{**row, "part": part} for part in ("vtabfact", "vwtq") for row in tablevqa_rows(part)]
    load = benchmarks.get("tablevqa").load

    assert {problem.group for problem in load(write_parquet(tmp_path / "vwtq_syn.parquet", rows[2:]))} == {"vwtq_syn"}
    assert [problem.group for problem in load(write_parquet(tmp_path / "all.parquet", rows))] == ["vtabfact"] * 2 + [
        "vwtq"
    ] * 2
    with pytest.raises(DataError, match="row 1: its part is unknown"):
        load(write_parquet(tmp_path / "some.parquet", tablevqa_rows("vwtq")))


def test_a_truth_that_is_none_is_named_by_its_row(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "vtabfact.parquet", [{**tablevqa_rows("vtabfact")[0], "gt": "maybe"}])

    with pytest.raises(DataError, match="row 1: gt is 'maybe', expected 0 or 1"):
        benchmarks.get("tablevqa").load(file)
