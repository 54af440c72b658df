"""Readers on 643 answers written by hand: at least 99 % of a person's verdicts; official rules beside them."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from mirage_core import benchmarks
from tests.answers.corpus import Case, cases

CASES = cases()
BENCHMARKS = sorted({case.benchmark for case in CASES})
PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
# Rules whose prompts ask for another form than most of the corpus has stay far below; the table says so.
LEAST = 0.99


def agrees(case: Case, rule: str | None) -> bool:
    """Whether a rule gives a person's verdict: right for the chosen option alone, never right where none is chosen."""
    benchmark = benchmarks.get(case.benchmark)
    applied = benchmark.rule_of(rule)
    if case.benchmark == "vsp-planning":
        score = benchmark.score(case.problem("A"), case.output, rule=applied)
        return score.parsed == case.verdict if rule is None else score.correct == (case.verdict == "DDRR")
    letters = "AB" if case.benchmark in ("vsp-questions", "sat") else "ABCDE"
    right = [letter for letter in letters[: option_count(case)] if is_right(case, letter, applied)]
    return right == ([case.verdict] if case.verdict else [])


def option_count(case: Case) -> int:
    return 3 if case.benchmark == "vsp-reasoning" else len(case.problem("A").facts.get("options", "AB"))


def is_right(case: Case, letter: str, rule: str) -> bool:
    return benchmarks.get(case.benchmark).score(case.problem(letter), case.output, rule=rule).correct


def shares(rule: str | None) -> dict[str, float]:
    counts: defaultdict[str, list[bool]] = defaultdict(list)
    for case in CASES:
        counts[case.benchmark].append(agrees(case, rule))
    return {name: sum(each) / len(each) for name, each in counts.items()}


def test_the_corpus_is_large_and_no_answer_stands_twice() -> None:
    assert len(CASES) >= 500 and len(BENCHMARKS) >= 9
    assert len({(case.question, case.output) for case in CASES}) == len(CASES)
    assert sum(case.verdict is None for case in CASES) >= 100


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_default_rule_reads_what_a_careful_person_reads(name: str) -> None:
    of_name = [case for case in CASES if case.benchmark == name]
    wrong = [case for case in of_name if not agrees(case, None)]
    assert len(wrong) <= (1 - LEAST) * len(of_name), wrong


def test_the_page_tells_how_far_each_official_rule_agrees() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("### Agreement with a careful reader")[2].partition("\n##")[0]
    default, official = shares(None), shares("official")
    for name in BENCHMARKS:
        row = next(re.finditer(rf"^\| `{name}` \|.*$", table, flags=re.MULTILINE)).group()
        assert f"| {default[name]:.1%} | {official[name]:.1%} |" in row, (row, default[name], official[name])
