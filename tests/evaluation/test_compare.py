"""Two systems on the same problems: lines, tests and flips counted by hand, and a page that stands alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mirage_core import benchmarks
from mirage_core.errors import InputError
from mirage_core.evaluation.compare import Comparison, Side, compare_sides
from mirage_core.evaluation.predictions_file import score_outputs
from mirage_core.evaluation.statistics import wilson
from mirage_core.reports.compare_page import compare_html, pairs
from mirage_core.types import Prediction, Problem, Score, Scored
from tests.benchmarks.data_sets import write_parquet
from tests.benchmarks.public_data import mme_rows, vstar_folder


def answers(rights: str, name: str = "m", rule: str = "r", sample: int = 0) -> list[Scored]:
    """Answers to problems p0, p1, ... of two groups in turn: 1 right, 0 wrong, ? unparsed."""
    return [
        (
            Prediction(
                problem_id=f"p{at}", benchmark="vstar", group=("attributes", "position")[at % 2], method=name,
                output=f"said {mark}", token_ids=(), spans=(), finished=True, sample=sample,
            ),
            Score(problem_id=f"p{at}", correct=mark == "1", parsed=None if mark == "?" else mark, rule=rule),
        )
        for at, mark in enumerate(rights)
    ]  # fmt: skip


def side(rights: str, name: str) -> Side:
    return Side(name=name, scored=tuple(answers(rights, name)))


def compared(one: str = "11110000", other: str = "1000011?") -> Comparison:
    return compare_sides(side(one, "first system"), side(other, "second system"))


def test_groups_and_the_whole_are_counted_with_mcnemars_exact_p() -> None:
    attributes, position, whole = compared().rows

    assert (whole.by, whole.n, whole.first, whole.second, whole.difference) == ("all", 8, 0.5, 0.375, -0.125)
    assert (whole.only_first, whole.only_second) == (3, 2)
    assert whole.p_value == 1.0  # 5 discordant: 2 * (1 + 5 + 10) / 32
    assert (whole.first_interval, whole.second_interval) == (wilson(4, 8), wilson(3, 8))
    assert (attributes.name, attributes.n, attributes.first, attributes.second) == ("attributes", 4, 0.5, 0.5)
    assert (position.only_first, position.only_second, position.p_value) == (2, 1, 1.0)


def test_a_clear_difference_has_a_small_p_that_holm_makes_larger() -> None:
    rows = compared("0" * 10, "1" * 10).rows

    assert rows[-1].p_value == pytest.approx(2 / 2**10)
    assert rows[-1].p_corrected == pytest.approx(3 * 2 / 2**10)
    assert rows[-1].interval[0] > 0 and rows[-1].difference == 1.0


def test_every_problem_that_flipped_is_listed_with_both_answers() -> None:
    flips = compared().flips

    assert [(flip.problem_id, flip.right, flip.first, flip.second) for flip in flips] == [
        ("p1", "first", "1", "0"), ("p2", "first", "1", "0"), ("p3", "first", "1", "0"),
        ("p5", "second", "0", "1"), ("p6", "second", "0", "1"),
    ]  # fmt: skip


def test_only_first_samples_count() -> None:
    noisy = Side(name="b", scored=(*answers("10"), *answers("01", sample=1)))

    assert compare_sides(side("10", "a"), noisy).flips == ()


def test_types_have_lines_of_their_own_where_the_problems_are_known(tmp_path: Path) -> None:
    problems = benchmarks.get("mme-realworld-lite").load(write_parquet(tmp_path / "rows.parquet", mme_rows()))
    texts = {problem.id: "A" for problem in problems}
    sides = [
        Side(name=name, scored=tuple(score_outputs("mme-realworld-lite", problems, texts, method=name)))
        for name in "ab"
    ]
    rows = compare_sides(sides[0], sides[1], {problem.id: problem for problem in problems}).rows

    assert [row.name for row in rows if row.by == "type"] == ["attention", "color", "license plate"]
    assert len([row for row in rows if row.by == "group"]) == 3


def test_other_problems_are_refused_unless_the_common_ones_are_asked_for() -> None:
    with pytest.raises(InputError, match=r"a answers 2 problems and b 3, 2 of them the same.*--common"):
        compare_sides(side("10", "a"), side("101", "b"))
    assert compare_sides(side("10", "a"), side("101", "b"), common=True).left_out == 1
    nothing = [(replace(p, problem_id="q"), s) for p, s in answers("1")]
    with pytest.raises(InputError, match="no problem in common"):
        compare_sides(side("1", "a"), Side(name="b", scored=tuple(nothing)))


def test_answers_judged_by_different_rules_are_refused() -> None:
    with pytest.raises(InputError, match=r"'r' and b by 'other' .problem p0.: judge both by one"):
        compare_sides(side("10", "a"), Side(name="b", scored=tuple(answers("10", rule="other"))))


def test_the_page_shows_flips_in_turns_then_the_others_wrong_ones_first() -> None:
    one, other = side("11110000", "a"), side("1000011?", "b")
    shown = pairs(compare_sides(one, other), one, other, {}, 8)
    verdicts = [(pair.first.verdict, pair.second.verdict) for pair in shown]

    assert verdicts == [
        ("right", "wrong"), ("wrong", "right"), ("right", "wrong"), ("wrong", "right"), ("right", "wrong"),
        *verdicts[5:7], ("right", "right"),
    ]  # fmt: skip
    assert set(verdicts[5:7]) == {("wrong", "wrong"), ("wrong", "unparsed")}


@pytest.fixture
def known(tmp_path: Path) -> list[Problem]:
    return benchmarks.get("vstar").load(vstar_folder(tmp_path))


def test_the_page_needs_nothing_else_and_escapes_what_models_wrote(known: list[Problem]) -> None:
    texts = ["<latents:4>(A)", "<script>alert(1)</script>{{ 7 }}", "(B)", "(B)"]
    one, other = (
        Side(
            name=name,
            scored=tuple(
                score_outputs("vstar", known, {p.id: text for p, text in zip(known, written, strict=True)}, method=name)
            ),
        )
        for name, written in (("<b>one</b>", texts), ("two", ["(A)"] * 4))
    )
    comparison = compare_sides(one, other)
    page = compare_html(comparison, one, other, {problem.id: problem for problem in known}, shown=4)

    assert not re.search(r"""(src|href|srcset)=["'](?!data:|#)""", page)
    assert "<script" not in page and "@import" not in page and "url(" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 }}" in page and "&lt;b&gt;one&lt;/b&gt;" in page
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page
    assert page.count('src="data:image/webp') == 4
    assert "4 latents</span>(A)" in page
    assert page == compare_html(comparison, one, other, {problem.id: problem for problem in known}, shown=4)
