"""Two systems side by side as one HTML page: the lines of the comparison, what flipped, and trajectories in pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from mirage_core.evaluation.compare import Comparison, Side
from mirage_core.reports.html import page_environment
from mirage_core.reports.labels import RULES, benchmark_label, group_label
from mirage_core.reports.run.findings import p_words
from mirage_core.reports.run.page import picture_uri
from mirage_core.reports.trajectories import Piece, explain, pieces, sample
from mirage_core.types import Problem, Scored

TEXT_LIMIT = 1500
SELECTION_RULE = (
    "Problems stand in one fixed order, by the sha256 of their id. Those that only one of the two got right come "
    "first, in turns of who was right; then those both got wrong, then those both got right. Nothing is picked by hand."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """What one system answered to a problem; ``pictures`` are those drawn from its answer."""

    verdict: str
    explanation: str
    pieces: tuple[Piece, ...]
    pictures: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A problem and both answers; without the problem (it was not given) only what was written is shown."""

    problem_id: str
    benchmark: str
    group: str
    question: str
    pictures: tuple[bytes, ...]
    first: Half
    second: Half


def compare_html(
    comparison: Comparison, first: Side, second: Side, problems: Mapping[str, Problem], *, shown: int
) -> str:
    """The whole page, with up to ``shown`` problems in pairs; what came from a model or a file is escaped."""
    environment = page_environment(
        points=_points, signed=_signed, p_words=p_words, picture=picture_uri, group=group_label,
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
    """The problems that are shown, by SELECTION_RULE."""
    one, other = ({p.problem_id: (p, s) for p, s in side.scored if p.sample == 0} for side in (first, second))
    ids = sorted((identity for identity in one if identity in other), key=_rank)
    flipped = {flip.problem_id: flip.right for flip in comparison.flips}
    turns = zip_longest(*([name for name in ids if flipped.get(name) == side] for side in ("first", "second")))
    chosen = [name for turn in turns for name in turn if name is not None]
    same = [name for name in ids if name not in flipped]
    chosen += sorted(same, key=lambda name: one[name][1].correct)
    return [_pair(one[name], other[name], problems.get(name)) for name in chosen[:shown]]


def _pair(first: Scored, second: Scored, problem: Problem | None) -> Pair:
    prediction = first[0]
    return Pair(
        problem_id=prediction.problem_id,
        benchmark=prediction.benchmark,
        group=prediction.group,
        question=problem.question.replace("<image>", "[picture]").strip() if problem else "",
        pictures=problem.images if problem else (),
        first=_half(first, problem),
        second=_half(second, problem),
    )


def _half(scored: Scored, problem: Problem | None) -> Half:
    prediction, score = scored
    verdict = "right" if score.correct else "unparsed" if score.parsed is None else "wrong"
    drawn: tuple[tuple[str, Any], ...] = ()
    if problem is not None and "map" in problem.facts:
        drawn = tuple((name, image) for name, image in sample(problem, scored, None).pictures if name != "input")
    told = explain(problem, scored) if problem else f"Read as {score.parsed}." if score.parsed else "Nothing was read."
    return Half(verdict=verdict, explanation=told, pieces=pieces(prediction.output), pictures=drawn)


def _rank(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}"


def _clip(text: str) -> str:
    rest = len(text) - TEXT_LIMIT
    return text if rest <= 0 else f"{text[:TEXT_LIMIT]} … ({rest} more characters)"
