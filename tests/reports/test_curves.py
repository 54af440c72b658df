"""Curves are sorted into panels by what they say, and timings never reach a report."""

from __future__ import annotations

import pytest

from mirage_core.reports import plots
from mirage_core.reports.curves import group_curves, last_step, panels, tail_mean
from mirage_core.reports.plots import is_baseline, panel_png, running_mean


def rows(*names: str) -> list[dict]:
    return [{"step": step, "name": name, "value": step / 10 + at} for at, name in enumerate(names) for step in (2, 1)]


def test_every_figure_finds_its_panel() -> None:
    names = ("loss", "visual", "text", "cosine_0", "cosine_constant", "cosine_input", "gradient_norm", "learning_rate",
             "reward_mean", "accuracy", "kl", "clip_fraction", "entropy", "latent_share", "completion_length",
             "my_own")  # fmt: skip
    curves = {panel.kind.key: list(panel.curves) for panel in panels("grpo", group_curves(rows(*names)))}
    assert curves == {
        "cosine": ["cosine_0", "cosine_constant", "cosine_input"],
        "reward": ["reward_mean"],
        "kl": ["kl"],
        "clip": ["clip_fraction"],
        "entropy": ["entropy"],
        "length": ["completion_length"],
        "share": ["accuracy", "latent_share"],
        "loss": ["loss", "text", "visual"],
        "gradient": ["gradient_norm"],
        "rate": ["learning_rate"],
        "other": ["my_own"],
    }


def test_figures_on_held_out_examples_stand_beside_those_of_training() -> None:
    names = ("loss", "accuracy", "cosine_0", "validation/loss", "validation/accuracy", "validation/cosine_0",
             "validation/latent_share")  # fmt: skip
    drawn = panels("grounding", group_curves(rows(*names, "gradient_norm")))
    explained = [panel.kind.key for panel in drawn if "Dashed" in panel.kind.reading]
    assert explained == ["cosine", "share", "loss"]
    curves = {panel.kind.key: list(panel.curves) for panel in drawn if panel.kind.key in explained}
    assert curves == {
        "cosine": ["cosine_0", "validation/cosine_0"],
        "share": ["accuracy", "validation/accuracy", "validation/latent_share"],
        "loss": ["loss", "validation/loss"],
    }


def test_speed_and_memory_have_panels_while_a_stage_runs_and_reach_no_report() -> None:
    logged = {"steps_per_second": [(1, 2.0)], "process_memory_gib": [(1, 1.0)], "padding_share": [(1, 0.1)]}
    assert [panel.kind.key for panel in panels("text", logged)] == ["speed", "memory", "padding"]
    assert group_curves([{"step": 1, "name": name, "value": 1.0} for name in logged]) == {}


def test_a_figure_on_held_out_examples_has_the_colour_of_the_same_in_training() -> None:
    drawn: list[tuple[str, str, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_curve", lambda axes, name, points, colour, line: drawn.append((name, colour, line)))
        patch.setattr(plots, "legend", lambda *arguments: None)
        (panel,) = panels("grounding", group_curves(rows("loss", "text", "validation/loss", "validation/text")))
        panel_png(panel)
    styles = {name: (colour, line) for name, colour, line in drawn}
    assert styles["loss"][0] == styles["validation/loss"][0] != styles["text"][0] == styles["validation/text"][0]
    assert [styles[name][1] for name in ("loss", "validation/loss")] == ["-", "--"]


def test_curves_are_in_step_order_and_timings_are_left_out() -> None:
    curves = group_curves(rows("loss", "seconds", "steps_per_second", "time/step"))
    assert list(curves) == ["loss"]
    assert [step for step, _ in curves["loss"]] == [1, 2]
    assert last_step(curves) == 2


def test_a_loss_of_one_part_is_drawn_once() -> None:
    twice = [{"step": 1, "name": name, "value": 1.0} for name in ("loss", "text")]
    assert [list(panel.curves) for panel in panels("direct-sft", group_curves(twice))] == [["loss"]]


def test_no_curves_have_no_last_step() -> None:
    assert last_step({}) is None


def test_the_last_value_is_a_mean_over_the_last_tenth() -> None:
    assert tail_mean([(step, float(step)) for step in range(1, 101)]) == 95.5
    assert tail_mean([(1, 3.0)]) == 3.0


def test_a_running_mean_keeps_the_length_and_a_constant() -> None:
    assert running_mean([2.0] * 90) == [2.0] * 90
    assert running_mean([1.0, 5.0]) == [1.0, 5.0]


def test_baselines_are_told_apart_from_the_model() -> None:
    assert is_baseline("cosine_constant")
    assert is_baseline("cosine_input")
    assert not is_baseline("cosine_0")


def test_the_same_curves_give_the_same_picture() -> None:
    (panel,) = panels("grounding", group_curves(rows("cosine_0", "cosine_constant")))
    first = panel_png(panel)
    assert first == panel_png(panel)
    assert first.startswith(b"\x89PNG")
