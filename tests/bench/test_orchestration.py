"""``mirage bench orchestration``: its runs, and the rows computed from them; no server is started here."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import orchestration
from bench.orchestration import Round, Row
from flows.cli import app
from mirage_core.errors import InputError
from mirage_core.pipeline.registry import STAGES
from mirage_core.pipeline.runner import run_in_process
from mirage_core.recipes import load
from mirage_core.store import Store


@pytest.fixture
def serverless(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """No Prefect server: the flow's pipeline runs without Prefect too; returns the runs and their stage states."""
    runs: list[tuple[str, list[str]]] = []

    def run_flow(recipe: str, overrides: list[str], store: str) -> None:
        record = run_in_process(
            load(recipe, overrides), Store.open(store, cache=Path(store) / "cache"), lambda event: None
        )
        runs.append((overrides[0], sorted({stage.state for stage in record.stages})))

    monkeypatch.setattr(orchestration, "_server", nullcontext)
    monkeypatch.setattr("flows.commands.bench.run_flow", run_flow)
    return runs


def test_every_round_runs_cold_and_then_cached_and_the_first_round_does_not_count(
    serverless: list[tuple[str, list[str]]],
) -> None:
    real = dict(STAGES)
    ran = CliRunner().invoke(app, ["bench", "orchestration", "--rounds", "2", "--seconds", "0.02", "--json"])

    assert ran.exit_code == 0, ran.output
    assert serverless == [(f"seed={number}", [state]) for number in range(3) for state in ("Completed", "Cached")]
    cold, cached = json.loads(ran.stdout)
    assert (cold["case"], cached["case"], cold["stages"]) == ("cold", "cached", 14)
    assert cold["stages_ms"] >= 14 * 20
    assert cached["wall_ms"] < cold["wall_ms"]
    assert dict(STAGES) == real, "the real stages are back"


def test_the_rows_are_of_medians() -> None:
    rounds = [Round(10, 2.0, 3.0, 0.5), Round(10, 4.0, 5.0, 1.0), Round(10, 9.0, 90.0, 9.0)]

    assert orchestration.rows(rounds) == [
        Row("cold", 10, 1.25, 5000.0, 4000.0, 100.0),
        Row("cached", 10, 0.25, 1000.0, 4000.0, 100.0),
    ]


@pytest.mark.parametrize(("rounds", "seconds"), [(0, 1.0), (1, 0.0), (1, -1.0)])
def test_wrong_numbers_are_refused(rounds: int, seconds: float) -> None:
    refused: Callable[..., object] = orchestration.measure
    with pytest.raises(InputError, match=f"--rounds is {rounds} and --seconds {seconds}"):
        refused(lambda *arguments: None, rounds, seconds, print)


def test_people_get_a_table(serverless: list[tuple[str, list[str]]]) -> None:
    ran = CliRunner().invoke(app, ["bench", "orchestration", "--rounds", "1", "--seconds", "0.01"])

    assert "wall / stages" in ran.stdout
    assert "cached" in ran.stdout
