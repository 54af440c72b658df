"""Two systems side by side as one HTML page: the table of the comparison, what flipped, and answers in pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from mirage_core.evaluation.compare import Comparison, Side
from mirage_core.reports.drawings import image_uri
from mirage_core.reports.html import page_environment
from mirage_core.reports.labels import RULES, benchmark_label, group_label
from mirage_core.reports.run.findings import p_words
from mirage_core.reports.trajectories import Piece, explain, pieces, sample
from mirage_core.types import Problem, Scored

TEXT_LIMIT = 1500
SELECTION_RULE = (
    "Problems have a fixed order, by the sha256 of their id. Those that only one of the two got right come first, "
    "alternating between the two; then those both got wrong, then those both got right. Nothing is picked by hand."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerView:
    """The answer of one system to a problem; ``images``: by name, those drawn from its answer."""

    verdict: str
    explanation: str
    pieces: tuple[Piece, ...]
    images: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A problem and both answers; where the problem is unknown, only the answers are shown."""

    problem_id: str
    benchmark: str
    group: str
    question: str
    images: tuple[bytes, ...]
    first: AnswerView
    second: AnswerView


def compare_html(
    comparison: Comparison, first: Side, second: Side, problems: Mapping[str, Problem], *, shown: int
) -> str:
    """The page, with up to ``shown`` problems in pairs; everything from a model or a file is escaped."""
    environment = page_environment(
        points=_points, signed=_signed, p_words=p_words, image=image_uri, group=group_label,
        benchmark=benchmark_label, clip=_clip,
    )  # fmt: skip
    names = dict.fromkeys(row.benchmark for row in comparison.rows)
    tables = [
        {
            "benchmark": name,
            "rows": [row for row in comparison.rows if row.benchmark == name],
            "flips": [flip for flip in comparison.flips if flip.benchmark == name],
        }
        for name in names
    ]
    rules = {row.rule: RULES.get(row.rule, f"rule: {row.rule}") for row in comparison.rows}
    template = environment.get_template("compare.html")
    return (
        template.render(
            comparison=comparison, tables=tables, rules=rules, pairs=pairs(comparison, first, second, problems, shown),
            selection_rule=SELECTION_RULE,
        )
        + "\n"
    )  # fmt: skip


def pairs(comparison: Comparison, first: Side, second: Side, problems: Mapping[str, Problem], shown: int) -> list[Pair]:
    """The problems that are shown, selected by SELECTION_RULE."""
    left, right = ({p.problem_id: (p, s) for p, s in side.scored if p.sample == 0} for side in (first, second))
    ids = sorted((name for name in left if name in right), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    flipped = {flip.problem_id: flip.right for flip in comparison.flips}
    turns = zip_longest(*([name for name in ids if flipped.get(name) == side] for side in ("first", "second")))
    chosen = [name for turn in turns for name in turn if name is not None]
    same = [name for name in ids if name not in flipped]
    chosen += sorted(same, key=lambda name: left[name][1].correct)
    return [_pair(left[name], right[name], problems.get(name)) for name in chosen[:shown]]


def _pair(first: Scored, second: Scored, problem: Problem | None) -> Pair:
    prediction = first[0]
    return Pair(
        problem_id=prediction.problem_id,
        benchmark=prediction.benchmark,
        group=prediction.group,
        question=problem.question.replace("<image>", "[image]").strip() if problem else "",
        images=problem.images if problem else (),
        first=_answer_view(first, problem),
        second=_answer_view(second, problem),
    )


def _answer_view(scored: Scored, problem: Problem | None) -> AnswerView:
    prediction, score = scored
    verdict = "right" if score.correct else "unparsed" if score.parsed is None else "wrong"
    drawn: tuple[tuple[str, Any], ...] = ()
    if problem is not None and "map" in problem.facts:
        drawn = tuple((name, image) for name, image in sample(problem, scored, None).images if name != "input")
    parsed = f"Read as {score.parsed}." if score.parsed else "Nothing was read."
    explanation = explain(problem, scored) if problem else parsed
    return AnswerView(verdict=verdict, explanation=explanation, pieces=pieces(prediction.output), images=drawn)


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"


def _clip(text: str) -> str:
    rest = len(text) - TEXT_LIMIT
    return text if rest <= 0 else f"{text[:TEXT_LIMIT]} … ({rest} more characters)"
