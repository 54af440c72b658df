"""Readers on answers written by hand: at least 99 % of a person's verdicts; official rules beside them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from mirage_core import benchmarks
from tests.answers.corpus import Case, cases

CASES = cases()
READERS = sorted({case.reader for case in CASES})
WITHOUT_OFFICIAL = ("own",)
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
    right = [answer for answer in case.answers if is_right(case, answer, applied)]
    return right == ([case.verdict] if case.verdict else [])


def is_right(case: Case, answer: str, rule: str) -> bool:
    return benchmarks.get(case.benchmark).score(case.problem(answer), case.output, rule=rule).correct


def shares(rule: str | None) -> dict[str, float]:
    counts: defaultdict[str, list[bool]] = defaultdict(list)
    for case in CASES:
        if rule is None or case.reader not in WITHOUT_OFFICIAL:
            counts[case.reader].append(agrees(case, rule))
    return {name: sum(each) / len(each) for name, each in counts.items()}


def test_the_corpus_is_large_and_no_answer_stands_twice() -> None:
    assert len(CASES) >= 500 and len(READERS) >= 16
    assert len({(case.question, case.output) for case in CASES}) == len(CASES)
    assert sum(case.verdict is None for case in CASES) >= 100


@pytest.mark.parametrize("name", READERS)
def test_the_default_rule_reads_what_a_careful_person_reads(name: str) -> None:
    of_name = [case for case in CASES if case.reader == name]
    wrong = [case for case in of_name if not agrees(case, None)]
    assert len(wrong) <= (1 - LEAST) * len(of_name), wrong


def test_the_page_tells_how_far_each_official_rule_agrees() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("### Agreement with a careful reader")[2].partition("\n##")[0]
    default, official = shares(None), shares("official")
    for name in READERS:
        count = sum(case.reader == name for case in CASES)
        official_share = "-" if name in WITHOUT_OFFICIAL else f"{official[name]:.1%}"
        assert f"\n| `{name}` | {count} | {default[name]:.1%} | {official_share} |\n" in table


def test_answers_in_words_are_many_for_every_part_and_for_own_data() -> None:
    in_words = [name for name in READERS if name == "own" or name.startswith("tablevqa")]
    assert len(in_words) == 5
    assert all(sum(case.reader == name for case in CASES) >= 30 for name in in_words)


@pytest.mark.parametrize("file", (PAGE, Path(__file__).with_name("README.md")), ids=lambda file: file.stem)
def test_every_page_tells_how_many_outputs_there_are(file: Path) -> None:
    assert f"{len(CASES)} outputs" in file.read_text(encoding="utf-8")
