"""``mirage bench launches``: its rule of what is a launch, and what single-token passes come to."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from bench import launches
from bench.launch_counter import LaunchCounter
from bench.launches import SINGLE, Row
from flows.cli import app
from mirage_core.errors import InputError


def counted(work: Any) -> dict[str, int]:
    counter = LaunchCounter("all")
    with counter.running():
        work()
    return dict(counter.counts.get("all", {}))


def test_views_allocations_and_reading_a_number_launch_nothing() -> None:
    source = torch.randn(4, 6)
    assert counted(lambda: source.view(2, 12).t()[:, :1].detach().expand(-1, 3).new_empty(5)) == {}
    assert counted(lambda: source[0, 0].item()) == {}
    assert counted(lambda: source.t().reshape(24)) == {"clone": 1}  # a reshape that has to copy
    assert counted(lambda: source.t().contiguous().add_(1)) == {"clone": 1, "add_": 1}


def test_a_matrix_that_is_added_out_of_place_is_copied_first_and_a_bias_of_one_row_too() -> None:
    rows, weight, bias = torch.randn(2, 3), torch.randn(3, 5), torch.randn(5)
    assert counted(lambda: torch.addmm(bias, rows, weight)) == {"addmm": 1}
    assert counted(lambda: torch.addmm(bias, rows[:1], weight)) == {"addmm": 2}
    assert counted(lambda: torch.addmm(torch.ones(2, 5), rows, weight)) == {"ones": 1, "addmm": 2}
    assert counted(lambda: torch.empty(2, 5).addmm_(rows, weight)) == {"addmm_": 1}
    assert counted(lambda: torch.addmm(torch.empty(2, 5), rows, weight, beta=0)) == {"addmm": 1}


@pytest.mark.parametrize("inference", [False, True])
def test_a_linear_layer_and_attention_are_one_each_also_in_inference_mode(inference: bool) -> None:
    layer, heads = torch.nn.Linear(3, 5), torch.randn(2, 2, 4, 8)

    def work() -> None:
        with torch.inference_mode(inference):
            layer(torch.empty(4, 3))
            torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)

    assert counted(work) == {"addmm": 1, "_scaled_dot_product_flash_attention_for_cpu": 1}


def test_a_fused_norm_is_one_launch_and_its_gradients_are_those_of_torch() -> None:
    values, weight = torch.randn(3, 8, requires_grad=True), torch.randn(8, requires_grad=True)

    def gradients() -> tuple[torch.Tensor, ...]:
        normed = torch.nn.functional.rms_norm(values, (8,), weight, 1e-6)
        return torch.autograd.grad(normed, (values, weight), torch.ones(3, 8))

    found: list[torch.Tensor] = []
    counts = counted(lambda: found.extend(gradients()))
    assert counts == {"rms_norm": 1, "ones": 1, "rms_norm_backward": 2}
    for own, stock in zip(found, gradients(), strict=True):
        torch.testing.assert_close(own, stock)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return launches.measure(layers=4, batch=2, latents=3)


def test_a_single_token_pass_launches_at_most_12_a_layer_in_training_and_10_in_decoding(rows: list[Row]) -> None:
    single = {(row.case, row.fused): row for row in rows if row.part == SINGLE}
    assert {case: row.per_layer for (case, fused), row in single.items() if fused} == {
        "stage2": 12,
        "film": 12,
        "decode": 10,
    }
    assert all(row.per_layer == 36 for (_, fused), row in single.items() if not fused)
    assert [single["stage2", True].times, single["decode", True].times] == [2, 5]


def test_every_part_of_a_step_is_counted_and_the_backward_pass_gets_shorter_too(rows: list[Row]) -> None:
    parts = {(row.case, row.fused, row.part): row for row in rows}
    own = {"around passes", "prefill", "backward", "optimizer"}
    assert {part for case, _, part in parts if case == "plain"} == own
    assert {part for case, _, part in parts if case == "film"} == {*own, SINGLE, "text pass"}
    assert parts["plain", False, "prefill"].launches == parts["plain", True, "prefill"].launches
    assert parts["stage2", True, "backward"].per_layer < 0.8 * parts["stage2", False, "backward"].per_layer


def test_the_command_prints_json_and_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [Row("stage2", fused, SINGLE, 3, 294.0, 36.0 - 24 * fused) for fused in (False, True)]
    monkeypatch.setattr(launches, "measure", lambda **_: both)
    ran = CliRunner().invoke(app, ["bench", "launches", "--json"])
    assert ran.exit_code == 0, ran.output
    assert [row["per_layer"] for row in json.loads(ran.stdout)] == [36, 12]
    assert "12" in CliRunner().invoke(app, ["bench", "launches"]).stdout


def test_one_layer_is_refused() -> None:
    with pytest.raises(InputError, match="--layers is 1"):
        launches.measure(layers=1)
