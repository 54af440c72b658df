"""``mirage diagnose`` and the flow of mirage-study/diagnosis: every measure a task, the page, and the nightly line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from mirage_core.errors import InputError, SettingsError, SignificantDrop, TrainingError
from mirage_core.pipeline.trend import load_points
from mirage_core.types import Artifact
from tasks.paths import open_store
from tests.flows.fake_measures import FakeMeasures, install_measures, write_problems
from tests.flows.fake_pipeline import FakePipeline
from tests.flows.nights import Nights
from tests.flows.test_nightly import newest_artifacts, point_at

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.xdist_group("prefect")]
TO_THE_MODEL = ["problems", "auxiliary-images", "base", "examples", "grounding", "relaxation"]
MEASURES = ("probes", "interventions")
MEASURED = ["collect", "measure/probes", "measure/interventions", "looks/stage-2"]


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> FakeMeasures:
    """Measures that no model is asked for."""
    return install_measures(monkeypatch)


@pytest.fixture
def pipeline(fake_pipeline: FakePipeline) -> FakePipeline:
    """The fake pipeline, with problems that a page can be written of."""
    fake_pipeline.during["problems"] = write_problems
    return fake_pipeline


@pytest.fixture
def nights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nights:
    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "store"))
    return Nights(open_store())


def diagnose(**asked: Any) -> dict[str, Artifact]:
    from flows.diagnosis import diagnosis

    return diagnosis(**{"recipe": "micro", "method": "stage-2", "measures": MEASURES, **asked})


def test_the_flow_walks_to_the_model_and_measures_it(pipeline: FakePipeline, measures: FakeMeasures) -> None:
    artifacts = diagnose()
    assert pipeline.ran == TO_THE_MODEL, "nothing is evaluated, nothing further is trained"
    assert measures.ran == MEASURED
    assert artifacts["diagnosis"].summary["headline"].startswith("Do latents carry the input? Yes.")
    shown = newest_artifacts("diagnosis", "interventions")
    assert "**Z → Y**, image in view: not shown" in shown["diagnosis"]
    assert artifacts["diagnosis"].path in shown["diagnosis"]
    assert "another problem's latents, vectors" in shown["interventions"]

    again = diagnose(measures=(*MEASURES, "similarity"))
    assert pipeline.ran == TO_THE_MODEL and measures.ran == [*MEASURED, "measure/similarity"]
    assert again["collect"] == artifacts["collect"] and again["diagnosis"] != artifacts["diagnosis"]


def test_a_failed_measure_runs_again_and_those_before_it_do_not(pipeline: FakePipeline, measures: FakeMeasures) -> None:
    measures.faults["measure/interventions"] = [TrainingError("no")]
    with pytest.raises(TrainingError, match="no"):
        diagnose()
    diagnose()
    assert measures.ran == [*MEASURED[:3], *MEASURED[2:]]


def test_the_command_line_does_the_same_without_a_server(pipeline: FakePipeline, measures: FakeMeasures) -> None:
    command = ["diagnose", "--recipe", "micro", "--method", "stage-2", "--direct", "--measures", ",".join(MEASURES)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert measures.ran == MEASURED
    assert "Z -> Y  not shown" in done.output and "diagnosis.html" in done.output

    model = next(artifact for artifact in open_store().list() if artifact.summary == {"made": "relaxation"})
    result = CliRunner().invoke(app, ["diagnose", model.path, "--direct", "--measures", "probes", "--json"])
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.output)["measures"]) == ["probes"], "nothing but JSON is printed"


def test_a_model_is_chosen_by_its_path_its_digest_or_a_pointer(measures: FakeMeasures, nights: Nights) -> None:
    model, problems = nights.model("a", 30, 30), nights.problems()
    point_at(model)
    pages = [diagnose(model=name)["diagnosis"] for name in (model.path, model.digest[:16], "nightly")]
    assert len({page.digest for page in pages}) == 1 and measures.ran == MEASURED
    result = json.loads((open_store().fetch(pages[0]) / "diagnosis.json").read_text())
    assert result["model"] == {"path": model.path, "digest": model.digest, "made_by": "relaxation"}
    assert result["command"] == f"mirage diagnose {model.path} --measures {','.join(MEASURES)}"

    finer = diagnose(model="nightly", problems=problems.path, overrides=("analysis.instances=7",))
    assert finer["collect"] != pages[0] and measures.ran == [*MEASURED, *MEASURED]


def test_what_cannot_be_diagnosed_is_refused_before_anything_runs(measures: FakeMeasures, nights: Nights) -> None:
    model, problems = nights.model("a", 30, 30), nights.problems()
    for asked, error, message in (
        ({"model": problems.path}, InputError, "is a problems, expected model"),
        ({"model": model.path, "problems": model.path}, InputError, "is a model, expected problems"),
        ({"model": model.path, "overrides": ("latent.num_latents=9",)}, SettingsError, "describe how it was made"),
        ({"model": model.path, "overrides": ("analysis.instanecs=9",)}, SettingsError, "analysis.instances"),
        ({"method": "direct-sft"}, InputError, "answers without latents"),
    ):
        with pytest.raises(error, match=message):
            diagnose(**asked)
    assert measures.ran == []


def test_a_night_tells_what_permuted_latents_do_and_drops_as_it_would_without(
    measures: FakeMeasures, nights: Nights
) -> None:
    from flows.nightly import mirage_evaluation

    good, bad = nights.model("good", 36, 30), nights.model("bad", 18, 30)
    point_at(good)
    result = mirage_evaluation(diagnose=True)
    exchanged = result["latents"]["exchanges"][0]
    assert (exchanged["way"], exchanged["n"], exchanged["change"]) == ("vectors", 200, 0.0)
    page = Path(open_store().url) / "trend/nightly/trend.html"
    assert "+0.0<small>-2.0 to +2.0, n = 200, vectors</small>" in page.read_text()
    assert "Latents permuted (vectors): +0.0 points" in newest_artifacts("nightly-comparison")["nightly-comparison"]

    point_at(bad)
    measures.faults["measure/probes"] = [TrainingError("no memory")]
    with pytest.raises(SignificantDrop, match=r"vsp-planning 90.0% -> 45.0%"):
        mirage_evaluation(diagnose=True)
    points = load_points(open_store(), "nightly")
    assert points[-1].latents.said == "not measured: no memory"
    assert "not measured: no memory" in page.read_text()


def test_a_night_without_the_option_tells_nothing_of_latents(measures: FakeMeasures, nights: Nights) -> None:
    from flows.nightly import mirage_evaluation

    point_at(nights.model("good", 36, 30))
    assert mirage_evaluation()["latents"] is None
    assert measures.ran == []
    assert "latents permuted" not in (Path(open_store().url) / "trend/nightly/trend.html").read_text()
