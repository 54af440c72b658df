"""``mirage evaluate --levels``: new problems of any level, for a model that was trained on others."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.evaluate import new_problems
from mirage_core.errors import InputError
from mirage_core.worlds.maze import maze_from_rows
from tests.training.small_world import small_settings


@pytest.mark.parametrize("benchmark", ["vsp-planning", "vsp-reasoning"])
def test_problems_of_the_levels_are_made_by_the_models_settings(benchmark: str) -> None:
    problems, source = new_problems(benchmark, [7, 12], 3, small_settings())
    assert [problem.group for problem in problems].count("level-12") == 3 == len(problems) / 2
    assert {problem.benchmark for problem in problems} == {benchmark}
    assert {maze_from_rows(problem.facts["map"]).level for problem in problems} == {7, 12}
    assert {problem.split for problem in problems} == {"test"}
    assert source == "6 new problems of levels 7, 12"
    assert new_problems(benchmark, [7, 12], 3, small_settings())[0] == problems


@pytest.mark.parametrize(
    ("benchmark", "levels", "message"),
    [
        ("vstar", [7], "--levels makes new problems of vsp-planning, vsp-reasoning; got vstar"),
        ("vsp-planning", [99], "--levels 99: Input should be less than or equal to 16"),
    ],
)
def test_other_benchmarks_and_impossible_levels_are_refused(benchmark: str, levels: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        new_problems(benchmark, levels, 3, small_settings())


def test_levels_are_numbers_and_exclude_data() -> None:
    for words in (["--levels", "7,x"], ["--levels", "7", "--data", "rows.jsonl"]):
        shown = CliRunner().invoke(app, ["evaluate", "--benchmark", "vsp-planning", *words])
        assert shown.exit_code == 2
        assert "expected numbers such as 7,8, and no --data" in " ".join(shown.output.replace("│", " ").split())
