"""A whole diagnosis of two models whose truth is known: the verdicts find it, the stages keep it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mirage_core.analysis.collect import save_clean_run
from mirage_core.analysis.lens.collect import collect_lens
from mirage_core.analysis.lens.results import read_lens, write_lens
from mirage_core.config import ReportSettings, Settings
from mirage_core.errors import DataError, InputError
from mirage_core.model.loading import save_model
from mirage_core.pipeline.diagnose import (
    RECORDS,
    default_method,
    diagnose,
    run_to_model,
    save_diagnosis_record,
    select_measures,
)
from mirage_core.pipeline.pipeline import run_pipeline
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.stage import StageContext, label, run_stage
from mirage_core.pipeline.stages.report import sample_lens
from mirage_core.reports.run.report import write_report
from mirage_core.store import Store
from mirage_core.store.records import load_predictions, save_problems
from mirage_core.types import Artifact, Prediction
from tests.analysis import fake_results, toys
from tests.evaluation.fake_run import fake_run, small_settings

PLANNING = "vsp-planning"

MEASURES = ("interventions", "probes")


@dataclasses.dataclass
class World:
    """A store with the reading toy and its problems, and what ran."""

    store: Store
    inputs: dict[str, Artifact]
    settings: Settings
    ran: list[str] = dataclasses.field(default_factory=list)

    def step(self, name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
        result = run_stage(get_stage(name), self.settings, inputs, self.store, toys.quiet, params)
        self.ran += [] if result.cached else [label(name, params)]
        return result.artifact


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("diagnosis")
    settings = toys.toy_settings("latent_only", instances=24, noise_scales=[4.0], resamples=50)
    store, loaded = Store.open(folder / "store"), toys.trained("latent_only")
    (folder / "problems").mkdir()
    save_problems(folder / "problems" / "problems.parquet", toys.toy_problems())
    about = {**loaded.about, "latent": settings.latent.model_dump(), "prompt": settings.prompt.model_dump()}
    save_model(folder / "model", loaded.backbone, loaded.processor, about)
    inputs = {
        name: store.publish(name if name == "problems" else "model", digit * 64, folder / name, summary={}, about={})
        for name, digit in (("model", "a"), ("problems", "b"))
    }
    return World(store, inputs, settings)


@pytest.fixture(scope="module")
def made(world: World) -> dict[str, Artifact]:
    return diagnose(world.step, MEASURES, method="stage-2", **world.inputs)


def test_the_verdicts_find_what_was_built_into_the_model(world: World, made: dict[str, Artifact]) -> None:
    edges = {(edge["edge"], edge["seen"]): edge["outcome"] for edge in made["diagnosis"].summary["edges"]}
    assert edges[("X -> Z", None)] == "yes"
    assert edges[("Z -> Y", "present")] == "yes"
    assert made["diagnosis"].summary["headline"] == ("Do latents carry the input? Yes. Do they drive the answer? Yes.")


def test_the_page_names_the_model_and_shows_its_latents(world: World, made: dict[str, Artifact]) -> None:
    folder = world.store.fetch(made["diagnosis"])
    page = (folder / "diagnosis.html").read_text(encoding="utf-8")
    figures = json.loads((folder / "diagnosis.json").read_text(encoding="utf-8"))
    assert figures["model"] == {
        "path": world.inputs["model"].path, "digest": world.inputs["model"].digest, "made_by": "unknown"
    }  # fmt: skip
    assert set(figures["measures"]) == set(MEASURES)
    assert page.count('<article class="card lens') == 4
    assert "What a linear probe reads" in page and (folder / "plots" / "changes-present.png").is_file()


def test_a_measure_more_runs_that_measure_alone(world: World, made: dict[str, Artifact]) -> None:
    assert world.ran[0] == "collect"
    world.ran.clear()
    again = diagnose(world.step, MEASURES, method="stage-2", **world.inputs)
    assert world.ran == [] and again["diagnosis"] == made["diagnosis"]
    diagnose(world.step, (*MEASURES, "similarity"), method="stage-2", **world.inputs)
    assert world.ran == ["measure/similarity", "diagnosis"]


def test_a_diagnosis_is_kept_with_all_it_was_made_from(world: World, made: dict[str, Artifact]) -> None:
    save_diagnosis_record(world.store, made["diagnosis"])
    name = made["diagnosis"].path.partition("/")[2]
    assert world.store.read_json(f"{RECORDS}/{name}.json")["diagnosis"]["path"] == made["diagnosis"].path
    removable = {garbage.path for garbage in world.store.garbage(-1.0)}
    assert removable.isdisjoint({artifact.path for artifact in (*made.values(), *world.inputs.values())})


def test_a_deaf_model_is_never_said_to_follow_its_latents(tmp_path: Path) -> None:
    from mirage_core.analysis.measures.interventions import interventions
    from mirage_core.analysis.verdict import drives_answer

    runner, settings = toys.deaf()
    result = interventions(runner, toys.clean("deaf"), toys.toy_problems(), settings.analysis, toys.quiet)
    assert drives_answer(result, "present").outcome == "not shown"


def test_lens_results_are_the_same_bytes_again_and_name_their_file_when_broken(tmp_path: Path) -> None:
    runner, settings = toys.reader()
    problems = toys.toy_problems()
    auxiliary = {problem.id: problem.images[0] for problem in problems[:20]}
    one, other = (collect_lens(runner.loaded, settings, toys.clean("reader"), problems, auxiliary) for _ in range(2))
    write_lens(tmp_path, one)
    assert one == other and read_lens(tmp_path) == one
    assert one.used == 24 and {match.picture for match in one.matches} == {"input", "auxiliary"}
    assert {match.rank.n for match in one.matches if match.picture == "auxiliary"} == {20}
    (tmp_path / "looks.json").write_text("{}")
    with pytest.raises(DataError, match=r"looks.json is no latent lens result"):
        read_lens(tmp_path)


def test_a_run_without_latents_has_nothing_to_look_at(tmp_path: Path) -> None:
    runner, settings = toys.reader()
    clean = toys.clean("reader")
    silent = dataclasses.replace(clean, has_span=clean.has_span & False)
    save_clean_run(tmp_path, silent)
    lens = collect_lens(runner.loaded, settings, silent, toys.toy_problems(), {})
    assert (lens.used, lens.shown, lens.projection) == (0, (), None)


def test_the_road_to_a_model_goes_no_further_than_it() -> None:
    ran: list[str] = []

    def step(name: str, params: Mapping[str, Any], /, **inputs: str) -> str:
        ran.append(name)
        return name

    assert run_to_model(small_settings(), "stage-2", step)["model"] == "relaxation"
    assert ran == ["problems", "auxiliary-images", "base", "examples", "grounding", "relaxation"]


def test_the_furthest_model_with_latents_is_diagnosed() -> None:
    def chosen(*names: str) -> str:
        plain = small_settings()
        evaluation = plain.evaluation.model_copy(update={"methods": names})
        return default_method(plain.model_copy(update={"evaluation": evaluation}))

    assert chosen("zero-shot", "direct-sft", "stage-1", "stage-2", "grpo") == "grpo"
    assert chosen("direct-sft", "stage-1") == "stage-1"
    assert chosen("zero-shot", "capimagine") == "capimagine"
    with pytest.raises(InputError, match="trains no model"):
        chosen("zero-shot")


def test_a_model_without_latents_is_measured_by_its_text_alone() -> None:
    assert select_measures(small_settings(), "capimagine", ()) == ("text-chain",)
    assert select_measures(small_settings(), "stage-2", ("probes", "similarity")) == ("similarity", "probes")
    plain = small_settings()
    drawn = plain.auxiliary_images.model_copy(update={"film": "forward"})
    films = plain.model_copy(update={"auxiliary_images": drawn})
    assert select_measures(films, "film", ()) == (*plain.analysis.measures, "film", "hand-made")
    with pytest.raises(InputError, match="answers without latents, so probes cannot be measured"):
        select_measures(small_settings(), "capimagine", ("probes",))
    with pytest.raises(InputError, match="got the measure 'astrology', expected some of similarity"):
        select_measures(small_settings(), "stage-2", ("astrology",))


def test_a_report_that_shows_the_lens_takes_it_of_every_method_with_latents() -> None:
    taken: dict[str, dict[str, str]] = {}

    def step(name: str, params: Mapping[str, Any], /, **inputs: str) -> str:
        taken[label(name, params)] = inputs
        return label(name, params)

    plain = small_settings()
    run_pipeline(plain, step)
    assert not any(name.startswith("looks") for name in taken)
    run_pipeline(plain.model_copy(update={"report": ReportSettings(looks=True)}), step)
    assert {name for name in taken if name.startswith("looks")} == {"looks/stage-1", "looks/stage-2", "looks/grpo"}
    assert taken["looks/stage-2"] == {
        "model": "relaxation", "problems": "problems", "evaluation": "evaluation/stage-2"
    }  # fmt: skip
    assert taken["report"]["looks/grpo"] == "looks/grpo"


def test_a_lens_stands_under_the_answer_it_belongs_to_and_under_no_others(tmp_path: Path) -> None:
    settings = small_settings(test_per_level=1, trajectories=2)
    folders = fake_run(tmp_path / "run", settings)
    answers = [pair[0] for pair in load_predictions(folders["evaluation/stage-2"]) if pair[0].benchmark == PLANNING]
    mine, another = answers[0], answers[1]
    shown = fake_results.lens(mine.problem_id, another.problem_id)
    first, second = (entry.model_copy(update={"output": mine.output}) for entry in shown.shown)
    folders["looks/stage-2"] = tmp_path / "looks"
    folders["looks/stage-2"].mkdir()
    write_lens(folders["looks/stage-2"], shown.model_copy(update={"shown": (first, second)}))
    lens = sample_lens(context_of(settings, folders, tmp_path))
    assert lens is not None and set(lens.pieces) == {("stage-2", each.problem_id) for each in (mine, another)}
    assert "the average latent" in lens.of(sample_of(mine)) and "<script" not in lens.of(sample_of(mine))
    assert (lens.of(sample_of(another)) is None) == (another.output != mine.output)
    assert lens.of(sample_of(dataclasses.replace(mine, method="grpo"))) is None
    (tmp_path / "page").mkdir()
    run_to_evaluations = {name: folders[name] for name in ("problems", "evaluation/stage-2")}
    write_report(tmp_path / "page", settings, run_to_evaluations, lens)
    assert "heats" in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")


def context_of(settings: Settings, folders: dict[str, Path], output: Path) -> StageContext:
    return StageContext(
        settings=settings, params={}, inputs={}, input_paths=folders, output=output, scratch=output,
        store=None, fingerprint="f", progress=toys.quiet,
    )  # type: ignore[arg-type]  # fmt: skip


def sample_of(prediction: Prediction) -> Any:
    return SimpleNamespace(scored=(prediction, None))
