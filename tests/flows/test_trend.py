"""Pointers, and nights compared with one another, without a server: what is compared with what, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.pointers import pointer_target
from mirage_core.errors import ArtifactDamaged, ArtifactMissing, InputError
from mirage_core.pipeline.stage import stage_fingerprint
from mirage_core.pipeline.stages.evaluate import EVALUATION
from mirage_core.pipeline.trend import TrendPoint, load_points, save_point, with_comparison
from mirage_core.pipeline.trend_report import write_trend
from mirage_core.recipes import load
from mirage_core.types import Artifact
from tasks.paths import open_store
from tests.flows.fake_pipeline import FakePipeline
from tests.flows.nights import PLANNING, Nights


@pytest.fixture
def nights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nights:
    """A store of this test's own in which every evaluation is found."""
    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "store"))
    return Nights(open_store())


def point_at(model: Artifact) -> None:
    done = CliRunner().invoke(app, ["store", "point", "nightly", model.path])
    assert done.exit_code == 0, done.output


def night(day: str, alpha: float = 0.05) -> TrendPoint:
    """What the flow does after its stages, on that day of November."""
    from flows.nightly import point_of

    store = open_store()
    judged = pointer_target(store, "nightly")
    assert judged.problems is not None
    inputs = {"model": judged.model, "problems": judged.problems}
    params = {"method": judged.method}
    evaluation = store.find("evaluation", stage_fingerprint(EVALUATION, judged.settings, inputs, params))
    assert evaluation is not None
    point = point_of(store, "nightly", judged, judged.problems, evaluation, night=f"run-{day}", cached=True)
    point = point.model_copy(update={"time": f"2026-11-{day}T02:00:00+00:00"})
    point = with_comparison(store, point, load_points(store, "nightly"), alpha)
    save_point(store, point)
    return point


def outcome(day: str, model: Artifact, alpha: float = 0.05) -> str:
    point_at(model)
    return night(day, alpha).comparison.outcome


def test_a_night_on_which_nothing_changed_says_the_same_model(nights: Nights) -> None:
    model = nights.model("a", 30, 30)
    assert outcome("01", model) == "first night"
    comparison = night("02").comparison

    assert comparison.outcome == "same model"
    assert comparison.said.startswith("the same model as on 2026-11-01")
    assert comparison.changes == ()


def test_a_small_fall_and_a_gain_are_no_drops(nights: Nights) -> None:
    for day, planning in (("01", 30), ("02", 28), ("03", 40)):
        point_at(nights.model(day, planning, 30))
        point = night(day)
        assert point.comparison.drops == ()

    rows = {row.benchmark: row for row in point.comparison.changes}
    assert (rows[PLANNING].right_then_wrong, rows[PLANNING].wrong_then_right) == (0, 12)
    assert rows[PLANNING].p_corrected < 0.05


@pytest.mark.parametrize(("alpha", "drops"), [(0.05, 0), (0.1, 2)])
def test_the_level_decides_what_is_a_drop(nights: Nights, alpha: float, drops: int) -> None:
    point_at(nights.model("a", 30, 30))
    night("01")
    point_at(nights.model("b", 24, 30))  # 6 against 0: p = 0.031, corrected for three rows 0.094

    assert len(night("02", alpha).comparison.drops) == drops


def test_other_problems_begin_a_new_series_and_nothing_is_compared(nights: Nights) -> None:
    point_at(nights.model("a", 36, 30))
    first = night("01")
    point_at(Nights(nights.store, load("micro", ["seed=7"])).model("b", 10, 10))
    second = night("02")

    assert second.comparison.outcome == "new series"
    assert second.comparison.said.startswith("the test problems changed since 2026-11-01")
    assert second.comparison.changes == ()
    assert first.series != second.series


def test_another_rule_begins_a_new_series_too(nights: Nights) -> None:
    point_at(nights.model("a", 36, 30))
    night("01")
    point_at(nights.model("b", 10, 10, rule="vsp"))

    assert night("02").comparison.said.startswith("the rule of judging changed since 2026-11-01")


def test_more_training_problems_leave_the_series_as_it_is(nights: Nights) -> None:
    """Only what the model is asked makes a series: the problems' artifact holds those of training too."""
    point_at(nights.model("a", 36, 30))
    night("01")
    more = Nights(nights.store, load("micro", ["problems.vsp_planning.train=128"]))
    point_at(more.model("b", 35, 30))

    assert night("02").comparison.outcome == "compared"


def test_what_else_changed_is_said(nights: Nights) -> None:
    point_at(nights.model("a", 36, 30))
    night("01")
    other = Nights(nights.store, load("micro", ["evaluation.max_new_tokens=8"]))
    point_at(other.model("b", 35, 30))

    assert "the evaluation's settings differ in evaluation.max_new_tokens" in night("02").comparison.said


def test_a_night_is_compared_with_the_last_one_of_its_own_series(nights: Nights) -> None:
    first = nights.model("a", 36, 30)
    other = Nights(nights.store, load("micro", ["seed=7"])).model("other", 40, 40)
    assert outcome("01", first) == "first night"
    assert outcome("02", other) == "new series"
    point_at(nights.model("c", 35, 30))
    compared_with = night("03").comparison.before

    assert compared_with is not None
    assert compared_with.model.digest == first.digest


def test_a_night_whose_evaluation_before_is_gone_says_so(nights: Nights) -> None:
    point_at(nights.model("a", 36, 30))
    before = night("01")
    store = open_store()
    store.remove(store.get(before.evaluation.path))
    point_at(nights.model("b", 10, 10))
    comparison = night("02").comparison

    assert comparison.outcome == "not comparable"
    assert before.evaluation.path in comparison.said


def test_garbage_collection_leaves_what_the_next_night_is_compared_with(nights: Nights) -> None:
    models = [nights.model(name, planning, 30) for name, planning in (("a", 36), ("b", 35), ("c", 34))]
    for day, model in zip(("01", "02"), models, strict=False):
        point_at(model)
        evaluated = night(day).evaluation.path
    point_at(models[2])
    done = CliRunner().invoke(app, ["store", "gc", "--delete", "--older-than", "0s"])
    assert done.exit_code == 0, done.output
    left = {artifact.path for artifact in open_store().list("evaluation")}
    assert left == {evaluated}, "those of nights before it, and what nobody refers to, may go"
    nights.model("c", 34, 30)

    assert night("03").comparison.outcome == "compared"


def test_a_night_that_is_tried_again_days_later_is_still_compared_with_the_night_before_it(nights: Nights) -> None:
    good, bad = nights.model("good", 36, 30), nights.model("bad", 18, 30)
    for day, model in (("01", good), ("02", bad), ("03", good)):
        point_at(model)
        last = night(day)
    assert last.comparison.drops == ()
    point_at(bad)
    again = night("02")

    assert again.comparison.before is not None
    assert again.comparison.before.night == "run-01"
    assert [change.benchmark for change in again.comparison.drops] == ["vsp-planning", "all"]
    assert len(load_points(open_store(), "nightly")) == 3


def test_the_trend_is_printed_and_its_page_and_json_lie_in_the_store(nights: Nights) -> None:
    for day, planning in (("01", 30), ("02", 31)):
        point_at(nights.model(day, planning, 30))
        night(day)
    store = open_store()
    write_trend(store, "nightly", load_points(store, "nightly"))
    cli = CliRunner()
    printed = cli.invoke(app, ["report", "--trend", "nightly"])
    report = json.loads(cli.invoke(app, ["report", "--trend", "nightly", "--json"]).stdout)

    assert printed.exit_code == 0, printed.output
    assert "vsp-planning 75.0% -> 77.5% (+2.5 points" in printed.output
    folder = Path(store.url) / "trend/nightly"
    assert f"page: {folder / 'trend.html'}" in printed.output
    assert store.read_json("trend/nightly/trend.json") == report
    assert [point["comparison"]["outcome"] for point in report["nights"]] == ["first night", "compared"]
    page = (folder / "trend.html").read_text()
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 2


def test_a_point_that_cannot_be_read_is_named(nights: Nights) -> None:
    open_store().write_json("trend/nightly/nights/2026-11-01.json", {"night": "run-01"})

    with pytest.raises(ArtifactDamaged, match=r"nights/2026-11-01\.json"):
        load_points(open_store(), "nightly")


def test_the_pointer_moves_only_when_a_run_says_so(fake_pipeline: FakePipeline) -> None:
    cli = CliRunner()
    assert cli.invoke(app, ["run", "--recipe", "micro", "--direct"]).exit_code == 0
    assert open_store().pointers() == []

    ran = cli.invoke(app, ["run", "--recipe", "micro", "--direct", "--publish-as", "nightly"])
    assert ran.exit_code == 0, ran.output
    pointer = open_store().pointer("nightly")
    assert pointer.artifact.summary == {"made": "grpo"}
    assert pointer.about["method"] == "grpo"
    assert pointer.about["settings"]["recipe"] == "micro"
    assert str(pointer.about["problems"]["path"]).startswith("problems/")
    assert f"nightly -> {pointer.artifact.path} (grpo)" in ran.output


def test_a_recipe_that_trains_nothing_cannot_be_published(fake_pipeline: FakePipeline) -> None:
    with pytest.raises(InputError, match="trains no model"):
        CliRunner().invoke(
            app,
            [
                "run",
                "--recipe",
                "micro",
                "--set",
                "evaluation.methods=[zero-shot]",
                "--direct",
                "--publish-as",
                "nightly",
            ],
            catch_exceptions=False,
        )
    assert fake_pipeline.ran == []


def test_what_is_no_model_cannot_be_evaluated(nights: Nights) -> None:
    point_at(nights.problems())

    with pytest.raises(InputError, match="expected a model"):
        pointer_target(open_store(), "nightly")


def test_problems_that_have_gone_are_made_again(nights: Nights, fake_pipeline: FakePipeline) -> None:
    CliRunner().invoke(app, ["run", "--recipe", "micro", "--direct", "--publish-as", "nightly"])
    store = open_store()
    pointer = store.pointer("nightly")
    store.remove(store.get(pointer.about["problems"]["path"]))

    assert pointer_target(store, "nightly").problems is None
    assert pointer_target(store, "nightly").model == pointer.artifact


def test_without_a_night_the_trend_says_how_to_begin(nights: Nights) -> None:
    with pytest.raises(ArtifactMissing, match="--publish-as nightly"):
        CliRunner().invoke(app, ["report", "--trend", "nightly"], catch_exceptions=False)
