"""``mirage bench latent``: its rows, and that wrong numbers are refused."""

from __future__ import annotations

import json
from itertools import count

import pytest
from typer.testing import CliRunner

from bench import latent
from bench.latent import Comparison, Row
from bench.model import IDS, Rows, random_backbone
from flows.cli import app
from mirage_core.errors import InputError


def test_every_side_is_timed_in_turn_and_the_ratio_says_which_way_it_goes() -> None:
    ran: list[str] = []
    ours = {"decode": lambda: ran.append("ours")}
    ticks = count()
    rows = latent.timed(
        Comparison(8, 4, ours, lambda: ran.append("baseline"), rate=True), 2, lambda: next(ticks) ** 2 / 1e3
    )
    assert ran == ["baseline", "ours"] * 3
    assert rows == [Row("decode", 8, 4, round(rows[0].baseline_ms / rows[0].median_ms, 3), 13.0, 9.0)]


def test_the_rows_are_json_with_the_named_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Comparison(1, 4, {"stage1": lambda: sum(range(9999)), "stage2": lambda: None}, lambda: sum(range(9999)))
    monkeypatch.setattr(latent, "random_backbone", lambda: None)
    monkeypatch.setattr(latent, "comparisons", lambda backbone, quick: iter([small]))
    ran = CliRunner().invoke(app, ["bench", "latent", "--json", "--quick", "--repeats", "1"])
    assert ran.exit_code == 0, ran.output
    rows = json.loads(ran.stdout)
    assert [set(row) for row in rows] == [{"case", "batch", "k", "ratio", "median_ms", "baseline_ms"}] * 2
    assert [row["case"] for row in rows] == ["stage1", "stage2"]
    assert "stage1" in CliRunner().invoke(app, ["bench", "latent", "--repeats", "1"]).stdout


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="--repeats is 0"):
        latent.measure(0, print)


def test_the_model_has_the_size_that_is_written_about_it() -> None:
    backbone = random_backbone()
    assert 33e6 < sum(weight.numel() for weight in backbone.parameters()) < 35e6
    example = Rows().example(4, before=40)
    assert len(example.ids) == 560
    assert int((example.ids == IDS.image_pad).sum()) == 192
    batch = latent.training(backbone, 4, 4)
    assert set(batch.ours) == {"stage1", "stage2", "lvr", "monet3", "coconut", "codi", "tokens"}
