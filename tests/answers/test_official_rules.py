"""The authors' own rules: each says of every output what the authors' functions said of it (make_pairs.py)."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mirage_core import benchmarks
from mirage_core.benchmarks import vsp_planning
from mirage_core.benchmarks.official import letters
from mirage_core.types import Problem
from mirage_core.worlds.maze import Maze, maze_from_rows

ROWS = [
    json.loads(line)
    for line in gzip.decompress((Path(__file__).parent / "official_pairs.jsonl.gz").read_bytes()).splitlines()
]
CELLS = {"S": 1, "G": 2, "H": -1, "F": 0}


def rows_of(name: str) -> list[dict[str, Any]]:
    return [row for row in ROWS if row["benchmark"] == name]


def maze(rows: list[str]) -> Maze:
    return maze_from_rows([[CELLS[cell] for cell in row] for row in rows])


def problem_of(row: dict[str, Any]) -> Problem:
    """The problem that a row's output answers."""
    if row["benchmark"] == "vsp-planning":
        return vsp_planning.make_problem("p", "test", maze(row["map"]), b"", "")
    facts, answer, group = {"options": list(row.get("options", {}).values())}, "A", "g"
    if row["benchmark"] == "sat":
        facts = {"options": [row["right"], "other"], "scene": row["question"]}
    if row["benchmark"] == "vsp-questions":
        answer, group = row["right"], f"task{row['task']}-level-3"
    return Problem(
        id="p",
        benchmark=row["benchmark"],
        split="test",
        group=group,
        question="",
        images=(),
        answer=answer,
        facts=facts,
    )


@pytest.mark.parametrize("name", ["vstar", "hr-bench-4k", "blink-jigsaw", "comt", "mme-realworld-lite"])
def test_the_official_letter_is_the_authors_on_every_output(name: str) -> None:
    rows = rows_of(name)
    assert len(rows) >= 300 and len({row["expected"] for row in rows}) >= 4
    for row in rows:
        score = benchmarks.get(name).score(problem_of(row), row["output"], rule="official")
        expected = None if row["expected"] == letters.REFUSED else row["expected"]
        assert (score.parsed, score.correct) == (expected, expected == "A"), row


@pytest.mark.parametrize("rule", ["mirage-official", "vsp-official", "sat-official", "questions"])
def test_the_official_verdict_is_the_authors_on_every_output(rule: str) -> None:
    name = {"sat-official": "sat", "questions": "vsp-questions"}.get(rule, "vsp-planning")
    rows = [row for row in rows_of(name) if row.get("rule", rule) == rule]
    assert len(rows) >= 300 and min(Counter(row["expected"] for row in rows).values()) >= 15
    for row in rows:
        applied = rule if name == "vsp-planning" else "official"
        score = benchmarks.get(name).score(problem_of(row), row["output"], rule=applied)
        assert score.correct == row["expected"], row


def test_official_names_a_rule_of_every_benchmark_but_ones_own() -> None:
    for name in benchmarks.NAMES:
        benchmark = benchmarks.get(name)
        assert (benchmark.official in benchmark.rules) == (name != "own"), name
