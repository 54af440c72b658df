"""Scenes by CogVideoX: rendered, resumed, fine-tuned by LoRA, all with a tiny random model of the published layout."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirage_core.config import SceneLoraSettings, SceneSettings
from mirage_core.errors import DataError, SettingsError
from mirage_core.synthesis.scenes import draw, draw_scenes, read_pairs
from mirage_core.synthesis.scenes.finetune import finetune
from mirage_core.synthesis.scenes.pairs import ScenePair
from mirage_core.synthesis.scenes.pipeline import load_pipeline
from mirage_core.synthesis.scenes.request import scene_requests
from mirage_core.types import Problem, ProgressEvent
from tests.benchmarks.data_sets import picture
from tests.synthesis.tiny_video import tiny_cogvideox


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cogvideox(tmp_path_factory.mktemp("cogvideox"))


def settings_of(model: object, **changed: object) -> SceneSettings:
    small = {"width": 16, "height": 16, "num_frames": 9, "steps": 2, "max_text_tokens": 16, "dtype": "float32"}
    return SceneSettings.model_validate({"model": str(model), **small, **changed})


def scene(number: int) -> Problem:
    return Problem(
        id=f"sat-{number}", benchmark="sat", split="train", group="perspective", question="<image>\nwhere?",
        images=(picture(number),), answer="B",
        facts={"options": ["left", "right"], "scene": f"where is chair {'abc'[number % 3]}?"},
    )  # fmt: skip


def quiet(event: object) -> None:
    """Nobody listens."""


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=np.int16)


def test_a_frame_depends_on_its_words_and_seed_and_not_on_its_batch(model: Path, tmp_path: Path) -> None:
    problems = [scene(number) for number in range(3)]
    alone = draw_scenes(problems, settings_of(model), 7, tmp_path / "a", quiet, batch_size=1, device="cpu")
    together = draw_scenes(problems, settings_of(model), 7, tmp_path / "b", quiet, batch_size=3, device="cpu")
    other = draw_scenes(problems, settings_of(model), 8, tmp_path / "c", quiet, batch_size=3, device="cpu")

    for one, two, three in zip(alone, together, other, strict=True):
        assert pixels(one.image).shape == (16, 16, 3)
        assert np.abs(pixels(one.image) - pixels(two.image)).max() <= 1
        assert np.abs(pixels(one.image) - pixels(three.image)).max() > 8
    assert alone[0].details["description"] == "where is chair a? The answer: right."
    assert alone[0].style == "cogvideox-frame"


def test_the_kept_frame_is_the_one_asked_for(model: Path, tmp_path: Path) -> None:
    frames = {
        frame: draw_scenes([scene(0)], settings_of(model, frame=frame), 7, tmp_path, quiet, device="cpu")[0].image
        for frame in ("first", "middle", "last", 0, 4, -1)
    }

    assert frames["first"] == frames[0] and frames["middle"] == frames[4] and frames["last"] == frames[-1]
    assert len(set(frames.values())) == 3


def test_a_killed_rendering_goes_on_where_it_was(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [scene(number) for number in range(5)]
    real, rendered = draw.render_frames, list[list[str]]()

    def dies_in_the_third_batch(pipeline, requests, settings):  # type: ignore[no-untyped-def]
        if len(rendered) == 2:
            raise KeyboardInterrupt
        rendered.append([request.problem_id for request in requests])
        return real(pipeline, requests, settings)

    monkeypatch.setattr(draw, "render_frames", dies_in_the_third_batch)
    with pytest.raises(KeyboardInterrupt):
        draw_scenes(problems, settings_of(model), 7, tmp_path / "a", quiet, device="cpu")
    monkeypatch.setattr(draw, "render_frames", real)
    events: list[ProgressEvent] = []
    resumed = draw_scenes(problems, settings_of(model), 7, tmp_path / "a", events.append, device="cpu")

    assert [event.step for event in events] == [3, 4, 5], "frames that were there were rendered again"
    whole = draw_scenes(problems, settings_of(model), 7, tmp_path / "b", quiet, device="cpu")
    assert [image.image for image in resumed] == [image.image for image in whole]
    assert not list((tmp_path / "a").glob("*.part"))


def test_given_descriptions_stand_before_the_template(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "scenes.jsonl"
    file.write_text(json.dumps({"id": "sat-0", "description": "a chair stands right"}) + "\n")
    described = settings_of(model, descriptions=str(file))

    assert scene_requests([scene(0)], described, 1)[0].description == "a chair stands right"
    with pytest.raises(DataError, match=r"no description of the problem sat-1"):
        scene_requests([scene(1)], described, 1)
    with pytest.raises(SettingsError, match=r"names 'colour'"):
        scene_requests([scene(0)], settings_of(model, description="{colour}"), 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"width": 20}, r"20 x 16 pixels, expected multiples of 16"),
        ({"num_frames": 8}, r"num_frames is 8, expected 4 n \+ 1"),
        ({"frame": 9}, r"frame is 9 of 9 frames"),
        ({"model": "/nowhere/at/all"}, r"cannot be loaded"),
        ({"lora": "/nowhere/at/all"}, r"lora '/nowhere/at/all' cannot be loaded"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    model: Path, tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        draw_scenes([scene(0)], settings_of(**{"model": model, **changed}), 7, tmp_path, quiet, device="cpu")


def training_pairs() -> list[ScenePair]:
    colors = {"a red wall": (220, 20, 20), "a blue wall": (20, 20, 220)}
    return [ScenePair(words, Image.new("RGB", (16, 16), color)) for words, color in colors.items()]


LORA = SceneLoraSettings(
    rank=4, alpha=4, steps=40, batch_size=4, learning_rate=1e-2, warmup_steps=2, checkpoint_every=10
)


def test_lora_learns_its_pairs_and_changes_what_is_rendered(model: Path, tmp_path: Path) -> None:
    settings = settings_of(model, finetuning=LORA)
    losses = finetune(training_pairs(), settings, tmp_path / "lora", 3, quiet, "cpu")

    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
    assert sorted(file.suffix for file in (tmp_path / "lora").iterdir() if file.is_file()) == [".json", ".safetensors"]
    plain = draw_scenes([scene(0)], settings, 7, tmp_path / "plain", quiet, device="cpu")[0]
    tuned = settings_of(model, lora=str(tmp_path / "lora"))
    changed = draw_scenes([scene(0)], tuned, 7, tmp_path / "tuned", quiet, device="cpu")[0]
    assert plain.image != changed.image
    off = settings_of(model, lora=str(tmp_path / "lora"), lora_scale=0.0)
    same = draw_scenes([scene(0)], off, 7, tmp_path / "off", quiet, device="cpu")[0]
    assert np.abs(pixels(same.image) - pixels(plain.image)).max() <= 1


def test_a_killed_fine_tuning_goes_on_with_the_same_losses(model: Path, tmp_path: Path) -> None:
    settings = settings_of(model, finetuning=LORA.model_copy(update={"steps": 24}))
    whole = finetune(training_pairs(), settings, tmp_path / "whole", 3, quiet, "cpu")

    def dies(event: ProgressEvent) -> None:
        if event.step == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(training_pairs(), settings, tmp_path / "killed", 3, dies, "cpu")
    seen: list[int | None] = []
    resumed = finetune(training_pairs(), settings, tmp_path / "killed", 3, lambda event: seen.append(event.step), "cpu")

    assert seen[0] == 11, "it began from the start, or from nowhere"
    assert resumed == pytest.approx(whole, abs=1e-6)
    changed = settings.model_copy(update={"finetuning": settings.finetuning.model_copy(update={"rank": 2})})
    seen.clear()
    finetune(training_pairs(), changed, tmp_path / "killed", 3, lambda event: seen.append(event.step), "cpu")
    assert seen[0] == 1, "another training's checkpoint was taken"


def test_pairs_are_read_with_their_faults_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"description": "shapes", "image": "a.png"}) + "\n")
    assert read_pairs(file)[0].description == "shapes"

    file.write_text(json.dumps({"description": " ", "image": "a.png"}) + "\n")
    with pytest.raises(DataError, match=r"line 1: the description is empty"):
        read_pairs(file)
    file.write_text(json.dumps({"description": "x", "image": "../a.png"}) + "\n")
    with pytest.raises(DataError, match=r"leaves the file's folder"):
        read_pairs(file)


def test_a_film_has_frames_evenly_over_the_video_beside_the_selected_one(model: Path, tmp_path: Path) -> None:
    plain = draw_scenes([scene(0)], settings_of(model), 7, tmp_path / "a", quiet, device="cpu")[0]
    chosen = settings_of(model, film_frames=3)
    film = draw_scenes([scene(0)], chosen, 7, tmp_path / "b", quiet, device="cpu", film=True)[0]
    first = draw_scenes([scene(0)], settings_of(model, frame="first"), 7, tmp_path / "c", quiet, device="cpu")[0]
    events: list[ProgressEvent] = []
    again = draw_scenes([scene(0)], chosen, 7, tmp_path / "b", events.append, device="cpu", film=True)[0]

    assert plain.frames == () and len(film.frames) == len(set(film.frames)) == 3
    assert film.image == plain.image == film.frames[-1] and film.frames[0] == first.image
    assert again == film and events == []


def test_scenes_without_diffusers_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)

    with pytest.raises(SettingsError, match=r"pip install -c constraints.txt '\.\[scenes\]'"):
        load_pipeline(settings_of(tmp_path))
