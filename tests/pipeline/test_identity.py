"""What each stage depends on: a setting that changes a result changes its fingerprint, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirage_core.config import Settings, as_recipe
from mirage_core.errors import SettingsError
from mirage_core.pipeline.registry import STAGES
from mirage_core.pipeline.stages.base_model import base_identity
from mirage_core.pipeline.stages.problems import problems_identity
from tests.pipeline.fakes import settings

TEXT_ONLY = {"direct-sft", "auxiliary-input", "capimagine", "visual-tokens", "monet-warmup"}
CODES = "visual-codes"
RELAXED = {"relaxation", "without-stage-1"}
TEXT_GRPO = {"direct-sft-grpo", "capimagine-grpo", "visual-tokens-grpo"}
LATENT_GRPO = {
    "grpo", "without-stage-1-grpo", "film-grpo", "pooled-grpo", "lvr-grpo", "coconut-grpo", "codi-grpo", "monet-grpo"
}  # fmt: skip
GRPO = LATENT_GRPO | TEXT_GRPO
LATENT = {"grounding", *RELAXED, "film", "pooler", "pooled", "lvr", "coconut", "codi", "monet-targets", "monet"}
TRAINED = {*TEXT_ONLY, *LATENT, *GRPO}
STATES = {"monet-observations", "monet-latents"}
WITH_LATENTS = {"monet-latents", *(TRAINED - TEXT_ONLY - TEXT_GRPO), "evaluation", "report"}
MODELS = {"base", *TRAINED}


def changed_by(**changes: Any) -> set[str]:
    before, after = settings(), settings(**changes)
    return {name for name, stage in STAGES.items() if stage.identity(before) != stage.identity(after)}


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"runtime": {"processes": 1, "engine": "plain", "checkpoint_every": 7}}, set()),
        ({"seed": 7}, {"problems", "auxiliary-images", CODES, *MODELS, "report"}),
        ({"problems": {"cell_px": 32}}, {"problems", "auxiliary-images", "base", "report"}),
        ({"teacher": {"variant": "cot"}}, {"examples", "captions", *STATES, *TRAINED, "evaluation", "report"}),
        ({"latent": {"num_latents": 5}}, {CODES, *WITH_LATENTS}),
        ({"latent": {"compression": "drop_tail"}}, {CODES, *WITH_LATENTS}),
        ({"latent": {"bottleneck": "image"}}, WITH_LATENTS),
        ({"prompt": {"form": "short"}}, {CODES, *MODELS, *STATES, "evaluation", "report"}),
        ({"model": {"warmup": {"steps": 3}}}, {"base", "report"}),
        ({"model": {"train_vision": True}}, {*MODELS, "report"}),
        ({"model": {"lora": {"rank": 4}}}, {*TRAINED, "report"}),
        ({"model": {"dtype": "bfloat16"}}, {CODES, *MODELS, *STATES, "evaluation", "report"}),
        ({"direct_sft": {"steps": 3}}, {"direct-sft", "auxiliary-input", "report"}),
        ({"capimagine": {"steps": 3}}, {"capimagine", "report"}),
        ({"visual_tokens": {"steps": 3}}, {"visual-tokens", "report"}),
        ({"visual_tokens": {"codebook_size": 9}}, {CODES, "visual-tokens", "report"}),
        ({"captions": {"longest": 900}}, {"captions", "report"}),
        ({"captions": {"of": "film"}}, {"captions", "coconut", "report"}),
        ({"grounding": {"text_weight": 0.5}}, {"grounding", "report"}),
        ({"relaxation": {"steps": 3}}, {*RELAXED, "report"}),
        ({"relaxation": {"bottleneck_ramp": 0.5}}, {*RELAXED, "report"}),
        ({"film": {"stepwise": {"where": "cell"}}}, {"film", "report"}),
        ({"pooler": {"steps": 3}}, {"pooler", "report"}),
        ({"pooled": {"distance": "cosine"}}, {"pooled", "report"}),
        ({"lvr": {"head": "glu"}}, {"lvr", "report"}),
        ({"latent": {"near": 0.1}}, WITH_LATENTS),
        ({"coconut": {"uniform_prob": 0.1}}, {"coconut", "report"}),
        ({"codi": {"teacher_weight": 0.5}}, {"codi", "report"}),
        ({"monet_warmup": {"steps": 3}}, {"monet-warmup", "report"}),
        ({"monet_targets": {"latent_weight": 0.0}}, {"monet-targets", "report"}),
        ({"monet": {"alignment": "released"}}, {"monet", "report"}),
        ({"relaxation": {"text_weight": 0.5}}, {*RELAXED, "report"}),
        ({"grpo": {"latents": "replay", "latent_sigma": 0.05}}, {*GRPO, "report"}),
        ({"auxiliary_images": {"film": "forward"}}, {"auxiliary-images", "report"}),
        ({"latent": {"max_latents": 9}}, {CODES, *WITH_LATENTS}),
        ({"grpo": {"steps": 3}}, {*GRPO, "report"}),
        ({"evaluation": {"planning_rule": "vsp"}}, {*GRPO, "evaluation", "report"}),
        ({"evaluation": {"methods": ["zero-shot"]}}, {"report"}),
        ({"report": {"trajectories": 1}}, {"report"}),
    ],
)
def test_a_setting_changes_the_stages_that_read_it(changes: dict[str, Any], changed: set[str]) -> None:
    assert changed_by(**changes) == changed


def test_a_film_counts_among_the_problems_only_where_a_data_set_may_provide_its_frames(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text("")
    with_own = {"own": {"file": str(own)}}
    plain, film = settings(problems=with_own), settings(problems=with_own, auxiliary_images={"film": "forward"})
    assert "film" not in problems_identity(plain) and problems_identity(film)["film"] is True
    assert "film" not in problems_identity(settings(auxiliary_images={"film": "forward"}))


def test_settings_that_need_a_film_change_the_stages_that_read_them() -> None:
    film = settings(auxiliary_images={"film": "forward"})
    stepwise = settings(auxiliary_images={"film": "forward"}, relaxation={"stepwise": {"where": "cell"}})
    frames = settings(auxiliary_images={"film": "forward"}, latent={"length": "frames", "end": "free"})

    def changed(after: Settings) -> set[str]:
        return {name for name, stage in STAGES.items() if stage.identity(film) != stage.identity(after)}

    assert changed(stepwise) == {*RELAXED, "report"}
    assert changed(frames) == {CODES, *WITH_LATENTS}


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("auxiliary_images", {"film": "off"}),
        ("relaxation", {"stepwise": None}),
        ("relaxation", {"distance": "cosine", "text_weight": 1.0}),
        ("grpo", {"latent_sigma": 0.0, "latent_sigma_learned": False}),
        ("grpo", {"latent_term": "none", "latent_term_sigma": 10.0, "dual_clip": None}),
        ("latent", {"length": "fixed", "near": 0.02}),
    ],
)
def test_what_came_later_and_is_off_is_in_no_identity(name: str, off: dict[str, Any]) -> None:
    section = getattr(settings(**{name: off}), name)
    assert not off.keys() & section.model_dump(mode="json").keys()
    assert off.keys() <= as_recipe(section).keys()
    assert type(section).model_validate(section.model_dump(mode="json")) == section


def test_the_seed_counts_in_an_evaluation_only_where_answers_are_drawn_by_chance() -> None:
    identity = STAGES["evaluation"].identity
    greedy = [identity(settings(seed=seed)) for seed in (1, 2)]
    sampled = [identity(settings(seed=seed, evaluation={"temperature": 0.7})) for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    assert sampled[0] != sampled[1]


def excluding(*paths: Path) -> Settings:
    return settings(problems={"exclude": [str(path) for path in paths]})


def test_excluded_files_count_by_their_maps_not_by_place(tmp_path: Path) -> None:
    first, second = [[0, 1, 2], [0, 0, 0], [0, 0, -1]], [[1, 0, 2], [0, 0, 0], [0, 0, -1]]
    for name, rows in {"a": first, "b": second, "c": first}.items():
        (tmp_path / name).write_text(json.dumps({"map_desc": rows}))
    a, b, c = (tmp_path / name for name in "abc")
    assert problems_identity(excluding(a, b)) == problems_identity(excluding(b, c))
    assert problems_identity(excluding(a)) != problems_identity(excluding(b))
    assert base_identity(excluding(a)) != base_identity(excluding(b))
    with pytest.raises(SettingsError, match=r"problems.exclude names .*gone"):
        problems_identity(excluding(tmp_path / "gone"))


def test_a_base_folder_counts_by_content_not_by_place(tmp_path: Path) -> None:
    for name, text in {"one": "weights", "two": "weights", "three": "other"}.items():
        (tmp_path / name / ".cache").mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_text(text)
        (tmp_path / name / ".cache/note").write_text(name)
    first, second, third = (
        base_identity(settings(model={"source": str(tmp_path / name)})) for name in ("one", "two", "three")
    )
    assert first == second != third


def test_a_hub_id_counts_with_its_revision() -> None:
    identities = [
        base_identity(settings(model={"source": "Qwen/Qwen2.5-VL-3B-Instruct", "revision": revision}))
        for revision in (None, "abc")
    ]
    assert identities[0] != identities[1]


def test_no_identity_depends_on_where_a_users_files_lie(tmp_path: Path) -> None:
    from tests.benchmarks.data_sets import comt_folder, picture

    def identities(name: str, seed: int) -> dict[str, Any]:
        folder = comt_folder(tmp_path / name, 4)
        (folder / "images" / "creation" / "creation-0-0.png").write_bytes(picture(seed))
        scenes = {"model": str(folder), "descriptions": str(folder / "data.jsonl")}
        chosen = settings(problems={"comt": {"source": str(folder)}}, auxiliary_images={"scenes": scenes})
        return {name: stage.identity(chosen) for name, stage in STAGES.items()}

    first, moved, changed = identities("a", 1), identities("b", 1), identities("c", 2)
    assert first == moved
    assert {name for name in first if first[name] != changed[name]} == {"problems", "auxiliary-images", "report"}
