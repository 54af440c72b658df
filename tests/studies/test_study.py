"""A study's YAML: what it may say, sweeps written out, and the settings and command of every cell."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirage_core.errors import SettingsError
from mirage_core.recipes import load
from mirage_core.studies.grid import grid
from mirage_core.studies.loading import dump_study, load_study, names
from mirage_core.studies.report_inputs import command_of

SWEEP = {"sweep": "latent.num_latents", "values": [2, 8], "method": "stage-2", "name": "k", "label": "k = {value}"}
BASE = {"name": "direct", "method": "direct-sft"}


def written(at: Path, **changes: Any) -> Path:
    data = {"recipe": "micro", "baseline": "direct", "cells": [BASE, SWEEP], **changes}
    file = at / "mine.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def test_a_sweep_stands_for_a_cell_a_value(tmp_path: Path) -> None:
    study = load_study(written(tmp_path))
    direct, two, eight = study.all_cells()

    assert (study.name, study.seeds) == ("mine", (42,))
    assert [cell.name for cell in (direct, two, eight)] == ["direct", "k-2", "k-8"]
    assert [cell.shown for cell in (direct, two, eight)] == ["direct", "k = 2", "k = 8"]
    assert (eight.overrides, eight.swept) == ({"latent.num_latents": 8}, ("latent.num_latents", 8))


def test_every_cell_runs_under_every_seed_with_its_own_settings(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, overrides={"relaxation.steps": 7}), seeds=[1, 2])
    runs = grid(study, ["grounding.steps=3", "latent.num_latents=5"])

    assert [run.name for run in runs] == ["direct/1", "k-2/1", "k-8/1", "direct/2", "k-2/2", "k-8/2"]
    assert {run.settings.relaxation.steps for run in runs} == {7}
    assert {run.settings.grounding.steps for run in runs} == {3}
    assert [run.settings.latent.num_latents for run in runs[:3]] == [5, 2, 8], "what a cell is about goes last"
    assert [run.settings.seed for run in runs] == [1, 1, 1, 2, 2, 2]
    assert runs[1].settings.evaluation.methods == ("stage-2",)


def test_the_command_of_a_cell_gives_its_very_settings(tmp_path: Path) -> None:
    cell = {"name": "blank", "method": "without-stage-1", "overrides": {"latent.input": "blank", "model.lora": None}}
    study = load_study(written(tmp_path, cells=[BASE, cell]))
    run = grid(study, ["runtime.hosts=[a, b]"])[1]
    words = shlex.split(run.command)

    assert words[:4] == ["mirage", "run", "--recipe", "micro"]
    assert "latent.input=blank" in words
    assert load("micro", [word for word in words[4:] if word != "--set"]) == run.settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baselin": "direct"}, "unknown key baselin, .*did you mean baseline"),
        ({"cells": [BASE, {**SWEEP, "valus": [1]}]}, "cell 2: got the unknown key valus, .*did you mean values"),
        ({"cells": [{"name": "a", "method": "direct-sfx"}]}, "the method 'direct-sfx', .*did you mean direct-sft"),
        ({"cells": [BASE, {"name": "a"}]}, "method"),
        ({"cells": [BASE, BASE]}, "two cells are called 'direct'"),
        ({"baseline": "k"}, "the baseline 'k' is no cell; expected one of direct, k-2, k-8"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"measures": ["intervention"]}, "the measure 'intervention', .*did you mean interventions"),
        ({"measures": "interventions"}, "measures: Input should be a valid tuple"),
        ({"cells": [{**BASE, "swept": ["seed", 1]}]}, "unknown key swept"),
        ({"cells": [{**BASE, "name": "Not A Name"}]}, "cells.0.name"),
    ],
)
def test_what_a_study_may_not_say_is_refused_with_the_way_out(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_study(written(tmp_path, **changes))


def test_some_cells_of_a_study_are_those_in_its_order_and_its_baseline(tmp_path: Path) -> None:
    study = load_study(written(tmp_path), cells=["k-8", "k-8"])

    assert [cell.name for cell in study.all_cells()] == ["direct", "k-8"]
    with pytest.raises(SettingsError, match=r"the cell 'k-9', expected some of direct, k-2, k-8 .*did you mean k-"):
        load_study(written(tmp_path), cells=["k-9"])


def test_the_command_of_a_study_says_what_was_asked_of_it(tmp_path: Path) -> None:
    study = load_study(written(tmp_path), [1, 2], ["k-8"])
    assert (
        command_of(study, ["a.b=1", "c=[1, 2]"])
        == "mirage study mine --seeds 1,2 --cells k-8 --set a.b=1 --set 'c=[1, 2]'"
    )
    assert "selected" not in dump_study(study)
    with pytest.raises(SettingsError, match="unknown key selected"):
        load_study(written(tmp_path, selected=["k-8"]))


def test_a_study_that_there_is_not_is_answered_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"expected one of ablation, .*did you mean ablation"):
        load_study("ablatoin")


@pytest.mark.parametrize("sets", ["seed=3", "evaluation.methods=[grpo]"])
def test_seeds_and_methods_are_the_studys_to_choose(tmp_path: Path, sets: str) -> None:
    with pytest.raises(SettingsError, match="--seeds 1,2,3"):
        grid(load_study(written(tmp_path)), [sets])


def test_a_wrong_setting_names_its_cell(tmp_path: Path) -> None:
    cells = [BASE, {"name": "odd", "method": "stage-2", "overrides": {"latent.number": 2}}]
    with pytest.raises(SettingsError, match=r"cell odd of the study mine: got the unknown setting latent.number"):
        grid(load_study(written(tmp_path, cells=cells)))


def test_grpo_that_is_switched_off_cannot_be_a_cell(tmp_path: Path) -> None:
    cells = [BASE, {"name": "rl", "method": "direct-sft-grpo"}]
    with pytest.raises(SettingsError, match=r"cell rl .*needs grpo.enabled=true"):
        grid(load_study(written(tmp_path, cells=cells)), ["grpo.enabled=false"])


def test_a_recipe_beside_the_study_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.yaml").write_text("extends: micro\nrelaxation: {steps: 9}\n")
    file = written(tmp_path, recipe="own.yaml")
    monkeypatch.chdir("/")

    assert grid(load_study(file))[0].settings.relaxation.steps == 9


@pytest.mark.parametrize("name", names())
def test_every_study_that_comes_with_the_project_is_valid_and_reads_itself_back(name: str, tmp_path: Path) -> None:
    study = load_study(name)
    runs = grid(study)
    copy = tmp_path / f"{name}.yaml"
    data = yaml.safe_load(dump_study(study))
    for cell in data["cells"]:
        cell.pop("swept", None)
    copy.write_text(yaml.safe_dump(data))

    assert len({run.name for run in runs}) == len(runs) >= 4
    assert study.description
    assert [run.settings for run in grid(load_study(copy))] == [run.settings for run in runs]


def test_the_ablation_holds_the_papers_methods() -> None:
    runs = {run.cell.name: run for run in grid(load_study("ablation"))}
    values = {(run.cell.method, run.settings.teacher.variant) for run in runs.values()}

    assert {
        ("zero-shot", "direct"), ("direct-sft", "direct"), ("direct-sft", "cot"), ("direct-sft-grpo", "cot"),
        ("stage-2", "direct"), ("stage-2", "cot"), ("grpo", "direct"), ("grpo", "cot"), ("capimagine", "direct"),
        ("auxiliary-input", "direct"), ("without-stage-1", "direct"), ("stage-1", "direct"),
    } <= values  # fmt: skip
    assert runs["blank-tokens"].settings.latent.input == "blank"
    long = {name for name, run in runs.items() if run.settings.evaluation.max_new_tokens == 320}
    assert long == {"cot-sft", "cot-sft-grpo", "mirage-cot", "mirage-cot-grpo", "capimagine"}, (
        "what writes more than moves"
    )
    assert not runs["blank-tokens"].cell.published


def test_the_causal_study_holds_the_baseline_at_equal_steps_and_at_equal_compute() -> None:
    study = load_study("causal")
    runs = {run.cell.name: run.settings for run in grid(load_study("causal", [1]))}
    values = {(each.latent.bottleneck, each.latent.num_latents) for each in runs.values()}

    assert (study.measures, study.seeds, study.baseline) == (("interventions",), (42, 1, 2), "direct-sft")
    assert (runs["direct-sft"].direct_sft.steps, runs["direct-sft-3080"].direct_sft.steps) == (2000, 3080)
    assert {each.relaxation.steps for each in runs.values()} == {2000}
    assert values == {("none", 4), ("latent_only", 8)}
    best = runs["only-k8-ramp-changed"]
    assert runs["only-k8-ramp-changed-grpo"].relaxation == best.relaxation
    assert (best.problems.vsp_reasoning, best.analysis.instances, best.analysis.views) == (None, 200, ("present",))


def test_the_screening_adds_one_part_a_cell() -> None:
    runs = {run.cell.name: run.settings for run in grid(load_study("causal-screening", [1]))}
    values = {(each.latent.bottleneck, each.latent.num_latents) for each in runs.values()}
    assert values == {("none", 4), ("latent_kv", 4), ("latent_only", 4), ("latent_only", 8)}

    ramped = runs["only-k8-ramp"]
    for name, setting, value in (
        ("noise", "latent_noise", 0.1),
        ("dropout", "latent_dropout", 0.1),
        ("grounding", "grounding_weight", 1.0),
        ("changed", "grounding_weight", 1.0),
    ):
        more = runs[f"only-k8-ramp-{name}"]
        assert more.relaxation == ramped.relaxation.model_copy(update={setting: value}), name
        assert (more.latent == ramped.latent) == (name != "changed")
    first = runs["only-k8-stage-1-horizon"]
    assert first.grounding.steps + first.relaxation.steps == ramped.relaxation.steps == 800
