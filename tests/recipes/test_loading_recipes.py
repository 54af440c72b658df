from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mirage_core import recipes
from mirage_core.config import Settings
from mirage_core.errors import SettingsError
from mirage_core.planning.plan import make_plan


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_resolves_bears_its_files_name_and_survives_a_dump(name: str, tmp_path: Path) -> None:
    settings = recipes.load(name)
    assert settings.recipe == name
    assert settings.description
    assert recipes.load(write(tmp_path / "dumped.yaml", recipes.dump(settings))) == settings


def test_the_recipes_of_the_issue_are_there() -> None:
    assert {"tiny", "tiny-paper", "micro", "qwen2.5-vl-3b", "qwen2.5-vl-7b"} <= set(recipes.names())


def test_tiny_imagines_films_beside_direct_sft_with_the_same_operations_and_a_blind_row() -> None:
    tiny = recipes.load("tiny")
    assert tiny.evaluation.methods == ("zero-shot", "direct-sft", "film") and tiny.evaluation.blind
    assert tiny.auxiliary_images.film == "forward" and tiny.film.stepwise is not None
    film, text = (stage for stage in make_plan(tiny, 80.0).stages if stage.name in ("film", "direct-sft"))
    assert {film.name, text.name} == {"film", "direct-sft"}
    assert film.steps * film.flops_per_step == pytest.approx(text.steps * text.flops_per_step, rel=5e-3)


def test_tiny_paper_has_the_two_stages_of_the_paper_and_grpo_after_them() -> None:
    paper = recipes.load("tiny-paper")
    assert {"direct-sft", "stage-1", "stage-2", "grpo"} <= set(paper.evaluation.methods)
    assert paper.auxiliary_images.film == "off" and paper.latent.num_latents == 4


def test_overrides_are_yaml_and_the_last_one_wins() -> None:
    changed = recipes.load(
        "tiny",
        [
            "grounding.steps=7",
            "grounding.steps=8",
            "grounding.learning_rate=1e-5",
            "evaluation.methods=[zero-shot, stage-2]",
            "grpo.enabled=false",
            "problems.vsp_reasoning=null",
            "runtime={processes: 1}",
        ],
    )
    assert changed.grounding.steps == 8
    assert changed.grounding.learning_rate == 1e-5
    assert changed.evaluation.methods == ("zero-shot", "stage-2")
    assert not changed.grpo.enabled
    assert changed.problems.vsp_reasoning is None
    assert changed.runtime.processes == 1
    assert changed.runtime.threads == recipes.load("tiny").runtime.threads


def test_a_film_is_off_where_yaml_reads_the_word_as_false() -> None:
    assert recipes.load("tiny-paper", ["auxiliary_images.film=off"]).auxiliary_images.film == "off"
    with pytest.raises(SettingsError, match=r"auxiliary_images\.film: got True"):
        recipes.load("tiny-paper", ["auxiliary_images.film=on"])


def test_overrides_may_be_a_mapping_of_dotted_names() -> None:
    assert recipes.load("tiny", {"latent.num_latents": 6}).latent.num_latents == 6


def test_a_file_extends_a_recipe_or_a_file_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", "extends: tiny\ngrounding: {steps: 5}\n")
    write(tmp_path / "more.yaml", "extends: mine.yaml\nseed: 3\ndescription: more\n")
    more, tiny = recipes.load(tmp_path / "more.yaml"), recipes.load("tiny")
    assert (more.recipe, more.seed, more.grounding.steps) == ("more", 3, 5)
    assert more.grounding.batch_size == tiny.grounding.batch_size
    assert more.relaxation == tiny.relaxation
    named = write(tmp_path / "named.yaml", "extends: tiny\nrecipe: chosen\n")
    assert recipes.load(named).recipe == "chosen"


def test_recipes_in_a_circle_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: a.yaml\n")
    with pytest.raises(SettingsError, match=r"circle: a.yaml -> b.yaml -> a.yaml"):
        recipes.load(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["groundin.steps=3"], r"unknown setting groundin, .*did you mean grounding\?"),
        (["grounding.step=3"], r"unknown setting grounding.step, .*did you mean grounding.steps\?"),
        (["num_latents=3"], r"unknown setting num_latents, .*did you mean latent.num_latents\?"),
        (["model.warmup.bath_size=3"], r"model.warmup.bath_size, .*did you mean model.warmup.batch_size\?"),
        (["problems.cell_px=-3"], r"problems.cell_px: got -3, .*greater than 0"),
        (["model.dtype=f16"], r"model.dtype: got 'f16', .*'float32' or 'bfloat16'"),
        (["evaluation.methods=[zero-shot, foo]"], r"evaluation.methods.1: got 'foo', .*'stage-2'"),
        (["problems.vsp_planning.train_levels=[17]"], r"problems.vsp_planning.train_levels.0: got 17"),
        (["model.warmup.levels=[9]"], r"model.warmup.levels.0: got 9"),
        (["grounding=7"], r"grounding: got 7"),
        (["runtime.timeouts.relaxatoin=5"], r"timeouts.relaxatoin: got 'relaxatoin', .*'relaxation'.*'report'"),
        (["runtime.timeouts={grpo: 0}"], r"runtime.timeouts.grpo: got 0, .*greater than 0"),
        (["seed={a: 1}"], r"seed: got .*, expected a plain value"),
        (["seed"], r"override 'seed', expected a.b=c"),
        (["seed=[1"], r"'seed=\[1' is not YAML"),
    ],
)
def test_what_is_wrong_is_said_with_its_path_and_the_way_out(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        recipes.load("tiny", overrides)


def test_a_stage_has_its_own_time_out_and_the_others_the_common_one() -> None:
    runtime = recipes.load("tiny", ["runtime.timeouts={relaxation: 60}", "runtime.timeouts.auxiliary-images=7"]).runtime
    assert runtime.for_stage("relaxation").timeout_s == 60
    assert runtime.for_stage("auxiliary-images").timeout_s == 7
    assert runtime.for_stage("grpo") == runtime.model_copy(update={"timeouts": {}})


def test_every_wrong_value_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        recipes.load("tiny", ["latent.num_latents=four", "seed=-1"])
    assert "latent.num_latents" in str(caught.value)
    assert "seed" in str(caught.value)


def test_an_unknown_recipe_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'tny'.*did you mean tiny\?"):
        recipes.load("tny")
    with pytest.raises(SettingsError, match=r"no recipe file .*gone.yaml"):
        recipes.load(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "line 2: seed is given twice"),
        ("- a\n", "expected settings"),
        ("", "expected settings"),
        ("seed: [1\n", "is not YAML"),
        ("seed: !!python/object/apply:os.system ['true']\n", "is not YAML"),
        ("extends: [tiny]\n", "extends is"),
        ("1: 2\n", "unknown setting 1"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        recipes.load(write(tmp_path / "bad.yaml", text))


def test_the_dump_is_plain_yaml() -> None:
    assert Settings.model_validate(yaml.safe_load(recipes.dump(recipes.load("tiny")))) == recipes.load("tiny")
